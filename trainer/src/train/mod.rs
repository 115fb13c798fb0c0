//! The training loop: batches in, checkpoints and logs out.

mod agreement;
mod ahead;
mod frozen;
mod guards;
mod parameters;
mod resume;
mod saver;
mod setup;
mod training;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use c10d::C10dError;
use dataset::augment::LargeScaleJitter;
use launch::rank_env::RankEnv;
use pipeline::{StreamError, TrainRecipe, TrainStream};
use tch::Device;

pub use self::ahead::Ahead;
use self::ahead::Batches;
pub(crate) use self::setup::{check_prompts, join_ranks, step_context};
use self::training::Training;
use crate::checkpoint::CheckpointError;
use crate::config::TrainConfig;
use crate::evaluate::EvalReport;
use crate::run::RunError;
use crate::step::train_step;

/// Why training ended early.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// A setting that cannot work.
    #[error("{0}")]
    Config(String),
    /// A loss or gradient that is not a number; nothing was updated.
    #[error(
        "not finite in epoch {epoch}, step {step}: loss_mask {loss_mask}, loss_dice {loss_dice}, \
         gradient norm {grad_norm}; samples: {}", sample_ids.join(", ")
    )]
    NotFinite {
        /// Epoch, from 0.
        epoch: u64,
        /// Step within the epoch.
        step: u64,
        /// Mask loss.
        loss_mask: f64,
        /// Dice loss.
        loss_dice: f64,
        /// Gradient norm.
        grad_norm: f64,
        /// Samples of the step: this rank's, and those of all ranks once they are gathered.
        sample_ids: Vec<String>,
    },
    /// Ranks that should hold the same bits do not.
    #[error("{0}")]
    Diverged(String),
    /// A collective failed.
    #[error(transparent)]
    Collective(#[from] C10dError),
    /// A sample could not be read.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// A checkpoint could not be read or written.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The model could not be put together.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The run's folder could not be written.
    #[error("{}: {source}", path.display())]
    Io {
        /// File or folder.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// A bug of ours.
    #[error("internal error: {0}")]
    Internal(String),
}

/// How to train, besides what.
pub struct TrainOptions {
    /// Go on from the newest checkpoint of the run's folder.
    pub resume: bool,
    /// Where this rank's tensors live.
    pub device: Device,
    /// This rank's place, if a launcher started it.
    pub rank_env: Option<RankEnv>,
    /// Set when the run should save and stop after the current step or batch of an evaluation.
    pub stop: Arc<AtomicBool>,
}

/// How training ended.
pub enum Outcome {
    /// All epochs are done.
    Finished {
        /// Reports of the last evaluation.
        reports: Vec<EvalReport>,
    },
    /// Stopped on request before anything was done.
    NotStarted,
    /// Stopped on request with everything saved.
    Stopped {
        /// Where to resume from.
        checkpoint: PathBuf,
    },
}

/// Trains as `config` says.
///
/// # Errors
/// See [`TrainError`]; whatever was saved before stays.
pub fn train(config: &TrainConfig, options: &TrainOptions) -> Result<Outcome, TrainError> {
    let parent = parent_of_rank(options);
    let stop = || options.stop.load(Ordering::Relaxed) || parent_of_rank(options) != parent;
    let Some(mut training) = Training::start(config, options, &stop)? else {
        return Ok(Outcome::NotStarted);
    };
    run(&mut training, &stop).inspect_err(|error| training.tell_while_writing(error))
}

/// From where the training stands to its end, or until `stop` says that this rank was asked to.
fn run(training: &mut Training<'_>, stop: &dyn Fn() -> bool) -> Result<Outcome, TrainError> {
    let config = training.config;
    let mut batches = Batches::new(TrainStream::new(
        Arc::clone(&training.dataset),
        train_recipe(config, training.img_size),
        training.world,
        training.position,
        config.train.epochs,
    )?);
    let steps_per_epoch = batches.steps_per_epoch();
    if steps_per_epoch == 0 {
        return Err(too_few_samples(config));
    }
    training.log.start(&training.position, steps_per_epoch, config.train.epochs);

    let mut reports = Vec::new();
    if training.owes_evaluation()? {
        // A request from before this start does not end it: starts that did nothing would never end.
        let asked_before = stop();
        let stop_now = || !asked_before && stop();
        let Some(made) = training.evaluate(&stop_now)? else { return training.stop() };
        reports = made;
    }
    loop {
        let waiting = Instant::now();
        training.heartbeat.beat(training.global_step);
        let Some(batch) = batches.next(training.context.ahead.as_ref())? else { break };
        let data_wait = waiting.elapsed();
        let lr = config.train.lr_at(batch.epoch);
        let stepping = Instant::now();
        let report = match train_step(&mut training.context, &batch, lr, stop()) {
            Ok(report) => Some(report),
            Err(error) => {
                training.not_finite(&batch, error)?;
                None
            }
        };
        training.advance(batch.epoch, batch.step, steps_per_epoch, report.is_some());
        if let Some(report) = &report {
            training.log_step(&batch, report, lr, data_wait, stepping.elapsed());
        }
        let stop_agreed = report.is_some_and(|report| report.stop);

        let epoch_ended = training.position.step == 0;
        if epoch_ended || stop_agreed || training.checkpoint_is_due()? {
            training.save()?;
            if stop_agreed && training.position.epoch < config.train.epochs {
                return training.stop();
            }
        } else {
            training.check_parameters_if_due()?;
        }
        if epoch_ended {
            training.tell_cache();
        }
        if epoch_ended && training.evaluation_is_due() {
            let Some(made) = training.evaluate(stop)? else { return training.stop() };
            reports = made;
        }
    }
    training.end()?;
    training.log.finish();
    Ok(Outcome::Finished { reports })
}

fn too_few_samples(config: &TrainConfig) -> TrainError {
    TrainError::Config(format!(
        "split `{}` has fewer samples than train.global_batch = {}",
        config.data.split, config.train.global_batch
    ))
}

/// The launcher of this rank. When it changes, the launcher is gone: nobody would end this rank when
/// another fails, so it saves and stops.
fn parent_of_rank(options: &TrainOptions) -> Option<u32> {
    options.rank_env.as_ref().map(|_| std::os::unix::process::parent_id())
}

fn internal(error: impl std::fmt::Display) -> TrainError {
    TrainError::Internal(error.to_string())
}

fn train_recipe(config: &TrainConfig, img_size: usize) -> TrainRecipe {
    TrainRecipe {
        split: config.data.split.clone(),
        seed: config.train.seed,
        global_batch: config.train.global_batch,
        flip_probability: config.augment.flip_probability,
        jitter: match config.augment.scale_range.as_slice() {
            [low, high] => {
                Some(LargeScaleJitter { output_size: img_size, scale_range: [*low, *high] })
            }
            _ => None,
        },
        output_size: img_size,
        prompts: config.prompt.recipe(),
        min_foreground_pixels: config.augment.min_foreground_pixels,
        augment_copies: config.augment.copies,
        color_jitter: config.augment.color_jitter,
        decode: config.data.decode,
        threads: config.data.threads,
        prefetch_batches: config.data.prefetch_batches,
    }
}
