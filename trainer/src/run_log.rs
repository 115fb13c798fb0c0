//! What rank 0 tells while it trains: a progress bar, JSON lines, event files for TensorBoard,
//! evaluation tables and pages.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressStyle};
use pipeline::Position;
use serde::Serialize;

use crate::eval_files::write_report;
use crate::evaluate::{EvalReport, Pictures, SetScore, write_overlays};
use crate::json_lines::{append_line, is_full, keep_lines_until};
use crate::tensorboard::{EncodedPicture, EventWriter};
use crate::train::TrainError;

/// One line of `steps.jsonl`.
#[derive(Clone, Debug, Default, Serialize)]
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
    /// Which samples all ranks together trained on, see [`SampleDigest`](crate::sample_digest).
    pub samples: String,
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
    /// Resident memory of rank 0 after the step, 0 where the system does not tell.
    pub resident_bytes: u64,
    /// The most memory that tensors of rank 0 had on the GPU at once so far; null on a CPU.
    pub device_peak_bytes: Option<u64>,
}

impl StepLine {
    /// The numbers by the names that TensorBoard shows.
    fn scalars(&self) -> Vec<(String, f64)> {
        let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
        let device_peak =
            self.device_peak_bytes.map(|bytes| ("memory/device_peak_gib", gib(bytes)));
        [
            ("train/loss", self.loss),
            ("train/loss_mask", self.loss_mask),
            ("train/loss_dice", self.loss_dice),
            ("train/lr", self.lr),
            ("train/grad_norm", self.grad_norm),
            ("speed/images_per_second", self.images_per_second),
            ("speed/data_wait_secs", self.data_wait_secs),
            ("speed/encode_secs", self.encode_secs),
            ("speed/decode_secs", self.decode_secs),
            ("speed/step_secs", self.step_secs),
            ("memory/resident_gib", gib(self.resident_bytes)),
        ]
        .into_iter()
        .chain(device_peak)
        .map(|(tag, value)| (tag.to_owned(), value))
        .collect()
    }
}

/// Folder of the event files inside a run's.
pub const EVENTS_FOLDER: &str = "tensorboard";
/// Log of the steps inside a run's folder.
pub const STEPS: &str = "steps.jsonl";
/// Log of the evaluations inside a run's folder.
pub const EVALUATIONS: &str = "eval.jsonl";

/// The log of a run; silent on every rank but 0.
pub struct RunLog {
    folder: PathBuf,
    is_rank_zero: bool,
    /// Opened with the first line there is room for.
    steps: Option<File>,
    events: Option<EventWriter>,
    bar: ProgressBar,
}

impl RunLog {
    /// Opens (appends to) the log files of a run. A disk that is full is worth a warning.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub fn open(folder: &Path, is_rank_zero: bool) -> Result<Self, TrainError> {
        let bar = ProgressBar::hidden();
        let mut log =
            Self { folder: folder.to_owned(), is_rank_zero, steps: None, events: None, bar };
        if is_rank_zero {
            let io = |path: &Path, source| TrainError::Io { path: path.to_owned(), source };
            std::fs::create_dir_all(folder).map_err(|source| io(folder, source))?;
            let path = folder.join(EVENTS_FOLDER);
            match EventWriter::create(&path) {
                Ok(writer) => log.events = Some(writer),
                Err(error) if is_full(&error) => tell_no_events(&error),
                Err(source) => return Err(io(&path, source)),
            }
            match log.open_steps() {
                Err(source) if !is_full(&source) => return Err(io(&folder.join(STEPS), source)),
                _ => {}
            }
        }
        Ok(log)
    }

    fn open_steps(&mut self) -> std::io::Result<&mut File> {
        let file = match self.steps.take() {
            Some(file) => file,
            None => OpenOptions::new().create(true).append(true).open(self.folder.join(STEPS))?,
        };
        Ok(self.steps.insert(file))
    }

    /// Shows the bar.
    pub fn start(&mut self, position: &Position, steps_per_epoch: u64, epochs: u64) {
        if !self.is_rank_zero {
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
        if !self.is_rank_zero {
            return Ok(());
        }
        tracing::info!(
            epoch = position.epoch,
            step = position.step,
            "resuming from {}",
            checkpoint.display()
        );
        for name in [STEPS, EVALUATIONS] {
            let path = self.folder.join(name);
            keep_lines_until(&path, global_step)
                .map_err(|source| TrainError::Io { path, source })?;
        }
        self.record(|events| events.restart_at(global_step + 1));
        Ok(())
    }

    /// Writes events. One that cannot be written is worth a warning, not the run.
    fn record(&mut self, write: impl FnOnce(&mut EventWriter) -> std::io::Result<()>) {
        let Some(events) = &mut self.events else { return };
        if let Err(error) = write(events) {
            tell_no_events(&error);
            self.events = None;
        }
    }

    /// Records a step. A line that cannot be written is worth a warning, not the run.
    pub fn step(&mut self, line: &StepLine) {
        if !self.is_rank_zero {
            return;
        }
        // Steps that were skipped have no line.
        self.bar.set_position(line.global_step);
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
            .and_then(|json| append_line(self.open_steps()?, &json));
        if let Err(error) = written {
            tracing::warn!("{STEPS}: {error}");
        }
        self.record(|events| events.scalars(line.global_step, &line.scalars()));
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
        if self.is_rank_zero { evaluation_bar(split, images) } else { ProgressBar::hidden() }
    }

    /// Writes `eval/<split>-epoch-<n>` as [`write_report`] does, a folder of the same name as
    /// [`write_overlays`] does, and a line of `eval.jsonl` for each protocol. What cannot be written is
    /// worth a warning, not the run: the figures are told.
    pub fn evaluated(
        &mut self,
        epochs_done: u64,
        global_step: u64,
        report: &EvalReport,
        pictures: &Pictures,
    ) {
        if !self.is_rank_zero {
            return;
        }
        for all in report.whole_split() {
            self.bar.suspend(|| tell(epochs_done, &report.split, all));
        }
        let name = format!("{}-epoch-{epochs_done:03}", report.split);
        let folder = self.folder.join("eval");
        let written = write_report(&folder, &name, report)
            .and_then(|()| self.add_to_evaluations(epochs_done, global_step, report));
        if let Err(error) = written {
            tracing::warn!("{error}; training goes on without a record of this evaluation");
        }
        if let Err(error) = write_overlays(&folder, &report.split, epochs_done, pictures) {
            tracing::warn!("{}: the pictures of {name}: {error}", folder.display());
        }
        self.record(|events| record_evaluation(events, global_step, report, pictures));
    }

    fn add_to_evaluations(
        &self,
        epochs_done: u64,
        global_step: u64,
        report: &EvalReport,
    ) -> Result<(), TrainError> {
        let path = self.folder.join(EVALUATIONS);
        let io = |source| TrainError::Io { path: path.clone(), source };
        let mut file = OpenOptions::new().create(true).append(true).open(&path).map_err(io)?;
        for all in report.whole_split() {
            let line = serde_json::json!({
                "epochs_done": epochs_done, "global_step": global_step, "split": report.split,
                "protocol": all.protocol, "images": all.images, "sam": all.sam, "hq": all.hq,
            });
            append_line(&mut file, &line.to_string()).map_err(io)?;
        }
        Ok(())
    }

    /// Says how to go on after a stop on request.
    pub fn stopped(&self, checkpoint: &Path) {
        self.bar.abandon();
        if self.is_rank_zero {
            tracing::info!("stopped on request; saved {}", checkpoint.display());
        }
    }

    /// Ends the bar and draws the curve. A picture that cannot be drawn is worth a warning.
    pub fn finish(&self) {
        self.bar.finish();
        if self.is_rank_zero
            && let Err(problem) = crate::curve::draw(&self.folder)
        {
            tracing::warn!("{problem}");
        }
    }
}

fn tell_no_events(error: &std::io::Error) {
    tracing::warn!("{EVENTS_FOLDER}: {error}; no more events are written");
}

/// Means of the whole split, and the masks of a few images.
fn record_evaluation(
    events: &mut EventWriter,
    step: u64,
    report: &EvalReport,
    pictures: &Pictures,
) -> std::io::Result<()> {
    let mut values = Vec::new();
    for all in report.whole_split() {
        let name = |metric: &str| format!("eval/{}/{}/{metric}", report.split, all.protocol);
        values.extend([
            (name("hq_mask_iou"), all.hq.mask_iou),
            (name("hq_boundary_iou"), all.hq.boundary_iou),
            (name("sam_mask_iou"), all.sam.mask_iou),
            (name("sam_boundary_iou"), all.sam.boundary_iou),
        ]);
    }
    events.scalars(step, &values)?;
    for case in &pictures.fixed {
        let score = &case.score;
        let tag = format!("eval/{}/{}/{}", report.split, score.protocol, score.sample_id);
        let bytes = case.jpeg();
        let picture = EncodedPicture { height: case.height, width: case.width, bytes: &bytes };
        events.picture(step, &tag, picture)?;
    }
    Ok(())
}

fn tell(epochs_done: u64, split: &str, all: &SetScore) {
    tracing::info!(
        epochs_done,
        split,
        protocol = %all.protocol,
        "mIoU SAM {:.2} HQ-SAM {:.2}, boundary mIoU SAM {:.2} HQ-SAM {:.2}",
        100.0 * all.sam.mask_iou,
        100.0 * all.hq.mask_iou,
        100.0 * all.sam.boundary_iou,
        100.0 * all.hq.boundary_iou
    );
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_counts_steps_that_were_skipped() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = RunLog::open(folder.path(), true).unwrap();
        log.start(&Position { epoch: 1, step: 1 }, 4, 3);
        assert_eq!(log.bar.position(), 5);
        // The sixth step was not finite.
        log.step(&StepLine { epoch: 1, step: 2, global_step: 7, ..StepLine::default() });
        assert_eq!(log.bar.position(), 7);
    }
}
