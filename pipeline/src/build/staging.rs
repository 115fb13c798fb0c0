//! The folder in which a build collects its files, and the step that makes them a data set.
//!
//! ```text
//! output/.staging/lock            held by the running build
//!                 train-00000.parquet, train-00000.json   a finished shard and its receipt
//!                 train-00001.partial                     being written
//! output/shards/..., report/..., quarantine.jsonl, manifest.json   published, manifest last
//! ```

use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::plan::ShardPlan;
use super::quarantine::{Adjustment, Refusal};
use super::{ADJUSTED_FILE, BuildError};
use crate::digest::sha256_file;
use crate::manifest::MANIFEST_FILE;
use crate::shard::WrittenShard;

/// What a finished shard holds; written after it, so that its presence means the shard is whole.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Receipt {
    pub(super) key: String,
    pub(super) rows: u64,
    pub(super) bytes: u64,
    pub(super) sha256: String,
    pub(super) refused: Vec<Refusal>,
    #[serde(default)]
    pub(super) adjusted: Vec<Adjustment>,
}

impl Receipt {
    pub(super) fn new(
        shard: &ShardPlan,
        written: &WrittenShard,
        refused: Vec<Refusal>,
        adjusted: Vec<Adjustment>,
    ) -> Self {
        Self {
            key: shard.key.clone(),
            rows: written.rows,
            bytes: written.bytes,
            sha256: written.sha256.clone(),
            refused,
            adjusted,
        }
    }
}

/// An output folder locked for one build.
pub(super) struct Staging {
    output: PathBuf,
    folder: PathBuf,
    /// Unlocked when the process ends, however it ends.
    _lock: File,
}

impl Staging {
    /// Makes the folders and takes the lock.
    pub(super) fn open(output: &Path) -> Result<Self, BuildError> {
        let folder = output.join(".staging");
        fs::create_dir_all(&folder).map_err(BuildError::io(&folder, "cannot make the folder"))?;
        let path = folder.join("lock");
        let lock =
            File::create(&path).map_err(BuildError::io(&path, "cannot make the lock file"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(BuildError::Locked { output: output.to_owned() });
            }
            Err(TryLockError::Error(source)) => {
                return Err(BuildError::Io { path, action: "cannot lock", source });
            }
        }
        Ok(Self { output: output.to_owned(), folder, _lock: lock })
    }

    /// Where a shard is written before it is whole.
    pub(super) fn partial(&self, shard: &ShardPlan) -> PathBuf {
        self.folder.join(format!("{}.partial", shard.name))
    }

    /// A whole shard of an earlier run with the same key, checked byte by byte.
    pub(super) fn finished(&self, shard: &ShardPlan) -> Option<Receipt> {
        let receipt: Receipt = serde_json::from_slice(&fs::read(self.receipt(shard)).ok()?).ok()?;
        if receipt.key != shard.key {
            return None;
        }
        let whole = receipt.rows == 0
            || self.locate(shard).is_some_and(|path| {
                sha256_file(&path).is_ok_and(|sha256| sha256 == receipt.sha256)
            });
        whole.then_some(receipt)
    }

    /// Makes a written shard count: rename, then receipt. A shard without rows leaves no file.
    pub(super) fn keep(&self, shard: &ShardPlan, receipt: &Receipt) -> Result<(), BuildError> {
        let (partial, whole) = (self.partial(shard), self.staged(shard));
        if receipt.rows == 0 {
            fs::remove_file(&partial).map_err(BuildError::io(&partial, "cannot remove"))?;
        } else {
            fs::rename(&partial, &whole).map_err(BuildError::io(&whole, "cannot rename"))?;
        }
        let bytes = serde_json::to_vec(receipt).expect("a receipt serialises");
        self.put(&self.receipt(shard), &bytes)
    }

    /// Where a whole shard lies now: staged, or already published by a run that was killed.
    pub(super) fn locate(&self, shard: &ShardPlan) -> Option<PathBuf> {
        let places = [self.staged(shard), self.output.join(shard.path())];
        places.into_iter().find(|path| path.is_file())
    }

    /// Writes a file under the staging folder, for a stopped build to leave behind.
    pub(super) fn leave(&self, name: &str, bytes: &[u8]) -> Result<PathBuf, BuildError> {
        let path = self.folder.join(name);
        self.put(&path, bytes)?;
        Ok(path)
    }

    /// Turns the staged shards and the given files into the data set. The manifest of an earlier
    /// build goes first and the new one comes last: at no time is there a manifest whose shards
    /// are not all in place.
    pub(super) fn publish(
        self,
        shards: &[&ShardPlan],
        files: &[(&str, Vec<u8>)],
        manifest: &[u8],
    ) -> Result<(), BuildError> {
        let manifest_path = self.output.join(MANIFEST_FILE);
        remove_if_there(&manifest_path)?;
        remove_if_there(&self.output.join(ADJUSTED_FILE))?;
        sync_folder(&self.output)?;
        let folder = self.output.join("shards");
        fs::create_dir_all(&folder).map_err(BuildError::io(&folder, "cannot make the folder"))?;
        self.remove_stale_shards(&folder, shards)?;
        for shard in shards {
            let (from, to) = (self.staged(shard), self.output.join(shard.path()));
            if from.is_file() {
                fs::rename(&from, &to).map_err(BuildError::io(&to, "cannot rename"))?;
            }
        }
        sync_folder(&folder)?;
        for (name, bytes) in files {
            let path = self.output.join(name);
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)
                    .map_err(BuildError::io(parent, "cannot make the folder"))?;
            }
            self.put(&path, bytes)?;
        }
        self.put(&manifest_path, manifest)?;
        fs::remove_dir_all(&self.folder)
            .map_err(BuildError::io(&self.folder, "cannot remove the staging folder"))
    }

    fn remove_stale_shards(&self, folder: &Path, shards: &[&ShardPlan]) -> Result<(), BuildError> {
        let wanted: BTreeSet<PathBuf> =
            shards.iter().map(|shard| self.output.join(shard.path())).collect();
        let listing = fs::read_dir(folder).map_err(BuildError::io(folder, "cannot list"))?;
        for entry in listing {
            let path = entry.map_err(BuildError::io(folder, "cannot list"))?.path();
            if path.extension().is_some_and(|kind| kind == "parquet") && !wanted.contains(&path) {
                fs::remove_file(&path).map_err(BuildError::io(&path, "cannot remove"))?;
            }
        }
        Ok(())
    }

    /// Writes a whole file: staged, durable, then renamed into place.
    fn put(&self, path: &Path, bytes: &[u8]) -> Result<(), BuildError> {
        let partial = self.folder.join("file.partial");
        let write = || -> std::io::Result<()> {
            let mut file = File::create(&partial)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&partial, path)
        };
        write().map_err(BuildError::io(path, "cannot write"))?;
        sync_folder(path.parent().unwrap_or(&self.output))
    }

    fn staged(&self, shard: &ShardPlan) -> PathBuf {
        self.folder.join(format!("{}.parquet", shard.name))
    }

    fn receipt(&self, shard: &ShardPlan) -> PathBuf {
        self.folder.join(format!("{}.json", shard.name))
    }
}

fn remove_if_there(path: &Path) -> Result<(), BuildError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(BuildError::io(path, "cannot remove")(error))
        }
        _ => Ok(()),
    }
}

/// Makes renames and removals in a folder durable.
fn sync_folder(path: &Path) -> Result<(), BuildError> {
    File::open(path)
        .and_then(|folder| folder.sync_all())
        .map_err(BuildError::io(path, "cannot sync"))
}
