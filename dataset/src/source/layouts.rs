//! Where each layout keeps its images and masks.

use std::path::{Path, PathBuf};

use super::folders::{Folder, find as find_folder, name_of, picture_extension, unexpected};
use super::pairing::{Place, pair_beside, pair_folders, reject};
use super::{Layout, Rejected, SourceError, SourceSpec, known_bad};
use crate::verify::RejectReason;

mod big;
mod custom;
mod listed;

/// A pair before its split is decided.
pub(super) struct Candidate {
    pub(super) name: String,
    pub(super) native_split: String,
    pub(super) class: Option<String>,
    pub(super) image: PathBuf,
    pub(super) mask: PathBuf,
}

impl Candidate {
    pub(super) fn reject(self, spec: &SourceSpec, reason: RejectReason) -> Rejected {
        reject(spec, &self.name, Some(self.image), Some(self.mask), reason)
    }
}

/// What a layout found.
#[derive(Default)]
pub(super) struct Found {
    pub(super) candidates: Vec<Candidate>,
    pub(super) rejected: Vec<Rejected>,
}

impl Found {
    /// Adds a pair, unless it is known to be wrong.
    pub(super) fn add(&mut self, spec: &SourceSpec, candidate: Candidate) {
        match known_bad::note(spec.layout, &candidate.name) {
            Some(note) => self
                .rejected
                .push(candidate.reject(spec, RejectReason::KnownBad { note: note.to_owned() })),
            None => self.candidates.push(candidate),
        }
    }
}

const TRAIN: &str = "train";
const VAL: &str = "val";
const TEST: &str = "test";

/// A part of a collection: a folder that holds a folder of images and one of masks.
struct Part {
    folder: &'static str,
    images: &'static str,
    masks: &'static str,
    native_split: &'static str,
}

/// The published HQSeg-44K trains on the test half too.
const DUTS: [Part; 2] = [
    Part { folder: "DUTS-TR", images: "DUTS-TR-Image", masks: "DUTS-TR-Mask", native_split: TRAIN },
    Part { folder: "DUTS-TE", images: "DUTS-TE-Image", masks: "DUTS-TE-Mask", native_split: TRAIN },
];
const DIS5K: [Part; 6] = [
    Part { folder: "DIS-TR", images: "im", masks: "gt", native_split: TRAIN },
    Part { folder: "DIS-VD", images: "im", masks: "gt", native_split: VAL },
    Part { folder: "DIS-TE1", images: "im", masks: "gt", native_split: TEST },
    Part { folder: "DIS-TE2", images: "im", masks: "gt", native_split: TEST },
    Part { folder: "DIS-TE3", images: "im", masks: "gt", native_split: TEST },
    Part { folder: "DIS-TE4", images: "im", masks: "gt", native_split: TEST },
];

/// Enumerates a source by its layout.
pub(super) fn find(spec: &SourceSpec) -> Result<Found, SourceError> {
    if spec.layout != Layout::Custom && (spec.images.is_some() || spec.masks.is_some()) {
        return Err(SourceError::Spec {
            name: spec.name.clone(),
            problem: format!(
                "`images` and `masks` are for layout `custom`; `{}` has its own folders",
                spec.layout.name()
            ),
        });
    }
    match spec.layout {
        Layout::Ecssd => two_folders(spec, "images", "ground_truth_mask"),
        Layout::DutOmron => two_folders(spec, "DUT-OMRON-image", "pixelwiseGT-new-PNG"),
        Layout::Duts => parts(spec, &DUTS),
        Layout::Dis5k => parts(spec, &DIS5K),
        Layout::Fss1000 => classes(spec),
        Layout::Msra10k => side_by_side(spec),
        Layout::ThinObject5k => listed::find(spec),
        Layout::Big => big::find(spec),
        Layout::Custom => custom::find(spec),
    }
}

fn two_folders(spec: &SourceSpec, images: &str, masks: &str) -> Result<Found, SourceError> {
    let both = |folder: &Folder| {
        Ok(folder.child(images).zip(folder.child(masks)).map(|(a, b)| (a.to_owned(), b.to_owned())))
    };
    let Some((images, masks)) = find_folder(spec, both)? else {
        return Err(unexpected(spec, &format!("folders `{images}` and `{masks}`")));
    };
    let mut found = Found::default();
    let place = Place { prefix: "", native_split: TRAIN, class: None };
    pair_folders(spec, &images, &masks, &place, &mut found)?;
    Ok(found)
}

/// Each part is looked for on its own: a user may have only some, or have renamed what is above.
fn parts(spec: &SourceSpec, parts: &[Part]) -> Result<Found, SourceError> {
    let mut found = Found::default();
    let mut any = false;
    for part in parts {
        let both = |folder: &Folder| {
            // The root itself may be the part.
            let inside = match folder.child(part.folder) {
                Some(path) => Folder::read(spec, path)?,
                None if name_of(&folder.path).eq_ignore_ascii_case(part.folder) => {
                    Folder::read(spec, &folder.path)?
                }
                None => return Ok(None),
            };
            Ok(inside
                .child(part.images)
                .zip(inside.child(part.masks))
                .map(|(images, masks)| (images.to_owned(), masks.to_owned())))
        };
        let Some((images, masks)) = find_folder(spec, both)? else { continue };
        any = true;
        let prefix = format!("{}/", part.folder);
        let place = Place { prefix: &prefix, native_split: part.native_split, class: None };
        pair_folders(spec, &images, &masks, &place, &mut found)?;
    }
    if any {
        return Ok(found);
    }
    let expected: Vec<String> = parts
        .iter()
        .map(|part| format!("`{}/{{{},{}}}`", part.folder, part.images, part.masks))
        .collect();
    Err(unexpected(spec, &format!("folder like {}", expected.join(" or "))))
}

/// A folder of classes, each a folder in which `X.jpg` lies beside `X.png`.
fn classes(spec: &SourceSpec) -> Result<Found, SourceError> {
    let base = find_folder(spec, |folder| {
        for path in &folder.folders {
            if has_jpegs(&Folder::read(spec, path)?) {
                return Ok(Some(folder.path.clone()));
            }
        }
        Ok(None)
    })?;
    let Some(base) = base else {
        return Err(unexpected(spec, "folder of classes with `1.jpg` and `1.png`"));
    };
    let mut found = Found::default();
    for path in Folder::read(spec, &base)?.folders {
        let class = name_of(&path);
        let prefix = format!("{class}/");
        let place = Place { prefix: &prefix, native_split: TRAIN, class: Some(&class) };
        pair_beside(spec, Folder::read(spec, &path)?, &place, &mut found);
    }
    Ok(found)
}

fn side_by_side(spec: &SourceSpec) -> Result<Found, SourceError> {
    let base = find_folder(spec, |folder| Ok(has_jpegs(folder).then(|| folder.path.clone())))?;
    let Some(base) = base else {
        return Err(unexpected(spec, "folder `Imgs` with `X.jpg` and `X.png`"));
    };
    let mut found = Found::default();
    let place = Place { prefix: "", native_split: TRAIN, class: None };
    pair_beside(spec, Folder::read(spec, &base)?, &place, &mut found);
    Ok(found)
}

fn has_jpegs(folder: &Folder) -> bool {
    let is_jpeg =
        |path: &Path| matches!(picture_extension(&name_of(path)).as_deref(), Some("jpg" | "jpeg"));
    folder.files.iter().any(|path| is_jpeg(path))
}
