//! Raw collections in every form: the same pairs and the same shards come out of each.

use std::path::{Path, PathBuf};
use std::time::Instant;

use dataset::source::{Crowd, Layout, RawFiles, SourceSpec, SplitRule, discover};
use pipeline::build::{BuildError, recognise};
use pipeline::input::{Input, InputError, ReadError};
use pipeline::{BuildConfig, build};

use crate::forms::{
    Files, collection, image_bytes, mask_bytes, tarred, with_archives, write, zipped,
};
use crate::natives::natives;
use crate::support::contents;

fn spec(layout: Layout, root: &Path) -> SourceSpec {
    let mut spec = SourceSpec::new("source", layout, root);
    match layout {
        Layout::Custom => {
            spec.images = Some("photos/**/*.jpg".into());
            spec.masks = Some("labels/{dir}/{stem}_gt.png".into());
        }
        Layout::Csv => spec.list = Some("pairs.csv".into()),
        Layout::Jsonl => spec.list = Some("pairs.jsonl".into()),
        Layout::Coco => {
            spec.annotations = Some("annotations/instances_train2017.json".into());
            spec.images = Some("train2017".into());
            spec.crowd = Some(Crowd::Skip);
        }
        _ => {}
    }
    spec
}

fn pairs(spec: &SourceSpec) -> Vec<String> {
    let discovery = discover(spec, &Input::open(&spec.root).unwrap()).unwrap();
    let mut pairs: Vec<String> =
        discovery.pairs.iter().map(|pair| format!("{} {}", pair.split, pair.name)).collect();
    pairs.sort();
    pairs
}

fn shards(spec: SourceSpec, output: &Path) -> Vec<(String, Vec<u8>)> {
    let mut config = BuildConfig::new(output.to_string_lossy(), vec![spec]);
    config.max_rejected_fraction = 0.9;
    config.threads = Some(2);
    build(&config).unwrap();
    contents(&output.join("shards"))
}

/// The roots of all forms of a collection.
fn forms(place: &Path, files: &Files) -> Vec<PathBuf> {
    write(&place.join("folder"), files);
    std::fs::write(place.join("whole.zip"), zipped(files)).unwrap();
    std::fs::write(place.join("whole.tar"), tarred(files)).unwrap();
    write(&place.join("parts"), &with_archives(files));
    // An archive of archives, and a folder of it.
    let inner = with_archives(files).into_iter().map(|(path, bytes)| (format!("in/{path}"), bytes));
    std::fs::write(place.join("nested.zip"), zipped(&inner.collect())).unwrap();
    // `as_folder` is no folder; `as_folder.zip` stands for it.
    std::fs::write(place.join("as_folder.zip"), zipped(files)).unwrap();
    ["folder", "whole.zip", "whole.tar", "parts", "nested.zip/in", "nested/in", "as_folder"]
        .map(|name| place.join(name))
        .into()
}

#[test]
fn every_layout_is_the_same_from_every_form() {
    for native in natives() {
        let place = tempfile::tempdir().unwrap();
        let mut first = None;
        for (index, root) in forms(place.path(), &native.files).into_iter().enumerate() {
            let spec = spec(native.layout, &root);
            assert_eq!(pairs(&spec), native.expected, "{}", root.display());
            let written = shards(spec, &place.path().join(format!("out{index}")));
            assert!(!written.is_empty());
            assert!(first.get_or_insert_with(|| written.clone()) == &written, "{}", root.display());
        }
    }
}

#[test]
fn downloads_are_recognised_as_they_are() {
    for native in natives() {
        // Lists and patterns of one's own are no published layout, except where they can be told.
        if native.layout == Layout::Custom {
            continue;
        }
        let place = tempfile::tempdir().unwrap();
        for root in forms(place.path(), &native.files) {
            let sources = recognise(&root, 0.0).unwrap();
            let [source] = &sources[..] else { panic!("{}: {sources:?}", root.display()) };
            assert_eq!(source.layout, native.layout, "{}", root.display());
            let mut source = source.clone();
            source.split = SplitRule::Native;
            assert_eq!(pairs(&source), native.expected, "{}", root.display());
        }
    }
    // Side by side: a folder of downloads, each as its authors ship it.
    let place = tempfile::tempdir().unwrap();
    let mut files = Files::new();
    for native in natives() {
        match native.layout {
            Layout::Ecssd | Layout::Custom => {}
            Layout::DutOmron => {
                let pixelwise = native.files.iter().filter(|(path, _)| path.starts_with("pixel"));
                let pixelwise = zipped(&pixelwise.map(|(a, b)| (a.clone(), b.clone())).collect());
                let images = native.files.iter().filter(|(path, _)| path.starts_with("DUT"));
                let images = zipped(&images.map(|(a, b)| (a.clone(), b.clone())).collect());
                files.insert("DUT-OMRON/DUT-OMRON-gt-pixelwise.zip.zip".into(), pixelwise);
                files.insert("DUT-OMRON/DUT-OMRON-image.zip".into(), images);
            }
            layout => {
                files.insert(format!("{}.zip", layout.name()), zipped(&native.files));
            }
        }
    }
    let one = |file: &str, bytes| zipped(&Files::from([(file.to_owned(), bytes)]));
    files.insert("ECSSD/images.zip".into(), one("images/0001.jpg", image_bytes(1)));
    files.insert(
        "ECSSD/ground_truth_mask.zip".into(),
        one("ground_truth_mask/0001.png", mask_bytes(1)),
    );
    write(place.path(), &files);
    let sources = recognise(place.path(), 0.0).unwrap();
    let found: Vec<&str> = sources.iter().map(|source| source.layout.name()).collect();
    let expected = [
        "dut_omron",
        "ecssd",
        "big",
        "coco",
        "csv",
        "dis5k",
        "duts",
        "fss_1000",
        "jsonl",
        "msra_10k",
        "thin_object_5k",
    ];
    assert_eq!(found, expected, "{sources:?}");
    for source in &sources {
        assert!(!pairs(source).is_empty(), "{source:?}");
    }
}

#[test]
fn what_is_unpacked_already_is_not_read_twice() {
    let place = tempfile::tempdir().unwrap();
    let files = collection(&[("images/1.jpg", "ground_truth_mask/1.png")], &[]);
    write(place.path(), &files);
    let other = collection(&[("images/2.jpg", "ground_truth_mask/2.png")], &[]);
    std::fs::write(place.path().join("images.zip"), zipped(&other)).unwrap();
    assert_eq!(pairs(&spec(Layout::Ecssd, place.path())), ["train 1"]);
}

fn open_error(path: &Path) -> InputError {
    Input::open(path).err().unwrap()
}

#[test]
fn archives_that_cannot_be_used_say_why() {
    let place = tempfile::tempdir().unwrap();
    let path = |name: &str| place.path().join(name);
    let files = collection(&[("images/1.jpg", "ground_truth_mask/1.png")], &[]);

    for name in ["set.tar.gz", "other.tgz"] {
        std::fs::write(path(name), b"\x1f\x8b").unwrap();
        let error = open_error(&path(name));
        assert!(matches!(error, InputError::Compressed { .. }), "{error}");
        assert!(error.to_string().contains("tar -xf"), "{error}");
    }
    // Asked for by the name it would have unpacked, or lying in the folder: the same answer.
    assert!(matches!(open_error(&path("set")), InputError::Compressed { .. }));
    let config =
        BuildConfig::new(path("out").to_string_lossy(), vec![spec(Layout::Ecssd, place.path())]);
    let error = build(&config).unwrap_err();
    assert!(
        matches!(error, BuildError::Input { source: InputError::Compressed { .. }, .. }),
        "{error}"
    );

    let whole = zipped(&files);
    std::fs::write(path("short.zip"), &whole[..whole.len() / 2]).unwrap();
    assert!(matches!(open_error(&path("short.zip")), InputError::Archive { .. }));
    let whole = tarred(&files);
    std::fs::write(path("short.tar"), &whole[..700]).unwrap();
    assert!(matches!(open_error(&path("short.tar")), InputError::Archive { .. }));
    std::fs::write(path("text.tar"), vec![b'x'; 2048]).unwrap();
    assert!(matches!(open_error(&path("text.tar")), InputError::Archive { .. }));

    let bytes = zipped(&Files::from([("a/../../b.jpg".to_owned(), vec![1])]));
    std::fs::write(path("evil.zip"), bytes).unwrap();
    let error = open_error(&path("evil.zip"));
    assert!(matches!(error, InputError::UnsafeName { .. }), "{error}");
    assert!(error.to_string().contains("a/../../b.jpg"), "{error}");

    std::fs::write(path("notes.txt"), b"x").unwrap();
    assert!(matches!(open_error(&path("notes.txt")), InputError::NotAnArchive { .. }));
    std::fs::write(path("good.zip"), zipped(&files)).unwrap();
    let error = open_error(&path("good.zip/no such"));
    assert!(error.to_string().contains("a folder `no such` in"), "{error}");
    assert!(matches!(open_error(&path("nowhere")), InputError::NotFound { .. }));
}

/// Changes two-byte fields of the headers of the only entry: in its own header and the directory.
fn patched(mut zip: Vec<u8>, local: usize, directory: usize, value: u16) -> Vec<u8> {
    let start = zip.windows(4).rposition(|bytes| bytes == b"PK\x01\x02").unwrap();
    zip[local..local + 2].copy_from_slice(&value.to_le_bytes());
    zip[start + directory..start + directory + 2].copy_from_slice(&value.to_le_bytes());
    zip
}

#[test]
fn entries_that_cannot_be_used_are_refused_one_by_one() {
    let place = tempfile::tempdir().unwrap();
    let plain = zipped(&Files::from([("a.jpg".to_owned(), vec![7; 5000])]));
    let read = |bytes: &[u8]| {
        let path = place.path().join("x.zip");
        std::fs::write(&path, bytes).unwrap();
        Input::open(&path).unwrap().read_file("a.jpg", 10_000)
    };
    assert_eq!(read(&plain).unwrap(), vec![7; 5000]);
    let refused = |bytes: &[u8], expected: &str| {
        let error = read(bytes).unwrap_err();
        assert!(matches!(error, ReadError::Refused { .. }), "{error:?}");
        let message = error.to_string();
        assert!(message.starts_with("a.jpg: ") && message.contains(expected), "{message}");
    };
    refused(&patched(plain.clone(), 6, 8, 1), "encrypted");
    refused(&patched(plain.clone(), 8, 10, 14), "not supported: 14");
    let mut damaged = plain.clone();
    damaged[1000] ^= 1;
    refused(&damaged, "checksum");
    // A directory that promises too much, and one that promises too little.
    let big = patched(plain.clone(), 24, 26, 0x4000);
    refused(&big, "above the limit");
    let deflated =
        zipped(&Files::from([("0".to_owned(), vec![]), ("a.jpg".to_owned(), vec![0; 9_000_000])]));
    assert!(deflated.len() < 30_000);
    refused(&deflated, "above the limit of 10000");
    let start = deflated.windows(4).rposition(|bytes| bytes == b"PK\x01\x02").unwrap();
    let mut understated = deflated.clone();
    understated[start + 24..start + 28].copy_from_slice(&100_u32.to_le_bytes());
    assert!(read(&understated).is_err());
}

#[test]
fn names_of_archives_are_read_whatever_their_encoding() {
    let place = tempfile::tempdir().unwrap();
    // Code page 437, as old tools write it: 0x82 is é. The flag for UTF-8 is off.
    let files =
        Files::from([("im/caf_.jpg".to_owned(), vec![1]), ("gt/caf_.png".to_owned(), vec![2])]);
    let mut bytes = zipped(&files);
    for at in 0..bytes.len() - 8 {
        if &bytes[at..at + 4] == b"caf_" {
            bytes[at + 3] = 0x82;
        }
    }
    std::fs::write(place.path().join("old.zip"), bytes).unwrap();
    let input = Input::open(&place.path().join("old.zip")).unwrap();
    let names: Vec<&str> = input.tree().files().iter().map(|file| &*file.path).collect();
    assert_eq!(names, ["gt/café.png", "im/café.jpg"]);
    assert_eq!(input.read_file("im/café.jpg", 10).unwrap(), [1]);
}

#[test]
fn links_and_long_names_in_tars_are_followed() {
    let place = tempfile::tempdir().unwrap();
    let mut tar = tar::Builder::new(Vec::new());
    let long = format!("im/{}.jpg", "x".repeat(180));
    let mut header = tar::Header::new_gnu();
    header.set_size(3);
    header.set_mode(0o644);
    tar.append_data(&mut header, &long, &b"abc"[..]).unwrap();
    let mut link = tar::Header::new_gnu();
    link.set_entry_type(tar::EntryType::Link);
    link.set_size(0);
    tar.append_link(&mut link, "im/hard.jpg", &long).unwrap();
    let path = place.path().join("set.tar");
    std::fs::write(&path, tar.into_inner().unwrap()).unwrap();
    let input = Input::open(&path).unwrap();
    assert_eq!(input.read_file(&long, 10).unwrap(), b"abc");
    assert_eq!(input.read_file("im/hard.jpg", 10).unwrap(), b"abc");
}

#[test]
fn only_what_changed_has_another_version() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("set.zip");
    let mut files = collection(&[("a.jpg", "a.png"), ("b.jpg", "b.png")], &[]);
    let versions = |files: &Files| {
        std::fs::write(&path, zipped(files)).unwrap();
        let input = Input::open(&path).unwrap();
        let versions = input.tree().files().iter().map(|file| file.version.clone());
        versions.collect::<Vec<_>>()
    };
    let before = versions(&files);
    files.insert("b.png".into(), mask_bytes(3));
    let after = versions(&files);
    assert_eq!((&before[..3], before[3] == after[3]), (&after[..3], false));
}

/// The whole of ECSSD as its authors ship it, in two archives, against the folder.
#[test]
#[expect(clippy::print_stdout, reason = "a skipped test says so, and the rates are for reading")]
fn ecssd_from_archives_is_ecssd_from_the_folder() {
    let beside = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/raw");
    let raw = std::env::var_os("HQSAM_RAW_DIR").map_or_else(beside, PathBuf::from).join("ECSSD");
    if !raw.is_dir() {
        println!("skipped: {} is not there (set HQSAM_RAW_DIR)", raw.display());
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let listed = Input::open(&raw).unwrap();
    let mut files = Files::new();
    for file in listed.tree().files() {
        files.insert(file.path.clone(), listed.read_file(&file.path, 1 << 30).unwrap());
    }
    write(&place.path().join("parts"), &with_archives(&files));
    std::fs::write(place.path().join("ECSSD.zip"), zipped(&files)).unwrap();
    let mut first = None;
    let roots = [raw, place.path().join("ECSSD.zip"), place.path().join("parts")];
    for (index, root) in roots.iter().enumerate() {
        let started = Instant::now();
        let output = place.path().join(format!("out{index}"));
        let written = shards(spec(Layout::Ecssd, root), &output);
        let rate = 1000.0 / started.elapsed().as_secs_f64();
        println!("{rate:.0} rows/s from {}", root.display());
        assert!(first.get_or_insert_with(|| written.clone()) == &written, "{}", root.display());
    }
}
