//! What lives from the first step to the last: the model, the ranks, the position, the log.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use c10d::C10dError;
use c10d::device::device_memory;
use dataset::order::World;
use launch::rank_env::Heartbeat;
use pipeline::{Batch, Dataset, Position};
use sha2::{Digest, Sha256};
use tch::Tensor;

use super::agreement::{CONFIGURATION, program};
use super::ahead::Ahead;
use super::frozen::Frozen;
use super::parameters;
use super::resume::{forget_logs, newest_checkpoint, take_place};
use super::saver::Saver;
use super::setup::{check_prompts, join_ranks, open_feature_cache, step_context};
use super::{Outcome, TrainError, TrainOptions, internal};
use crate::checkpoint::{
    CHECKPOINT_VERSION, Checkpoint, CheckpointError, CheckpointInfo, Checkpoints,
};
use crate::config::TrainConfig;
use crate::evaluate::{
    EvalContext, EvalReport, Evaluation, PictureWish, check_protocols, evaluate,
};
use crate::feature_cache::CacheCounts;
use crate::memory;
use crate::model::{EncoderConfig, StateDict};
use crate::run::load_frozen_sam;
use crate::run_log::{RunLog, StepLine};
use crate::step::{StepContext, StepReport};

/// Held-out images whose masks are shown after every evaluation, for each prompt.
const OVERLAYS: usize = 4;

/// Everything that lives from the first step to the last.
pub(super) struct Training<'a> {
    pub(super) config: &'a TrainConfig,
    /// Logs and tables of the run.
    pub(super) folder: PathBuf,
    pub(super) dataset: Arc<Dataset>,
    pub(super) world: World,
    pub(super) img_size: usize,
    pub(super) position: Position,
    pub(super) global_step: u64,
    /// Steps skipped in a row.
    pub(super) skipped: u32,
    pub(super) data_sha256: String,
    pub(super) sam_sha256: String,
    /// See [`program`].
    pub(super) program: String,
    frozen: Frozen,
    /// Ends before what it writes to.
    saver: Saver,
    pub(super) checkpoints: Arc<Checkpoints>,
    /// Beaten before each step and for each evaluated batch: the launcher ends ranks that hang.
    pub(super) heartbeat: Heartbeat,
    last_save: Instant,
    /// Held by rank 0 while it lives, so that no two runs write into one folder.
    _lock: Option<File>,
    pub(super) log: RunLog,
    /// Dropped last: when this rank leaves the group, the others fail. By then it has written what it
    /// began, and can say at once why it ends.
    pub(super) context: StepContext,
}

impl<'a> Training<'a> {
    /// `None` where a rank was asked to stop while it waited for the others or for the run's place. A
    /// request that finds nothing to wait for ends the run after its first step: starts that did nothing
    /// would never end.
    pub(super) fn start(
        config: &'a TrainConfig,
        options: &TrainOptions,
        stop: &dyn Fn() -> bool,
    ) -> Result<Option<Self>, TrainError> {
        let encoder = config.model.encoder.resolve()?;
        let heartbeat = Heartbeat::from_env();
        // Loading, joining and waiting for a lock are no steps.
        let _beating = heartbeat.keep_beating();
        let (world, data_parallel) = match join_ranks(config, options, stop) {
            Err(TrainError::Collective(C10dError::Cancelled { .. })) => return Ok(None),
            joined => joined?,
        };
        let dataset = Arc::new(Dataset::open(&config.data.path)?);
        let place = take_place(config, world, &data_parallel, options.device, stop)?;
        let Some((checkpoints, lock)) = place else { return Ok(None) };
        let (checkpoints, folder) = (Arc::new(checkpoints), config.folder());
        let newest =
            newest_checkpoint(&checkpoints, &config.output, options.resume, world.rank == 0)?;
        if newest.is_none() && world.rank == 0 {
            forget_logs(&folder)?;
        }
        let (model, sam_sha256) = load_frozen_sam(config, options.device)?;
        // Now, not after the first epoch.
        check_protocols(&model, &config.eval.protocols)?;
        check_prompts(&config.prompt.kinds, &encoder)?;
        let frozen = Frozen::record(&model)?;
        let feature_cache = open_feature_cache(config, &encoder, &sam_sha256)?;
        let mut context = step_context(config, options.device, model, data_parallel);
        context.frozen.feature_cache = feature_cache.map(Arc::new);
        context.heartbeat = heartbeat.clone();
        if config.train.encode_ahead.is_on(options.device) {
            context.ahead = Some(Ahead::start(context.frozen.clone())?);
        }
        let mut training = Self {
            config,
            world,
            img_size: encoder.img_size() as usize,
            position: Position { epoch: 0, step: 0 },
            global_step: 0,
            skipped: 0,
            frozen,
            saver: Saver::new(Arc::clone(&checkpoints), config.train.keep_last),
            checkpoints,
            heartbeat,
            last_save: Instant::now(),
            _lock: lock,
            data_sha256: dataset.manifest_sha256(),
            sam_sha256,
            program: program(),
            log: RunLog::open(&folder, world.rank == 0)?,
            folder,
            dataset,
            context,
        };
        training.agree_on_inputs(&encoder)?;
        if let Some((path, checkpoint)) = newest {
            training.resume_from(&path, checkpoint)?;
        }
        training.agree_on_parameters("at the start")?;
        training.write_config()?;
        Ok(Some(training))
    }

    /// Every rank must read the same configuration, data and weights.
    fn agree_on_inputs(&self, encoder: &EncoderConfig) -> Result<(), TrainError> {
        let config = toml::to_string(self.config).map_err(internal)?;
        let encoder = serde_json::to_string(encoder).map_err(internal)?;
        let parts = [
            ("program", &self.program),
            (CONFIGURATION, &config),
            ("encoder", &encoder),
            ("data manifest", &self.data_sha256),
            ("SAM checkpoint", &self.sam_sha256),
        ];
        for (what, value) in parts {
            let digest = Sha256::digest(value.as_bytes());
            if !self.context.data_parallel.agree(&digest, self.context.device)? {
                return Err(self.disagreement(what, value)?);
            }
        }
        // The initial values come from one seed, so this changes nothing unless a library's
        // generator differs between machines.
        let mut parameters: Vec<Tensor> =
            self.context.hq_parameters.iter().map(|(_, tensor)| tensor.shallow_clone()).collect();
        Ok(self.context.data_parallel.broadcast(&mut parameters)?)
    }

    fn agree_on_parameters(&self, when: &str) -> Result<(), TrainError> {
        let context = &self.context;
        let state = self.hq_state();
        parameters::compare(&context.data_parallel, &state, self.global_step, when, context.device)
    }

    fn hq_state(&self) -> StateDict {
        self.context.hq_parameters.iter().map(|(n, t)| (n.clone(), t.shallow_clone())).collect()
    }

    /// Goes to the next step; `updated` is false for a step that was skipped.
    pub(super) fn advance(&mut self, epoch: u64, step: u64, steps_per_epoch: u64, updated: bool) {
        self.global_step += 1;
        if updated {
            self.skipped = 0;
        }
        self.position = if step + 1 == steps_per_epoch {
            Position { epoch: epoch + 1, step: 0 }
        } else {
            Position { epoch, step: step + 1 }
        };
    }

    /// Whether the steps or minutes between checkpoints are over; rank 0 has the clock.
    pub(super) fn checkpoint_is_due(&self) -> Result<bool, TrainError> {
        let train = &self.config.train;
        let by_steps = train.checkpoint_every_steps > 0
            && self.global_step.is_multiple_of(train.checkpoint_every_steps);
        if by_steps || train.checkpoint_every_minutes == 0.0 {
            return Ok(by_steps);
        }
        let is_over =
            self.last_save.elapsed().as_secs_f64() >= 60.0 * train.checkpoint_every_minutes;
        let request = f64::from(u8::from(is_over && self.world.rank == 0));
        let requests = self.context.data_parallel.sum(&[request], self.context.device)?;
        Ok(requests.iter().any(|&request| request > 0.0))
    }

    pub(super) fn check_parameters_if_due(&self) -> Result<(), TrainError> {
        let every = self.config.train.check_parameters_every_steps;
        if every > 0 && self.global_step.is_multiple_of(every) {
            self.agree_on_parameters(&format!("after step {}", self.global_step))?;
        }
        Ok(())
    }

    /// Tells what the feature cache of this rank did in the epoch that has just ended.
    pub(super) fn tell_cache(&self) {
        let Some(cache) = &self.context.frozen.feature_cache else { return };
        let CacheCounts { hits, misses, bytes_written } = cache.take_counts();
        tracing::info!(
            epoch = self.position.epoch - 1,
            hits,
            misses,
            mib_written = bytes_written >> 20,
            "feature cache"
        );
    }

    /// Ends the run, here or for good: waits for its last checkpoint, where it lies is returned, and
    /// proves that nothing frozen has changed.
    pub(super) fn end(&mut self) -> Result<PathBuf, TrainError> {
        let checkpoint = self.saved()?;
        self.frozen.check(&self.context.model)?;
        Ok(checkpoint)
    }

    /// Everything to go on from here, sharing no storage with what is trained.
    pub(super) fn checkpoint(&self) -> Checkpoint {
        let info = CheckpointInfo {
            version: CHECKPOINT_VERSION,
            global_step: self.global_step,
            epoch: self.position.epoch,
            step: self.position.step,
            seed: self.config.train.seed,
            global_batch: self.config.train.global_batch,
            data_sha256: self.data_sha256.clone(),
            sam_sha256: self.sam_sha256.clone(),
            tensors_sha256: String::new(),
            config: toml::to_string(self.config).unwrap_or_default(),
            program: self.program.clone(),
        };
        let copies =
            self.hq_state().into_iter().map(|(name, tensor)| (name, tensor.detach().copy()));
        Checkpoint { info, hq_parameters: copies.collect(), adam: self.context.optimizer.state() }
    }

    /// Proves that the ranks hold the same bits, then rank 0 begins to write a checkpoint.
    pub(super) fn save(&mut self) -> Result<(), TrainError> {
        self.agree_on_parameters(&format!("after step {}", self.global_step))?;
        self.last_save = Instant::now();
        if self.world.rank == 0 {
            let checkpoint = self.checkpoint();
            self.saver.start(checkpoint)?;
        }
        Ok(())
    }

    /// Says why this rank ends where that is not at once: what it began to write is written first.
    pub(super) fn tell_while_writing(&self, error: &TrainError) {
        if self.saver.is_writing() {
            tracing::error!(
                "{error}; the checkpoint that was begun is written, then this rank ends"
            );
        }
    }

    /// Ends on request, with everything saved.
    pub(super) fn stop(&mut self) -> Result<Outcome, TrainError> {
        let checkpoint = self.end()?;
        self.log.stopped(&checkpoint);
        Ok(Outcome::Stopped { checkpoint })
    }

    /// Waits until the last checkpoint is written; every rank then knows that it is there.
    fn saved(&mut self) -> Result<PathBuf, TrainError> {
        let path = self.saver.wait()?;
        self.context.data_parallel.barrier()?;
        Ok(path.unwrap_or_else(|| PathBuf::from(&self.config.output)))
    }

    pub(super) fn evaluation_is_due(&self) -> bool {
        let (epoch, eval) = (self.position.epoch, &self.config.eval);
        let last = epoch == self.config.train.epochs;
        !eval.splits.is_empty()
            && (last || (eval.every_epochs > 0 && epoch % eval.every_epochs == 0))
    }

    /// A report for each split; `None` where a rank was asked to stop meanwhile, which `stop` tells. The
    /// run that goes on from here owes the evaluation.
    pub(super) fn evaluate(
        &mut self,
        stop: &dyn Fn() -> bool,
    ) -> Result<Option<Vec<EvalReport>>, TrainError> {
        let mut reports = Vec::new();
        for split in &self.config.eval.splits {
            let rows = self.dataset.num_samples(split)?;
            let rows = self.config.eval.limit.map_or(rows, |limit| limit.min(rows));
            let context = EvalContext {
                model: &self.context.model,
                img_size: self.img_size,
                device: self.context.device,
                world: self.world,
                data_parallel: &self.context.data_parallel,
                feature_cache: self.context.frozen.feature_cache.as_deref(),
                pictures: PictureWish { worst: 0, fixed: OVERLAYS },
                on_batch: &|| self.heartbeat.beat(self.global_step),
                stop: Some(stop),
                progress: self.log.evaluation_bar(split, rows / self.world.world_size as u64),
            };
            let threads = self.config.data.threads;
            let found = evaluate(&context, &self.dataset, split, &self.config.eval, threads)?;
            let Some(Evaluation { report, pictures }) = found else { return Ok(None) };
            self.log.evaluated(self.position.epoch, self.global_step, &report, &pictures);
            reports.push(report);
        }
        self.keep_best(&reports)?;
        Ok(Some(reports))
    }

    fn keep_best(&mut self, reports: &[EvalReport]) -> Result<(), TrainError> {
        // Of the first protocol, which is the box unless configured otherwise.
        let scores: Vec<f64> = reports
            .iter()
            .filter_map(|report| Some(report.whole_split().next()?.hq.mask_iou))
            .collect();
        if !self.config.train.keep_best || self.world.rank != 0 || scores.is_empty() {
            return Ok(());
        }
        // A checkpoint that could not be written is survived here, and told by whoever asks next.
        if self.saver.written().is_some_and(Result::is_err) {
            tracing::warn!("the best checkpoint is not updated: the one just made is not written");
            return Ok(());
        }
        let score = scores.iter().sum::<f64>() / scores.len() as f64;
        match self.checkpoints.keep_best(self.global_step, score) {
            Err(error @ CheckpointError::Locked { .. }) => return Err(error.into()),
            Err(error) => tracing::warn!("{error}; the best checkpoint is not updated"),
            Ok(_) => {}
        }
        Ok(())
    }

    pub(super) fn log_step(
        &mut self,
        batch: &Batch,
        report: &StepReport,
        lr: f64,
        data_wait: Duration,
        step: Duration,
    ) {
        self.log.step(&StepLine {
            epoch: batch.epoch,
            step: batch.step,
            global_step: self.global_step,
            lr,
            loss: report.loss_mask + report.loss_dice,
            loss_mask: report.loss_mask,
            loss_dice: report.loss_dice,
            grad_norm: report.grad_norm,
            samples: report.samples.to_string(),
            images_per_second: self.config.train.global_batch as f64
                / (step + data_wait).as_secs_f64(),
            data_wait_secs: data_wait.as_secs_f64(),
            encode_secs: report.times.encode.as_secs_f64(),
            decode_secs: (report.times.decode + report.times.loss_backward).as_secs_f64(),
            step_secs: step.as_secs_f64(),
            resident_bytes: memory::resident_bytes().unwrap_or(0),
            // What cannot be counted is worth no error.
            device_peak_bytes: device_memory(self.context.device)
                .ok()
                .flatten()
                .map(|memory| memory.peak_allocated),
        });
    }
}
