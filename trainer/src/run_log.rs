//! What rank 0 tells while it trains: a progress bar, JSON lines, evaluation tables.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressStyle};
use pipeline::Position;
use serde::Serialize;

use crate::evaluate::EvalReport;
use crate::train::TrainError;

/// One line of `steps.jsonl`.
#[derive(Clone, Debug, Serialize)]
pub struct StepLine {
    /// Epoch, from 0.
    pub epoch: u64,
    /// Step within the epoch, from 0.
    pub step: u64,
    /// Steps done since the start, this one included.
    pub global_step: u64,
    /// Learning rate of the step.
    pub lr: f64,
    /// `loss_mask + loss_dice`.
    pub loss: f64,
    /// BCE part, mean over the global batch.
    pub loss_mask: f64,
    /// Dice part, mean over the global batch.
    pub loss_dice: f64,
    /// L2 norm of the averaged gradient.
    pub grad_norm: f64,
    /// Samples per second over all ranks.
    pub images_per_second: f64,
    /// Seconds that rank 0 waited for data.
    pub data_wait_secs: f64,
    /// Seconds in the frozen encoder.
    pub encode_secs: f64,
    /// Seconds in decoder, loss and backward.
    pub decode_secs: f64,
    /// Seconds of the whole step.
    pub step_secs: f64,
}

/// The log of a run; silent on every rank but 0.
pub struct RunLog {
    folder: PathBuf,
    steps: Option<File>,
    bar: ProgressBar,
}

impl RunLog {
    /// Opens (appends to) the log files of a run.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub fn open(folder: &Path, is_rank_zero: bool) -> Result<Self, TrainError> {
        let path = folder.join("steps.jsonl");
        let io = |source| TrainError::Io { path: path.clone(), source };
        let steps = if is_rank_zero {
            std::fs::create_dir_all(folder).map_err(io)?;
            Some(OpenOptions::new().create(true).append(true).open(&path).map_err(io)?)
        } else {
            None
        };
        Ok(Self { folder: folder.to_owned(), steps, bar: ProgressBar::hidden() })
    }

    fn is_rank_zero(&self) -> bool {
        self.steps.is_some()
    }

    /// Shows the bar.
    pub fn start(&mut self, position: &Position, steps_per_epoch: u64, epochs: u64) {
        if !self.is_rank_zero() {
            return;
        }
        self.bar = ProgressBar::new(steps_per_epoch * epochs)
            .with_position(position.epoch * steps_per_epoch + position.step);
        self.bar.set_style(
            ProgressStyle::with_template("train {bar:30} {pos}/{len} steps, eta {eta}, {msg}")
                .unwrap_or_else(|_| ProgressStyle::default_bar()),
        );
        self.bar.reset_eta();
    }

    /// Tells where training goes on, and drops the lines of steps that are done again.
    ///
    /// # Errors
    /// A log that cannot be rewritten.
    pub fn resumed(
        &mut self,
        checkpoint: &Path,
        position: &Position,
        global_step: u64,
    ) -> Result<(), TrainError> {
        if !self.is_rank_zero() {
            return Ok(());
        }
        tracing::info!(
            epoch = position.epoch,
            step = position.step,
            "resuming from {}",
            checkpoint.display()
        );
        for name in ["steps.jsonl", "eval.jsonl"] {
            let path = self.folder.join(name);
            keep_lines_until(&path, global_step)
                .map_err(|source| TrainError::Io { path, source })?;
        }
        let path = self.folder.join("steps.jsonl");
        let steps = OpenOptions::new().append(true).open(&path);
        self.steps = Some(steps.map_err(|source| TrainError::Io { path, source })?);
        Ok(())
    }

    /// Records a step. A line that cannot be written is worth a warning, not the run.
    pub fn step(&mut self, line: &StepLine) {
        let Some(file) = &mut self.steps else { return };
        self.bar.set_position(self.bar.position() + 1);
        self.bar.set_message(format!(
            "epoch {}, loss {:.4} (mask {:.4}, dice {:.4}), lr {:.0e}, {:.2} img/s",
            line.epoch + 1,
            line.loss,
            line.loss_mask,
            line.loss_dice,
            line.lr,
            line.images_per_second
        ));
        let written = serde_json::to_string(line)
            .map_err(std::io::Error::other)
            .and_then(|json| writeln!(file, "{json}"));
        if let Err(error) = written {
            tracing::warn!("steps.jsonl: {error}");
        }
        if self.bar.is_hidden() && line.global_step.is_multiple_of(20) {
            tracing::info!(
                epoch = line.epoch,
                step = line.step,
                loss = line.loss,
                images_per_second = line.images_per_second,
                "training"
            );
        }
    }

    /// A bar for an evaluation of `images` images.
    #[must_use]
    pub fn evaluation_bar(&self, split: &str, images: u64) -> ProgressBar {
        if self.is_rank_zero() { evaluation_bar(split, images) } else { ProgressBar::hidden() }
    }

    /// Writes `eval/<split>-epoch-<n>.json` and `.md`, and a line of `eval.jsonl`.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub fn evaluated(
        &self,
        epochs_done: u64,
        global_step: u64,
        report: &EvalReport,
    ) -> Result<(), TrainError> {
        if !self.is_rank_zero() {
            return Ok(());
        }
        let name = format!("{}-epoch-{epochs_done:03}", report.split);
        write_report(&self.folder.join("eval"), &name, report)?;
        let Some(all) = report.all() else { return Ok(()) };
        let line = serde_json::json!({
            "epochs_done": epochs_done, "global_step": global_step, "split": report.split,
            "images": all.images, "sam": all.sam, "hq": all.hq,
        });
        let path = self.folder.join("eval.jsonl");
        let io = |source| TrainError::Io { path: path.clone(), source };
        let mut file = OpenOptions::new().create(true).append(true).open(&path).map_err(io)?;
        writeln!(file, "{line}").map_err(io)?;
        self.bar.suspend(|| {
            tracing::info!(
                epochs_done,
                split = report.split,
                "mIoU SAM {:.2} HQ-SAM {:.2}, boundary mIoU SAM {:.2} HQ-SAM {:.2}",
                100.0 * all.sam.mask_iou,
                100.0 * all.hq.mask_iou,
                100.0 * all.sam.boundary_iou,
                100.0 * all.hq.boundary_iou
            );
        });
        Ok(())
    }

    /// Says how to go on after a stop on request.
    pub fn stopped(&self, checkpoint: &Path) {
        self.bar.abandon();
        if self.is_rank_zero() {
            tracing::info!("stopped on request; saved {}", checkpoint.display());
        }
    }

    /// Ends the bar and draws the curve. A picture that cannot be drawn is worth a warning.
    pub fn finish(&self) {
        self.bar.finish();
        if self.is_rank_zero()
            && let Err(problem) = crate::curve::draw(&self.folder)
        {
            tracing::warn!("{problem}");
        }
    }
}

/// Rewrites a log without the lines after `global_step` and without a torn last line.
fn keep_lines_until(path: &Path, global_step: u64) -> std::io::Result<()> {
    if !path.exists() {
        return Ok(());
    }
    let is_kept = |line: &&str| {
        serde_json::from_str::<serde_json::Value>(line)
            .ok()
            .and_then(|value| value["global_step"].as_u64())
            .is_some_and(|step| step <= global_step)
    };
    let text = std::fs::read_to_string(path)?;
    let kept: String = text.lines().filter(is_kept).flat_map(|line| [line, "\n"]).collect();
    let staged = path.with_extension("jsonl.tmp");
    std::fs::write(&staged, kept)?;
    std::fs::rename(staged, path)
}

/// A progress bar over images.
#[must_use]
pub fn evaluation_bar(split: &str, images: u64) -> ProgressBar {
    let bar = ProgressBar::new(images);
    bar.set_style(
        ProgressStyle::with_template("eval {msg} {bar:30} {pos}/{len} images, eta {eta}")
            .unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    bar.set_message(split.to_owned());
    bar
}

/// Writes `<name>.json` and `<name>.md` into `folder`.
///
/// # Errors
/// A folder that cannot be written.
pub fn write_report(folder: &Path, name: &str, report: &EvalReport) -> Result<(), TrainError> {
    let io = |source| TrainError::Io { path: folder.to_owned(), source };
    std::fs::create_dir_all(folder).map_err(io)?;
    let json = serde_json::to_string_pretty(report)
        .map_err(|error| TrainError::Internal(error.to_string()))?;
    std::fs::write(folder.join(format!("{name}.json")), json).map_err(io)?;
    std::fs::write(folder.join(format!("{name}.md")), report.table() + "\n").map_err(io)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_done_again_are_not_logged_twice() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("steps.jsonl");
        let lines: String = (1..=4).map(|step| format!("{{\"global_step\":{step}}}\n")).collect();
        std::fs::write(&path, lines + "{\"global_st").unwrap();
        keep_lines_until(&path, 2).unwrap();
        let kept = std::fs::read_to_string(&path).unwrap();
        assert_eq!(kept, "{\"global_step\":1}\n{\"global_step\":2}\n");
    }
}
