//! Where the ranks of a group meet: rank 0 takes a port and keeps it, the others find it.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::{IpAddr, TcpStream, ToSocketAddrs};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use crate::error::C10dError;
use crate::ffi::StoreHandle;
use crate::store::{Meeting, POLL, is_complete, route};

/// How long a store that may be rank 0's has to answer. What listens there may be something else.
const PROBE: Duration = Duration::from_secs(2);
/// Longest pause before a store that is not the right one is asked again: libtorch looks up the name of
/// whoever connects, and while that lasts the store answers nobody.
const PAUSE: Duration = Duration::from_secs(1);
/// In rank 0's store: whose it is.
const OWNER: &str = "owner";
/// In rank 0's store: the number of ranks of its group.
const WORLD_SIZE: &str = "world_size";
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

    /// Opens the store on rank 0, finds it on the others, and waits there until every rank came.
    pub(crate) fn meet(
        &self,
        rank: usize,
        world_size: usize,
        timeout: Duration,
    ) -> Result<Met, C10dError> {
        let address = self.address.clone();
        let deadline = Instant::now() + timeout;
        let at = |address, port| Meeting { rank, world_size, address, port, timeout };
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
            std::thread::sleep(POLL);
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
        if Instant::now() >= deadline {
            let first = places.first().ok_or(C10dError::NoPorts)?;
            let reason = match places.len() {
                1 => first.found.text().to_owned(),
                number => format!("none of {number} ports is that of this job"),
            };
            return Err(first.meeting.unreachable(reason));
        }
        std::thread::sleep(POLL);
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
            std::thread::sleep(POLL);
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
            std::thread::sleep(POLL);
        }
    }
}

/// `ADDRESS PORT OWNER`.
fn told_place(word: &str, other: &Meeting) -> Option<Place> {
    let [address, port, owner] = word.split(' ').collect::<Vec<_>>()[..] else { return None };
    let port = port.parse().ok()?;
    Some(Place::new(Meeting { address: address.to_owned(), port, ..other.clone() }, owner))
}

/// What is where rank 0 may listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Nobody,
    Silent,
    Stranger,
    /// Rank 0 of a group whose ranks all came: one that ends, and this rank belongs to the next.
    Complete,
    /// Rank 0 of a group of another number of ranks.
    OtherSize,
    Rank0,
}

impl Found {
    fn text(self) -> &'static str {
        match self {
            Self::Nobody => "nobody listens there",
            Self::Silent => "what listens there takes connections and does not answer",
            Self::Stranger => "what listens there is not the store of this job",
            Self::Complete => "the group that met there is complete without this rank",
            Self::OtherSize => "the group there has another WORLD_SIZE",
            Self::Rank0 => "it answered too late",
        }
    }
}

/// Where rank 0 may listen.
struct Place {
    meeting: Meeting,
    /// What rank 0's store says there.
    owner: String,
    /// When last something answered, or nothing did.
    found: Found,
    /// Until when it is left alone, and how long the next pause is.
    rest: (Instant, Duration),
    /// Asked, and no answer yet. What takes a connection and then is silent would hold libtorch for
    /// ever: it gets one thread, which stays until the process ends.
    asked: Option<Receiver<Found>>,
}

impl Place {
    fn new(meeting: Meeting, owner: &str) -> Self {
        let rest = (Instant::now(), POLL);
        Self { meeting, owner: owner.to_owned(), found: Found::Nobody, rest, asked: None }
    }

    /// Whether rank 0 answers there and its group still waits for ranks.
    fn is_rank_0(&mut self) -> bool {
        self.found = self.look();
        self.found == Found::Rank0
    }

    fn look(&mut self) -> Found {
        let (answer, patience) = match self.asked.take() {
            Some(answer) => (answer, Duration::ZERO),
            None if Instant::now() < self.rest.0 => return self.found,
            None if !self.is_listening() => return Found::Nobody,
            None => (self.ask(), PROBE),
        };
        match answer.recv_timeout(patience) {
            Ok(found) => {
                let pause = self.rest.1;
                self.rest = (Instant::now() + pause, PAUSE.min(pause * 2));
                found
            }
            Err(RecvTimeoutError::Disconnected) => Found::Nobody,
            Err(RecvTimeoutError::Timeout) => {
                self.asked = Some(answer);
                if self.found == Found::Nobody { Found::Silent } else { self.found }
            }
        }
    }

    /// libtorch tries again for as long as nobody listens; this is known at once.
    fn is_listening(&self) -> bool {
        (self.meeting.address.as_str(), self.meeting.port).to_socket_addrs().is_ok_and(
            |mut found| found.any(|place| TcpStream::connect_timeout(&place, PROBE).is_ok()),
        )
    }

    fn ask(&self) -> Receiver<Found> {
        let (sender, answer) = channel();
        let (meeting, owner) = (self.meeting.clone(), self.owner.clone());
        let ask = move || {
            let found = || -> Result<Found, String> {
                let store = StoreHandle::new(&meeting.address, meeting.port, false, PROBE)?;
                if store.get(OWNER)?.as_ref() != Some(&owner) {
                    return Ok(Found::Stranger);
                }
                if store.get(WORLD_SIZE)? != Some(meeting.world_size.to_string()) {
                    return Ok(Found::OtherSize);
                }
                Ok(if is_complete(&store)? { Found::Complete } else { Found::Rank0 })
            };
            let _ = sender.send(found().unwrap_or(Found::Stranger));
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

/// Says whose store it is; the owner last, which is what others look for.
fn claim(meeting: &Meeting, store: &StoreHandle, owner: &str) -> Result<(), C10dError> {
    store
        .set(WORLD_SIZE, &meeting.world_size.to_string())
        .and_then(|()| store.set(OWNER, owner))
        .map_err(|reason| meeting.unreachable(reason))
}
