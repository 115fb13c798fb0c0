//! What can be wrong with weights, and what to do about it.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Differences between a state dict and what a model needs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyReport {
    /// Needed but absent.
    pub missing: Vec<String>,
    /// Present but unknown.
    pub unexpected: Vec<String>,
    /// Name, needed shape, found shape.
    pub mismatched: Vec<(String, Vec<i64>, Vec<i64>)>,
    /// Name and type of values that are not floating-point numbers.
    pub not_floating: Vec<(String, tch::Kind)>,
}

impl KeyReport {
    /// Whether there is no difference.
    pub fn is_empty(&self) -> bool {
        self.missing.is_empty()
            && self.unexpected.is_empty()
            && self.mismatched.is_empty()
            && self.not_floating.is_empty()
    }
}

/// The module that a tensor belongs to: up to its number where it has one (`image_encoder.blocks.3.`),
/// else its first two segments.
fn group(name: &str) -> &str {
    let mut end = 0;
    for (position, segment) in name.split('.').enumerate() {
        let is_number = segment.parse::<u32>().is_ok();
        if position >= 2 && !is_number {
            break;
        }
        end += segment.len() + 1;
        if is_number {
            break;
        }
    }
    &name[..end.min(name.len())]
}

/// One line a module: how many tensors, the name or the first difference.
fn list(f: &mut fmt::Formatter<'_>, what: &str, tensors: &[(&str, String)]) -> fmt::Result {
    let mut groups: Vec<(&str, Vec<&(&str, String)>)> = Vec::new();
    for tensor in tensors {
        match groups.iter_mut().find(|(group_, _)| *group_ == group(tensor.0)) {
            Some((_, members)) => members.push(tensor),
            None => groups.push((group(tensor.0), vec![tensor])),
        }
    }
    for (group, members) in groups {
        match members[..] {
            [(name, detail)] => write!(f, "\n  {name}: {what}{detail}")?,
            _ => {
                let (first, detail) = members[0];
                let detail = if detail.is_empty() {
                    String::new()
                } else {
                    format!(", first {first}{detail}")
                };
                write!(f, "\n  {group}*: {} {what}{detail}", members.len())?;
            }
        }
    }
    Ok(())
}

impl fmt::Display for KeyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = |names: &'_ [String]| -> Vec<(String, String)> {
            names.iter().map(|name| (name.clone(), String::new())).collect()
        };
        let shapes = self.mismatched.iter().map(|(name, needed, found)| {
            (name.clone(), format!(" (needs {needed:?}, found {found:?})"))
        });
        let kinds =
            self.not_floating.iter().map(|(name, kind)| (name.clone(), format!(" ({kind:?})")));
        let parts = [
            ("missing", plain(&self.missing)),
            ("unexpected", plain(&self.unexpected)),
            ("of another shape", shapes.collect()),
            ("not of floating-point numbers", kinds.collect()),
        ];
        for (what, tensors) in parts {
            let tensors: Vec<(&str, String)> =
                tensors.iter().map(|(name, detail)| (name.as_str(), detail.clone())).collect();
            list(f, what, &tensors)?;
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
    /// A folder of another kind.
    #[error(
        "{path} is a folder without model.safetensors: name a checkpoint file, or \
         a folder that transformers saved",
        path = path.display()
    )]
    Folder {
        /// Folder.
        path: PathBuf,
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
