//! `hqseg bench order`: what one position of an epoch costs, however many samples there are.

use std::hint::black_box;
use std::io::{self, Write};
use std::time::Instant;

use clap::Args;
use dataset::order::Order;
use dataset::rng::{Draw, sample_rng};
use rand::RngExt;
use serde::Serialize;

use super::CliResult;
use super::bench::status_kib;

#[derive(Args)]
pub(super) struct OrderArguments {
    /// Samples of the epoch.
    #[arg(long, default_value_t = 1_000_000_000, value_parser = clap::value_parser!(u64).range(1..1 << 62))]
    samples: u64,
    /// Positions to compute, drawn at random.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    positions: u64,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct OrderSpeed {
    samples: u64,
    positions: u64,
    /// From a position to its row.
    ns_per_position: f64,
    /// From a row back to its position.
    ns_per_inverse: f64,
    /// The most memory that was resident, KiB: the program and its lists of positions, the order
    /// having none.
    peak_resident_kib: u64,
    /// Positions that came back as themselves; all of them, or the order is no permutation.
    round_trips: u64,
}

pub(super) fn run(arguments: &OrderArguments) -> CliResult {
    let samples = arguments.samples;
    let order = Order::new(samples, 42, 0);
    let mut rng = sample_rng(42, 0, "bench order", Draw::Augment);
    let positions: Vec<u64> =
        (0..arguments.positions).map(|_| rng.random_range(0..samples)).collect();
    let (rows, ns_per_position) = timed(&positions, |position| order.row(position));
    let (back, ns_per_inverse) = timed(&rows, |row| order.position(row));
    let round_trips = back.iter().zip(&positions).filter(|(back, place)| back == place).count();
    let speed = OrderSpeed {
        samples,
        positions: arguments.positions,
        ns_per_position,
        ns_per_inverse,
        peak_resident_kib: status_kib("VmHWM:"),
        round_trips: round_trips as u64,
    };
    let mut out = io::stdout().lock();
    if arguments.json {
        serde_json::to_writer(&mut out, &speed)?;
        return Ok(writeln!(out)?);
    }
    Ok(writeln!(
        out,
        "{samples} samples: {ns_per_position:.1} ns a position, {ns_per_inverse:.1} ns back, at most {} \
         KiB resident; {round_trips} of {} positions came back as themselves",
        speed.peak_resident_kib, speed.positions
    )?)
}

/// The results, and nanoseconds for each.
fn timed(values: &[u64], compute: impl Fn(u64) -> u64) -> (Vec<u64>, f64) {
    let started = Instant::now();
    let results: Vec<u64> = values.iter().map(|&value| compute(black_box(value))).collect();
    (results, started.elapsed().as_secs_f64() * 1e9 / values.len() as f64)
}
