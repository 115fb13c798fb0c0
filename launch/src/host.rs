//! Node 0's launcher as the meeting point of all machines: drives the coordinator.

use std::collections::BTreeMap;
use std::net::{IpAddr, TcpListener};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use crate::agent::Event;
use crate::coordinator::{Coordinator, Orders};
use crate::job::{Endpoint, JobError};
use crate::link::{self, Sending};
use crate::port::ReservedPort;
use crate::protocol::{Join, Report};

/// How long machines may take to read that the job is over.
const FAREWELL: Duration = Duration::from_secs(2);
/// The connection that the machine's own agent counts as.
pub(crate) const LOCAL: u32 = 0;

/// What reaches the coordinator.
pub(crate) enum Input {
    /// A machine came over a connection from this address.
    Joined(Join, Sending, u32, IpAddr),
    /// A machine reports, over this connection.
    Report(usize, u32, Report),
    /// This connection of a machine is lost.
    Lost(usize, u32, String),
}

struct Peer {
    connection: u32,
    sending: Sending,
    name: String,
}

/// Drives the coordinator to the end of the job.
pub(crate) struct Host {
    pub(crate) coordinator: Coordinator,
    pub(crate) inputs: Receiver<Input>,
    /// The agent of this machine.
    pub(crate) local: Sender<Event>,
}

impl Host {
    /// Until the job is over. Node 0 itself has joined already.
    pub(crate) fn run(mut self) {
        let mut peers = BTreeMap::new();
        // Held while the round runs, so that nobody else gets it.
        let mut _port = None;
        loop {
            let now = Instant::now();
            if self.coordinator.may_start(now) {
                let orders = match ReservedPort::new() {
                    Ok(port) => {
                        let orders = self.coordinator.start(port.number(), now);
                        _port = Some(port);
                        orders
                    }
                    Err(error) => self.coordinator.abort(format!("cannot reserve a port: {error}")),
                };
                self.send(&peers, orders);
            }
            let orders = self.coordinator.tick(now);
            self.send(&peers, orders);
            if self.coordinator.is_over() {
                return;
            }
            let input = match self.coordinator.wake() {
                None => self.inputs.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(at) => self.inputs.recv_timeout(at.saturating_duration_since(now)),
            };
            match input {
                Ok(input) => {
                    let orders = self.handle(&mut peers, input);
                    self.send(&peers, orders);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn handle(&mut self, peers: &mut BTreeMap<usize, Peer>, input: Input) -> Orders {
        let now = Instant::now();
        let is_current = |peers: &BTreeMap<usize, Peer>, node: usize, connection: u32| {
            connection == LOCAL
                || peers.get(&node).is_some_and(|peer| peer.connection == connection)
        };
        match input {
            Input::Joined(join, sending, connection, address) => {
                match self.coordinator.join(&join) {
                    Ok(()) => {
                        crate::say(&format!("node {} joined from {address}", join.node));
                        let peer = Peer { connection, sending, name: address.to_string() };
                        peers.insert(join.node, peer);
                    }
                    Err(refusal) => {
                        sending.send(&refusal);
                        sending.finish();
                    }
                }
                Vec::new()
            }
            Input::Report(node, connection, report) if is_current(peers, node, connection) => {
                self.coordinator.report(node, report, now)
            }
            Input::Lost(node, connection, reason) if is_current(peers, node, connection) => {
                match peers.remove(&node) {
                    Some(peer) => self.coordinator.lost(node, &peer.name, &reason, now),
                    None => Vec::new(),
                }
            }
            Input::Report(..) | Input::Lost(..) => Vec::new(),
        }
    }

    fn send(&self, peers: &BTreeMap<usize, Peer>, orders: Orders) {
        if orders.is_empty() {
            return;
        }
        let (own, others): (Orders, Orders) = orders.into_iter().partition(|(node, _)| *node == 0);
        for (node, order) in &others {
            if let Some(peer) = peers.get(node) {
                peer.sending.send(order);
            }
        }
        if self.coordinator.is_over() {
            self.say_farewell(peers);
        }
        // Last, because this process ends with its own agent.
        for (_, order) in own {
            let _ = self.local.send(Event::Order(LOCAL, order));
        }
    }

    /// Waits until the machines hung up: ending with unread messages would reset connections and
    /// lose the last order.
    fn say_farewell(&self, peers: &BTreeMap<usize, Peer>) {
        let until = Instant::now() + FAREWELL;
        let mut open = peers.len();
        for peer in peers.values() {
            peer.sending.finish();
        }
        while open > 0 {
            match self.inputs.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(Input::Lost(..)) => open -= 1,
                Ok(Input::Joined(..) | Input::Report(..)) => {}
                Err(_) => return,
            }
        }
    }
}

/// Opens the endpoint and lets machines in for as long as the process lives.
pub(crate) fn listen(
    endpoint: &Endpoint,
    silence: Duration,
    inputs: Sender<Input>,
) -> Result<(), JobError> {
    let failed = |source| JobError::Endpoint { endpoint: endpoint.clone(), source };
    // A name may mean loopback on the machine itself, as on Debian, so only an address is bound.
    let listener = match endpoint.host.parse::<IpAddr>() {
        Ok(address) => TcpListener::bind((address, endpoint.port)),
        Err(_) => TcpListener::bind(("::", endpoint.port))
            .or_else(|_| TcpListener::bind(("0.0.0.0", endpoint.port))),
    };
    let listener = listener.map_err(failed)?;
    let accept = move || {
        for (connection, stream) in (LOCAL + 1..).zip(listener.incoming()) {
            let Ok(stream) = stream else {
                // Out of file descriptors, say; it may pass.
                std::thread::sleep(Duration::from_millis(100));
                continue;
            };
            let inputs = inputs.clone();
            let serve = move || serve(stream, connection, silence, &inputs);
            // Without a thread the machine is not served, notices, and comes again.
            let _ = std::thread::Builder::new().name("node".to_owned()).spawn(serve);
        }
    };
    std::thread::Builder::new().name("endpoint".to_owned()).spawn(accept).map_err(failed)?;
    Ok(())
}

/// One connection, from its first message to its end.
fn serve(stream: std::net::TcpStream, connection: u32, silence: Duration, inputs: &Sender<Input>) {
    let Ok(address) = stream.peer_addr() else { return };
    let Ok((sending, mut receiving)) = link::open(stream, silence) else { return };
    // Whatever else connects to a port: not a launcher, not our business.
    let Ok(join) = receiving.next::<Join>() else { return };
    let node = join.node;
    let joined = Input::Joined(join, sending.clone(), connection, address.ip().to_canonical());
    drop(sending);
    if inputs.send(joined).is_err() {
        return;
    }
    loop {
        let input = match receiving.next() {
            Ok(report) => Input::Report(node, connection, report),
            Err(reason) => Input::Lost(node, connection, reason),
        };
        let is_lost = matches!(input, Input::Lost(..));
        if inputs.send(input).is_err() || is_lost {
            return;
        }
    }
}
