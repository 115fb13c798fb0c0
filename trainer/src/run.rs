//! The folder of a run, and how a model is put together from it or from a file.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pipeline::RemoteFolder;
use sha2::{Digest, Sha256};
use tch::Device;

use crate::checkpoint::{self, CheckpointError, Found, StoreCheckpoints};
use crate::config::TrainConfig;
use crate::model::{EncoderConfig, HqInit, Precision, SamHq, StateDict, multiplies_bf16};
pub use crate::recognise::recognise_encoder;
use crate::recognise::{describe, encoder_name, encoder_of, encoder_told};
use crate::weights::{self, CheckpointKind, Loaded, WeightsError};

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
    /// The run's folder, when the run that was opened lies in one.
    pub folder: Option<PathBuf>,
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
    load_frozen_sam_in(config.train.encoder_precision(), config, device)
}

fn load_frozen_sam_in(
    precision: Precision,
    config: &TrainConfig,
    device: Device,
) -> Result<(SamHq, String), RunError> {
    warn_without_products(precision, device);
    let encoder = config.model.encoder.resolve().map_err(|error| RunError::NotUsable {
        path: PathBuf::from("model.encoder"),
        problem: error.to_string(),
    })?;
    let seed = config.train.seed;
    let Some(path) = &config.model.checkpoint else {
        return Ok((SamHq::random_in(precision, &encoder, seed, device), String::new()));
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
    if !matches!(loaded.kind, CheckpointKind::Sam | CheckpointKind::SamHq) {
        return Err(RunError::NotUsable {
            path: path.clone(),
            problem: format!(
                "is {}; model.checkpoint must name a whole SAM checkpoint (image_encoder, \
                 prompt_encoder and mask_decoder){}",
                loaded.kind,
                if loaded.kind == CheckpointKind::HqMaskDecoder {
                    ", and model.hq_checkpoint may name this one"
                } else {
                    ""
                }
            ),
        });
    }
    tracing::info!("SAM checkpoint {}: {}", path.display(), describe(&loaded));
    let model = build(path, loaded, &encoder, precision, HqInit::Fresh { seed }, device)?;
    if let Some(path) = &config.model.hq_checkpoint {
        adopt_hq(&model, path)?;
    }
    let file = weights::tensor_file(path);
    let sha256 = file_sha256(&file).map_err(|source| CheckpointError::Io { path: file, source })?;
    Ok((model, sha256))
}

fn warn_without_products(precision: Precision, device: Device) {
    if precision == Precision::BFloat16 && !multiplies_bf16(device) {
        tracing::warn!(
            "bfloat16: this processor has no bfloat16 products, so they run in float32 on rounded \
             values: nothing is gained in speed"
        );
    }
}

/// The model of a file; where the tensors do not fit, the encoder they would fit is named.
fn build(
    path: &Path,
    loaded: Loaded,
    encoder: &EncoderConfig,
    precision: Precision,
    hq: HqInit,
    device: Device,
) -> Result<SamHq, RunError> {
    let found = encoder_told(&loaded);
    SamHq::from_state_in(precision, encoder, loaded.state, hq, device).map_err(|error| {
        let other = found.filter(|found| found != encoder);
        let problem = match other {
            // The list of keys would say the same, at length.
            Some(other) => format!(
                "its encoder is {other}, the configured one {configured}: set model.encoder (or \
                 --encoder) to the former, or name a checkpoint of the latter",
                other = encoder_name(&other),
                configured = encoder_name(encoder)
            ),
            None => error.to_string(),
        };
        RunError::NotUsable { path: path.to_owned(), problem }
    })
}

/// Takes the HQ values of `path`, a mask decoder of the published trainer or a merged HQ-SAM, whose
/// frozen mask decoder (if it has one) must be the model's.
///
/// # Errors
/// A file without HQ values, of another encoder, or trained on another SAM.
pub fn adopt_hq(model: &SamHq, path: &Path) -> Result<(), RunError> {
    let refuse = |problem: String| RunError::NotUsable { path: path.to_owned(), problem };
    if !path.exists() {
        return Err(refuse("no such file".into()));
    }
    let loaded = weights::load(path)?;
    if !matches!(loaded.kind, CheckpointKind::HqMaskDecoder | CheckpointKind::SamHq) {
        return Err(refuse(format!("is {}, it holds no HQ values", loaded.kind)));
    }
    let whole = model.state_dict();
    let hq: Vec<String> = model.hq_parameters().into_iter().map(|(name, _)| name).collect();
    let is_frozen = |name: &String| name.starts_with("mask_decoder.") && !hq.contains(name);
    for (name, tensor) in loaded.state.iter().filter(|(name, _)| is_frozen(name)) {
        if whole.get(name).is_some_and(|ours| !ours.equal(tensor)) {
            return Err(refuse(format!(
                "was trained on another SAM: its frozen {name} is not the one of the SAM checkpoint"
            )));
        }
    }
    tracing::info!("HQ values of {}: {}", path.display(), loaded.kind);
    load_hq_parameters(model, &loaded.state).map_err(refuse)
}

/// A mask decoder of the published trainer put into the SAM it was trained on, as that trainer merges
/// them at its end. `encoder` is as in [`open_model`].
///
/// # Errors
/// As [`adopt_hq`]; a SAM file that is none.
pub fn open_merged(
    decoder: &Path,
    sam: &Path,
    encoder: Option<&str>,
    device: Device,
) -> Result<OpenModel, RunError> {
    let refuse = |problem: String| RunError::NotUsable { path: sam.to_owned(), problem };
    let loaded = weights::load(sam)?;
    if !matches!(loaded.kind, CheckpointKind::Sam | CheckpointKind::SamHq) {
        return Err(refuse(format!("is {}, not a whole SAM", loaded.kind)));
    }
    let encoder = encoder_of(sam, &loaded, encoder)?;
    let model =
        build(sam, loaded, &encoder, Precision::Float32, HqInit::Fresh { seed: 0 }, device)?;
    adopt_hq(&model, decoder)?;
    let origin = format!("{} in {}", decoder.display(), sam.display());
    Ok(OpenModel { model, encoder, origin, config: None, folder: None })
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

/// Opens a run's folder or URL (its newest checkpoint), one checkpoint in it, a merged HQ-SAM file or a
/// transformers folder. `encoder` is for a file that does not tell its own: a published name, a run, or
/// a TOML file of sizes.
///
/// # Errors
/// A path that is neither, or whose weights do not fit.
pub fn open_model(
    path: &Path,
    encoder: Option<&str>,
    device: Device,
) -> Result<OpenModel, RunError> {
    open_model_in(None, path, encoder, device)
}

/// [`open_model`] with the frozen encoder in `precision`. Without one a run has that in which it was
/// trained, and a file float32.
///
/// # Errors
/// As [`open_model`].
pub fn open_model_in(
    precision: Option<Precision>,
    path: &Path,
    encoder: Option<&str>,
    device: Device,
) -> Result<OpenModel, RunError> {
    if let Some(url) = store_url(path) {
        open_stored(precision, url, device)
    } else if path.is_dir() && !weights::is_transformers_folder(path) {
        open_run(precision, path, device)
    } else if let Some(run_dir) = run_of_checkpoint(path) {
        let found = (path.to_owned(), checkpoint::load(path)?);
        open_checkpoint(precision, read_config(run_dir)?, Some(run_dir), found, device)
    } else {
        open_file(precision.unwrap_or_default(), path, encoder, device)
    }
}

/// The run whose `checkpoints` folder holds this file.
fn run_of_checkpoint(path: &Path) -> Option<&Path> {
    let folder = path.parent().filter(|folder| folder.ends_with("checkpoints"))?;
    let run_dir = folder.parent()?;
    (path.is_file() && run_dir.join(CONFIG_FILE).is_file()).then_some(run_dir)
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

fn open_run(
    precision: Option<Precision>,
    run_dir: &Path,
    device: Device,
) -> Result<OpenModel, RunError> {
    let config = read_config(run_dir)?;
    let found = newest(checkpoint::load_newest(run_dir)?, run_dir)?;
    open_checkpoint(precision, config, Some(run_dir), found, device)
}

/// `path` as the URL of a run in an object store, if it is one.
#[must_use]
pub fn store_url(path: &Path) -> Option<&str> {
    path.to_str().filter(|url| pipeline::store::is_remote(url))
}

/// The newest checkpoint of the run in a store, or the one whose small object is named.
fn open_stored(
    precision: Option<Precision>,
    url: &str,
    device: Device,
) -> Result<OpenModel, RunError> {
    let refuse = |problem: &str| RunError::NotUsable {
        path: PathBuf::from(url),
        problem: problem.to_owned(),
    };
    let one = url.rsplit_once("/checkpoints/").filter(|(_, name)| name.ends_with(".json"));
    let folder =
        RemoteFolder::open(one.map_or(url, |(run, _)| run)).map_err(CheckpointError::from)?;
    let store = StoreCheckpoints::new(Arc::new(folder), Path::new(""));
    let config = store.config()?;
    let config = config.ok_or_else(|| refuse("not a run: it holds no config.toml"))?;
    let config = TrainConfig::parse(Path::new(&format!("{url}/{CONFIG_FILE}")), &config)
        .map_err(|error| refuse(&error.to_string()))?;
    let found = match one {
        Some((_, name)) => store.load(&format!("checkpoints/{name}"))?,
        None => newest(store.load_newest()?, Path::new(url))?,
    };
    open_checkpoint(precision, config, None, found, device)
}

fn newest(
    (found, damaged): (Option<Found>, Vec<CheckpointError>),
    run: &Path,
) -> Result<Found, RunError> {
    for error in damaged {
        tracing::warn!("{error}; the checkpoint before it is used");
    }
    found.ok_or_else(|| RunError::NotUsable {
        path: run.to_owned(),
        problem: "the run has no checkpoint yet".into(),
    })
}

fn open_checkpoint(
    precision: Option<Precision>,
    config: TrainConfig,
    folder: Option<&Path>,
    (newest, checkpoint): Found,
    device: Device,
) -> Result<OpenModel, RunError> {
    let precision = precision.unwrap_or(config.train.encoder_precision());
    let (model, sam_sha256) = load_frozen_sam_in(precision, &config, device)?;
    let refuse = |problem| RunError::NotUsable { path: newest.clone(), problem };
    if checkpoint.info.sam_sha256 != sam_sha256 {
        return Err(refuse(
            "was trained on another SAM checkpoint than model.checkpoint is now".into(),
        ));
    }
    load_hq_parameters(&model, &checkpoint.hq_parameters).map_err(refuse)?;
    let encoder = config.model.encoder.resolve().map_err(|e| refuse(e.to_string()))?;
    let (origin, folder) = (newest.display().to_string(), folder.map(Path::to_owned));
    Ok(OpenModel { model, encoder, origin, config: Some(config), folder })
}

fn open_file(
    precision: Precision,
    path: &Path,
    encoder: Option<&str>,
    device: Device,
) -> Result<OpenModel, RunError> {
    let refuse = |problem: String| RunError::NotUsable { path: path.to_owned(), problem };
    if !path.exists() {
        return Err(refuse("no such run or model file".into()));
    }
    let loaded = weights::load(path)?;
    if loaded.kind != CheckpointKind::SamHq {
        let hint = match loaded.kind {
            CheckpointKind::HqMaskDecoder => "merge it with `hqsam export FILE --sam SAM -o MODEL`",
            _ => "make one with `hqsam export RUN`",
        };
        return Err(refuse(format!("is {}, not a merged HQ-SAM model; {hint}", describe(&loaded))));
    }
    let encoder = encoder_of(path, &loaded, encoder)?;
    warn_without_products(precision, device);
    let model = build(path, loaded, &encoder, precision, HqInit::FromState, device)?;
    let origin = path.display().to_string();
    Ok(OpenModel { model, encoder, origin, config: None, folder: None })
}
