//! BIG: `X_im.jpg` beside `X_gt.png` (and `X_seg.png`, another model's result, which is ignored).

use std::collections::BTreeMap;

use super::super::folders::{Folder, Listing, name_of, without_extension};
use super::super::{MaskOrigin, Rejected, SourceError};
use super::{Candidate, Found, TEST, VAL};
use crate::verify::RejectReason;

const IMAGE: &str = "_im";
const MASK: &str = "_gt";

/// Pairs of the root and of its subfolders; one called `val` (or `valid`) is for validation, all
/// else for testing.
pub(super) fn find(listing: &Listing<'_>) -> Result<Found, SourceError> {
    let mut found = Found::default();
    let mut folders = vec![(Folder::read(listing.tree(), ""), TEST)];
    while let Some((folder, split)) = folders.pop() {
        for path in &folder.folders {
            let split = match name_of(path).to_lowercase().as_str() {
                "val" | "valid" => VAL,
                "test" => TEST,
                _ => split,
            };
            folders.push((Folder::read(listing.tree(), path), split));
        }
        pair(listing, folder.files, split, &mut found);
    }
    if found.candidates.is_empty() && found.rejected.is_empty() {
        return Err(listing.unexpected("files `X_im.jpg` and `X_gt.png`"));
    }
    Ok(found)
}

fn pair(listing: &Listing<'_>, files: Vec<String>, split: &'static str, found: &mut Found) {
    let mut pairs: BTreeMap<String, [Option<String>; 2]> = BTreeMap::new();
    for path in files {
        let stem = without_extension(name_of(&path));
        for (kind, suffix) in [IMAGE, MASK].into_iter().enumerate() {
            if let Some(name) = stem.strip_suffix(suffix) {
                pairs.entry(name.to_owned()).or_default()[kind] = Some(path.clone());
            }
        }
    }
    for (name, [image, mask]) in pairs {
        let rejected = match (image, mask) {
            (Some(image), Some(mask)) => {
                let native_split = split.to_owned();
                let (class, license, mask) = (None, None, MaskOrigin::File(mask));
                let part = Some(split);
                let pair = Candidate { name, native_split, class, license, image, mask, part };
                found.add(listing, pair);
                continue;
            }
            (image @ Some(_), None) => {
                listing.reject(&name, image, None, RejectReason::MissingMask)
            }
            (None, mask) => {
                let mask = mask.map(MaskOrigin::File);
                listing.reject(&name, None, mask, RejectReason::MissingImage)
            }
        };
        found.rejected.push(Rejected { part: Some(split), ..rejected });
    }
}
