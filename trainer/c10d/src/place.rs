//! A place where rank 0 may listen: asking whose store is there.

use std::net::{TcpStream, ToSocketAddrs};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use crate::error::C10dError;
use crate::ffi::StoreHandle;
use crate::store::{Meeting, POLL, is_complete};

/// How long a store that may be rank 0's has to answer. What listens there may be something else.
const PROBE: Duration = Duration::from_secs(2);
/// Longest pause before a store that is not the right one is asked again: libtorch looks up the name of
/// whoever connects, and while that lasts the store answers nobody.
const PAUSE: Duration = Duration::from_secs(1);
/// In rank 0's store: whose it is.
const OWNER: &str = "owner";
/// In rank 0's store: the number of ranks of its group.
const WORLD_SIZE: &str = "world_size";

/// Says whose store it is; the owner last, which is what others look for.
pub(crate) fn claim(meeting: &Meeting, store: &StoreHandle, owner: &str) -> Result<(), C10dError> {
    store
        .set(WORLD_SIZE, &meeting.world_size.to_string())
        .and_then(|()| store.set(OWNER, owner))
        .map_err(|reason| meeting.unreachable(reason))
}

/// What is where rank 0 may listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
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
    pub(crate) fn text(self) -> &'static str {
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
pub(crate) struct Place {
    pub(crate) meeting: Meeting,
    /// What rank 0's store says there.
    owner: String,
    /// When last something answered, or nothing did.
    pub(crate) found: Found,
    /// Until when it is left alone, and how long the next pause is.
    rest: (Instant, Duration),
    /// Asked, and no answer yet. What takes a connection and then is silent would hold libtorch for
    /// ever: it gets one thread, which stays until the process ends.
    asked: Option<Receiver<Found>>,
}

impl Place {
    pub(crate) fn new(meeting: Meeting, owner: &str) -> Self {
        let rest = (Instant::now(), POLL);
        Self { meeting, owner: owner.to_owned(), found: Found::Nobody, rest, asked: None }
    }

    /// Whether rank 0 answers there and its group still waits for ranks.
    pub(crate) fn is_rank_0(&mut self) -> bool {
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
    pub(crate) fn join(&self) -> Result<(Meeting, StoreHandle), C10dError> {
        Ok((self.meeting.clone(), self.meeting.connect()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::patience::Patience;

    /// A place whose store is not that of this job, and that store.
    fn place_of_another_job() -> (Place, StoreHandle) {
        let (address, timeout) = ("localhost".to_owned(), Duration::from_secs(60));
        let patience = Patience::new(0, timeout, (address.clone(), 0));
        let meeting = Meeting { rank: 0, world_size: 2, address, port: 0, timeout, patience };
        let store = meeting.host().unwrap();
        let meeting = Meeting { port: store.port(), ..meeting };
        claim(&meeting, &store, "another job").unwrap();
        (Place::new(meeting, "this job"), store)
    }

    /// Looks until the place was asked again, and says for how long it is left alone then.
    fn next_pause(place: &mut Place) -> Duration {
        let (before, pause) = place.rest;
        while place.rest.0 == before {
            assert!(!place.is_rank_0());
            std::thread::sleep(POLL / 10);
        }
        assert_eq!(place.found, Found::Stranger);
        assert!(place.rest.0 >= before + pause);
        pause
    }

    #[test]
    fn a_store_of_another_job_is_asked_ever_more_rarely() {
        let (mut place, store) = place_of_another_job();
        let pauses: Vec<Duration> = (0..4).map(|_| next_pause(&mut place)).collect();
        assert_eq!(pauses, [1, 2, 4, 8].map(|times| POLL * times));
        // Left alone: that the store is gone is seen when the pause is over.
        place.rest.0 = Instant::now() + Duration::from_secs(3600);
        drop(store);
        assert_eq!(place.look(), Found::Stranger);
        place.rest.0 = Instant::now();
        assert_eq!(place.look(), Found::Nobody);
    }

    #[test]
    fn the_pauses_stay_short() {
        let (mut place, _store) = place_of_another_job();
        place.rest.1 = PAUSE;
        next_pause(&mut place);
        assert_eq!(place.rest.1, PAUSE);
    }
}
