//! The start of a group: rank 0 hosts the store, everyone signs in.

use std::time::{Duration, Instant};

use crate::error::C10dError;
use crate::ffi::StoreHandle;

/// How often the list of ranks that signed in is read again.
const POLL: Duration = Duration::from_millis(50);
/// How long rank 0 keeps the store open after it gave up waiting.
const FAREWELL: Duration = Duration::from_millis(500);
/// Set by rank 0 when it gave up waiting.
const GAVE_UP: &str = "gave_up";

/// Where a group meets.
#[derive(Clone, Copy)]
pub(crate) struct Rendezvous<'a> {
    pub(crate) rank: usize,
    pub(crate) world_size: usize,
    pub(crate) address: &'a str,
    pub(crate) port: u16,
    pub(crate) timeout: Duration,
}

impl Rendezvous<'_> {
    /// Opens the store on rank 0, connects to it on the others.
    pub(crate) fn open(&self) -> Result<StoreHandle, C10dError> {
        let is_server = self.rank == 0;
        StoreHandle::new(self.address, self.port, is_server, self.timeout).map_err(|reason| {
            let address = self.address.to_owned();
            if is_server {
                C10dError::Listen { address, port: self.port, reason }
            } else {
                self.unreachable(reason)
            }
        })
    }

    /// A second connection to the store that [`open`](Self::open) reached.
    pub(crate) fn connect(&self) -> Result<StoreHandle, C10dError> {
        StoreHandle::new(self.address, self.port, false, self.timeout)
            .map_err(|reason| self.unreachable(reason))
    }

    /// Signs in and waits until every rank did, at most for the timeout.
    pub(crate) fn sign_in(&self, store: &StoreHandle) -> Result<(), C10dError> {
        let deadline = Instant::now() + self.timeout;
        store.set(&joined(self.rank), "1").map_err(|reason| self.unreachable(reason))?;
        loop {
            let mut missing = Vec::new();
            for peer in 0..self.world_size {
                let found = store.get(&joined(peer)).map_err(|reason| self.unreachable(reason))?;
                if found.is_none() {
                    missing.push(peer);
                }
            }
            if missing.is_empty() {
                return Ok(());
            }
            let told = store.get(GAVE_UP).map_err(|reason| self.unreachable(reason))?.is_some();
            if told || Instant::now() >= deadline {
                if self.rank == 0 {
                    // The store ends with this rank: let the others learn why first.
                    store.set(GAVE_UP, "1").map_err(|reason| self.unreachable(reason))?;
                    std::thread::sleep(FAREWELL);
                }
                return Err(C10dError::MissingRanks {
                    rank: self.rank,
                    joined: self.world_size - missing.len(),
                    world_size: self.world_size,
                    missing,
                    timeout: self.timeout,
                });
            }
            std::thread::sleep(POLL);
        }
    }

    fn unreachable(&self, reason: String) -> C10dError {
        C10dError::MasterUnreachable {
            rank: self.rank,
            address: self.address.to_owned(),
            port: self.port,
            timeout: self.timeout,
            reason,
        }
    }
}

fn joined(rank: usize) -> String {
    format!("joined/{rank}")
}
