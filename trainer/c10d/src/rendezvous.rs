//! Where the ranks of a group meet: rank 0 takes a port and keeps it, the others find it.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use crate::error::C10dError;
use crate::ffi::StoreHandle;
use crate::store::{Meeting, POLL, route};

/// How long a store that may be rank 0's has to answer. What listens there may be something else.
const PROBE: Duration = Duration::from_secs(2);
/// In rank 0's store: whose it is.
const OWNER: &str = "owner";
/// In a store that somebody else hosts: address, port and owner of rank 0's.
const PUBLISHED: &str = "hqsam/rank_0";

/// Where the ranks of a group meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendezvous {
    /// Host name or address of the machine that `port` is about.
    pub address: String,
    /// How the port of rank 0's store is known.
    pub port: StorePort,
}

/// How the ranks know the port of rank 0's store. Rank 0 never lets go of a port that it found free.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StorePort {
    /// This one, which must be free.
    Fixed(u16),
    /// The first of `ports` that is free where rank 0 runs; the others look for it there.
    FirstFree {
        /// At least one, in the order in which they are tried.
        ports: Vec<u16>,
        /// What tells this group from others of that machine; the same on all ranks.
        job: String,
    },
    /// Any: rank 0 publishes it in the TCPStore at this port, which somebody else hosts and which
    /// outlives the group, as torchrun's does (`TORCHELASTIC_USE_AGENT_STORE`).
    Published {
        /// Of the other store.
        store: u16,
    },
}

impl Rendezvous {
    /// Rank 0 listens on `port` of `address`.
    pub fn fixed(address: impl Into<String>, port: u16) -> Self {
        Self { address: address.into(), port: StorePort::Fixed(port) }
    }

    /// Opens the store on rank 0, finds it on the others.
    pub(crate) fn open(
        &self,
        rank: usize,
        world_size: usize,
        timeout: Duration,
    ) -> Result<(Meeting, StoreHandle), C10dError> {
        let address = self.address.clone();
        let deadline = Instant::now() + timeout;
        let at = |address, port| Meeting { rank, world_size, address, port, timeout };
        match &self.port {
            StorePort::Fixed(port) => {
                let meeting = at(address, *port);
                let store = if rank == 0 { meeting.host() } else { meeting.connect() }?;
                Ok((meeting, store))
            }
            StorePort::FirstFree { ports, job } if rank == 0 => {
                let meetings = ports.iter().map(|&port| at(address.clone(), port));
                host_first_free(meetings, job)
            }
            StorePort::FirstFree { ports, job } => {
                let place = |&port| Place::new(at(address.clone(), port), job);
                find(ports.iter().map(place).collect(), deadline)
            }
            StorePort::Published { store } => {
                let other = at(address, *store);
                let notes = other.connect().map_err(|error| error.of_other_store(&other))?;
                if rank == 0 { publish(other, &notes) } else { look_up(&other, &notes, deadline) }
            }
        }
    }
}

fn host_first_free(
    meetings: impl Iterator<Item = Meeting>,
    job: &str,
) -> Result<(Meeting, StoreHandle), C10dError> {
    let mut failure = C10dError::NoPorts;
    for meeting in meetings {
        match meeting.host() {
            Ok(store) => {
                set(&meeting, &store, OWNER, job)?;
                return Ok((meeting, store));
            }
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// Asks at every place in turn until one is rank 0's.
fn find(mut places: Vec<Place>, deadline: Instant) -> Result<(Meeting, StoreHandle), C10dError> {
    loop {
        if let Some(place) = places.iter_mut().find_map(|place| place.is_rank_0().then_some(place))
        {
            return place.join();
        }
        if Instant::now() >= deadline {
            let first = places.first().ok_or(C10dError::NoPorts)?;
            let reason = format!("none of {} ports is that of this job", places.len());
            return Err(first.meeting.unreachable(reason));
        }
        std::thread::sleep(POLL);
    }
}

/// Hosts a store on a port of the kernel's choice and leaves word of it in the other one.
fn publish(other: Meeting, notes: &StoreHandle) -> Result<(Meeting, StoreHandle), C10dError> {
    let here = Meeting { address: "localhost".to_owned(), port: 0, ..other.clone() };
    let store = here.host()?;
    let owner = RandomState::new().build_hasher().finish().to_string();
    let meeting = Meeting { port: store.port(), ..here };
    set(&meeting, &store, OWNER, &owner)?;
    // Where the way to the other store is loopback, its name means this machine, for all ranks.
    let own = route(&other.address, other.port).map(|(own, _)| own).filter(|ip| !ip.is_loopback());
    let address = own.map_or_else(|| other.address.clone(), |ip| ip.to_string());
    let note = format!("{address} {} {owner}", meeting.port);
    notes
        .set(PUBLISHED, &note)
        .map_err(|reason| other.unreachable(reason).of_other_store(&other))?;
    Ok((Meeting { address, ..meeting }, store))
}

/// Reads where rank 0 listens until it answers there: word of an earlier group stays in the store.
fn look_up(
    other: &Meeting,
    notes: &StoreHandle,
    deadline: Instant,
) -> Result<(Meeting, StoreHandle), C10dError> {
    let (mut word, mut place) = (None, None);
    loop {
        let found = notes
            .get(PUBLISHED)
            .map_err(|reason| other.unreachable(reason).of_other_store(other))?;
        if found != word {
            place = found.as_deref().and_then(|word| told_place(word, other));
            word = found;
        }
        if let Some(place) = place.as_mut()
            && place.is_rank_0()
        {
            return place.join();
        }
        if Instant::now() >= deadline {
            return Err(match place {
                Some(place) => {
                    place.meeting.unreachable("it left word of this port and is gone".to_owned())
                }
                None => {
                    other.unreachable("it has not left word in the store of this port".to_owned())
                }
            });
        }
        std::thread::sleep(POLL);
    }
}

/// `ADDRESS PORT OWNER`.
fn told_place(word: &str, other: &Meeting) -> Option<Place> {
    let [address, port, owner] = word.split(' ').collect::<Vec<_>>()[..] else { return None };
    let port = port.parse().ok()?;
    Some(Place::new(Meeting { address: address.to_owned(), port, ..other.clone() }, owner))
}

/// Where rank 0 may listen.
struct Place {
    meeting: Meeting,
    /// What rank 0's store says there.
    owner: String,
    /// Asked, and no answer yet. What takes a connection and then is silent would hold libtorch for
    /// ever: it gets one thread, which stays until the process ends.
    asked: Option<Receiver<bool>>,
}

impl Place {
    fn new(meeting: Meeting, owner: &str) -> Self {
        Self { meeting, owner: owner.to_owned(), asked: None }
    }

    /// Whether a store answers there that says so.
    fn is_rank_0(&mut self) -> bool {
        let (answer, patience) = match self.asked.take() {
            Some(answer) => (answer, Duration::ZERO),
            None if !self.is_listening() => return false,
            None => (self.ask(), PROBE),
        };
        match answer.recv_timeout(patience) {
            Ok(found) => found,
            Err(RecvTimeoutError::Disconnected) => false,
            Err(RecvTimeoutError::Timeout) => {
                self.asked = Some(answer);
                false
            }
        }
    }

    /// libtorch tries again for as long as nobody listens; this is known at once.
    fn is_listening(&self) -> bool {
        (self.meeting.address.as_str(), self.meeting.port).to_socket_addrs().is_ok_and(
            |mut found| found.any(|place| TcpStream::connect_timeout(&place, PROBE).is_ok()),
        )
    }

    fn ask(&self) -> Receiver<bool> {
        let (sender, answer) = channel();
        let (meeting, owner) = (self.meeting.clone(), self.owner.clone());
        let ask = move || {
            let found = StoreHandle::new(&meeting.address, meeting.port, false, PROBE)
                .and_then(|store| store.get(OWNER));
            let _ = sender.send(found.is_ok_and(|found| found.as_ref() == Some(&owner)));
        };
        // Without a thread nobody answers, and it is asked again.
        let _ = std::thread::Builder::new().name("c10d-probe".to_owned()).spawn(ask);
        answer
    }

    /// The store there, which answered.
    fn join(&self) -> Result<(Meeting, StoreHandle), C10dError> {
        Ok((self.meeting.clone(), self.meeting.connect()?))
    }
}

fn set(meeting: &Meeting, store: &StoreHandle, key: &str, value: &str) -> Result<(), C10dError> {
    store.set(key, value).map_err(|reason| meeting.unreachable(reason))
}
