//! Simulates the loader and the checkpoints of many ranks on one machine, and compares what they ask
//! of the store with the formulas of docs/scaling.md.
//!
//! `cargo run --release --example simulate_ranks -- --ranks 64 [--data FOLDER]`; with `--tables`, the
//! tables of the document.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use clap::Parser;
use dataset::draw::draw_collection;
use dataset::source::{Layout, SourceSpec};
use pipeline::BuildConfig;
use trainer::model::EncoderConfig;

use self::layout::{Reads, Split, Traffic};
use self::simulation::{Outcome, SEED, Setup, simulate};

mod layout;
mod simulation;
mod store;
mod tables;

#[derive(Parser)]
struct Arguments {
    /// Folder of a data set; without one, one is drawn.
    #[arg(long)]
    data: Option<PathBuf>,
    /// Pairs to draw.
    #[arg(long, default_value_t = 256)]
    pairs: u64,
    /// Split to train on.
    #[arg(long, default_value = "train")]
    split: String,
    /// Ranks.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..))]
    ranks: u16,
    /// Samples of a step over all ranks; by default one for each.
    #[arg(long)]
    global_batch: Option<usize>,
    /// Epochs.
    #[arg(long, default_value_t = 2)]
    epochs: u64,
    /// Milliseconds that a step computes.
    #[arg(long, default_value_t = 50)]
    step_ms: u64,
    /// Milliseconds until the store answers.
    #[arg(long, default_value_t = 20)]
    latency_ms: u64,
    /// Steps between checkpoints.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..))]
    checkpoint_every: u64,
    /// Encoder whose HQ part the checkpoints hold.
    #[arg(long, default_value = "vit_l")]
    encoder: String,
    /// Print the tables of the document instead.
    #[arg(long)]
    tables: bool,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    if arguments.tables {
        print(&tables::all())?;
        return Ok(ExitCode::SUCCESS);
    }
    let drawn = tempfile::tempdir()?;
    let folder = match &arguments.data {
        Some(folder) => folder.clone(),
        None => draw(drawn.path(), arguments.pairs)?,
    };
    let Some(encoder) = EncoderConfig::named(&arguments.encoder) else {
        bail!("--encoder is one of {}", EncoderConfig::names().join(", "));
    };
    let setup = Setup {
        ranks: arguments.ranks.into(),
        global_batch: arguments.global_batch.unwrap_or(arguments.ranks.into()),
        epochs: arguments.epochs,
        step: Duration::from_millis(arguments.step_ms),
        latency: Duration::from_millis(arguments.latency_ms),
        checkpoint_every: arguments.checkpoint_every,
        vit_dim: encoder.vit_dim(),
    };
    let split = Split::read(&folder, &arguments.split)?;
    let expected = split.reads(setup.ranks, setup.global_batch, setup.epochs, SEED);
    let outcome = simulate(&folder, &split, &arguments.split, &setup)?;
    print(&report(&setup, &split, &outcome, &expected))?;
    ensure!(outcome.reads == expected, "what was counted is not what the formulas say");
    Ok(ExitCode::SUCCESS)
}

/// Draws pairs in the layout of ECSSD and builds them; the folder of the data set.
fn draw(folder: &Path, pairs: u64) -> Result<PathBuf> {
    let (raw, output) = (folder.join("raw"), folder.join("data"));
    draw_collection(&raw, Layout::Ecssd, pairs, SEED)?;
    let mut source = SourceSpec::new("drawn", Layout::Ecssd, raw);
    source.license = Some("none".to_owned());
    pipeline::build(&BuildConfig::new(output.to_string_lossy(), vec![source]))?;
    Ok(output)
}

fn report(setup: &Setup, split: &Split, outcome: &Outcome, expected: &Reads) -> String {
    let reads = &outcome.reads;
    let line = |name: &str, counted: Traffic, expected: Traffic| {
        format!(
            "{name:<10} {:>9} {:>13} {:>9} {:>13}\n",
            counted.requests, counted.bytes, expected.requests, expected.bytes
        )
    };
    let Outcome { steps, waits, checkpoints, .. } = outcome;
    let at = |share: f64| {
        let index = (share * waits.len() as f64) as usize;
        waits.get(index.min(waits.len().saturating_sub(1))).map_or(0.0, Duration::as_secs_f64)
    };
    let of_requests = |requests| split.rows().filter(|row| row.requests == requests).count();
    let samples = (*steps as f64) * setup.global_batch as f64;
    let waited: f64 = waits.iter().map(Duration::as_secs_f64).sum();
    format!(
        "{} ranks, {} samples a step, {} epochs of {} samples: {steps} steps in {:.1} s\n\
         {:<10} {:>9} {:>13} {:>9} {:>13}\n{}{}{}\
         a step asks for {:.1} rows' ranges and {:.0} bytes; a sample for {:.2} and {:.0}\n\
         by the layout, {} samples take one request, {} two, {} three\n\
         waiting for a batch: median {:.1} ms, 99 % {:.1} ms, longest {:.1} ms; {:.1} % of the time\n\
         checkpoints: {} files, {} bytes of tensors, {} bytes; a step was held up by {:.1} ms at most",
        setup.ranks,
        setup.global_batch,
        setup.epochs,
        split.num_samples,
        outcome.elapsed.as_secs_f64(),
        "",
        "requests",
        "bytes",
        "formula",
        "bytes",
        line("manifests", reads.manifests, expected.manifests),
        line("footers", reads.footers, expected.footers),
        line("rows", reads.rows, expected.rows),
        reads.rows.requests as f64 / *steps as f64,
        reads.rows.bytes as f64 / *steps as f64,
        reads.rows.requests as f64 / samples,
        reads.rows.bytes as f64 / samples,
        of_requests(1),
        of_requests(2),
        of_requests(3),
        1e3 * at(0.5),
        1e3 * at(0.99),
        1e3 * at(1.0),
        100.0 * waited / (outcome.elapsed.as_secs_f64() * setup.ranks as f64),
        checkpoints.files,
        checkpoints.tensor_bytes,
        checkpoints.file_bytes,
        1e3 * checkpoints.longest.as_secs_f64(),
    )
}

fn print(text: &str) -> std::io::Result<()> {
    use std::io::Write;
    writeln!(std::io::stdout(), "{text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = include_str!("../../../docs/scaling.md");

    fn setup(ranks: usize, global_batch: usize) -> Setup {
        Setup {
            ranks,
            global_batch,
            epochs: 2,
            step: Duration::ZERO,
            latency: Duration::ZERO,
            checkpoint_every: 2,
            vit_dim: 768,
        }
    }

    #[test]
    fn ranks_ask_for_exactly_what_the_formulas_say() {
        let folder = tempfile::tempdir().unwrap();
        let data = draw(folder.path(), 130).unwrap();
        let split = Split::read(&data, "train").unwrap();
        // Rows near the edge of their row group are joined with what lies there.
        let kinds: std::collections::BTreeSet<u64> = split.rows().map(|row| row.requests).collect();
        assert!(kinds.len() > 1 && kinds.iter().all(|kind| (1..=3).contains(kind)), "{kinds:?}");
        let mut rows = Vec::new();
        for (ranks, global_batch) in [(1, 16), (16, 16), (5, 16), (64, 64)] {
            let setup = setup(ranks, global_batch);
            let outcome = simulate(&data, &split, "train", &setup).unwrap();
            assert_eq!(outcome.reads, split.reads(ranks, global_batch, 2, SEED), "{setup:?}");
            assert_eq!(outcome.reads.manifests.requests, ranks as u64);
            assert_eq!(outcome.waits.len() as u64, outcome.steps * ranks as u64);
            rows.push(outcome.reads.rows);
            let written = outcome.checkpoints;
            assert_eq!(written.files, outcome.steps / 2);
            // The parameters, two moments and the number of steps.
            let values = EncoderConfig::named("vit_b").unwrap().num_trained_values() as u64;
            assert_eq!(written.tensor_bytes, written.files * (12 * values + 4));
        }
        assert!(rows[0] == rows[1] && rows[0] == rows[2], "ranks change no row's reads: {rows:?}");
    }

    #[test]
    fn the_document_has_the_tables_as_computed() {
        for table in tables::all().split("\n\n") {
            assert!(DOCUMENT.contains(table.trim()), "docs/scaling.md lacks\n{table}");
        }
    }
}
