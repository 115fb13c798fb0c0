//! A finished data set, opened for reading.

use std::collections::BTreeMap;
use std::sync::Arc;

use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt};
use tokio::runtime::Runtime;

use super::cache::RowCache;
use super::{StreamError, location};
use crate::digest::sha256;
use crate::manifest::{MANIFEST_FILE, Manifest, ShardInfo};
use crate::shard::{ShardError, ShardReader, StoredSample};
use crate::store;

/// Threads that wait for storage. Requests in flight are bounded by the streams, not by these.
const IO_THREADS: usize = 2;

/// A data set that has a manifest. Opening reads the manifest; shards are read on demand and
/// their footers are kept. Streams share one `Arc<Dataset>`.
pub struct Dataset {
    shards: Arc<Shards>,
    manifest: Manifest,
    manifest_sha256: String,
    runtime: Option<Runtime>,
}

/// What a stream's tasks hold. Apart from the runtime: a task must not be the last owner of the
/// runtime it runs on.
pub(crate) struct Shards {
    pub(super) location: String,
    pub(crate) splits: BTreeMap<String, SplitShards>,
    cache: Option<Arc<RowCache>>,
}

pub(crate) struct SplitShards {
    /// First row of each shard, and the number of rows as the last entry.
    starts: Vec<u64>,
    pub(crate) readers: Vec<ShardReader>,
}

/// A row of a split and where it lies.
#[derive(Clone, Debug)]
pub(super) struct Fetched {
    pub(super) split_row: u64,
    pub(super) shard: String,
    pub(super) shard_row: u64,
    pub(super) sample: StoredSample,
}

impl Dataset {
    /// Opens a data set: its folder, its URL, or the `.toml` build configuration it came from
    /// (whose `output` is used). One at a URL uses the row cache that the environment names, see
    /// [`CACHE_DIR_VARIABLE`](super::CACHE_DIR_VARIABLE).
    ///
    /// # Errors
    /// [`StreamError`] when there is no finished data set or its manifest makes no sense, or when
    /// the cache cannot be used.
    pub fn open(location: &str) -> Result<Self, StreamError> {
        Self::open_configured(location, &[])
    }

    /// As [`Dataset::open`], with settings of the build configuration overridden, see
    /// [`crate::load_config`].
    ///
    /// # Errors
    /// As [`Dataset::open`]; also for overrides where `location` is no configuration.
    pub fn open_configured(location: &str, overrides: &[String]) -> Result<Self, StreamError> {
        let place = location::resolve(location, overrides)?;
        let remote = store::is_remote(&place.name);
        let cache = match remote {
            true => RowCache::from_env().map_err(|message| StreamError::Location {
                location: place.name.clone(),
                message,
            })?,
            false => None,
        };
        Self::open_with(place.store, place.base, place.name, cache)
    }

    /// Opens the data set under the key `base` of a store; `name` is what errors call it.
    ///
    /// # Errors
    /// As [`Dataset::open`].
    pub fn open_in(
        store: Arc<dyn ObjectStore>,
        base: Key,
        name: String,
    ) -> Result<Self, StreamError> {
        Self::open_with(store, base, name, None)
    }

    fn open_with(
        store: Arc<dyn ObjectStore>,
        base: Key,
        name: String,
        cache: Option<RowCache>,
    ) -> Result<Self, StreamError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(IO_THREADS)
            .thread_name("hqseg-io")
            .enable_all()
            .build()
            .map_err(|error| StreamError::Broken {
                location: name.clone(),
                message: format!("cannot start threads: {error}"),
            })?;
        let bytes = runtime.block_on(read_manifest(&*store, &base, &name))?;
        let manifest = Manifest::parse(&bytes)
            .map_err(|message| StreamError::Manifest { location: name.clone(), message })?;
        let splits = manifest
            .splits
            .iter()
            .map(|(split, info)| (split.clone(), SplitShards::new(&store, &base, &info.shards)))
            .collect();
        Ok(Self {
            shards: Arc::new(Shards { location: name, splits, cache: cache.map(Arc::new) }),
            manifest,
            manifest_sha256: sha256(&bytes),
            runtime: Some(runtime),
        })
    }

    /// What the data set holds.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Hexadecimal digest of the manifest file: two data sets with the same digest hold the same
    /// shards, because the manifest holds theirs.
    #[must_use]
    pub fn manifest_sha256(&self) -> String {
        self.manifest_sha256.clone()
    }

    /// Names of the splits, sorted.
    pub fn splits(&self) -> impl Iterator<Item = &str> {
        self.manifest.splits.keys().map(String::as_str)
    }

    /// Rows of a split.
    ///
    /// # Errors
    /// [`StreamError::UnknownSplit`], which lists the splits there are.
    pub fn num_samples(&self, split: &str) -> Result<u64, StreamError> {
        match self.manifest.splits.get(split) {
            Some(info) => Ok(info.num_samples),
            None => Err(StreamError::UnknownSplit {
                location: self.location().to_owned(),
                split: split.to_owned(),
                available: match self.manifest.splits.len() {
                    0 => "none".to_owned(),
                    _ => self.splits().collect::<Vec<_>>().join(", "),
                },
            }),
        }
    }

    /// Fetches one row as stored, checksums not yet verified. Blocks; not for async code.
    ///
    /// # Errors
    /// [`StreamError`] for an unknown split or a failed read.
    ///
    /// # Panics
    /// When `row` is not below [`Dataset::num_samples`].
    pub fn read_stored(&self, split: &str, row: u64) -> Result<StoredSample, StreamError> {
        self.num_samples(split)?;
        Ok(self.runtime().block_on(self.shards.fetch(split, row))?.sample)
    }

    /// The folder or URL that it was opened from: of a build configuration, its output.
    #[must_use]
    pub fn location(&self) -> &str {
        &self.shards.location
    }

    pub(crate) fn shards(&self) -> Arc<Shards> {
        Arc::clone(&self.shards)
    }

    pub(crate) fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().expect("taken only by drop")
    }
}

impl Drop for Dataset {
    fn drop(&mut self) {
        // The plain drop would wait for reads that nobody wants any more.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn read_manifest(
    store: &dyn ObjectStore,
    base: &Key,
    name: &str,
) -> Result<bytes::Bytes, StreamError> {
    let unreadable = |error: object_store::Error| match error {
        object_store::Error::NotFound { .. } => StreamError::NotBuilt { location: name.to_owned() },
        error => StreamError::Manifest { location: name.to_owned(), message: error.to_string() },
    };
    let key = base.clone().join(MANIFEST_FILE);
    store.get(&key).await.map_err(unreadable)?.bytes().await.map_err(unreadable)
}

impl SplitShards {
    fn new(store: &Arc<dyn ObjectStore>, base: &Key, shards: &[ShardInfo]) -> Self {
        let mut starts = vec![0];
        let mut readers = Vec::with_capacity(shards.len());
        for info in shards {
            starts.push(starts[starts.len() - 1] + info.rows);
            let key = Key::from_iter(base.parts().chain(Key::from(info.path.as_str()).parts()));
            readers.push(ShardReader::new(Arc::clone(store), key, info.clone()));
        }
        Self { starts, readers }
    }
}

impl Shards {
    /// Fetches row `split_row` of a split that exists and has that row.
    pub(super) async fn fetch(&self, split: &str, split_row: u64) -> Result<Fetched, StreamError> {
        let (reader, shard_row) = self.locate(split, split_row);
        fetched((split_row, reader, shard_row), self.read(reader, shard_row).await)
    }

    /// Fetches a row from where the shards are, though the cache may have it: what it had was wrong.
    pub(super) async fn fetch_again(
        &self,
        split: &str,
        split_row: u64,
    ) -> Result<Fetched, StreamError> {
        let (reader, shard_row) = self.locate(split, split_row);
        if let Some(cache) = &self.cache {
            let (kept, info) = (Arc::clone(cache), reader.info().clone());
            // A file that stays is found to be damaged by whoever reads it.
            let _gone = tokio::task::spawn_blocking(move || kept.forget(&info, shard_row)).await;
        }
        fetched((split_row, reader, shard_row), self.read_and_keep(reader, shard_row).await)
    }

    /// The shard of a row of a split, and the row in it.
    fn locate(&self, split: &str, split_row: u64) -> (&ShardReader, u64) {
        let split = &self.splits[split];
        let index = split.starts.partition_point(|start| *start <= split_row) - 1;
        (&split.readers[index], split_row - split.starts[index])
    }

    /// From the cache, where there is one and it has the row.
    async fn read(&self, reader: &ShardReader, row: u64) -> Result<StoredSample, ShardError> {
        if let Some(cache) = &self.cache {
            let (kept, shard) = (Arc::clone(cache), reader.info().clone());
            // The disk may be slow: not on a thread that other reads wait for. A panic is a miss.
            let found = tokio::task::spawn_blocking(move || kept.get(&shard, row)).await;
            if let Ok(Some(sample)) = found {
                return Ok(sample);
            }
        }
        self.read_and_keep(reader, row).await
    }

    /// From where the shards are; the cache keeps it.
    async fn read_and_keep(
        &self,
        reader: &ShardReader,
        row: u64,
    ) -> Result<StoredSample, ShardError> {
        let sample = reader.read(row).await?;
        if let Some(cache) = &self.cache {
            let (kept, copy) = (Arc::clone(cache), sample.clone());
            let info = reader.info().clone();
            let _kept_or_not =
                tokio::task::spawn_blocking(move || kept.put(&info, row, &copy)).await;
        }
        Ok(sample)
    }
}

fn fetched(
    (split_row, reader, shard_row): (u64, &ShardReader, u64),
    read: Result<StoredSample, ShardError>,
) -> Result<Fetched, StreamError> {
    let shard = reader.info().path.clone();
    match read {
        Ok(sample) => Ok(Fetched { split_row, shard, shard_row, sample }),
        Err(source) => Err(StreamError::Read { shard, row: shard_row, source }),
    }
}
