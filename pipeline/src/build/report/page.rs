//! Renders `report/index.html`: one self-contained page.

use std::collections::BTreeMap;

use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, Value, context};
use serde::Serialize;

use super::super::BuildError;
use super::super::quarantine::Refusal;
use super::BuildReport;
use super::facts::RowFacts;
use super::pictures::{Picture, RepeatedPicture};

const TEMPLATE: &str = include_str!("page.html");
/// Refused pairs shown; all of them are in `quarantine.jsonl`.
const REFUSALS_SHOWN: usize = 500;
const BINS: usize = 24;
const BAR_HEIGHT: f64 = 90.0;
const BAR_WIDTH: f64 = 12.0;

#[derive(Serialize)]
struct Histogram {
    title: &'static str,
    low: String,
    high: String,
    width: f64,
    height: f64,
    bars: Vec<Bar>,
}

#[derive(Serialize)]
struct Bar {
    x: f64,
    y: f64,
    width: f64,
    height: f64,
    label: String,
}

#[derive(Serialize)]
struct Section<'a> {
    report: &'a super::SourceReport,
    rows: u64,
    refused: u64,
    complete: bool,
    histograms: Vec<Histogram>,
    pictures: Vec<Picture>,
}

/// The page as text.
pub(super) fn render(
    report: &BuildReport,
    facts: &[RowFacts],
    mut sheets: BTreeMap<String, Vec<Picture>>,
    repeated: Vec<RepeatedPicture>,
    refusals: &[Refusal],
) -> Result<String, BuildError> {
    let sections: Vec<Section<'_>> = report
        .sources
        .iter()
        .map(|source| {
            let own = || facts.iter().filter(|fact| fact.source == source.name);
            Section {
                report: source,
                rows: source.rows.values().sum(),
                refused: source.refused.values().sum(),
                complete: source.expected.is_none_or(|expected| expected == source.found),
                histograms: vec![
                    log_histogram("longest side, pixels", own().map(longest_side)),
                    percent_histogram("foreground, % of the image", own().map(foreground_percent)),
                ],
                pictures: sheets.remove(&source.name).unwrap_or_default(),
            }
        })
        .collect();
    let mut environment = Environment::new();
    // Every name comes from somebody's disk.
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    let mebibytes = format!("{:.1}", report.bytes as f64 / f64::from(1 << 20));
    let failed = |error: minijinja::Error| BuildError::Report { message: error.to_string() };
    environment.add_template("page", TEMPLATE).map_err(failed)?;
    let shown = &refusals[..refusals.len().min(REFUSALS_SHOWN)];
    environment
        .get_template("page")
        .and_then(|template| {
            template.render(context! {
                report => Value::from(Serde(report)),
                sections => Value::from(Serde(&sections)),
                repeated => Value::from(Serde(&repeated)),
                refusals => Value::from(Serde(shown)),
                mebibytes,
            })
        })
        .map_err(failed)
}

fn longest_side(fact: &RowFacts) -> f64 {
    f64::from(fact.height.max(fact.width))
}

fn foreground_percent(fact: &RowFacts) -> f64 {
    100.0 * fact.foreground_pixels as f64 / (f64::from(fact.height) * f64::from(fact.width))
}

fn percent_histogram(title: &'static str, values: impl Iterator<Item = f64>) -> Histogram {
    let values: Vec<f64> = values.collect();
    histogram(title, &values, (0.0, 100.0), |value| value, |value| value)
}

/// Bins of equal ratio: sides run from 100 to 10,000 pixels.
fn log_histogram(title: &'static str, values: impl Iterator<Item = f64>) -> Histogram {
    let values: Vec<f64> = values.collect();
    let low = values.iter().copied().fold(f64::INFINITY, f64::min).max(1.0);
    let high = values.iter().copied().fold(low, f64::max);
    // A single size still needs a bin that is not empty.
    histogram(title, &values, (low.ln(), (high + 1.0).ln()), f64::ln, f64::exp)
}

fn histogram(
    title: &'static str,
    values: &[f64],
    (low, high): (f64, f64),
    forward: fn(f64) -> f64,
    back: fn(f64) -> f64,
) -> Histogram {
    let mut counts = [0_u64; BINS];
    if low.is_finite() {
        for value in values {
            let place = (forward(*value) - low) / (high - low) * BINS as f64;
            // The cast saturates; the top value belongs to the last bin.
            counts[(place as usize).min(BINS - 1)] += 1;
        }
    }
    let edge = |bin: usize| back(low + (high - low) * bin as f64 / BINS as f64);
    let most = counts.iter().copied().max().unwrap_or(0).max(1) as f64;
    let bar = |(bin, count): (usize, &u64)| {
        let height = (*count as f64 / most * BAR_HEIGHT * 10.0).round() / 10.0;
        Bar {
            x: bin as f64 * BAR_WIDTH,
            y: BAR_HEIGHT - height,
            width: BAR_WIDTH - 1.0,
            height,
            label: format!("{:.0} to {:.0}: {count}", edge(bin), edge(bin + 1)),
        }
    };
    Histogram {
        title,
        low: format!("{:.0}", edge(0)),
        high: format!("{:.0}", edge(BINS)),
        width: BAR_WIDTH * BINS as f64,
        height: BAR_HEIGHT,
        bars: counts.iter().enumerate().map(bar).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_has_a_bin_and_single_sizes_work() {
        let percent = percent_histogram("p", [0.0, 50.0, 100.0].into_iter());
        assert_eq!(percent.bars.iter().filter(|bar| bar.height > 0.0).count(), 3);
        assert!(percent.bars[BINS - 1].label.ends_with(": 1"));
        let sides = log_histogram("s", [400.0; 7].into_iter());
        assert_eq!((sides.low.as_str(), sides.high.as_str()), ("400", "401"));
        assert!(sides.bars[0].label.ends_with(": 7"), "{}", sides.bars[0].label);
        assert!(log_histogram("none", std::iter::empty()).bars.iter().all(|bar| bar.height == 0.0));
    }
}
