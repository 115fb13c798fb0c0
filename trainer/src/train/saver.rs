//! Writes checkpoints on a thread of its own, one at a time, while training goes on.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::checkpoint::{Checkpoint, CheckpointError, Checkpoints};

type Written = Result<PathBuf, CheckpointError>;

/// The writer of one run; only rank 0 has work for it.
pub(super) struct Saver {
    checkpoints: Arc<Checkpoints>,
    keep_last: usize,
    queue: Arc<Mutex<Queue>>,
    writing: Option<JoinHandle<Option<Written>>>,
    /// What became of the last one that was waited for and not yet told.
    written: Option<Written>,
}

#[derive(Default)]
struct Queue {
    /// To be written next; a newer one takes its place.
    waiting: Option<Checkpoint>,
    /// A thread will look at `waiting` again.
    is_watched: bool,
}

impl Saver {
    pub(super) fn new(checkpoints: Arc<Checkpoints>, keep_last: usize) -> Self {
        Self { checkpoints, keep_last, queue: Arc::default(), writing: None, written: None }
    }

    /// Begins to write `checkpoint`, which must share no storage with what is trained. A full disk
    /// and a store that is away are survived: the one before that could not be written is told, and
    /// older ones are still there. A store that is slower than the steps between two checkpoints gets
    /// the newest one; a folder gets all.
    ///
    /// # Errors
    /// Another process has taken the run over.
    pub(super) fn start(&mut self, checkpoint: Checkpoint) -> Result<(), CheckpointError> {
        if matches!(*self.checkpoints, Checkpoints::Folder(_)) {
            self.settle()?;
        }
        // Watched, but by a thread that has ended: it panicked.
        let has_ended = self.writing.as_ref().is_none_or(JoinHandle::is_finished);
        let mut queue = lock(&self.queue);
        let left_out = queue.waiting.replace(checkpoint);
        if queue.is_watched && !has_ended {
            if let Some(left_out) = left_out {
                tracing::info!(
                    "the checkpoint after step {} is left out: the one before is still uploading",
                    left_out.info.global_step
                );
            }
            return Ok(());
        }
        queue.is_watched = true;
        drop(queue);
        let settled = self.settle();
        let (checkpoints, keep_last) = (Arc::clone(&self.checkpoints), self.keep_last);
        let queue = Arc::clone(&self.queue);
        let write = move || write_all(&checkpoints, keep_last, &queue);
        self.writing = Some(std::thread::spawn(write));
        settled
    }

    /// Whether a checkpoint that was begun is not yet written.
    pub(super) fn is_writing(&self) -> bool {
        self.writing.as_ref().is_some_and(|writing| !writing.is_finished())
    }

    /// Tells what became of those before.
    fn settle(&mut self) -> Result<(), CheckpointError> {
        match self.wait() {
            Err(error @ CheckpointError::Locked { .. }) => return Err(error),
            Err(error) => tell(&error),
            Ok(_) => {}
        }
        Ok(())
    }

    /// Waits until what was begun is written, and says what became of it; `None` if nothing was. A
    /// failure stays one for whoever asks next.
    pub(super) fn written(&mut self) -> Option<&Written> {
        if let Some(writing) = self.writing.take() {
            let panicked = |_| CheckpointError::Io {
                path: PathBuf::from("checkpoints"),
                source: std::io::Error::other("the writing thread panicked"),
            };
            self.written = writing.join().map_err(panicked).transpose().map(Result::flatten);
        }
        self.written.as_ref()
    }

    /// Waits until what was begun is written; returns the last one's place if anything was.
    ///
    /// # Errors
    /// It could not be written.
    pub(super) fn wait(&mut self) -> Result<Option<PathBuf>, CheckpointError> {
        let _ = self.written();
        self.written.take().transpose()
    }
}

fn tell(error: &CheckpointError) {
    tracing::warn!("{error}; training goes on, and the checkpoints before are kept");
}

fn lock(queue: &Mutex<Queue>) -> MutexGuard<'_, Queue> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes what waits until nothing does; the result of the last one.
fn write_all(checkpoints: &Checkpoints, keep_last: usize, queue: &Mutex<Queue>) -> Option<Written> {
    let mut last = None;
    loop {
        let checkpoint = {
            let mut queue = lock(queue);
            queue.is_watched = queue.waiting.is_some();
            match queue.waiting.take() {
                Some(checkpoint) => checkpoint,
                None => return last,
            }
        };
        match last {
            Some(Err(CheckpointError::Locked { .. })) => return last,
            Some(Err(error)) => tell(&error),
            _ => {}
        }
        last = Some(checkpoints.save(&checkpoint, keep_last));
    }
}

impl Drop for Saver {
    /// Training that ends early still lets a begun checkpoint reach its place.
    fn drop(&mut self) {
        if let Err(error) = self.wait() {
            tracing::warn!("{error}");
        }
    }
}
