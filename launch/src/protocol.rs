//! What launchers tell each other, and node 0's launcher itself.

use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::restarts::PastRound;

/// Raised when launchers of different versions would misunderstand each other.
pub(crate) const VERSION: u32 = 1;

/// The first message of a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Join {
    pub(crate) version: u32,
    pub(crate) node: usize,
    pub(crate) num_nodes: usize,
    pub(crate) num_ranks: usize,
    /// Two jobs that meet at one endpoint by mistake have different ones.
    pub(crate) run_id: Option<String>,
    /// The round it expects: later than 0 when it was part of a round before.
    pub(crate) round: u32,
}

/// A round as one machine is to run it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// Restarts before this round.
    pub(crate) round: u32,
    pub(crate) max_restarts: u32,
    pub(crate) run_id: String,
    pub(crate) world_size: usize,
    /// Rank of the machine's first process.
    pub(crate) first_rank: usize,
    pub(crate) num_nodes: usize,
    pub(crate) master_port: u16,
}

/// From a machine to node 0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Report {
    /// The user sent this signal here, for the first or the second time.
    Signalled(i32),
    /// A rank failed; the machine's other ranks are being ended.
    Failed(Failure),
    /// The round is over here: its processes are gone.
    Ended {
        /// Whether a rank ended by the user's signal instead of exiting with 0.
        interrupted: bool,
        /// The furthest step that a heartbeat named.
        step: Option<u64>,
        /// What is still there, in words, because it cannot be ended.
        left: Option<String>,
    },
}

/// From node 0 to a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Run a round.
    Start(Plan),
    /// Pass the user's signal on to the ranks, which may finish and save.
    Signal(i32),
    /// End the ranks: the round failed elsewhere.
    Stop,
    /// Kill the ranks.
    Kill,
    /// The job is over.
    Finish(Verdict),
    /// This machine cannot take part.
    Refuse {
        /// Why.
        reason: String,
        /// Whether that may change by itself.
        retry: bool,
    },
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Verdict {
    /// Every rank exited with 0.
    Finished,
    /// So did they after the user's signal.
    Saved(i32),
    /// The user's signal ended ranks.
    Interrupted(i32),
    /// It failed, finally.
    Failed {
        failure: Failure,
        /// Rounds that failed before this one.
        history: Vec<PastRound>,
        /// Why there is no restart, where one was possible.
        why: Option<String>,
    },
}
