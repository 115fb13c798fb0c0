//! The ranks that a launcher started, joined.

use std::time::Duration;

use c10d::{Backend, ProcessGroup, Rendezvous};
use dataset::order::World;
use launch::rank_env::{RankEnv, StorePort};
use tch::Device;

use crate::data_parallel::DataParallel;
use crate::train::TrainError;

/// Joins the process group of the rank environment; without one, this is a single process.
/// `timeout` is how long the start and a collective wait for the slowest rank; `stop` ends the start.
///
/// # Errors
/// A rank that does not come in time, a port that is taken, a request to stop.
pub fn join(
    rank_env: Option<&RankEnv>,
    device: Device,
    timeout: Duration,
    stop: &dyn Fn() -> bool,
) -> Result<(World, DataParallel), TrainError> {
    let world = |rank, world_size| {
        World::new(rank, world_size).map_err(|error| TrainError::Internal(error.to_string()))
    };
    let Some(env) = rank_env else { return Ok((world(0, 1)?, DataParallel::single())) };
    let backend = if device.is_cuda() { Backend::Nccl } else { Backend::Gloo };
    let (rank, world_size) = (env.rank, env.world_size);
    let group = ProcessGroup::new(backend, rank, world_size, &rendezvous(env), timeout, stop)?;
    Ok((world(rank, world_size)?, DataParallel::new(group)))
}

/// Where the ranks of `env` meet.
fn rendezvous(env: &RankEnv) -> Rendezvous {
    let port = match &env.store_port {
        StorePort::Master => c10d::StorePort::Fixed(env.master_port),
        StorePort::FirstFree { ports, job } => {
            c10d::StorePort::FirstFree { ports: ports.clone(), job: job.clone() }
        }
        StorePort::Published { group } => {
            c10d::StorePort::Published { store: env.master_port, group: group.clone() }
        }
    };
    Rendezvous { address: env.master_addr.clone(), port }
}

/// Divides the machine's cores among its ranks, where neither `OMP_NUM_THREADS` nor the starter does.
/// Before the first tensor operation.
pub fn divide_threads(rank_env: &RankEnv) {
    if let Some(threads) = rank_env.threads().and_then(|number| i32::try_from(number).ok()) {
        tch::set_num_threads(threads);
    }
}
