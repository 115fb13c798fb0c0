//! What lives from the first step to the last: the model, the ranks, the position, the log.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use c10d::{Backend, ProcessGroup};
use dataset::order::World;
use pipeline::{Batch, Dataset, Position};
use sha2::{Digest, Sha256};
use tch::{Device, Tensor};

use super::{TrainError, TrainOptions};
use crate::checkpoint::{self, CHECKPOINT_VERSION, Checkpoint, CheckpointInfo};
use crate::config::TrainConfig;
use crate::data_parallel::DataParallel;
use crate::evaluate::{EvalContext, EvalReport, evaluate};
use crate::feature_cache::FeatureCache;
use crate::loss::LossConfig;
use crate::model::{EncoderConfig, SamHq, StateDict};
use crate::optim::{Adam, AdamConfig};
use crate::run::{CONFIG_FILE, load_frozen_sam, load_hq_parameters};
use crate::run_log::{RunLog, StepLine};
use crate::step::{StepContext, StepReport};

/// Everything that lives from the first step to the last.
pub(super) struct Training<'a> {
    config: &'a TrainConfig,
    pub(super) context: StepContext,
    pub(super) dataset: Arc<Dataset>,
    pub(super) world: World,
    pub(super) img_size: usize,
    pub(super) position: Position,
    global_step: u64,
    data_sha256: String,
    sam_sha256: String,
    pub(super) log: RunLog,
}

impl<'a> Training<'a> {
    pub(super) fn start(
        config: &'a TrainConfig,
        options: &TrainOptions,
    ) -> Result<Self, TrainError> {
        let encoder = config.model.encoder.resolve()?;
        let (world, data_parallel) = join_ranks(config, options)?;
        let dataset = Arc::new(Dataset::open(&config.data.path)?);
        let newest = newest_checkpoint(config, options.resume)?;
        let (model, sam_sha256) = load_frozen_sam(config, options.device)?;
        let feature_cache = open_feature_cache(config, &encoder, &sam_sha256, world)?;
        let mut training = Self {
            config,
            context: StepContext {
                feature_cache,
                ..step_context(config, options.device, model, data_parallel)
            },
            world,
            img_size: encoder.img_size() as usize,
            position: Position { epoch: 0, step: 0 },
            global_step: 0,
            data_sha256: dataset.manifest_sha256(),
            sam_sha256,
            log: RunLog::open(&config.output, world.rank == 0)?,
            dataset,
        };
        training.agree_on_inputs(&encoder)?;
        if let Some(path) = newest {
            training.resume_from(&path)?;
        }
        training.agree_on_parameters("at the start")?;
        training.write_config()?;
        Ok(training)
    }

    /// Every rank must read the same configuration, data and weights.
    fn agree_on_inputs(&self, encoder: &EncoderConfig) -> Result<(), TrainError> {
        let config = toml::to_string(self.config).map_err(internal)?;
        let encoder = serde_json::to_string(encoder).map_err(internal)?;
        let parts = [
            ("configuration", config),
            ("encoder", encoder),
            ("data manifest", self.data_sha256.clone()),
            ("SAM checkpoint", self.sam_sha256.clone()),
        ];
        for (what, value) in parts {
            let digest = Sha256::digest(value.as_bytes());
            if !self.context.data_parallel.agree(&digest, self.context.device)? {
                return Err(TrainError::Diverged(format!(
                    "rank {}: the {what} is not the same on every rank",
                    self.world.rank
                )));
            }
        }
        // The initial values come from one seed, so this changes nothing unless a library's
        // generator differs between machines.
        let mut parameters: Vec<Tensor> =
            self.context.hq_parameters.iter().map(|(_, tensor)| tensor.shallow_clone()).collect();
        Ok(self.context.data_parallel.broadcast(&mut parameters)?)
    }

    fn agree_on_parameters(&self, when: &str) -> Result<(), TrainError> {
        let digest = Sha256::digest(checkpoint::digest(&self.hq_state()).as_bytes());
        if self.context.data_parallel.agree(&digest, self.context.device)? {
            return Ok(());
        }
        Err(TrainError::Diverged(format!(
            "rank {}: HQ parameters differ between ranks {when}",
            self.world.rank
        )))
    }

    fn hq_state(&self) -> StateDict {
        self.context.hq_parameters.iter().map(|(n, t)| (n.clone(), t.shallow_clone())).collect()
    }

    fn resume_from(&mut self, path: &Path) -> Result<(), TrainError> {
        let Checkpoint { info, hq_parameters, adam } = checkpoint::load(path)?;
        let train = &self.config.train;
        let checks = [
            ("train.seed", info.seed.to_string(), train.seed.to_string()),
            ("train.global_batch", info.global_batch.to_string(), train.global_batch.to_string()),
            ("data set (manifest hash)", info.data_sha256.clone(), self.data_sha256.clone()),
            ("SAM checkpoint (hash)", info.sam_sha256.clone(), self.sam_sha256.clone()),
        ];
        for (what, saved, now) in checks {
            if saved != now {
                return Err(TrainError::Config(format!(
                    "{}: cannot resume, {what} was {saved} and is now {now}",
                    path.display()
                )));
            }
        }
        load_hq_parameters(&self.context.model, &hq_parameters)
            .map_err(|problem| TrainError::Config(format!("{}: {problem}", path.display())))?;
        self.context
            .optimizer
            .load_state(&adam)
            .map_err(|problem| TrainError::Config(format!("{}: {problem}", path.display())))?;
        self.position = Position { epoch: info.epoch, step: info.step };
        self.global_step = info.global_step;
        self.log.resumed(path, &self.position, self.global_step)
    }

    fn write_config(&self) -> Result<(), TrainError> {
        if self.world.rank != 0 {
            return Ok(());
        }
        let path = self.config.output.join(CONFIG_FILE);
        let text = toml::to_string(self.config).map_err(internal)?;
        std::fs::write(&path, text).map_err(|source| TrainError::Io { path, source })
    }

    pub(super) fn advance(&mut self, epoch: u64, step: u64, steps_per_epoch: u64) {
        self.global_step += 1;
        self.position = if step + 1 == steps_per_epoch {
            Position { epoch: epoch + 1, step: 0 }
        } else {
            Position { epoch, step: step + 1 }
        };
    }

    /// Proves that the ranks hold the same bits, then rank 0 writes a checkpoint.
    pub(super) fn save(&self) -> Result<PathBuf, TrainError> {
        self.agree_on_parameters(&format!("after step {}", self.global_step))?;
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
        };
        let path = if self.world.rank == 0 {
            let checkpoint = Checkpoint {
                info,
                hq_parameters: self.hq_state(),
                adam: self.context.optimizer.state(),
            };
            let path = checkpoint::save(&self.config.output, &checkpoint)?;
            checkpoint::retain(&self.config.output, self.config.train.keep_last)?;
            path
        } else {
            self.config.output.clone()
        };
        self.context.data_parallel.barrier()?;
        Ok(path)
    }

    pub(super) fn evaluation_is_due(&self) -> bool {
        let (epoch, eval) = (self.position.epoch, &self.config.eval);
        let last = epoch == self.config.train.epochs;
        !eval.splits.is_empty()
            && (last || (eval.every_epochs > 0 && epoch % eval.every_epochs == 0))
    }

    pub(super) fn evaluate(&mut self) -> Result<Vec<EvalReport>, TrainError> {
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
                feature_cache: self.context.feature_cache.as_ref(),
                progress: self.log.evaluation_bar(split, rows / self.world.world_size as u64),
            };
            let threads = self.config.data.threads;
            let report = evaluate(&context, &self.dataset, split, &self.config.eval, threads)?;
            self.log.evaluated(self.position.epoch, self.global_step, &report)?;
            reports.push(report);
        }
        Ok(reports)
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
            images_per_second: self.config.train.global_batch as f64
                / (step + data_wait).as_secs_f64(),
            data_wait_secs: data_wait.as_secs_f64(),
            encode_secs: report.times.encode.as_secs_f64(),
            decode_secs: (report.times.decode + report.times.loss_backward).as_secs_f64(),
            step_secs: step.as_secs_f64(),
        });
    }
}

fn internal(error: impl std::fmt::Display) -> TrainError {
    TrainError::Internal(error.to_string())
}

/// The process group of the rank environment, or a single process without one.
pub(crate) fn join_ranks(
    config: &TrainConfig,
    options: &TrainOptions,
) -> Result<(World, DataParallel), TrainError> {
    let single = World::new(0, 1).map_err(internal)?;
    let Some(env) = &options.rank_env else { return Ok((single, DataParallel::single())) };
    let world = World::new(env.rank, env.world_size).map_err(internal)?;
    if world.world_size > config.train.global_batch {
        return Err(TrainError::Config(format!(
            "{} ranks for train.global_batch = {}: each rank needs at least one sample a step",
            world.world_size, config.train.global_batch
        )));
    }
    let backend = if options.device.is_cuda() { Backend::Nccl } else { Backend::Gloo };
    let timeout = Duration::from_secs(config.train.collective_timeout_secs);
    let group = ProcessGroup::new(
        backend,
        env.rank,
        env.world_size,
        &env.master_addr,
        env.master_port,
        timeout,
    )?;
    Ok((world, DataParallel::new(group)))
}

/// What a step needs, but for a feature cache.
pub(crate) fn step_context(
    config: &TrainConfig,
    device: Device,
    model: SamHq,
    data_parallel: DataParallel,
) -> StepContext {
    let hq_parameters = model.hq_parameters();
    StepContext {
        optimizer: Adam::new(&hq_parameters, AdamConfig::default()),
        hq_parameters,
        model,
        data_parallel,
        feature_cache: None,
        loss: LossConfig::default(),
        device,
        seed: config.train.seed,
        global_batch: config.train.global_batch,
        micro_batch: config.train.micro_batch,
        synchronize_parts: false,
    }
}

/// The feature cache, if one is asked for. Random frozen weights have no file to hash, so they
/// are named by their seed.
fn open_feature_cache(
    config: &TrainConfig,
    encoder: &EncoderConfig,
    sam_sha256: &str,
    world: World,
) -> Result<Option<FeatureCache>, TrainError> {
    let Some(folder) = &config.train.cache_embeddings else { return Ok(None) };
    let encoder = serde_json::to_string(encoder).map_err(internal)?;
    let weights = match &config.model.checkpoint {
        Some(_) => sam_sha256.to_owned(),
        None => format!("random {}", config.train.seed),
    };
    let precision = if config.train.bf16 { " bf16" } else { "" };
    let model_key = format!("{weights} {encoder}{precision}");
    let limit_bytes = (config.train.cache_limit_gib * f64::from(1 << 30)) as u64;
    FeatureCache::open(folder, &model_key, limit_bytes, world.world_size)
        .map(Some)
        .map_err(|source| TrainError::Io { path: folder.clone(), source })
}

/// The checkpoint to go on from; a folder that already holds a run is refused without `--resume`.
fn newest_checkpoint(config: &TrainConfig, resume: bool) -> Result<Option<PathBuf>, TrainError> {
    let newest = checkpoint::list(&config.output)?.pop();
    match (&newest, resume) {
        (Some(path), false) => Err(TrainError::Config(format!(
            "{} already holds a run ({}): add --resume to go on, or choose another output",
            config.output.display(),
            path.file_name().unwrap_or_default().to_string_lossy()
        ))),
        (None, true) | (None, false) | (Some(_), true) => Ok(newest),
    }
}
