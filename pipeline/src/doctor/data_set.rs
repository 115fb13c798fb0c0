//! A built data set: is its manifest whole and are its shards all there.

use std::path::Path;

use futures::StreamExt;
use object_store::ObjectStoreExt;

use super::{Check, Status, size, store};
use crate::shard::ShardReader;
use crate::stream::Dataset;

/// Shards looked at together.
const SHARDS_AT_ONCE: usize = 32;
/// Missing or odd shards named in the message.
const SHARDS_NAMED: usize = 3;

pub(super) fn checks(location: &str) -> Vec<Check> {
    let mut checks = Vec::new();
    if location.contains("://") {
        checks.extend(store::checks(location, false));
        // Without the store the rest would only say so again.
        if checks.iter().any(|check| check.status == Status::Error) {
            return checks;
        }
    }
    let dataset = match Dataset::open(location) {
        Ok(dataset) => dataset,
        Err(error) => {
            checks.push(Check::error("manifest", error.to_string()));
            return checks;
        }
    };
    let manifest = dataset.manifest();
    checks.push(Check::ok(
        "manifest",
        format!(
            "{} rows in {} splits, {}",
            manifest.num_samples(),
            manifest.splits.len(),
            size(manifest.num_bytes())
        ),
    ));
    checks.push(shards(&dataset, location));
    let staging = Path::new(location).join(".staging");
    if staging.is_dir() {
        checks.push(Check::warning(
            "staging",
            format!(
                "{} is left of a build that did not end: run that `hqseg build` again",
                staging.display()
            ),
        ));
    }
    checks
}

/// Looks at the size of every shard; `hqseg verify` reads them.
fn shards(dataset: &Dataset, location: &str) -> Check {
    let shards = dataset.shards();
    let readers = shards.splits.values().flat_map(|split| &split.readers);
    let looks = futures::stream::iter(readers.map(look)).buffered(SHARDS_AT_ONCE);
    let looks: Vec<Option<String>> = dataset.runtime().block_on(looks.collect());
    let (all, odd): (usize, Vec<String>) = (looks.len(), looks.into_iter().flatten().collect());
    if odd.is_empty() {
        return Check::ok(
            "shards",
            format!("all {all} there in full size; `hqseg verify {location}` reads them"),
        );
    }
    let named = odd[..odd.len().min(SHARDS_NAMED)].join("; ");
    Check::error(
        "shards",
        format!("{} of {all} are not whole ({named}): copy or build the data set again", odd.len()),
    )
}

async fn look(reader: &ShardReader) -> Option<String> {
    let (store, key) = reader.place();
    let info = reader.info();
    match store.head(key).await {
        Ok(meta) if meta.size == info.bytes => None,
        Ok(meta) => {
            Some(format!("{} has {} bytes, the manifest says {}", info.path, meta.size, info.bytes))
        }
        Err(object_store::Error::NotFound { .. }) => Some(format!("{} is missing", info.path)),
        Err(error) => Some(format!("{}: {error}", info.path)),
    }
}
