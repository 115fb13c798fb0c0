//! Starts the ranks of a job, watches them and stops them together.

use std::ffi::OsString;
use std::net::TcpListener;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::output::{Tail, forward};
use crate::rank_env::RankEnv;

const OMP_NUM_THREADS: &str = "OMP_NUM_THREADS";
/// How long output of ended ranks may still be on its way.
const DRAIN: Duration = Duration::from_secs(2);

/// What to run, and how often.
#[derive(Clone, Debug)]
pub struct Job {
    /// Program and arguments.
    pub command: Vec<OsString>,
    /// Number of processes.
    pub num_ranks: usize,
    /// Variables for all ranks, besides the rank environment.
    pub env: Vec<(String, String)>,
    /// Time between asking the ranks to end and killing them.
    pub grace: Duration,
}

/// Why a job did not succeed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JobError {
    /// A rank could not be started.
    #[error("rank {rank}: cannot start {program}: {source}")]
    Start {
        /// The rank.
        rank: usize,
        /// The program.
        program: String,
        /// Why.
        source: std::io::Error,
    },
    /// This machine would not let us watch the ranks.
    #[error("cannot {what}: {source}")]
    System {
        /// What failed.
        what: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// A rank failed; the others were stopped.
    #[error("rank {rank} of {num_ranks} failed: {reason}")]
    Rank {
        /// The first rank that failed.
        rank: usize,
        /// Number of ranks.
        num_ranks: usize,
        /// Exit code or signal, and its last line where it was seen.
        reason: String,
        /// Its exit code, or 128 and its signal.
        code: u8,
    },
    /// A signal ended the job.
    #[error("interrupted by {name}; every rank has ended")]
    Interrupted {
        /// The signal.
        name: &'static str,
        /// 128 and the signal.
        code: u8,
    },
}

impl JobError {
    /// The exit code of the launcher.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Start { .. } => 127,
            Self::System { .. } => 1,
            Self::Rank { code, .. } | Self::Interrupted { code, .. } => *code,
        }
    }
}

enum Event {
    Ended(usize, std::io::Result<ExitStatus>),
    Signal(i32),
}

struct Rank {
    group: Pid,
    tail: Tail,
    alive: bool,
}

/// Runs the job to its end.
///
/// The first SIGINT or SIGTERM is passed on to every rank, which may finish and save; the
/// second kills them. When a rank fails, the others get SIGTERM, and SIGKILL after the grace.
/// Each rank is its own process group, so what it started ends with it.
///
/// # Errors
/// The first rank that failed, or the signal that ended the job.
pub fn run(job: &Job) -> Result<(), JobError> {
    let (events, received) = channel();
    let mut signals = Signals::new([SIGINT, SIGTERM])
        .map_err(|source| JobError::System { what: "watch for signals", source })?;
    let handle = signals.handle();
    let to_events = events.clone();
    let watcher = std::thread::spawn(move || {
        for signal in &mut signals {
            if to_events.send(Event::Signal(signal)).is_err() {
                return;
            }
        }
    });
    let mut group = Group { ranks: Vec::new(), outputs: Vec::new(), num_ranks: job.num_ranks };
    let outcome = group.start(job, &events).and_then(|()| group.watch(job.grace, &received));
    group.sweep();
    handle.close();
    // The watcher cannot panic: it only passes numbers on.
    let _ = watcher.join();
    outcome
}

/// The ranks that were started.
struct Group {
    ranks: Vec<Rank>,
    outputs: Vec<JoinHandle<()>>,
    num_ranks: usize,
}

impl Group {
    fn start(&mut self, job: &Job, events: &Sender<Event>) -> Result<(), JobError> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = (cores / job.num_ranks).max(1).to_string();
        let master_port =
            free_port().map_err(|source| JobError::System { what: "find a free port", source })?;
        for rank in 0..job.num_ranks {
            let mut command = Command::new(&job.command[0]);
            command.args(&job.command[1..]).stdin(Stdio::null()).process_group(0);
            command.envs(job.env.iter().map(|(name, value)| (name, value)));
            if std::env::var_os(OMP_NUM_THREADS).is_none() {
                command.env(OMP_NUM_THREADS, &threads);
            }
            let env = RankEnv {
                rank,
                local_rank: rank,
                world_size: job.num_ranks,
                local_world_size: job.num_ranks,
                master_addr: "127.0.0.1".to_owned(),
                master_port,
            };
            env.apply_to(&mut command);
            // Rank 0 keeps the terminal, so that its progress bar works.
            if rank > 0 {
                command.stdout(Stdio::piped()).stderr(Stdio::piped());
            }
            self.spawn(rank, &mut command, events).map_err(|source| {
                let program = job.command[0].to_string_lossy().into_owned();
                JobError::Start { rank, program, source }
            })?;
        }
        Ok(())
    }

    fn spawn(
        &mut self,
        rank: usize,
        command: &mut Command,
        events: &Sender<Event>,
    ) -> std::io::Result<()> {
        let mut child = command.spawn()?;
        let group = Pid::from_child(&child);
        let tail = Tail::default();
        self.ranks.push(Rank { group, tail: tail.clone(), alive: true });
        if let Some(stdout) = child.stdout.take() {
            self.outputs.push(forward(rank, stdout, std::io::stdout(), tail.clone())?);
        }
        if let Some(stderr) = child.stderr.take() {
            self.outputs.push(forward(rank, stderr, std::io::stderr(), tail)?);
        }
        let events = events.clone();
        let wait = move |mut child: Child| {
            // The receiver is gone only when the job is over.
            let _ = events.send(Event::Ended(rank, child.wait()));
        };
        std::thread::Builder::new().name(format!("wait-{rank}")).spawn(move || wait(child))?;
        Ok(())
    }

    /// Until every rank has ended.
    fn watch(&mut self, grace: Duration, events: &Receiver<Event>) -> Result<(), JobError> {
        let mut outcome = Ok(());
        let mut interrupted = None;
        let mut kill_at: Option<Instant> = None;
        while self.ranks.iter().any(|rank| rank.alive) {
            let event = match kill_at {
                None => events.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(at) => events.recv_timeout(at.saturating_duration_since(Instant::now())),
            };
            match event {
                Ok(Event::Ended(rank, status)) => {
                    self.ranks[rank].alive = false;
                    let failure = failure(&status, interrupted);
                    if let (Some((reason, code)), true) = (failure, outcome.is_ok()) {
                        outcome = Err(self.rank_error(rank, &reason, code));
                        self.signal(Signal::TERM);
                        kill_at = Some(Instant::now() + grace);
                    }
                }
                Ok(Event::Signal(_)) if interrupted.is_some() => self.signal(Signal::KILL),
                Ok(Event::Signal(number)) => {
                    interrupted = Some(number);
                    self.signal(if number == SIGINT { Signal::INT } else { Signal::TERM });
                }
                Err(RecvTimeoutError::Timeout) => {
                    self.signal(Signal::KILL);
                    kill_at = None;
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        match (outcome, interrupted) {
            (Ok(()), Some(number)) => {
                let name = if number == SIGINT { "SIGINT" } else { "SIGTERM" };
                Err(JobError::Interrupted { name, code: signal_code(number) })
            }
            (outcome, _) => outcome,
        }
    }

    fn rank_error(&self, rank: usize, reason: &str, code: u8) -> JobError {
        // Its last line may still be in the pipe.
        std::thread::sleep(Duration::from_millis(100));
        let last = self.ranks[rank].tail.lines().into_iter().rev().find(|l| !l.trim().is_empty());
        let reason = match last {
            Some(line) => format!("{reason}: {}", line.trim()),
            None if rank == 0 => format!("{reason}; its own output above says why"),
            None => reason.to_owned(),
        };
        JobError::Rank { rank, num_ranks: self.num_ranks, reason, code }
    }

    fn signal(&self, signal: Signal) {
        for rank in &self.ranks {
            // A group without processes is what we want.
            let _ = kill_process_group(rank.group, signal);
        }
    }

    /// Ends whatever ranks left behind, then lets the last lines through.
    fn sweep(&mut self) {
        self.signal(Signal::KILL);
        let until = Instant::now() + DRAIN;
        for output in self.outputs.drain(..) {
            while !output.is_finished() && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

/// A port that was free a moment ago. Another process may take it before rank 0 listens
/// on it; rank 0 then ends with an error that names the port, and the job can be run again.
fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind(("0.0.0.0", 0))?.local_addr()?.port())
}

/// In words and as an exit code; `None` for success, and for a rank that the forwarded signal ended.
fn failure(status: &std::io::Result<ExitStatus>, interrupted: Option<i32>) -> Option<(String, u8)> {
    let status = match status {
        Ok(status) => status,
        Err(error) => return Some((format!("it cannot be waited for: {error}"), 1)),
    };
    match (status.code(), status.signal()) {
        (Some(0), _) => None,
        (Some(code), _) if interrupted.is_some_and(|n| code == i32::from(signal_code(n))) => None,
        (Some(code), _) => Some((format!("exit code {code}"), u8::try_from(code).unwrap_or(1))),
        (None, Some(signal)) if interrupted.is_some() && matches!(signal, SIGINT | SIGTERM | 9) => {
            None
        }
        (None, Some(signal)) => Some((format!("killed by {}", name(signal)), signal_code(signal))),
        (None, None) => Some(("it ended in an unknown way".to_owned(), 1)),
    }
}

fn signal_code(signal: i32) -> u8 {
    u8::try_from(128 + signal).unwrap_or(u8::MAX)
}

fn name(signal: i32) -> String {
    let hint = if signal == 9 { " (perhaps out of memory)" } else { "" };
    match signal_hook::low_level::signal_name(signal) {
        Some(name) => format!("{name}{hint}"),
        None => format!("signal {signal}"),
    }
}
