//! `hqseg build`.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::{self, Write};
use std::path::Path;

use dataset::order::World;
use pipeline::build::{PAGE_FILE, QUARANTINE_FILE, SourceReport, recognise};
use pipeline::{BuildConfig, BuildOutcome, BuildReport, build_rank, load_config};

use super::{BuildArguments, CliResult};

pub(super) fn run(arguments: BuildArguments) -> CliResult {
    let mut config = match (&arguments.auto, &arguments.config) {
        (Some(raw), _) => {
            if !arguments.overrides.is_empty() {
                return Err("--set changes a configuration; --auto has none".into());
            }
            if !(0.0..=1.0).contains(&arguments.holdout) {
                return Err(format!("--holdout {} is not within 0..=1", arguments.holdout).into());
            }
            BuildConfig::new(String::new(), recognise(raw, arguments.holdout)?)
        }
        (None, Some(path)) if path.is_dir() => {
            let path = path.display();
            return Err(format!(
                "{path} is a folder, expected a build configuration (.toml); to build from the \
                 collections in it: hqseg build --auto {path} --output DATA"
            )
            .into());
        }
        (None, Some(path)) => load_config(path, &arguments.overrides)?,
        (None, None) => return Err("name a build configuration or give --auto FOLDER".into()),
    };
    if let Some(output) = arguments.output {
        config.output = output;
    }
    config.threads = arguments.threads.or(config.threads);
    config.strict |= arguments.strict;
    config.commercial_only |= arguments.commercial_only;
    let world = world(arguments.rank, arguments.world)?;
    match build_rank(&config, world, arguments.wait)? {
        BuildOutcome::Published(report) => print(&report, Path::new(&config.output))?,
        BuildOutcome::Unfinished(by_rank) => print_unfinished(world, &by_rank)?,
    }
    Ok(())
}

/// From the arguments, else from the environment of a launcher, else a single process.
fn world(rank: Option<usize>, world_size: Option<usize>) -> Result<World, Box<dyn Error>> {
    let (rank, world_size) = match world_size {
        Some(1) => (0, 1),
        Some(world_size) => (rank.ok_or("--world needs --rank, from 0")?, world_size),
        None => launch::rank_env::place_from_env()?.unwrap_or((0, 1)),
    };
    Ok(World::new(rank, world_size)?)
}

fn print_unfinished(world: World, by_rank: &BTreeMap<usize, u64>) -> io::Result<()> {
    let parts: Vec<String> =
        by_rank.iter().map(|(rank, shards)| format!("rank {rank}: {shards} shards")).collect();
    writeln!(
        io::stdout().lock(),
        "rank {} of {}: done; not finished by others: {}; the last of them publishes the data set",
        world.rank,
        world.world_size,
        parts.join(", ")
    )
}

fn print_source(out: &mut impl Write, source: &SourceReport) -> io::Result<()> {
    let rows: Vec<String> =
        source.rows.iter().map(|(split, rows)| format!("{split} {rows}")).collect();
    let refused = source.refused.values().sum::<u64>();
    write!(out, "{:<16} {:<28} refused {refused}", source.name, rows.join(", "))?;
    match source.expected {
        Some(expected) if expected != source.found => {
            writeln!(out, "  (found {}, the published collection has {expected})", source.found)?;
        }
        _ => writeln!(out)?,
    }
    let named = source.parts.iter().filter(|part| !part.name.is_empty());
    for part in named.filter(|part| !part.is_complete()) {
        let expected = part.expected.unwrap_or_default();
        writeln!(out, "    {}: found {}, published {expected}", part.name, part.found)?;
    }
    Ok(())
}

fn print(report: &BuildReport, output: &Path) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for source in &report.sources {
        print_source(&mut out, source)?;
    }
    for source in &report.left_out {
        let license = source.license.as_deref().unwrap_or("licence not stated");
        writeln!(out, "{:<16} left out: {} ({license})", source.name, source.reason)?;
    }
    let mebibytes = report.bytes as f64 / f64::from(1 << 20);
    writeln!(
        out,
        "{} rows, {} shards, {mebibytes:.1} MiB in {}",
        report.rows,
        report.shards,
        output.display()
    )?;
    if report.refused > 0 {
        writeln!(
            out,
            "{} pairs refused, see {}",
            report.refused,
            output.join(QUARANTINE_FILE).display()
        )?;
    }
    let found = &report.duplicates;
    if found.across_splits > 0 {
        writeln!(
            out,
            "{} pairs of alike images lie in different splits; {} rows of train are in them",
            found.across_splits, found.leaked
        )?;
    }
    if found.across_sources + found.within_sources > 0 {
        writeln!(
            out,
            "{} pairs of alike images lie in different sources of one split, {} in one source",
            found.across_sources, found.within_sources
        )?;
    }
    if report.up_to_date {
        writeln!(out, "up to date")
    } else {
        let rate = report.rows as f64 / report.seconds.max(1e-9);
        writeln!(
            out,
            "{:.1} s, {rate:.0} rows/s, {} shards reused; pictures in {}",
            report.seconds,
            report.reused_shards,
            output.join(PAGE_FILE).display()
        )
    }
}
