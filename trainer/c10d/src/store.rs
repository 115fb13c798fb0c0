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

    /// Signs in and waits until every rank did, at most for the timeout. Returns the address of this
    /// machine at which the others reach it.
    pub(crate) fn sign_in(&self, store: &StoreHandle) -> Result<IpAddr, C10dError> {
        let deadline = Instant::now() + self.timeout;
        let (own, master) = route(&self.address, self.port).unwrap_or((LOOPBACK, LOOPBACK));
        store
            .set(&joined(self.rank), &master.to_string())
            .map_err(|reason| self.unreachable(reason))?;
        loop {
            let mut missing = Vec::new();
            let mut masters = Vec::new();
            for peer in 0..self.world_size {
                match store.get(&joined(peer)).map_err(|reason| self.unreachable(reason))? {
                    Some(master) => masters.extend(master.parse::<IpAddr>()),
                    None => missing.push(peer),
                }
            }
            if missing.is_empty() {
                return Ok(own_address(own, &masters));
            }
            let told = store.get(GAVE_UP).map_err(|reason| self.unreachable(reason))?.is_some();
            if told || Instant::now() >= deadline {
                self.give_up(store, &missing).map_err(|reason| self.unreachable(reason))?;
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
