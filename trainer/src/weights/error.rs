//! What can be wrong with weights, and what to do about it.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Names shown for each group of a report.
const SHOWN: usize = 3;

/// Differences between a state dict and what a model needs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyReport {
    /// Needed but absent.
    pub missing: Vec<String>,
    /// Present but unknown.
    pub unexpected: Vec<String>,
    /// Name, needed shape, found shape.
    pub mismatched: Vec<(String, Vec<i64>, Vec<i64>)>,
}

impl KeyReport {
    /// Whether there is no difference.
    pub fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.unexpected.is_empty() && self.mismatched.is_empty()
    }
}

/// The part of the model that a tensor belongs to.
fn group(name: &str) -> &'static str {
    const HQ: [&str; 5] = [
        "hf_token.",
        "hf_mlp.",
        "compress_vit_feat.",
        "embedding_encoder.",
        "embedding_maskfeature.",
    ];
    if let Some(rest) = name.strip_prefix("mask_decoder.") {
        return if HQ.iter().any(|part| rest.starts_with(part)) { "HQ" } else { "mask_decoder" };
    }
    let parts = ["image_encoder", "prompt_encoder"];
    parts.into_iter().find(|part| name.starts_with(part)).unwrap_or("other")
}

impl fmt::Display for KeyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shapes = self.mismatched.iter().map(|(name, needed, found)| {
            (name.as_str(), format!("{name} (needs {needed:?}, found {found:?})"))
        });
        let named = |names: &'_ [String]| -> Vec<(String, String)> {
            names.iter().map(|name| (name.clone(), name.clone())).collect()
        };
        let shapes = shapes.map(|(name, text)| (name.to_string(), text)).collect();
        let kinds = [
            ("missing", named(&self.missing)),
            ("unexpected", named(&self.unexpected)),
            ("of another shape", shapes),
        ];
        for (kind, tensors) in kinds {
            for part in ["image_encoder", "prompt_encoder", "mask_decoder", "HQ", "other"] {
                let of_part: Vec<&str> = tensors
                    .iter()
                    .filter(|(name, _)| group(name) == part)
                    .map(|(_, text)| text.as_str())
                    .collect();
                if !of_part.is_empty() {
                    let more = if of_part.len() > SHOWN { ", ..." } else { "" };
                    let first = of_part[..of_part.len().min(SHOWN)].join(", ");
                    write!(f, "\n  {part}: {} {kind}: {first}{more}", of_part.len())?;
                }
            }
        }
        Ok(())
    }
}

/// Why weights could not be read, written or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// The file could not be read.
    #[error("cannot read {path}: {source}", path = path.display())]
    Read {
        /// File.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// The file could not be written.
    #[error("cannot write {path}: {source}", path = path.display())]
    Write {
        /// File.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// The extension names no known format.
    #[error("{path}: expected a .pth, .pt, .bin, .ckpt or .safetensors file", path = path.display())]
    Extension {
        /// File.
        path: PathBuf,
    },
    /// The file is not what its extension says.
    #[error("{path} is not a usable checkpoint: {reason}", path = path.display())]
    Format {
        /// File.
        path: PathBuf,
        /// What was expected and found.
        reason: String,
    },
    /// A pickle names something other than tensors and plain containers.
    #[error(
        "{path} wants to load `{name}`, which is not part of a plain state dict; nothing in it was run. \
         Save the model's state_dict() alone",
        path = path.display()
    )]
    UnknownGlobal {
        /// File.
        path: PathBuf,
        /// The refused Python name.
        name: String,
    },
    /// The weights do not belong to the model.
    #[error("the weights do not fit the configured model:{0}")]
    Keys(Box<KeyReport>),
    /// One tensor is absent.
    #[error("the weights lack {name}")]
    MissingTensor {
        /// Published name.
        name: String,
    },
    /// The model's sizes do not fit together.
    #[error("the encoder's configuration is impossible: {reason}")]
    Config {
        /// Which sizes.
        reason: String,
    },
    /// libtorch refused a tensor.
    #[error("{name}: {source}")]
    Tensor {
        /// Published name.
        name: String,
        /// Cause.
        source: tch::TchError,
    },
}
