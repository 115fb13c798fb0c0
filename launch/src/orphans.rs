//! Finds and ends what hid from a rank's group and shed the mark of the job: it becomes an orphan.
//!
//! This process asks the kernel for the orphans of all that it started, so they become its children.
//! In a container where it is the first process they do so anyway.

use std::time::{Duration, Instant};

use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, getpid, kill_process, set_child_subreaper, waitid,
};

use crate::processes::KILLED;

/// How often orphans that ended by themselves are waited for: nobody else does.
pub(crate) const REAP: Duration = Duration::from_secs(5);

/// Children that this process did not start.
#[derive(Debug)]
pub(crate) struct Orphans {
    /// Its other children: the guard, and those of the program that became this one.
    spared: Vec<Pid>,
}

impl Orphans {
    /// From now on, what ranks leave behind comes here. The children of this moment are spared.
    pub(crate) fn adopt() -> Self {
        // A kernel that refuses leaves orphans to its first process, and to their mark.
        let _ = set_child_subreaper(Some(getpid()));
        Self { spared: children() }
    }

    /// Waits for those that have ended. `ranks` are children as well.
    pub(crate) fn reap(&self, ranks: &[Pid]) {
        self.find(ranks).into_iter().for_each(reap);
    }

    /// Kills all; the ids of those that would not go.
    pub(crate) fn kill(&self, ranks: &[Pid]) -> Vec<i32> {
        let until = Instant::now() + KILLED;
        let mut pause = Duration::from_millis(2);
        loop {
            // Again and again: what a killed orphan started is an orphan then.
            let orphans = self.find(ranks);
            for &orphan in &orphans {
                // A child keeps its number until it is waited for.
                let _ = kill_process(orphan, Signal::KILL);
                reap(orphan);
            }
            if orphans.is_empty() || Instant::now() >= until {
                return orphans.into_iter().map(|orphan| orphan.as_raw_nonzero().get()).collect();
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(100));
        }
    }

    fn find(&self, ranks: &[Pid]) -> Vec<Pid> {
        let mut orphans = children();
        orphans.retain(|child| !self.spared.contains(child) && !ranks.contains(child));
        orphans
    }
}

/// Waits for a child if it has ended, by its number: how ranks end is for others to learn.
fn reap(child: Pid) {
    let _ = waitid(WaitId::Pid(child), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
}

/// The children of this process.
fn children() -> Vec<Pid> {
    let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
    let own = std::process::id();
    let child = |entry: std::fs::DirEntry| {
        let number = entry.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read(entry.path().join("stat")).ok()?;
        (parent(&String::from_utf8_lossy(&stat))? == own).then(|| Pid::from_raw(number))?
    };
    processes.flatten().filter_map(child).collect()
}

/// The parent in a line of /proc/PID/stat, where the name in brackets may hold anything.
fn parent(stat: &str) -> Option<u32> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_is_found_behind_any_name() {
        assert_eq!(parent("71 (sleep) S 12 71 1 0"), Some(12));
        assert_eq!(parent("71 (a) R 9 (b)) Z 12 71"), Some(12));
        assert_eq!(parent(""), None);
    }
}
