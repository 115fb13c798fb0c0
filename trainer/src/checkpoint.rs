//! Checkpoints to resume from: the HQ parameters, Adam's moments and the position in the order.
//!
//! A checkpoint is one safetensors file `checkpoints/step-0000001234.safetensors`, written beside
//! its final name, fsynced and renamed, so that a file with that name is whole. The frozen SAM is
//! not in it: its file is named and hashed in the metadata. How the same lies in an object store:
//! [`StoreCheckpoints`]; [`Checkpoints`] is either.

mod best;
mod lock;
mod place;
mod store;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tch::{Kind, Tensor};

use crate::model::StateDict;
use crate::optim::AdamState;
use crate::weights::{self, WeightsError};

pub use self::best::keep_best;
pub use self::lock::StoreLock;
pub use self::place::Checkpoints;
pub use self::store::StoreCheckpoints;

/// Version of the checkpoint layout; a file of another version is refused by name.
pub const CHECKPOINT_VERSION: u32 = 1;

/// Folder of the checkpoints in that of a run, and in a store.
const FOLDER: &str = "checkpoints";
const METADATA_KEY: &str = "hqsam_checkpoint";
const SUFFIX: &str = ".safetensors";

/// What cannot be done with a checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The folder cannot be read or written.
    #[error("checkpoint {}: {source}", path.display())]
    Io {
        /// File or folder.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// The file is not a checkpoint of ours, is damaged, or is of another version.
    #[error("checkpoint {}: {problem}", path.display())]
    Damaged {
        /// File.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The tensors cannot be read or written.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The object store failed.
    #[error(transparent)]
    Store(#[from] pipeline::StoreError),
    /// Another process writes checkpoints to the same place.
    #[error("{output}: {problem}")]
    Locked {
        /// The place.
        output: String,
        /// Who, and what to do.
        problem: String,
    },
}

/// Position and provenance of a checkpoint.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct CheckpointInfo {
    /// [`CHECKPOINT_VERSION`] of the writer.
    pub version: u32,
    /// Optimiser steps done since the start.
    pub global_step: u64,
    /// Epoch of the next step.
    pub epoch: u64,
    /// Next step within that epoch.
    pub step: u64,
    /// Seed of the run.
    pub seed: u64,
    /// Samples per step.
    pub global_batch: usize,
    /// SHA-256 of the data set's manifest.
    pub data_sha256: String,
    /// SHA-256 of the frozen checkpoint file; empty for a random SAM.
    pub sam_sha256: String,
    /// SHA-256 of the tensors below, by name, in order.
    pub tensors_sha256: String,
    /// The resolved configuration (TOML) of the run that wrote it.
    #[serde(default)]
    pub config: String,
    /// Version of the program that wrote it, and the SHA-256 of its file.
    #[serde(default)]
    pub program: String,
}

/// A checkpoint in memory.
pub struct Checkpoint {
    /// Position and provenance.
    pub info: CheckpointInfo,
    /// HQ parameters by published name.
    pub hq_parameters: StateDict,
    /// Moments of Adam.
    pub adam: AdamState,
}

/// Names of the checkpoints in `run_dir`, oldest first.
///
/// # Errors
/// The folder exists and cannot be read.
pub fn list(run_dir: &Path) -> Result<Vec<PathBuf>, CheckpointError> {
    let folder = run_dir.join(FOLDER);
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let io = |source| CheckpointError::Io { path: folder.clone(), source };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with("step-") && name.ends_with(SUFFIX) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Name of the checkpoint after this number of steps.
#[must_use]
pub fn file_name(global_step: u64) -> String {
    format!("step-{global_step:010}{SUFFIX}")
}

/// Writes a checkpoint into `run_dir` and returns its path.
///
/// # Errors
/// A disk that is full or not writable; no half-written file gets the final name.
pub fn save(run_dir: &Path, checkpoint: &Checkpoint) -> Result<PathBuf, CheckpointError> {
    let folder = run_dir.join(FOLDER);
    std::fs::create_dir_all(&folder)
        .map_err(|source| CheckpointError::Io { path: folder.clone(), source })?;
    let path = folder.join(file_name(checkpoint.info.global_step));
    write(&path, checkpoint)?;
    Ok(path)
}

/// Writes a checkpoint into the file `path`, atomically.
fn write(path: &Path, checkpoint: &Checkpoint) -> Result<(), CheckpointError> {
    let tensors = to_tensors(checkpoint);
    let mut info = checkpoint.info.clone();
    info.tensors_sha256 = digest(&tensors);
    let json = serde_json::to_string(&info).map_err(|error| CheckpointError::Damaged {
        path: path.to_owned(),
        problem: error.to_string(),
    })?;
    let metadata = BTreeMap::from([(METADATA_KEY.to_owned(), json)]);
    Ok(weights::save_safetensors(path, &tensors, &metadata)?)
}

/// Removes all but the newest `keep_last` of the checkpoints up to `global_step`, which was just
/// written; 0 keeps all. Those after it are not counted: a run that writes this one went on from before
/// them, because they are damaged.
///
/// # Errors
/// A checkpoint that cannot be removed.
pub fn retain(run_dir: &Path, global_step: u64, keep_last: usize) -> Result<(), CheckpointError> {
    if keep_last == 0 {
        return Ok(());
    }
    let mut found = list(run_dir)?;
    let written = run_dir.join(FOLDER).join(file_name(global_step));
    found.retain(|path| *path <= written);
    for path in found.iter().take(found.len().saturating_sub(keep_last)) {
        std::fs::remove_file(path)
            .map_err(|source| CheckpointError::Io { path: path.clone(), source })?;
    }
    Ok(())
}

/// A checkpoint and where it lies.
pub type Found = (PathBuf, Checkpoint);

/// The newest checkpoint that can be read, if any, and what is wrong with each newer one.
///
/// # Errors
/// The folder cannot be read, or it holds checkpoints and none can be: the newest one's error.
pub fn load_newest(
    run_dir: &Path,
) -> Result<(Option<Found>, Vec<CheckpointError>), CheckpointError> {
    let mut damaged = Vec::new();
    for path in list(run_dir)?.into_iter().rev() {
        match load(&path) {
            Ok(checkpoint) => return Ok((Some((path, checkpoint)), damaged)),
            Err(error) => damaged.push(error),
        }
    }
    if damaged.is_empty() { Ok((None, damaged)) } else { Err(damaged.remove(0)) }
}

/// Removes what a killed process began to write.
///
/// # Errors
/// A file that cannot be removed.
pub fn remove_staged(run_dir: &Path) -> Result<(), CheckpointError> {
    let folder = run_dir.join(FOLDER);
    if !folder.exists() {
        return Ok(());
    }
    let io = |path: &Path, source| CheckpointError::Io { path: path.to_owned(), source };
    for entry in std::fs::read_dir(&folder).map_err(|source| io(&folder, source))? {
        let path = entry.map_err(|source| io(&folder, source))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with('.') && name.ends_with(".tmp") {
            std::fs::remove_file(&path).map_err(|source| io(&path, source))?;
        }
    }
    Ok(())
}

/// Reads a checkpoint and compares its tensors with the hash written with them.
///
/// # Errors
/// A file that is damaged, of another version, or no checkpoint.
pub fn load(path: &Path) -> Result<Checkpoint, CheckpointError> {
    let bytes = std::fs::read(path)
        .map_err(|source| CheckpointError::Io { path: path.to_owned(), source })?;
    parse(path, &bytes)
}

/// [`load`] on bytes that have been read already; `path` only names them in errors.
fn parse(path: &Path, bytes: &[u8]) -> Result<Checkpoint, CheckpointError> {
    let damaged = |problem: String| CheckpointError::Damaged { path: path.to_owned(), problem };
    let (_, header) = safetensors::SafeTensors::read_metadata(bytes)
        .map_err(|error| damaged(format!("not a safetensors file ({error})")))?;
    let json = header
        .metadata()
        .as_ref()
        .and_then(|metadata| metadata.get(METADATA_KEY))
        .ok_or_else(|| damaged("holds weights, not a checkpoint to resume from".into()))?;
    let info: CheckpointInfo = serde_json::from_str(json)
        .map_err(|error| damaged(format!("metadata cannot be read ({error})")))?;
    if info.version != CHECKPOINT_VERSION {
        return Err(damaged(format!(
            "has layout version {}, this program reads {CHECKPOINT_VERSION}",
            info.version
        )));
    }
    let tensors = weights::parse_safetensors(path, bytes)?;
    if digest(&tensors) != info.tensors_sha256 {
        return Err(damaged("its tensors do not match the hash written with them".into()));
    }
    Ok(from_tensors(info, tensors))
}

/// SHA-256 over names, shapes and values, in order; equal digests mean equal bits.
#[must_use]
pub fn digest(tensors: &StateDict) -> String {
    let mut hasher = Sha256::new();
    for (name, tensor) in tensors {
        hasher.update(name.as_bytes());
        for size in tensor.size() {
            hasher.update(size.to_le_bytes());
        }
        let flat = tensor.detach().to_device(tch::Device::Cpu).to_kind(Kind::Float).reshape([-1]);
        let values: Vec<f32> = Vec::try_from(flat).unwrap_or_default();
        for value in values {
            hasher.update(value.to_le_bytes());
        }
    }
    hex(&hasher.finalize())
}

/// Lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

const MOMENT: &str = "adam.exp_avg.";
const SECOND_MOMENT: &str = "adam.exp_avg_sq.";
const PARAMETER: &str = "hq.";
const ADAM_STEP: &str = "adam.step";

fn to_tensors(checkpoint: &Checkpoint) -> StateDict {
    let mut tensors = BTreeMap::new();
    for (name, tensor) in &checkpoint.hq_parameters {
        tensors.insert(format!("{PARAMETER}{name}"), tensor.detach().copy());
    }
    for (name, tensor) in &checkpoint.adam.exp_avg {
        tensors.insert(format!("{MOMENT}{name}"), tensor.copy());
    }
    for (name, tensor) in &checkpoint.adam.exp_avg_sq {
        tensors.insert(format!("{SECOND_MOMENT}{name}"), tensor.copy());
    }
    // Exact in f32 up to 16.7 million steps.
    tensors.insert(ADAM_STEP.into(), Tensor::from_slice(&[checkpoint.adam.step as f32]));
    tensors
}

fn from_tensors(info: CheckpointInfo, tensors: StateDict) -> Checkpoint {
    let mut hq_parameters = StateDict::new();
    let (mut exp_avg, mut exp_avg_sq) = (Vec::new(), Vec::new());
    let mut step = 0;
    for (name, tensor) in tensors {
        if let Some(name) = name.strip_prefix(PARAMETER) {
            hq_parameters.insert(name.to_owned(), tensor);
        } else if let Some(name) = name.strip_prefix(MOMENT) {
            exp_avg.push((name.to_owned(), tensor));
        } else if let Some(name) = name.strip_prefix(SECOND_MOMENT) {
            exp_avg_sq.push((name.to_owned(), tensor));
        } else if name == ADAM_STEP {
            step = tensor.double_value(&[0]) as _;
        }
    }
    Checkpoint { info, hq_parameters, adam: AdamState { step, exp_avg, exp_avg_sq } }
}

#[cfg(test)]
mod tests;
