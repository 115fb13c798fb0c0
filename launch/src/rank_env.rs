//! The rank environment: who this process is among the ranks of a job.
//!
//! The only place that reads or writes `RANK`, `LOCAL_RANK`, `WORLD_SIZE`, `LOCAL_WORLD_SIZE`,
//! `MASTER_ADDR` and `MASTER_PORT`. The names and meanings are those of torchrun, so torchrun,
//! Slurm or a PyTorchJob can start our ranks, and [`launch`](crate) can start theirs. Ranks that
//! never talk to each other need less, see [`place_from_env`], which also understands the
//! variables of Slurm and of Kubernetes' indexed jobs.

use std::process::Command;

const RANK: &str = "RANK";
const LOCAL_RANK: &str = "LOCAL_RANK";
const WORLD_SIZE: &str = "WORLD_SIZE";
const LOCAL_WORLD_SIZE: &str = "LOCAL_WORLD_SIZE";
const MASTER_ADDR: &str = "MASTER_ADDR";
const MASTER_PORT: &str = "MASTER_PORT";
const SLURM_PROCID: &str = "SLURM_PROCID";
const SLURM_NTASKS: &str = "SLURM_NTASKS";
/// Set by `srun` only, for the step it starts; `SLURM_NTASKS` is that of the allocation.
const SLURM_STEP_NUM_TASKS: &str = "SLURM_STEP_NUM_TASKS";
/// The index of a pod of a Kubernetes indexed job. The job does not say how many there are.
const JOB_COMPLETION_INDEX: &str = "JOB_COMPLETION_INDEX";

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
    /// Port on which rank 0 listens.
    pub master_port: u16,
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
    /// `RANK` and `WORLD_SIZE` make a job. `LOCAL_RANK` and `LOCAL_WORLD_SIZE` must come
    /// together; without them all ranks count as being on this machine.
    ///
    /// # Errors
    /// As for [`from_env`](Self::from_env).
    pub fn from_lookup(
        lookup: impl Fn(&'static str) -> Option<String>,
    ) -> Result<Option<Self>, RankEnvError> {
        let lookup = |name| lookup(name).filter(|value| !value.is_empty());
        // MASTER_ADDR and MASTER_PORT alone are harmless: clusters export them everywhere.
        let Some(set) = [RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE]
            .into_iter()
            .find(|&name| lookup(name).is_some())
        else {
            return Ok(None);
        };
        let needed = |name| lookup(name).ok_or(RankEnvError::HalfSet { set, missing: name });
        let rank = count(RANK, &needed(RANK)?)?;
        let world_size = size(WORLD_SIZE, &needed(WORLD_SIZE)?)?;
        let (local_rank, local_world_size) = match (lookup(LOCAL_RANK), lookup(LOCAL_WORLD_SIZE)) {
            (None, None) => (rank, world_size),
            (Some(local_rank), None) => {
                let set = LOCAL_RANK;
                let _ = count(LOCAL_RANK, &local_rank)?;
                return Err(RankEnvError::HalfSet { set, missing: LOCAL_WORLD_SIZE });
            }
            (None, Some(_)) => {
                return Err(RankEnvError::HalfSet { set: LOCAL_WORLD_SIZE, missing: LOCAL_RANK });
            }
            (Some(rank), Some(world)) => {
                (count(LOCAL_RANK, &rank)?, size(LOCAL_WORLD_SIZE, &world)?)
            }
        };
        let port = needed(MASTER_PORT)?;
        let env = Self {
            rank,
            local_rank,
            world_size,
            local_world_size,
            master_addr: needed(MASTER_ADDR)?,
            master_port: port
                .parse()
                .ok()
                .filter(|&port| port > 0)
                .ok_or_else(|| invalid(MASTER_PORT, &port, "a port number from 1 to 65535"))?,
        };
        below(RANK, rank, WORLD_SIZE, world_size)?;
        below(LOCAL_RANK, local_rank, LOCAL_WORLD_SIZE, local_world_size)?;
        Ok(Some(env))
    }

    /// Puts this environment on a command that is about to start.
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
/// other. `None`: no launcher started it, it is a single process.
///
/// The first of these that is set: `RANK` and `WORLD_SIZE` (torchrun, [`launch`](crate),
/// PyTorchJob); `JOB_COMPLETION_INDEX` with `WORLD_SIZE` (a Kubernetes indexed job, whose
/// template sets `WORLD_SIZE` to its number of completions); `SLURM_PROCID` with
/// `SLURM_STEP_NUM_TASKS` or `SLURM_NTASKS` (srun).
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
    let first = |names: &[&'static str]| names.iter().copied().find(|name| lookup(name).is_some());
    let (rank_name, size_names): (_, &[&'static str]) = match first(&[RANK, JOB_COMPLETION_INDEX]) {
        Some(rank) => (rank, &[WORLD_SIZE]),
        None if lookup(WORLD_SIZE).is_some() => {
            return Err(RankEnvError::HalfSet { set: WORLD_SIZE, missing: RANK });
        }
        None if lookup(SLURM_PROCID).is_some() => {
            (SLURM_PROCID, &[SLURM_STEP_NUM_TASKS, SLURM_NTASKS])
        }
        None => return Ok(None),
    };
    let Some(size_name) = first(size_names) else {
        let missing = size_names[size_names.len() - 1];
        return Err(RankEnvError::HalfSet { set: rank_name, missing });
    };
    let number = |name| lookup(name).unwrap_or_default();
    let rank = count(rank_name, &number(rank_name))?;
    let world_size = size(size_name, &number(size_name))?;
    below(rank_name, rank, size_name, world_size)?;
    Ok(Some((rank, world_size)))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Option<RankEnv>, RankEnvError> {
        RankEnv::from_lookup(|name| {
            pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    const FULL: [(&str, &str); 6] = [
        ("RANK", "5"),
        ("LOCAL_RANK", "1"),
        ("WORLD_SIZE", "8"),
        ("LOCAL_WORLD_SIZE", "4"),
        ("MASTER_ADDR", "node0"),
        ("MASTER_PORT", "29500"),
    ];

    #[test]
    fn an_empty_environment_is_a_single_process() {
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(read(&[("MASTER_ADDR", "node0"), ("MASTER_PORT", "29500")]), Ok(None));
    }

    #[test]
    fn what_is_applied_is_what_is_read() {
        let env = read(&FULL).unwrap().unwrap();
        assert_eq!((env.rank, env.local_rank, env.world_size, env.local_world_size), (5, 1, 8, 4));
        let mut command = Command::new("true");
        env.apply_to(&mut command);
        let applied = RankEnv::from_lookup(|name| {
            let value = command.get_envs().find(|(key, _)| *key == name)?.1?;
            Some(value.to_str().unwrap().to_owned())
        });
        assert_eq!(applied, Ok(Some(env)));
    }

    #[test]
    fn local_values_default_to_the_global_ones() {
        let pairs: Vec<_> = FULL.into_iter().filter(|(key, _)| !key.contains("LOCAL")).collect();
        let env = read(&pairs).unwrap().unwrap();
        assert_eq!((env.local_rank, env.local_world_size), (5, 8));
    }

    #[test]
    fn every_missing_variable_is_named() {
        for (name, _) in FULL {
            let pairs: Vec<_> = FULL.into_iter().filter(|(key, _)| *key != name).collect();
            let error = read(&pairs).unwrap_err();
            assert!(
                matches!(error, RankEnvError::HalfSet { missing, .. } if missing == name),
                "{name}: {error}"
            );
        }
    }

    fn place(pairs: &[(&str, &str)]) -> Result<Option<(usize, usize)>, String> {
        let lookup = |name: &'static str| {
            pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        };
        place_from_lookup(lookup).map_err(|error| error.to_string())
    }

    #[test]
    fn every_launcher_tells_the_place_of_a_rank() {
        assert_eq!(place(&[]), Ok(None));
        assert_eq!(place(&FULL), Ok(Some((5, 8))));
        assert_eq!(place(&[("RANK", "1"), ("WORLD_SIZE", "3")]), Ok(Some((1, 3))));
        let slurm = [("SLURM_PROCID", "2"), ("SLURM_NTASKS", "4")];
        assert_eq!(place(&slurm), Ok(Some((2, 4))));
        let step = [slurm[0], slurm[1], ("SLURM_STEP_NUM_TASKS", "3")];
        assert_eq!(place(&step), Ok(Some((2, 3))));
        // An allocation without srun: nothing says that there are more processes.
        assert_eq!(place(&[("SLURM_NTASKS", "4")]), Ok(None));
        let kubernetes = [("JOB_COMPLETION_INDEX", "0"), ("WORLD_SIZE", "2")];
        assert_eq!(place(&kubernetes), Ok(Some((0, 2))));
        // A launcher inside of an allocation is nearer than the allocation.
        assert_eq!(place(&[&FULL[..], &slurm].concat()), Ok(Some((5, 8))));
    }

    #[test]
    fn half_a_place_is_refused_by_name() {
        for (pairs, expected) in [
            (&[("RANK", "1")][..], "RANK is set but WORLD_SIZE is not"),
            (&[("WORLD_SIZE", "1")], "WORLD_SIZE is set but RANK is not"),
            (&[("JOB_COMPLETION_INDEX", "1")], "JOB_COMPLETION_INDEX is set but WORLD_SIZE is not"),
            (&[("SLURM_PROCID", "1")], "SLURM_PROCID is set but SLURM_NTASKS is not"),
            (&[("RANK", "3"), ("WORLD_SIZE", "3")], "RANK=3 does not fit WORLD_SIZE=3"),
        ] {
            let message = place(pairs).unwrap_err();
            assert!(message.starts_with(expected), "{message}");
        }
    }

    #[test]
    fn wrong_values_are_refused_by_name() {
        for (name, value, text) in [
            ("RANK", "x", "RANK=\"x\" is not a whole number from 0"),
            ("RANK", "8", "RANK=8 does not fit WORLD_SIZE=8: it must be smaller"),
            ("LOCAL_RANK", "4", "LOCAL_RANK=4 does not fit LOCAL_WORLD_SIZE=4: it must be smaller"),
            ("WORLD_SIZE", "0", "WORLD_SIZE=\"0\" is not a whole number from 1"),
            ("MASTER_PORT", "70000", "MASTER_PORT=\"70000\" is not a port number from 1 to 65535"),
        ] {
            let mut pairs = FULL.to_vec();
            pairs.iter_mut().find(|(key, _)| *key == name).unwrap().1 = value;
            assert_eq!(read(&pairs).unwrap_err().to_string(), text);
        }
    }
}
