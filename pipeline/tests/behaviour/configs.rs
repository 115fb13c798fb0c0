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
