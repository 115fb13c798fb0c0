//! The checkpoint with the best evaluation, in a folder.
//!
//! `best.json` says which one it is and its score, `best.safetensors` is a second name of it. The note
//! is replaced first: what a killed process left between the two is put right from the checkpoint that
//! the note names ([`settle_best`]), which is then still there.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{CheckpointError, FOLDER};

const BEST_FILE: &str = "best.safetensors";
const NOTE_FILE: &str = "best.json";

/// What `best.json` holds.
#[derive(Deserialize, Serialize)]
struct Note {
    mask_iou: f64,
    /// Name of the file in the same folder.
    checkpoint: String,
}

/// Keeps `path` as `checkpoints/best.safetensors` if `score` is higher than that of the one there.
///
/// # Errors
/// A disk that is full or not writable; the best one before is then still there.
pub fn keep_best(run_dir: &Path, path: &Path, score: f64) -> Result<bool, CheckpointError> {
    let folder = run_dir.join(FOLDER);
    if read_note(&folder).is_some_and(|note| note.mask_iou >= score) {
        return Ok(false);
    }
    let checkpoint = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let staged = stage_link(&folder, path)?;
    let note = staged_name(&folder, NOTE_FILE);
    let text = serde_json::json!(Note { mask_iou: score, checkpoint });
    std::fs::write(&note, format!("{text}\n")).map_err(|source| io(&note, source))?;
    replace(&note, &folder.join(NOTE_FILE))?;
    replace(&staged, &folder.join(BEST_FILE))?;
    Ok(true)
}

/// Puts right what a process that was killed within [`keep_best`] left.
///
/// # Errors
/// A disk that is full or not writable.
pub(super) fn settle_best(run_dir: &Path) -> Result<(), CheckpointError> {
    let folder = run_dir.join(FOLDER);
    let Some(note) = read_note(&folder) else { return Ok(()) };
    let path = folder.join(note.checkpoint);
    if !path.is_file() {
        return Ok(());
    }
    let staged = stage_link(&folder, &path)?;
    replace(&staged, &folder.join(BEST_FILE))
}

fn read_note(folder: &Path) -> Option<Note> {
    serde_json::from_slice(&std::fs::read(folder.join(NOTE_FILE)).ok()?).ok()
}

/// Checkpoints are never changed once written, so a second name costs no space.
fn stage_link(folder: &Path, path: &Path) -> Result<PathBuf, CheckpointError> {
    let staged = staged_name(folder, BEST_FILE);
    std::fs::hard_link(path, &staged)
        .or_else(|_| std::fs::copy(path, &staged).map(|_| ()))
        .map_err(|source| io(&staged, source))?;
    Ok(staged)
}

fn staged_name(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!(".{name}.{}.tmp", std::process::id()))
}

fn replace(staged: &Path, path: &Path) -> Result<(), CheckpointError> {
    std::fs::rename(staged, path).map_err(|source| io(path, source))
}

fn io(path: &Path, source: std::io::Error) -> CheckpointError {
    CheckpointError::Io { path: path.to_owned(), source }
}
