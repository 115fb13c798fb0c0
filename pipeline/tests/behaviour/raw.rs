//! Real collections, where they are at hand: `HQSAM_RAW_DIR`, by default `../shared/raw` beside
//! the repository.

use std::path::{Path, PathBuf};

use dataset::order::World;
use pipeline::build::{QUARANTINE_FILE, recognise};
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

/// The JPEG files below a folder: what every collection here has its images in.
fn photographs(folder: &Path) -> u64 {
    let count = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            return photographs(&path);
        }
        let extension = path.extension().unwrap_or_default().to_ascii_lowercase();
        u64::from(extension == "jpg" || extension == "jpeg")
    };
    std::fs::read_dir(folder).unwrap().map(count).sum()
}

#[test]
fn real_collections_are_recognised_built_and_read() {
    let Some(raw) = raw_folder() else { return };
    let sources = recognise(&raw, 0.2).unwrap();
    assert!(!sources.is_empty());
    let pictures: Vec<(String, u64)> =
        sources.iter().map(|source| (source.name.clone(), photographs(&source.root))).collect();
    let output = tempfile::tempdir().unwrap();
    let config = BuildConfig::new(output.path().join("out").to_string_lossy(), sources);
    let report = build(&config).unwrap();
    // Every photograph there is a row, but for those that are known to be bad in every download.
    let quarantine = output.path().join("out").join(QUARANTINE_FILE);
    let refused = std::fs::read_to_string(quarantine).unwrap();
    for source in &report.sources {
        let bad = format!("\"source\":\"{}\"", source.name);
        let bad = refused.lines().filter(|line| line.contains(&bad));
        let bad = bad.filter(|line| line.contains("as in every download")).count() as u64;
        let rows: u64 = source.rows.values().sum();
        assert!(pictures.contains(&(source.name.clone(), rows + bad)), "{source:?} {pictures:?}");
    }
    assert_eq!(report.sources.len(), pictures.len());
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
    let bad = refused.lines().count() as u64;
    assert_eq!(rows + bad, pictures.iter().map(|(_, count)| count).sum::<u64>());
}
