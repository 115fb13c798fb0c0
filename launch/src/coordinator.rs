//! Decides when a round starts, ends and is repeated. Pure: messages in, orders out.
//!
//! One coordinator serves a job, in node 0's launcher. A job on one machine has one as well.

#[cfg(test)]
mod tests;

use std::time::{Duration, Instant, SystemTime};

use crate::failure::Failure;
use crate::protocol::{Join, Order, Plan, Report, VERSION, Verdict};
use crate::restarts::{Decision, PastRound, decide};

/// As many as `--procs` and `--gpus` take: a sum over all machines stays a number.
const MAX_RANKS: usize = u16::MAX as usize;
/// Failed rounds that are told at the end, the newest: with what they say, and a message must hold all.
const TOLD_ROUNDS: usize = 100;

/// What a job's coordinator knows beforehand.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) num_nodes: usize,
    pub(crate) max_restarts: u32,
    /// How long machines may take to come.
    pub(crate) join_timeout: Duration,
    pub(crate) run_id: String,
}

/// A machine of the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Node {
    Absent,
    Ready { num_ranks: usize },
    Running { num_ranks: usize },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Gathering { not_before: Instant, deadline: Instant },
    Running { began: Instant, stopping: bool },
    Over,
}

/// Orders for machines, by node.
pub(crate) type Orders = Vec<(usize, Order)>;

/// See the [module](self).
pub(crate) struct Coordinator {
    settings: Settings,
    nodes: Vec<Node>,
    phase: Phase,
    round: u32,
    signal: Option<i32>,
    /// Nodes whose launcher got a signal.
    signalled: Vec<bool>,
    interrupted: bool,
    step: Option<u64>,
    /// What cannot be ended on a machine: ranks of another round must not meet it.
    left: Option<String>,
    failures: Vec<Failure>,
    history: Vec<PastRound>,
}

impl Coordinator {
    /// No machine has come yet.
    pub(crate) fn new(settings: Settings, now: Instant) -> Self {
        Self {
            nodes: vec![Node::Absent; settings.num_nodes],
            phase: Phase::Gathering { not_before: now, deadline: now + settings.join_timeout },
            round: 0,
            signal: None,
            signalled: vec![false; settings.num_nodes],
            interrupted: false,
            step: None,
            left: None,
            failures: Vec::new(),
            history: Vec::new(),
            settings,
        }
    }

    /// Whether the last orders ended the job.
    pub(crate) fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    /// A machine came; otherwise the order that refuses it.
    pub(crate) fn join(&mut self, join: &Join) -> Result<(), Order> {
        let refuse = |reason: String| Err(Order::Refuse { reason, retry: false });
        let num_nodes = self.settings.num_nodes;
        if join.version != VERSION {
            let theirs = join.version;
            return refuse(format!(
                "node 0 speaks version {VERSION} and this launcher {theirs}: install the same one everywhere"
            ));
        }
        if join.num_nodes != num_nodes {
            return refuse(format!(
                "node 0 was given --nnodes {num_nodes}, this machine {}",
                join.num_nodes
            ));
        }
        if join.run_id.as_ref().is_some_and(|id| *id != self.settings.run_id) {
            return refuse(format!(
                "the job at this endpoint has --rdzv-id {}",
                self.settings.run_id
            ));
        }
        if !(1..=MAX_RANKS).contains(&join.num_ranks) {
            let found = join.num_ranks;
            return refuse(format!(
                "{found} ranks on one machine: from 1 to {MAX_RANKS} are possible"
            ));
        }
        match self.nodes.get(join.node) {
            None => refuse(format!("--node-rank {} is outside of --nnodes {num_nodes}", join.node)),
            Some(Node::Absent) => {
                self.nodes[join.node] = Node::Ready { num_ranks: join.num_ranks };
                if matches!(self.phase, Phase::Gathering { .. }) {
                    // No message makes a round that no restart leads to.
                    self.round = self.round.max(join.round.min(self.settings.max_restarts));
                }
                Ok(())
            }
            // Its launcher may have been started again before its end was noticed.
            Some(_) => Err(Order::Refuse {
                reason: format!("--node-rank {} is taken by another machine", join.node),
                retry: true,
            }),
        }
    }

    /// A machine reports.
    pub(crate) fn report(&mut self, node: usize, report: Report, now: Instant) -> Orders {
        match report {
            Report::Signalled(number) => self.signalled(node, number),
            Report::Failed(failure) => self.failed(failure),
            Report::Ended { interrupted, step, left } => {
                self.left = self.left.take().or(left);
                self.interrupted |= interrupted;
                self.step = self.step.max(step);
                if let Node::Running { num_ranks } = self.nodes[node] {
                    self.nodes[node] = Node::Ready { num_ranks };
                }
                self.conclude(now)
            }
        }
    }

    /// A machine is gone or cannot be reached.
    pub(crate) fn lost(&mut self, node: usize, name: &str, reason: &str, now: Instant) -> Orders {
        let was = std::mem::replace(&mut self.nodes[node], Node::Absent);
        let (Node::Running { .. }, Phase::Running { began, .. }) = (was, self.phase) else {
            return Vec::new();
        };
        let line = format!("node {node} ({name}) is lost: {reason}");
        let mut orders = self.failed(Failure::new(line, now - began));
        orders.extend(self.conclude(now));
        orders
    }

    /// When [`tick`](Self::tick) is due at the latest.
    pub(crate) fn wake(&self) -> Option<Instant> {
        match self.phase {
            Phase::Gathering { not_before, .. } if self.absent().is_empty() => Some(not_before),
            Phase::Gathering { deadline, .. } => Some(deadline),
            Phase::Running { .. } | Phase::Over => None,
        }
    }

    /// Whether everybody is here and the round may start.
    pub(crate) fn may_start(&self, now: Instant) -> bool {
        matches!(self.phase, Phase::Gathering { not_before, .. } if now >= not_before)
            && self.absent().is_empty()
    }

    /// Starts the round; rank 0 will listen on `master_port`.
    pub(crate) fn start(&mut self, master_port: u16, now: Instant) -> Orders {
        self.phase = Phase::Running { began: now, stopping: false };
        (self.interrupted, self.step) = (false, None);
        self.failures.clear();
        let num_ranks = |node: &Node| match *node {
            Node::Ready { num_ranks } | Node::Running { num_ranks } => num_ranks,
            Node::Absent => 0,
        };
        let world_size = self.nodes.iter().map(num_ranks).sum();
        let mut first_rank = 0;
        let mut orders = Vec::new();
        for (index, node) in self.nodes.iter_mut().enumerate() {
            let num_ranks = num_ranks(node);
            *node = Node::Running { num_ranks };
            let plan = Plan {
                round: self.round,
                max_restarts: self.settings.max_restarts,
                run_id: self.settings.run_id.clone(),
                world_size,
                first_rank,
                num_nodes: self.settings.num_nodes,
                master_port,
            };
            orders.push((index, Order::Start(plan)));
            first_rank += num_ranks;
        }
        orders
    }

    /// Gives up where machines did not come in time.
    pub(crate) fn tick(&mut self, now: Instant) -> Orders {
        let absent = self.absent();
        match self.phase {
            Phase::Gathering { deadline, .. } if now >= deadline && !absent.is_empty() => {
                let names: Vec<_> = absent.iter().map(usize::to_string).collect();
                let failure = Failure::new(
                    format!(
                        "node {} did not come within {} s: is `launch` running there with this --rdzv-endpoint?",
                        names.join(", "),
                        self.settings.join_timeout.as_secs()
                    ),
                    Duration::ZERO,
                );
                self.finish(&self.failed_for_good(failure, None))
            }
            _ => Vec::new(),
        }
    }

    /// Ends the job for a reason of node 0 itself.
    pub(crate) fn abort(&mut self, line: String) -> Orders {
        self.finish(&self.failed_for_good(Failure::new(line, Duration::ZERO), None))
    }

    fn absent(&self) -> Vec<usize> {
        let absent = |&node: &usize| self.nodes[node] == Node::Absent;
        (0..self.nodes.len()).filter(absent).collect()
    }

    fn to_running(&self, except: Option<usize>, order: &Order) -> Orders {
        let running = |&node: &usize| {
            matches!(self.nodes[node], Node::Running { .. }) && Some(node) != except
        };
        (0..self.nodes.len()).filter(running).map(|node| (node, order.clone())).collect()
    }

    fn signalled(&mut self, node: usize, number: i32) -> Orders {
        // Schedulers signal all machines at once; only the second signal at one of them is urgent.
        let again = std::mem::replace(&mut self.signalled[node], true);
        match (self.phase, self.signal.replace(number)) {
            (Phase::Gathering { .. }, _) => self.finish(&Verdict::Interrupted(number)),
            (Phase::Running { .. }, None) => self.to_running(Some(node), &Order::Signal(number)),
            (Phase::Running { .. }, Some(_)) if again => self.to_running(Some(node), &Order::Kill),
            (Phase::Running { .. } | Phase::Over, _) => Vec::new(),
        }
    }

    fn failed(&mut self, failure: Failure) -> Orders {
        self.failures.push(failure);
        match &mut self.phase {
            Phase::Running { stopping, .. } if !*stopping => {
                *stopping = true;
                self.to_running(None, &Order::Stop)
            }
            _ => Vec::new(),
        }
    }

    /// Once all machines have ended the round: what now?
    fn conclude(&mut self, now: Instant) -> Orders {
        let Phase::Running { began, .. } = self.phase else { return Vec::new() };
        if self.nodes.iter().any(|node| matches!(node, Node::Running { .. })) {
            return Vec::new();
        }
        // Reports travel, so the first to come need not be the first that happened.
        let first = self.failures.drain(..).min_by_key(|failure| failure.after);
        let left = self.left.take();
        let first = first.or_else(|| Some(Failure::new(left.clone()?, now - began)));
        let Some(failure) = first else {
            let verdict = match (self.signal, self.interrupted) {
                (None, _) => Verdict::Finished,
                (Some(signal), false) => Verdict::Saved(signal),
                (Some(signal), true) => Verdict::Interrupted(signal),
            };
            return self.finish(&verdict);
        };
        self.history.push(PastRound {
            round: self.round,
            ended: SystemTime::now(),
            lasted: now - began,
            step: self.step,
            // Only the line is ever told of it.
            failure: Failure { tail: Vec::new(), ..failure.clone() },
        });
        let decision = match (self.signal, left) {
            (_, Some(left)) => Decision::GiveUp((left != failure.line).then_some(left)),
            (Some(_), None) => Decision::GiveUp(None),
            (None, None) => decide(&self.history, self.settings.max_restarts),
        };
        match decision {
            Decision::GiveUp(why) => {
                self.history.pop();
                self.finish(&self.failed_for_good(failure, why))
            }
            Decision::Restart(pause) => {
                self.round += 1;
                let not_before = now + pause;
                let deadline = not_before + self.settings.join_timeout;
                self.phase = Phase::Gathering { not_before, deadline };
                crate::say(&failure.line);
                crate::say(&format!(
                    "restart {} of {} in {} s",
                    self.round,
                    self.settings.max_restarts,
                    pause.as_secs()
                ));
                Vec::new()
            }
        }
    }

    fn failed_for_good(&self, failure: Failure, why: Option<String>) -> Verdict {
        let untold = self.history.len().saturating_sub(TOLD_ROUNDS);
        Verdict::Failed { failure, history: self.history[untold..].to_vec(), why }
    }

    fn finish(&mut self, verdict: &Verdict) -> Orders {
        self.phase = Phase::Over;
        let present = |&node: &usize| self.nodes[node] != Node::Absent;
        let nodes = (0..self.nodes.len()).filter(present);
        nodes.map(|node| (node, Order::Finish(verdict.clone()))).collect()
    }
}
