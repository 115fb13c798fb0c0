//! Finds and ends every process of a job, wherever it went.
//!
//! A process group holds a rank and what it started, unless that moved to a group or session of
//! its own. The environment moves with it, so each rank carries a mark there.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};

/// Marks of the jobs that a process belongs to, outermost first: a rank may be a launcher.
const VARIABLE: &str = "LAUNCH_JOBS";
const SEPARATOR: char = ':';
/// How long killed processes may take to go. Longer only in a system call that does not return.
pub(crate) const KILLED: Duration = Duration::from_secs(3);

/// What all processes of a job have in common.
#[derive(Clone, Debug)]
pub(crate) struct Mark(String);

impl Mark {
    /// A mark that no other job has.
    pub(crate) fn new() -> Self {
        let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self(format!("{}-{}", std::process::id(), time.as_nanos()))
    }

    /// The mark as text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// A mark from its text.
    pub(crate) fn from_text(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// The variable for the job's processes, which keep the marks of outer jobs.
    pub(crate) fn variable(&self) -> (&'static str, String) {
        match std::env::var(VARIABLE) {
            Ok(outer) if !outer.is_empty() => (VARIABLE, format!("{outer}{SEPARATOR}{}", self.0)),
            _ => (VARIABLE, self.0.clone()),
        }
    }

    /// Asks the job's processes to end, and kills those that are left after `grace`.
    pub(crate) fn end(&self, grace: Duration) {
        if self.signal(Signal::TERM).is_empty() || self.gone_within(grace, None) {
            return;
        }
        let _ = self.kill();
    }

    /// Kills the job's processes; the ids of those that would not go.
    pub(crate) fn kill(&self) -> Vec<i32> {
        // Again and again: a process may start another while the list is read.
        self.gone_within(KILLED, Some(Signal::KILL));
        self.signal(Signal::CONT)
    }

    fn gone_within(&self, time: Duration, signal: Option<Signal>) -> bool {
        let until = Instant::now() + time;
        let mut pause = Duration::from_millis(2);
        loop {
            // SIGCONT lives and zombies do not notice: it only asks who is there.
            if self.signal(signal.unwrap_or(Signal::CONT)).is_empty() {
                return true;
            }
            if Instant::now() >= until {
                return false;
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(100));
        }
    }

    /// Sends a signal to the job's processes and tells which they are.
    fn signal(&self, signal: Signal) -> Vec<i32> {
        let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
        let own = std::process::id();
        let numbers = processes.flatten().filter_map(|entry| {
            entry.file_name().to_str()?.parse::<i32>().ok().filter(|&pid| pid.unsigned_abs() != own)
        });
        numbers.filter(|&number| self.signal_one(number, signal)).collect()
    }

    fn signal_one(&self, number: i32, signal: Signal) -> bool {
        let Some(pid) = Pid::from_raw(number) else { return false };
        // Opened before its mark is read: the number cannot come to mean another process.
        let process = pidfd_open(pid, PidfdFlags::empty());
        if !self.is_on(&Path::new("/proc").join(number.to_string())) {
            return false;
        }
        match process {
            Ok(process) => pidfd_send_signal(process, signal).is_ok(),
            // Kernels and sandboxes without pidfd.
            Err(_) => kill_process(pid, signal).is_ok(),
        }
    }

    /// Whether a process (its folder of /proc) carries the mark. Zombies carry nothing.
    fn is_on(&self, process: &Path) -> bool {
        let Ok(environment) = std::fs::read(process.join("environ")) else { return false };
        environment.split(|&byte| byte == 0).any(|variable| {
            std::str::from_utf8(variable)
                .ok()
                .and_then(|text| text.strip_prefix(VARIABLE)?.strip_prefix('='))
                .is_some_and(|marks| marks.split(SEPARATOR).any(|mark| mark == self.0))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_of_an_inner_job_keeps_the_outer_one() {
        let folder = tempfile::tempdir().unwrap();
        let environ = |text: &str| std::fs::write(folder.path().join("environ"), text).unwrap();
        let mark = Mark::from_text("7-1");
        environ("A=1\0LAUNCH_JOBS=5-2:7-1:9-3\0B=\0");
        assert!(mark.is_on(folder.path()));
        environ("A=1\0LAUNCH_JOBS=57-1:7-12\0LAUNCH_JOBS2=7-1\0");
        assert!(!mark.is_on(folder.path()));
        environ("");
        assert!(!mark.is_on(folder.path()));
    }
}
