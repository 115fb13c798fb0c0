//! Writes checkpoints on a thread of its own, one at a time, while training goes on.

use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use crate::checkpoint::{self, Checkpoint, CheckpointError};

type Written = Result<PathBuf, CheckpointError>;

/// The writer of one run; only rank 0 has work for it.
pub(super) struct Saver {
    run_dir: PathBuf,
    keep_last: usize,
    writing: Option<JoinHandle<Written>>,
}

impl Saver {
    pub(super) fn new(run_dir: &Path, keep_last: usize) -> Self {
        Self { run_dir: run_dir.to_owned(), keep_last, writing: None }
    }

    /// Begins to write `checkpoint`, which must share no storage with what is trained. A full disk is
    /// survived: the one before that could not be written is told, and older ones are still there.
    pub(super) fn start(&mut self, checkpoint: Checkpoint) {
        if let Err(error) = self.wait() {
            tracing::warn!("{error}; training goes on, and the checkpoints before are kept");
        }
        let (run_dir, keep_last) = (self.run_dir.clone(), self.keep_last);
        let write = move || {
            let path = checkpoint::save(&run_dir, &checkpoint)?;
            checkpoint::retain(&run_dir, keep_last)?;
            Ok(path)
        };
        self.writing = Some(std::thread::spawn(write));
    }

    /// Waits until what was begun is on the disk; returns its path if there was anything to wait for.
    ///
    /// # Errors
    /// It could not be written.
    pub(super) fn wait(&mut self) -> Result<Option<PathBuf>, CheckpointError> {
        let Some(writing) = self.writing.take() else { return Ok(None) };
        let panicked = || CheckpointError::Io {
            path: self.run_dir.clone(),
            source: std::io::Error::other("the writing thread panicked"),
        };
        writing.join().unwrap_or_else(|_| Err(panicked())).map(Some)
    }
}

impl Drop for Saver {
    /// Training that ends early still lets a begun checkpoint reach the disk.
    fn drop(&mut self) {
        if let Err(error) = self.wait() {
            tracing::warn!("{error}");
        }
    }
}
