//! The folder of a run, and how a model is put together from it or from a file.

use std::io::Read;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tch::{Device, Tensor};

use crate::checkpoint::{self, CheckpointError};
use crate::config::TrainConfig;
use crate::model::{
    EncoderConfig, HqInit, Precision, SamHq, StateDict, VitConfig, multiplies_bf16,
};
use crate::weights::{self, CheckpointKind, WeightsError};

/// Name of the resolved configuration inside a run's folder.
pub const CONFIG_FILE: &str = "config.toml";

/// What keeps a run or model from being opened.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Neither a run nor a model file.
    #[error("{}: {problem}", path.display())]
    NotUsable {
        /// What was named.
        path: PathBuf,
        /// Why it cannot be used, and what could be.
        problem: String,
    },
    /// Its checkpoint cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Its weights cannot be read.
    #[error(transparent)]
    Weights(#[from] WeightsError),
}

/// A model ready to use and where it came from.
pub struct OpenModel {
    /// Frozen SAM and HQ parameters.
    pub model: SamHq,
    /// Sizes of its encoder.
    pub encoder: EncoderConfig,
    /// One line naming what was loaded.
    pub origin: String,
    /// The run's configuration, when a run was opened.
    pub config: Option<TrainConfig>,
}

/// SHA-256 of a file in lower-case hexadecimal.
///
/// # Errors
/// The file cannot be read.
pub fn file_sha256(path: &Path) -> std::io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0u8; 1 << 20];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(checkpoint::hex(&hasher.finalize()));
        }
        hasher.update(&buffer[..read]);
    }
}

/// The frozen SAM of a configuration with freshly initialised HQ parameters, and the SHA-256 of
/// its file (empty when random).
///
/// # Errors
/// A checkpoint that is missing, of another kind or of other sizes.
pub fn load_frozen_sam(config: &TrainConfig, device: Device) -> Result<(SamHq, String), RunError> {
    let precision = config.train.encoder_precision();
    if precision == Precision::BFloat16 && !multiplies_bf16(device) {
        tracing::warn!(
            "train.bf16: this processor has no bfloat16 products, so they run in float32 on \
             rounded values: nothing is gained in speed"
        );
    }
    let (model, sha256) = load_float_sam(config, device)?;
    Ok((model.with_encoder_precision(precision)?, sha256))
}

fn load_float_sam(config: &TrainConfig, device: Device) -> Result<(SamHq, String), RunError> {
    let encoder = config.model.encoder.resolve().map_err(|error| RunError::NotUsable {
        path: PathBuf::from("model.encoder"),
        problem: error.to_string(),
    })?;
    let seed = config.train.seed;
    let Some(path) = &config.model.checkpoint else {
        return Ok((SamHq::random(&encoder, seed, device), String::new()));
    };
    if !path.exists() {
        return Err(RunError::NotUsable {
            path: path.clone(),
            problem: "no such file; model.checkpoint names the SAM checkpoint to start from \
                      (.pth, .safetensors or a transformers folder)"
                .into(),
        });
    }
    let loaded = weights::load(path)?;
    if loaded.kind == CheckpointKind::MaskDecoderOnly {
        return Err(RunError::NotUsable {
            path: path.clone(),
            problem: "holds only a mask decoder; model.checkpoint must name a whole SAM \
                      checkpoint (image_encoder, prompt_encoder and mask_decoder)"
                .into(),
        });
    }
    let model = SamHq::from_state(&encoder, loaded.state, HqInit::Fresh { seed }, device)
        .map_err(|error| in_file(path, &error))?;
    let file = weights::tensor_file(path);
    let sha256 = file_sha256(&file).map_err(|source| CheckpointError::Io { path: file, source })?;
    Ok((model, sha256))
}

fn in_file(path: &Path, error: &WeightsError) -> RunError {
    RunError::NotUsable { path: path.to_owned(), problem: error.to_string() }
}

/// Copies HQ parameters (by published name) into the model, in place.
///
/// # Errors
/// A parameter that is absent or has another shape.
pub fn load_hq_parameters(model: &SamHq, values: &StateDict) -> Result<(), String> {
    for (name, mut parameter) in model.hq_parameters() {
        let value = values.get(&name).ok_or_else(|| format!("`{name}` is missing"))?;
        if value.size() != parameter.size() {
            return Err(format!(
                "`{name}` has shape {:?}, the model needs {:?}",
                value.size(),
                parameter.size()
            ));
        }
        tch::no_grad(|| parameter.copy_(value));
    }
    Ok(())
}

/// Opens a run's folder (its newest checkpoint), a merged HQ-SAM file or a transformers folder.
///
/// # Errors
/// A path that is neither, or whose weights do not fit.
pub fn open_model(
    path: &Path,
    encoder: Option<&str>,
    device: Device,
) -> Result<OpenModel, RunError> {
    if path.is_dir() && !weights::is_transformers_folder(path) {
        open_run(path, device)
    } else {
        open_file(path, encoder, device)
    }
}

/// Reads the configuration that a run saved.
///
/// # Errors
/// A folder that is no run.
pub fn read_config(run_dir: &Path) -> Result<TrainConfig, RunError> {
    let path = run_dir.join(CONFIG_FILE);
    if !path.exists() {
        return Err(RunError::NotUsable {
            path: run_dir.to_owned(),
            problem: format!("not a run: it holds no {CONFIG_FILE}"),
        });
    }
    TrainConfig::load(&path, &[])
        .map_err(|error| RunError::NotUsable { path, problem: error.to_string() })
}

fn open_run(run_dir: &Path, device: Device) -> Result<OpenModel, RunError> {
    let config = read_config(run_dir)?;
    let newest = checkpoint::list(run_dir)?.pop().ok_or_else(|| RunError::NotUsable {
        path: run_dir.to_owned(),
        problem: "the run has no checkpoint yet".into(),
    })?;
    let checkpoint = checkpoint::load(&newest)?;
    let (model, sam_sha256) = load_frozen_sam(&config, device)?;
    let refuse = |problem| RunError::NotUsable { path: newest.clone(), problem };
    if checkpoint.info.sam_sha256 != sam_sha256 {
        return Err(refuse(
            "was trained on another SAM checkpoint than model.checkpoint is now".into(),
        ));
    }
    load_hq_parameters(&model, &checkpoint.hq_parameters).map_err(refuse)?;
    let encoder = config.model.encoder.resolve().map_err(|e| refuse(e.to_string()))?;
    Ok(OpenModel { model, encoder, origin: newest.display().to_string(), config: Some(config) })
}

fn open_file(path: &Path, encoder: Option<&str>, device: Device) -> Result<OpenModel, RunError> {
    let refuse = |problem: String| RunError::NotUsable { path: path.to_owned(), problem };
    if !path.exists() {
        return Err(refuse("no such run or model file".into()));
    }
    let loaded = weights::load(path)?;
    if loaded.kind != CheckpointKind::SamHq {
        return Err(refuse(format!(
            "is {}, not a merged HQ-SAM model; make one with `hqsam export RUN`",
            loaded.kind
        )));
    }
    let encoder = match encoder {
        Some(name) => EncoderConfig::named(name).ok_or_else(|| {
            refuse(format!("--encoder {name}: valid are {}", EncoderConfig::names().join(", ")))
        })?,
        None if path.is_dir() => weights::transformers_encoder(path)?,
        None => recognise_encoder(&loaded.state).ok_or_else(|| {
            refuse("its encoder has no published sizes; name it with --encoder".into())
        })?,
    };
    let model = SamHq::from_state(&encoder, loaded.state, HqInit::FromState, device)
        .map_err(|error| in_file(path, &error))?;
    Ok(OpenModel { model, encoder, origin: path.display().to_string(), config: None })
}

/// The encoder whose sizes the tensors have: every ViT of SAM's kind, and the two published
/// TinyViTs.
#[must_use]
pub fn recognise_encoder(state: &StateDict) -> Option<EncoderConfig> {
    let size = |name: &str| state.get(&format!("image_encoder.{name}")).map(Tensor::size);
    if size("pos_embed").is_some() {
        return recognise_vit(&size).map(EncoderConfig::Vit);
    }
    // MobileSAM's stem has 3 x 3 kernels, LiteMedSAM's 1 x 1.
    match size("patch_embed.seq.0.c.weight")?.last()? {
        3 => EncoderConfig::named("vit_tiny"),
        1 => EncoderConfig::named("lite_medsam"),
        _ => None,
    }
}

/// Sizes of a ViT from its tensors; a table of relative positions has `2 * side - 1` rows of
/// `head_dim` values, where `side` is that of the window or, in a global block, of the grid.
fn recognise_vit(size: &dyn Fn(&str) -> Option<Vec<i64>>) -> Option<VitConfig> {
    let grid = *size("pos_embed")?.get(1)?;
    let patch = size("patch_embed.proj.weight")?;
    let (embed_dim, patch_size) = (*patch.first()?, *patch.last()?);
    let mut config = VitConfig {
        img_size: grid * patch_size,
        patch_size,
        embed_dim,
        depth: 0,
        num_heads: embed_dim / size("blocks.0.attn.rel_pos_h")?.last()?,
        mlp_ratio: *size("blocks.0.mlp.lin1.weight")?.first()? as f64 / embed_dim as f64,
        global_attn_indexes: Vec::new(),
        qkv_bias: size("blocks.0.attn.qkv.bias").is_some(),
        ..VitConfig::default()
    };
    while let Some(rel_pos) = size(&format!("blocks.{}.attn.rel_pos_h", config.depth)) {
        let side = (rel_pos.first()? + 1) / 2;
        if side == grid {
            config.global_attn_indexes.push(config.depth);
        } else {
            config.window_size = side;
        }
        config.depth += 1;
    }
    Some(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_recognised_from_the_tensors() {
        let tiny = VitConfig {
            img_size: 256,
            embed_dim: 32,
            depth: 3,
            num_heads: 2,
            window_size: 7,
            global_attn_indexes: vec![1],
            ..VitConfig::default()
        };
        let configs = [
            EncoderConfig::Vit(tiny),
            EncoderConfig::named("lite_medsam").unwrap(),
            EncoderConfig::named("vit_tiny").unwrap(),
        ];
        for config in configs {
            let state = SamHq::random(&config, 0, Device::Cpu).state_dict();
            assert_eq!(recognise_encoder(&state), Some(config));
        }
    }
}
