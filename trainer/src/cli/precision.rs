//! `--precision` of the commands that apply a model.

use std::path::Path;

use anyhow::Result;
use clap::ValueEnum;
use tch::Device;
use trainer::model::Precision;
use trainer::run::{self, OpenModel};

/// Number type in which the frozen encoder computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum PrecisionName {
    /// As published.
    #[value(name = "float32")]
    Float32,
    /// Faster where the processor multiplies it, and not the same masks to the last pixel.
    #[value(name = "bfloat16")]
    BFloat16,
}

/// Opens a model, and says so where a run's own setting makes its masks differ from its export's.
pub(super) fn open(
    precision: Option<PrecisionName>,
    path: &Path,
    encoder: Option<&str>,
    device: Device,
) -> Result<OpenModel> {
    let asked = precision.map(|precision| match precision {
        PrecisionName::Float32 => Precision::Float32,
        PrecisionName::BFloat16 => Precision::BFloat16,
    });
    let opened = run::open_model_in(asked, path, encoder, device)?;
    if asked.is_none() && opened.model.encoder_precision() == Precision::BFloat16 {
        tracing::info!(
            "{}: the encoder computes in bfloat16, as in training; --precision float32 gives the masks \
             of an exported model",
            opened.origin
        );
    }
    Ok(opened)
}
