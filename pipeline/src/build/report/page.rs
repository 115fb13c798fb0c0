//! Renders `report/index.html`: one self-contained page that needs no script.

use std::collections::BTreeMap;

use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, Value, context};
use serde::Serialize;

use super::super::BuildError;
use super::super::quarantine::Refusal;
use super::pictures::{Picture, RepeatedPicture};
use super::plots::{COMPARED, Comparison, HISTOGRAMS, Histogram};
use super::{BuildReport, PartReport, SourceReport};
use crate::page::STYLE;
use crate::stats::{Measure, Quantiles, Stats};

const TEMPLATE: &str = include_str!("page.html");
/// Refused pairs shown for each reason; all of them are in `quarantine.jsonl`.
const REFUSALS_SHOWN: usize = 100;

#[derive(Serialize)]
struct Section<'a> {
    /// Its place in `report.json`, which the page's numbers refer to.
    index: usize,
    anchor: String,
    report: &'a SourceReport,
    rows: u64,
    refused: u64,
    complete: bool,
    measures: Vec<MeasureRow<'a>>,
    histograms: Vec<Histogram>,
    pictures: Vec<Picture>,
}

#[derive(Serialize)]
struct MeasureRow<'a> {
    key: &'static str,
    title: &'static str,
    quantiles: &'a Quantiles,
}

/// A part that has a name.
#[derive(Serialize)]
struct PartRow<'a> {
    source: &'a str,
    /// Its place in `report.json`.
    place: String,
    report: &'a PartReport,
    complete: bool,
}

/// Refused pairs that share a kind of reason.
#[derive(Serialize)]
struct Reason<'a> {
    kind: String,
    count: usize,
    shown: &'a [&'a Refusal],
}

/// The page as text.
pub(super) fn render(
    report: &BuildReport,
    stats: &BTreeMap<String, Stats>,
    mut sheets: BTreeMap<String, Vec<Picture>>,
    repeated: Vec<RepeatedPicture>,
    refusals: &[Refusal],
) -> Result<String, BuildError> {
    let sections: Vec<Section<'_>> = report
        .sources
        .iter()
        .enumerate()
        .map(|(index, source)| {
            let pictures = sheets.remove(&source.name).unwrap_or_default();
            section(index, source, stats.get(&source.name), pictures)
        })
        .collect();
    let mut grouped: BTreeMap<&str, Vec<&Refusal>> = BTreeMap::new();
    for refusal in refusals {
        grouped.entry(refusal.kind()).or_default().push(refusal);
    }
    let reasons: Vec<Reason<'_>> = grouped
        .iter()
        .map(|(kind, refusals)| Reason {
            kind: kind.replace('_', " "),
            count: refusals.len(),
            shown: &refusals[..refusals.len().min(REFUSALS_SHOWN)],
        })
        .collect();
    let mut environment = Environment::new();
    // Every name comes from somebody's disk.
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment.add_filter("number", |number: u64| grouped_digits(number));
    let mebibytes = format!("{:.1}", report.bytes as f64 / f64::from(1 << 20));
    let failed = |error: minijinja::Error| BuildError::Report { message: error.to_string() };
    environment.add_template("page", TEMPLATE).map_err(failed)?;
    environment
        .get_template("page")
        .and_then(|template| {
            template.render(context! {
                report => Value::from(Serde(report)),
                sections => Value::from(Serde(&sections)),
                parts => Value::from(Serde(parts(report))),
                comparisons => Value::from(Serde(comparisons(report))),
                repeated => Value::from(Serde(&repeated)),
                reasons => Value::from(Serde(&reasons)),
                mebibytes,
                style => STYLE.trim_end(),
                version => env!("CARGO_PKG_VERSION"),
            })
        })
        .map_err(failed)
}

fn section<'a>(
    index: usize,
    source: &'a SourceReport,
    stats: Option<&Stats>,
    pictures: Vec<Picture>,
) -> Section<'a> {
    let measures = Measure::ALL.into_iter().filter_map(|measure| {
        let quantiles = source.stats.measures.get(measure.key())?;
        Some(MeasureRow { key: measure.key(), title: measure.title(), quantiles })
    });
    let histograms = HISTOGRAMS.into_iter().filter_map(|measure| Histogram::of(measure, stats?));
    Section {
        index,
        anchor: format!("source-{index}"),
        report: source,
        rows: source.rows.values().sum(),
        refused: source.refused.values().sum(),
        complete: source.expected.is_none_or(|expected| expected == source.found),
        measures: measures.collect(),
        histograms: histograms.collect(),
        pictures,
    }
}

fn parts(report: &BuildReport) -> Vec<PartRow<'_>> {
    let mut rows = Vec::new();
    for (index, source) in report.sources.iter().enumerate() {
        let named = source.parts.iter().enumerate().filter(|(_, part)| !part.name.is_empty());
        rows.extend(named.map(|(at, part)| PartRow {
            source: &source.name,
            place: format!("/sources/{index}/parts/{at}"),
            report: part,
            complete: part.is_complete(),
        }));
    }
    rows
}

/// One source needs no comparison.
fn comparisons(report: &BuildReport) -> Vec<Comparison> {
    if report.sources.len() < 2 {
        return Vec::new();
    }
    let of = |measure: Measure| {
        let quantiles = report.sources.iter().filter_map(|source| {
            Some((source.name.as_str(), *source.stats.measures.get(measure.key())?))
        });
        Comparison::of(measure, &quantiles.collect::<Vec<_>>())
    };
    COMPARED.into_iter().map(of).collect()
}

/// `1234567` as `1,234,567`.
fn grouped_digits(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::grouped_digits;

    #[test]
    fn digits_are_grouped_by_three() {
        assert_eq!([0, 999, 1000, 44_320].map(grouped_digits), ["0", "999", "1,000", "44,320"]);
        assert_eq!(grouped_digits(1_234_567), "1,234,567");
    }
}
