//! `hqsam export`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use tch::Device;
use trainer::checkpoint;
use trainer::export::{ExportFormat, export};
use trainer::model_card::ModelCard;
use trainer::run::{self, OpenModel};
use trainer::weights;

#[derive(Args)]
pub(super) struct ExportArguments {
    /// Folder or URL of a run, a checkpoint in it, or a merged HQ-SAM file to convert.
    #[arg(value_parser = super::run_or_file)]
    pub(super) model: PathBuf,
    /// SAM that `model`, a mask decoder of the published trainer, belongs into.
    #[arg(long)]
    sam: Option<PathBuf>,
    /// File format. Default: the one that the extension of --output stands for (.pth, .safetensors),
    /// or pth.
    #[arg(long, value_enum)]
    format: Option<ExportFormat>,
    /// Output file, or folder for `transformers`. Default: `hqsam.<format>` inside the run.
    #[arg(short, long)]
    output: Option<PathBuf>,
    /// Encoder of a model file that does not tell its own: a published name, a run's folder, or a
    /// TOML file of sizes.
    #[arg(long)]
    encoder: Option<String>,
}

pub(super) fn run(arguments: &ExportArguments, device: Device) -> Result<()> {
    let format = match &arguments.output {
        // Before the model is read, which takes a while.
        Some(output) => ExportFormat::for_output(arguments.format, output)?,
        None => arguments.format.unwrap_or(ExportFormat::Pth),
    };
    let opened = match &arguments.sam {
        Some(sam) => run::open_merged(&arguments.model, sam, arguments.encoder.as_deref(), device)?,
        None => run::open_model(&arguments.model, arguments.encoder.as_deref(), device)?,
    };
    let output = match (&arguments.output, &opened.folder) {
        (Some(output), _) => output.clone(),
        (None, Some(run)) => run.join(format.default_name()),
        (None, None) if opened.config.is_some() => {
            bail!("-o is missing: the run lies in a store; name the file or folder to write")
        }
        (None, None) => bail!("-o is missing: name the file or folder to write"),
    };
    check_inputs(arguments, &opened, &output)?;
    let OpenModel { model, encoder, origin, config, folder } = opened;
    let state = model.state_dict();
    export(&state, &encoder, &output, format)?;
    let card = ModelCard {
        origin: &origin,
        encoder: &encoder,
        format,
        hq_sha256: &checkpoint::digest(&model.hq_parameters().into_iter().collect()),
        config: config.as_ref(),
        folder: folder.as_deref(),
    };
    let card_path = match output.is_dir() {
        true => output.join("README.md"),
        false => output.with_extension("md"),
    };
    std::fs::write(&card_path, card.text()).with_context(|| card_path.display().to_string())?;
    super::print(&format!(
        "{} ({} tensors, from {origin}), read back and compared; card {}",
        output.display(),
        state.len(),
        card_path.display()
    ))
}

/// Refuses to write over what the export is made of.
fn check_inputs(arguments: &ExportArguments, opened: &OpenModel, output: &Path) -> Result<()> {
    let mut inputs = vec![arguments.model.clone(), PathBuf::from(&opened.origin)];
    inputs.extend([&arguments.sam, &opened.folder].into_iter().flatten().cloned());
    if let Some(config) = &opened.config {
        inputs.extend(
            [&config.model.checkpoint, &config.model.hq_checkpoint].into_iter().flatten().cloned(),
        );
    }
    for input in inputs {
        let is_output = super::is_same_file(&input, output)
            || super::is_same_file(&weights::tensor_file(&input), output);
        ensure!(
            !is_output,
            "{}: this is what the export is made of; name another file or folder with -o",
            output.display()
        );
    }
    Ok(())
}
