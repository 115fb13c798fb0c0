//! The start of a group at rank 0's store: everyone signs in.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::C10dError;
use crate::ffi::StoreHandle;
use crate::patience::{ANSWER, Patience};

/// How often what another rank writes is read again.
pub(crate) const POLL: Duration = Duration::from_millis(50);
/// How long rank 0 keeps the store open after it gave up waiting, if ranks do not hear of it sooner.
const FAREWELL: Duration = Duration::from_secs(3);
/// Set by rank 0 when it gave up waiting: the ranks that did not come.
const GAVE_UP: &str = "gave_up";
/// Set when every rank signed in: an address of rank 0's machine that is not loopback, if any. From
/// then on the group takes nobody: whoever comes later belongs to the next one, as after a restart while
/// this group's ranks still end.
const COMPLETE: &str = "complete";

/// A group at the port of rank 0's store.
#[derive(Clone)]
pub(crate) struct Meeting {
    pub(crate) rank: usize,
    pub(crate) world_size: usize,
    pub(crate) address: String,
    pub(crate) port: u16,
    pub(crate) timeout: Duration,
    pub(crate) patience: Arc<Patience>,
}

impl Meeting {
    /// Opens the store, which listens on all addresses of this machine.
    pub(crate) fn host(&self) -> Result<StoreHandle, C10dError> {
        StoreHandle::new(&self.address, self.port, true, self.timeout).map_err(|reason| {
            C10dError::Listen { address: self.address.clone(), port: self.port, reason }
        })
    }

    /// A connection to the store that rank 0 hosts.
    pub(crate) fn connect(&self) -> Result<StoreHandle, C10dError> {
        StoreHandle::new(&self.address, self.port, false, self.timeout)
            .map_err(|reason| self.unreachable(reason))
    }

    /// Says that this rank is here.
    pub(crate) fn sign_in<'a>(&'a self, store: &'a StoreHandle) -> Result<Arrival<'a>, C10dError> {
        let (own, master) = route(&self.address, self.port).unwrap_or((LOOPBACK, LOOPBACK));
        store
            .set(&joined(self.rank), &master.to_string())
            .map_err(|reason| self.unreachable(reason))?;
        Ok(Arrival { meeting: self, store, own, deadline: Instant::now() + self.timeout })
    }

    /// The store ends with rank 0: the others learn first why.
    fn give_up(&self, store: &StoreHandle, missing: &[usize]) -> Result<(), String> {
        if self.rank != 0 {
            return store.set(&told(self.rank), "1");
        }
        let ranks: Vec<String> = missing.iter().map(usize::to_string).collect();
        store.set(GAVE_UP, &ranks.join(" "))?;
        let deadline = Instant::now() + FAREWELL;
        for peer in (1..self.world_size).filter(|peer| !missing.contains(peer)) {
            while store.get(&told(peer))?.is_none() && Instant::now() < deadline {
                std::thread::sleep(POLL);
            }
        }
        Ok(())
    }

    pub(crate) fn unreachable(&self, reason: String) -> C10dError {
        C10dError::MasterUnreachable {
            rank: self.rank,
            address: self.address.clone(),
            port: self.port,
            timeout: self.timeout,
            reason,
        }
    }
}

/// A rank that signed in.
pub(crate) struct Arrival<'a> {
    meeting: &'a Meeting,
    store: &'a StoreHandle,
    /// The address from which this machine reaches rank 0's.
    own: IpAddr,
    deadline: Instant,
}

impl Arrival<'_> {
    /// Once every rank signed in, the address of this machine at which the others reach it.
    ///
    /// # Errors
    /// Ranks that did not come within the timeout, a store that is gone.
    pub(crate) fn host_of_complete(&self) -> Result<Option<IpAddr>, C10dError> {
        let &Self { meeting, store, own, .. } = self;
        let unreachable = |reason| meeting.unreachable(reason);
        let roll = self.look().map_err(unreachable)?;
        meeting.patience.answered(&meeting.address, meeting.port, ANSWER);
        let missing = match roll {
            Roll::Complete(elsewhere) => return Ok(Some(own_address(own, elsewhere))),
            Roll::Open => return Ok(None),
            Roll::Closed(missing) => missing,
        };
        meeting.give_up(store, &missing).map_err(unreachable)?;
        Err(C10dError::MissingRanks {
            rank: meeting.rank,
            joined: meeting.world_size - missing.len(),
            world_size: meeting.world_size,
            missing,
            timeout: meeting.timeout,
        })
    }

    /// Rank 0 counts and says so; the others read that, so that a look of all ranks costs the store a
    /// few requests a rank and not one for each pair.
    fn look(&self) -> Result<Roll, String> {
        let &Self { meeting, store, deadline, .. } = self;
        let is_over = || Instant::now() >= deadline;
        if meeting.rank != 0 {
            if let Some(elsewhere) = store.get(COMPLETE)? {
                return Ok(Roll::Complete(elsewhere.parse().ok()));
            }
            if let Some(missing) = store.get(GAVE_UP)? {
                let ranks = missing.split(' ').filter_map(|rank| rank.parse().ok());
                return Ok(Roll::Closed(ranks.collect()));
            }
            if !is_over() {
                return Ok(Roll::Open);
            }
        }
        let (mut missing, mut masters) = (Vec::new(), Vec::new());
        for peer in 0..meeting.world_size {
            match store.get(&joined(peer))? {
                Some(master) => masters.extend(master.parse::<IpAddr>()),
                None => missing.push(peer),
            }
        }
        if missing.is_empty() {
            let elsewhere = masters.into_iter().find(|master| !master.is_loopback());
            store
                .set(COMPLETE, &elsewhere.map_or("nowhere else".to_owned(), |ip| ip.to_string()))?;
            return Ok(Roll::Complete(elsewhere));
        }
        Ok(if is_over() { Roll::Closed(missing) } else { Roll::Open })
    }
}

/// Who came to the start of a group.
enum Roll {
    /// Everyone. What other machines call rank 0's machine, if there are any.
    Complete(Option<IpAddr>),
    /// Not everyone yet.
    Open,
    /// These did not come in time.
    Closed(Vec<usize>),
}

/// Whether every rank of the group at `store` signed in.
pub(crate) fn is_complete(store: &StoreHandle) -> Result<bool, String> {
    Ok(store.get(COMPLETE)?.is_some())
}

/// The address from which this machine sends to that one, and that one's own.
pub(crate) fn route(address: &str, port: u16) -> Option<(IpAddr, IpAddr)> {
    let mut masters: Vec<_> = (address, port).to_socket_addrs().ok()?.collect();
    masters.sort_by_key(SocketAddr::is_ipv6);
    masters.into_iter().find_map(|master| {
        let any: IpAddr = match master {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        // Sends nothing: it only asks the kernel for the way.
        let socket = UdpSocket::bind((any, 0)).ok()?;
        socket.connect(master).ok()?;
        Some((socket.local_addr().ok()?.ip(), master.ip()))
    })
}

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// `own`, the address from which the master is reached. Where that is loopback, this is the master's
/// machine, whose own name may mean loopback: then it is what other machines call the master, if
/// there are any.
fn own_address(own: IpAddr, elsewhere: Option<IpAddr>) -> IpAddr {
    elsewhere.filter(|_| own.is_loopback()).unwrap_or(own)
}

fn joined(rank: usize) -> String {
    format!("joined/{rank}")
}

/// Set by a rank that knows that rank 0 gave up.
fn told(rank: usize) -> String {
    format!("told/{rank}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_known_by_an_address_that_others_reach() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        // Node 0, whose name means loopback on itself, and node 1.
        assert_eq!(own_address(LOOPBACK, Some(ip("10.0.0.1"))), ip("10.0.0.1"));
        assert_eq!(own_address(ip("10.0.0.2"), Some(ip("10.0.0.1"))), ip("10.0.0.2"));
        // One machine.
        assert_eq!(own_address(LOOPBACK, None), LOOPBACK);
        assert_eq!(own_address(ip("10.0.0.1"), Some(ip("10.0.0.1"))), ip("10.0.0.1"));
    }
}
