//! The start of a group at rank 0's store: everyone signs in.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::time::{Duration, Instant};

use crate::error::C10dError;
use crate::ffi::StoreHandle;

/// How often what another rank writes is read again.
pub(crate) const POLL: Duration = Duration::from_millis(50);
/// How long rank 0 keeps the store open after it gave up waiting, if ranks do not hear of it sooner.
const FAREWELL: Duration = Duration::from_secs(3);
/// Set by rank 0 when it gave up waiting.
const GAVE_UP: &str = "gave_up";

/// Set when every rank signed in. From then on the group takes nobody: whoever comes later belongs to
/// the next one, as after a restart while this group's ranks still end.
const COMPLETE: &str = "complete";

/// A group at the port of rank 0's store.
#[derive(Clone)]
pub(crate) struct Meeting {
    pub(crate) rank: usize,
    pub(crate) world_size: usize,
    pub(crate) address: String,
    pub(crate) port: u16,
    pub(crate) timeout: Duration,
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
        store.set(GAVE_UP, "1")?;
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
        let &Self { meeting, store, own, deadline } = self;
        let unreachable = |reason| meeting.unreachable(reason);
        let mut missing = Vec::new();
        let mut masters = Vec::new();
        for peer in 0..meeting.world_size {
            match store.get(&joined(peer)).map_err(unreachable)? {
                Some(master) => masters.extend(master.parse::<IpAddr>()),
                None => missing.push(peer),
            }
        }
        if missing.is_empty() {
            store.set(COMPLETE, "1").map_err(unreachable)?;
            return Ok(Some(own_address(own, &masters)));
        }
        let told = store.get(GAVE_UP).map_err(unreachable)?.is_some();
        if !told && Instant::now() < deadline {
            return Ok(None);
        }
        meeting.give_up(store, &missing).map_err(unreachable)?;
        Err(C10dError::MissingRanks {
            rank: meeting.rank,
            joined: meeting.world_size - missing.len(),
            world_size: meeting.world_size,
            missing,
            timeout: meeting.timeout,
        })
    }
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
fn own_address(own: IpAddr, masters: &[IpAddr]) -> IpAddr {
    let elsewhere = masters.iter().find(|master| !master.is_loopback());
    elsewhere.copied().filter(|_| own.is_loopback()).unwrap_or(own)
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
        let masters = [ip("127.0.1.1"), ip("10.0.0.1"), ip("127.0.1.1")];
        // Node 0, whose name means loopback on itself, and node 1.
        assert_eq!(own_address(LOOPBACK, &masters), ip("10.0.0.1"));
        assert_eq!(own_address(ip("10.0.0.2"), &masters), ip("10.0.0.2"));
        // One machine.
        assert_eq!(own_address(LOOPBACK, &[LOOPBACK]), LOOPBACK);
        assert_eq!(own_address(ip("10.0.0.1"), &[ip("10.0.0.1")]), ip("10.0.0.1"));
    }
}
