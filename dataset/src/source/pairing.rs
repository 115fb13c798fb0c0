//! Images and masks of one or two folders, joined by stem.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::folders::{Folder, name_of, picture_extension, without_extension};
use super::layouts::{Candidate, Found};
use super::{Rejected, SourceError, SourceSpec};
use crate::verify::RejectReason;

/// Where the pairs of one folder go.
pub(super) struct Place<'a> {
    /// Leading part of the names, empty or ending in `/`.
    pub(super) prefix: &'a str,
    /// Split under [`super::SplitRule::Native`].
    pub(super) native_split: &'a str,
    /// Class of all pairs.
    pub(super) class: Option<&'a str>,
}

/// Pairs the pictures of two folders.
pub(super) fn pair_folders(
    spec: &SourceSpec,
    images: &Path,
    masks: &Path,
    place: &Place<'_>,
    found: &mut Found,
) -> Result<(), SourceError> {
    let images = pictures(Folder::read(spec, images)?.files, &["jpg", "jpeg"]);
    let masks = pictures(Folder::read(spec, masks)?.files, &["png"]);
    join(spec, images, masks, place, found);
    Ok(())
}

/// Pairs the pictures of one folder in which `X.jpg` lies beside its mask `X.png`.
pub(super) fn pair_beside(spec: &SourceSpec, folder: Folder, place: &Place<'_>, found: &mut Found) {
    let is_jpeg = |path: &PathBuf| {
        matches!(picture_extension(&name_of(path)).as_deref(), Some("jpg" | "jpeg"))
    };
    let (images, masks) = folder.files.into_iter().partition(is_jpeg);
    join(spec, pictures(images, &["jpg", "jpeg"]), pictures(masks, &["png"]), place, found);
}

/// By stem, the files of that stem, those with a preferred extension first.
fn pictures(files: Vec<PathBuf>, preferred: &[&str]) -> BTreeMap<String, Vec<PathBuf>> {
    let mut by_stem: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for path in files {
        let name = name_of(&path);
        if picture_extension(&name).is_some() {
            by_stem.entry(without_extension(&name).to_owned()).or_default().push(path);
        }
    }
    for files in by_stem.values_mut() {
        files.sort_by_key(|path| {
            let extension = picture_extension(&name_of(path)).unwrap_or_default();
            preferred.iter().position(|known| *known == extension).unwrap_or(preferred.len())
        });
    }
    by_stem
}

fn join(
    spec: &SourceSpec,
    images: BTreeMap<String, Vec<PathBuf>>,
    mut masks: BTreeMap<String, Vec<PathBuf>>,
    place: &Place<'_>,
    found: &mut Found,
) {
    for (stem, images) in images {
        let name = format!("{}{stem}", place.prefix);
        let mut images = images.into_iter();
        let Some(image) = images.next() else { continue };
        let kept = name_of(&image);
        for extra in images {
            let mut rejected = reject(spec, &name, Some(extra), None, duplicate(&kept));
            // Told apart from the pair that was taken.
            rejected.sample_id = format!(
                "{}/{}{}",
                spec.name,
                place.prefix,
                name_of(rejected.image.as_deref().unwrap_or(Path::new("")))
            );
            found.rejected.push(rejected);
        }
        match masks.remove(&stem).map(Vec::into_iter).and_then(|mut files| files.next()) {
            Some(mask) => found.add(
                spec,
                Candidate {
                    name,
                    native_split: place.native_split.to_owned(),
                    class: place.class.map(str::to_owned),
                    image,
                    mask,
                },
            ),
            None => found.rejected.push(reject(
                spec,
                &name,
                Some(image),
                None,
                RejectReason::MissingMask,
            )),
        }
    }
    for (stem, masks) in masks {
        let name = format!("{}{stem}", place.prefix);
        let mask = masks.into_iter().next();
        found.rejected.push(reject(spec, &name, None, mask, RejectReason::MissingImage));
    }
}

fn duplicate(kept: &str) -> RejectReason {
    RejectReason::DuplicateName { kept: kept.to_owned() }
}

pub(super) fn reject(
    spec: &SourceSpec,
    name: &str,
    image: Option<PathBuf>,
    mask: Option<PathBuf>,
    reason: RejectReason,
) -> Rejected {
    Rejected {
        sample_id: format!("{}/{name}", spec.name),
        source: spec.name.clone(),
        image,
        mask,
        reason,
    }
}
