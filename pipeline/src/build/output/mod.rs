//! Where a build collects its files: a folder or a prefix of an object store, laid out alike.
//!
//! ```text
//! shards/train-00000-ecssd-1c9a7e20b4d3.parquet    a whole shard, named after its bytes
//! receipts/train-00000-ecssd-8f14e45fceea167a.json its receipt, named after its key; put after it
//! quarantine.jsonl, report.json, report/           put before the manifest
//! manifest.json                                    put last, on condition that nobody else did
//! .staging/                                        what is unfinished; removed when all is over
//! ```
//!
//! Names that follow from the content are what makes this safe without any coordination: whoever
//! writes a shard a second time writes the same bytes, and no other build can overwrite it. In a
//! folder every file is written beside its place, made durable and renamed; an object store shows
//! an upload only when it is whole.

mod folder;
mod publish;

use std::collections::BTreeMap;
use std::fs::File;
use std::future::Future;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::RecordBatch;
use dataset::order::World;
use futures::{StreamExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt, PutPayload};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::RowSelection;
use parquet::arrow::async_reader::ParquetRecordBatchStreamBuilder;
use tokio::runtime::Runtime;

pub(super) use publish::Published;

use super::BuildError;
use super::plan::ShardPlan;
use super::receipt::Receipt;
use crate::digest::sha256_file;
use crate::shard::{RangeReader, ShardError, WrittenShard};
use crate::store;
use folder::Folder;

/// The part of an output that only a build that is not over has.
pub(super) const STAGING: &str = ".staging";
/// Threads that wait for storage.
const IO_THREADS: usize = 2;
/// Receipts read, or stale files removed, at once.
const REQUESTS_IN_FLIGHT: usize = 16;

/// The output of one rank of a build.
pub(super) struct Output {
    /// The folder or URL itself.
    name: String,
    store: Arc<dyn ObjectStore>,
    base: Key,
    /// Where the output is a folder: object stores' interface has no durable rename.
    folder: Option<Folder>,
    world: World,
    runtime: Runtime,
}

/// A file on which a shard is being written.
pub(super) struct Scratch {
    pub(super) file: File,
    /// What errors call it.
    pub(super) path: PathBuf,
}

/// A stored shard whose columns can be read.
#[derive(Clone)]
pub(super) struct ShardFile {
    reader: RangeReader,
    path: String,
    handle: tokio::runtime::Handle,
}

impl Output {
    /// Opens the folder or URL `location`, and makes the folder.
    pub(super) fn open(location: &str, world: World) -> Result<Self, BuildError> {
        let location = store::without_file_scheme(location);
        let name = location.trim_end_matches('/').to_owned();
        let failed = |message: String| BuildError::Config {
            message: format!("output `{location}`: {message}"),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(IO_THREADS)
            .thread_name("hqseg-io")
            .enable_all()
            .build()
            .map_err(|error| BuildError::Worker { message: error.to_string() })?;
        if location.contains("://") {
            let (store, base) = store::open(&location).map_err(failed)?;
            return Ok(Self { name, store, base, folder: None, world, runtime });
        }
        let folder = Folder::open(Path::new(&location), world.rank)?;
        let store = LocalFileSystem::new_with_prefix(&location)
            .map_err(|error| failed(error.to_string()))?;
        let (store, base) = (Arc::new(store), Key::default());
        Ok(Self { name, store, base, folder: Some(folder), world, runtime })
    }

    /// Keeps other builds on this machine out of a folder. A store needs no lock: it refuses the
    /// second of two manifests.
    pub(super) fn lock(&mut self) -> Result<(), BuildError> {
        let world = self.world;
        self.folder.as_mut().map_or(Ok(()), |folder| folder.lock(world))
    }

    /// A new file for the bytes of a shard. Nobody has to clean up after a killed build: beside a
    /// store it is a file without a name, in a folder it lies in the staging folder.
    pub(super) fn scratch(&self, shard: &ShardPlan) -> Result<Scratch, BuildError> {
        let (path, file) = match &self.folder {
            Some(folder) => {
                let path = folder.partial(&format!("{}-{:.16}", shard.name, shard.key))?;
                (
                    path.clone(),
                    File::options().read(true).write(true).create(true).truncate(true).open(path),
                )
            }
            None => (std::env::temp_dir(), tempfile::tempfile()),
        };
        let file = file.map_err(BuildError::io(&path, "cannot create a file"))?;
        Ok(Scratch { file, path })
    }

    /// Stores a written shard; one without rows leaves no file.
    pub(super) fn keep(
        &self,
        shard: &ShardPlan,
        scratch: Scratch,
        written: &WrittenShard,
    ) -> Result<(), BuildError> {
        let path = shard.path(&written.sha256);
        match &self.folder {
            Some(folder) if written.rows == 0 => {
                folder.remove(&format!("{STAGING}/{}", file_name(&scratch.path)))
            }
            Some(folder) => {
                let cannot = BuildError::io(&scratch.path, "cannot write");
                scratch.file.sync_all().map_err(cannot)?;
                folder.place(&scratch.path, self.key(&path).as_ref())
            }
            None if written.rows == 0 => Ok(()),
            None => {
                let key = self.key(&path);
                let uploaded = store::upload(&*self.store, &key, scratch.file, written.bytes);
                self.wait(uploaded).map_err(|error| self.failed(&path, "cannot upload", error))
            }
        }
    }

    /// Writes a small file as a whole, replacing an earlier one.
    pub(super) fn put(&self, path: &str, bytes: &[u8]) -> Result<(), BuildError> {
        let key = self.key(path);
        if let Some(folder) = &self.folder {
            return folder.put(key.as_ref(), bytes);
        }
        let put = self.store.put(&key, PutPayload::from(bytes.to_vec()));
        self.wait(put).map_err(|error| self.failed(path, "cannot write", error))?;
        Ok(())
    }

    /// [`Output::put`] of several at once: most of the time goes to waiting.
    pub(super) fn put_all(&self, files: &[(&str, &[u8])]) -> Result<(), BuildError> {
        std::thread::scope(|scope| {
            let puts = files.iter().map(|(path, bytes)| scope.spawn(|| self.put(path, bytes)));
            let puts: Vec<_> = puts.collect();
            let done =
                puts.into_iter().map(|put| put.join().unwrap_or_else(|it| resume_unwind(it)));
            done.collect()
        })
    }

    /// Writes a file that is not part of the data set, for a stopped build to leave behind.
    pub(super) fn leave(&self, name: &str, bytes: &[u8]) -> Result<PathBuf, BuildError> {
        let path = format!("{STAGING}/{name}");
        self.put(&path, bytes)?;
        Ok(Path::new(&self.name).join(path))
    }

    /// The whole of a small file; `None` where there is none.
    pub(super) fn get(&self, path: &str) -> Result<Option<bytes::Bytes>, BuildError> {
        self.wait(get(&*self.store, &self.key(path)))
            .map_err(|error| self.failed(path, "cannot read", error))
    }

    /// Every file below `folder` by its path in the data set.
    pub(super) fn list(&self, folder: &str) -> Result<BTreeMap<String, ObjectMeta>, BuildError> {
        let prefix = self.key(folder);
        let objects: Vec<ObjectMeta> = self
            .wait(self.store.list(Some(&prefix)).try_collect())
            .map_err(|error| self.failed(folder, "cannot list", error))?;
        Ok(objects
            .into_iter()
            .filter_map(|object| {
                let parts = object.location.prefix_match(&self.base)?;
                let parts: Vec<String> = parts.map(|part| part.as_ref().to_owned()).collect();
                Some((parts.join("/"), object))
            })
            .collect())
    }

    /// The receipt of a shard that an earlier run finished, if the shard itself is there too. In a
    /// folder it is digested again: the machine may have gone down before its disk was written.
    pub(super) fn finished(&self, shard: &ShardPlan) -> Result<Option<Receipt>, BuildError> {
        let Some(receipt) = self.receipt(shard)? else { return Ok(None) };
        if receipt.rows == 0 {
            return Ok(Some(receipt));
        }
        let path = self.key(&shard.path(&receipt.sha256));
        let whole = match &self.folder {
            Some(folder) => sha256_file(&folder.root.join(path.as_ref()))
                .is_ok_and(|sha256| sha256 == receipt.sha256),
            None => match self.wait(self.store.head(&path)) {
                Ok(object) => object.size == receipt.bytes,
                Err(object_store::Error::NotFound { .. }) => false,
                Err(error) => return Err(self.failed(path.as_ref(), "cannot look at", error)),
            },
        };
        Ok(whole.then_some(receipt))
    }

    /// The receipt of a shard, whether the shard is still there or not.
    pub(super) fn receipt(&self, shard: &ShardPlan) -> Result<Option<Receipt>, BuildError> {
        let bytes = self.get(&shard.receipt_path())?;
        Ok(bytes.and_then(|bytes| parse(&bytes, shard)))
    }

    /// The receipts of all `shards`, in their order; `None` for those that are not there.
    pub(super) fn receipts(
        &self,
        shards: &[ShardPlan],
    ) -> Result<Vec<Option<Receipt>>, BuildError> {
        let reads = futures::stream::iter(shards)
            .map(|shard| async move {
                let path = shard.receipt_path();
                match get(&*self.store, &self.key(&path)).await {
                    Ok(bytes) => Ok(bytes.and_then(|bytes| parse(&bytes, shard))),
                    Err(error) => Err(self.failed(&path, "cannot read", error)),
                }
            })
            .buffered(REQUESTS_IN_FLIGHT);
        self.wait(reads.try_collect())
    }

    /// The stored shard of a receipt.
    pub(super) fn shard_file(&self, shard: &ShardPlan, receipt: &Receipt) -> ShardFile {
        let path = shard.path(&receipt.sha256);
        let reader = RangeReader::new(Arc::clone(&self.store), self.key(&path), receipt.bytes);
        ShardFile { reader, path, handle: self.runtime.handle().clone() }
    }

    /// The folder or URL, as errors call it.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    fn key(&self, path: &str) -> Key {
        Key::from_iter(self.base.parts().chain(Key::from(path).parts()))
    }

    fn wait<F: Future>(&self, work: F) -> F::Output {
        self.runtime.block_on(work)
    }

    fn failed(&self, path: &str, action: &'static str, source: object_store::Error) -> BuildError {
        BuildError::Store { path: format!("{}/{path}", self.name), action, source }
    }
}

impl ShardFile {
    /// Columns of chosen rows; of all rows without a selection.
    pub(super) fn read(
        &self,
        columns: &[&str],
        rows: Option<RowSelection>,
    ) -> Result<Vec<RecordBatch>, ShardError> {
        let read = async {
            let mut builder = ParquetRecordBatchStreamBuilder::new(self.reader.clone()).await?;
            let schema = builder.parquet_schema();
            let projection = ProjectionMask::columns(schema, columns.iter().copied());
            builder = builder.with_projection(projection);
            if let Some(rows) = rows {
                builder = builder.with_row_selection(rows);
            }
            builder.build()?.try_collect().await
        };
        self.handle.block_on(read).map_err(|source| ShardError::parquet(&self.path, source))
    }

    /// The shard's path in the data set.
    pub(super) fn path(&self) -> &str {
        &self.path
    }
}

async fn get(store: &dyn ObjectStore, key: &Key) -> object_store::Result<Option<bytes::Bytes>> {
    match store.get(key).await {
        Ok(found) => found.bytes().await.map(Some),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn parse(bytes: &[u8], shard: &ShardPlan) -> Option<Receipt> {
    let receipt: Receipt = serde_json::from_slice(bytes).ok()?;
    (receipt.key == shard.key).then_some(receipt)
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
