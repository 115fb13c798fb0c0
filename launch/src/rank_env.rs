//! The rank environment: who this process is among the ranks of a job.
//!
//! The only place that reads or writes `RANK`, `LOCAL_RANK`, `WORLD_SIZE`, `LOCAL_WORLD_SIZE`,
//! `MASTER_ADDR`, `MASTER_PORT` and what other launchers set in their stead. The names and
//! meanings are those of torchrun, so torchrun can start our ranks, and [`launch`](crate) can
//! start its. Slurm's `srun`, `mpirun` (Open MPI, MPICH, Intel MPI), Kubeflow's PyTorchJob and
//! Kubernetes' indexed jobs are recognised by the variables that they set, see
//! [`RankEnv::from_lookup`]. Ranks that never talk to each other need less, see
//! [`place_from_env`].

mod heartbeat;
mod job_env;
mod slurm;
mod starters;
mod stop_requests;
#[cfg(test)]
mod tests;
mod threads;

use std::process::Command;

pub(crate) use self::heartbeat::HEARTBEAT_FILE;
pub use self::heartbeat::{Beating, Heartbeat};
pub use self::job_env::{JobEnv, restart_count};
pub(crate) use self::stop_requests::ignore_hang_up;
pub use self::stop_requests::{StopRequest, stop_flag, watch_stop_requests};
pub(crate) use self::threads::OMP_NUM_THREADS;

const RANK: &str = "RANK";
const LOCAL_RANK: &str = "LOCAL_RANK";
const WORLD_SIZE: &str = "WORLD_SIZE";
const LOCAL_WORLD_SIZE: &str = "LOCAL_WORLD_SIZE";
const MASTER_ADDR: &str = "MASTER_ADDR";
const MASTER_PORT: &str = "MASTER_PORT";

/// Who this process is among the ranks of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RankEnv {
    /// This process among all, from 0.
    pub rank: usize,
    /// This process among those of its machine, from 0: the GPU to use.
    pub local_rank: usize,
    /// Number of processes.
    pub world_size: usize,
    /// Number of processes on this machine.
    pub local_world_size: usize,
    /// Host name or address of rank 0.
    pub master_addr: String,
    /// Port on which rank 0 listens, or the first to think of, see `store_port`.
    pub master_port: u16,
    /// How the ranks know the port on which rank 0 listens.
    pub store_port: StorePort,
}

/// How the ranks know the port on which rank 0 listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StorePort {
    /// It is `master_port`, which a launcher holds or a user chose.
    Master,
    /// The first of these that is free on rank 0's machine; `master_port` is the first one.
    FirstFree {
        /// In the order in which they are tried.
        ports: Vec<u16>,
        /// Tells this job from others that run on that machine.
        job: String,
    },
    /// Any. At `master_port` torchrun itself listens, with a key-value store (torch's TCPStore) in
    /// which rank 0 publishes its own port.
    Published {
        /// Tells the ranks of this start from those before a restart, which may still be alive. The
        /// same for all starts where torchrun runs on several machines: each counts its own restarts.
        group: String,
    },
}

/// An environment that only half says who this process is, or contradicts itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RankEnvError {
    /// Some variables are set and others, which they need, are not.
    #[error(
        "{set} is set but {missing} is not: start ranks with `launch` or torchrun, or unset {set} to run a single process"
    )]
    HalfSet {
        /// A variable that is set.
        set: &'static str,
        /// A variable that is not.
        missing: &'static str,
    },
    /// A variable does not hold a number of its range.
    #[error("{name}={value:?} is not {expected}")]
    Invalid {
        /// The variable.
        name: &'static str,
        /// What it holds.
        value: String,
        /// What it should hold.
        expected: &'static str,
    },
    /// A rank lies outside its world.
    #[error("{name}={value} does not fit {bound_name}={bound}: it must be smaller")]
    OutOfRange {
        /// The rank variable.
        name: &'static str,
        /// Its value.
        value: usize,
        /// The size variable.
        bound_name: &'static str,
        /// Its value.
        bound: usize,
    },
    /// Two launchers number this process differently.
    #[error(
        "{name}={value} contradicts {other_name}={other}, with as many processes by both: unset {name}, or set it for each process"
    )]
    Contradiction {
        /// The rank variable.
        name: &'static str,
        /// Its value.
        value: usize,
        /// The other launcher's.
        other_name: &'static str,
        /// Its value.
        other: String,
    },
    /// A pod of a PyTorchJob that is to start several processes.
    #[error(
        "PET_NPROC_PER_NODE={processes} asks for several processes in this pod: start them with `launch --procs` or `launch --gpus`, or set nprocPerNode: \"1\" in the PyTorchJob"
    )]
    PodOfSeveral {
        /// The variable.
        processes: String,
    },
    /// Slurm's list of reserved ports cannot be read.
    #[error(
        "SLURM_STEP_RESV_PORTS={value:?} is no list of ports, such as 12000-12003,12010; set MASTER_PORT"
    )]
    PortList {
        /// The list.
        value: String,
    },
    /// Slurm's list of nodes cannot be read.
    #[error("SLURM_STEP_NODELIST={value:?} is no list of nodes: {problem}; set MASTER_ADDR")]
    NodeList {
        /// The list.
        value: String,
        /// What is wrong with it.
        problem: &'static str,
    },
}

impl RankEnv {
    /// Reads the environment of this process. `None`: no launcher started it, it is a single
    /// process.
    ///
    /// # Errors
    /// Where the environment is half set or contradicts itself.
    pub fn from_env() -> Result<Option<Self>, RankEnvError> {
        Self::from_lookup(|name| {
            std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
        })
    }

    /// As [`from_env`](Self::from_env), from any source of variables.
    ///
    /// The first of these that is set tells who started this process:
    ///
    /// | starter | rank, number of ranks | local rank, number | master |
    /// |---|---|---|---|
    /// | torchrun, [`launch`](crate) | `RANK`, `WORLD_SIZE` | `LOCAL_RANK`, `LOCAL_WORLD_SIZE` | `MASTER_ADDR`, `MASTER_PORT` |
    /// | PyTorchJob | `RANK`, `WORLD_SIZE` | 0, 1: a pod has GPUs of its own | the same |
    /// | Kubernetes indexed job | `JOB_COMPLETION_INDEX`, `WORLD_SIZE` of the template | 0, 1 | of the template |
    /// | Open MPI | `OMPI_COMM_WORLD_RANK`, `_SIZE` | `..._LOCAL_RANK`, `_LOCAL_SIZE` | `mpirun -x`, or this machine |
    /// | MPICH, Intel MPI | `PMI_RANK`, `PMI_SIZE` | `MPI_LOCALRANKID`, `MPI_LOCALNRANKS` | `mpirun -genv`, or this machine |
    /// | srun | `SLURM_PROCID`, `SLURM_STEP_NUM_TASKS` | `SLURM_LOCALID`, `SLURM_STEP_TASKS_PER_NODE` | the step's first node; the step's reserved ports (`SLURM_STEP_RESV_PORTS`), or ports made of the job's number |
    ///
    /// `RANK` and `WORLD_SIZE` alone, outside of a pod and of srun, count all ranks as being on
    /// this machine. `MASTER_ADDR` and `MASTER_PORT` win wherever they are set. See [`StorePort`] for
    /// ports that nobody chose.
    ///
    /// # Errors
    /// As for [`from_env`](Self::from_env).
    pub fn from_lookup(
        lookup: impl Fn(&'static str) -> Option<String>,
    ) -> Result<Option<Self>, RankEnvError> {
        // MASTER_ADDR and MASTER_PORT alone are harmless: clusters export them everywhere.
        starters::rank_env(&|name| lookup(name).filter(|value| !value.is_empty()))
    }

    /// Puts this environment on a command that is about to start. Its rank 0 listens on
    /// `master_port`.
    pub fn apply_to(&self, command: &mut Command) {
        command
            .env(RANK, self.rank.to_string())
            .env(LOCAL_RANK, self.local_rank.to_string())
            .env(WORLD_SIZE, self.world_size.to_string())
            .env(LOCAL_WORLD_SIZE, self.local_world_size.to_string())
            .env(MASTER_ADDR, &self.master_addr)
            .env(MASTER_PORT, self.master_port.to_string());
    }
}

/// This process's rank and the number of ranks, for work that ranks share without talking to each
/// other, so that no master is needed. `None`: no launcher started it, it is a single process.
///
/// Starters are recognised as for [`RankEnv::from_lookup`]; where `srun` does not say how many
/// tasks its step has, `SLURM_NTASKS` counts.
///
/// # Errors
/// Where the environment is half set or contradicts itself.
pub fn place_from_env() -> Result<Option<(usize, usize)>, RankEnvError> {
    place_from_lookup(|name| {
        std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
    })
}

/// As [`place_from_env`], from any source of variables.
///
/// # Errors
/// As for [`place_from_env`].
pub fn place_from_lookup(
    lookup: impl Fn(&'static str) -> Option<String>,
) -> Result<Option<(usize, usize)>, RankEnvError> {
    let lookup = |name| lookup(name).filter(|value| !value.is_empty());
    starters::starter(&lookup).map(|starter| starters::place(starter, &lookup)).transpose()
}

fn invalid(name: &'static str, value: &str, expected: &'static str) -> RankEnvError {
    RankEnvError::Invalid { name, value: value.to_owned(), expected }
}

fn count(name: &'static str, value: &str) -> Result<usize, RankEnvError> {
    value.parse().map_err(|_| invalid(name, value, "a whole number from 0"))
}

fn size(name: &'static str, value: &str) -> Result<usize, RankEnvError> {
    let parsed = value.parse().ok().filter(|&number| number > 0);
    parsed.ok_or_else(|| invalid(name, value, "a whole number from 1"))
}

fn port(name: &'static str, value: &str) -> Result<u16, RankEnvError> {
    let parsed = value.parse().ok().filter(|&number| number > 0);
    parsed.ok_or_else(|| invalid(name, value, "a port number from 1 to 65535"))
}

fn below(
    name: &'static str,
    value: usize,
    bound_name: &'static str,
    bound: usize,
) -> Result<(), RankEnvError> {
    if value < bound {
        Ok(())
    } else {
        Err(RankEnvError::OutOfRange { name, value, bound_name, bound })
    }
}
