//! A rank's signs of life.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};

/// Names the file that a rank's signs of life go to.
pub(crate) const HEARTBEAT_FILE: &str = "LAUNCH_HEARTBEAT_FILE";

/// Tells the launcher that this rank lives, and at which step it is.
///
/// A rank that beat once and then stops for longer than `launch --heartbeat-timeout` is ended as
/// hung, together with the job. Beat wherever work goes on that may last: at each step, each
/// evaluated batch, each file. A beat is one small write to memory.
///
/// A script does the same with `echo STEP > "$LAUNCH_HEARTBEAT_FILE"`.
#[derive(Debug, Default)]
pub struct Heartbeat {
    file: Option<File>,
    beats: AtomicU64,
}

impl Heartbeat {
    /// The heartbeat of this process. Without a launcher, beats go nowhere.
    pub fn from_env() -> Self {
        let file = std::env::var_os(HEARTBEAT_FILE).and_then(|path| {
            File::options().write(true).create(true).truncate(false).open(path).ok()
        });
        Self { file, beats: AtomicU64::new(0) }
    }

    /// Says that this rank is at `step`, counted over all epochs and restarts.
    pub fn beat(&self, step: u64) {
        let Some(file) = &self.file else { return };
        let beats = self.beats.fetch_add(1, Ordering::Relaxed);
        // Of one width, so that a beat overwrites the one before. A beat that cannot be written
        // must not end a training.
        let _ = file.write_all_at(format!("{step:20} {beats:20}\n").as_bytes(), 0);
    }
}
