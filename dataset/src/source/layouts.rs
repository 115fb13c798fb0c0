//! Where each layout keeps its images and masks.

use super::folders::{Folder, Listing, composed, find as find_folder, is_jpeg, name_of, root_name};
use super::pairing::{Place, pair_beside, pair_folders};
use super::{FileTree, Layout, MaskOrigin, Rejected, SourceError, known_bad, published};
use crate::verify::RejectReason;

mod big;
mod coco;
mod custom;
mod listed;
mod records;

/// A pair before its split is decided.
pub(super) struct Candidate {
    pub(super) name: String,
    pub(super) native_split: String,
    pub(super) class: Option<String>,
    /// Instead of the one of the source.
    pub(super) license: Option<String>,
    pub(super) image: String,
    pub(super) mask: MaskOrigin,
    /// The part of the collection, where the layout has several.
    pub(super) part: Option<&'static str>,
}

impl Candidate {
    pub(super) fn reject(self, listing: &Listing<'_>, reason: RejectReason) -> Rejected {
        let rejected = listing.reject(&self.name, Some(self.image), Some(self.mask), reason);
        Rejected { part: self.part, ..rejected }
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
    pub(super) fn add(&mut self, listing: &Listing<'_>, mut candidate: Candidate) {
        candidate.name = composed(&candidate.name);
        match known_bad::note(listing.spec, &candidate.name) {
            Some(note) => self
                .rejected
                .push(candidate.reject(listing, RejectReason::KnownBad { note: note.to_owned() })),
            None => self.candidates.push(candidate),
        }
    }
}

pub(super) const TRAIN: &str = "train";
pub(super) const VAL: &str = "val";
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
pub(super) fn find(listing: &Listing<'_>) -> Result<Found, SourceError> {
    refuse_foreign_settings(listing)?;
    published::check(listing)?;
    match listing.spec.layout {
        Layout::Ecssd => two_folders(listing, "images", "ground_truth_mask"),
        Layout::DutOmron => two_folders(listing, "DUT-OMRON-image", "pixelwiseGT-new-PNG"),
        Layout::Duts => parts(listing, &DUTS),
        Layout::Dis5k => parts(listing, &DIS5K),
        Layout::Fss1000 => classes(listing),
        Layout::Msra10k => side_by_side(listing),
        Layout::ThinObject5k => listed::find(listing),
        Layout::Big => big::find(listing),
        Layout::Custom => custom::find(listing),
        Layout::Csv | Layout::Jsonl => records::find(listing),
        Layout::Coco => coco::find(listing),
    }
}

/// A setting that the layout does not read is a mistake, not a wish to be overlooked.
fn refuse_foreign_settings(listing: &Listing<'_>) -> Result<(), SourceError> {
    let spec = listing.spec;
    let (custom, records, coco) =
        (&[Layout::Custom][..], &[Layout::Csv, Layout::Jsonl][..], &[Layout::Coco][..]);
    let settings = [
        ("images", spec.images.is_some(), &[Layout::Custom, Layout::Coco][..]),
        ("masks", spec.masks.is_some(), custom),
        ("list", spec.list.is_some(), records),
        ("ignore_columns", !spec.ignore_columns.is_empty(), records),
        ("annotations", spec.annotations.is_some(), coco),
        ("crowd", spec.crowd.is_some(), coco),
        ("min_area", spec.min_area.is_some(), coco),
    ];
    let foreign =
        settings.iter().find(|(_, given, layouts)| *given && !layouts.contains(&spec.layout));
    let Some((setting, _, layouts)) = foreign else { return Ok(()) };
    let layouts: Vec<String> =
        layouts.iter().map(|layout| format!("`{}`", layout.name())).collect();
    Err(listing.problem(format!(
        "`{setting}` is for layout {}; `{}` has no use for it",
        layouts.join(" or "),
        spec.layout.name()
    )))
}

/// Side by side in one folder or, where each was an archive of its own, in different ones.
fn two_folders(listing: &Listing<'_>, images: &str, masks: &str) -> Result<Found, SourceError> {
    let tree = listing.tree();
    let child = |folder: &Folder, name| folder.child(name).map(str::to_owned);
    let both = find_folder(tree, |folder| child(folder, images).zip(child(folder, masks)));
    let apart = || {
        find_folder(tree, |folder| child(folder, images))
            .zip(find_folder(tree, |folder| child(folder, masks)))
    };
    let Some((images, masks)) = both.or_else(apart) else {
        return Err(listing.unexpected(&format!("folders `{images}` and `{masks}`")));
    };
    let mut found = Found::default();
    let place = Place { prefix: "", native_split: TRAIN, class: None, part: None };
    pair_folders(listing, &images, &masks, &place, &mut found);
    Ok(found)
}

/// Each part is looked for on its own: a user may have only some, or have renamed what is above.
fn parts(listing: &Listing<'_>, parts: &[Part]) -> Result<Found, SourceError> {
    let tree = listing.tree();
    let mut found = Found::default();
    let mut any = false;
    for part in parts {
        let both = |folder: &Folder| {
            let name = match name_of(&folder.path) {
                "" => root_name(&listing.spec.root),
                name => name.to_owned(),
            };
            // The root itself may be the part.
            let inside = match folder.child(part.folder) {
                Some(path) => Folder::read(tree, path),
                None if name.eq_ignore_ascii_case(part.folder) => Folder::read(tree, &folder.path),
                None => return None,
            };
            let child = |name| inside.child(name).map(str::to_owned);
            child(part.images).zip(child(part.masks))
        };
        let Some((images, masks)) = find_folder(tree, both) else { continue };
        any = true;
        let prefix = format!("{}/", part.folder);
        let (native_split, part) = (part.native_split, Some(part.folder));
        let place = Place { prefix: &prefix, native_split, class: None, part };
        pair_folders(listing, &images, &masks, &place, &mut found);
    }
    if any {
        return Ok(found);
    }
    let expected: Vec<String> = parts
        .iter()
        .map(|part| format!("`{}/{{{},{}}}`", part.folder, part.images, part.masks))
        .collect();
    Err(listing.unexpected(&format!("folder like {}", expected.join(" or "))))
}

/// A folder of classes, each a folder in which `X.jpg` lies beside `X.png`, as downloaded, or that
/// holds `image/X.jpg` and `label/X.png`, as the authors' training code wants them.
fn classes(listing: &Listing<'_>) -> Result<Found, SourceError> {
    let tree = listing.tree();
    let base = find_folder(tree, |folder| {
        let is_class = |path: &String| {
            let class = Folder::read(tree, path);
            has_jpegs(&class) || images_and_labels(tree, &class).is_some()
        };
        folder.folders.iter().any(is_class).then(|| folder.folders.clone())
    });
    let Some(classes) = base else {
        return Err(listing.unexpected("folder of classes with `1.jpg` and `1.png`"));
    };
    let mut found = Found::default();
    for path in classes {
        let class = name_of(&path);
        let prefix = format!("{class}/");
        let place = Place { prefix: &prefix, native_split: TRAIN, class: Some(class), part: None };
        let folder = Folder::read(tree, &path);
        match images_and_labels(tree, &folder) {
            Some((images, labels)) => {
                pair_folders(listing, images, labels, &place, &mut found);
            }
            None => pair_beside(listing, folder.files, &place, &mut found),
        }
    }
    Ok(found)
}

fn images_and_labels<'a>(tree: &FileTree, class: &'a Folder) -> Option<(&'a str, &'a str)> {
    let both = class.child("image").zip(class.child("label"));
    both.filter(|(images, _)| has_jpegs(&Folder::read(tree, images)))
}

fn side_by_side(listing: &Listing<'_>) -> Result<Found, SourceError> {
    let files =
        find_folder(listing.tree(), |folder| has_jpegs(folder).then(|| folder.files.clone()));
    let Some(files) = files else {
        return Err(listing.unexpected("folder `Imgs` with `X.jpg` and `X.png`"));
    };
    let mut found = Found::default();
    let place = Place { prefix: "", native_split: TRAIN, class: None, part: None };
    pair_beside(listing, files, &place, &mut found);
    Ok(found)
}

fn has_jpegs(folder: &Folder) -> bool {
    folder.files.iter().any(|path| is_jpeg(path))
}
