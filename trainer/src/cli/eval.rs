//! `hqsam eval`.

use std::cell::Cell;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use dataset::order::World;
use indicatif::ProgressBar;
use launch::rank_env::{Heartbeat, RankEnv};
use pipeline::Dataset;
use sha2::{Digest, Sha256};
use tch::Device;
use trainer::checkpoint;
use trainer::config::{EvalSection, HqOutput};
use trainer::data_parallel::DataParallel;
use trainer::eval_files::{free_name, write_page, write_report};
use trainer::evaluate::{EvalContext, EvalReport, Evaluation, PictureWish, Protocol, evaluate};
use trainer::ranks;
use trainer::run::OpenModel;
use trainer::run_log::evaluation_bar;

use super::model_arguments::ModelArguments;

#[derive(Args)]
pub(crate) struct EvalArguments {
    #[command(flatten)]
    model: ModelArguments,
    /// Data set: its folder or URL, or the build configuration that made it. Default: the run's.
    #[arg(long)]
    data: Option<String>,
    /// Splits; default: those of the run's configuration, else `val`.
    #[arg(long)]
    split: Vec<String>,
    /// Prompts, such as `box,clicks:1,points:10`. Default: those of the run's configuration, else
    /// `box`, as published.
    ///
    /// `box`: the tight box around the mask. `points:N`: N random foreground points. `clicks:N`: one
    /// click at the maximum of the mask's distance transform (`clicks:1` is the field's one-point
    /// protocol), then each further one, of either kind, at that of the largest error left.
    /// `coarse_mask`: the mask at 256 x 256 with noise. `noisy_box:SHARE`: the box moved and resized by
    /// up to that share of its sides.
    #[arg(long = "protocol", value_name = "PROTOCOL", value_delimiter = ',')]
    protocols: Vec<Protocol>,
    /// Width of the boundary as a share of the image's diagonal. Default: the run's, else 0.02, as
    /// published.
    #[arg(long)]
    dilation_ratio: Option<f64>,
    /// Logits that HQ-SAM's masks are made of: `hq` as in the published evaluation, or `sum` with
    /// SAM's as in the published predictor. Default: the run's, else `hq`.
    #[arg(long, value_enum)]
    mode: Option<HqOutput>,
    /// Seed of the drawn prompts. Default: the run's, else 42.
    #[arg(long)]
    seed: Option<u64>,
    /// Images that go through the model at once. Default: the run's, else 2.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    batch: Option<u16>,
    /// Evaluate only the first so many images. A run's `eval.limit` does not count here.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
    /// Folder for `<split>.json`, `.md`, `.parquet` and `.html`. Default: `eval` inside the run; none
    /// for a URL. The default folder keeps evaluations of other data sets, prompts, settings or numbers of
    /// images: beside such a `<split>.json` the files are named `<split>-<hash>`.
    #[arg(long)]
    output: Option<PathBuf>,
    /// Images shown in the page for each prompt, those with the lowest IoU of HQ-SAM.
    #[arg(long, default_value_t = 12)]
    worst: usize,
    /// Decoding threads.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    threads: u16,
}

impl EvalArguments {
    /// Folder and name of a report's files. In a folder that was not named, no other evaluation is
    /// replaced.
    fn place(&self, report: &EvalReport) -> Option<(PathBuf, String)> {
        if let Some(folder) = &self.output {
            return Some((folder.clone(), report.split.clone()));
        }
        let folder = self.model.path.is_dir().then(|| self.model.path.join("eval"))?;
        let name = free_name(&folder, report);
        if name != report.split {
            tracing::info!(
                "written as {name} into {}, where {} is of another data set, other prompts or settings, \
                 or another number of images",
                folder.display(),
                report.split
            );
        }
        Some((folder, name))
    }

    /// The run's settings with what was given on the command line.
    fn section(&self, configured: Option<EvalSection>) -> Result<EvalSection> {
        let mut section = configured.unwrap_or_default();
        // The run's own is for evaluations between its epochs.
        section.limit = self.limit;
        section.dilation_ratio = self.dilation_ratio.unwrap_or(section.dilation_ratio);
        section.hq_output = self.mode.unwrap_or(section.hq_output);
        section.seed = self.seed.unwrap_or(section.seed);
        section.batch = self.batch.map_or(section.batch, usize::from);
        if !self.split.is_empty() {
            section.splits.clone_from(&self.split);
        }
        if !self.protocols.is_empty() {
            section.protocols.clone_from(&self.protocols);
        }
        section.check().map_err(anyhow::Error::msg)?;
        Ok(section)
    }
}

pub(crate) fn run(
    arguments: &EvalArguments,
    device: Device,
    rank_env: Option<&RankEnv>,
) -> Result<()> {
    let evaluated = run_rank(arguments, device, rank_env);
    match rank_env {
        Some(env) => evaluated.with_context(|| format!("rank {}", env.rank)),
        None => evaluated,
    }
}

fn run_rank(arguments: &EvalArguments, device: Device, rank_env: Option<&RankEnv>) -> Result<()> {
    let (heartbeat, batches) = (Heartbeat::from_env(), Cell::new(0));
    let beating = heartbeat.keep_beating();
    let OpenModel { model, encoder, origin, config, .. } = arguments.model.open(device)?;
    let data = match (&arguments.data, &config) {
        (Some(data), _) => data.clone(),
        (None, Some(config)) => config.data.path.clone(),
        (None, None) => bail!("--data is missing: name the data set to evaluate on"),
    };
    let train = config.as_ref().map(|config| config.train.clone()).unwrap_or_default();
    let section = arguments.section(config.map(|config| config.eval))?;
    let dataset = Arc::new(Dataset::open(&data)?);
    let timeout = Duration::from_secs(train.collective_timeout_secs);
    let (world, data_parallel) = ranks::join(rank_env, device, timeout, &|| false)?;
    let weights = checkpoint::digest(&model.hq_parameters().into_iter().collect());
    agree(&data_parallel, device, &[weights, dataset.manifest_sha256(), format!("{section:?}")])?;
    drop(beating);
    let mut reports = Vec::new();
    for split in &section.splits {
        let rows = dataset.num_samples(split)?;
        let context = EvalContext {
            model: &model,
            img_size: encoder.img_size() as usize,
            device,
            world,
            data_parallel: &data_parallel,
            feature_cache: None,
            pictures: PictureWish { worst: arguments.worst, fixed: 0 },
            progress: bar(split, section.limit.map_or(rows, |limit| limit.min(rows)), world),
            on_batch: &|| {
                batches.set(batches.get() + 1);
                heartbeat.beat(batches.get());
            },
            stop: None,
        };
        let Evaluation { report, pictures } =
            evaluate(&context, &dataset, split, &section, arguments.threads.into())?
                .context("the evaluation was stopped")?;
        context.progress.finish_and_clear();
        if world.rank != 0 {
            continue;
        }
        if let Some((folder, name)) = arguments.place(&report) {
            write_report(&folder, &name, &report)?;
            let about = format!("{origin} on {data}");
            write_page(&folder, &name, &report, &pictures, &about)?;
        }
        if !arguments.json {
            super::print(&format!("{origin} on {data}, split {split}\n\n{}", report.table()))?;
        }
        reports.push(report);
    }
    if arguments.json && world.rank == 0 {
        super::print(&serde_json::to_string_pretty(&reports)?)?;
    }
    Ok(())
}

/// A report about parts of different evaluations would mean nothing.
fn agree(data_parallel: &DataParallel, device: Device, inputs: &[String]) -> Result<()> {
    let digest = Sha256::digest(inputs.join("\n").as_bytes());
    ensure!(
        data_parallel.agree(&digest, device)?,
        "the model, the data set or the settings are not the same on every rank"
    );
    Ok(())
}

fn bar(split: &str, images: u64, world: World) -> ProgressBar {
    match world.rank {
        0 => evaluation_bar(split, images.div_ceil(world.world_size as u64)),
        _ => ProgressBar::hidden(),
    }
}
