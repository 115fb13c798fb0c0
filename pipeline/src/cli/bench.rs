//! `hqseg bench stream`: how fast training samples come, and how much of that is decoding.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Instant;

use clap::{Args, Subcommand};
use dataset::augment::{PairMut, stretch_into};
use dataset::codec::{DecodeLimits, decode_image, decode_mask};
use dataset::order::World;
use pipeline::{Dataset, DecodeMode, Position, TrainRecipe, TrainStream};
use serde::Serialize;

use super::CliResult;
use super::arguments::{DatasetArguments, threads};
use super::bench_order::{self, OrderArguments};

#[derive(Args)]
pub(super) struct BenchArguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Read, decode, flip, jitter to 1024 x 1024 and prompts, as published.
    Stream(StreamArguments),
    /// The order of an epoch: nanoseconds for a position taken at random, and bytes of memory.
    Order(OrderArguments),
}

#[derive(Args)]
struct StreamArguments {
    #[command(flatten)]
    dataset: DatasetArguments,
    /// Split to stream.
    #[arg(long, default_value = "train")]
    split: String,
    /// Decoding threads (default: one per core).
    #[arg(long, default_value_t = 0, hide_default_value = true, value_parser = threads)]
    threads: usize,
    /// Samples that are timed, after a batch that is not.
    #[arg(long, default_value_t = 800, value_parser = clap::value_parser!(u64).range(1..))]
    samples: u64,
    /// How image files are decoded: `exact` as published, or `scaled` while decoding.
    #[arg(long, value_enum, default_value = "exact")]
    decode: DecodeMode,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Samples of a batch; a split with fewer is streamed one by one.
const BATCH: usize = 8;

#[derive(Serialize)]
struct StreamSpeed {
    threads: usize,
    samples: u64,
    samples_per_second: f64,
    samples_per_second_per_thread: f64,
    /// Milliseconds of processor time per sample, of all threads of the process together: what a
    /// busy machine does not distort.
    cpu_ms: f64,
    /// Milliseconds of one thread per sample, everything included.
    sample_ms: f64,
    /// Of these, for decoding the image alone.
    decode_image_ms: f64,
    /// And for decoding the mask alone. Both of whole pictures: a sample decodes what its crop
    /// keeps.
    decode_mask_ms: f64,
    /// For resampling both to a square of 1024 pixels, once they are decoded.
    resample_ms: f64,
    /// All milliseconds over those of decoding: 1 would be decoding and nothing else.
    times_decoding: f64,
    /// Resident memory, MiB, at the end of each epoch that was seen to its end.
    resident_mib_by_epoch: Vec<u64>,
    /// The most memory that was resident at any time, MiB.
    peak_resident_mib: u64,
    /// Batches for which memory was taken after the start of the stream.
    extra_buffers: usize,
}

pub(super) fn run(arguments: &BenchArguments) -> CliResult {
    let arguments = match &arguments.what {
        What::Stream(arguments) => arguments,
        What::Order(arguments) => return bench_order::run(arguments),
    };
    let dataset = Arc::new(arguments.dataset.open()?);
    let rows = dataset.num_samples(&arguments.split)?;
    let [decode_image_ms, decode_mask_ms, resample_ms] =
        parts_alone(&dataset, &arguments.split, arguments.samples.min(rows))?;
    let threads = match arguments.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    };
    let streamed = stream(&dataset, arguments, rows, threads)?;
    let samples = streamed.samples;
    let samples_per_second = samples as f64 / streamed.seconds;
    let sample_ms = 1e3 * threads as f64 / samples_per_second;
    let speed = StreamSpeed {
        threads,
        samples,
        samples_per_second,
        samples_per_second_per_thread: samples_per_second / threads as f64,
        cpu_ms: streamed.cpu_seconds * 1e3 / samples.max(1) as f64,
        sample_ms,
        decode_image_ms,
        decode_mask_ms,
        resample_ms,
        times_decoding: sample_ms / (decode_image_ms + decode_mask_ms),
        resident_mib_by_epoch: streamed.resident_mib_by_epoch,
        peak_resident_mib: status_mib("VmHWM:"),
        extra_buffers: streamed.extra_buffers,
    };
    let mut out = io::stdout().lock();
    if arguments.json {
        serde_json::to_writer(&mut out, &speed)?;
        return Ok(writeln!(out)?);
    }
    writeln!(
        out,
        "{samples} samples, {threads} threads: {samples_per_second:.1} samples/s, {:.1} a thread",
        speed.samples_per_second_per_thread
    )?;
    writeln!(
        out,
        "{sample_ms:.2} ms a sample and thread. Alone and of whole pictures: {decode_image_ms:.2} ms \
         to decode the image, {decode_mask_ms:.2} the mask, {resample_ms:.2} to resample both; a \
         sample is {:.2} times decoding",
        speed.times_decoding
    )?;
    writeln!(
        out,
        "{:.2} ms of processor time a sample; at most {} MiB resident, by epoch {:?}",
        speed.cpu_ms, speed.peak_resident_mib, speed.resident_mib_by_epoch
    )?;
    Ok(())
}

/// Milliseconds per sample, on this thread, to decode the image of the first rows of a split, the
/// mask, and to resample both.
fn parts_alone(
    dataset: &Dataset,
    split: &str,
    rows: u64,
) -> Result<[f64; 3], Box<dyn std::error::Error>> {
    let limits = DecodeLimits::none();
    let mut seconds = [0.0; 3];
    let side = 1024;
    let (mut image_target, mut mask_target) = (vec![0; side * side * 3], vec![0; side * side]);
    for row in 0..rows {
        let sample = dataset.read_stored(split, row)?;
        let started = Instant::now();
        let image = decode_image(&sample.image_bytes, &limits)?;
        seconds[0] += started.elapsed().as_secs_f64();
        let started = Instant::now();
        let mask = decode_mask(&sample.mask_bytes, &limits)?;
        seconds[1] += started.elapsed().as_secs_f64();
        let started = Instant::now();
        let mut target = PairMut { side, image: &mut image_target, mask: &mut mask_target };
        stretch_into(false, &image, &mask, &mut target);
        seconds[2] += started.elapsed().as_secs_f64();
        std::hint::black_box(&target);
    }
    Ok(seconds.map(|seconds| seconds * 1e3 / rows.max(1) as f64))
}

/// What was seen of a stream.
struct Streamed {
    samples: u64,
    seconds: f64,
    cpu_seconds: f64,
    resident_mib_by_epoch: Vec<u64>,
    extra_buffers: usize,
}

/// Streams after one batch that is not counted. Batches are taken and dropped, so nothing but the
/// stream works.
fn stream(
    dataset: &Arc<Dataset>,
    arguments: &StreamArguments,
    rows: u64,
    threads: usize,
) -> Result<Streamed, Box<dyn std::error::Error>> {
    let global_batch = if rows < BATCH as u64 { 1 } else { BATCH };
    let published = TrainRecipe::published(&arguments.split, 42, global_batch);
    let recipe = TrainRecipe { threads, decode: arguments.decode, ..published };
    let start = Position { epoch: 0, step: 0 };
    let world = World::new(0, 1)?;
    let mut stream = TrainStream::new(Arc::clone(dataset), recipe, world, start, u64::MAX)?;
    stream.next_batch()?;
    let (mut samples, mut epoch, mut resident_mib_by_epoch) = (0, 0, Vec::new());
    let (started, cpu_started) = (Instant::now(), cpu_seconds());
    while samples < arguments.samples {
        let Some(batch) = stream.next_batch()? else { break };
        samples += batch.sample_ids.len() as u64;
        if batch.epoch > epoch {
            epoch = batch.epoch;
            resident_mib_by_epoch.push(status_mib("VmRSS:"));
        }
    }
    Ok(Streamed {
        samples,
        seconds: started.elapsed().as_secs_f64(),
        cpu_seconds: cpu_seconds() - cpu_started,
        resident_mib_by_epoch,
        extra_buffers: stream.extra_buffers(),
    })
}

/// Processor time of this process so far, as Linux counts it in hundredths of a second; 0
/// elsewhere.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // User and system time are the 12th and 13th fields after the name, which ends with the last
    // parenthesis.
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks = after_name.split_whitespace().skip(11).take(2);
    ticks.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

fn status_mib(name: &str) -> u64 {
    status_kib(name) / 1024
}

/// A line of `/proc/self/status` that is given in KiB; 0 where there is none.
pub(super) fn status_kib(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0)
}
