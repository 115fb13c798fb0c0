//! The build configurations that ship with the repository.

use std::path::Path;

use pipeline::build::{CARD_FILE, PAGE_FILE};
use pipeline::config::parse_config;
use pipeline::{BuildConfig, BuildReport, load_config};

use crate::support::Collection;

fn configs() -> Vec<(std::path::PathBuf, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs");
    let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let texts = paths
        .filter(|path| path.extension().is_some_and(|kind| kind == "toml"))
        .map(|path| (path.clone(), std::fs::read_to_string(path).unwrap()));
    // The others say what to train.
    texts.filter(|(_, text)| text.lines().any(|line| line.trim() == "[[source]]")).collect()
}

#[test]
fn every_build_configuration_loads() {
    let configs = configs();
    assert!(configs.len() >= 3);
    for (path, _) in configs {
        let config: BuildConfig = load_config(&path, &[]).unwrap();
        assert!(!config.source.is_empty(), "{}", path.display());
    }
}

#[test]
fn mistakes_are_named() {
    for (path, text) in configs() {
        let message = |text: &str| {
            parse_config::<BuildConfig>(Path::new("configs/x.toml"), text, &[])
                .unwrap_err()
                .to_string()
        };
        let name = path.display();
        assert_eq!(
            message(&text.replacen("layout =", "layuot =", 1)),
            "configs/x.toml: unknown key `source[0].layuot`; did you mean `layout`?",
            "{name}"
        );
        assert_eq!(
            message(&text.replacen("output =", "outptu =", 1)),
            "configs/x.toml: unknown key `outptu`; did you mean `output`?",
            "{name}"
        );
    }
}

#[test]
fn a_data_set_opens_by_its_configuration() {
    let collection = Collection::new(4);
    collection.build("out");
    let config = collection.output("build.toml");
    let (output, raw) = (collection.output("out"), collection.raw());
    let text = format!(
        "output = {output:?}\n[[source]]\nname = 'drawn'\nlayout = 'ecssd'\nroot = {raw:?}\n"
    );
    std::fs::write(&config, text).unwrap();
    let dataset = pipeline::Dataset::open(&config.to_string_lossy()).unwrap();
    assert_eq!(dataset.splits().collect::<Vec<_>>(), ["train", "val"]);
    assert_eq!(dataset.num_samples("train").unwrap() + dataset.num_samples("val").unwrap(), 4);
}

/// Two pairs in each of these folders of images and of masks, below `folder`.
fn lay_out(collection: &Collection, folder: &Path, parts: &[(&str, &str)]) {
    for (images, masks) in parts {
        for index in 0..2 {
            for (from, to, kind) in
                [(collection.image(index), images, "jpg"), (collection.mask(index), masks, "png")]
            {
                let to = folder.join(to);
                std::fs::create_dir_all(&to).unwrap();
                std::fs::copy(from, to.join(format!("a name {index}.{kind}"))).unwrap();
            }
        }
    }
}

/// A shipped configuration with its roots below `folder` instead of `below`.
fn configured(name: &str, below: &str, folder: &Path, collection: &Collection) -> BuildConfig {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs").join(name);
    let mut config: BuildConfig = load_config(&path, &[]).unwrap();
    config.output = collection.output("out").to_string_lossy().into_owned();
    for source in &mut config.source {
        source.root = folder.join(source.root.strip_prefix(below).unwrap());
    }
    config
}

/// Rows of a split.
fn rows(report: &BuildReport, split: &str) -> u64 {
    report.sources.iter().filter_map(|source| source.rows.get(split)).sum()
}

/// What is announced of the parts that go to a split, where it is known.
fn announced(report: &BuildReport, split: &str) -> u64 {
    let parts = report.sources.iter().flat_map(|source| &source.parts);
    parts.filter(|part| part.splits == [split]).filter_map(|part| part.expected).sum()
}

/// The collections as their authors ship them, two pairs of each part.
#[test]
fn the_native_collections_build() {
    let collection = Collection::new(2);
    let folder = collection.output("raw_44k");
    let parts = [
        ("DIS5K/DIS-TR/im", "DIS5K/DIS-TR/gt"),
        ("DIS5K/DIS-VD/im", "DIS5K/DIS-VD/gt"),
        ("DIS5K/DIS-TE1/im", "DIS5K/DIS-TE1/gt"),
        ("FSS-1000/fewshot_data/abacus", "FSS-1000/fewshot_data/abacus"),
        ("DUTS/DUTS-TR/DUTS-TR-Image", "DUTS/DUTS-TR/DUTS-TR-Mask"),
        ("DUTS/DUTS-TE/DUTS-TE-Image", "DUTS/DUTS-TE/DUTS-TE-Mask"),
        ("ECSSD/images", "ECSSD/ground_truth_mask"),
        ("MSRA10K/Imgs", "MSRA10K/Imgs"),
        ("thin_object/COIFT/images", "thin_object/COIFT/masks"),
        ("thin_object/HRSOD/images", "thin_object/HRSOD/masks"),
        ("thin_object/ThinObject5K/images", "thin_object/ThinObject5K/masks"),
    ];
    lay_out(&collection, &folder, &parts);
    for (list, names) in [
        ("COIFT/list/test", "a name 0\na name 1\n"),
        ("HRSOD/list/test", "a name 0\na name 1\n"),
        ("ThinObject5K/list/train", "a name 0.png\n"),
        ("ThinObject5K/list/test", "a name 1.png\n"),
    ] {
        let path = folder.join(format!("thin_object/{list}.txt"));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, names).unwrap();
    }
    let config = configured("hqseg44k.toml", "data/raw", &folder, &collection);
    let report = pipeline::build(&config).unwrap();
    assert_eq!((rows(&report, "train"), rows(&report, "val"), report.refused), (13, 7, 0));
    assert_eq!((announced(&report, "train"), announced(&report, "val")), (44_320, 470));
    let parts: Vec<(&str, &str, u64, Option<u64>)> = report
        .sources
        .iter()
        .flat_map(|source| source.parts.iter().map(|part| (source.name.as_str(), part)))
        .map(|(source, part)| (source, part.name.as_str(), part.found, part.expected))
        .collect();
    let expected = [
        ("DIS5K", "DIS-TR", 2, Some(3000)),
        ("DIS5K", "DIS-VD", 2, Some(470)),
        ("ThinObject5K", "train", 1, Some(4748)),
        ("ThinObject5K", "test", 1, None),
        ("FSS-1000", "", 2, Some(10_000)),
        ("DUTS", "DUTS-TR", 2, Some(10_553)),
        ("DUTS", "DUTS-TE", 2, Some(5019)),
        ("ECSSD", "", 2, Some(1000)),
        ("MSRA10K", "", 2, Some(10_000)),
        ("COIFT", "test", 2, None),
        ("HRSOD", "test", 2, None),
    ];
    assert_eq!(parts, expected);
    let of =
        |name: &str| report.sources.iter().find(|source| source.name == name).unwrap().expected;
    assert_eq!([of("DIS5K"), of("DUTS"), of("ThinObject5K")], [Some(3470), Some(15_572), None]);
    for file in [PAGE_FILE, CARD_FILE] {
        let text = std::fs::read_to_string(collection.output("out").join(file)).unwrap();
        assert!(text.contains("DIS-VD") && text.contains("470"), "{file}");
    }
}

/// The archives that the published trainer reads, two pairs of each.
#[test]
fn the_repackaged_archives_build() {
    let collection = Collection::new(2);
    let folder = collection.output("sam_hq");
    let parts = [
        ("DIS5K/DIS-TR/im", "DIS5K/DIS-TR/gt"),
        ("DIS5K/DIS-VD/im", "DIS5K/DIS-VD/gt"),
        ("cascade_psp/DUTS-TR", "cascade_psp/DUTS-TR"),
        ("cascade_psp/DUTS-TE", "cascade_psp/DUTS-TE"),
        ("cascade_psp/ecssd", "cascade_psp/ecssd"),
        ("cascade_psp/fss_all", "cascade_psp/fss_all"),
        ("cascade_psp/MSRA_10K", "cascade_psp/MSRA_10K"),
        ("thin_object_detection/COIFT/images", "thin_object_detection/COIFT/masks"),
        ("thin_object_detection/HRSOD/images", "thin_object_detection/HRSOD/masks_max255"),
        (
            "thin_object_detection/ThinObject5K/images_train",
            "thin_object_detection/ThinObject5K/masks_train",
        ),
        (
            "thin_object_detection/ThinObject5K/images_test",
            "thin_object_detection/ThinObject5K/masks_test",
        ),
    ];
    lay_out(&collection, &folder, &parts);
    let mut config = configured("hqseg44k_repackaged.toml", "data/sam_hq", &folder, &collection);
    let report = pipeline::build(&config).unwrap();
    assert_eq!((report.rows, report.refused), (22, 0));
    assert_eq!((rows(&report, "train"), rows(&report, "val")), (14, 8));
    assert_eq!((announced(&report, "train"), announced(&report, "val")), (44_320, 470));
    let sum: u64 = report.sources.iter().filter_map(|source| source.expected).sum();
    assert_eq!(sum, 44_320 + 470, "the published training counts, and DIS-VD");

    // The mislabelled pair of MSRA10K is refused here too.
    for (from, kind) in [(collection.image(0), "jpg"), (collection.mask(0), "png")] {
        std::fs::copy(from, folder.join(format!("cascade_psp/MSRA_10K/97915.{kind}"))).unwrap();
    }
    config.max_rejected_fraction = 0.5;
    let report = pipeline::build(&config).unwrap();
    assert_eq!((report.rows, report.refused), (22, 1));
    let msra = report.sources.iter().find(|source| source.name == "MSRA10K").unwrap();
    assert_eq!(msra.refused["known_bad"], 1);
}
