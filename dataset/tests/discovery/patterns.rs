//! Folders of one's own: a glob for the images, a pattern for the masks.

use std::fs;

use dataset::source::{Layout, SourceError, SplitRule};
use dataset::verify::RejectReason;

use crate::{discover, folder, names, reasons, spec};

#[test]
fn custom_layouts_pair_by_pattern() {
    let root = folder(&[
        "photos/x/1.jpg",
        "photos/x/2.jpg",
        "photos/y/1.jpg",
        "labels/x/1_gt.png",
        "labels/y/1_gt.png",
    ]);
    let mut spec = spec(root.path(), Layout::Custom);
    spec.images = Some("photos/**/*.jpg".into());
    spec.masks = Some("labels/{dir}/{stem}_gt.png".into());
    let discovery = discover(&spec).unwrap();
    assert_eq!(names(&discovery), [("x/1", "train"), ("y/1", "train")]);
    assert_eq!(reasons(&discovery), [("source/x/2", &RejectReason::MissingMask)]);

    fs::write(root.path().join("val.txt"), "y/1\n").unwrap();
    spec.split = SplitRule::Lists([("val".into(), "val.txt".into())].into());
    assert_eq!(names(&discover(&spec).unwrap()), [("y/1", "val")]);

    spec.masks = Some("labels/all.png".into());
    assert!(discover(&spec).unwrap_err().to_string().contains("{stem}"));
    spec.images = None;
    assert!(matches!(discover(&spec), Err(SourceError::Spec { .. })));
}

#[test]
fn images_and_masks_of_one_folder_pair_by_pattern_too() {
    let root = folder(&["flat/1.jpg", "flat/1.png", "flat/2.jpg", "flat/2.png"]);
    let mut spec = spec(root.path(), Layout::Custom);
    spec.images = Some("**/*.jpg".into());
    spec.masks = Some("{dir}/{stem}.png".into());
    let discovery = discover(&spec).unwrap();
    assert_eq!(names(&discovery), [("flat/1", "train"), ("flat/2", "train")]);
}

#[test]
fn patterns_are_as_forgiving_as_layouts() {
    let root = folder(&[
        "im/1.jpg",
        "im/1.jpeg",
        "im/2.JPEG",
        "im/3.JPG",
        "im/4.jpeg",
        "im/other-5.png",
        "gt/1.png",
        "gt/2.PNG",
        "gt/3.png",
        "gt/6.png",
        "gt/notes.txt",
        "gt/old/7.png",
    ]);
    let mut spec = spec(root.path(), Layout::Custom);
    (spec.images, spec.masks) = (Some("im/*.jpg".into()), Some("gt/{stem}.png".into()));
    let discovery = discover(&spec).unwrap();
    assert_eq!(names(&discovery), [("1", "train"), ("2", "train"), ("3", "train")]);
    assert_eq!(discovery.pairs[0].image, "im/1.jpg");
    let double = RejectReason::DuplicateName { kept: "1.jpg".into() };
    assert_eq!(
        reasons(&discovery),
        [
            ("source/1", &double),
            ("source/4", &RejectReason::MissingMask),
            ("source/6", &RejectReason::MissingImage),
        ]
    );
    // A glob that wants some images wants no others, and their masks are nobody's fault.
    spec.images = Some("im/3*.jpg".into());
    assert_eq!(reasons(&discover(&spec).unwrap()), []);
}

#[test]
fn masks_of_patterns_with_folders_and_of_globs_that_match_them_too() {
    let root = folder(&[
        "photos/x/1.png",
        "photos/x/1_gt.png",
        "photos/2.png",
        "photos/2_gt.png",
        "photos/x/3_gt.png",
    ]);
    let mut spec = spec(root.path(), Layout::Custom);
    spec.images = Some("photos/**/*.png".into());
    spec.masks = Some("photos/{dir}/{stem}_gt.png".into());
    let discovery = discover(&spec).unwrap();
    assert_eq!(names(&discovery), [("2", "train"), ("x/1", "train")]);
    // The glob takes it for an image.
    assert_eq!(
        reasons(&discovery),
        [
            ("source/x/3", &RejectReason::MissingImage),
            ("source/x/3_gt", &RejectReason::MissingMask)
        ]
    );
}
