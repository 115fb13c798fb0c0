//! The launcher of every machine but node 0: joins, obeys, and joins again after a cut.

use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use crate::agent::{Agent, End, Event};
use crate::failure::Failure;
use crate::job::{Endpoint, JobError, Nodes};
use crate::link::{self, Sending};
use crate::protocol::{Join, Order, VERSION, Verdict};

/// Between attempts to reach node 0.
const RETRY: Duration = Duration::from_millis(500);

/// Takes part in the job of node 0 to its end.
pub(crate) fn run(agent: &mut Agent, nodes: &Nodes) -> Result<Verdict, JobError> {
    let mut deadline = Instant::now() + nodes.join_timeout;
    let mut problem = "nobody listens there".to_owned();
    // The last answer, where it was a refusal.
    let mut refusal = None;
    loop {
        if let Some(verdict) = interrupted(agent) {
            return Ok(verdict);
        }
        if Instant::now() >= deadline {
            if let Some(reason) = refusal {
                return Err(JobError::StillRefused { reason, waited: nodes.join_timeout });
            }
            return Err(JobError::NoEndpoint {
                endpoint: nodes.endpoint.clone(),
                waited: nodes.join_timeout,
                problem,
            });
        }
        let sending = match connect(agent, nodes) {
            Ok(sending) => sending,
            Err(error) => {
                (problem, refusal) = (error.to_string(), None);
                wait(agent, RETRY);
                continue;
            }
        };
        let before = agent.round;
        let end = agent.run(&|report| sending.send(&report));
        sending.close();
        match end {
            End::Verdict(verdict) => return Ok(verdict),
            End::Refused { reason, retry: false } => return Err(JobError::Refused(reason)),
            End::Refused { reason, .. } => {
                if refusal.as_ref() != Some(&reason) {
                    let left = deadline.saturating_duration_since(Instant::now()).as_secs();
                    crate::say(&format!(
                        "node 0 refuses this machine: {reason}; asking again for {left} s"
                    ));
                }
                refusal = Some(reason);
                wait(agent, RETRY);
            }
            End::Lost(reason) => {
                if agent.round != before {
                    let line = lost(&nodes.endpoint, &reason);
                    if agent.signal.is_some() || agent.round >= Some(agent.job.max_restarts) {
                        let failure = Failure::new(line, Duration::ZERO);
                        return Ok(Verdict::Failed { failure, history: Vec::new(), why: None });
                    }
                    crate::say(&format!("{line}; joining again"));
                    deadline = Instant::now() + nodes.join_timeout;
                }
                (problem, refusal) = (reason, None);
                wait(agent, RETRY);
            }
        }
    }
}

fn lost(endpoint: &Endpoint, reason: &str) -> String {
    format!("node 0 ({endpoint}) is lost: {reason}")
}

/// Connects to node 0 and joins. Orders arrive as events of a connection of their own number.
fn connect(agent: &mut Agent, nodes: &Nodes) -> std::io::Result<Sending> {
    let mut last = std::io::Error::other("the name has no address");
    for address in (nodes.endpoint.host.as_str(), nodes.endpoint.port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, nodes.silence) {
            Ok(stream) => return join(agent, nodes, stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn join(agent: &mut Agent, nodes: &Nodes, stream: TcpStream) -> std::io::Result<Sending> {
    let (sending, mut receiving) = link::open(stream, nodes.silence)?;
    agent.connection += 1;
    let (connection, events) = (agent.connection, agent.to_events.clone());
    let obey = move || {
        loop {
            let event = match receiving.next::<Order>() {
                Ok(order) => Event::Order(connection, order),
                Err(reason) => Event::Lost(connection, reason),
            };
            let is_lost = matches!(event, Event::Lost(..));
            if events.send(event).is_err() || is_lost {
                return;
            }
        }
    };
    std::thread::Builder::new().name("orders".to_owned()).spawn(obey)?;
    sending.send(&Join {
        version: VERSION,
        node: nodes.node_rank,
        num_nodes: nodes.num_nodes,
        num_ranks: agent.job.num_ranks,
        run_id: nodes.run_id.clone(),
        round: agent.round.map_or(0, |round| round + 1),
    });
    Ok(sending)
}

/// The signal that came while no node 0 could be asked.
fn interrupted(agent: &mut Agent) -> Option<Verdict> {
    while let Ok(event) = agent.events.try_recv() {
        if let Event::Signal(number) = event {
            agent.signal = Some(number);
        }
    }
    agent.signal.map(Verdict::Interrupted)
}

/// Waits, but not after a signal.
fn wait(agent: &mut Agent, time: Duration) {
    let until = Instant::now() + time;
    loop {
        match agent.events.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(Event::Signal(number)) => {
                agent.signal = Some(number);
                return;
            }
            Ok(_) => {}
            Err(_) => return,
        }
    }
}
