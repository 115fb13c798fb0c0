//! Checkpoints in an object store.
//!
//! ```text
//! config.toml                                       the resolved configuration
//! lock.json                                         who trains, see StoreLock
//! checkpoints/step-0000001234-9f86d081884c7d65.safetensors   named after its bytes
//! checkpoints/step-0000001234.json                  names it with its SHA-256; put after it
//! checkpoints/best.json                             names the best one and its score
//! ```
//!
//! A checkpoint exists when its small object is there, which is put last. What is named by none of
//! the small objects is an upload that was interrupted; the next checkpoint that is written removes
//! it. Of a checkpoint that is given up, the small object is removed first.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pipeline::RemoteFolder;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Checkpoint, CheckpointError, FOLDER, Found, StoreLock, file_name, hex, parse, write};
use crate::run::{CONFIG_FILE, file_sha256};

const BEST: &str = "checkpoints/best.json";
/// Folder of the working folder in which a checkpoint lies until it is uploaded.
const STAGING: &str = "staging";

/// The checkpoints of a run in an object store.
pub struct StoreCheckpoints {
    pub(super) folder: Arc<RemoteFolder>,
    pub(super) lock: Option<StoreLock>,
    staging: PathBuf,
}

/// What `step-<n>.json` holds.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
struct Entry {
    global_step: u64,
    /// Files of the checkpoint: one.
    parts: Vec<Part>,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
struct Part {
    /// Relative to the run.
    path: String,
    bytes: u64,
    sha256: String,
}

/// What `best.json` holds.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Best {
    mask_iou: f64,
    checkpoint: Entry,
}

impl StoreCheckpoints {
    /// Those below `folder`; uploads are staged in `work_dir`.
    #[must_use]
    pub fn new(folder: Arc<RemoteFolder>, work_dir: &Path) -> Self {
        Self { folder, lock: None, staging: work_dir.join(STAGING) }
    }

    /// The configuration that the run saved; `None` where there is no run.
    ///
    /// # Errors
    /// A store that does not answer.
    pub fn config(&self) -> Result<Option<String>, CheckpointError> {
        let found = self.folder.get(CONFIG_FILE)?;
        Ok(found.map(|(bytes, _)| String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// Saves the resolved configuration.
    ///
    /// # Errors
    /// A store that does not answer or refuses.
    pub fn put_config(&self, text: &str) -> Result<(), CheckpointError> {
        Ok(self.folder.put(CONFIG_FILE, text.as_bytes())?)
    }

    pub(super) fn newest(&self) -> Result<Option<String>, CheckpointError> {
        let entries = self.entries(&self.folder.list(FOLDER)?);
        Ok(entries.into_values().next_back())
    }

    /// Paths of the small objects by step.
    fn entries(&self, files: &BTreeMap<String, u64>) -> BTreeMap<u64, String> {
        files.keys().filter_map(|path| Some((step_of(path, ".json")?, path.clone()))).collect()
    }

    /// The newest checkpoint that is whole, if any, and what is wrong with each newer one.
    ///
    /// # Errors
    /// A store that does not answer, or that holds checkpoints none of which is whole.
    pub fn load_newest(&self) -> Result<(Option<Found>, Vec<CheckpointError>), CheckpointError> {
        let files = self.folder.list(FOLDER)?;
        let entries = self.entries(&files);
        let mut wrong = Vec::new();
        let newest = entries.keys().next_back();
        for path in files.keys().rev() {
            if step_of(path, ".safetensors").is_some_and(|step| newest.is_none_or(|it| step > *it))
            {
                wrong.push(self.damaged(path, "its upload was interrupted"));
            }
        }
        let mut first_damaged = None;
        for path in entries.values().rev() {
            match self.load(path) {
                Ok(found) => return Ok((Some(found), wrong)),
                // A store that does not answer must not look like a damaged checkpoint: other
                // ranks would go on from another one.
                Err(error @ CheckpointError::Store(_)) => return Err(error),
                Err(error) => {
                    first_damaged.get_or_insert(wrong.len());
                    wrong.push(error);
                }
            }
        }
        match first_damaged {
            Some(index) => Err(wrong.swap_remove(index)),
            None => Ok((None, wrong)),
        }
    }

    /// Reads one checkpoint, `checkpoints/step-<n>.json` or `checkpoints/best.json`, and compares it
    /// with its hashes.
    ///
    /// # Errors
    /// One that is damaged or not there; a store that does not answer.
    pub fn load(&self, path: &str) -> Result<Found, CheckpointError> {
        let (bytes, _) =
            self.folder.get(path)?.ok_or_else(|| self.damaged(path, "it is not there"))?;
        let unreadable = |error| self.damaged(path, &format!("cannot be read ({error})"));
        let entry: Entry = match path == BEST {
            true => serde_json::from_slice::<Best>(&bytes).map_err(unreadable)?.checkpoint,
            false => serde_json::from_slice(&bytes).map_err(unreadable)?,
        };
        let [part] = entry.parts.as_slice() else {
            return Err(self.damaged(path, "does not name one file"));
        };
        let (bytes, _) = self
            .folder
            .get(&part.path)?
            .ok_or_else(|| self.damaged(path, &format!("{} is not there", part.path)))?;
        if hex(&Sha256::digest(&bytes)) != part.sha256 {
            let problem = format!("{} does not match the hash written with it", part.path);
            return Err(self.damaged(path, &problem));
        }
        let checkpoint = parse(Path::new(&self.folder.url(&part.path)), &bytes)?;
        Ok((PathBuf::from(self.folder.url(path)), checkpoint))
    }

    pub(super) fn save(&self, checkpoint: &Checkpoint) -> Result<PathBuf, CheckpointError> {
        let global_step = checkpoint.info.global_step;
        let io = |path: &Path, source| CheckpointError::Io { path: path.to_owned(), source };
        std::fs::create_dir_all(&self.staging).map_err(|source| io(&self.staging, source))?;
        let staged = self.staging.join(file_name(global_step));
        write(&staged, checkpoint)?;
        let uploaded = self.upload(&staged, global_step);
        std::fs::remove_file(&staged).map_err(|source| io(&staged, source))?;
        self.publish(&Entry { global_step, parts: vec![uploaded?] })
    }

    fn upload(&self, staged: &Path, global_step: u64) -> Result<Part, CheckpointError> {
        let io = |source| CheckpointError::Io { path: staged.to_owned(), source };
        let sha256 = file_sha256(staged).map_err(io)?;
        let file = File::open(staged).map_err(io)?;
        let bytes = file.metadata().map_err(io)?.len();
        let path = format!("{FOLDER}/step-{global_step:010}-{sha256:.16}.safetensors");
        self.folder.upload(&path, file, bytes)?;
        Ok(Part { path, bytes, sha256 })
    }

    fn publish(&self, entry: &Entry) -> Result<PathBuf, CheckpointError> {
        // As late as possible: a process that was stopped for long may have been replaced.
        if let Some(lock) = &self.lock {
            lock.renew()?;
        }
        let path = entry_path(entry.global_step);
        let text = json(entry);
        if self.folder.create(&path, text.as_bytes())?.is_none() {
            // The one there is damaged, or was written with other settings that may change.
            self.folder.put(&path, text.as_bytes())?;
        }
        Ok(PathBuf::from(self.folder.url(&path)))
    }

    /// Removes all but the newest `keep_last` checkpoints up to `global_step` (0 keeps all; those after
    /// it are damaged, as in a folder), and what no checkpoint names.
    pub(super) fn retain(&self, global_step: u64, keep_last: usize) -> Result<(), CheckpointError> {
        let files = self.folder.list(FOLDER)?;
        let mut entries = self.entries(&files);
        let old = match keep_last {
            0 => 0,
            keep_last => entries.range(..=global_step).count().saturating_sub(keep_last),
        };
        for (_, path) in std::iter::from_fn(|| entries.pop_first()).take(old) {
            self.folder.remove(&path)?;
        }
        let mut kept: BTreeSet<String> = BTreeSet::new();
        if let Some(best) = self.best()? {
            kept.extend(best.checkpoint.parts.into_iter().map(|part| part.path));
        }
        for path in entries.values() {
            // Named after the step, which is in the name of the small object as well.
            let stem = path.trim_end_matches(".json");
            kept.extend(files.keys().filter(|file| file.starts_with(&format!("{stem}-"))).cloned());
        }
        for path in files.keys().filter(|path| path.ends_with(".safetensors")) {
            if !kept.contains(path) {
                self.folder.remove(path)?;
            }
        }
        Ok(())
    }

    fn best(&self) -> Result<Option<Best>, CheckpointError> {
        let found = self.folder.get(BEST)?;
        Ok(found.and_then(|(bytes, _)| serde_json::from_slice(&bytes).ok()))
    }

    pub(super) fn keep_best(&self, global_step: u64, score: f64) -> Result<bool, CheckpointError> {
        if self.best()?.is_some_and(|best| best.mask_iou >= score) {
            return Ok(false);
        }
        let Some((bytes, _)) = self.folder.get(&entry_path(global_step))? else {
            return Ok(false);
        };
        let Ok(checkpoint) = serde_json::from_slice(&bytes) else { return Ok(false) };
        let best = Best { mask_iou: score, checkpoint };
        self.folder.put(BEST, json(&best).as_bytes())?;
        Ok(true)
    }

    /// Removes what a killed process was about to upload.
    pub(super) fn remove_staged(&self) -> Result<(), CheckpointError> {
        match std::fs::remove_dir_all(&self.staging) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(CheckpointError::Io { path: self.staging.clone(), source })
            }
            _ => Ok(()),
        }
    }

    fn damaged(&self, path: &str, problem: &str) -> CheckpointError {
        CheckpointError::Damaged {
            path: PathBuf::from(self.folder.url(path)),
            problem: problem.to_owned(),
        }
    }
}

fn entry_path(global_step: u64) -> String {
    format!("{FOLDER}/step-{global_step:010}.json")
}

/// The step in the name of a file of ours that ends with `suffix`.
fn step_of(path: &str, suffix: &str) -> Option<u64> {
    let name = path.strip_prefix(FOLDER)?.strip_prefix("/step-")?.strip_suffix(suffix)?;
    name.split('-').next()?.parse().ok()
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("plain structs become JSON") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_read_from_names_of_both_kinds() {
        assert_eq!(step_of("checkpoints/step-0000000012.json", ".json"), Some(12));
        let part = "checkpoints/step-0000000012-00ff00ff00ff00ff.safetensors";
        assert_eq!(step_of(part, ".safetensors"), Some(12));
        assert_eq!(step_of(part, ".json"), None);
        assert_eq!(step_of(BEST, ".json"), None);
        assert_eq!(step_of("lock.json", ".json"), None);
    }
}
