//! Merged HQ-SAM models for other tools, re-read and compared before success is reported.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
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

    /// The format that the extension of `output` stands for. A folder has none.
    fn of_name(output: &Path) -> Option<Self> {
        match output.extension()?.to_str()? {
            "pth" | "pt" | "bin" | "ckpt" => Some(Self::Pth),
            "safetensors" => Some(Self::Safetensors),
            _ => None,
        }
    }

    /// The format of an export to `output`: the one asked for, or the one that the name stands for.
    ///
    /// # Errors
    /// A name that belongs to another format, or to none while no format is asked for.
    pub fn for_output(asked: Option<Self>, output: &Path) -> Result<Self, ExportError> {
        let refuse = |problem: String| ExportError::Name { path: output.to_owned(), problem };
        let named = Self::of_name(output);
        let format = asked.or(named).ok_or_else(|| {
            refuse(
                "its name does not say which format to write: end it in .pth or .safetensors, or \
                 give --format transformers for a folder"
                    .into(),
            )
        })?;
        if format == Self::Transformers {
            return match named.is_some() || output.is_file() {
                true => Err(refuse("--format transformers makes a folder; name one".into())),
                false => Ok(format),
            };
        }
        if named != Some(format) {
            let extension = if format == Self::Pth { ".pth" } else { ".safetensors" };
            return Err(refuse(format!("a file of this format must end in {extension}")));
        }
        if output.is_dir() {
            return Err(refuse("is a folder; name a file".into()));
        }
        Ok(format)
    }
}

/// Why an export failed.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// Writing or re-reading failed.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The name of the output does not suit the format.
    #[error("{}: {problem}", path.display())]
    Name {
        /// The output.
        path: PathBuf,
        /// Which name would.
        problem: String,
    },
    /// transformers has no such model.
    #[error(
        "transformers has HQ-SAM with a ViT encoder only, no TinyViT: export this model with --format \
         pth or safetensors"
    )]
    NotInTransformers,
    /// What was read back is not what was written.
    #[error("{}: read back with a difference in `{name}`: {difference}; nothing is left", path.display())]
    Differs {
        /// Exported file.
        path: PathBuf,
        /// First tensor that differs.
        name: String,
        /// How.
        difference: String,
    },
}

/// Writes `state` beside `path`, reads it again, compares every tensor bit for bit and only then gives
/// it its name: what was under that name before stays until then.
///
/// # Errors
/// A name of another format, a file that cannot be written, or that reads back differently.
pub fn export(
    state: &StateDict,
    encoder: &EncoderConfig,
    path: &Path,
    format: ExportFormat,
) -> Result<(), ExportError> {
    ExportFormat::for_output(Some(format), path)?;
    if format == ExportFormat::Transformers {
        return export_folder(state, encoder, path);
    }
    let mut name = OsString::from(format!(".{}.", std::process::id()));
    name.push(path.file_name().unwrap_or_default());
    let staged = path.with_file_name(name);
    let written = write(state, encoder, &staged, format)
        .and_then(|()| verify(state, &staged))
        .and_then(|()| publish(&staged, path));
    if written.is_err() {
        // The first error is the one to report.
        let _ = fs::remove_file(&staged);
    }
    written.map_err(|error| named(error, path))?;
    if format == ExportFormat::Pth && recognise_encoder(state).as_ref() != Some(encoder) {
        tracing::warn!(
            "{}: its tensors do not tell all of its encoder, and a .pth has no place for the rest: \
             to open it here, name the run or a TOML file of the sizes with --encoder",
            path.display()
        );
    }
    Ok(())
}

/// As [`export`], for the files of a folder, the weights last: without them it is no model.
fn export_folder(
    state: &StateDict,
    encoder: &EncoderConfig,
    folder: &Path,
) -> Result<(), ExportError> {
    if !matches!(encoder, EncoderConfig::Vit(_)) {
        return Err(ExportError::NotInTransformers);
    }
    let is_new = !folder.exists();
    let staged = folder.join(format!(".{}.staged", std::process::id()));
    let publish_all = || {
        let weights = weights::tensor_file(&staged);
        let entries = fs::read_dir(&staged).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let mut files: Vec<PathBuf> = entries
            .map_err(|source| cannot_write(folder, source))?
            .iter()
            .map(fs::DirEntry::path)
            .collect();
        files.sort_by_key(|file| *file == weights);
        files
            .iter()
            .try_for_each(|file| publish(file, &folder.join(file.file_name().unwrap_or_default())))
    };
    let written = write(state, encoder, &staged, ExportFormat::Transformers)
        .and_then(|()| verify(state, &staged))
        .and_then(|()| publish_all());
    // The first error is the one to report; `remove_dir` leaves a folder with anything in it.
    let _ = fs::remove_dir_all(&staged);
    if written.is_err() && is_new {
        let _ = fs::remove_dir(folder);
    }
    written.map_err(|error| named(error, folder))
}

fn write(
    state: &StateDict,
    encoder: &EncoderConfig,
    path: &Path,
    format: ExportFormat,
) -> Result<(), ExportError> {
    match format {
        ExportFormat::Pth => weights::save_pth(path, state)?,
        ExportFormat::Safetensors => {
            let encoder = serde_json::to_string(encoder)
                .map_err(|error| WeightsError::Config { reason: error.to_string() })?;
            let metadata = BTreeMap::from([(weights::ENCODER_KEY.to_owned(), encoder)]);
            weights::save_safetensors(path, state, &metadata)?;
        }
        ExportFormat::Transformers => weights::save_transformers(path, state, encoder)?,
    }
    Ok(())
}

/// Gives a whole, synced file its name.
fn publish(staged: &Path, path: &Path) -> Result<(), ExportError> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    fs::rename(staged, path)
        .and_then(|()| File::open(folder)?.sync_all())
        .map_err(|source| cannot_write(path, source))
}

fn cannot_write(path: &Path, source: io::Error) -> ExportError {
    WeightsError::Write { path: path.to_owned(), source }.into()
}

/// The error with the name that was asked for instead of the one it was staged under.
fn named(error: ExportError, path: &Path) -> ExportError {
    let path = path.to_owned();
    match error {
        ExportError::Weights(WeightsError::Write { source, .. }) => {
            WeightsError::Write { path, source }.into()
        }
        ExportError::Weights(WeightsError::Read { source, .. }) => {
            WeightsError::Read { path, source }.into()
        }
        ExportError::Weights(WeightsError::Format { reason, .. }) => {
            WeightsError::Format { path, reason }.into()
        }
        ExportError::Differs { name, difference, .. } => {
            ExportError::Differs { path, name, difference }
        }
        other => other,
    }
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
            std::fs::write(&path, "of an earlier export").unwrap();
            let error = export(&state, &encoder, &path, format).unwrap_err().to_string();
            assert!(error.contains("`mask_decoder.hf_token.weight`: wrote Double"), "{error}");
            assert!(error.starts_with(path.to_str().unwrap()), "{error}");
            assert_eq!(std::fs::read(&path).unwrap(), b"of an earlier export");
        }
        let path = folder.path().join("new");
        export(&state, &encoder, &path, ExportFormat::Transformers).unwrap_err();
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 2, "something is left");
    }

    #[test]
    fn a_name_belongs_to_one_format() {
        use ExportFormat::{Pth, Safetensors, Transformers};
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let of = |asked, name: &str| ExportFormat::for_output(asked, &folder.path().join(name));
        for (asked, name, format) in [
            (None, "a.pth", Pth),
            (None, "a.safetensors", Safetensors),
            (Some(Pth), "a.pt", Pth),
            (Some(Transformers), "model-v1.0", Transformers),
        ] {
            assert_eq!(of(asked, name).unwrap(), format, "{name}");
        }
        for (asked, name, words) in [
            (None, "a.onnx", "end it in .pth or .safetensors"),
            (None, "a", "--format transformers"),
            (Some(Pth), "a.safetensors", "must end in .pth"),
            (Some(Safetensors), "a", "must end in .safetensors"),
            (Some(Transformers), "a.pth", "makes a folder"),
            (Some(Transformers), "file", "makes a folder"),
        ] {
            let error = of(asked, name).unwrap_err().to_string();
            assert!(error.contains(words), "{name}: {error}");
        }
        let tiny = EncoderConfig::named("vit_tiny").unwrap();
        let path = folder.path().join("tiny");
        let error = export(&StateDict::new(), &tiny, &path, Transformers).unwrap_err().to_string();
        assert!(error.starts_with("transformers has HQ-SAM with a ViT encoder only"), "{error}");
        assert!(!path.exists());
    }
}
