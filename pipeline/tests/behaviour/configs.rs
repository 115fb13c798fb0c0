//! The build configurations that ship with the repository.

use std::path::Path;

use pipeline::config::parse_config;
use pipeline::{BuildConfig, load_config};

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
    let collection = crate::support::Collection::new(4);
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

/// The archives that the published trainer reads, two pairs of each.
#[test]
fn the_repackaged_archives_build() {
    let collection = crate::support::Collection::new(2);
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
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/hqseg44k_repackaged.toml");
    let mut config: BuildConfig = load_config(&path, &[]).unwrap();
    config.output = collection.output("out").to_string_lossy().into_owned();
    for source in &mut config.source {
        source.root = folder.join(source.root.strip_prefix("data/sam_hq").unwrap());
    }
    let report = pipeline::build(&config).unwrap();
    assert_eq!((report.rows, report.refused), (22, 0));
    let rows = |split: &str| -> u64 {
        report.sources.iter().filter_map(|source| source.rows.get(split)).sum()
    };
    assert_eq!((rows("train"), rows("val")), (14, 8));
    let announced: u64 = report.sources.iter().filter_map(|source| source.expected).sum();
    assert_eq!(announced, 44_320 + 470, "the published training counts, and DIS-VD");
}
