//! Renders an evaluation as one self-contained page that needs no script.

use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, Value, context};
use pipeline::page::{STYLE, jpeg_uri};
use serde::Serialize;

use super::gallery::{Case, Pictures};
use super::protocol::Protocol;
use super::report::{EvalReport, ImageScore, Score, SetScore};

const TEMPLATE: &str = include_str!("page.html");
const BINS: usize = 20;
/// Size of a histogram in its own units; the page scales it.
const WIDTH: f64 = 240.0;
const HEIGHT: f64 = 80.0;

#[derive(Serialize)]
struct Section<'a> {
    anchor: String,
    protocol: Protocol,
    description: String,
    histograms: [Histogram; 2],
    cases: Vec<ShownCase<'a>>,
}

#[derive(Serialize)]
struct ShownCase<'a> {
    score: &'a ImageScore,
    width: u32,
    height: u32,
    uri: String,
}

/// One metric of both models.
#[derive(Serialize)]
struct Histogram {
    title: &'static str,
    width: f64,
    height: f64,
    bars: Vec<Bar>,
}

#[derive(Serialize)]
struct Bar {
    model: &'static str,
    x: f64,
    y: f64,
    width: f64,
    height: f64,
    label: String,
}

/// The page as text. `origin` says in a line which model was evaluated on what.
///
/// # Errors
/// A template that does not fit the report, which is a bug.
pub fn render(
    report: &EvalReport,
    pictures: &Pictures,
    origin: &str,
) -> Result<String, minijinja::Error> {
    let whole: Vec<&SetScore> = report.whole_split().collect();
    let sections: Vec<Section<'_>> = whole
        .iter()
        .enumerate()
        .map(|(index, all)| section(index, all.protocol, report, &pictures.worst))
        .collect();
    let mut environment = Environment::new();
    // Names come from somebody's disk.
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment.add_filter("percent", |share: f64| format!("{:.2}", 100.0 * share));
    environment.add_filter("gain", |share: f64| format!("{:+.2}", 100.0 * share));
    environment.add_template("page", TEMPLATE)?;
    environment.get_template("page")?.render(context! {
        report => Value::from(Serde(Header::of(report))),
        whole => Value::from(Serde(&whole)),
        sections => Value::from(Serde(&sections)),
        notes => report.notes(),
        origin,
        style => STYLE,
        version => env!("CARGO_PKG_VERSION"),
    })
}

/// The report without its images, which the page does not list.
#[derive(Serialize)]
struct Header<'a> {
    split: &'a str,
    conditions: &'a str,
    hq_output: String,
    dilation_ratio: f64,
    seed: u64,
    sets: &'a [SetScore],
}

impl<'a> Header<'a> {
    fn of(report: &'a EvalReport) -> Self {
        Self {
            split: &report.split,
            conditions: &report.conditions,
            hq_output: report.hq_output.to_string(),
            dilation_ratio: report.dilation_ratio,
            seed: report.seed,
            sets: &report.sets,
        }
    }
}

fn section<'a>(
    index: usize,
    protocol: Protocol,
    report: &EvalReport,
    worst: &'a [Case],
) -> Section<'a> {
    let images: Vec<&ImageScore> =
        report.images.iter().filter(|image| image.protocol == protocol).collect();
    let cases = worst.iter().filter(|case| case.score.protocol == protocol);
    Section {
        anchor: format!("prompt-{index}"),
        protocol,
        description: protocol.description(),
        histograms: [
            histogram("mask IoU", &images, |score| score.mask_iou),
            histogram("boundary IoU", &images, |score| score.boundary_iou),
        ],
        cases: cases
            .map(|case| ShownCase {
                score: &case.score,
                width: case.width,
                height: case.height,
                uri: jpeg_uri(&case.jpeg()),
            })
            .collect(),
    }
}

/// The scores of one of the two models.
type ModelScore = fn(&ImageScore) -> Score;

fn histogram(title: &'static str, images: &[&ImageScore], metric: fn(&Score) -> f64) -> Histogram {
    let counts = |model: ModelScore| {
        let mut counts = [0_u32; BINS];
        for image in images {
            let bin = (metric(&model(image)) * BINS as f64) as usize;
            counts[bin.min(BINS - 1)] += 1;
        }
        counts
    };
    let models: [(_, _, ModelScore); 2] =
        [("sam", "SAM", |image| image.sam), ("hq", "HQ-SAM", |image| image.hq)];
    let counted = models.map(|(model, name, score)| (model, name, counts(score)));
    let most = counted.iter().flat_map(|(_, _, counts)| counts).copied().max().unwrap_or(0).max(1);
    let step = WIDTH / BINS as f64;
    // Two bars and a gap for each bin.
    let bar_width = (step - 2.0) / 2.0;
    let mut bars = Vec::new();
    for (place, (model, name, counts)) in counted.into_iter().enumerate() {
        for (bin, count) in counts.into_iter().enumerate().filter(|(_, count)| *count > 0) {
            let height = f64::from(count) / f64::from(most) * HEIGHT;
            let (low, high) = (100 * bin / BINS, 100 * (bin + 1) / BINS);
            bars.push(Bar {
                model,
                x: bin as f64 * step + 1.0 + place as f64 * bar_width,
                y: HEIGHT - height,
                width: bar_width,
                height,
                label: format!("{name}, {low} to {high} %: {count}"),
            });
        }
    }
    Histogram { title, width: WIDTH, height: HEIGHT, bars }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::report::tests::{image, report};

    #[test]
    fn names_are_escaped_and_every_image_is_in_its_bin() {
        let images: Vec<ImageScore> = [0.0, 0.5, 0.999, 1.0]
            .iter()
            .enumerate()
            .map(|(row, iou)| image(row as u64, "<b>set</b>", *iou))
            .collect();
        let report = report(images);
        let plot = histogram("mask IoU", &report.images.iter().collect::<Vec<_>>(), |s| s.mask_iou);
        let labels: Vec<&str> = plot.bars.iter().map(|bar| bar.label.as_str()).collect();
        let hq = ["HQ-SAM, 0 to 5 %: 1", "HQ-SAM, 50 to 55 %: 1", "HQ-SAM, 95 to 100 %: 2"];
        assert_eq!(labels[0], "SAM, 50 to 55 %: 4");
        assert_eq!(labels[1..], hq);
        let case = Case {
            score: report.images[0].clone(),
            height: 2,
            width: 6,
            jpeg_base64: "/9j/".into(),
        };
        let pictures = Pictures { worst: vec![case], fixed: Vec::new() };
        let page = render(&report, &pictures, "model.pth on data").unwrap();
        assert!(!page.contains("<b>set") && page.contains("&lt;b&gt;set"), "{page}");
        assert!(page.contains("data:image/jpeg;base64,/9j/") && page.contains("62.48"), "{page}");
    }
}
