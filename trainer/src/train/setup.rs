//! What a run is put together from, and what of it is refused before the first step.

use std::time::Duration;

use dataset::order::World;
use dataset::prompt::PromptKind;
use launch::rank_env::Heartbeat;
use tch::Device;

use super::{TrainError, TrainOptions, internal};
use crate::config::TrainConfig;
use crate::data_parallel::DataParallel;
use crate::feature_cache::FeatureCache;
use crate::frozen_stage::FrozenStage;
use crate::loss::LossConfig;
use crate::model::{EncoderConfig, SamHq};
use crate::optim::{Adam, AdamConfig};
use crate::ranks;
use crate::step::StepContext;

/// Side of the image embedding of all published encoders.
const PUBLISHED_EMBEDDING_SIZE: i64 = 64;

/// Noise masks are drawn 256 x 256, four values to a value of the published image embedding.
pub(crate) fn check_prompts(
    kinds: &[PromptKind],
    encoder: &EncoderConfig,
) -> Result<(), TrainError> {
    let side = encoder.embedding_size();
    if side == PUBLISHED_EMBEDDING_SIZE || !kinds.contains(&PromptKind::NoiseMask) {
        return Ok(());
    }
    Err(TrainError::Config(format!(
        "prompt.kinds has noise_mask, which needs an image embedding of {PUBLISHED_EMBEDDING_SIZE} x \
         {PUBLISHED_EMBEDDING_SIZE}; this encoder's is {side} x {side}: leave it out"
    )))
}

/// The process group of the rank environment, or a single process without one.
pub(crate) fn join_ranks(
    config: &TrainConfig,
    options: &TrainOptions,
    stop: &dyn Fn() -> bool,
) -> Result<(World, DataParallel), TrainError> {
    let world_size = options.rank_env.as_ref().map_or(1, |env| env.world_size);
    if world_size > config.train.global_batch {
        return Err(TrainError::Config(format!(
            "{world_size} ranks for train.global_batch = {}: each rank needs at least one sample \
             a step",
            config.train.global_batch
        )));
    }
    let timeout = Duration::from_secs(config.train.collective_timeout_secs);
    ranks::join(options.rank_env.as_ref(), options.device, timeout, stop)
}

/// What a step needs, but for a feature cache and a thread that encodes ahead.
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
        frozen: FrozenStage {
            encoders: model.encoders().clone(),
            feature_cache: None,
            pixels_repeat: config.augment.pixels_repeat(config.train.epochs),
            micro_batch: config.train.micro_batch,
        },
        ahead: None,
        model,
        data_parallel,
        loss: LossConfig::default(),
        device,
        seed: config.train.seed,
        global_batch: config.train.global_batch,
        heartbeat: Heartbeat::default(),
        synchronize_parts: false,
    }
}

/// The feature cache, if one is asked for.
pub(super) fn open_feature_cache(
    config: &TrainConfig,
    encoder: &EncoderConfig,
    sam_sha256: &str,
) -> Result<Option<FeatureCache>, TrainError> {
    let Some(folder) = &config.train.cache_embeddings else { return Ok(None) };
    if !config.augment.pixels_repeat(config.train.epochs) {
        tracing::warn!(
            "train.cache_embeddings: the augmentation draws new pixels in each epoch, so only the images \
             that are evaluated are kept; training samples are with augment.scale_range = [] or with \
             augment.copies below train.epochs"
        );
    }
    let key = model_key(config, encoder, sam_sha256)?;
    let limit_bytes = (config.train.cache_limit_gib * f64::from(1 << 30)) as u64;
    FeatureCache::open(folder, &key, limit_bytes)
        .map(Some)
        .map_err(|source| TrainError::Io { path: folder.clone(), source })
}

/// Names the frozen weights, the encoder's sizes and its precision. Random weights have no file to hash,
/// so they are named by their seed.
fn model_key(
    config: &TrainConfig,
    encoder: &EncoderConfig,
    sam_sha256: &str,
) -> Result<String, TrainError> {
    let encoder = serde_json::to_string(encoder).map_err(internal)?;
    let weights = match &config.model.checkpoint {
        Some(_) => sam_sha256.to_owned(),
        None => format!("random {}", config.train.seed),
    };
    let precision = if config.train.bf16 { " bf16" } else { "" };
    Ok(format!("{weights} {encoder}{precision}"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn weights_sizes_and_precision_name_the_model() {
        let text = "output = 'run'\n[model]\nencoder = 'vit_b'\ncheckpoint = 'sam.pth'\n\
                    [data]\npath = 'data'\n";
        let config = TrainConfig::parse(Path::new("run.toml"), text).unwrap();
        let key = |config: &TrainConfig, encoder: &str, sha256: &str| {
            model_key(config, &EncoderConfig::named(encoder).unwrap(), sha256).unwrap()
        };
        let ours = key(&config, "vit_b", "1f");
        let changed = |change: fn(&mut TrainConfig)| {
            let mut config = config.clone();
            change(&mut config);
            key(&config, "vit_b", "1f")
        };
        assert_ne!(ours, key(&config, "vit_l", "1f"));
        assert_ne!(ours, key(&config, "vit_b", "2f"));
        assert_ne!(ours, changed(|config| config.train.bf16 = true));
        assert_eq!(ours, changed(|config| config.train.seed = 7));
        let random = changed(|config| config.model.checkpoint = None);
        let other_seed = changed(|config| {
            config.model.checkpoint = None;
            config.train.seed = 7;
        });
        assert!(random != ours && random != other_seed);
    }
}
