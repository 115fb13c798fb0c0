//! One run at a time in one place of an object store, which has no locks.
//!
//! `lock.json` says who trains: machine, process, and how often the owner has renewed it. Every
//! change of it is a put on the condition that it is still the object that was read, so of two
//! processes one wins. Whoever finds a lock takes it over
//!
//! - at once, where its owner released it, or was a process of this machine that is gone: a
//!   restart after `kill -9` does not wait;
//! - where it was not renewed for [`LEASE_SECS`], measured by the clock of the one who waits: the
//!   owner's machine is gone. Clocks of machines are not compared.
//!
//! An owner that was cut off for so long finds out with its next renewal, and before each checkpoint
//! at the latest; it then stops.

use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pipeline::RemoteFolder;
use pipeline::store::Version;
use serde::{Deserialize, Serialize};

use super::CheckpointError;

const LOCK: &str = "lock.json";
/// Time between two renewals.
const RENEW_SECS: u64 = 10;
/// A lock that was not renewed for so long has no owner any more: some renewals may fail.
const LEASE_SECS: u64 = 40;
/// How long to wait for an owner that may be about to end.
const WAIT_SECS: u64 = 60;
/// Time between two looks at a lock of another owner.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// What `lock.json` holds.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
struct Record {
    /// Of one process and one taking of the lock.
    owner: String,
    is_released: bool,
    host: String,
    /// Tells machines apart, and containers, whose process ids mean nothing to each other.
    machine: String,
    pid: u32,
    /// Clock ticks from the machine's start to that of the process: process ids are used again.
    process_start: u64,
    renewals: u64,
}

impl Record {
    fn of_this_process() -> Self {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let pid = std::process::id();
        Self {
            owner: read("/proc/sys/kernel/random/uuid"),
            is_released: false,
            host: read("/proc/sys/kernel/hostname"),
            machine: machine(),
            pid,
            process_start: process_start(pid).unwrap_or(0),
            renewals: 0,
        }
    }

    /// Whether nobody has to be waited for.
    fn is_over(&self) -> bool {
        let is_here = !self.machine.is_empty() && self.machine == machine();
        self.is_released || (is_here && process_start(self.pid) != Some(self.process_start))
    }

    fn bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("plain structs become JSON")
    }
}

/// This start of this machine, and this container in it.
fn machine() -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let processes = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    format!("{} {}", boot.trim(), processes.display())
}

/// When a process began; `None` where there is none, or only its remains.
fn process_start(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat"));
    let stat = stat.ok()?;
    let mut fields = stat.rsplit(')').next()?.split_whitespace();
    let state = fields.next()?;
    (!["Z", "X"].contains(&state)).then(|| fields.nth(18)?.parse().ok()).flatten()
}

/// The lock of a run in a store; released when dropped.
pub struct StoreLock {
    held: Arc<Held>,
    /// Ends the renewals when it is dropped.
    end: Option<Sender<()>>,
    renewing: Option<JoinHandle<()>>,
}

struct Held {
    folder: Arc<RemoteFolder>,
    state: Mutex<State>,
}

struct State {
    record: Record,
    version: Version,
    is_lost: bool,
}

impl StoreLock {
    /// Takes the lock, waiting for an owner that may be gone; `None` where `stop` asks for an end
    /// meanwhile.
    ///
    /// # Errors
    /// An owner that lives; a store that does not answer.
    pub fn acquire(
        folder: Arc<RemoteFolder>,
        stop: &dyn Fn() -> bool,
    ) -> Result<Option<Self>, CheckpointError> {
        let record = Record::of_this_process();
        let Some(version) = take(&folder, &record, stop)? else { return Ok(None) };
        let state = Mutex::new(State { record, version, is_lost: false });
        let held = Arc::new(Held { folder, state });
        let (end, ended) = channel::<()>();
        let renewed = Arc::clone(&held);
        let renewing = std::thread::spawn(move || {
            let pause = Duration::from_secs(RENEW_SECS);
            while ended.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                match renewed.renew() {
                    Err(CheckpointError::Locked { .. }) => return,
                    Err(error) => tracing::warn!("{error}; training goes on"),
                    Ok(()) => {}
                }
            }
        });
        Ok(Some(Self { held, end: Some(end), renewing: Some(renewing) }))
    }

    /// Says that this process is still there.
    ///
    /// # Errors
    /// The lock was lost to another process; a store that does not answer.
    pub fn renew(&self) -> Result<(), CheckpointError> {
        self.held.renew()
    }
}

impl Drop for StoreLock {
    fn drop(&mut self) {
        self.end = None;
        if let Some(renewing) = self.renewing.take() {
            let _ended = renewing.join();
        }
        self.held.release();
    }
}

impl Held {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn renew(&self) -> Result<(), CheckpointError> {
        let mut state = self.state();
        if state.is_lost {
            return Err(self.lost("another process"));
        }
        state.record.renewals += 1;
        loop {
            let bytes = state.record.bytes();
            if let Some(version) = self.folder.replace(LOCK, &bytes, &state.version)? {
                state.version = version;
                return Ok(());
            }
            let now = self.folder.get(LOCK)?.map(|(bytes, version)| (parse(&bytes), version));
            match now {
                // An earlier renewal whose answer was lost.
                Some((Some(now), version)) if now.owner == state.record.owner => {
                    state.version = version;
                }
                now => {
                    state.is_lost = true;
                    let owner = now.and_then(|(record, _)| record).map(|record| who(&record));
                    return Err(self.lost(owner.as_deref().unwrap_or("another process")));
                }
            }
        }
    }

    /// Best effort: one that could not be released is taken over all the same.
    fn release(&self) {
        let mut state = self.state();
        if state.is_lost {
            return;
        }
        state.record.is_released = true;
        let released = self.folder.replace(LOCK, &state.record.bytes(), &state.version);
        if let Err(error) = released {
            tracing::warn!("the lock is not released: {error}");
        }
    }

    fn lost(&self, owner: &str) -> CheckpointError {
        CheckpointError::Locked {
            output: self.folder.url(LOCK),
            problem: format!(
                "{owner} has taken this run over, because it was not renewed for {LEASE_SECS} s"
            ),
        }
    }
}

fn take(
    folder: &RemoteFolder,
    record: &Record,
    stop: &dyn Fn() -> bool,
) -> Result<Option<Version>, CheckpointError> {
    let started = Instant::now();
    let mut seen: Option<(Vec<u8>, Instant)> = None;
    let mut is_told = false;
    loop {
        let Some((bytes, version)) = folder.get(LOCK)? else {
            if let Some(version) = folder.create(LOCK, &record.bytes())? {
                return Ok(Some(version));
            }
            continue;
        };
        let owner = parse(&bytes);
        if seen.as_ref().is_none_or(|(before, _)| *before != *bytes) {
            seen = Some((bytes.to_vec(), Instant::now()));
        }
        let unchanged = seen.as_ref().map_or(0, |(_, since)| since.elapsed().as_secs());
        if unchanged >= LEASE_SECS || owner.as_ref().is_some_and(Record::is_over) {
            if let Some(version) = folder.replace(LOCK, &record.bytes(), &version)? {
                return Ok(Some(version));
            }
            continue;
        }
        let owner = owner.map_or_else(|| "an unknown process".to_owned(), |owner| who(&owner));
        if started.elapsed().as_secs() >= WAIT_SECS {
            let problem = format!("{owner} trains there: end it, or choose another output");
            return Err(CheckpointError::Locked { output: folder.url(LOCK), problem });
        }
        if !is_told {
            tracing::info!(
                "waiting for {}: {owner} has it, or did not release it",
                folder.url(LOCK)
            );
            is_told = true;
        }
        if stop() {
            return Ok(None);
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

fn parse(bytes: &[u8]) -> Option<Record> {
    serde_json::from_slice(bytes).ok()
}

fn who(record: &Record) -> String {
    format!("process {} on {}", record.pid, record.host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_is_gone_or_another_with_its_number_holds_nothing() {
        let own = Record::of_this_process();
        assert!(!own.is_over() && own.process_start > 0);
        assert!(Record { is_released: true, ..own.clone() }.is_over());
        assert!(Record { process_start: own.process_start + 1, ..own.clone() }.is_over());
        assert!(Record { pid: u32::MAX, ..own.clone() }.is_over());
        // The same numbers on another machine say nothing.
        assert!(!Record { machine: "other".into(), pid: u32::MAX, ..own.clone() }.is_over());
        assert_eq!(parse(&own.bytes()), Some(own));
    }
}
