//! How launchers other than torchrun tell a process its place.

use super::job_env::{GROUP_WORLD_SIZE, RESTART_COUNT, USE_AGENT_STORE};
use super::slurm::{first_host, reserved_ports, tasks_per_node};
use super::{
    LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT, RANK, RankEnv, RankEnvError, StorePort,
    WORLD_SIZE, below, count, invalid, port, size,
};

/// The index of a pod of a Kubernetes indexed job. The job does not say how many there are.
const JOB_COMPLETION_INDEX: &str = "JOB_COMPLETION_INDEX";
/// Set in every pod.
const KUBERNETES_SERVICE_HOST: &str = "KUBERNETES_SERVICE_HOST";
/// Kubeflow's PyTorchJob: processes that its pods are to start with torchrun, a number or what
/// torchrun makes one of (`auto`, the operator's default; `cpu`, `gpu`).
const PET_NPROC_PER_NODE: &str = "PET_NPROC_PER_NODE";

const SLURM_PROCID: &str = "SLURM_PROCID";
const SLURM_NTASKS: &str = "SLURM_NTASKS";
/// Set by `srun` only, for the step it starts; `SLURM_NTASKS` is that of the allocation.
const SLURM_STEP_NUM_TASKS: &str = "SLURM_STEP_NUM_TASKS";
const SLURM_LOCALID: &str = "SLURM_LOCALID";
const SLURM_NODEID: &str = "SLURM_NODEID";
const SLURM_STEP_TASKS_PER_NODE: &str = "SLURM_STEP_TASKS_PER_NODE";
const SLURM_STEP_NODELIST: &str = "SLURM_STEP_NODELIST";
const SLURM_JOB_ID: &str = "SLURM_JOB_ID";
const SLURM_STEP_ID: &str = "SLURM_STEP_ID";
/// How often the job was queued again.
const SLURM_RESTART_COUNT: &str = "SLURM_RESTART_COUNT";
/// What `srun --resv-ports`, or a cluster with `MpiParams=ports=...`, keeps free for a step on all of
/// its nodes.
const SLURM_STEP_RESV_PORTS: &str = "SLURM_STEP_RESV_PORTS";

/// Open MPI's and Hydra's (MPICH, Intel MPI) rank, size, local rank and local size.
const OPEN_MPI: [&str; 4] = [
    "OMPI_COMM_WORLD_RANK",
    "OMPI_COMM_WORLD_SIZE",
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "OMPI_COMM_WORLD_LOCAL_SIZE",
];
const HYDRA: [&str; 4] = ["PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"];

/// Ports for jobs of Slurm that name none: below those that kernels hand out.
const SLURM_PORTS: std::ops::Range<u64> = 20_000..30_000;
/// How many of them are tried, and how far apart they lie: jobs that follow each other have
/// neighbouring first ones.
const SLURM_TRIED: u64 = 8;
const SLURM_APART: u64 = 1_013;

/// The value of a variable; `None` where it is absent or empty.
pub(super) type Lookup<'a> = &'a dyn Fn(&'static str) -> Option<String>;

/// Who started this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Starter {
    /// torchrun, `launch`, a PyTorchJob.
    Torchrun,
    /// Kubernetes.
    IndexedJob,
    /// mpirun, by its four variables.
    Mpi([&'static str; 4]),
    /// srun.
    Slurm,
}

/// The nearest launcher: one may run inside of another.
pub(super) fn starter(lookup: Lookup) -> Option<Starter> {
    let is_set = |name| lookup(name).is_some();
    if is_set(RANK) || is_set(LOCAL_RANK) || is_set(LOCAL_WORLD_SIZE) {
        Some(Starter::Torchrun)
    } else if is_set(JOB_COMPLETION_INDEX) {
        Some(Starter::IndexedJob)
    } else if is_set(WORLD_SIZE) {
        Some(Starter::Torchrun)
    } else if is_set(OPEN_MPI[0]) {
        // Before Slurm, which starts the daemons of mpirun and numbers those.
        Some(Starter::Mpi(OPEN_MPI))
    } else if is_set(HYDRA[0]) && is_set(HYDRA[2]) {
        Some(Starter::Mpi(HYDRA))
    } else if is_set(SLURM_PROCID) {
        Some(Starter::Slurm)
    } else {
        None
    }
}

/// The names of the rank and of the number of ranks.
pub(super) fn place_names(starter: Starter, lookup: Lookup) -> [&'static str; 2] {
    match starter {
        Starter::Torchrun => [RANK, WORLD_SIZE],
        Starter::IndexedJob => [JOB_COMPLETION_INDEX, WORLD_SIZE],
        Starter::Mpi(names) => [names[0], names[1]],
        Starter::Slurm if lookup(SLURM_STEP_NUM_TASKS).is_some() => {
            [SLURM_PROCID, SLURM_STEP_NUM_TASKS]
        }
        Starter::Slurm => [SLURM_PROCID, SLURM_NTASKS],
    }
}

/// The rank environment as the starter describes it.
pub(super) fn rank_env(lookup: Lookup) -> Result<Option<RankEnv>, RankEnvError> {
    let Some(starter) = starter(lookup) else { return Ok(None) };
    if starter == Starter::Slurm && lookup(SLURM_STEP_NUM_TASKS).is_none() {
        // The batch script itself, of which there is one however many tasks it may start.
        return Ok(None);
    }
    let (rank, world_size) = place(starter, lookup)?;
    let (local_rank, local_world_size) = match starter {
        Starter::Torchrun => torchrun_local(rank, world_size, lookup)?,
        Starter::IndexedJob => (0, 1),
        Starter::Mpi(names) => (
            count(names[2], &needed(names[0], names[2], lookup)?)?,
            size(names[3], &needed(names[0], names[3], lookup)?)?,
        ),
        Starter::Slurm => slurm_local(world_size, lookup)?,
    };
    let set = place_names(starter, lookup)[0];
    let master_addr = match (lookup(MASTER_ADDR), starter) {
        (Some(address), _) => address,
        (None, Starter::Slurm) => slurm_master(lookup)?,
        (None, Starter::Mpi(_)) if local_world_size == world_size => "127.0.0.1".to_owned(),
        (None, _) => return Err(RankEnvError::HalfSet { set, missing: MASTER_ADDR }),
    };
    let (master_port, store_port) = match (lookup(MASTER_PORT), starter) {
        (Some(text), _) => (port(MASTER_PORT, &text)?, beside_torchrun(lookup)),
        (None, Starter::Slurm) => slurm_ports(lookup)?,
        (None, _) => return Err(RankEnvError::HalfSet { set, missing: MASTER_PORT }),
    };
    Ok(Some(RankEnv {
        rank,
        local_rank,
        world_size,
        local_world_size,
        master_addr,
        master_port,
        store_port,
    }))
}

/// torchrun may listen on `MASTER_PORT` itself, where torch's ranks are its clients.
fn beside_torchrun(lookup: Lookup) -> StorePort {
    match lookup(USE_AGENT_STORE).as_deref() {
        Some("True") => {
            let restarts = lookup(RESTART_COUNT)
                .filter(|_| lookup(GROUP_WORLD_SIZE).is_some_and(|machines| machines == "1"));
            let group = restarts.map_or_else(|| "all".to_owned(), |count| format!("start_{count}"));
            StorePort::Published { group }
        }
        _ => StorePort::Master,
    }
}

/// This process among all, and how many there are.
pub(super) fn place(starter: Starter, lookup: Lookup) -> Result<(usize, usize), RankEnvError> {
    let [rank_name, size_name] = place_names(starter, lookup);
    let set = [rank_name, size_name, LOCAL_RANK, LOCAL_WORLD_SIZE]
        .into_iter()
        .find(|&name| lookup(name).is_some())
        .unwrap_or(rank_name);
    let rank = count(rank_name, &needed(set, rank_name, lookup)?)?;
    let world_size = size(size_name, &needed(set, size_name, lookup)?)?;
    below(rank_name, rank, size_name, world_size)?;
    Ok((rank, world_size))
}

/// This process among those of its machine where torchrun's names are used.
fn torchrun_local(
    rank: usize,
    world_size: usize,
    lookup: Lookup,
) -> Result<(usize, usize), RankEnvError> {
    let (local_rank, local_world_size) = match (lookup(LOCAL_RANK), lookup(LOCAL_WORLD_SIZE)) {
        (None, None) => return without_local(rank, world_size, lookup),
        (Some(local_rank), None) => {
            let _ = count(LOCAL_RANK, &local_rank)?;
            return Err(RankEnvError::HalfSet { set: LOCAL_RANK, missing: LOCAL_WORLD_SIZE });
        }
        (None, Some(_)) => {
            return Err(RankEnvError::HalfSet { set: LOCAL_WORLD_SIZE, missing: LOCAL_RANK });
        }
        (Some(rank), Some(world)) => (count(LOCAL_RANK, &rank)?, size(LOCAL_WORLD_SIZE, &world)?),
    };
    below(LOCAL_RANK, local_rank, LOCAL_WORLD_SIZE, local_world_size)?;
    Ok((local_rank, local_world_size))
}

/// `RANK` and `WORLD_SIZE` alone, which a script or a PyTorchJob sets.
fn without_local(
    rank: usize,
    world_size: usize,
    lookup: Lookup,
) -> Result<(usize, usize), RankEnvError> {
    for [rank_name, size_name] in [[SLURM_PROCID, SLURM_STEP_NUM_TASKS], [OPEN_MPI[0], OPEN_MPI[1]]]
    {
        let (Some(theirs), Some(number)) = (lookup(rank_name), lookup(size_name)) else { continue };
        // As many tasks as ranks: they are the ranks, so their numbers must agree. A script that
        // exports RANK before srun gives all of them the same.
        if number == world_size.to_string() && theirs != rank.to_string() {
            return Err(RankEnvError::Contradiction {
                name: RANK,
                value: rank,
                other_name: rank_name,
                other: theirs,
            });
        }
    }
    let tasks = lookup(SLURM_STEP_NUM_TASKS).and_then(|text| text.parse().ok());
    if tasks == Some(world_size) {
        return slurm_local(world_size, lookup);
    }
    // Where it is no number, the operator counts one process a pod in WORLD_SIZE.
    let is_several = |text: &String| text.parse().is_ok_and(|number: usize| number != 1);
    if let Some(processes) = lookup(PET_NPROC_PER_NODE).filter(is_several) {
        return Err(RankEnvError::PodOfSeveral { processes });
    }
    if lookup(KUBERNETES_SERVICE_HOST).is_some() {
        // One process a pod, which sees the GPUs of its pod.
        return Ok((0, 1));
    }
    Ok((rank, world_size))
}

fn slurm_local(world_size: usize, lookup: Lookup) -> Result<(usize, usize), RankEnvError> {
    let needed = |name| needed(SLURM_PROCID, name, lookup);
    let local_rank = count(SLURM_LOCALID, &needed(SLURM_LOCALID)?)?;
    let node = count(SLURM_NODEID, &needed(SLURM_NODEID)?)?;
    let text = needed(SLURM_STEP_TASKS_PER_NODE)?;
    let tasks = tasks_per_node(&text)
        .filter(|tasks| tasks.iter().sum::<usize>() == world_size)
        .ok_or_else(|| {
            let expected = "tasks of each node that add up to SLURM_STEP_NUM_TASKS, such as 4(x2)";
            invalid(SLURM_STEP_TASKS_PER_NODE, &text, expected)
        })?;
    below(SLURM_NODEID, node, SLURM_STEP_TASKS_PER_NODE, tasks.len())?;
    below(SLURM_LOCALID, local_rank, SLURM_STEP_TASKS_PER_NODE, tasks[node])?;
    Ok((local_rank, tasks[node]))
}

/// The machine of task 0.
fn slurm_master(lookup: Lookup) -> Result<String, RankEnvError> {
    let list = needed(SLURM_PROCID, SLURM_STEP_NODELIST, lookup)?;
    first_host(&list).map_err(|problem| RankEnvError::NodeList { value: list, problem })
}

/// The same ports on every rank: those that Slurm keeps for the step, or some of the job's own, of
/// which rank 0 takes the first that is free.
fn slurm_ports(lookup: Lookup) -> Result<(u16, StorePort), RankEnvError> {
    let job = needed(SLURM_PROCID, SLURM_JOB_ID, lookup)?;
    let number = count(SLURM_JOB_ID, &job)? as u64;
    let [step, restarts] =
        [SLURM_STEP_ID, SLURM_RESTART_COUNT].map(|name| lookup(name).unwrap_or_else(|| "0".into()));
    let ports = match lookup(SLURM_STEP_RESV_PORTS) {
        Some(value) => reserved_ports(&value).ok_or(RankEnvError::PortList { value })?,
        None => own_ports(number, step.parse().unwrap_or(0)),
    };
    let first = ports[0];
    Ok((
        first,
        StorePort::FirstFree { ports, job: format!("slurm {job}.{step}, start {restarts}") },
    ))
}

fn own_ports(job: u64, step: u64) -> Vec<u16> {
    let range = SLURM_PORTS.end - SLURM_PORTS.start;
    let first = job.wrapping_mul(31).wrapping_add(step);
    (0..SLURM_TRIED)
        .map(|tried| SLURM_PORTS.start + first.wrapping_add(tried * SLURM_APART) % range)
        .filter_map(|port| u16::try_from(port).ok())
        .collect()
}

fn needed(set: &'static str, name: &'static str, lookup: Lookup) -> Result<String, RankEnvError> {
    lookup(name).ok_or(RankEnvError::HalfSet { set, missing: name })
}
