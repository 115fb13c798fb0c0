//! A second process that outlives the launcher: when the launcher is killed, it ends the ranks.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};

use crate::processes::Mark;

/// Its name in lists of processes: one that `pkill launch` does not find.
pub const NAME: &str = "job-guard";

/// A guard that waits; dropping it lets it end.
pub(crate) struct Guard(Child);

impl Guard {
    /// Starts this program once more as a guard. `folder` is removed when the launcher is killed.
    pub(crate) fn start(
        mark: &Mark,
        grace: Duration,
        folder: &std::path::Path,
    ) -> std::io::Result<Self> {
        let child = Command::new("/proc/self/exe")
            .arg0(NAME)
            .arg(mark.as_str())
            .arg(grace.as_millis().to_string())
            .arg(folder)
            // The write end closes with the launcher, however that ends.
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        Ok(Self(child))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        // It finds nothing to end, and it cannot fail in a way that matters now.
        let _ = self.0.wait();
    }
}

/// The guard: waits for the launcher to end, then ends what it left behind.
///
/// `arguments` are those after the program's name, as the launcher gave them.
pub fn main(mut arguments: impl Iterator<Item = std::ffi::OsString>) -> ExitCode {
    // Signals meant for the whole job must not take the guard first.
    for signal in [SIGHUP, SIGINT, SIGQUIT, SIGTERM] {
        let ignored = signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false)));
        if ignored.is_err() {
            return ExitCode::FAILURE;
        }
    }
    let (Some(mark), Some(grace), Some(folder)) =
        (arguments.next(), arguments.next(), arguments.next())
    else {
        return ExitCode::FAILURE;
    };
    let mark = Mark::from_text(&mark.to_string_lossy());
    let grace = grace.to_string_lossy().parse().unwrap_or_default();
    // Nothing is ever written: this ends when the launcher does.
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    mark.end(Duration::from_millis(grace));
    // Usually gone already.
    let _ = std::fs::remove_dir_all(folder);
    ExitCode::SUCCESS
}
