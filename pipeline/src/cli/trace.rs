//! `hqseg trace`: what each step of a training would see, without training.

use std::io::{self, Write};
use std::sync::Arc;

use clap::Args;
use dataset::augment::LargeScaleJitter;
use dataset::order::World;
use dataset::prompt::{Prompt, PromptKind};
use pipeline::{Batch, DecodeMode, Position, TrainRecipe, TrainStream};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::CliResult;
use super::arguments::{DatasetArguments, threads};

#[derive(Args)]
pub(super) struct TraceArguments {
    #[command(flatten)]
    dataset: DatasetArguments,
    /// Split to stream.
    #[arg(long, default_value = "train")]
    split: String,
    /// Epoch, from 0.
    #[arg(long, default_value_t = 0)]
    epoch: u64,
    /// Seed of the run.
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Number of ranks.
    #[arg(long, default_value_t = 1)]
    world: usize,
    /// This rank, from 0.
    #[arg(long, default_value_t = 0)]
    rank: usize,
    /// First step, from 0.
    #[arg(long, default_value_t = 0)]
    from_step: u64,
    /// Number of steps, going on into the next epochs. Default: to the end of the epoch.
    #[arg(long)]
    steps: Option<u64>,
    /// Samples of a step over all ranks.
    #[arg(long, default_value_t = 32)]
    global_batch: usize,
    /// Height and width of a sample.
    #[arg(long, default_value_t = 1024)]
    size: usize,
    /// How image files are decoded: `exact` as published, or `scaled` while decoding.
    #[arg(long, value_enum, default_value = "exact")]
    decode: DecodeMode,
    /// Decoding threads (default: one per core).
    #[arg(long, default_value_t = 0, hide_default_value = true, value_parser = threads)]
    threads: usize,
    /// Print one JSON object a step.
    #[arg(long)]
    json: bool,
}

/// One step of one rank.
#[derive(Serialize)]
struct Step<'a> {
    epoch: u64,
    step: u64,
    rank: usize,
    samples: Vec<Sample<'a>>,
}

#[derive(Serialize)]
struct Sample<'a> {
    sample_id: &'a str,
    prompt: PromptKind,
    /// Of the image's bytes, the mask's bytes and the prompt's values (little-endian float32, or
    /// the bytes of a noise mask).
    sha256: String,
}

/// Prints the steps under the published recipe: flip, jitter 0.1 to 2.0, three kinds of prompts.
pub(super) fn run(arguments: &TraceArguments) -> CliResult {
    let world = World::new(arguments.rank, arguments.world)?;
    let dataset = Arc::new(arguments.dataset.open()?);
    let published =
        TrainRecipe::published(&arguments.split, arguments.seed, arguments.global_batch);
    let recipe = TrainRecipe {
        jitter: published
            .jitter
            .map(|jitter| LargeScaleJitter { output_size: arguments.size, ..jitter }),
        output_size: arguments.size,
        decode: arguments.decode,
        threads: arguments.threads,
        prefetch_batches: 1,
        ..published
    };
    let start = Position { epoch: arguments.epoch, step: arguments.from_step };
    let end = arguments.steps.map_or(arguments.epoch.saturating_add(1), |_| u64::MAX);
    let mut stream = TrainStream::new(dataset, recipe, world, start, end)?;
    let mut left = arguments.steps.unwrap_or(u64::MAX);
    let mut out = io::stdout().lock();
    while left > 0 {
        let Some(batch) = stream.next_batch()? else { break };
        print(&mut out, &step(&batch, arguments.rank), arguments.json)?;
        left -= 1;
    }
    Ok(())
}

fn step(batch: &Batch, rank: usize) -> Step<'_> {
    let pixels = batch.height * batch.width;
    let images = batch.images.chunks_exact(pixels * 3);
    let pairs = images.zip(batch.masks.chunks_exact(pixels));
    let samples = pairs
        .zip(&batch.prompts)
        .zip(&batch.sample_ids)
        .map(|(((image, mask), prompt), sample_id)| {
            let (kind, values) = describe(prompt);
            let mut hasher = Sha256::new();
            [image, mask, values.as_slice()].iter().for_each(|part| hasher.update(part));
            let digest = hasher.finalize();
            let sha256 = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            Sample { sample_id, prompt: kind, sha256 }
        })
        .collect();
    Step { epoch: batch.epoch, step: batch.step, rank, samples }
}

fn describe(prompt: &Prompt) -> (PromptKind, Vec<u8>) {
    let bytes = |values: &mut dyn Iterator<Item = f32>| values.flat_map(f32::to_le_bytes).collect();
    match prompt {
        Prompt::Box(corners) => (PromptKind::Box, bytes(&mut corners.iter().copied())),
        Prompt::Points { coords, labels } => {
            let mut values = coords.iter().flatten().chain(labels).copied();
            (PromptKind::Points, bytes(&mut values))
        }
        Prompt::NoiseMask(values) => (PromptKind::NoiseMask, values.clone()),
    }
}

fn print(out: &mut impl Write, step: &Step<'_>, json: bool) -> CliResult {
    if json {
        serde_json::to_writer(&mut *out, step)?;
        return Ok(writeln!(out)?);
    }
    for sample in &step.samples {
        writeln!(
            out,
            "epoch {} step {} rank {}  {:<40} {:<10} {}",
            step.epoch,
            step.step,
            step.rank,
            sample.sample_id,
            sample.prompt.name(),
            sample.sha256
        )?;
    }
    Ok(())
}
