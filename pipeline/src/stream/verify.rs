//! Compares the shards of a data set with the digests in its manifest.

use futures::TryStreamExt;
use object_store::ObjectStoreExt;
use sha2::{Digest, Sha256};

use super::Dataset;
use crate::digest::hex;
use crate::manifest::ShardInfo;
use crate::shard::ShardReader;

/// A shard that is not the one the manifest describes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DamagedShard {
    /// Its path in the data set.
    pub path: String,
    /// What is wrong.
    pub message: String,
}

/// Reads every shard of `dataset` to its end and returns those that are missing or changed.
/// `on_shard` is called after each one. Blocks; not for async code.
pub fn verify(dataset: &Dataset, mut on_shard: impl FnMut(&ShardInfo)) -> Vec<DamagedShard> {
    let shards = dataset.shards();
    let mut damaged = Vec::new();
    for reader in shards.splits.values().flat_map(|split| &split.readers) {
        if let Err(message) = dataset.runtime().block_on(verify_shard(reader)) {
            damaged.push(DamagedShard { path: reader.info().path.clone(), message });
        }
        on_shard(reader.info());
    }
    damaged
}

async fn verify_shard(reader: &ShardReader) -> Result<(), String> {
    let (store, key) = reader.place();
    let mut pieces = store.get(key).await.map_err(|error| error.to_string())?.into_stream();
    let (mut digest, mut bytes) = (Sha256::new(), 0);
    while let Some(piece) = pieces.try_next().await.map_err(|error| error.to_string())? {
        digest.update(&piece);
        bytes += piece.len() as u64;
    }
    let (info, sha256) = (reader.info(), hex(&digest.finalize()));
    if bytes != info.bytes {
        return Err(format!("{bytes} bytes, the manifest says {}", info.bytes));
    }
    if sha256 != info.sha256 {
        return Err(format!("sha256 is {sha256}, the manifest says {}", info.sha256));
    }
    Ok(())
}
