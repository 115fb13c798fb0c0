//! Runs the rounds of a job on one machine, as the coordinator orders.

use std::process::ExitStatus;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use signal_hook::consts::SIGINT;

use crate::failure::{Ending, Failure, ending};
use crate::heartbeat::{Heartbeats, Silent};
use crate::job::Job;
use crate::orphans::{Orphans, REAP};
use crate::processes::{KILLED, Mark};
use crate::protocol::{Order, Plan, Report, Verdict};
use crate::ranks::{Ranks, Start};

/// What happens to a launcher.
#[derive(Debug)]
pub(crate) enum Event {
    /// A rank, by its number on this machine.
    Ended(usize, std::io::Result<ExitStatus>),
    /// A request to stop, by this signal.
    Signal(i32),
    /// From the coordinator, over the connection of this number.
    Order(u32, Order),
    /// The connection of this number is lost, and why.
    Lost(u32, String),
}

/// Why the agent stopped.
#[derive(Debug)]
pub(crate) enum End {
    /// The coordinator said so.
    Verdict(Verdict),
    /// The coordinator cannot be reached; no rank runs.
    Lost(String),
    /// The coordinator does not want this machine.
    Refused { reason: String, retry: bool },
}

/// One machine's part in a job.
pub(crate) struct Agent<'a> {
    pub(crate) job: &'a Job,
    pub(crate) node: usize,
    pub(crate) master_addr: String,
    pub(crate) mark: Mark,
    pub(crate) orphans: Orphans,
    /// For the heartbeat files.
    pub(crate) folder: std::path::PathBuf,
    pub(crate) events: Receiver<Event>,
    pub(crate) to_events: Sender<Event>,
    /// Orders of other connections are stale.
    pub(crate) connection: u32,
    /// The user's signal.
    pub(crate) signal: Option<i32>,
    /// The last round that was started.
    pub(crate) round: Option<u32>,
}

impl Agent<'_> {
    /// Obeys until the job is over or the coordinator is lost.
    pub(crate) fn run(&mut self, report: &dyn Fn(Report)) -> End {
        loop {
            let Ok(event) = self.events.recv() else { return End::Lost("it is gone".to_owned()) };
            match event {
                Event::Order(from, order) if from == self.connection => match order {
                    Order::Start(plan) => {
                        if let Some(reason) = self.round(&plan, report) {
                            return End::Lost(reason);
                        }
                    }
                    Order::Finish(verdict) => return End::Verdict(verdict),
                    Order::Refuse { reason, retry } => return End::Refused { reason, retry },
                    Order::Signal(_) | Order::Stop | Order::Kill => {}
                },
                Event::Lost(from, reason) if from == self.connection => return End::Lost(reason),
                Event::Signal(number) => {
                    if self.signal.replace(number).is_some() {
                        // Nothing runs here, so nobody needs to be asked.
                        return End::Verdict(Verdict::Interrupted(number));
                    }
                    report(Report::Signalled(number));
                }
                Event::Order(..) | Event::Lost(..) | Event::Ended(..) => {}
            }
        }
    }

    /// One round; the reason where the coordinator was lost in it.
    fn round(&mut self, plan: &Plan, report: &dyn Fn(Report)) -> Option<String> {
        self.round = Some(plan.round);
        let began = Instant::now();
        let folder = self.folder.join(plan.round.to_string());
        let heartbeats =
            Heartbeats::new(&folder, self.job.num_ranks, self.job.heartbeat_timeout, began);
        let mut round = Round {
            plan,
            grace: self.job.grace,
            began,
            ranks: Ranks::default(),
            heartbeats,
            look_at: began,
            reap_at: began + REAP,
            kill_at: None,
            give_up_at: None,
            interrupted: None,
            by_signal: false,
            stopping: false,
        };
        if let Some(failure) = self.start(&mut round, &folder) {
            round.fail(failure, report);
        }
        if let Some(number) = self.signal {
            // It came when there was nobody to pass it on to.
            round.pass_on(number);
        }
        let mut lost = None;
        while round.ranks.any_alive() && !round.is_given_up(Instant::now()) {
            let pause = round.wake().saturating_duration_since(Instant::now());
            match self.events.recv_timeout(pause) {
                Ok(Event::Ended(local_rank, status)) => round.ended(local_rank, &status, report),
                Ok(Event::Signal(number)) => {
                    match self.signal.replace(number) {
                        None => round.pass_on(number),
                        Some(_) => round.kill(),
                    }
                    report(Report::Signalled(number));
                }
                Ok(Event::Order(from, order)) if from == self.connection => match order {
                    Order::Signal(number) => round.pass_on(number),
                    Order::Stop => round.stop(),
                    Order::Kill => round.kill(),
                    Order::Start(_) | Order::Finish(_) | Order::Refuse { .. } => {}
                },
                Ok(Event::Lost(from, reason)) if from == self.connection => {
                    lost = Some(reason);
                    round.stop();
                }
                Ok(Event::Order(..) | Event::Lost(..)) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => round.kill(),
            }
            round.tick(Instant::now(), &self.orphans, report);
        }
        self.close(round, report);
        lost
    }

    /// Starts all ranks, or tells why one cannot be.
    fn start(&self, round: &mut Round, folder: &std::path::Path) -> Option<Failure> {
        if let Err(error) = std::fs::create_dir_all(folder) {
            let line = format!("cannot create {}: {error}", folder.display());
            return Some(Failure::new(line, Duration::ZERO));
        }
        let start = Start {
            job: self.job,
            plan: round.plan,
            node: self.node,
            master_addr: &self.master_addr,
            mark: &self.mark,
            heartbeats: &round.heartbeats,
            events: &self.to_events,
        };
        for local_rank in 0..self.job.num_ranks {
            if let Err(error) = round.ranks.start_one(local_rank, &start) {
                let rank = round.plan.first_rank + local_rank;
                let program = self.job.command[0].to_string_lossy();
                let line = format!("rank {rank}: cannot start {program}: {error}");
                return Some(Failure::of_rank(line, 127, Vec::new(), Duration::ZERO));
            }
        }
        None
    }

    fn close(&self, mut round: Round, report: &dyn Fn(Report)) {
        let left = round.ranks.sweep(&self.mark, &self.orphans);
        let what = match round.ranks.alive()[..] {
            [] if left.is_empty() => None,
            [] => Some(format!("node {}: processes {left:?}", self.node)),
            [(local_rank, pid), ..] => {
                Some(format!("rank {} (process {pid})", round.plan.first_rank + local_rank))
            }
        };
        let left = what
            .map(|what| format!("{what} cannot be ended: SIGKILL had no effect for {KILLED:?}"));
        round.heartbeats.look(Instant::now(), |_| false);
        let step = round.heartbeats.furthest();
        report(Report::Ended { interrupted: round.by_signal, step, left });
    }
}

/// A round that runs.
struct Round<'a> {
    plan: &'a Plan,
    grace: Duration,
    began: Instant,
    ranks: Ranks,
    heartbeats: Heartbeats,
    look_at: Instant,
    reap_at: Instant,
    kill_at: Option<Instant>,
    /// When ranks that were killed and are still there count as lost.
    give_up_at: Option<Instant>,
    interrupted: Option<i32>,
    by_signal: bool,
    stopping: bool,
}

impl Round<'_> {
    fn wake(&self) -> Instant {
        [self.kill_at, self.give_up_at].into_iter().flatten().fold(self.look_at, Instant::min)
    }

    fn is_given_up(&self, now: Instant) -> bool {
        self.give_up_at.is_some_and(|at| now >= at)
    }

    fn tick(&mut self, now: Instant, orphans: &Orphans, report: &dyn Fn(Report)) {
        if now >= self.reap_at {
            orphans.reap(&self.ranks.processes());
            self.reap_at = now + REAP;
        }
        if self.kill_at.is_some_and(|at| now >= at) {
            self.kill();
        }
        if now >= self.look_at {
            self.look_at = now + self.heartbeats.interval();
            let silent = self.heartbeats.look(now, |rank| self.ranks.is_alive(rank));
            if let (Some(silent), false) = (silent, self.stopping) {
                let failure = self.hung(silent);
                self.fail(failure, report);
            }
        }
    }

    fn hung(&self, silent: Silent) -> Failure {
        let last = match silent.step {
            Some(step) => format!("its last step was {step}"),
            None if silent.has_beaten => "before its first step".to_owned(),
            None => "it never beat".to_owned(),
        };
        let line = format!(
            "rank {} of {} hung: no heartbeat for {:.0} s, {last}",
            self.plan.first_rank + silent.local_rank,
            self.plan.world_size,
            silent.silence.as_secs_f64()
        );
        let tail = self.ranks.last_words(silent.local_rank);
        Failure { tail, ..Failure::new(line, self.began.elapsed().saturating_sub(silent.silence)) }
    }

    fn ended(
        &mut self,
        local_rank: usize,
        status: &std::io::Result<ExitStatus>,
        report: &dyn Fn(Report),
    ) {
        self.ranks.ended(local_rank);
        let after = self.began.elapsed();
        match ending(status, self.interrupted) {
            Ending::Success => {}
            Ending::Interrupted => self.by_signal = true,
            // Once the ranks are being ended, how they end says nothing.
            Ending::Failed { .. } if self.stopping => {}
            Ending::Failed { reason, code } => {
                self.stop();
                let tail = self.ranks.last_words(local_rank);
                let rank = self.plan.first_rank + local_rank;
                let mut line = format!("rank {rank} of {} failed: {reason}", self.plan.world_size);
                if let Some(last) = tail.last() {
                    line.extend([": ", last.trim()]);
                }
                self.fail(Failure::of_rank(line, code, tail, after), report);
            }
        }
    }

    fn fail(&mut self, failure: Failure, report: &dyn Fn(Report)) {
        self.stop();
        report(Report::Failed(failure));
    }

    /// Asks the ranks to end, and has them killed after the grace.
    fn stop(&mut self) {
        if !self.stopping {
            self.stopping = true;
            self.ranks.signal(Signal::TERM);
            self.kill_at = Some(Instant::now() + self.grace);
        }
    }

    fn kill(&mut self) {
        self.ranks.signal(Signal::KILL);
        self.kill_at = None;
        self.give_up_at.get_or_insert(Instant::now() + KILLED);
    }

    fn pass_on(&mut self, number: i32) {
        if self.interrupted.is_none() {
            self.interrupted = Some(number);
            self.ranks.signal(if number == SIGINT { Signal::INT } else { Signal::TERM });
        }
    }
}
