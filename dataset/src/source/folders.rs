//! Folders of a listing, and names without regard to case.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::io;
use std::path::Path;

use unicode_normalization::{UnicodeNormalization, is_nfc};

use super::{FileTree, MaskOrigin, RawFiles, Rejected, SourceError, SourceSpec};
use crate::verify::RejectReason;

/// Archives unpacked into a folder of their own name nest this deep at most.
const MAX_NESTING: usize = 3;
/// Names shown of a folder that is not what was expected.
const NAMES_SHOWN: usize = 6;

/// A source and the files it is looked for in.
pub(super) struct Listing<'a> {
    pub(super) spec: &'a SourceSpec,
    files: &'a dyn RawFiles,
    /// By composed lower-case path, the only file of that path; made when first needed.
    any_case: OnceCell<HashMap<String, Option<String>>>,
}

impl<'a> Listing<'a> {
    pub(super) fn new(spec: &'a SourceSpec, files: &'a dyn RawFiles) -> Self {
        Self { spec, files, any_case: OnceCell::new() }
    }

    pub(super) fn tree(&self) -> &'a FileTree {
        self.files.tree()
    }

    /// The file of that path; where there is none, the only one whose path differs in case or in
    /// the composition of its letters alone.
    pub(super) fn locate(&self, path: &str) -> Option<String> {
        if self.tree().get(path).is_some() {
            return Some(path.to_owned());
        }
        let by_lower_case = self.any_case.get_or_init(|| {
            let mut paths = HashMap::new();
            for file in self.tree().files() {
                paths
                    .entry(composed(&file.path).to_lowercase())
                    .and_modify(|only| *only = None)
                    .or_insert_with(|| Some(file.path.clone()));
            }
            paths
        });
        by_lower_case.get(&composed(path).to_lowercase()).cloned().flatten()
    }

    /// The text of a list, without a byte order mark.
    pub(super) fn read_text(&self, path: &str) -> Result<String, SourceError> {
        let text = self.files.read(path).and_then(|bytes| {
            String::from_utf8(bytes).map_err(|_| {
                io::Error::new(io::ErrorKind::InvalidData, "not UTF-8: save it as UTF-8")
            })
        });
        match text {
            Ok(text) => Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text)),
            Err(source) => Err(SourceError::Io {
                name: self.spec.name.clone(),
                path: self.spec.root.join(path),
                source,
            }),
        }
    }

    /// The error for settings that make no sense.
    pub(super) fn problem(&self, problem: String) -> SourceError {
        SourceError::Spec { name: self.spec.name.clone(), problem }
    }

    /// The error for a root in which [`find`] found nothing.
    pub(super) fn unexpected(&self, expected: &str) -> SourceError {
        SourceError::UnexpectedLayout {
            name: self.spec.name.clone(),
            root: self.spec.root.clone(),
            layout: self.spec.layout,
            expected: expected.to_owned(),
            found: Folder::read(self.tree(), "").describe(),
        }
    }

    pub(super) fn reject(
        &self,
        name: &str,
        image: Option<String>,
        mask: Option<MaskOrigin>,
        reason: RejectReason,
    ) -> Rejected {
        Rejected {
            sample_id: format!("{}/{}", self.spec.name, composed(name)),
            source: self.spec.name.clone(),
            image,
            mask,
            part: None,
            reason,
        }
    }
}

/// The entries of one folder as full paths, sorted by name.
pub(super) struct Folder {
    pub(super) path: String,
    pub(super) folders: Vec<String>,
    pub(super) files: Vec<String>,
}

impl Folder {
    pub(super) fn read(tree: &FileTree, path: &str) -> Self {
        let mut folder = Self { path: path.to_owned(), folders: Vec::new(), files: Vec::new() };
        let start = if path.is_empty() { 0 } else { path.len() + 1 };
        let mut inside = tree.below(path);
        while let Some(file) = inside.first() {
            let entries = match file.path[start..].find('/') {
                None => {
                    folder.files.push(file.path.clone());
                    1
                }
                Some(length) => {
                    // A folder is as long as its files, so it is skipped, not walked.
                    let prefix = &file.path[..=start + length];
                    folder.folders.push(prefix[..prefix.len() - 1].to_owned());
                    inside.partition_point(|file| file.path.starts_with(prefix))
                }
            };
            inside = &inside[entries..];
        }
        folder.folders.sort();
        folder
    }

    /// The subfolder of that name, whatever its case.
    pub(super) fn child(&self, name: &str) -> Option<&str> {
        let same = |path: &&String| name_of(path).eq_ignore_ascii_case(name);
        self.folders.iter().find(same).map(String::as_str)
    }

    /// The first names, for an error message.
    fn describe(&self) -> String {
        let names: Vec<String> = self
            .folders
            .iter()
            .map(|path| format!("{}/", name_of(path)))
            .chain(self.files.iter().map(|path| name_of(path).to_owned()))
            .collect();
        match names.len() {
            0 => "no file at all".to_owned(),
            count if count > NAMES_SHOWN => {
                format!("{} and {} more", names[..NAMES_SHOWN].join(", "), count - NAMES_SHOWN)
            }
            _ => names.join(", "),
        }
    }
}

/// Breadth first from the root: the first folder that `wanted` accepts.
pub(super) fn find<T>(tree: &FileTree, wanted: impl Fn(&Folder) -> Option<T>) -> Option<T> {
    let mut level = vec![String::new()];
    for _ in 0..=MAX_NESTING {
        let mut next = Vec::new();
        for path in level {
            let folder = Folder::read(tree, &path);
            if let Some(found) = wanted(&folder) {
                return Some(found);
            }
            next.extend(folder.folders);
        }
        level = next;
    }
    None
}

/// The files of a folder of pictures. One that holds nothing but another folder stands for that
/// one: `images.zip` unpacked into `images` gives `images/images`.
pub(super) fn pictures_in(tree: &FileTree, path: &str) -> Vec<String> {
    let mut folder = Folder::read(tree, path);
    for _ in 0..MAX_NESTING {
        match &folder.folders[..] {
            [only] if !folder.files.iter().any(|path| picture_extension(path).is_some()) => {
                folder = Folder::read(tree, only);
            }
            _ => break,
        }
    }
    folder.files
}

/// The name of the root as a folder: without the extension of an archive.
pub(super) fn root_name(root: &Path) -> String {
    let name = root.file_name().unwrap_or_default().to_string_lossy();
    let stem = [".zip", ".tar"].iter().find_map(|kind| {
        let cut = name.len().checked_sub(kind.len())?;
        name.is_char_boundary(cut)
            .then(|| name.split_at(cut))
            .filter(|(_, end)| end.eq_ignore_ascii_case(kind))
            .map(|(stem, _)| stem.to_owned())
    });
    stem.unwrap_or_else(|| name.into_owned())
}

/// The name in Unicode's composed form (NFC). macOS decomposes file names, so an archive made there
/// writes an umlaut as two characters, and a list of its files writes it as one.
pub(super) fn composed(name: &str) -> String {
    if is_nfc(name) { name.to_owned() } else { name.nfc().collect() }
}

/// The file name.
pub(super) fn name_of(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// The name without an image extension; other dots belong to the name.
pub(super) fn without_extension(name: &str) -> &str {
    match name.rsplit_once('.') {
        Some((stem, extension)) if is_picture_extension(extension) && !stem.is_empty() => stem,
        _ => name,
    }
}

/// Lower-case extension, when it is one of a picture.
pub(super) fn picture_extension(name: &str) -> Option<String> {
    let (_, extension) = name.rsplit_once('.')?;
    is_picture_extension(extension).then(|| extension.to_ascii_lowercase())
}

/// Whether it is a JPEG file by its name.
pub(super) fn is_jpeg(name: &str) -> bool {
    matches!(picture_extension(name).as_deref(), Some("jpg" | "jpeg"))
}

/// Includes formats that the codec refuses: such a file is then reported, not overlooked.
fn is_picture_extension(extension: &str) -> bool {
    ["jpg", "jpeg", "png", "bmp", "tif", "tiff", "webp", "gif"]
        .iter()
        .any(|known| extension.eq_ignore_ascii_case(known))
}
