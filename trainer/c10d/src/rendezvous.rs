//! Where the ranks of a group meet: rank 0 takes a port and keeps it, the others find it.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::C10dError;
use crate::ffi::StoreHandle;
use crate::patience::Patience;
use crate::place::{Place, claim};
use crate::store::{Meeting, route};

/// The owner of a store at a fixed port, of which there is one.
const FIXED: &str = "the only one";

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
    /// This one, which must be free where rank 0 runs.
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
        /// What tells this group from earlier ones, as far as all of its ranks know it. Where they do
        /// not, the last word holds.
        group: String,
    },
}

impl Rendezvous {
    /// Rank 0 listens on `port` of `address`.
    pub fn fixed(address: impl Into<String>, port: u16) -> Self {
        Self { address: address.into(), port: StorePort::Fixed(port) }
    }

    /// Where rank 0 listens, as far as that is known before.
    pub(crate) fn place(&self) -> (String, u16) {
        let port = match &self.port {
            StorePort::Fixed(port) | StorePort::Published { store: port, .. } => *port,
            StorePort::FirstFree { ports, .. } => ports.first().copied().unwrap_or(0),
        };
        (self.address.clone(), port)
    }

    /// Opens the store on rank 0, finds it on the others, and waits there until every rank came.
    pub(crate) fn meet(
        &self,
        rank: usize,
        world_size: usize,
        timeout: Duration,
        patience: &Arc<Patience>,
    ) -> Result<Met, C10dError> {
        let address = self.address.clone();
        let deadline = Instant::now() + timeout;
        let at = |address, port| Meeting {
            rank,
            world_size,
            address,
            port,
            timeout,
            patience: Arc::clone(patience),
        };
        let (ports, owner) = match &self.port {
            StorePort::Fixed(port) => (std::slice::from_ref(port), FIXED),
            StorePort::FirstFree { ports, job } => (&ports[..], job.as_str()),
            StorePort::Published { store, group } => {
                let other = at(address, *store);
                let notes = other.connect().map_err(|error| error.of_other_store(&other))?;
                let board = Board { other, notes, key: format!("hqsam/{group}/rank_0") };
                return if rank == 0 { board.publish() } else { board.follow(deadline) };
            }
        };
        let meetings = ports.iter().map(|&port| at(address.clone(), port));
        let (meeting, store) = if rank == 0 {
            host_first_free(meetings, owner)?
        } else {
            find(meetings.map(|meeting| Place::new(meeting, owner)).collect(), deadline)?
        };
        Met::at(meeting, store)
    }
}

/// A group that is complete.
pub(crate) struct Met {
    pub(crate) meeting: Meeting,
    pub(crate) store: StoreHandle,
    /// The address of this machine at which the others reach it.
    pub(crate) host: IpAddr,
}

impl Met {
    /// Signs in and waits for the other ranks.
    fn at(meeting: Meeting, store: StoreHandle) -> Result<Self, C10dError> {
        let arrival = meeting.sign_in(&store)?;
        loop {
            if let Some(host) = arrival.host_of_complete()? {
                return Ok(Self { meeting, store, host });
            }
            meeting.patience.pause()?;
        }
    }
}

fn host_first_free(
    meetings: impl Iterator<Item = Meeting>,
    owner: &str,
) -> Result<(Meeting, StoreHandle), C10dError> {
    let mut failure = C10dError::NoPorts;
    for meeting in meetings {
        match meeting.host() {
            Ok(store) => {
                claim(&meeting, &store, owner)?;
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
        let first = places.first().ok_or(C10dError::NoPorts)?;
        if Instant::now() >= deadline {
            let reason = match places.len() {
                1 => first.found.text().to_owned(),
                number => format!("none of {number} ports is that of this job"),
            };
            return Err(first.meeting.unreachable(reason));
        }
        first.meeting.patience.pause()?;
    }
}

/// A store that somebody else hosts, where rank 0 leaves word of its own.
struct Board {
    other: Meeting,
    notes: StoreHandle,
    /// There: address, port and owner of rank 0's store.
    key: String,
}

impl Board {
    /// Hosts a store on a port of the kernel's choice and leaves word of it.
    fn publish(self) -> Result<Met, C10dError> {
        let Self { other, notes, key } = self;
        let here = Meeting { address: "localhost".to_owned(), port: 0, ..other.clone() };
        let store = here.host()?;
        let owner = RandomState::new().build_hasher().finish().to_string();
        let meeting = Meeting { port: store.port(), ..here };
        claim(&meeting, &store, &owner)?;
        // Where the way to the other store is loopback, its name means this machine, for all ranks.
        let own = route(&other.address, other.port).map(|(own, _)| own);
        let own = own.filter(|ip| !ip.is_loopback());
        let address = own.map_or_else(|| other.address.clone(), |ip| ip.to_string());
        let note = format!("{address} {} {owner}", meeting.port);
        notes
            .set(&key, &note)
            .map_err(|reason| other.unreachable(reason).of_other_store(&other))?;
        Met::at(Meeting { address, ..meeting }, store)
    }

    /// Goes where rank 0 left word of, and on to another place if that one ends or there is newer word
    /// before the group is complete: word of an earlier group stays in the store, and its rank 0 may
    /// still wait.
    fn follow(self, deadline: Instant) -> Result<Met, C10dError> {
        loop {
            let (word, (meeting, store)) = self.look_up(deadline)?;
            match self.stay(&word, &meeting, &store) {
                Ok(Some(host)) => return Ok(Met { meeting, store, host }),
                Ok(None) => {}
                Err(C10dError::MasterUnreachable { .. }) if Instant::now() < deadline => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits there for the other ranks for as long as the word holds.
    fn stay(
        &self,
        word: &str,
        meeting: &Meeting,
        store: &StoreHandle,
    ) -> Result<Option<IpAddr>, C10dError> {
        let arrival = meeting.sign_in(store)?;
        while self.word()?.as_deref() == Some(word) {
            if let Some(host) = arrival.host_of_complete()? {
                return Ok(Some(host));
            }
            meeting.patience.pause()?;
        }
        Ok(None)
    }

    fn word(&self) -> Result<Option<String>, C10dError> {
        let found = self.notes.get(&self.key);
        found.map_err(|reason| self.other.unreachable(reason).of_other_store(&self.other))
    }

    /// Reads where rank 0 listens until it answers there and waits for ranks.
    fn look_up(&self, deadline: Instant) -> Result<(String, (Meeting, StoreHandle)), C10dError> {
        let (mut word, mut place) = (None, None);
        loop {
            let found = self.word()?;
            if found != word {
                place = found.as_deref().and_then(|word| told_place(word, &self.other));
                word = found;
            }
            if let (Some(word), Some(place)) = (&word, place.as_mut())
                && place.is_rank_0()
            {
                return Ok((word.clone(), place.join()?));
            }
            if Instant::now() >= deadline {
                let (meeting, reason) = match place {
                    Some(Place { meeting, found, .. }) => {
                        (meeting, format!("it left word of this port: {}", found.text()))
                    }
                    None => {
                        let reason = "it has not left word in the store of this port";
                        (self.other.clone(), reason.to_owned())
                    }
                };
                return Err(meeting.unreachable(reason));
            }
            self.other.patience.pause()?;
        }
    }
}

/// `ADDRESS PORT OWNER`.
fn told_place(word: &str, other: &Meeting) -> Option<Place> {
    let [address, port, owner] = word.split(' ').collect::<Vec<_>>()[..] else { return None };
    let port = port.parse().ok()?;
    Some(Place::new(Meeting { address: address.to_owned(), port, ..other.clone() }, owner))
}
