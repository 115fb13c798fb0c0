//! A rank's signs of life.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Names the file that a rank's signs of life go to.
pub(crate) const HEARTBEAT_FILE: &str = "LAUNCH_HEARTBEAT_FILE";
/// Between the beats of [`Heartbeat::keep_beating`].
const BEAT: Duration = Duration::from_millis(250);
/// How long they go on: what takes longer than a launcher waits by default hangs.
const LONGEST: Duration = Duration::from_secs(1800);

/// Tells the launcher that this rank lives, and at which step it is.
///
/// A rank that beat once and then stops for longer than `launch --heartbeat-timeout` is ended as
/// hung, together with the job. Beat wherever work goes on that may last: at each step, each
/// evaluated batch, each file. A beat is one small write to memory.
///
/// A script does the same with `echo STEP > "$LAUNCH_HEARTBEAT_FILE"`.
#[derive(Clone, Debug, Default)]
pub struct Heartbeat(Option<Arc<Beats>>);

#[derive(Debug)]
struct Beats {
    file: File,
    last: Mutex<Last>,
}

/// The last beat.
#[derive(Debug, Default)]
struct Last {
    count: u64,
    step: Option<u64>,
}

impl Heartbeat {
    /// The heartbeat of this process. Without a launcher, beats go nowhere.
    pub fn from_env() -> Self {
        let file = std::env::var_os(HEARTBEAT_FILE).and_then(|path| {
            File::options().write(true).create(true).truncate(false).open(path).ok()
        });
        Self(file.map(|file| Arc::new(Beats { file, last: Mutex::default() })))
    }

    /// Says that this rank is at `step`, counted over all epochs and restarts.
    pub fn beat(&self, step: u64) {
        self.write(Some(step));
    }

    /// Says that this rank lives; its step is the one it named last, if it did.
    pub fn live(&self) {
        self.write(None);
    }

    /// Lives until what it returns is dropped, for at most half an hour: for work that cannot beat
    /// itself and ends by itself, such as loading a file and waiting for other ranks.
    #[must_use]
    pub fn keep_beating(&self) -> Beating {
        if self.0.is_none() {
            return Beating(None);
        }
        self.live();
        let (heartbeat, until) = (self.clone(), Instant::now() + LONGEST);
        let (end, ended) = channel::<()>();
        let beat = move || {
            while ended.recv_timeout(BEAT) == Err(RecvTimeoutError::Timeout)
                && Instant::now() < until
            {
                heartbeat.live();
            }
        };
        // Without a thread it has beaten once.
        let thread = std::thread::Builder::new().name("heartbeat".to_owned()).spawn(beat);
        Beating(thread.ok().map(|thread| (end, thread)))
    }

    fn write(&self, step: Option<u64>) {
        let Some(beats) = &self.0 else { return };
        let mut last = beats.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.count += 1;
        // Repeated by every later beat: the launcher, who looks now and then, may not have read it.
        last.step = step.or(last.step);
        let step = last.step.map_or_else(|| "-".to_owned(), |step| step.to_string());
        let count = last.count;
        // Of one width, so that a beat overwrites the one before. A beat that cannot be written
        // must not end a training.
        let _ = beats.file.write_all_at(format!("{step:>20} {count:20}\n").as_bytes(), 0);
    }
}

/// Beats until it is dropped, see [`Heartbeat::keep_beating`].
#[derive(Debug)]
pub struct Beating(Option<(Sender<()>, JoinHandle<()>)>);

impl Drop for Beating {
    fn drop(&mut self) {
        if let Some((end, thread)) = self.0.take() {
            drop(end);
            // It only waits for this.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sign_of_life_repeats_the_last_step() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let last = Mutex::default();
        let heartbeat = Heartbeat(Some(Arc::new(Beats { file: file.reopen().unwrap(), last })));
        let text = || {
            let text = std::fs::read_to_string(file.path()).unwrap();
            text.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        heartbeat.live();
        assert_eq!(text(), "- 1");
        heartbeat.beat(1234);
        heartbeat.clone().live();
        assert_eq!(text(), "1234 3");
        drop(heartbeat.keep_beating());
        assert_eq!(text(), "1234 4");
        heartbeat.beat(7);
        assert_eq!(text(), "7 5");
    }
}
