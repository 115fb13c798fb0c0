//! Merged HQ-SAM models for other tools, re-read and compared before success is reported.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tch::Tensor;

use crate::model::{EncoderConfig, StateDict};
use crate::recognise::recognise_encoder;
use crate::weights::{self, WeightsError};

/// File format of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ExportFormat {
    /// The official layout: a state dict saved by torch, `load_state_dict` reads it strictly.
    Pth,
    /// safetensors with the same names.
    Safetensors,
    /// A folder that `transformers.SamHQModel.from_pretrained` loads; ViT encoders only.
    Transformers,
}

impl ExportFormat {
    /// Name of the export inside a run's folder.
    #[must_use]
    pub fn default_name(self) -> &'static str {
        match self {
            Self::Pth => "hqsam.pth",
            Self::Safetensors => "hqsam.safetensors",
            Self::Transformers => "hqsam_transformers",
        }
    }
}

/// Why an export failed.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// Writing or re-reading failed.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// What was read back is not what was written.
    #[error("{}: read back with a difference in `{name}`: {difference}", path.display())]
    Differs {
        /// Exported file.
        path: PathBuf,
        /// First tensor that differs.
        name: String,
        /// How.
        difference: String,
    },
}

/// Writes `state` to `path`, reads it again and compares every tensor bit for bit.
///
/// # Errors
/// A file that cannot be written, or that reads back differently.
pub fn export(
    state: &StateDict,
    encoder: &EncoderConfig,
    path: &Path,
    format: ExportFormat,
) -> Result<(), ExportError> {
    match format {
        ExportFormat::Pth => {
            weights::save_pth(path, state)?;
            if recognise_encoder(state).as_ref() != Some(encoder) {
                tracing::warn!(
                    "{}: its tensors do not tell all of its encoder, and a .pth has no place for \
                     the rest: to open it here, name the run or a TOML file of the sizes with \
                     --encoder",
                    path.display()
                );
            }
        }
        ExportFormat::Safetensors => {
            let encoder = serde_json::to_string(encoder)
                .map_err(|error| WeightsError::Config { reason: error.to_string() })?;
            let metadata = BTreeMap::from([(weights::ENCODER_KEY.to_owned(), encoder)]);
            weights::save_safetensors(path, state, &metadata)?;
        }
        ExportFormat::Transformers => weights::save_transformers(path, state, encoder)?,
    }
    verify(state, path)
}

/// Reads what was written and compares it.
fn verify(state: &StateDict, path: &Path) -> Result<(), ExportError> {
    compare(state, &weights::load(path)?.state, path)
}

fn compare(written: &StateDict, read: &StateDict, path: &Path) -> Result<(), ExportError> {
    let differs = |name: &str, difference: String| ExportError::Differs {
        path: path.to_owned(),
        name: name.to_owned(),
        difference,
    };
    if let Some(name) = read.keys().find(|name| !written.contains_key(*name)) {
        return Err(differs(name, "was never written".into()));
    }
    for (name, tensor) in written {
        let back = read.get(name).ok_or_else(|| differs(name, "is missing".into()))?;
        if back.size() != tensor.size() || back.kind() != tensor.kind() {
            let of = |t: &Tensor| format!("{:?} {:?}", t.kind(), t.size());
            return Err(differs(name, format!("wrote {}, read {}", of(tensor), of(back))));
        }
        // Bits, not values: NaN must survive too.
        let on_cpu = tensor.to_device(tch::Device::Cpu).contiguous();
        let equal = on_cpu.equal(back)
            || on_cpu.isnan().equal(&back.isnan())
                && on_cpu.nan_to_num(0.0, None, None).equal(&back.nan_to_num(0.0, None, None));
        if !equal {
            return Err(differs(name, "other values".into()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;
    use crate::model::{SamHq, VitConfig};

    fn small() -> (EncoderConfig, StateDict) {
        let encoder = EncoderConfig::Vit(VitConfig {
            img_size: 64,
            embed_dim: 16,
            depth: 2,
            num_heads: 2,
            window_size: 3,
            global_attn_indexes: vec![1],
            ..VitConfig::default()
        });
        let state = SamHq::random(&encoder, 1, Device::Cpu).state_dict();
        (encoder, state)
    }

    #[test]
    fn a_file_that_was_damaged_after_writing_is_refused() {
        let (encoder, state) = small();
        let folder = tempfile::tempdir().unwrap();
        for format in [ExportFormat::Pth, ExportFormat::Safetensors, ExportFormat::Transformers] {
            let path = folder.path().join(format.default_name());
            export(&state, &encoder, &path, format).unwrap();
            verify(&state, &path).unwrap();
            let file = weights::tensor_file(&path);
            let mut bytes = std::fs::read(&file).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x40;
            std::fs::write(&file, bytes).unwrap();
            let error = verify(&state, &path).unwrap_err().to_string();
            let words = match format {
                // It has checksums of its own.
                ExportFormat::Pth => "hecksum",
                _ => "read back with a difference in `",
            };
            assert!(error.contains(words) && error.contains("hqsam"), "{format:?}: {error}");
        }
    }

    #[test]
    fn a_tensor_that_reads_back_as_another_is_refused() {
        let (encoder, mut state) = small();
        let folder = tempfile::tempdir().unwrap();
        // Read as float32, whatever the file holds.
        let token = state.get_mut("mask_decoder.hf_token.weight").unwrap();
        *token = token.to_kind(Kind::Double);
        for format in [ExportFormat::Pth, ExportFormat::Safetensors] {
            let path = folder.path().join(format.default_name());
            let error = export(&state, &encoder, &path, format).unwrap_err().to_string();
            assert!(error.contains("`mask_decoder.hf_token.weight`: wrote Double"), "{error}");
        }
    }
}
