//! How long the start of a group may take, and whether anybody still waits for it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::error::C10dError;
use crate::store::POLL;

/// How long a store that answered so far may take for an answer. Behind a cut cable, and where rank 0's
/// process is stopped, libtorch would wait for ever.
pub(crate) const ANSWER: Duration = Duration::from_secs(8);
/// How long a start that nobody waits for any more may take to end.
const FAREWELL: Duration = Duration::from_secs(2);

/// Shared by the thread that starts a group and the one that waits for it.
pub(crate) struct Patience {
    rank: usize,
    timeout: Duration,
    state: Mutex<State>,
    is_cancelled: AtomicBool,
}

struct State {
    /// When the start has failed, unless something answers meanwhile.
    until: Instant,
    /// Address and port of what is to answer.
    asked: (String, u16),
}

impl Patience {
    pub(crate) fn new(rank: usize, timeout: Duration, asked: (String, u16)) -> Arc<Self> {
        let state = Mutex::new(State { until: Instant::now() + timeout + ANSWER, asked });
        Arc::new(Self { rank, timeout, state, is_cancelled: AtomicBool::new(false) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something answered at this place, and may take so long for what comes next.
    pub(crate) fn answered(&self, address: &str, port: u16, next: Duration) {
        let mut state = self.state();
        state.until = state.until.max(Instant::now() + next);
        if (state.asked.0.as_str(), state.asked.1) != (address, port) {
            state.asked = (address.to_owned(), port);
        }
    }

    /// The pause between two questions.
    ///
    /// # Errors
    /// Nobody waits for the answer any more.
    pub(crate) fn pause(&self) -> Result<(), C10dError> {
        if self.is_cancelled.load(Ordering::Relaxed) {
            return Err(C10dError::Cancelled { rank: self.rank });
        }
        std::thread::sleep(POLL);
        Ok(())
    }

    fn silence(&self) -> Option<C10dError> {
        let state = self.state();
        if Instant::now() < state.until {
            return None;
        }
        let (address, port) = state.asked.clone();
        let (rank, timeout) = (self.rank, self.timeout);
        let reason = "it takes connections and does not answer".to_owned();
        Some(C10dError::MasterUnreachable { rank, address, port, timeout, reason })
    }

    /// Starts something on a thread of its own and waits for it, as long as `stop` does not ask for an
    /// end and something answers. What hangs in libtorch keeps its thread until the process ends.
    pub(crate) fn wait_for<T: Send + 'static>(
        self: &Arc<Self>,
        start: impl FnOnce() -> Result<T, C10dError> + Send + 'static,
        stop: &dyn Fn() -> bool,
    ) -> Result<T, C10dError> {
        let (sender, started) = channel();
        let starting = move || {
            let _ = sender.send(start());
        };
        let thread = std::thread::Builder::new().name("c10d-start".to_owned()).spawn(starting);
        let rank = self.rank;
        thread.map_err(|error| C10dError::NoThread { rank, reason: error.to_string() })?;
        loop {
            let end = match started.recv_timeout(POLL) {
                Ok(result) => return result,
                Err(RecvTimeoutError::Disconnected) => {
                    let reason = "it panicked".to_owned();
                    return Err(C10dError::NoThread { rank, reason });
                }
                Err(RecvTimeoutError::Timeout) if stop() => C10dError::Cancelled { rank },
                Err(RecvTimeoutError::Timeout) => match self.silence() {
                    Some(error) => error,
                    None => continue,
                },
            };
            self.is_cancelled.store(true, Ordering::Relaxed);
            let _ = started.recv_timeout(FAREWELL);
            return Err(end);
        }
    }
}
