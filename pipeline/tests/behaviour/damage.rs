//! Damaged shards, manifests and configurations: a result or an error, never a panic.
//!
//! A few thousand damages in every run of the tests, the same each time; `scripts/fuzz.sh` looks
//! further, with the same files as its seeds.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use dataset::rng::{Draw, sample_rng};
use object_store::memory::InMemory;
use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};
use pipeline::config::parse_config;
use pipeline::shard::ShardError;
use pipeline::stats::stats;
use pipeline::stream::{VerifyOptions, verify};
use pipeline::{BuildConfig, Dataset, Manifest, StreamError};
use rand::{Rng, RngExt};

use crate::process::hqseg;

fn seed(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds");
    std::fs::read(folder.join(name)).unwrap()
}

/// The bytes with one to four of: a byte changed, a bit flipped, a part cut out, a part doubled,
/// the end cut off.
fn damaged(bytes: &[u8], rng: &mut impl Rng) -> Vec<u8> {
    let mut damaged = bytes.to_vec();
    for _ in 0..rng.random_range(1..=4) {
        if damaged.is_empty() {
            break;
        }
        let at = rng.random_range(0..damaged.len());
        let end = (at + rng.random_range(1..=16)).min(damaged.len());
        match rng.random_range(0..8) {
            0 => drop(damaged.drain(at..end)),
            1 => {
                let part = damaged[at..end].to_vec();
                damaged.splice(at..at, part);
            }
            2 => damaged.truncate(at),
            3 => damaged[at] ^= 1 << rng.random_range(0..8),
            _ => damaged[at] = rng.random(),
        }
    }
    damaged
}

#[test]
fn damaged_manifests_are_manifests_or_errors() {
    let whole = seed("manifest/two.json");
    assert!(Manifest::parse(&whole).is_ok());
    let mut rng = sample_rng(1, 0, "manifest", Draw::Augment);
    for _ in 0..5000 {
        if let Ok(manifest) = Manifest::parse(&damaged(&whole, &mut rng)) {
            assert_eq!(Manifest::parse(&manifest.to_bytes()).as_ref(), Ok(&manifest));
        }
    }
}

#[test]
fn damaged_configurations_are_configurations_or_errors_that_name_the_file() {
    let mut rng = sample_rng(1, 0, "config", Draw::Augment);
    for name in ["config/small.toml", "config/override.toml"] {
        let whole = seed(name);
        for _ in 0..2500 {
            let text = String::from_utf8_lossy(&damaged(&whole, &mut rng)).into_owned();
            let (text, argument) = text.split_once('\0').unwrap_or((&text, "threads=1"));
            let path = PathBuf::from("build.toml");
            let overrides = [argument.to_owned()];
            if let Err(error) = parse_config::<BuildConfig>(&path, text, &overrides) {
                let message = error.to_string();
                assert!(message.contains("build.toml") || message.contains("--set"), "{message}");
            }
        }
    }
}

#[test]
fn damaged_shards_give_rows_or_errors() {
    let whole = seed("shard/two.parquet");
    let mut rng = sample_rng(1, 0, "shard", Draw::Augment);
    let (mut read, mut damage) = (0, 0);
    for round in 0..2000 {
        let bytes = if round == 0 { whole.clone() } else { damaged(&whole, &mut rng) };
        let dataset = in_memory(&bytes);
        for row in 0..2 {
            match dataset.read_stored("train", row) {
                Ok(_) => read += 1,
                Err(StreamError::Read { source: ShardError::Damaged { .. }, .. }) => damage += 1,
                Err(error) => assert!(error.to_string().contains("shards/a.parquet"), "{error}"),
            }
        }
    }
    // Damage to columns and statistics that a stream does not read changes nothing; some of the
    // rest makes the Parquet library break down.
    assert!(read > 100 && damage > 0, "{read} rows read, {damage} break-downs");
}

/// The shard with other bits in its footer, which names all that the library goes by.
fn damaged_footer(whole: &[u8], rng: &mut impl Rng) -> Vec<u8> {
    let mut damaged = whole.to_vec();
    let (end, length) = (whole.len() - 8, whole.len() - 4);
    let footer = u32::from_le_bytes(whole[end..length].try_into().unwrap()) as usize;
    for _ in 0..rng.random_range(1..=3) {
        damaged[rng.random_range(end - footer..whole.len())] ^= 1 << rng.random_range(0..8);
    }
    damaged
}

#[test]
fn damaged_footers_are_errors_of_every_reader() {
    let whole = seed("shard/two.parquet");
    let mut rng = sample_rng(2, 0, "footer", Draw::Augment);
    let options = VerifyOptions { decode: true, threads: 1 };
    let folder = tempfile::tempdir().unwrap();
    let mut breakdowns = 0;
    for _ in 0..3000 {
        let bytes = damaged_footer(&whole, &mut rng);
        let dataset = in_memory(&bytes);
        let found = stats(&dataset, || {});
        if let Err(error) = &found {
            assert!(error.to_string().contains("shards/a.parquet"), "{error}");
        }
        // The manifest has another digest, so that rows are looked at in any case.
        let shards = verify(&dataset, &options, |_| true, |_, _| {}, |_| {}).unwrap();
        assert_eq!(shards.len(), 1);
        if matches!(found, Err(StreamError::Columns(ShardError::Damaged { .. }))) {
            breakdowns += 1;
            if breakdowns <= 3 {
                program_tells(folder.path(), &bytes);
            }
        }
    }
    assert!(breakdowns > 0, "the library never broke down");
}

/// The program says in one line what the library broke down over.
fn program_tells(folder: &Path, bytes: &[u8]) {
    let shard = serde_json::json!(
        {"path": "shards/a.parquet", "rows": 2, "bytes": bytes.len(), "sha256": ""}
    );
    std::fs::create_dir_all(folder.join("shards")).unwrap();
    std::fs::write(folder.join("manifest.json"), manifest(&shard)).unwrap();
    std::fs::write(folder.join("shards/a.parquet"), bytes).unwrap();
    for command in ["stats", "inspect", "verify"] {
        let output = hqseg(&[command, &folder.to_string_lossy()]).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        // A row that is asked for alone may be whole.
        let fine = command == "inspect" && output.status.success();
        assert!(fine || output.status.code() == Some(1), "{command}: {stderr}");
        assert!(stderr.lines().count() <= 1 && !stderr.contains("panicked"), "{command}: {stderr}");
    }
}

fn manifest(shard: &serde_json::Value) -> Vec<u8> {
    let manifest = serde_json::json!({
        "schema_version": dataset::schema::SCHEMA_VERSION,
        "sources": {},
        "config": {},
        "splits": {"train": {"num_samples": 2, "shards": [shard]}},
    });
    manifest.to_string().into_bytes()
}

/// A data set whose only shard, of two rows, is `bytes`.
fn in_memory(bytes: &[u8]) -> Dataset {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let shard = serde_json::json!(
        {"path": "shards/a.parquet", "rows": 2, "bytes": bytes.len(), "sha256": ""}
    );
    let files = [("manifest.json", manifest(&shard)), ("shards/a.parquet", bytes.to_vec())];
    futures::executor::block_on(async {
        for (key, bytes) in files {
            store.put(&Key::from(key), PutPayload::from(bytes)).await.unwrap();
        }
    });
    Dataset::open_in(store, Key::default(), "memory".to_owned()).unwrap()
}
