//! ThinObject-5K, COIFT and HRSOD: folders of images and masks, and lists that name the pairs.

use super::super::folders::{Folder, find as find_folder, name_of, unexpected};
use super::super::pairing::reject;
use super::super::split::read_list;
use super::super::{SourceError, SourceSpec};
use super::{Candidate, Found, TEST, TRAIN, VAL};
use crate::verify::RejectReason;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// The lines of `list/{train,val,test}.txt` are mask names with extension (ThinObject-5K) or
/// stems (COIFT, HRSOD). Files in no list are not part of the collection.
pub(super) fn find(spec: &SourceSpec) -> Result<Found, SourceError> {
    let expected = "folders `images`, `masks` and `list` with `train.txt`, `val.txt` or `test.txt`";
    let three = |folder: &Folder| {
        let child = |name| folder.child(name).map(Path::to_owned);
        Ok(child("images").zip(child("masks")).zip(child("list")))
    };
    let Some(((images, masks), lists)) = find_folder(spec, three)? else {
        return Err(unexpected(spec, expected));
    };
    let mut images = by_stem(spec, &images)?;
    let mut masks = by_stem(spec, &masks)?;
    let mut found = Found::default();
    let mut any = false;
    for split in [TRAIN, VAL, TEST] {
        let path = lists.join(format!("{split}.txt"));
        if !path.is_file() {
            continue;
        }
        any = true;
        for name in read_list(spec, &path)? {
            match (images.remove(&name), masks.remove(&name)) {
                (Some(image), Some(mask)) => {
                    let native_split = split.to_owned();
                    found.add(spec, Candidate { name, native_split, class: None, image, mask });
                }
                (None, mask) => {
                    found.rejected.push(reject(
                        spec,
                        &name,
                        None,
                        mask,
                        RejectReason::MissingImage,
                    ));
                }
                (image, None) => {
                    found.rejected.push(reject(
                        spec,
                        &name,
                        image,
                        None,
                        RejectReason::MissingMask,
                    ));
                }
            }
        }
    }
    if any { Ok(found) } else { Err(unexpected(spec, expected)) }
}

fn by_stem(spec: &SourceSpec, folder: &Path) -> Result<HashMap<String, PathBuf>, SourceError> {
    let files = Folder::read(spec, folder)?.files;
    Ok(files
        .into_iter()
        .map(|path| {
            let stem = super::super::folders::without_extension(&name_of(&path)).to_owned();
            (stem, path)
        })
        .collect())
}
