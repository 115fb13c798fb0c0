//! What must be the same on every rank, and between a run and the checkpoint it goes on from.

use std::collections::BTreeMap;

use toml::Value;

/// Settings that may change between a checkpoint and the run that goes on from it: they say where
/// things lie, how long to go on and what to watch, not what a step computes. Files are compared by
/// their hashes.
const FREE: [&str; 17] = [
    "output",
    "work_dir",
    "model.checkpoint",
    "model.hq_checkpoint",
    "data.path",
    "data.threads",
    "data.prefetch_batches",
    "eval",
    "train.epochs",
    "train.world_size",
    "train.micro_batch",
    "train.collective_timeout_secs",
    "train.encode_ahead",
    "train.keep_last",
    "train.keep_best",
    "train.check_parameters_every_steps",
    "train.on_non_finite",
];
/// The same by the beginning of the key.
const FREE_BEGINNINGS: [&str; 3] = ["eval.", "train.checkpoint_every_", "train.cache_"];

/// What is compared key by key.
pub(super) const CONFIGURATION: &str = "configuration";

/// The program, for comparisons: version and the hash of its file.
pub(super) fn program() -> String {
    let file = std::env::current_exe().and_then(|path| crate::run::file_sha256(&path));
    format!("{} {}", env!("CARGO_PKG_VERSION"), file.unwrap_or_default())
}

/// Keys of two resolved configurations that differ, with both values: `train.lr was 0.001 and is now
/// 0.01`. With `resuming`, keys that may change and keys that the older one did not have are left out.
pub(super) fn differences(saved: &str, now: &str, resuming: bool) -> Vec<String> {
    let (saved, now) = (flat(saved), flat(now));
    let is_free = |key: &str| {
        resuming
            && (FREE.contains(&key) || FREE_BEGINNINGS.iter().any(|start| key.starts_with(start)))
    };
    let mut keys: Vec<&String> = saved.keys().chain(now.keys()).collect();
    keys.sort();
    keys.dedup();
    let shown = |value: Option<&String>| value.map_or("not set", String::as_str).to_owned();
    keys.into_iter()
        .filter(|key| saved.get(*key) != now.get(*key) && !is_free(key))
        .filter(|key| !resuming || saved.contains_key(*key))
        .map(|key| {
            format!("{key} was {} and is now {}", shown(saved.get(key)), shown(now.get(key)))
        })
        .collect()
}

/// Values by dotted key; lists as their text.
fn flat(toml: &str) -> BTreeMap<String, String> {
    let mut values = BTreeMap::new();
    if let Ok(table) = toml.parse::<toml::Table>() {
        collect("", &Value::Table(table), &mut values);
    }
    values
}

fn collect(prefix: &str, value: &Value, values: &mut BTreeMap<String, String>) {
    let Value::Table(table) = value else {
        values.insert(prefix.to_owned(), value.to_string());
        return;
    };
    for (key, value) in table {
        let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        collect(&key, value, values);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_named_with_both_values_and_free_keys_are_free() {
        let saved = "output = 'a'\n[train]\nlr = 0.001\nepochs = 2\n[augment]\nscale = [0.1, 2.0]";
        let now =
            "output = 'b'\n[train]\nlr = 0.01\nepochs = 4\nnew = 1\n[augment]\nscale = [0.1, 3.0]";
        assert_eq!(
            differences(saved, now, true),
            [
                "augment.scale was [0.1, 2.0] and is now [0.1, 3.0]",
                "train.lr was 0.001 and is now 0.01"
            ]
        );
        assert_eq!(differences(saved, now, false).len(), 5);
        assert!(differences(saved, saved, false).is_empty());
    }
}
