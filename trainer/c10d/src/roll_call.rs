//! Who is alive and how far: every rank beats in the store, a failed one reads.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::error::Fault;
use crate::ffi::StoreHandle;
use crate::patience::ANSWER;

/// Time between two beats of a rank.
const BEAT: Duration = Duration::from_millis(500);
/// How long a rank may be silent before it counts as gone: four beats.
const SILENCE: Duration = Duration::from_secs(2);

/// This rank's heartbeat. Dropping it stops the beat.
pub(crate) struct RollCall {
    sequence: Arc<AtomicU64>,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl RollCall {
    /// Starts beating over `store`, a connection of the heartbeat's own, so that no
    /// blocked collective delays it.
    pub(crate) fn start(store: StoreHandle, rank: usize) -> std::io::Result<Self> {
        let sequence = Arc::new(AtomicU64::new(0));
        let (stop, stopped) = channel::<()>();
        let shared = Arc::clone(&sequence);
        let beat = move || {
            for count in 0u64.. {
                let value = format!("{count} {}", shared.load(Ordering::Relaxed));
                // Without the store there is nobody left to tell: rank 0 is gone, and
                // the next collective says so.
                if store.set(&beat_key(rank), &value).is_err() {
                    return;
                }
                if stopped.recv_timeout(BEAT) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("c10d-heartbeat".to_owned()).spawn(beat)?;
        Ok(Self { sequence, stop: Some(stop), thread: Some(thread) })
    }

    /// Counts a collective and returns its number, from 1.
    pub(crate) fn advance(&self) -> u64 {
        self.sequence.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Says which ranks are to blame for a failure of collective `sequence`, and for what. The
    /// first rank to find out leaves its verdict for the others. Takes [`SILENCE`], and [`ANSWER`] where
    /// the store does not answer.
    pub(crate) fn blame(
        &self,
        store: &Arc<Mutex<StoreHandle>>,
        rank: usize,
        world_size: usize,
        sequence: u64,
    ) -> Blame {
        let (sender, answer) = channel();
        let store = Arc::clone(store);
        // A read that hangs keeps its thread and the store until the process ends.
        let ask = move || {
            let store = store.lock().unwrap_or_else(PoisonError::into_inner);
            let _ = sender.send(verdict(&store, rank, world_size, sequence));
        };
        let asked = std::thread::Builder::new().name("c10d-blame".to_owned()).spawn(ask);
        match asked.map(|_| answer.recv_timeout(ANSWER)) {
            Ok(Ok(Ok(blame))) => blame,
            Ok(Ok(Err(_))) if rank == 0 => Blame { fault: Fault::NoStore, peers: Vec::new() },
            Ok(Ok(Err(_))) => {
                // As long as for any other rank: whoever watches the processes shall see rank 0 end
                // first, with its own reason, and this one only then.
                std::thread::sleep(SILENCE);
                Blame { fault: Fault::NoStore, peers: vec![0] }
            }
            Ok(Err(_)) => Blame { fault: Fault::SilentStore, peers: vec![0] },
            Err(_) => Blame { fault: Fault::Unknown, peers: Vec::new() },
        }
    }
}

/// The first rank that could not join the group, and its reason.
const NOT_STARTED: &str = "not_started";

impl RollCall {
    /// Says which ranks are to blame that the group could not be started, and in whose words; `None`
    /// where it is this rank alone. The first rank to fail leaves its own `reason` for the others.
    pub(crate) fn blame_for_start(
        &self,
        store: &Arc<Mutex<StoreHandle>>,
        rank: usize,
        world_size: usize,
        reason: &str,
    ) -> Option<(Blame, String)> {
        let told = {
            let store = store.lock().unwrap_or_else(PoisonError::into_inner);
            let told = store.get(NOT_STARTED).ok().flatten();
            if told.is_none() {
                // Best effort: the others then name who is gone.
                let _ = store.set(NOT_STARTED, &format!("{rank} {reason}"));
            }
            told
        };
        if let Some((peer, reason)) = told.as_deref().and_then(|told| told.split_once(' ')) {
            if rank == 0 {
                // The store ends with it, and the others are about to ask.
                std::thread::sleep(SILENCE);
            }
            let peers = vec![peer.parse().ok()?];
            return Some((Blame { fault: Fault::NotStarted, peers }, reason.to_owned()));
        }
        // No collective has begun, so that nobody is behind.
        let blame = self.blame(store, rank, world_size, 0);
        (!blame.peers.is_empty()).then(|| (blame, reason.to_owned()))
    }
}

/// Who is to blame for a failure, and for what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Blame {
    pub(crate) fault: Fault,
    pub(crate) peers: Vec<usize>,
}

/// What a verdict can be, with its first word in the store.
const VERDICTS: [(Fault, &str); 3] =
    [(Fault::Gone, "gone"), (Fault::Behind, "behind"), (Fault::Network, "network")];

impl Blame {
    /// `gone 1 2`, as it lies in the store.
    fn text(&self) -> String {
        let word = VERDICTS.iter().find(|(fault, _)| *fault == self.fault);
        let peers = self.peers.iter().map(usize::to_string);
        let words: Vec<String> =
            word.map(|(_, word)| (*word).to_owned()).into_iter().chain(peers).collect();
        words.join(" ")
    }

    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let word = words.next()?;
        let &(fault, _) = VERDICTS.iter().find(|(_, name)| *name == word)?;
        Some(Self { fault, peers: words.map(str::parse).collect::<Result<_, _>>().ok()? })
    }
}

impl Drop for RollCall {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            // A panic of the heartbeat leaves nothing to clean up.
            let _ = thread.join();
        }
    }
}

fn verdict(
    store: &StoreHandle,
    rank: usize,
    world_size: usize,
    sequence: u64,
) -> Result<Blame, String> {
    const VERDICT: &str = "verdict";
    let earlier = || Ok::<_, String>(store.get(VERDICT)?.and_then(|text| Blame::parse(&text)));
    if let Some(earlier) = earlier()? {
        return Ok(earlier);
    }
    let read = || -> Result<Vec<Option<String>>, String> {
        (0..world_size).map(|peer| store.get(&beat_key(peer))).collect()
    };
    let before = read()?;
    std::thread::sleep(SILENCE);
    if let Some(earlier) = earlier()? {
        return Ok(earlier);
    }
    let after = read()?;
    let mut gone = Vec::new();
    let mut behind = Vec::new();
    for peer in (0..world_size).filter(|&peer| peer != rank) {
        match &after[peer] {
            Some(beat) if before[peer].as_ref() != Some(beat) => {
                if reached(beat) < sequence {
                    behind.push(peer);
                }
            }
            _ => gone.push(peer),
        }
    }
    let blame = match (gone.is_empty(), behind.is_empty()) {
        (false, _) => Blame { fault: Fault::Gone, peers: gone },
        (true, false) => Blame { fault: Fault::Behind, peers: behind },
        (true, true) => Blame { fault: Fault::Network, peers: Vec::new() },
    };
    store.set(VERDICT, &blame.text())?;
    Ok(blame)
}

fn reached(beat: &str) -> u64 {
    beat.split(' ').nth(1).and_then(|number| number.parse().ok()).unwrap_or(0)
}

fn beat_key(rank: usize) -> String {
    format!("beat/{rank}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_comes_back_from_the_store_as_it_was() {
        for (fault, peers) in
            [(Fault::Gone, vec![3]), (Fault::Behind, vec![0, 12]), (Fault::Network, Vec::new())]
        {
            let blame = Blame { fault, peers };
            assert_eq!(Blame::parse(&blame.text()), Some(blame));
        }
        assert_eq!(Blame::parse("gone x"), None);
        assert_eq!(Blame::parse("rank 1 is gone"), None);
    }
}
