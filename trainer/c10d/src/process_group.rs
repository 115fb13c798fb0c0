//! Collectives among ranks, checked before they run and named when they fail.

use std::cell::RefCell;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tch::{Device, Kind, Tensor};

use crate::error::C10dError;
use crate::ffi::{GroupHandle, StoreHandle};
use crate::patience::{ANSWER, Patience};
use crate::rendezvous::{Met, Rendezvous};
use crate::roll_call::{Blame, RollCall};
use crate::store::Meeting;

/// Which engine moves the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// CPU tensors over TCP.
    Gloo,
    /// CUDA tensors over NVLink, PCIe or the network.
    Nccl,
}

/// How [`ProcessGroup::all_reduce`] combines the ranks' values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReduceOp {
    /// Sum of all ranks.
    Sum,
    /// Product of all ranks.
    Product,
    /// Smallest of all ranks.
    Min,
    /// Largest of all ranks.
    Max,
}

/// Element types that both Gloo and NCCL move; their places here travel in the fingerprint.
const KINDS: [Kind; 8] = [
    Kind::Float,
    Kind::Double,
    Kind::Half,
    Kind::BFloat16,
    Kind::Int8,
    Kind::Uint8,
    Kind::Int,
    Kind::Int64,
];

/// What a rank is about to do; ranks must agree before they do it.
#[derive(Clone, Copy)]
enum Call {
    AllReduce(ReduceOp),
    Broadcast(usize),
    AllGather,
    Barrier,
}

/// The ranks of one job. Every method is a collective: all ranks call the same methods in
/// the same order. After a failed collective the group refuses all others.
///
/// It may move to another thread but serves one thread at a time. Dropping it on one rank
/// makes the others' pending collectives fail.
pub struct ProcessGroup {
    rank: usize,
    world_size: usize,
    backend: Backend,
    /// The first failure, in words.
    failed: RefCell<Option<String>>,
    // Fields drop in this order: groups before the store they use, and the store
    // that rank 0 hosts last.
    data: Option<GroupHandle>,
    control: GroupHandle,
    roll_call: RollCall,
    store: Arc<Mutex<StoreHandle>>,
}

impl ProcessGroup {
    /// Meets the other ranks at `rendezvous`, where rank 0 hosts the store.
    /// `timeout` bounds the start and each collective; `stop` ends the start when it says so.
    ///
    /// # Errors
    /// Ranks that did not come are named; a taken port, an unreachable master, a backend that cannot
    /// run here or on another rank, and a request to stop each have their own error.
    pub fn new(
        backend: Backend,
        rank: usize,
        world_size: usize,
        rendezvous: &Rendezvous,
        timeout: Duration,
        stop: &dyn Fn() -> bool,
    ) -> Result<Self, C10dError> {
        if rank >= world_size {
            return Err(C10dError::InvalidRank { rank, world_size });
        }
        let address = &rendezvous.address;
        if address.is_empty() || address.contains('\0') {
            return Err(C10dError::InvalidAddress { rank, address: address.clone() });
        }
        if backend == Backend::Nccl && !cfg!(nccl) {
            return Err(C10dError::NcclNotBuilt { rank });
        }
        let patience = Patience::new(rank, timeout, rendezvous.place());
        let (of_start, rendezvous) = (Arc::clone(&patience), rendezvous.clone());
        let start = move || {
            let met = rendezvous.meet(rank, world_size, timeout, &of_start)?;
            Self::of_met(backend, met)
        };
        patience.wait_for(start, stop)
    }

    /// The group of ranks that have met.
    fn of_met(backend: Backend, met: Met) -> Result<Self, C10dError> {
        let Met { meeting, store, host } = met;
        let Meeting { rank, world_size, timeout, .. } = meeting;
        // Everyone connects to everyone.
        meeting.patience.answered(&meeting.address, meeting.port, timeout + ANSWER);
        let start = |reason| C10dError::Start { rank, backend, reason };
        let roll_call =
            RollCall::start(meeting.connect()?, rank).map_err(|error| start(error.to_string()))?;
        let control = GroupHandle::gloo(&store, rank, world_size, timeout, &host.to_string());
        let groups = control.map_err(start).and_then(|control| {
            let data = match backend {
                Backend::Gloo => None,
                Backend::Nccl => Some(nccl_group(&store, rank, world_size, timeout)?),
            };
            Ok((control, data))
        });
        let store = Arc::new(Mutex::new(store));
        match groups {
            Ok((control, data)) => {
                let failed = RefCell::new(None);
                Ok(Self { rank, world_size, backend, failed, data, control, roll_call, store })
            }
            Err(C10dError::Start { reason, .. }) => {
                Err(match roll_call.blame_for_start(&store, rank, world_size, &reason) {
                    Some((Blame { fault, peers }, reason)) => {
                        C10dError::PeerStart { rank, backend, peers, fault, reason }
                    }
                    None => start(reason),
                })
            }
            Err(error) => Err(error),
        }
    }

    /// This rank, from 0.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Number of ranks.
    pub fn world_size(&self) -> usize {
        self.world_size
    }

    /// The engine that moves the data.
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// Combines `tensor` of all ranks into each rank's `tensor`
    /// (`torch.distributed.all_reduce`).
    ///
    /// # Errors
    /// Where the tensor does not qualify, ranks disagree about the call, or a rank is gone.
    pub fn all_reduce(&self, tensor: &mut Tensor, op: ReduceOp) -> Result<(), C10dError> {
        let call = Call::AllReduce(op);
        self.run(call, Some(&tensor.shallow_clone()), |group| group.all_reduce(tensor, op as i32))
    }

    /// Copies rank `root`'s `tensor` into every rank's (`torch.distributed.broadcast`).
    ///
    /// # Errors
    /// As for [`all_reduce`](Self::all_reduce); also where `root` is no rank.
    pub fn broadcast(&self, tensor: &mut Tensor, root: usize) -> Result<(), C10dError> {
        if root >= self.world_size {
            return Err(C10dError::InvalidRank { rank: root, world_size: self.world_size });
        }
        let call = Call::Broadcast(root);
        self.run(call, Some(&tensor.shallow_clone()), |group| group.broadcast(tensor, root))
    }

    /// Every rank's `tensor`, in rank order (`torch.distributed.all_gather`).
    ///
    /// # Errors
    /// As for [`all_reduce`](Self::all_reduce).
    pub fn all_gather(&self, tensor: &Tensor) -> Result<Vec<Tensor>, C10dError> {
        let mut gathered = self.empty_like(tensor, Call::AllGather.name())?;
        self.run(Call::AllGather, Some(tensor), |group| group.all_gather(tensor, &mut gathered))?;
        Ok(gathered)
    }

    /// Returns when every rank has called it; otherwise fails within the timeout and names
    /// the ranks that did not.
    ///
    /// # Errors
    /// As for [`all_reduce`](Self::all_reduce).
    pub fn barrier(&self) -> Result<(), C10dError> {
        // The exchange of fingerprints is a barrier already.
        self.run(Call::Barrier, None, |_| Ok(()))
    }

    /// Check, agree, run.
    fn run(
        &self,
        call: Call,
        tensor: Option<&Tensor>,
        collective: impl FnOnce(&GroupHandle) -> Result<(), String>,
    ) -> Result<(), C10dError> {
        let op = call.name();
        if let Some(earlier) = self.failed.borrow().clone() {
            return Err(C10dError::Poisoned { rank: self.rank, op, earlier });
        }
        if let Some(tensor) = tensor {
            self.check_tensor(tensor, op)?;
        }
        let sequence = self.roll_call.advance();
        self.agree(call, tensor, sequence)
            .and_then(|()| {
                collective(self.data.as_ref().unwrap_or(&self.control))
                    .map_err(|reason| self.collective_error(op, sequence, reason))
            })
            .inspect_err(|error| *self.failed.borrow_mut() = Some(error.to_string()))
    }

    /// Compares what all ranks are about to do.
    fn agree(&self, call: Call, tensor: Option<&Tensor>, sequence: u64) -> Result<(), C10dError> {
        let op = call.name();
        let ours = fingerprint(call, tensor);
        let mut all = self.empty_like(&ours, op)?;
        self.control
            .all_gather(&ours, &mut all)
            .map_err(|reason| self.collective_error(op, sequence, reason))?;
        let tensor_error = |source| C10dError::Tensor { rank: self.rank, op, source };
        let ours = Vec::<i64>::try_from(&ours).map_err(tensor_error)?;
        for (peer, theirs) in all.iter().enumerate() {
            let theirs = Vec::<i64>::try_from(theirs).map_err(tensor_error)?;
            if theirs != ours {
                return Err(C10dError::Mismatch {
                    rank: self.rank,
                    peer,
                    ours: describe(&ours),
                    theirs: describe(&theirs),
                });
            }
        }
        Ok(())
    }

    fn empty_like(&self, tensor: &Tensor, op: &'static str) -> Result<Vec<Tensor>, C10dError> {
        (0..self.world_size)
            .map(|_| tensor.detach().f_zeros_like())
            .collect::<Result<_, _>>()
            .map_err(|source| C10dError::Tensor { rank: self.rank, op, source })
    }

    fn check_tensor(&self, tensor: &Tensor, op: &'static str) -> Result<(), C10dError> {
        let rank = self.rank;
        if !KINDS.contains(&tensor.kind()) {
            return Err(C10dError::UnsupportedKind { rank, op, kind: tensor.kind() });
        }
        let needed = match (self.backend, tensor.device()) {
            (Backend::Gloo, Device::Cpu) | (Backend::Nccl, Device::Cuda(_)) => None,
            (Backend::Gloo, _) => Some("the CPU"),
            (Backend::Nccl, _) => Some("a GPU"),
        };
        if let Some(needed) = needed {
            let (backend, found) = (self.backend, tensor.device());
            return Err(C10dError::WrongDevice { rank, op, backend, needed, found });
        }
        if !tensor.is_contiguous() {
            return Err(C10dError::NotContiguous {
                rank,
                op,
                shape: tensor.size(),
                strides: tensor.stride(),
            });
        }
        Ok(())
    }

    fn collective_error(&self, op: &'static str, sequence: u64, reason: String) -> C10dError {
        let Blame { fault, peers } =
            self.roll_call.blame(&self.store, self.rank, self.world_size, sequence);
        C10dError::Collective { rank: self.rank, op, sequence, peers, fault, reason }
    }
}

impl std::fmt::Debug for ProcessGroup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProcessGroup")
            .field("backend", &self.backend)
            .field("rank", &self.rank)
            .field("world_size", &self.world_size)
            .finish_non_exhaustive()
    }
}

impl Call {
    fn name(self) -> &'static str {
        match self {
            Self::AllReduce(_) => "all_reduce",
            Self::Broadcast(_) => "broadcast",
            Self::AllGather => "all_gather",
            Self::Barrier => "barrier",
        }
    }

    fn code(self) -> [i64; 2] {
        match self {
            Self::AllReduce(op) => [0, op as i64],
            Self::Broadcast(root) => [1, i64::try_from(root).unwrap_or(i64::MAX)],
            Self::AllGather => [2, 0],
            Self::Barrier => [3, 0],
        }
    }
}

/// Dimensions that the fingerprint holds; no tensor of ours has more.
const MAX_DIMENSIONS: usize = 8;

/// `[call, its argument, kind, number of dimensions, sizes...]`, of one length for all calls.
fn fingerprint(call: Call, tensor: Option<&Tensor>) -> Tensor {
    let mut values = [-1i64; 4 + MAX_DIMENSIONS];
    values[..2].copy_from_slice(&call.code());
    if let Some(tensor) = tensor {
        let size = tensor.size();
        let kind = KINDS.iter().position(|&kind| kind == tensor.kind());
        values[2] = kind.and_then(|place| i64::try_from(place).ok()).unwrap_or(-1);
        values[3] = i64::try_from(size.len()).unwrap_or(i64::MAX);
        for (value, dimension) in values[4..].iter_mut().zip(&size) {
            *value = *dimension;
        }
        // Further dimensions count by their product.
        if size.len() > MAX_DIMENSIONS {
            values[3 + MAX_DIMENSIONS] = size[MAX_DIMENSIONS - 1..].iter().product();
        }
    }
    Tensor::from_slice(&values)
}

fn describe(values: &[i64]) -> String {
    let argument = values[1];
    let call = match values[0] {
        0 => format!("all_reduce({})", ["sum", "product", "min", "max"][argument as usize % 4]),
        1 => format!("broadcast(from rank {argument})"),
        2 => "all_gather".to_owned(),
        _ => return "barrier".to_owned(),
    };
    let kind = usize::try_from(values[2]).ok().and_then(|place| KINDS.get(place));
    let dimensions = usize::try_from(values[3]).unwrap_or(0).min(MAX_DIMENSIONS);
    match kind {
        Some(kind) => format!("{call} of {kind:?} {:?}", &values[4..4 + dimensions]),
        None => call,
    }
}

#[cfg(nccl)]
fn nccl_group(
    store: &StoreHandle,
    rank: usize,
    world_size: usize,
    timeout: Duration,
) -> Result<GroupHandle, C10dError> {
    GroupHandle::nccl(store, rank, world_size, timeout).map_err(|reason| {
        if reason.contains("no GPUs found") {
            C10dError::NoGpu { rank }
        } else {
            C10dError::Start { rank, backend: Backend::Nccl, reason }
        }
    })
}

#[cfg(not(nccl))]
fn nccl_group(
    _store: &StoreHandle,
    rank: usize,
    _world_size: usize,
    _timeout: Duration,
) -> Result<GroupHandle, C10dError> {
    Err(C10dError::NcclNotBuilt { rank })
}
