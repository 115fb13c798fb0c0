//! The processes of one round on this machine.

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::io::retry_on_intr;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use crate::agent::Event;
use crate::heartbeat::Heartbeats;
use crate::job::Job;
use crate::orphans::Orphans;
use crate::output::{Tail, forward};
use crate::processes::Mark;
use crate::protocol::Plan;
use crate::rank_env::{HEARTBEAT_FILE, JobEnv, OMP_NUM_THREADS, RankEnv, StorePort};
use crate::terminal::Terminal;

/// Of glibc: how many arenas a process allocates from.
const MALLOC_ARENA_MAX: &str = "MALLOC_ARENA_MAX";
/// Arenas at least, so that a rank with one thread for its arithmetic loads data undisturbed.
const MIN_ARENAS: usize = 2;
/// How long output of ended ranks may still be on its way.
pub(crate) const DRAIN: Duration = Duration::from_secs(1);
/// How long the last words of a failed rank are waited for.
const LAST_WORDS: Duration = Duration::from_millis(300);

struct Rank {
    /// Not waited for before the round is over: until then its number means nobody else's group.
    child: Child,
    tail: Tail,
    outputs: Vec<JoinHandle<()>>,
    alive: bool,
}

/// Each rank is its own process group, so what it started ends with it.
#[derive(Default)]
pub(crate) struct Ranks(Vec<Rank>);

/// What a round's ranks are started with.
pub(crate) struct Start<'a> {
    pub(crate) job: &'a Job,
    pub(crate) plan: &'a Plan,
    pub(crate) node: usize,
    pub(crate) master_addr: &'a str,
    pub(crate) mark: &'a Mark,
    pub(crate) heartbeats: &'a Heartbeats,
    pub(crate) events: &'a Sender<Event>,
}

impl Ranks {
    /// Starts one process.
    pub(crate) fn start_one(&mut self, local_rank: usize, start: &Start) -> std::io::Result<()> {
        let (job, plan) = (start.job, start.plan);
        let mut command = Command::new(&job.command[0]);
        command.args(&job.command[1..]).stdin(Stdio::null()).process_group(0);
        if plan.round > 0 {
            command.args(&job.restart_arguments);
        }
        command.envs(job.env.iter().map(|(name, value)| (name, value)));
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = (cores / job.num_ranks).max(1);
        // By default each of many threads may get an arena, eight for every core of the machine, and
        // each arena keeps the largest buffers that a checkpoint or a row ever took there.
        let arenas = threads.max(MIN_ARENAS);
        for (name, value) in [(OMP_NUM_THREADS, threads), (MALLOC_ARENA_MAX, arenas)] {
            if std::env::var_os(name).is_none() {
                command.env(name, value.to_string());
            }
        }
        let rank = plan.first_rank + local_rank;
        let env = RankEnv {
            rank,
            local_rank,
            world_size: plan.world_size,
            local_world_size: job.num_ranks,
            master_addr: start.master_addr.to_owned(),
            master_port: plan.master_port,
            store_port: StorePort::Master,
        };
        env.apply_to(&mut command);
        let env = JobEnv {
            group_rank: start.node,
            group_world_size: plan.num_nodes,
            run_id: plan.run_id.clone(),
            restart_count: plan.round,
            max_restarts: plan.max_restarts,
        };
        env.apply_to(rank, plan.world_size, &mut command);
        let (name, value) = start.mark.variable();
        command.env(name, value).env(HEARTBEAT_FILE, start.heartbeats.file(local_rank));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let terminal = if rank == 0 { Terminal::connect(&mut command) } else { None };
        self.spawn([rank, local_rank], &mut command, terminal, start.events)
    }

    fn spawn(
        &mut self,
        [rank, local_rank]: [usize; 2],
        command: &mut Command,
        terminal: Option<Terminal>,
        events: &Sender<Event>,
    ) -> std::io::Result<()> {
        let mut child = command.spawn()?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let tail = Tail::default();
        let pid = Pid::from_child(&child);
        self.0.push(Rank {
            child,
            tail: tail.clone(),
            outputs: Vec::new(),
            // Not before its end is sure to be told.
            alive: false,
        });
        let events = events.clone();
        let tell_end = move || {
            // The receiver is gone only when the job is over.
            let _ = events.send(Event::Ended(local_rank, end_of(pid)));
        };
        std::thread::Builder::new().name(format!("wait-{rank}")).spawn(tell_end)?;
        self.0[local_rank].alive = true;
        let prefix = (rank > 0).then_some(rank);
        let outputs = &mut self.0[local_rank].outputs;
        if let Some(stdout) = stdout {
            outputs.push(forward(prefix, stdout, std::io::stdout(), tail.clone(), false)?);
        }
        if let Some(stderr) = stderr {
            outputs.push(forward(prefix, stderr, std::io::stderr(), tail.clone(), true)?);
        }
        if let Some(terminal) = terminal {
            let shown_on = terminal.shown_on();
            outputs.push(forward(prefix, terminal, shown_on, tail, true)?);
        }
        Ok(())
    }

    pub(crate) fn ended(&mut self, local_rank: usize) {
        self.0[local_rank].alive = false;
    }

    pub(crate) fn is_alive(&self, local_rank: usize) -> bool {
        self.0.get(local_rank).is_some_and(|rank| rank.alive)
    }

    pub(crate) fn any_alive(&self) -> bool {
        self.0.iter().any(|rank| rank.alive)
    }

    /// The ranks whose end was not told, by their numbers on this machine, and their processes.
    pub(crate) fn alive(&self) -> Vec<(usize, u32)> {
        let alive = self.0.iter().enumerate().filter(|(_, rank)| rank.alive);
        alive.map(|(local_rank, rank)| (local_rank, rank.child.id())).collect()
    }

    /// Their processes, ended ones too.
    pub(crate) fn processes(&self) -> Vec<Pid> {
        self.0.iter().map(|rank| Pid::from_child(&rank.child)).collect()
    }

    /// The last lines of a rank that has just ended, which may still be in its pipes.
    pub(crate) fn last_words(&self, local_rank: usize) -> Vec<String> {
        let rank = &self.0[local_rank];
        wait(&rank.outputs, LAST_WORDS);
        rank.tail.lines()
    }

    /// Sends a signal to every rank and what it started.
    pub(crate) fn signal(&self, signal: Signal) {
        for rank in &self.0 {
            // A group without processes is what we want.
            let _ = kill_process_group(Pid::from_child(&rank.child), signal);
        }
    }

    /// Ends whatever ranks left behind, then lets the last lines through. The processes that would
    /// not go.
    pub(crate) fn sweep(&mut self, mark: &Mark, orphans: &Orphans) -> Vec<i32> {
        self.signal(Signal::KILL);
        let mut left = mark.kill();
        left.extend(orphans.kill(&self.processes()));
        left.sort_unstable();
        left.dedup();
        for rank in &mut self.0 {
            wait(&rank.outputs, DRAIN);
            // At worst one that cannot be ended remains.
            let _ = rank.child.try_wait();
        }
        left
    }
}

/// How a child ended, once it has; it keeps its number.
fn end_of(pid: Pid) -> std::io::Result<ExitStatus> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    let status = retry_on_intr(|| waitid(WaitId::Pid(pid), options))?;
    let raw = status.and_then(|status| match status.exit_status() {
        Some(code) => Some(code << 8),
        None => status.terminating_signal(),
    });
    raw.map(ExitStatus::from_raw).ok_or_else(|| std::io::Error::other("its end was not told"))
}

fn wait(outputs: &[JoinHandle<()>], time: Duration) {
    let until = Instant::now() + time;
    while !outputs.iter().all(JoinHandle::is_finished) && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(5));
    }
}
