//! `hqsam bench`.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Result;
use clap::Args;
use launch::rank_env::RankEnv;
use tch::Device;
use trainer::bench::{BenchOptions, BenchReport, bench};
use trainer::config::TrainConfig;
use trainer::train::TrainOptions;

use super::print;

#[derive(Args)]
pub(super) struct BenchArguments {
    /// Training configuration (TOML); its data set is not read, and a missing checkpoint means
    /// random weights.
    config: PathBuf,
    /// Override a key: `--set train.bf16=true`.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// Samples a step and rank.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..))]
    batch: u16,
    /// Steps measured.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    /// Steps before them that do not count.
    #[arg(long, default_value_t = 1)]
    warm_up: u32,
    /// Threads of libtorch; default: as many as it chooses.
    #[arg(long, value_parser = clap::value_parser!(i32).range(1..))]
    threads: Option<i32>,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(
    arguments: &BenchArguments,
    device: Device,
    rank_env: Option<RankEnv>,
) -> Result<()> {
    let config = TrainConfig::load(&arguments.config, &arguments.overrides)?;
    if let Some(threads) = arguments.threads {
        tch::set_num_threads(threads);
    }
    let rank = rank_env.as_ref().map_or(0, |env| env.rank);
    let stop = Arc::new(AtomicBool::new(false));
    let train = TrainOptions { resume: false, device, rank_env, stop };
    let options = BenchOptions {
        batch: arguments.batch.into(),
        steps: arguments.steps as usize,
        warm_up: arguments.warm_up as usize,
    };
    let report = bench(&config, &train, options)?;
    match (rank, arguments.json) {
        (0, true) => print(&serde_json::to_string_pretty(&report)?),
        (0, false) => print(&table(&report)),
        _ => Ok(()),
    }
}

fn table(report: &BenchReport) -> String {
    let seconds = &report.seconds;
    let shares = [
        ("encoder", report.encoder),
        ("prompts, decoder", report.decoder),
        ("loss, backward", report.backward),
    ];
    let shares = shares.map(|(name, share)| {
        format!(
            "{name:<20} {:9.1} GFLOP/s, {:.0} % of a large product's {:.1}; {:.1} GFLOP an image",
            share.gflop_per_second,
            100.0 * share.share_of_floor,
            share.floor_gflop_per_second,
            share.gflop_per_image,
        )
    });
    let shares = shares.join("\n");
    let device = report.peak_device_mib.map_or_else(String::new, |mib| {
        let reserved = report.peak_device_reserved_mib.unwrap_or(0);
        format!("peak GPU memory      {mib:9} MiB in tensors, {reserved} MiB reserved\n")
    });
    let parts = [
        ("step", seconds.step),
        ("  encoder", seconds.encoder),
        ("  prompts, decoder", seconds.decoder),
        ("  loss, backward", seconds.loss_backward),
        ("  all-reduce", seconds.all_reduce),
        ("  optimiser", seconds.optimizer),
        ("data (beside it)", seconds.data),
    ];
    let all_reduce = report.all_reduce.map_or_else(String::new, |all_reduce| {
        let (bytes, seconds) = (all_reduce.bytes, all_reduce.seconds);
        format!("{:<20} {seconds:9.4} s, {bytes} bytes\n", "all-reduce alone")
    });
    let ahead = seconds.ahead.map(|ahead| ("step, encoding ahead", ahead));
    let parts: String = parts
        .iter()
        .copied()
        .chain(ahead)
        .map(|(name, s)| format!("{name:<20} {s:9.4} s\n"))
        .collect();
    format!(
        "{} x {} images a step, {}, {} threads, encoder in {}{}\n{parts}{all_reduce}\
         images a second      {:9.3}\npeak memory          {:9} MiB\n{device}\
         {shares}",
        report.world_size,
        report.batch,
        report.device,
        report.threads,
        report.precision,
        if report.random_weights { ", random weights" } else { "" },
        report.images_per_second,
        report.peak_resident_mib,
    )
}
