//! Any other folder: a glob for the images, a pattern for the masks.

use super::super::folders::{Listing, name_of, without_extension};
use super::super::{MaskOrigin, SourceError};
use super::{Candidate, Found, TRAIN};
use crate::verify::RejectReason;

pub(super) fn find(listing: &Listing<'_>) -> Result<Found, SourceError> {
    let (Some(images), Some(masks)) = (&listing.spec.images, &listing.spec.masks) else {
        return Err(listing.problem(
            "layout `custom` needs `images` (a glob) and `masks` (a path with {stem})".to_owned(),
        ));
    };
    if !masks.contains("{stem}") {
        return Err(listing.problem(format!(
            "`masks = \"{masks}\"` has no {{stem}}: every image would get the same mask"
        )));
    }
    let images = images.trim_start_matches("./").trim_start_matches('/');
    let pattern = glob::Pattern::new(images)
        .map_err(|error| listing.problem(format!("`images = \"{images}\"` is no glob: {error}")))?;
    let options = glob::MatchOptions {
        case_sensitive: false,
        require_literal_separator: true,
        require_literal_leading_dot: false,
    };
    let base = fixed_folders(images);
    let mut found = Found::default();
    let mut any = false;
    for file in listing.tree().files() {
        if !pattern.matches_with(&file.path, options) {
            continue;
        }
        any = true;
        let image = file.path.clone();
        let folder = image.rsplit_once('/').map_or("", |(folder, _)| folder);
        // The glob disregards case, so the folders it starts with may differ in case.
        let dir = folder.get(base.len()..).unwrap_or("").trim_start_matches('/').to_owned();
        let stem = without_extension(name_of(&image));
        let name = if dir.is_empty() { stem.to_owned() } else { format!("{dir}/{stem}") };
        let mask = masks.replace("{stem}", stem).replace("{dir}", &dir).replace("//", "/");
        let mask = mask.trim_start_matches("./").trim_start_matches('/');
        match listing.locate(mask) {
            Some(mask) if mask == image => {}
            Some(mask) => {
                let (native_split, class, license) = (TRAIN.to_owned(), None, None);
                let mask = MaskOrigin::File(mask);
                found.add(listing, Candidate { name, native_split, class, license, image, mask });
            }
            None => {
                let rejected = listing.reject(&name, Some(image), None, RejectReason::MissingMask);
                found.rejected.push(rejected);
            }
        }
    }
    if any { Ok(found) } else { Err(listing.unexpected(&format!("file that matches `{images}`"))) }
}

/// The leading folders of a glob that hold no wildcard.
fn fixed_folders(images: &str) -> String {
    let folders: Vec<&str> = images.split('/').collect();
    let (_, folders) = folders.split_last().unwrap_or((&"", &[]));
    let fixed = folders.iter().take_while(|folder| !folder.contains(['*', '?', '[']));
    fixed.copied().collect::<Vec<_>>().join("/")
}
