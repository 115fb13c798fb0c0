//! Checkpoint files to state dicts and back: PyTorch's `.pth`, safetensors, and folders of
//! transformers.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use tch::{Device, Kind, Tensor};

use crate::model::{EncoderConfig, StateDict};

mod error;
mod pickle;
mod pickle_names;
mod pickle_op;
mod pickle_write;
mod pth;
mod safetensors;
#[cfg(test)]
mod tests;
mod transformers;

pub use error::{KeyReport, WeightsError};

/// Extensions read as PyTorch's zip format.
const PTH_EXTENSIONS: [&str; 4] = ["pth", "pt", "bin", "ckpt"];
/// Metadata of a safetensors file that says its encoder, as JSON: not all sizes show in the tensors.
pub const ENCODER_KEY: &str = "hqsam.encoder";
/// Prefix of the mask decoder in a whole model.
const MASK_DECODER: &str = "mask_decoder.";

/// Parts of a whole model that tell where its names begin.
const WHOLE_PARTS: [&str; 2] = ["image_encoder.", MASK_DECODER];
/// The same of a mask decoder saved on its own.
const DECODER_NAMES: [&str; 2] = ["iou_token.weight", "hf_token.weight"];

/// What a checkpoint holds, told from its names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckpointKind {
    /// A whole SAM without HQ tensors.
    Sam,
    /// A whole HQ-SAM.
    SamHq,
    /// SAM's mask decoder alone (its names get `mask_decoder.` in front).
    MaskDecoderOnly,
    /// A mask decoder alone with HQ tensors, as the published trainer saves one an epoch, or these
    /// tensors by themselves.
    HqMaskDecoder,
    /// None of these.
    Unknown,
}

impl std::fmt::Display for CheckpointKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Sam => "a plain SAM checkpoint",
            Self::SamHq => "a merged HQ-SAM model",
            Self::MaskDecoderOnly => "SAM's mask decoder alone",
            Self::HqMaskDecoder => "an HQ mask decoder alone",
            Self::Unknown => "no SAM checkpoint at all",
        })
    }
}

/// A state dict read from a file. Floating-point tensors are float32.
#[derive(Debug)]
pub struct Loaded {
    /// Tensors by published name.
    pub state: StateDict,
    /// What they are.
    pub kind: CheckpointKind,
    /// The encoder that a safetensors file names under [`ENCODER_KEY`].
    pub encoder: Option<EncoderConfig>,
}

/// Reads `.pth`, `.pt`, `.bin`, `.ckpt` (PyTorch's zip format), `.safetensors`, or a folder that
/// transformers saved.
pub fn load(path: &Path) -> Result<Loaded, WeightsError> {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    let mut encoder = None;
    let state = if path.is_dir() {
        transformers::read(path)?
    } else if extension == "safetensors" {
        let (state, metadata) = safetensors::read(path)?;
        encoder = named_encoder(path, &metadata)?;
        state
    } else if PTH_EXTENSIONS.contains(&extension) {
        pth::read(path)?
    } else {
        return Err(WeightsError::Extension { path: path.into() });
    };
    let state = normalise_names(state);
    let kind = recognise(&state);
    Ok(Loaded { state, kind, encoder })
}

/// The encoder under [`ENCODER_KEY`], if there is one.
fn named_encoder(
    path: &Path,
    metadata: &BTreeMap<String, String>,
) -> Result<Option<EncoderConfig>, WeightsError> {
    let text = metadata.get(ENCODER_KEY);
    let encoder = text.map(|text| serde_json::from_str(text)).transpose();
    encoder.map_err(|error| WeightsError::Format {
        path: path.into(),
        reason: format!("its metadata {ENCODER_KEY} is no encoder: {error}"),
    })
}

/// Every tensor of a safetensors file that has been read already, by the names it has there; `path`
/// only names it in errors.
pub fn parse_safetensors(path: &Path, bytes: &[u8]) -> Result<StateDict, WeightsError> {
    safetensors::parse(path, bytes)
}

/// Writes `state` as PyTorch's `torch.save` would, atomically.
pub fn save_pth(path: &Path, state: &StateDict) -> Result<(), WeightsError> {
    publish(path, |file| pth::write(path, file, state))
}

/// Writes `state` as safetensors with string `metadata`, atomically.
pub fn save_safetensors(
    path: &Path,
    state: &StateDict,
    metadata: &BTreeMap<String, String>,
) -> Result<(), WeightsError> {
    publish(path, |file| safetensors::write(path, file, state, metadata))
}

/// Makes a folder that `transformers.SamHQModel.from_pretrained` loads.
pub fn save_transformers(
    folder: &Path,
    state: &StateDict,
    encoder: &EncoderConfig,
) -> Result<(), WeightsError> {
    transformers::write(folder, state, encoder)
}

/// Whether `path` is a folder that transformers saved, rather than one of a run.
#[must_use]
pub fn is_transformers_folder(path: &Path) -> bool {
    transformers::is_folder(path)
}

/// The encoder that the `config.json` of a transformers folder describes.
pub fn transformers_encoder(folder: &Path) -> Result<EncoderConfig, WeightsError> {
    transformers::read_encoder(folder)
}

/// The file that holds the tensors of what [`load`] reads.
#[must_use]
pub fn tensor_file(path: &Path) -> PathBuf {
    if path.is_dir() { path.join(transformers::WEIGHTS_FILE) } else { path.to_owned() }
}

/// Drops what wrappers (`module.`, `_orig_mod.`, `model.`) put before every name, and completes the
/// names of a mask decoder saved on its own.
fn normalise_names(state: StateDict) -> StateDict {
    let prefix = wrapper_prefix(&state);
    let state: StateDict =
        state.into_iter().map(|(name, tensor)| (name[prefix.len()..].to_owned(), tensor)).collect();
    if !DECODER_NAMES.iter().any(|name| state.contains_key(*name)) {
        return state;
    }
    state.into_iter().map(|(name, tensor)| (format!("{MASK_DECODER}{name}"), tensor)).collect()
}

/// What stands before the known names, if it stands before every name.
fn wrapper_prefix(state: &StateDict) -> String {
    let before = |name: &String| {
        let whole = WHOLE_PARTS.iter().find_map(|part| name.find(part));
        whole.or_else(|| DECODER_NAMES.iter().find_map(|end| Some(name.strip_suffix(end)?.len())))
    };
    let found = state.keys().find_map(|name| Some(name[..before(name)?].to_owned()));
    found.filter(|prefix| state.keys().all(|name| name.starts_with(prefix))).unwrap_or_default()
}

fn recognise(state: &StateDict) -> CheckpointKind {
    let has = |start: &str| state.keys().any(|name| name.starts_with(start));
    match (has("image_encoder."), has(MASK_DECODER), has("mask_decoder.hf_token.")) {
        (true, true, true) => CheckpointKind::SamHq,
        (true, true, false) => CheckpointKind::Sam,
        (false, true, false) => CheckpointKind::MaskDecoderOnly,
        (false, true, true) => CheckpointKind::HqMaskDecoder,
        _ => CheckpointKind::Unknown,
    }
}

/// Writes beside `path`, syncs, renames: a reader sees the old file or the whole new one.
fn publish(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> Result<(), WeightsError>,
) -> Result<(), WeightsError> {
    let failed = |source: io::Error| WeightsError::Write { path: path.into(), source };
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_path_buf(),
        _ => PathBuf::from("."),
    };
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let staged = folder.join(format!(".{name}.{}.tmp", std::process::id()));
    let mut file = BufWriter::new(File::create(&staged).map_err(failed)?);
    let written = write(&mut file).and_then(|()| {
        file.flush().map_err(failed)?;
        file.get_ref().sync_all().map_err(failed)?;
        fs::rename(&staged, path).map_err(failed)?;
        File::open(&folder).and_then(|folder| folder.sync_all()).map_err(failed)
    });
    if written.is_err() {
        // The first error is the one to report; a stray staged file harms nobody.
        let _ = fs::remove_file(&staged);
    }
    written
}

/// Floating-point tensors as float32, others as they are.
fn widened(tensor: Tensor) -> Tensor {
    match tensor.kind() {
        Kind::Half | Kind::BFloat16 | Kind::Double => tensor.to_kind(Kind::Float),
        _ => tensor,
    }
}

/// The values of a tensor, row by row.
fn bytes_of(name: &str, tensor: &Tensor) -> Result<Vec<u8>, WeightsError> {
    let numel = tensor.numel();
    let mut bytes = vec![0; numel * tensor.kind().elt_size_in_bytes()];
    let tensor = tensor.detach().to_device(Device::Cpu).contiguous();
    tensor
        .f_copy_data_u8(&mut bytes, numel)
        .map_err(|source| WeightsError::Tensor { name: name.into(), source })?;
    Ok(bytes)
}
