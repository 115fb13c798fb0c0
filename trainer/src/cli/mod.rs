//! The commands of `hqsam`.

mod amg;
mod bench;
mod eval;
mod exit_code;
mod fetch;
mod predict;
mod serve;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};
use launch::rank_env::{RankEnv, restart_count, stop_flag};
use pipeline::fetch::FetchArguments;
use tch::Device;
use trainer::checkpoint;
use trainer::config::TrainConfig;
use trainer::export::{ExportFormat, export};
use trainer::model_card::ModelCard;
use trainer::run::{self, OpenModel};
use trainer::train::{Outcome, TrainError, TrainOptions, train};

pub(crate) use self::exit_code::exit_code;

/// Trains, evaluates, exports and applies HQ-SAM.
#[derive(Parser)]
#[command(name = "hqsam", version, about)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// `cpu` or `cuda`; the launcher sets it for its ranks.
    #[arg(long, global = true, env = "HQSAM_DEVICE", display_order = 900)]
    device: Option<String>,
}

#[derive(Subcommand)]
enum Command {
    /// Train (one rank; `launch` starts several).
    #[command(
        after_help = "Example:\n  hqsam train my_run.toml --set train.epochs=3\n  launch --gpus 8 my_run.toml --resume"
    )]
    Train(TrainArguments),
    /// Mask IoU and boundary IoU of the frozen SAM and of HQ-SAM, per set.
    #[command(after_help = "Example:\n  hqsam eval runs/mine --protocol box,clicks:3")]
    Eval(eval::EvalArguments),
    /// Write the merged model for other tools, with a model card.
    #[command(
        after_help = "Example:\n  hqsam export runs/mine --format safetensors -o model.safetensors"
    )]
    Export(ExportArguments),
    /// Predict masks of boxes, points and masks on images.
    #[command(
        after_help = "Example:\n  hqsam predict runs/mine photo.jpg --box 10,20,300,400 -o mask.png\n  hqsam predict runs/mine photos --prompts list.csv -o masks"
    )]
    Predict(predict::PredictArguments),
    /// Segment everything on images, without prompts.
    #[command(after_help = "Example:\n  hqsam amg runs/mine photo.jpg -o masks --overlay")]
    Amg(amg::AmgArguments),
    /// A local page to click on pictures and to look at a run.
    #[command(after_help = "Example:\n  hqsam serve runs/mine --port 7860")]
    Serve(serve::ServeArguments),
    /// Measure the training step on drawn samples, part by part.
    #[command(
        after_help = "Example:\n  hqsam bench configs/hqsam_b.toml --batch 2 --steps 3 --json"
    )]
    Bench(bench::BenchArguments),
    /// Download SAM and HQ-SAM checkpoints, such as vit_b, vit_l, vit_h.
    #[command(after_help = "Example:\n  hqsam fetch --list\n  hqsam fetch vit_b --accept-license")]
    Fetch(FetchArguments),
}

#[derive(Args)]
struct TrainArguments {
    /// Training configuration (TOML).
    config: PathBuf,
    /// Override a key: `--set train.epochs=3`.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// Go on from the newest checkpoint of the run, or begin where there is none.
    #[arg(long, overrides_with = "resume")]
    resume: bool,
}

#[derive(Args)]
struct ExportArguments {
    /// Folder or URL of a run, a checkpoint in it, or a merged HQ-SAM file to convert.
    #[arg(value_parser = run_or_file)]
    model: PathBuf,
    /// SAM that `model`, a mask decoder of the published trainer, belongs into.
    #[arg(long)]
    sam: Option<PathBuf>,
    /// File format.
    #[arg(long, value_enum, default_value = "pth")]
    format: ExportFormat,
    /// Output file, or folder for `transformers`. Default: `hqsam.<format>` inside the run.
    #[arg(short, long)]
    output: Option<PathBuf>,
    /// Encoder of a model file that does not tell its own: a published name, a run's folder, or a
    /// TOML file of sizes.
    #[arg(long)]
    encoder: Option<String>,
}

pub(crate) fn run(arguments: Arguments) -> Result<()> {
    let rank_env = RankEnv::from_env()?;
    if let Some(rank_env) = &rank_env {
        trainer::ranks::divide_threads(rank_env);
    }
    let device = trainer::device::device(arguments.device.as_deref(), rank_env.as_ref())
        .map_err(TrainError::Config)?;
    match arguments.command {
        Command::Train(train) => run_train(&train, device, rank_env),
        Command::Eval(arguments) => eval::run(&arguments, device, rank_env.as_ref()),
        Command::Export(export) => run_export(&export, device),
        Command::Predict(predict) => predict::run(&predict, device),
        Command::Amg(amg) => amg::run(&amg, device),
        Command::Serve(serve) => serve::run(&serve, device),
        Command::Bench(arguments) => bench::run(&arguments, device, rank_env),
        Command::Fetch(arguments) => fetch::run(&arguments),
    }
}

fn run_train(arguments: &TrainArguments, device: Device, rank_env: Option<RankEnv>) -> Result<()> {
    let rank = rank_env.as_ref().map_or(0, |env| env.rank);
    let stop = stop_flag()?;
    let config = TrainConfig::load(&arguments.config, &arguments.overrides)?;
    // Whoever started the ranks again may have given them the same command.
    let resume = arguments.resume || restart_count()? > 0;
    let options = TrainOptions { resume, device, rank_env, stop };
    let outcome = train(&config, &options).with_context(|| format!("rank {rank}"))?;
    if rank != 0 {
        return Ok(());
    }
    match outcome {
        Outcome::Finished { reports } => {
            for report in &reports {
                tracing::info!("split {}\n{}", report.split, report.table());
            }
            tracing::info!("finished; export with: hqsam export {}", config.output);
        }
        Outcome::NotStarted => {
            tracing::info!("stopped before the first step: start again with the same command");
        }
        Outcome::Stopped { checkpoint } => tracing::info!(
            "stopped at {}; resume with the same command and --resume",
            checkpoint.display()
        ),
    }
    Ok(())
}

fn run_export(arguments: &ExportArguments, device: Device) -> Result<()> {
    let OpenModel { model, encoder, origin, config, folder } = match &arguments.sam {
        Some(sam) => run::open_merged(&arguments.model, sam, arguments.encoder.as_deref(), device)?,
        None => run::open_model(&arguments.model, arguments.encoder.as_deref(), device)?,
    };
    let output = match (&arguments.output, &folder) {
        (Some(output), _) => output.clone(),
        (None, Some(run)) => run.join(arguments.format.default_name()),
        (None, None) if config.is_some() => {
            bail!("-o is missing: the run lies in a store; name the file or folder to write")
        }
        (None, None) => bail!("-o is missing: name the file or folder to write"),
    };
    let state = model.state_dict();
    export(&state, &encoder, &output, arguments.format)?;
    let card = ModelCard {
        origin: &origin,
        encoder: &encoder,
        format: arguments.format,
        hq_sha256: &checkpoint::digest(&model.hq_parameters().into_iter().collect()),
        config: config.as_ref(),
        folder: folder.as_deref(),
    };
    let card_path = match output.is_dir() {
        true => output.join("README.md"),
        false => output.with_extension("md"),
    };
    std::fs::write(&card_path, card.text()).with_context(|| card_path.display().to_string())?;
    print(&format!(
        "{} ({} tensors, from {origin}), read back and compared; card {}",
        output.display(),
        state.len(),
        card_path.display()
    ))
}

/// A run or a file of weights as it is named on the command line: `file:///folder` is that folder,
/// as in a configuration.
fn run_or_file(text: &str) -> Result<PathBuf, std::convert::Infallible> {
    Ok(PathBuf::from(pipeline::store::without_file_scheme(text)))
}

/// Standard output belongs to results.
pub(crate) fn print(text: &str) -> Result<()> {
    use std::io::Write;
    Ok(writeln!(std::io::stdout(), "{text}")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_shows_an_example() {
        use clap::CommandFactory;
        for command in Arguments::command().get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let name = command.get_name();
            assert!(help.contains(&format!("Example:\n  hqsam {name} ")), "{name}: {help}");
        }
    }

    #[test]
    fn the_url_of_a_folder_is_that_folder() {
        for (text, place) in [
            ("file:///my%20run", "/my run"),
            ("s3://bucket/run", "s3://bucket/run"),
            ("run", "run"),
        ] {
            let parsed = Arguments::try_parse_from(["hqsam", "export", text]).unwrap();
            let Command::Export(arguments) = parsed.command else { panic!("not an export") };
            assert_eq!(arguments.model, PathBuf::from(place));
        }
    }
}
