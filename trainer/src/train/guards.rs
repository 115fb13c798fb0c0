//! What happens when a step cannot be trusted: a loss that is not finite is recorded for replay and
//! skipped or ends the run; an evaluation that a killed run owes is made up for.

use std::path::Path;

use pipeline::Batch;

use super::training::Training;
use super::{TrainError, internal};
use crate::checkpoint;
use crate::config::NonFinite;
use crate::json_lines::{count_lines_of, keep_lines_until};
use crate::run_log::EVALUATIONS;

/// Steps in a row that may be skipped: training that produces nothing but NaN must not end as if it
/// had succeeded.
const MAX_SKIPPED: u32 = 10;
/// Checkpoints of steps that were not finite that are kept, the newest: a run may skip many.
const MAX_RECORDED: usize = 10;

impl Training<'_> {
    /// Names the samples of every rank, saves them with the parameters as they were before the step,
    /// and skips the step if the configuration says so.
    ///
    /// # Errors
    /// The given one with the samples of all ranks, when the run is to stop.
    pub(super) fn not_finite(
        &mut self,
        batch: &Batch,
        error: TrainError,
    ) -> Result<(), TrainError> {
        let TrainError::NotFinite { epoch, step, loss_mask, loss_dice, grad_norm, .. } = error
        else {
            return Err(error);
        };
        let own = serde_json::to_vec(&batch.sample_ids).map_err(internal)?;
        let mut sample_ids: Vec<String> = Vec::new();
        let context = &self.context;
        for part in context.data_parallel.all_gather_bytes(&own, context.device)? {
            sample_ids.extend(serde_json::from_slice::<Vec<String>>(&part).map_err(internal)?);
        }
        if self.world.rank == 0 {
            // Best effort: what could not be recorded must not hide what happened.
            if let Err(error) = self.record_not_finite(&error, &sample_ids) {
                tracing::warn!("the step cannot be recorded for replay: {error}");
            }
        }
        self.skipped += 1;
        let may_skip = self.config.train.on_non_finite == NonFinite::Skip;
        if !may_skip || self.skipped > MAX_SKIPPED {
            return Err(TrainError::NotFinite {
                epoch,
                step,
                loss_mask,
                loss_dice,
                grad_norm,
                sample_ids,
            });
        }
        if self.world.rank == 0 {
            tracing::warn!(epoch, step, "skipped, not finite; samples {}", sample_ids.join(", "));
        }
        Ok(())
    }

    /// `nonfinite/step-<n>.json`, and a checkpoint in `nonfinite/` from which `--resume` does the same
    /// step again: those of the last [`MAX_RECORDED`] such steps.
    fn record_not_finite(
        &self,
        error: &TrainError,
        sample_ids: &[String],
    ) -> Result<(), TrainError> {
        let folder = self.folder.join("nonfinite");
        let saved = checkpoint::save(&folder, &self.checkpoint())?;
        checkpoint::retain(&folder, self.global_step, MAX_RECORDED)?;
        let path = folder.join(format!("step-{:010}.json", self.global_step));
        let record = serde_json::json!({
            "epoch": self.position.epoch, "step": self.position.step, "sample_ids": sample_ids,
            "checkpoint": saved, "error": error.to_string(),
        });
        std::fs::write(&path, format!("{record:#}\n"))
            .map_err(|source| TrainError::Io { path, source })
    }

    /// Whether an epoch has ended whose evaluation was due and is not in the log: the run was ended
    /// between the checkpoint and the evaluation.
    ///
    /// # Errors
    /// A rank that is gone, or a log that cannot be read or cut.
    pub(super) fn owes_evaluation(&self) -> Result<bool, TrainError> {
        let at_end = self.position.step == 0 && self.position.epoch > 0;
        if !at_end || !self.evaluation_is_due() {
            return Ok(false);
        }
        let mut owes = 0.0;
        if self.world.rank == 0 {
            let path = self.folder.join(EVALUATIONS);
            let eval = &self.config.eval;
            let due = eval.splits.len() * eval.protocols.len();
            let is_done = forget_partial_evaluation(&path, self.global_step, due)
                .map_err(|source| TrainError::Io { path, source })?;
            owes = f64::from(u8::from(!is_done));
        }
        let context = &self.context;
        Ok(context.data_parallel.sum(&[owes], context.device)?.iter().any(|&value| value > 0.0))
    }
}

/// Whether the log has all `due` lines of this step; if not, those it has are removed, so that the
/// evaluation made again is logged once.
fn forget_partial_evaluation(path: &Path, global_step: u64, due: usize) -> std::io::Result<bool> {
    if count_lines_of(path, global_step)? >= due {
        return Ok(true);
    }
    keep_lines_until(path, global_step.saturating_sub(1))?;
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_an_evaluation_is_forgotten_and_a_whole_one_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("eval.jsonl");
        assert!(!forget_partial_evaluation(&path, 4, 1).unwrap());
        let text = "{\"global_step\":2}\n{\"global_step\":4}\n";
        std::fs::write(&path, text).unwrap();
        assert!(forget_partial_evaluation(&path, 4, 1).unwrap());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        assert!(!forget_partial_evaluation(&path, 4, 2).unwrap());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"global_step\":2}\n");
    }
}
