//! Images and masks of one or two folders, joined by stem.

use std::collections::BTreeMap;

use super::folders::{
    Listing, composed, is_jpeg, name_of, picture_extension, pictures_in, without_extension,
};
use super::layouts::{Candidate, Found};
use super::{MaskOrigin, Rejected};
use crate::verify::RejectReason;

/// Where the pairs of one folder go.
pub(super) struct Place<'a> {
    /// Leading part of the names, empty or ending in `/`.
    pub(super) prefix: &'a str,
    /// Split under [`super::SplitRule::Native`].
    pub(super) native_split: &'a str,
    /// Class of all pairs.
    pub(super) class: Option<&'a str>,
    /// The part of the collection, where it has several.
    pub(super) part: Option<&'static str>,
}

/// Pairs the pictures of two folders.
pub(super) fn pair_folders(
    listing: &Listing<'_>,
    images: &str,
    masks: &str,
    place: &Place<'_>,
    found: &mut Found,
) {
    let images = pictures(pictures_in(listing.tree(), images), &["jpg", "jpeg"]);
    let masks = pictures(pictures_in(listing.tree(), masks), &["png"]);
    join(listing, images, masks, place, found);
}

/// Pairs the pictures of one folder in which `X.jpg` lies beside its mask `X.png`.
pub(super) fn pair_beside(
    listing: &Listing<'_>,
    files: Vec<String>,
    place: &Place<'_>,
    found: &mut Found,
) {
    let (images, masks) = files.into_iter().partition(|path| is_jpeg(path));
    join(listing, pictures(images, &["jpg", "jpeg"]), pictures(masks, &["png"]), place, found);
}

/// By composed stem, the files of that stem, those with a preferred extension first.
fn pictures(files: Vec<String>, preferred: &[&str]) -> BTreeMap<String, Vec<String>> {
    let mut by_stem: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for path in files {
        let name = name_of(&path);
        if picture_extension(name).is_some() {
            by_stem.entry(composed(without_extension(name))).or_default().push(path);
        }
    }
    for files in by_stem.values_mut() {
        files.sort_by_key(|path| {
            let extension = picture_extension(path).unwrap_or_default();
            preferred.iter().position(|known| *known == extension).unwrap_or(preferred.len())
        });
    }
    by_stem
}

fn join(
    listing: &Listing<'_>,
    images: BTreeMap<String, Vec<String>>,
    mut masks: BTreeMap<String, Vec<String>>,
    place: &Place<'_>,
    found: &mut Found,
) {
    let in_part = |rejected: Rejected| Rejected { part: place.part, ..rejected };
    for (stem, images) in images {
        let name = format!("{}{stem}", place.prefix);
        let mut images = images.into_iter();
        let Some(image) = images.next() else { continue };
        for extra in images {
            // Told apart from the pair that was taken.
            let extra_name = format!("{}{}", place.prefix, name_of(&extra));
            let reason = RejectReason::DuplicateName { kept: name_of(&image).to_owned() };
            found.rejected.push(in_part(listing.reject(&extra_name, Some(extra), None, reason)));
        }
        match masks.remove(&stem).map(Vec::into_iter).and_then(|mut files| files.next()) {
            Some(mask) => found.add(
                listing,
                Candidate {
                    name,
                    native_split: place.native_split.to_owned(),
                    class: place.class.map(str::to_owned),
                    license: None,
                    image,
                    mask: MaskOrigin::File(mask),
                    part: place.part,
                },
            ),
            None => {
                let reason = RejectReason::MissingMask;
                found.rejected.push(in_part(listing.reject(&name, Some(image), None, reason)));
            }
        }
    }
    for (stem, masks) in masks {
        let name = format!("{}{stem}", place.prefix);
        let mask = masks.into_iter().next().map(MaskOrigin::File);
        let rejected = listing.reject(&name, None, mask, RejectReason::MissingImage);
        found.rejected.push(in_part(rejected));
    }
}
