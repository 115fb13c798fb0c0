//! Shards opened by the libraries that people have: Hugging Face's `datasets` and DuckDB, in the
//! Python of `HQSAM_PYTHON`, by default `.venv/bin/python` (`make setup-python`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use dataset::source::SplitRule;
use serde_json::Value;

use crate::support::Collection;

#[expect(clippy::print_stdout, reason = "a skipped test says so")]
fn python() -> Option<PathBuf> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../.venv/bin/python");
    let given = std::env::var_os("HQSAM_PYTHON").map(PathBuf::from);
    let path = given.clone().unwrap_or_else(beside);
    if path.exists() {
        return Some(path);
    }
    assert_eq!(given, None, "HQSAM_PYTHON names no file");
    println!("skipped: {} does not exist (set HQSAM_PYTHON)", path.display());
    None
}

#[test]
fn datasets_and_duckdb_read_the_same_rows() {
    let Some(python) = python() else { return };
    let collection = Collection::new(30);
    let mut config = collection.config("out");
    // A name that no split of `datasets` may have, and that starts like another.
    let lists = [("train", 0..18), ("val", 18..24), ("val-hard", 24..30)];
    for (split, range) in lists.clone() {
        let names: String = range.map(|index| format!("{index:04}\n")).collect();
        std::fs::write(collection.raw().join(format!("{split}.txt")), names).unwrap();
    }
    let rule = lists.map(|(split, _)| (split.to_owned(), format!("{split}.txt").into()));
    config.source[0].split = SplitRule::Lists(rule.into());
    let report = pipeline::build(&config).unwrap();
    assert!(report.shards > 4, "{report:?}");

    let output = Command::new(python)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/open_shards.py"))
        .arg(collection.output("out"))
        .env("HF_HUB_OFFLINE", "1")
        .env("HF_HUB_DISABLE_TELEMETRY", "1")
        .env("HF_HOME", collection.output("cache"))
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();

    let dataset = collection.open("out");
    let ids = |split: &str| -> Vec<String> {
        let rows = dataset.num_samples(split).unwrap();
        (0..rows).map(|row| dataset.read_stored(split, row).unwrap().sample_id).collect()
    };
    let ids: BTreeMap<&str, Vec<String>> =
        [("train", ids("train")), ("val", ids("val")), ("val_hard", ids("val-hard"))].into();
    let sizes: Vec<usize> = ids.values().map(Vec::len).collect();
    assert_eq!(sizes, [18, 6, 6]);
    for way in ["parquet", "card", "streamed parquet", "streamed card", "duckdb"] {
        assert_eq!(found[way], serde_json::json!(ids), "{way}");
    }
    assert_eq!(found["card rows"], serde_json::json!({"train": 18, "val": 6, "val_hard": 6}));
    let counts: Vec<u64> = found["duckdb counts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row[2].as_u64().unwrap())
        .collect();
    assert_eq!(counts, [18, 6, 6]);
}

/// What `docs/python.md` tells people to type.
#[test]
fn the_documented_blocks_read_a_data_set() {
    let Some(python) = python() else { return };
    let collection = Collection::new(12);
    pipeline::build(&collection.config("data/mine")).unwrap();
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/python.md");
    let text = std::fs::read_to_string(page).unwrap();
    let reading = text.split("\n## ").find(|part| part.starts_with("Reading")).unwrap();
    let blocks: Vec<&str> = reading
        .split("```python\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap())
        .collect();
    assert_eq!(blocks.len(), 4);
    for block in blocks {
        let output = Command::new(&python)
            .args(["-c", block])
            .current_dir(collection.folder.path())
            .env("HF_HUB_OFFLINE", "1")
            .env("HF_HOME", collection.output("cache"))
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{block}\n{stderr}");
    }
}
