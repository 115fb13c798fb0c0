//! ThinObject-5K, COIFT and HRSOD: folders of images and masks, and lists that name the pairs.

use std::collections::HashMap;

use super::super::folders::{
    Folder, Listing, find as find_folder, name_of, pictures_in, without_extension,
};
use super::super::split::read_list;
use super::super::{MaskOrigin, Rejected, SourceError};
use super::{Candidate, Found, TEST, TRAIN, VAL};
use crate::verify::RejectReason;

/// The lines of `list/{train,val,test}.txt` are mask names with extension (ThinObject-5K) or
/// stems (COIFT, HRSOD). Files in no list are not part of the collection.
pub(super) fn find(listing: &Listing<'_>) -> Result<Found, SourceError> {
    let expected = "folders `images`, `masks` and `list` with `train.txt`, `val.txt` or `test.txt`";
    let three = |folder: &Folder| {
        let child = |name| folder.child(name).map(str::to_owned);
        child("images").zip(child("masks")).zip(child("list"))
    };
    let Some(((images, masks), lists)) = find_folder(listing.tree(), three) else {
        return Err(listing.unexpected(expected));
    };
    let mut images = by_stem(listing, &images);
    let mut masks = by_stem(listing, &masks);
    let mut found = Found::default();
    let mut any = false;
    for split in [TRAIN, VAL, TEST] {
        let Some(path) = listing.locate(&format!("{lists}/{split}.txt")) else { continue };
        any = true;
        for name in read_list(listing, &path)? {
            let mask = masks.remove(&name).map(MaskOrigin::File);
            let rejected = match (images.remove(&name), mask) {
                (Some(image), Some(mask)) => {
                    let (native_split, class, license) = (split.to_owned(), None, None);
                    let part = Some(split);
                    let pair = Candidate { name, native_split, class, license, image, mask, part };
                    found.add(listing, pair);
                    continue;
                }
                (None, mask) => listing.reject(&name, None, mask, RejectReason::MissingImage),
                (image, None) => listing.reject(&name, image, None, RejectReason::MissingMask),
            };
            found.rejected.push(Rejected { part: Some(split), ..rejected });
        }
    }
    if any { Ok(found) } else { Err(listing.unexpected(expected)) }
}

fn by_stem(listing: &Listing<'_>, folder: &str) -> HashMap<String, String> {
    let files = pictures_in(listing.tree(), folder).into_iter();
    files.map(|path| (without_extension(name_of(&path)).to_owned(), path)).collect()
}
