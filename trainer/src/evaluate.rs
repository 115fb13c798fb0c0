//! Evaluation with ground-truth boxes, the frozen SAM and HQ-SAM side by side.
//!
//! The published protocol: image and mask are stretched to the square input, the box is that of
//! the stretched mask, the 256 x 256 logits are resized to the file's resolution and cut at 0.

use std::sync::Arc;

use dataset::augment;
use dataset::order::World;
use dataset::prompt::box_prompt;
use indicatif::ProgressBar;
use pipeline::{Dataset, EvalSample, EvalStream, StreamError};
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use crate::config::EvalSection;
use crate::data_parallel::DataParallel;
use crate::feature_cache::{self, FeatureCache};
use crate::metrics::{boundary_iou, mask_iou, upsample_logits};
use crate::model::{DecodeOutput, PromptBatch, SamHq};
use crate::train::TrainError;

/// IoU and boundary IoU of one mask, 0..1.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Score {
    /// Intersection over union.
    pub mask_iou: f64,
    /// The same on the bands along the contours.
    pub boundary_iou: f64,
}

/// Both models on one image.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct ImageScore {
    /// Row within the split.
    pub row: u64,
    /// Which image.
    pub sample_id: String,
    /// Its set.
    pub source: String,
    /// The frozen SAM.
    pub sam: Score,
    /// HQ-SAM, HQ logits only.
    pub hq: Score,
}

/// Means over one set.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct SetScore {
    /// Name of the set; `all` for the whole split.
    pub set: String,
    /// Images in it.
    pub images: usize,
    /// The frozen SAM.
    pub sam: Score,
    /// HQ-SAM.
    pub hq: Score,
}

/// What an evaluation found.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct EvalReport {
    /// Split of the data set.
    pub split: String,
    /// Which prompt, resizing and thresholds were used.
    pub protocol: String,
    /// Dilation ratio of the boundary IoU.
    pub dilation_ratio: f64,
    /// One entry per set, then `all`.
    pub sets: Vec<SetScore>,
    /// One entry per image, in row order.
    pub images: Vec<ImageScore>,
}

/// Where and with whom an evaluation runs.
pub struct EvalContext<'a> {
    /// The model.
    pub model: &'a SamHq,
    /// Side of its square input in pixels.
    pub img_size: usize,
    /// Device of the model.
    pub device: Device,
    /// This rank's place.
    pub world: World,
    /// The ranks.
    pub data_parallel: &'a DataParallel,
    /// Features kept from an earlier evaluation of the same images. Within it they are rounded to
    /// bfloat16; without one, nothing is rounded.
    pub feature_cache: Option<&'a FeatureCache>,
    /// Bar advanced by one per image of this rank.
    pub progress: ProgressBar,
}

/// Evaluates `split`; each image is counted once however many ranks share the work, and every
/// rank returns the same report.
///
/// # Errors
/// A split that does not exist, a shard that cannot be read, a rank that is gone.
pub fn evaluate(
    context: &EvalContext<'_>,
    dataset: &Arc<Dataset>,
    split: &str,
    config: &EvalSection,
    threads: usize,
) -> Result<EvalReport, TrainError> {
    let mut stream =
        EvalStream::new(Arc::clone(dataset), split, context.world, threads, config.limit)?;
    let mut scores = Vec::new();
    loop {
        let samples: Vec<EvalSample> =
            stream.by_ref().take(config.batch).collect::<Result<_, StreamError>>()?;
        if samples.is_empty() {
            break;
        }
        scores.extend(score_batch(context, &samples, config.dilation_ratio));
        context.progress.inc(samples.len() as u64);
    }
    let images = gather(context, &scores)?;
    Ok(EvalReport {
        split: split.to_owned(),
        protocol: "ground-truth box; image and mask stretched to the input; logits resized to \
                   the file's resolution, cut at 0; mask foreground above 128"
            .into(),
        dilation_ratio: config.dilation_ratio,
        sets: summarise(&images),
        images,
    })
}

fn score_batch(
    context: &EvalContext<'_>,
    samples: &[EvalSample],
    dilation_ratio: f64,
) -> Vec<ImageScore> {
    let side = context.img_size;
    let mut pixels = Vec::with_capacity(samples.len() * side * side * 3);
    let mut boxes = Vec::with_capacity(samples.len() * 4);
    for sample in samples {
        let (image, mask) = augment::stretch(&sample.image, &sample.mask, side);
        pixels.extend_from_slice(&image.pixels);
        // A mask that vanishes when stretched has the whole image as its box.
        let whole = [0.0, 0.0, (side - 1) as f32, (side - 1) as f32];
        boxes.extend(box_prompt(&mask).unwrap_or(whole));
    }
    let batch = samples.len() as i64;
    let images = Tensor::from_slice(&pixels)
        .view([batch, side as i64, side as i64, 3])
        .to_device(context.device);
    let boxes = Tensor::from_slice(&boxes).view([batch, 4]).to_device(context.device);
    let (sam_logits, hq_logits) = tch::no_grad(|| {
        let features =
            feature_cache::encode(context.model, context.feature_cache, &images, &pixels);
        let prompts = context.model.embed_prompts(&PromptBatch::Boxes(boxes));
        let sam = DecodeOutput::Sam { multimask: false };
        let sam_logits = context.model.decode(&features, &prompts, sam).sam_logits;
        let hq_logits = context.model.decode(&features, &prompts, DecodeOutput::Hq).hq_logits;
        (sam_logits, hq_logits)
    });
    samples
        .iter()
        .enumerate()
        .map(|(index, sample)| ImageScore {
            row: sample.row,
            sample_id: sample.sample_id.clone(),
            source: sample.source.clone(),
            sam: score(sam_logits.as_ref(), index, sample, dilation_ratio),
            hq: score(hq_logits.as_ref(), index, sample, dilation_ratio),
        })
        .collect()
}

fn score(logits: Option<&Tensor>, index: usize, sample: &EvalSample, ratio: f64) -> Score {
    let Some(logits) = logits else { return Score::default() };
    let (height, width) = (sample.mask.height, sample.mask.width);
    let logits = logits.narrow(0, index as i64, 1);
    let predicted = upsample_logits(&logits, height as i64, width as i64).gt(0.0);
    let predicted: Vec<u8> =
        Vec::try_from(predicted.to_kind(Kind::Uint8).to_device(Device::Cpu).reshape([-1]))
            .unwrap_or_default();
    let truth: Vec<u8> = sample
        .mask
        .pixels
        .iter()
        .map(|&value| u8::from(value > dataset::raster::MASK_THRESHOLD))
        .collect();
    Score {
        mask_iou: mask_iou(&predicted, &truth).value,
        boundary_iou: boundary_iou(&predicted, &truth, height, width, ratio).value,
    }
}

/// All ranks' scores in row order.
fn gather(context: &EvalContext<'_>, scores: &[ImageScore]) -> Result<Vec<ImageScore>, TrainError> {
    let own =
        serde_json::to_vec(scores).map_err(|error| TrainError::Internal(error.to_string()))?;
    let mut images: Vec<ImageScore> = Vec::new();
    for part in context.data_parallel.all_gather_bytes(&own, context.device)? {
        let part: Vec<ImageScore> = serde_json::from_slice(&part)
            .map_err(|error| TrainError::Internal(format!("scores of another rank: {error}")))?;
        images.extend(part);
    }
    images.sort_by_key(|image| image.row);
    Ok(images)
}

/// Means per set, in the order of their names, and over all images.
fn summarise(images: &[ImageScore]) -> Vec<SetScore> {
    let mut names: Vec<&str> = images.iter().map(|image| image.source.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let mut sets: Vec<SetScore> = names
        .iter()
        .map(|name| mean(name, images.iter().filter(|image| image.source == *name)))
        .collect();
    sets.push(mean("all", images.iter()));
    sets
}

fn mean<'a>(set: &str, images: impl Iterator<Item = &'a ImageScore>) -> SetScore {
    let mut total =
        SetScore { set: set.to_owned(), images: 0, sam: Score::default(), hq: Score::default() };
    for image in images {
        total.images += 1;
        for (sum, score) in [(&mut total.sam, image.sam), (&mut total.hq, image.hq)] {
            sum.mask_iou += score.mask_iou;
            sum.boundary_iou += score.boundary_iou;
        }
    }
    let count = total.images.max(1) as f64;
    for sum in [&mut total.sam, &mut total.hq] {
        sum.mask_iou /= count;
        sum.boundary_iou /= count;
    }
    total
}

impl EvalReport {
    /// The whole split.
    #[must_use]
    pub fn all(&self) -> Option<&SetScore> {
        self.sets.last()
    }

    /// A Markdown table in points (percent), as published tables are.
    #[must_use]
    pub fn table(&self) -> String {
        let mut lines = vec![
            "| set | images | SAM mIoU | HQ-SAM mIoU | gain | SAM mBIoU | HQ-SAM mBIoU | gain |"
                .to_owned(),
            "|---|---:|---:|---:|---:|---:|---:|---:|".to_owned(),
        ];
        for set in &self.sets {
            let points = |value: f64| 100.0 * value;
            lines.push(format!(
                "| {} | {} | {:.2} | {:.2} | {:+.2} | {:.2} | {:.2} | {:+.2} |",
                set.set,
                set.images,
                points(set.sam.mask_iou),
                points(set.hq.mask_iou),
                points(set.hq.mask_iou - set.sam.mask_iou),
                points(set.sam.boundary_iou),
                points(set.hq.boundary_iou),
                points(set.hq.boundary_iou - set.sam.boundary_iou),
            ));
        }
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(row: u64, source: &str, hq: f64) -> ImageScore {
        ImageScore {
            row,
            sample_id: format!("{source}/{row}"),
            source: source.into(),
            sam: Score { mask_iou: 0.5, boundary_iou: 0.25 },
            hq: Score { mask_iou: hq, boundary_iou: hq / 2.0 },
        }
    }

    #[test]
    fn means_are_per_set_and_over_images() {
        let images = [image(0, "b", 0.75), image(1, "a", 1.0), image(2, "b", 0.25)];
        let sets = summarise(&images);
        assert_eq!(sets.iter().map(|s| s.set.as_str()).collect::<Vec<_>>(), ["a", "b", "all"]);
        assert_eq!(sets[1].hq.mask_iou, 0.5);
        assert_eq!(sets[2].images, 3);
        assert!((sets[2].hq.mask_iou - 2.0 / 3.0).abs() < 1e-12);
    }
}
