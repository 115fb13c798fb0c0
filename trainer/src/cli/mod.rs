//! The commands of `hqsam`.

mod amg;
mod bench;
mod eval;
mod exit_code;
mod export;
mod fetch;
mod model_arguments;
mod predict;
mod serve;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use launch::rank_env::{RankEnv, restart_count, stop_flag};
use pipeline::fetch::FetchArguments;
use tch::Device;
use trainer::config::TrainConfig;
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
    Export(export::ExportArguments),
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
        Command::Export(arguments) => export::run(&arguments, device),
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

/// A run or a file of weights as it is named on the command line: `file:///folder` is that folder,
/// as in a configuration.
fn run_or_file(text: &str) -> Result<PathBuf, std::convert::Infallible> {
    Ok(PathBuf::from(pipeline::store::without_file_scheme(text)))
}

/// Whether both are there and are the same file or folder.
pub(crate) fn is_same_file(one: &Path, other: &Path) -> bool {
    one.canonicalize().is_ok_and(|one| other.canonicalize().is_ok_and(|other| one == other))
}

/// An error and its causes in one line, without causes that it tells already: some messages of libraries
/// hold theirs.
pub(crate) fn one_line(error: &anyhow::Error) -> String {
    let texts = error.chain().map(ToString::to_string);
    let joined = texts.reduce(|line, cause| match line.contains(&cause) {
        true => line,
        false => format!("{line}: {cause}"),
    });
    joined.unwrap_or_default()
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
    fn a_cause_is_told_once() {
        let error = || std::io::Error::other("no space");
        let path = PathBuf::from("mask.pth");
        let told = trainer::weights::WeightsError::Write { path, source: error() };
        assert_eq!(one_line(&told.into()), "cannot write mask.pth: no space");
        let told = anyhow::Error::from(error()).context("mask.png");
        assert_eq!(one_line(&told), "mask.png: no space");
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
