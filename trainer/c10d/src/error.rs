//! Why a collective or the start of a group failed.

use std::time::Duration;

use crate::process_group::Backend;
use crate::store::Meeting;

/// A failure of the process group. `rank` is the rank that reports it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum C10dError {
    /// The rank and the number of ranks contradict each other.
    #[error(
        "rank {rank} of {world_size} does not exist: ranks go from 0 to one below the world size"
    )]
    InvalidRank {
        /// The rank asked for.
        rank: usize,
        /// Number of ranks.
        world_size: usize,
    },
    /// The address holds a NUL byte.
    #[error("rank {rank}: the master address {address:?} is not an address")]
    InvalidAddress {
        /// The reporting rank.
        rank: usize,
        /// The address asked for.
        address: String,
    },
    /// Rank 0 could not open the port of the rendezvous.
    #[error(
        "rank 0: cannot listen on port {port} of {address}: {reason}; choose another MASTER_PORT"
    )]
    Listen {
        /// The master address.
        address: String,
        /// The master port.
        port: u16,
        /// libtorch's words.
        reason: String,
    },
    /// Rank 0 could not be reached within the timeout.
    #[error(
        "rank {rank}: rank 0 did not answer at {address}:{port} within {timeout:?}: {reason}; did it start, and is the port open?"
    )]
    MasterUnreachable {
        /// The reporting rank.
        rank: usize,
        /// The master address.
        address: String,
        /// The master port.
        port: u16,
        /// How long it was tried.
        timeout: Duration,
        /// libtorch's words.
        reason: String,
    },
    /// The store in which rank 0 publishes its port, torchrun's, does not answer.
    #[error(
        "rank {rank}: the store of torchrun does not answer at {address}:{port}: {reason}; torch before 2.5 speaks another protocol there (use its --rdzv-backend c10d, or `launch`)"
    )]
    OtherStore {
        /// The reporting rank.
        rank: usize,
        /// The other store's address.
        address: String,
        /// The other store's port.
        port: u16,
        /// libtorch's words.
        reason: String,
    },
    /// A rendezvous without a port.
    #[error("the rendezvous names no port: give at least one")]
    NoPorts,
    /// Some ranks did not come to the start of the group.
    #[error(
        "rank {rank}: {joined} of {world_size} ranks joined within {timeout:?}; missing: {missing:?}"
    )]
    MissingRanks {
        /// The reporting rank.
        rank: usize,
        /// How many ranks came, this one included.
        joined: usize,
        /// Number of ranks expected.
        world_size: usize,
        /// The ranks that did not come.
        missing: Vec<usize>,
        /// How long they were waited for.
        timeout: Duration,
    },
    /// This build has no NCCL.
    #[error("rank {rank}: this build has no NCCL: run `make setup-cuda` and rebuild")]
    NcclNotBuilt {
        /// The reporting rank.
        rank: usize,
    },
    /// A stream, an event or the memory of a device.
    #[error("{device}: {reason}")]
    Device {
        /// The device.
        device: String,
        /// libtorch's words.
        reason: String,
    },
    /// NCCL is built in, but the machine has no usable GPU.
    #[error("rank {rank}: NCCL needs a GPU and this machine shows none: use Gloo to train on CPU")]
    NoGpu {
        /// The reporting rank.
        rank: usize,
    },
    /// The backend's own constructor failed.
    #[error("rank {rank}: cannot start the {backend:?} group: {reason}")]
    Start {
        /// The reporting rank.
        rank: usize,
        /// The backend asked for.
        backend: Backend,
        /// libtorch's words.
        reason: String,
    },
    /// The backend's own constructor failed because of another rank.
    #[error(
        "rank {rank}: cannot start the {backend:?} group: {} ({reason})", fault.told_of(peers)
    )]
    PeerStart {
        /// The reporting rank.
        rank: usize,
        /// The backend asked for.
        backend: Backend,
        /// The ranks to blame, ascending.
        peers: Vec<usize>,
        /// What is wrong with them.
        fault: Fault,
        /// The words of the first that failed, or libtorch's.
        reason: String,
    },
    /// The start of the group was given up on request.
    #[error("rank {rank}: asked to stop before the group was complete")]
    Cancelled {
        /// The reporting rank.
        rank: usize,
    },
    /// The thread that starts the group.
    #[error("rank {rank}: the thread that starts the group: {reason}")]
    NoThread {
        /// The reporting rank.
        rank: usize,
        /// Why it ended, or could not begin.
        reason: String,
    },
    /// The tensor's values do not lie densely in memory.
    #[error(
        "rank {rank}: {op} needs a contiguous tensor, got shape {shape:?} with strides {strides:?}: call .contiguous() first"
    )]
    NotContiguous {
        /// The reporting rank.
        rank: usize,
        /// The collective.
        op: &'static str,
        /// Sizes of the tensor.
        shape: Vec<i64>,
        /// Strides of the tensor, in elements.
        strides: Vec<i64>,
    },
    /// The element type has no collective.
    #[error(
        "rank {rank}: {op} does not support {kind:?}: use float, double, half, bfloat16, int8, uint8, int or int64"
    )]
    UnsupportedKind {
        /// The reporting rank.
        rank: usize,
        /// The collective.
        op: &'static str,
        /// Element type found.
        kind: tch::Kind,
    },
    /// The tensor lies on a device that the backend does not serve.
    #[error("rank {rank}: {op} over {backend:?} needs a tensor on {needed}, got one on {found:?}")]
    WrongDevice {
        /// The reporting rank.
        rank: usize,
        /// The collective.
        op: &'static str,
        /// The group's backend.
        backend: Backend,
        /// Where the tensor should be.
        needed: &'static str,
        /// Where it is.
        found: tch::Device,
    },
    /// Ranks called different collectives, or with different types or shapes.
    #[error("rank {rank} called {ours}, but rank {peer} called {theirs}")]
    Mismatch {
        /// The reporting rank.
        rank: usize,
        /// The first rank that differs.
        peer: usize,
        /// What this rank called.
        ours: String,
        /// What the other rank called.
        theirs: String,
    },
    /// The collective failed because of another rank.
    #[error(
        "rank {rank}: {op} (collective {sequence}) failed: {} ({reason})", fault.told_of(peers)
    )]
    Collective {
        /// The reporting rank.
        rank: usize,
        /// The collective.
        op: &'static str,
        /// Number of this collective since the start, from 1.
        sequence: u64,
        /// The ranks to blame, ascending; empty where none is known.
        peers: Vec<usize>,
        /// What is wrong with them.
        fault: Fault,
        /// libtorch's words.
        reason: String,
    },
    /// An earlier collective failed, so ranks no longer agree where they are.
    #[error("rank {rank}: {op} refused, the group failed before: {earlier}")]
    Poisoned {
        /// The reporting rank.
        rank: usize,
        /// The collective.
        op: &'static str,
        /// The earlier failure, in words.
        earlier: String,
    },
    /// libtorch refused an operation on a local tensor.
    #[error("rank {rank}: {op}: {source}")]
    Tensor {
        /// The reporting rank.
        rank: usize,
        /// The collective.
        op: &'static str,
        /// What libtorch said.
        source: tch::TchError,
    },
}

impl C10dError {
    /// An unreachable master, told of the store that is not rank 0's.
    pub(crate) fn of_other_store(self, other: &Meeting) -> Self {
        let Self::MasterUnreachable { rank, reason, .. } = self else { return self };
        Self::OtherStore { rank, address: other.address.clone(), port: other.port, reason }
    }
}

/// What is wrong with the ranks that a collective failed because of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// They no longer beat: ended, stopped or cut off.
    Gone,
    /// They are alive but did not come to the collective.
    Behind,
    /// They could not join the group.
    NotStarted,
    /// Rank 0's store no longer answers.
    NoStore,
    /// Rank 0's store does not answer, and nothing says that it has ended.
    SilentStore,
    /// Every rank is alive and came.
    Network,
    /// The store could not be asked.
    Unknown,
}

impl Fault {
    /// In words, of these ranks.
    fn told_of(self, peers: &[usize]) -> String {
        let names: Vec<_> = peers.iter().map(usize::to_string).collect();
        let ranks = match peers {
            [_] => format!("rank {} is", names.join(", ")),
            _ => format!("ranks {} are", names.join(", ")),
        };
        match self {
            Self::Gone => format!("{ranks} gone or stopped"),
            Self::Behind => format!("{ranks} alive but did not come to it"),
            Self::NotStarted => format!("{ranks} unable to join it"),
            Self::NoStore if peers.is_empty() => "this rank's own store stopped answering".into(),
            Self::NoStore => format!("{ranks} gone: its store no longer answers"),
            Self::SilentStore => format!("{ranks} gone or cut off: its store does not answer"),
            Self::Network => "every rank is alive and came to it; check the network".into(),
            Self::Unknown => "no thread can be started to ask who is gone".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_collective_names_its_peers() {
        let error = |peers: &[usize], fault| C10dError::Collective {
            rank: 1,
            op: "barrier",
            sequence: 7,
            peers: peers.to_vec(),
            fault,
            reason: "closed".into(),
        };
        for (peers, fault, words) in [
            (&[2][..], Fault::Gone, "rank 2 is gone or stopped"),
            (&[0, 3], Fault::Behind, "ranks 0, 3 are alive but did not come to it"),
            (&[0], Fault::NoStore, "rank 0 is gone: its store no longer answers"),
            (&[], Fault::NoStore, "this rank's own store stopped answering"),
            (&[0], Fault::SilentStore, "rank 0 is gone or cut off: its store does not answer"),
            (&[], Fault::Network, "every rank is alive and came to it; check the network"),
        ] {
            let text = error(peers, fault).to_string();
            assert_eq!(text, format!("rank 1: barrier (collective 7) failed: {words} (closed)"));
        }
    }
}
