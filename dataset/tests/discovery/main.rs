//! Every layout is found in its native form, and what is wrong with a pair is said.

mod counts;
mod holdouts;
mod patterns;
mod records;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use dataset::codec::{DecodeLimits, decode_image, decode_mask};
use dataset::draw::draw_collection;
use dataset::source::{
    Crowd, Discovery, FileTree, Layout, Pair, RawFile, RawFiles, SourceError, SourceSpec, SplitRule,
};
use dataset::verify::{RejectReason, verify};

fn spec(root: &Path, layout: Layout) -> SourceSpec {
    SourceSpec { license: Some("CC0-1.0".into()), ..SourceSpec::new("source", layout, root) }
}

/// A folder of the disk, read as plainly as can be.
struct Folder {
    root: PathBuf,
    tree: FileTree,
}

impl Folder {
    fn list(root: &Path) -> Self {
        let (mut files, mut folders) = (Vec::new(), vec![root.to_owned()]);
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let below = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
                let bytes = path.metadata().unwrap().len();
                files.push(RawFile { path: below, bytes, version: String::new() });
            }
        }
        Self { root: root.to_owned(), tree: FileTree::new(files) }
    }

    fn read_file(&self, path: &str) -> Vec<u8> {
        fs::read(self.root.join(path)).unwrap()
    }
}

impl RawFiles for Folder {
    fn tree(&self) -> &FileTree {
        &self.tree
    }

    fn read(&self, path: &str) -> std::io::Result<Vec<u8>> {
        fs::read(self.root.join(path))
    }
}

fn discover(spec: &SourceSpec) -> Result<Discovery, SourceError> {
    dataset::source::discover(spec, &Folder::list(&spec.root))
}

/// The bytes of the image and of the mask.
fn files_of(spec: &SourceSpec, pair: &Pair) -> (Vec<u8>, Vec<u8>) {
    let folder = Folder::list(&spec.root);
    (folder.read_file(&pair.image), folder.read_file(&pair.mask.to_string()))
}

fn folder(files: &[&str]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for file in files {
        let path = root.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, file.as_bytes()).unwrap();
    }
    root
}

fn names(discovery: &Discovery) -> Vec<(&str, &str)> {
    discovery.pairs.iter().map(|pair| (pair.name.as_str(), pair.split.as_str())).collect()
}

fn reasons(discovery: &Discovery) -> Vec<(&str, &RejectReason)> {
    discovery.rejected.iter().map(|entry| (entry.sample_id.as_str(), &entry.reason)).collect()
}

/// Where the real collections lie, if this machine has them.
#[expect(clippy::print_stdout, reason = "a skipped test says so")]
fn raw_folder() -> Option<PathBuf> {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/raw");
    let folder = std::env::var_os("HQSAM_RAW_DIR").map_or(default, PathBuf::from);
    let found = folder.is_dir();
    if !found {
        println!("skipped: no raw collections at {} (HQSAM_RAW_DIR)", folder.display());
    }
    found.then_some(folder)
}

#[test]
fn drawn_collections_are_found_and_good() {
    let splits: [(Layout, &[(&str, usize)]); 8] = [
        (Layout::Ecssd, &[("train", 6)]),
        (Layout::Duts, &[("train", 6)]),
        (Layout::Fss1000, &[("train", 6)]),
        (Layout::Msra10k, &[("train", 6)]),
        (Layout::DutOmron, &[("train", 6)]),
        (Layout::Dis5k, &[("train", 4), ("val", 2)]),
        (Layout::ThinObject5k, &[("train", 4), ("val", 2)]),
        (Layout::Big, &[("test", 4), ("val", 2)]),
    ];
    for (layout, expected) in splits {
        let root = tempfile::tempdir().unwrap();
        draw_collection(root.path(), layout, 6, 11).unwrap();
        let discovery = discover(&spec(root.path(), layout)).unwrap();
        assert_eq!(reasons(&discovery), [], "{layout:?}");
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for pair in &discovery.pairs {
            *counts.entry(&pair.split).or_default() += 1;
            assert_eq!(pair.license.as_deref(), Some("CC0-1.0"));
            assert_eq!(pair.class.is_some(), layout == Layout::Fss1000);
        }
        assert!(counts.into_iter().eq(expected.iter().copied()), "{layout:?}");

        let pair = &discovery.pairs[0];
        let (image_bytes, mask_bytes) = files_of(&spec(root.path(), layout), pair);
        let image = decode_image(&image_bytes, &DecodeLimits::default()).unwrap();
        let mask = decode_mask(&mask_bytes, &DecodeLimits::default()).unwrap();
        verify(&image, &mask, &image_bytes, &mask_bytes).unwrap();
    }
    let root = tempfile::tempdir().unwrap();
    assert!(draw_collection(root.path(), Layout::Custom, 1, 0).is_err());
}

#[test]
fn nesting_archive_leftovers_and_case_do_not_matter() {
    let root = folder(&[
        "ECSSD/ecssd/Images/0001.JPG",
        "ECSSD/ecssd/Images/0002.jpeg",
        "ECSSD/ecssd/Images/Thumbs.db",
        "ECSSD/ecssd/GROUND_TRUTH_MASK/0001.PNG",
        "ECSSD/ecssd/GROUND_TRUTH_MASK/0002.png",
        "ECSSD/ecssd/GROUND_TRUTH_MASK/.DS_Store",
        "__MACOSX/images/._0001.jpg",
        "__MACOSX/ground_truth_mask/._0001.png",
    ]);
    let discovery = discover(&spec(root.path(), Layout::Ecssd)).unwrap();
    assert_eq!(names(&discovery), [("0001", "train"), ("0002", "train")]);
    assert_eq!(reasons(&discovery), []);
    assert_eq!(discovery.pairs[0].sample_id(), "source/0001");
}

#[test]
fn names_agree_however_their_letters_are_composed() {
    // Two characters for each umlaut, as macOS stores file names, and one.
    let root = folder(&[
        "ECSSD/images/u\u{308}ber.jpg",
        "ECSSD/images/\u{fc}brig.jpg",
        "ECSSD/ground_truth_mask/\u{fc}ber.png",
        "ECSSD/ground_truth_mask/u\u{308}brig.png",
    ]);
    fs::write(root.path().join("val.txt"), "\u{fc}ber.jpg\n").unwrap();
    fs::write(root.path().join("train.txt"), "u\u{308}brig\n").unwrap();
    let lists = ["train", "val"].map(|split| (split.to_owned(), format!("{split}.txt").into()));
    let mut spec = spec(root.path(), Layout::Ecssd);
    spec.split = SplitRule::Lists(BTreeMap::from(lists));
    let discovery = discover(&spec).unwrap();
    assert_eq!(reasons(&discovery), []);
    assert_eq!(names(&discovery), [("\u{fc}ber", "val"), ("\u{fc}brig", "train")]);
    // The files keep the names that the disk knows.
    assert!(
        files_of(&spec, &discovery.pairs[0]).0.starts_with("ECSSD/images/u\u{308}ber".as_bytes())
    );

    spec = SourceSpec::new("source", Layout::Custom, root.path());
    spec.images = Some("ECSSD/images/*.jpg".into());
    spec.masks = Some("ECSSD/ground_truth_mask/{stem}.png".into());
    assert_eq!(names(&discover(&spec).unwrap()).len(), 2);
}

#[test]
fn classes_are_found_as_downloaded_and_as_the_authors_train_on_them() {
    let root = folder(&[
        "fewshot/support/abacus/image/1.jpg",
        "fewshot/support/abacus/image/2.jpg",
        "fewshot/support/abacus/label/1.png",
        "fewshot/support/abacus/label/2.png",
        "fewshot/support/ab_wheel/image/1.jpg",
        "fewshot/support/ab_wheel/label/1.png",
    ]);
    let discovery = discover(&spec(root.path(), Layout::Fss1000)).unwrap();
    assert_eq!(reasons(&discovery), []);
    let names = names(&discovery);
    assert_eq!(names, [("ab_wheel/1", "train"), ("abacus/1", "train"), ("abacus/2", "train")]);
    assert_eq!(discovery.pairs[0].class.as_deref(), Some("ab_wheel"));
}

#[test]
fn missing_and_doubled_files_are_rejected_not_errors() {
    let root = folder(&[
        "fewshot_data/fewshot_data/beam_bridge/1.jpg",
        "fewshot_data/fewshot_data/beam_bridge/1.png",
        "fewshot_data/fewshot_data/beam_bridge/1.jpeg",
        "fewshot_data/fewshot_data/beam_bridge/10.jpeg",
        "fewshot_data/fewshot_data/peregine_falcon/8.png",
        "fewshot_data/fewshot_data/bamboo_slip/7.jpg",
        "fewshot_data/fewshot_data/bamboo_slip/7.png",
    ]);
    let discovery = discover(&spec(root.path(), Layout::Fss1000)).unwrap();
    assert_eq!(names(&discovery), [("beam_bridge/1", "train")]);
    assert_eq!(discovery.pairs[0].class.as_deref(), Some("beam_bridge"));
    let known = RejectReason::KnownBad { note: "never labelled".into() };
    let double = RejectReason::DuplicateName { kept: "1.jpg".into() };
    assert_eq!(
        reasons(&discovery),
        [
            ("source/bamboo_slip/7", &known),
            ("source/beam_bridge/1.jpeg", &double),
            ("source/beam_bridge/10", &RejectReason::MissingMask),
            ("source/peregine_falcon/8", &RejectReason::MissingImage),
        ]
    );
}

#[test]
fn both_halves_of_duts_train_unless_told_apart() {
    let root = folder(&[
        "DUTS-TR/DUTS-TR/DUTS-TR-Image/a.jpg",
        "DUTS-TR/DUTS-TR/DUTS-TR-Mask/a.png",
        "DUTS-TE/DUTS-TE-Image/a.jpg",
        "DUTS-TE/DUTS-TE-Mask/a.png",
        "DUTS-TE/DUTS-TE-Mask/msun_ bcogaqperiljqupq.jpg",
    ]);
    let mut spec = spec(root.path(), Layout::Duts);
    let discovery = discover(&spec).unwrap();
    assert_eq!(names(&discovery), [("DUTS-TE/a", "train"), ("DUTS-TR/a", "train")]);
    assert_eq!(discovery.rejected[0].reason, RejectReason::MissingImage);
    spec.split = SplitRule::Folders([("DUTS-TE".into(), "val".into())].into());
    assert_eq!(names(&discover(&spec).unwrap()), [("DUTS-TE/a", "val")]);
    // The root may be one half itself.
    spec.root = root.path().join("DUTS-TE");
    spec.split = SplitRule::Native;
    assert_eq!(names(&discover(&spec).unwrap()), [("DUTS-TE/a", "train")]);
}

#[test]
fn lists_name_masks_or_stems_with_any_line_end() {
    let root = folder(&[
        "images/a.b.jpg",
        "images/c.jpg",
        "images/unlisted.jpg",
        "masks/a.b.png",
        "masks/c.png",
        "masks/unlisted.png",
    ]);
    fs::create_dir(root.path().join("list")).unwrap();
    fs::write(root.path().join("list/train.txt"), "a.b.png\r\ngone.png\r\n\r\n").unwrap();
    fs::write(root.path().join("list/test.txt"), "c\n").unwrap();
    let discovery = discover(&spec(root.path(), Layout::ThinObject5k)).unwrap();
    assert_eq!(names(&discovery), [("a.b", "train"), ("c", "test")]);
    assert_eq!(reasons(&discovery), [("source/gone", &RejectReason::MissingImage)]);
}

#[test]
fn parts_that_were_archives_of_their_own_lie_apart() {
    let root = folder(&[
        "DUT-OMRON-image/img_1.jpg",
        "DUT-OMRON-image/img_561715398.jpg",
        "DUT-OMRON-gt-pixelwise/pixelwiseGT-new-PNG/img_1.png",
        "DUT-OMRON-gt-pixelwise/__MACOSX/._img_1.png",
    ]);
    let discovery = discover(&spec(root.path(), Layout::DutOmron)).unwrap();
    assert_eq!(names(&discovery), [("img_1", "train")]);
    assert_eq!(reasons(&discovery), [("source/img_561715398", &RejectReason::MissingMask)]);
    // Each in a folder of the name that it has inside.
    let root = folder(&["images/images/1.jpg", "ground_truth_mask/ground_truth_mask/1.png"]);
    let discovery = discover(&spec(root.path(), Layout::Ecssd)).unwrap();
    assert_eq!(names(&discovery), [("1", "train")]);
}

#[test]
fn a_wrong_root_is_described() {
    let root = folder(&["photos/1.jpg", "readme.txt"]);
    let error = discover(&spec(root.path(), Layout::Ecssd)).unwrap_err().to_string();
    assert!(error.contains("`images` and `ground_truth_mask`"), "{error}");
    assert!(error.contains("found photos/, readme.txt"), "{error}");
    let mut confused = spec(root.path(), Layout::Dis5k);
    confused.images = Some("*.jpg".into());
    assert!(matches!(discover(&confused), Err(SourceError::Spec { .. })));
    let mut confused = spec(root.path(), Layout::Custom);
    confused.crowd = Some(Crowd::Keep);
    let error = discover(&confused).unwrap_err().to_string();
    assert!(error.contains("`crowd` is for layout `coco`"), "{error}");
}

#[test]
fn split_rules_are_read_from_all_their_forms() {
    let read = |json: &str| serde_json::from_str::<SplitRule>(json);
    assert_eq!(read(r#""native""#).unwrap(), SplitRule::Native);
    assert_eq!(read(r#""test""#).unwrap(), SplitRule::Fixed("test".into()));
    assert_eq!(read(r#"{"holdout": 0.2}"#).unwrap(), SplitRule::Holdout { fraction: 0.2, seed: 0 });
    for rule in [
        SplitRule::Native,
        SplitRule::Fixed("val".into()),
        SplitRule::Folders([("DIS-VD".into(), "val".into())].into()),
        SplitRule::Lists([("val".into(), "list/val.txt".into())].into()),
        SplitRule::Holdout { fraction: 0.5, seed: 3 },
    ] {
        assert_eq!(read(&serde_json::to_string(&rule).unwrap()).unwrap(), rule);
    }
    for wrong in [r#"{"holdout": 2.0}"#, r#"{"holdout": 0.1, "lists": {}}"#, r#"{"seed": 1}"#] {
        assert!(read(wrong).is_err(), "{wrong}");
    }
    assert!(read(r#"{"holdot": 0.1}"#).unwrap_err().to_string().contains("holdout"));
}

#[test]
fn real_collections_are_found() {
    let Some(raw) = raw_folder() else { return };
    let mut ecssd = spec(&raw.join("ECSSD"), Layout::Ecssd);
    ecssd.split = SplitRule::Holdout { fraction: 0.2, seed: 0 };
    let discovery = discover(&ecssd).unwrap();
    let [whole] = &discovery.parts[..] else { panic!("{:?}", discovery.parts) };
    assert_eq!((whole.found(), whole.published), (1000, Some(1000)));
    assert_eq!(discovery.pairs.iter().filter(|pair| pair.split == "val").count(), 200);
    assert_eq!(reasons(&discovery), []);

    for (folder, layout) in [("DUTS", Layout::Duts), ("FSS-1000", Layout::Fss1000)] {
        let spec = spec(&raw.join(folder), layout);
        let discovery = discover(&spec).unwrap();
        assert!(!discovery.pairs.is_empty());
        for pair in &discovery.pairs {
            let (image_bytes, mask_bytes) = files_of(&spec, pair);
            let image = decode_image(&image_bytes, &DecodeLimits::default()).unwrap();
            let mask = decode_mask(&mask_bytes, &DecodeLimits::default()).unwrap();
            let facts = verify(&image, &mask, &image_bytes, &mask_bytes).unwrap();
            assert!(facts.foreground_pixels > 100, "{}", pair.sample_id());
        }
    }
}
