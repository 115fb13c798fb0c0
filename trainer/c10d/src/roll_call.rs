//! Who is alive and how far: every rank beats in the store, a failed one reads.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::ffi::StoreHandle;

/// Time between two beats of a rank.
const BEAT: Duration = Duration::from_millis(500);
/// How long a rank may be silent before it counts as gone: four beats.
const SILENCE: Duration = Duration::from_secs(2);
/// How long the store may take to tell who is to blame. Behind a cut cable it would take for ever.
const ANSWER: Duration = Duration::from_secs(8);

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

    /// Says which ranks are to blame for a failure of collective `sequence`. The
    /// first rank to find out leaves its verdict for the others. Takes [`SILENCE`], and [`ANSWER`] where
    /// the store does not answer.
    pub(crate) fn blame(
        &self,
        store: &Arc<Mutex<StoreHandle>>,
        rank: usize,
        world_size: usize,
        sequence: u64,
    ) -> String {
        let (sender, answer) = channel();
        let store = Arc::clone(store);
        // A read that hangs keeps its thread and the store until the process ends.
        let ask = move || {
            let store = store.lock().unwrap_or_else(PoisonError::into_inner);
            let _ = sender.send(verdict(&store, rank, world_size, sequence));
        };
        let asked = std::thread::Builder::new().name("c10d-blame".to_owned()).spawn(ask);
        match asked.map(|_| answer.recv_timeout(ANSWER)) {
            Ok(Ok(Ok(text))) => text,
            Ok(Ok(Err(_))) if rank == 0 => "this rank's own store stopped answering".to_owned(),
            Ok(Ok(Err(_))) => "rank 0 is gone: its store no longer answers".to_owned(),
            Ok(Err(_)) => "rank 0 is gone or cut off: its store does not answer".to_owned(),
            Err(error) => format!("no thread can be started to ask who is gone ({error})"),
        }
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
) -> Result<String, String> {
    const VERDICT: &str = "verdict";
    if let Some(earlier) = store.get(VERDICT)? {
        return Ok(earlier);
    }
    let read = || -> Result<Vec<Option<String>>, String> {
        (0..world_size).map(|peer| store.get(&beat_key(peer))).collect()
    };
    let before = read()?;
    std::thread::sleep(SILENCE);
    if let Some(earlier) = store.get(VERDICT)? {
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
    let text = match (gone.is_empty(), behind.is_empty()) {
        (false, _) => format!("{} gone or stopped", ranks(&gone)),
        (true, false) => format!("{} alive but did not come to it", ranks(&behind)),
        (true, true) => "every rank is alive and came to it; check the network".to_owned(),
    };
    store.set(VERDICT, &text)?;
    Ok(text)
}

fn reached(beat: &str) -> u64 {
    beat.split(' ').nth(1).and_then(|number| number.parse().ok()).unwrap_or(0)
}

fn ranks(list: &[usize]) -> String {
    let names: Vec<_> = list.iter().map(usize::to_string).collect();
    let noun = if list.len() == 1 { "rank" } else { "ranks" };
    let verb = if list.len() == 1 { "is" } else { "are" };
    format!("{noun} {} {verb}", names.join(", "))
}

fn beat_key(rank: usize) -> String {
    format!("beat/{rank}")
}
