//! Where a run keeps its checkpoints: a folder or an object store, used alike.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use pipeline::RemoteFolder;

use super::best::{keep_best, settle_best};
use super::{Checkpoint, CheckpointError, Found, StoreCheckpoints, StoreLock};

/// The checkpoints of one run.
pub enum Checkpoints {
    /// In `checkpoints/` of this folder.
    Folder(PathBuf),
    /// In an object store.
    Store(StoreCheckpoints),
}

impl Checkpoints {
    /// Those of the run whose output is `store` or, without one, `folder`. Nothing is touched.
    /// Uploads are staged in `folder`.
    ///
    /// # Errors
    /// A URL that cannot be written to.
    pub fn open(store: Option<&str>, folder: &Path) -> Result<Self, CheckpointError> {
        Ok(match store {
            None => Self::Folder(folder.to_owned()),
            Some(url) => {
                Self::Store(StoreCheckpoints::new(Arc::new(RemoteFolder::open(url)?), folder))
            }
        })
    }

    /// Takes the lock of a store, which this process then holds until it ends; a folder is locked
    /// by a file. False where `stop` asks for an end while another run has it.
    ///
    /// # Errors
    /// Another run that lives has it; a store that does not answer.
    pub fn lock(&mut self, stop: &dyn Fn() -> bool) -> Result<bool, CheckpointError> {
        let Self::Store(store) = self else { return Ok(true) };
        store.lock = StoreLock::acquire(Arc::clone(&store.folder), stop)?;
        Ok(store.lock.is_some())
    }

    /// Removes what a killed process began to write in this machine's folder, or ends it.
    ///
    /// # Errors
    /// A file that cannot be removed or written.
    pub fn settle(&self) -> Result<(), CheckpointError> {
        match self {
            Self::Folder(folder) => {
                super::remove_staged(folder)?;
                settle_best(folder)
            }
            Self::Store(store) => store.remove_staged(),
        }
    }

    /// Name of the newest checkpoint, whole or not; `None` where there is none.
    ///
    /// # Errors
    /// The place cannot be read.
    pub fn newest(&self) -> Result<Option<String>, CheckpointError> {
        let name = |path: PathBuf| path.file_name().map(|n| n.to_string_lossy().into_owned());
        match self {
            Self::Folder(folder) => Ok(super::list(folder)?.pop().and_then(name)),
            Self::Store(store) => store.newest(),
        }
    }

    /// The newest checkpoint that is whole, if any, and what is wrong with each newer one.
    ///
    /// # Errors
    /// The place cannot be read, or it holds checkpoints and none is whole.
    pub fn load_newest(&self) -> Result<(Option<Found>, Vec<CheckpointError>), CheckpointError> {
        match self {
            Self::Folder(folder) => super::load_newest(folder),
            Self::Store(store) => store.load_newest(),
        }
    }

    /// Writes a checkpoint and removes all but the newest `keep_last` up to it; 0 keeps all. Returns
    /// its path or URL.
    ///
    /// # Errors
    /// A disk that is full, a store that does not answer, a lock that was lost. Nothing that is only
    /// half written counts as a checkpoint.
    pub fn save(
        &self,
        checkpoint: &Checkpoint,
        keep_last: usize,
    ) -> Result<PathBuf, CheckpointError> {
        match self {
            Self::Folder(folder) => {
                let path = super::save(folder, checkpoint)?;
                super::retain(folder, checkpoint.info.global_step, keep_last)?;
                Ok(path)
            }
            Self::Store(store) => {
                let url = store.save(checkpoint)?;
                store.retain(checkpoint.info.global_step, keep_last)?;
                Ok(url)
            }
        }
    }

    /// Keeps the checkpoint after `global_step`, if it was written, as the best one if `score` is
    /// higher than that of the best before.
    ///
    /// # Errors
    /// The place cannot be read or written; the best one before is then still there.
    pub fn keep_best(&self, global_step: u64, score: f64) -> Result<bool, CheckpointError> {
        match self {
            Self::Folder(folder) => {
                let path = folder.join(super::FOLDER).join(super::file_name(global_step));
                if path.is_file() { keep_best(folder, &path, score) } else { Ok(false) }
            }
            Self::Store(store) => store.keep_best(global_step, score),
        }
    }
}
