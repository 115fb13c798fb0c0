//! `hqseg inspect`.

use std::io::{self, Write};

use clap::Args;

use super::CliResult;
use super::arguments::DatasetArguments;

#[derive(Args)]
pub(super) struct InspectArguments {
    #[command(flatten)]
    dataset: DatasetArguments,
    /// Show a row of this split (default: the first one).
    #[arg(long)]
    split: Option<String>,
    /// Show this row.
    #[arg(long, default_value_t = 0)]
    row: u64,
}

/// Prints the manifest's counts and one row.
pub(super) fn run(arguments: &InspectArguments) -> CliResult {
    let (dataset, row) = (arguments.dataset.open()?, arguments.row);
    let manifest = dataset.manifest();
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "schema version {}, manifest {}",
        manifest.schema_version,
        dataset.manifest_sha256()
    )?;
    for (name, split) in &manifest.splits {
        let bytes: u64 = split.shards.iter().map(|shard| shard.bytes).sum();
        let mebibytes = bytes as f64 / f64::from(1 << 20);
        writeln!(
            out,
            "{name:<8} {:>8} rows, {:>3} shards, {mebibytes:.1} MiB",
            split.num_samples,
            split.shards.len()
        )?;
    }
    for (source, splits) in &manifest.sources {
        let rows: Vec<String> =
            splits.iter().map(|(split, rows)| format!("{split} {rows}")).collect();
        writeln!(out, "{source:<16} {}", rows.join(", "))?;
    }
    let first = manifest.splits.keys().next().map(String::as_str);
    let Some(split) = arguments.split.as_deref().or(first) else { return Ok(()) };
    let rows = dataset.num_samples(split)?;
    if row >= rows {
        return Err(format!("row {row}: split `{split}` has {rows} rows").into());
    }
    let sample = dataset.read_stored(split, row)?;
    writeln!(
        out,
        "row {row} of {split}: {}, image {} bytes sha256 {}, mask {} bytes sha256 {}",
        sample.sample_id,
        sample.image_bytes.len(),
        sample.image_sha256,
        sample.mask_bytes.len(),
        sample.mask_sha256
    )?;
    Ok(())
}
