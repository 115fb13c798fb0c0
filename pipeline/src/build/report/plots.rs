//! Distributions as plots: what the page's template draws as SVG.

use serde::Serialize;

use crate::stats::{Measure, Quantiles, Stats};

/// The measures that get a histogram of their own.
pub(super) const HISTOGRAMS: [Measure; 4] =
    [Measure::LongestSide, Measure::Foreground, Measure::BoxArea, Measure::BoxFill];
/// The measures in which sources are compared.
pub(super) const COMPARED: [Measure; 3] =
    [Measure::LongestSide, Measure::Foreground, Measure::BoxFill];

const BINS: usize = 24;
/// Size of a histogram in its own units; the page scales it.
const WIDTH: f64 = 240.0;
const HEIGHT: f64 = 80.0;

/// One measure of one source.
#[derive(Serialize)]
pub(super) struct Histogram {
    key: &'static str,
    title: &'static str,
    width: f64,
    height: f64,
    /// At both ends of the axis, in the measure's unit.
    low: String,
    high: String,
    /// Where the median lies on the axis.
    median_x: f64,
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

impl Histogram {
    /// `None` where nothing was measured.
    pub(super) fn of(measure: Measure, stats: &Stats) -> Option<Self> {
        let distribution = stats.distribution(measure);
        let median = f64::from(distribution.quantile(0.5)?);
        let edges = measure.edges(distribution, BINS);
        let counts = distribution.histogram(&edges);
        let most = counts.iter().copied().max().unwrap_or(0).max(1) as f64;
        let divisor = f64::from(measure.divisor());
        let step = WIDTH / BINS as f64;
        let text = |edge: f64| plain(edge / divisor);
        let bar = |(bin, count): (usize, &u64)| {
            let height = tenth(*count as f64 / most * HEIGHT);
            Bar {
                x: tenth(bin as f64 * step),
                y: tenth(HEIGHT - height),
                width: tenth(step - 1.0),
                height,
                label: format!("{} to {}: {count}", text(edges[bin]), text(edges[bin + 1])),
            }
        };
        // Within its bin the median is placed by value.
        let bin = edges.partition_point(|edge| *edge <= median).clamp(1, BINS) - 1;
        let within = (median - edges[bin]) / (edges[bin + 1] - edges[bin]).max(f64::MIN_POSITIVE);
        Some(Self {
            key: measure.key(),
            title: measure.title(),
            width: WIDTH,
            height: HEIGHT,
            low: text(edges[0]),
            high: text(edges[BINS]),
            median_x: tenth((bin as f64 + within.clamp(0.0, 1.0)) * step),
            bars: counts.iter().enumerate().map(bar).collect(),
        })
    }
}

/// One measure over all sources.
#[derive(Serialize)]
pub(super) struct Comparison {
    title: &'static str,
    low: String,
    high: String,
    rows: Vec<BoxPlot>,
}

/// A source's quantiles as positions on the common axis, in % of its length.
#[derive(Serialize)]
struct BoxPlot {
    name: String,
    whisker: [f64; 2],
    body: [f64; 2],
    median: f64,
    label: String,
}

impl Comparison {
    /// `sources` are names and quantiles.
    pub(super) fn of(measure: Measure, sources: &[(&str, Quantiles)]) -> Self {
        let is_percentage = measure.divisor() != 1;
        let low = sources.iter().map(|(_, quantiles)| quantiles.min).fold(f64::INFINITY, f64::min);
        let high = sources.iter().map(|(_, quantiles)| quantiles.max).fold(1.0, f64::max);
        let (low, high) = if is_percentage { (0.0, 100.0) } else { (low.clamp(1.0, high), high) };
        // Sides by ratio, percentages by difference, as in the histograms.
        let place = |value: f64| {
            let part = if is_percentage {
                (value - low) / (high - low)
            } else {
                (value / low).ln() / (high / low).ln().max(f64::MIN_POSITIVE)
            };
            tenth(100.0 * part.clamp(0.0, 1.0))
        };
        let rows = sources
            .iter()
            .map(|(name, quantiles)| BoxPlot {
                name: (*name).to_owned(),
                whisker: [place(quantiles.p5), place(quantiles.p95)],
                body: [place(quantiles.p25), place(quantiles.p75)],
                median: place(quantiles.median),
                label: format!(
                    "{name}: median {}, half of the images from {} to {}, nine tenths from {} to {}",
                    plain(quantiles.median),
                    plain(quantiles.p25),
                    plain(quantiles.p75),
                    plain(quantiles.p5),
                    plain(quantiles.p95)
                ),
            })
            .collect();
        Self { title: measure.title(), low: plain(low), high: plain(high), rows }
    }
}

/// Without decimals that say nothing.
fn plain(value: f64) -> String {
    if value < 10.0 { format!("{}", tenth(value)) } else { format!("{value:.0}") }
}

fn tenth(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Geometry;

    fn stats(sides: &[u32]) -> Stats {
        let mut stats = Stats::default();
        for side in sides {
            let pixels = u64::from(*side) * u64::from(*side) / 2;
            stats.add(&Geometry {
                height: *side,
                width: *side,
                foreground_pixels: pixels,
                box_xyxy: [0, 0, side - 1, side - 1],
            });
        }
        stats
    }

    #[test]
    fn single_sizes_work_and_nothing_gives_no_plot() {
        let one = Histogram::of(Measure::LongestSide, &stats(&[400; 7])).unwrap();
        assert_eq!((one.low.as_str(), one.high.as_str()), ("400", "401"));
        assert!(one.bars[0].label.ends_with(": 7"), "{}", one.bars[0].label);
        assert!(Histogram::of(Measure::Foreground, &Stats::default()).is_none());
        let half = Histogram::of(Measure::Foreground, &stats(&[400; 7])).unwrap();
        assert_eq!((half.median_x, half.bars[12].height), (120.0, 80.0));
    }

    #[test]
    fn sources_share_an_axis() {
        let sides = |sides: &[u32]| stats(sides).summary().measures["longest_side_px"];
        let sources = [("small", sides(&[100; 3])), ("large", sides(&[100, 1000, 10_000]))];
        let plot = Comparison::of(Measure::LongestSide, &sources);
        assert_eq!((plot.low.as_str(), plot.high.as_str()), ("100", "10000"));
        assert_eq!((plot.rows[0].median, plot.rows[1].median), (0.0, 50.0));
    }
}
