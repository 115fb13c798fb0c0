//! What torchrun tells its workers beyond their place.

use std::process::Command;

use super::{RankEnvError, count};

const GROUP_RANK: &str = "GROUP_RANK";
pub(super) const GROUP_WORLD_SIZE: &str = "GROUP_WORLD_SIZE";
const ROLE_NAME: &str = "ROLE_NAME";
const ROLE_RANK: &str = "ROLE_RANK";
const ROLE_WORLD_SIZE: &str = "ROLE_WORLD_SIZE";
const RUN_ID: &str = "TORCHELASTIC_RUN_ID";
pub(super) const RESTART_COUNT: &str = "TORCHELASTIC_RESTART_COUNT";
const MAX_RESTARTS: &str = "TORCHELASTIC_MAX_RESTARTS";
/// "True" where torchrun itself listens on `MASTER_PORT`.
pub(super) const USE_AGENT_STORE: &str = "TORCHELASTIC_USE_AGENT_STORE";

/// The job that a rank is part of, as torchrun describes it. torchrun's roles are one here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobEnv {
    /// This machine among all, from 0.
    pub group_rank: usize,
    /// Number of machines.
    pub group_world_size: usize,
    /// Name of the job, the same on all machines.
    pub run_id: String,
    /// How often the ranks were started again.
    pub restart_count: u32,
    /// How often they may be.
    pub max_restarts: u32,
}

impl JobEnv {
    /// Puts this environment on the command of one rank.
    pub fn apply_to(&self, rank: usize, world_size: usize, command: &mut Command) {
        command
            .env(GROUP_RANK, self.group_rank.to_string())
            .env(GROUP_WORLD_SIZE, self.group_world_size.to_string())
            .env(ROLE_NAME, "default")
            .env(ROLE_RANK, rank.to_string())
            .env(ROLE_WORLD_SIZE, world_size.to_string())
            .env(RUN_ID, &self.run_id)
            .env(RESTART_COUNT, self.restart_count.to_string())
            .env(MAX_RESTARTS, self.max_restarts.to_string())
            .env(USE_AGENT_STORE, "False");
    }
}

/// How often the ranks of this job were started again, as [`launch`](crate) and torchrun count it:
/// above 0, go on from the last checkpoint.
///
/// # Errors
/// Where the variable holds no number.
pub fn restart_count() -> Result<u32, RankEnvError> {
    match std::env::var_os(RESTART_COUNT).filter(|value| !value.is_empty()) {
        None => Ok(0),
        Some(value) => {
            let value = value.to_string_lossy();
            let number = count(RESTART_COUNT, &value)?;
            Ok(u32::try_from(number).unwrap_or(u32::MAX))
        }
    }
}
