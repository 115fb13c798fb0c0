//! Real collections, where they are at hand: `HQSAM_RAW_DIR`, by default `../shared/raw` beside
//! the repository.

use std::path::PathBuf;

use dataset::order::World;
use pipeline::build::recognise;
use pipeline::{BuildConfig, Dataset, EvalStream, build};

fn raw_folder() -> Option<PathBuf> {
    let beside = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/raw");
    let folder = std::env::var_os("HQSAM_RAW_DIR").map_or_else(beside, PathBuf::from);
    if folder.is_dir() {
        return Some(folder);
    }
    println_skipped(&folder);
    None
}

#[expect(clippy::print_stdout, reason = "a skipped test says so")]
fn println_skipped(folder: &std::path::Path) {
    println!("skipped: {} is not there (set HQSAM_RAW_DIR)", folder.display());
}

#[test]
fn real_collections_are_recognised_built_and_read() {
    let Some(raw) = raw_folder() else { return };
    let mut sources = recognise(&raw, 0.2).unwrap();
    assert!(!sources.is_empty());
    // The whole of ECSSD is for a release build.
    sources.retain(|source| source.name != "ECSSD");
    let output = tempfile::tempdir().unwrap();
    let mut config = BuildConfig::new(output.path().join("out").to_string_lossy(), sources);
    config.max_rejected_fraction = 0.9;
    let report = build(&config).unwrap();
    let dataset = std::sync::Arc::new(Dataset::open(&config.output).unwrap());
    let mut rows = 0;
    for split in ["train", "val"] {
        let world = World::new(0, 1).unwrap();
        for sample in
            EvalStream::new(std::sync::Arc::clone(&dataset), split, world, 0, None).unwrap()
        {
            let sample = sample.unwrap();
            assert!(sample.mask.foreground_pixels() > 0, "{}", sample.sample_id);
            rows += 1;
        }
    }
    assert_eq!(rows, report.rows);
}
