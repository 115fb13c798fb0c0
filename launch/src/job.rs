//! A job from its start to its verdict.

use std::ffi::OsString;
use std::fmt;
use std::path::Path;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use crate::agent::{Agent, End, Event};
use crate::coordinator::{Coordinator, Settings};
use crate::failure::{Failure, signal_code, signal_name};
use crate::guard::Guard;
use crate::host::{self, Host, Input, LOCAL};
use crate::member;
use crate::orphans::Orphans;
use crate::processes::Mark;
use crate::protocol::{Join, Order, VERSION, Verdict};
use crate::rank_env::{StopRequest, ignore_hang_up, watch_stop_requests};
use crate::restarts::PastRound;

/// What to run, and how often.
#[derive(Clone, Debug)]
pub struct Job {
    /// Program and arguments.
    pub command: Vec<OsString>,
    /// Arguments that are added when ranks are started again.
    pub restart_arguments: Vec<OsString>,
    /// Number of processes on this machine.
    pub num_ranks: usize,
    /// Variables for all ranks, besides the rank environment.
    pub env: Vec<(String, String)>,
    /// Time between asking the ranks to end and killing them.
    pub grace: Duration,
    /// How often the ranks may be started again.
    pub max_restarts: u32,
    /// Silence after which a rank counts as hung. `None`: only ranks that beat are judged, by a
    /// long default.
    pub heartbeat_timeout: Option<Duration>,
    /// The other machines, if there are any.
    pub nodes: Option<Nodes>,
}

/// This machine among several.
#[derive(Clone, Debug)]
pub struct Nodes {
    /// Number of machines.
    pub num_nodes: usize,
    /// This machine, from 0.
    pub node_rank: usize,
    /// Where node 0 listens.
    pub endpoint: Endpoint,
    /// Name of the job; node 0 makes one up.
    pub run_id: Option<String>,
    /// How long machines wait for each other.
    pub join_timeout: Duration,
    /// A machine that was silent for so long is lost.
    pub silence: Duration,
}

/// Host name or address, and port, of node 0's launcher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Host name or address; IPv6 without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// How a job succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Success {
    /// Every rank exited with 0.
    Finished,
    /// So did they after this signal, having saved what they wanted to.
    Saved(i32),
}

/// Why a job did not succeed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JobError {
    /// This machine would not let us watch the ranks.
    #[error("cannot {what}: {source}")]
    System {
        /// What failed.
        what: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// Node 0 cannot listen where the others will look for it.
    #[error("cannot listen on --rdzv-endpoint {endpoint}: {source}")]
    Endpoint {
        /// Where.
        endpoint: Endpoint,
        /// Why.
        source: std::io::Error,
    },
    /// Node 0 was never reached.
    #[error("node 0 cannot be reached at {endpoint} within {} s: {problem}", waited.as_secs())]
    NoEndpoint {
        /// Where.
        endpoint: Endpoint,
        /// For how long it was tried.
        waited: Duration,
        /// What the last attempt said.
        problem: String,
    },
    /// Node 0 does not want this machine.
    #[error("node 0 refuses this machine: {0}")]
    Refused(String),
    /// Node 0 did not want this machine for as long as it asked, which might have passed.
    #[error("node 0 refuses this machine, after {} s of asking: {reason}", waited.as_secs())]
    StillRefused {
        /// Why.
        reason: String,
        /// For how long it was tried.
        waited: Duration,
    },
    /// A rank or a machine failed; the others were stopped.
    #[error("{}", failure.line)]
    Failed {
        /// What came first.
        failure: Box<Failure>,
        /// Rounds that failed before.
        history: Vec<PastRound>,
        /// Why there was no further restart, where one had been possible.
        why: Option<String>,
    },
    /// A signal ended the job.
    #[error("interrupted by {}; every rank has ended", signal_name(*signal))]
    Interrupted {
        /// The signal.
        signal: i32,
    },
}

impl JobError {
    /// The exit code of the launcher.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::System { .. }
            | Self::Endpoint { .. }
            | Self::NoEndpoint { .. }
            | Self::StillRefused { .. } => 1,
            Self::Refused(_) => 2,
            Self::Failed { failure, .. } => failure.code,
            Self::Interrupted { signal } => signal_code(*signal),
        }
    }
}

/// Runs the job to its end.
///
/// The first request to stop, by SIGINT or SIGTERM, is passed on to every rank of every machine,
/// which may finish and save; the second kills them (see [`watch_stop_requests`]). SIGHUP does
/// nothing. When a rank fails or hangs, the others get SIGTERM, and SIGKILL after the grace; then
/// all are started again, if restarts are left and help. When this process is killed, its
/// [guard](crate::guard) ends the ranks.
///
/// At the end of a round, every child of this process that came after the start of the job is ended:
/// orphans of ranks come here.
///
/// # Errors
/// The first rank or machine that failed, or the signal that ended the job.
pub fn run(job: &Job) -> Result<Success, JobError> {
    let (to_events, events) = channel();
    watch_signals(to_events.clone()).map_err(system("watch for signals"))?;
    let mark = Mark::new();
    let folder = heartbeat_folder().map_err(system("create a folder for heartbeats"))?;
    let _guard =
        Guard::start(&mark, job.grace, folder.path()).map_err(system("start the guard process"))?;
    let mut agent = Agent {
        job,
        node: job.nodes.as_ref().map_or(0, |nodes| nodes.node_rank),
        master_addr: match &job.nodes {
            Some(nodes) => nodes.endpoint.host.clone(),
            None => "127.0.0.1".to_owned(),
        },
        mark,
        orphans: Orphans::adopt(),
        folder: folder.path().to_owned(),
        events,
        to_events,
        connection: LOCAL,
        signal: None,
        round: None,
    };
    let verdict = match &job.nodes {
        Some(nodes) if nodes.node_rank > 0 => member::run(&mut agent, nodes)?,
        _ => run_node_0(&mut agent)?,
    };
    match verdict {
        Verdict::Finished => Ok(Success::Finished),
        Verdict::Saved(signal) => Ok(Success::Saved(signal)),
        Verdict::Interrupted(signal) => Err(JobError::Interrupted { signal }),
        Verdict::Failed { failure, history, why } => {
            Err(JobError::Failed { failure: Box::new(failure), history, why })
        }
    }
}

fn run_node_0(agent: &mut Agent) -> Result<Verdict, JobError> {
    let job = agent.job;
    let (to_inputs, inputs) = channel();
    let run_id = job.nodes.as_ref().and_then(|nodes| nodes.run_id.clone());
    let settings = Settings {
        num_nodes: job.nodes.as_ref().map_or(1, |nodes| nodes.num_nodes),
        max_restarts: job.max_restarts,
        join_timeout: job.nodes.as_ref().map_or(Duration::ZERO, |nodes| nodes.join_timeout),
        run_id: run_id.unwrap_or_else(|| agent.mark.as_str().to_owned()),
    };
    if let Some(nodes) = &job.nodes {
        host::listen(&nodes.endpoint, nodes.silence, to_inputs.clone())?;
        crate::say(&format!("waiting for {} machines at {}", nodes.num_nodes, nodes.endpoint));
    }
    let own = Join {
        version: VERSION,
        node: 0,
        num_nodes: settings.num_nodes,
        num_ranks: job.num_ranks,
        run_id: None,
        round: 0,
    };
    let mut coordinator = Coordinator::new(settings, Instant::now());
    if let Err(Order::Refuse { reason, .. }) = coordinator.join(&own) {
        return Err(JobError::Refused(reason));
    }
    let host = Host { coordinator, inputs, local: agent.to_events.clone() };
    std::thread::Builder::new()
        .name("host".to_owned())
        .spawn(move || host.run())
        .map_err(system("start a thread"))?;
    match agent.run(&|report| {
        // The host ends only after it gave the verdict.
        let _ = to_inputs.send(Input::Report(0, LOCAL, report));
    }) {
        End::Verdict(verdict) => Ok(verdict),
        End::Lost(reason) | End::Refused { reason, .. } => Err(JobError::Refused(reason)),
    }
}

fn system(what: &'static str) -> impl Fn(std::io::Error) -> JobError {
    move |source| JobError::System { what, source }
}

fn watch_signals(events: Sender<Event>) -> std::io::Result<()> {
    ignore_hang_up()?;
    watch_stop_requests(move |request| {
        let (StopRequest::First(signal) | StopRequest::Again(signal)) = request;
        // The receiver is gone only when the job is over.
        let _ = events.send(Event::Signal(signal));
    })
}

/// In memory where there is such a place: beats must not wait for a disk.
fn heartbeat_folder() -> std::io::Result<tempfile::TempDir> {
    let builder = || {
        let mut builder = tempfile::Builder::new();
        builder.prefix("launch-");
        builder
    };
    builder().tempdir_in(Path::new("/dev/shm")).or_else(|_| builder().tempdir())
}
