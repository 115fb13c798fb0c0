//! `hqseg inspect` and `hqseg verify`.

use std::io::{self, Write};

use pipeline::Dataset;
use pipeline::stream;

use super::CliResult;

/// Prints the manifest's counts and one row.
pub(super) fn inspect(location: &str, row: u64) -> CliResult {
    let dataset = Dataset::open(location)?;
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
    let Some((split, info)) = manifest.splits.iter().next() else { return Ok(()) };
    if row >= info.num_samples {
        return Err(format!("row {row}: split `{split}` has {} rows", info.num_samples).into());
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

/// Re-reads every shard.
pub(super) fn verify(location: &str) -> CliResult {
    let dataset = Dataset::open(location)?;
    let mut shards = 0;
    let damaged = stream::verify(&dataset, |shard| {
        shards += 1;
        tracing::info!(shard = shard.path, bytes = shard.bytes, "read");
    });
    let mut out = io::stdout().lock();
    for shard in &damaged {
        writeln!(out, "{}: {}", shard.path, shard.message)?;
    }
    if !damaged.is_empty() {
        let text = format!(
            "{location}: {} of {shards} shards are damaged: build the data set again",
            damaged.len()
        );
        return Err(text.into());
    }
    writeln!(out, "{shards} shards as the manifest says")?;
    Ok(())
}
