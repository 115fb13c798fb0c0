//! BIG: `X_im.jpg` beside `X_gt.png` (and `X_seg.png`, another model's result, which is ignored).

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::super::folders::{Folder, name_of, unexpected, without_extension};
use super::super::pairing::reject;
use super::super::{SourceError, SourceSpec};
use super::{Candidate, Found, TEST, VAL};
use crate::verify::RejectReason;

const IMAGE: &str = "_im";
const MASK: &str = "_gt";

/// Pairs of the root and of its subfolders; one called `val` (or `valid`) is for validation, all
/// else for testing.
pub(super) fn find(spec: &SourceSpec) -> Result<Found, SourceError> {
    let mut found = Found::default();
    let mut folders = vec![(Folder::read(spec, &spec.root)?, TEST)];
    while let Some((folder, split)) = folders.pop() {
        for path in &folder.folders {
            let split = match name_of(path).to_lowercase().as_str() {
                "val" | "valid" => VAL,
                "test" => TEST,
                _ => split,
            };
            folders.push((Folder::read(spec, path)?, split));
        }
        pair(spec, folder.files, split, &mut found);
    }
    if found.candidates.is_empty() && found.rejected.is_empty() {
        return Err(unexpected(spec, "files `X_im.jpg` and `X_gt.png`"));
    }
    Ok(found)
}

fn pair(spec: &SourceSpec, files: Vec<PathBuf>, split: &str, found: &mut Found) {
    let mut pairs: BTreeMap<String, [Option<PathBuf>; 2]> = BTreeMap::new();
    for path in files {
        let file = name_of(&path);
        let stem = without_extension(&file);
        for (kind, suffix) in [IMAGE, MASK].into_iter().enumerate() {
            if let Some(name) = stem.strip_suffix(suffix) {
                pairs.entry(name.to_owned()).or_default()[kind] = Some(path.clone());
            }
        }
    }
    for (name, files) in pairs {
        match files {
            [Some(image), Some(mask)] => {
                let native_split = split.to_owned();
                found.add(spec, Candidate { name, native_split, class: None, image, mask });
            }
            [image, mask] => {
                let reason = match image {
                    Some(_) => RejectReason::MissingMask,
                    None => RejectReason::MissingImage,
                };
                found.rejected.push(reject(spec, &name, image, mask, reason));
            }
        }
    }
}
