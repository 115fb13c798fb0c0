//! The curve of a run as a picture: loss per step and, where evaluations were made, mean IoU.

use std::ops::Range;
use std::path::Path;

use plotters::coord::types::{RangedCoordf64, RangedCoordu64};
use plotters::prelude::*;
use serde::Deserialize;

use crate::evaluate::Score;

type Plot<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordu64, RangedCoordf64>>;

#[derive(Deserialize)]
struct StepPoint {
    global_step: u64,
    loss: f64,
    loss_mask: f64,
    loss_dice: f64,
}

#[derive(Deserialize)]
struct EvalPoint {
    global_step: u64,
    #[serde(default)]
    split: String,
    #[serde(default)]
    protocol: String,
    sam: Score,
    hq: Score,
}

/// Values by step.
type Points = Vec<(u64, f64)>;

/// Steps over which the drawn loss is averaged.
const WINDOW: usize = 25;

/// Draws `steps.jsonl` and `eval.jsonl` of the run in `folder` into `curve.svg`.
///
/// # Errors
/// A log that cannot be read, or a folder that cannot be written; one line.
pub fn draw(folder: &Path) -> Result<(), String> {
    let steps: Vec<StepPoint> = read_lines(&folder.join("steps.jsonl"))?;
    let mut evaluations: Vec<EvalPoint> =
        read_lines(&folder.join("eval.jsonl")).unwrap_or_default();
    // One curve: the first split with the first protocol.
    let name = |point: &EvalPoint| (point.split.clone(), point.protocol.clone());
    if let Some(first) = evaluations.first().map(name) {
        evaluations.retain(|point| name(point) == first);
    }
    let Some(last) = steps.last().map(|step| step.global_step) else { return Ok(()) };
    let path = folder.join("curve.svg");
    let root = SVGBackend::new(&path, (900, 640)).into_drawing_area();
    let text = |error: DrawingAreaErrorKind<std::io::Error>| format!("{}: {error}", path.display());
    root.fill(&WHITE).map_err(text)?;
    let (upper, lower) = root.split_vertically(320);

    let losses: [(&str, RGBColor, Vec<f64>); 3] = [
        ("loss", BLACK, steps.iter().map(|step| step.loss).collect()),
        ("BCE", BLUE, steps.iter().map(|step| step.loss_mask).collect()),
        ("dice", RED, steps.iter().map(|step| step.loss_dice).collect()),
    ];
    let top = steps.iter().map(|step| step.loss).fold(0.0, f64::max);
    let title = format!("training loss, mean of {WINDOW} steps");
    let mut plot = frame(&upper, &title, last, 0.0..top).map_err(text)?;
    for (name, color, values) in losses {
        let points = smoothed(&steps, &values);
        line(&mut plot, name, color, points, 0).map_err(text)?;
    }
    legend(&mut plot, SeriesLabelPosition::UpperRight).map_err(text)?;

    let percent = |name, color, value: fn(&EvalPoint) -> f64| {
        (name, color, evaluations.iter().map(|e| (e.global_step, 100.0 * value(e))).collect())
    };
    let series: [(&str, RGBColor, Points); 4] = [
        percent("SAM mIoU", RGBColor(150, 150, 150), |e| e.sam.mask_iou),
        percent("HQ-SAM mIoU", BLUE, |e| e.hq.mask_iou),
        percent("SAM boundary mIoU", RGBColor(210, 170, 130), |e| e.sam.boundary_iou),
        percent("HQ-SAM boundary mIoU", RED, |e| e.hq.boundary_iou),
    ];
    let mut plot = frame(&lower, "held-out images, %", last, 0.0..100.0).map_err(text)?;
    for (name, color, points) in series {
        line(&mut plot, name, color, points, 3).map_err(text)?;
    }
    // Scores worth drawing are in the upper half.
    legend(&mut plot, SeriesLabelPosition::LowerRight).map_err(text)?;
    root.present().map_err(text)
}

fn read_lines<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<Vec<T>, String> {
    let problem = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    std::fs::read_to_string(path)
        .map_err(|error| problem(&error))?
        .lines()
        .map(|line| serde_json::from_str(line).map_err(|error| problem(&error)))
        .collect()
}

fn smoothed(steps: &[StepPoint], values: &[f64]) -> Points {
    steps
        .iter()
        .enumerate()
        .map(|(index, step)| {
            let window = &values[index.saturating_sub(WINDOW - 1)..=index];
            (step.global_step, window.iter().sum::<f64>() / window.len() as f64)
        })
        .collect()
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Drawn<T> = Result<T, DrawingAreaErrorKind<std::io::Error>>;

fn frame<'a, 'b>(
    area: &'a Area<'b>,
    title: &str,
    last: u64,
    range: Range<f64>,
) -> Drawn<Plot<'a, 'b>> {
    let mut plot = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 18))
        .margin(10)
        .x_label_area_size(28)
        .y_label_area_size(44)
        .build_cartesian_2d(0..last, range)?;
    plot.configure_mesh().x_desc("step").light_line_style(WHITE).draw()?;
    Ok(plot)
}

fn line<'a, 'b: 'a>(
    plot: &mut Plot<'a, 'b>,
    name: &str,
    color: RGBColor,
    points: Points,
    point_size: u32,
) -> Drawn<()> {
    let style = color.stroke_width(2).filled();
    plot.draw_series(LineSeries::new(points, style).point_size(point_size))?
        .label(name)
        .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color.stroke_width(2)));
    Ok(())
}

fn legend<'a, 'b: 'a>(plot: &mut Plot<'a, 'b>, position: SeriesLabelPosition) -> Drawn<()> {
    plot.configure_series_labels()
        .position(position)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.2))
        .draw()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_becomes_a_picture() {
        let folder = tempfile::tempdir().unwrap();
        let step = r#"{"global_step":1,"loss":1.5,"loss_mask":0.7,"loss_dice":0.8}"#;
        std::fs::write(folder.path().join("steps.jsonl"), format!("{step}\n")).unwrap();
        let eval = r#"{"global_step":1,"sam":{"mask_iou":0.5,"boundary_iou":0.2},
            "hq":{"mask_iou":0.6,"boundary_iou":0.3}}"#
            .replace('\n', " ");
        std::fs::write(folder.path().join("eval.jsonl"), format!("{eval}\n")).unwrap();
        draw(folder.path()).unwrap();
        let picture = std::fs::read_to_string(folder.path().join("curve.svg")).unwrap();
        assert!(picture.contains("HQ-SAM boundary mIoU"));
    }
}
