//! The forms in which a collection is at hand: a folder, archives, archives in a folder.

use std::collections::BTreeMap;
use std::io::{Cursor, Write};
use std::path::Path;

use image::ImageFormat;
use zip::write::SimpleFileOptions;

use crate::support::{disc, texture};

/// Files by their path, as a download has them.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// A picture that no other index has.
pub(crate) fn image_bytes(index: u32) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    texture(index, 60 + index % 5, 50).write_to(&mut bytes, ImageFormat::Jpeg).unwrap();
    bytes.into_inner()
}

pub(crate) fn mask_bytes(index: u32) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    disc(60 + index % 5, 50).write_to(&mut bytes, ImageFormat::Png).unwrap();
    bytes.into_inner()
}

/// Pairs of these paths; what is no picture by its name is text.
pub(crate) fn collection(pairs: &[(&str, &str)], texts: &[(&str, &str)]) -> Files {
    let mut files = Files::new();
    for (index, (image, mask)) in (0..).zip(pairs) {
        files.insert((*image).to_owned(), image_bytes(index));
        files.insert((*mask).to_owned(), mask_bytes(index));
    }
    for (path, text) in texts {
        files.insert((*path).to_owned(), text.as_bytes().to_vec());
    }
    files
}

pub(crate) fn write(folder: &Path, files: &Files) {
    for (path, bytes) in files {
        let path = folder.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

/// Every second entry is stored, the others are deflated.
pub(crate) fn zipped(files: &Files) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (index, (path, bytes)) in files.iter().enumerate() {
        let methods = [zip::CompressionMethod::Stored, zip::CompressionMethod::Deflated];
        let options = SimpleFileOptions::default().compression_method(methods[index % 2]);
        zip.start_file(path, options).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

pub(crate) fn tarred(files: &Files) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, path, &bytes[..]).unwrap();
    }
    tar.into_inner().unwrap()
}

/// Each top folder an archive of its own, alternating in kind; files at the top as they are.
pub(crate) fn with_archives(files: &Files) -> Files {
    let mut parts: BTreeMap<&str, Files> = BTreeMap::new();
    let mut out = Files::new();
    for (path, bytes) in files {
        match path.split_once('/') {
            Some((top, _)) => {
                parts.entry(top).or_default().insert(path.clone(), bytes.clone());
            }
            None => {
                out.insert(path.clone(), bytes.clone());
            }
        }
    }
    for (index, (top, part)) in parts.into_iter().enumerate() {
        let (kind, bytes) =
            if index % 2 == 0 { ("zip", zipped(&part)) } else { ("tar", tarred(&part)) };
        out.insert(format!("{top}.{kind}"), bytes);
    }
    out
}
