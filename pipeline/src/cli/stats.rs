//! `hqseg stats`: sizes and areas of a data set, as quantiles and small histograms.

use std::io::{self, Write};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use pipeline::stats::{Distribution, Measure, Stats, stats};

use super::CliResult;
use super::arguments::DatasetArguments;

/// Bins of a terminal histogram, one character each.
const BINS: usize = 24;
/// From an eighth of a line to a whole one.
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

#[derive(Args)]
pub(super) struct StatsArguments {
    #[command(flatten)]
    dataset: DatasetArguments,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &StatsArguments) -> CliResult {
    let dataset = arguments.dataset.open()?;
    let shards = dataset.manifest().splits.values().map(|split| split.shards.len() as u64).sum();
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} shards, {eta} left");
    let progress =
        ProgressBar::new(shards).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let found = stats(&dataset, || progress.inc(1))?;
    progress.finish_and_clear();
    let mut out = io::stdout().lock();
    if arguments.json {
        let mut json = found.to_json();
        json["dataset"] = arguments.dataset.location.as_str().into();
        json["manifest_sha256"] = dataset.manifest_sha256().into();
        serde_json::to_writer_pretty(&mut out, &json)?;
        writeln!(out)?;
        return Ok(());
    }
    for (split, sources) in &found.splits {
        let all = found.whole_split(split);
        writeln!(out, "split {split}: {} rows", all.rows())?;
        for (source, stats) in sources {
            print(&mut out, source, stats)?;
        }
        if sources.len() > 1 {
            print(&mut out, "all sources", &all)?;
        }
        writeln!(out)?;
    }
    Ok(())
}

fn print(out: &mut impl Write, name: &str, stats: &Stats) -> io::Result<()> {
    writeln!(out, "\n  {name}, {} rows", stats.rows())?;
    writeln!(
        out,
        "  {:<24}{:>8}{:>8}{:>8}{:>8}{:>8}{:>8}{:>8}{:>9}  from min to max (%: 0 to 100)",
        "", "min", "5 %", "25 %", "median", "75 %", "95 %", "max", "mean"
    )?;
    for measure in Measure::ALL {
        let distribution = stats.distribution(measure);
        let Some(quantiles) = distribution.quantiles(measure.divisor()) else { continue };
        write!(out, "  {:<24}", measure.title())?;
        for value in [
            quantiles.min,
            quantiles.p5,
            quantiles.p25,
            quantiles.median,
            quantiles.p75,
            quantiles.p95,
            quantiles.max,
        ] {
            write!(out, "{value:>8}")?;
        }
        writeln!(out, "{:>9}  {}", quantiles.mean, bars(measure, distribution))?;
    }
    Ok(())
}

/// One character a bin; a bin that holds anything shows at least the lowest bar.
fn bars(measure: Measure, distribution: &Distribution) -> String {
    let bins = distribution.histogram(&measure.edges(distribution, BINS));
    let most = bins.iter().copied().max().unwrap_or(0).max(1);
    let bar = |count: &u64| match count {
        0 => ' ',
        count => BARS[(count * BARS.len() as u64).div_ceil(most) as usize - 1],
    };
    bins.iter().map(bar).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_for_every_bin_that_holds_something() {
        let mut distribution = Distribution::default();
        (0..80).for_each(|_| distribution.add(0));
        distribution.add(500);
        distribution.add(1000);
        let text = bars(Measure::Foreground, &distribution);
        assert_eq!(text.chars().count(), BINS);
        assert_eq!(text.replace(' ', ""), "█▁▁");
        assert!(text.starts_with('█') && text.ends_with('▁'));
    }
}
