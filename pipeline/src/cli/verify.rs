//! `hqseg verify`.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use pipeline::manifest::ShardInfo;
use pipeline::stream::{DamagedShard, VerifyOptions, verify};

use super::CliResult;
use super::arguments::{DatasetArguments, threads};

/// Damaged rows printed for each shard.
const ROWS_SHOWN: usize = 20;

#[derive(Args)]
pub(super) struct VerifyArguments {
    #[command(flatten)]
    dataset: DatasetArguments,
    /// Also decode the image and mask of every row and compare them with the columns.
    #[arg(long)]
    decode: bool,
    /// Note whole shards in this file and skip those that it names: a verification that was
    /// stopped goes on where it was.
    #[arg(long, value_name = "FILE")]
    resume: Option<PathBuf>,
    /// Decoding threads (default: one per core).
    #[arg(long, value_parser = threads)]
    threads: Option<usize>,
}

pub(super) fn run(arguments: &VerifyArguments) -> CliResult {
    let location = &arguments.dataset.location;
    let dataset = arguments.dataset.open()?;
    let mut record = match &arguments.resume {
        Some(path) => Some(Record::open(path, &dataset.manifest_sha256(), arguments.decode)?),
        None => None,
    };
    let known = record.as_ref().map_or_else(BTreeSet::new, |record| record.known.clone());
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    let options = VerifyOptions {
        decode: arguments.decode,
        threads: arguments.threads.unwrap_or_else(cores),
    };
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} rows, {per_sec}, {eta} left");
    let progress = ProgressBar::new(dataset.manifest().num_samples())
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let (mut shards, mut unwritten) = (0, None);
    let damaged = verify(
        &dataset,
        &options,
        |shard| !known.contains(&entry(shard)),
        |shard, whole| {
            shards += 1;
            if progress.is_hidden() {
                tracing::info!(shard = shard.path, bytes = shard.bytes, whole, "read");
            }
            if let Some(record) = record.as_mut().filter(|_| whole) {
                unwritten = unwritten.take().or(record.note(shard).err());
            }
        },
        |rows| progress.inc(rows),
    )?;
    progress.finish_and_clear();
    let mut out = io::stdout().lock();
    damaged.iter().try_for_each(|shard| print(&mut out, shard))?;
    if let Some(error) = unwritten {
        return Err(error.into());
    }
    if !damaged.is_empty() {
        let text = format!(
            "{location}: {} of {shards} shards are damaged: build the data set again",
            damaged.len()
        );
        return Err(text.into());
    }
    if !known.is_empty() {
        writeln!(out, "{} shards found whole before", known.len())?;
    }
    let rows = if arguments.decode { ", every row decodes to what its columns say" } else { "" };
    writeln!(out, "{shards} shards as the manifest says{rows}")?;
    Ok(())
}

fn print(out: &mut impl Write, shard: &DamagedShard) -> io::Result<()> {
    let message = shard.message.as_deref().unwrap_or("the file is whole, rows are not");
    writeln!(out, "{}: {message}", shard.path)?;
    for row in shard.rows.iter().take(ROWS_SHOWN) {
        writeln!(out, "  {row}")?;
    }
    match shard.rows.len().saturating_sub(ROWS_SHOWN) {
        0 => Ok(()),
        more => writeln!(out, "  and {more} more rows"),
    }
}

/// The shards that earlier runs found whole, in the form of `sha256sum`.
struct Record {
    path: PathBuf,
    file: File,
    known: BTreeSet<String>,
}

impl Record {
    fn open(path: &Path, manifest_sha256: &str, decode: bool) -> Result<Self, String> {
        let failed = |error: io::Error| format!("{}: {error}", path.display());
        let mode = if decode { "decoded" } else { "read" };
        let head = format!("# hqseg verify: {mode}, manifest {manifest_sha256}");
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(failed(error)),
        };
        let mut lines = text.lines();
        if lines.next().is_some_and(|first| first != head) {
            return Err(format!(
                "{}: is of another data set or of a verification with other options: delete it or \
                 name another file",
                path.display()
            ));
        }
        // A line that was cut by a kill names no shard.
        let known = lines.map(str::to_owned).collect();
        let mut file = OpenOptions::new().create(true).append(true).open(path).map_err(failed)?;
        if text.is_empty() {
            writeln!(file, "{head}").map_err(failed)?;
        } else if !text.ends_with('\n') {
            writeln!(file).map_err(failed)?;
        }
        Ok(Self { path: path.to_owned(), file, known })
    }

    fn note(&mut self, shard: &ShardInfo) -> Result<(), String> {
        writeln!(self.file, "{}", entry(shard))
            .map_err(|error| format!("{}: {error}", self.path.display()))
    }
}

fn entry(shard: &ShardInfo) -> String {
    format!("{}  {}", shard.sha256, shard.path)
}
