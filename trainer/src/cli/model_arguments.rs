//! The model of the commands that apply one, and `--precision` of its encoder.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, ValueEnum};
use tch::Device;
use trainer::model::Precision;
use trainer::run::{self, OpenModel};

/// Number type in which the frozen encoder computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum PrecisionName {
    /// As published.
    #[value(name = "float32")]
    Float32,
    /// Faster where the processor multiplies it, and not the same masks to the last pixel.
    #[value(name = "bfloat16")]
    BFloat16,
}

/// The model of a command that applies one.
#[derive(Args)]
pub(super) struct ModelArguments {
    /// Folder or URL of a run, a checkpoint in it, or a merged HQ-SAM file.
    #[arg(id = "model", value_name = "MODEL", value_parser = super::run_or_file)]
    pub(super) path: PathBuf,
    /// Number type in which the encoder computes. Default: the one that a run was trained in, float32 for
    /// a file.
    #[arg(long, value_enum)]
    precision: Option<PrecisionName>,
    /// Encoder of a model file that does not tell its own: a published name, a run's folder, or a
    /// TOML file of sizes.
    #[arg(long)]
    encoder: Option<String>,
}

impl ModelArguments {
    /// Opens the model, and says so where a run's own setting makes its masks differ from its export's.
    pub(super) fn open(&self, device: Device) -> Result<OpenModel> {
        let asked = self.precision.map(|precision| match precision {
            PrecisionName::Float32 => Precision::Float32,
            PrecisionName::BFloat16 => Precision::BFloat16,
        });
        let opened = run::open_model_in(asked, &self.path, self.encoder.as_deref(), device)?;
        if asked.is_none() && opened.model.encoder_precision() == Precision::BFloat16 {
            tracing::info!(
                "{}: the encoder computes in bfloat16, as in training; --precision float32 gives the \
                 masks of an exported model",
                opened.origin
            );
        }
        Ok(opened)
    }
}
