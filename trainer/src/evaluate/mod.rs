//! Evaluation with prompts made from the annotated masks, the frozen SAM and HQ-SAM side by side.
//!
//! As published: image and mask are stretched to the square input, the prompt is made from the
//! stretched mask, the 256 x 256 logits are resized to the file's resolution and cut at 0.

mod clicks;
mod gallery;
mod overlays;
mod page;
mod protocol;
mod report;
mod table;
mod truth;

use std::sync::Arc;

use dataset::augment;
use dataset::order::World;
use dataset::prompt::{NOISE_MASK_SIZE, Prompt};
use dataset::raster::Mask255;
use indicatif::ProgressBar;
use pipeline::{Dataset, EvalSample, EvalStream, StreamError};
use tch::{Device, Kind, Tensor};

pub use self::gallery::{Case, PictureWish, Pictures};
use self::gallery::{Gallery, Masks};
pub use self::overlays::write_overlays;
pub use self::page::render;
pub use self::protocol::{Protocol, UnknownProtocol};
#[cfg(test)]
pub(crate) use self::report::tests::report_of as test_report;
pub use self::report::{BothEmpty, EvalReport, ImageScore, Score, SetScore};
pub use self::table::write_table;
use self::truth::Truth;
use crate::batch::{PromptGroup, group_prompts};
use crate::checkpoint;
use crate::config::{EvalSection, HqOutput};
use crate::data_parallel::DataParallel;
use crate::feature_cache::{self, FeatureCache};
use crate::metrics::upsample_logits;
use crate::model::{DecodeOutput, ImageFeatures, Precision, SamHq};
use crate::train::TrainError;

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
    /// Pictures to make on the way.
    pub pictures: PictureWish,
    /// Bar advanced by one per image of this rank.
    pub progress: ProgressBar,
    /// Called after each batch of this rank.
    pub on_batch: &'a dyn Fn(),
    /// Whether this rank was asked to stop; the ranks agree on it before each batch. Without it an
    /// evaluation is never stopped.
    pub stop: Option<&'a dyn Fn() -> bool>,
}

/// A report, and pictures of some of its images.
pub struct Evaluation {
    /// What was found.
    pub report: EvalReport,
    /// What it looks like.
    pub pictures: Pictures,
}

/// Evaluates `split`; each image is counted once however many ranks share the work, and every
/// rank returns the same: `None` where one of them was asked to stop.
///
/// # Errors
/// A split that does not exist, a shard that cannot be read, a rank that is gone, a protocol that
/// the model cannot be given.
pub fn evaluate(
    context: &EvalContext<'_>,
    dataset: &Arc<Dataset>,
    split: &str,
    config: &EvalSection,
    threads: usize,
) -> Result<Option<Evaluation>, TrainError> {
    check_protocols(context.model, &config.protocols)?;
    // Ranks take whole batches, so that what goes through the model together, and with it every
    // bit of the result, does not depend on their number.
    let mut stream = EvalStream::in_blocks(
        Arc::clone(dataset),
        split,
        context.world,
        threads,
        config.limit,
        config.batch,
    )?;
    let split_images = dataset.num_samples(split)?;
    let rows = config.limit.map_or(split_images, |limit| limit.min(split_images));
    let mut gallery = Gallery::new(context.pictures, rows, &config.protocols);
    let mut scores = Vec::new();
    // As many as the rank with the most batches has, so that all ranks ask equally often.
    let rounds =
        rows.div_ceil(config.batch.max(1) as u64).div_ceil(context.world.world_size as u64);
    for _ in 0..rounds {
        if stop_is_agreed(context)? {
            return Ok(None);
        }
        let samples: Vec<EvalSample> =
            stream.by_ref().take(config.batch).collect::<Result<_, StreamError>>()?;
        if samples.is_empty() {
            break;
        }
        let batch = prepare(context, &samples, config.dilation_ratio);
        for &protocol in &config.protocols {
            scores.extend(score(context, &batch, protocol, config, &mut gallery));
        }
        context.progress.inc(samples.len() as u64);
        (context.on_batch)();
    }
    let images = gather(context, &scores, &config.protocols)?;
    let pictures = gallery.gather(context.data_parallel, context.device)?;
    let report = EvalReport {
        split: split.to_owned(),
        split_images,
        data: dataset.location().to_owned(),
        data_sha256: dataset.manifest_sha256(),
        hq_sha256: checkpoint::digest(&context.model.hq_parameters().into_iter().collect()),
        conditions: conditions(context.model.encoder_precision()),
        hq_output: config.hq_output,
        dilation_ratio: config.dilation_ratio,
        seed: config.seed,
        sets: report::summarise(&config.protocols, &images),
        images,
    };
    Ok(Some(Evaluation { report, pictures }))
}

fn conditions(precision: Precision) -> String {
    let published = "image and mask stretched to the input; logits resized to the file's resolution, cut \
                     at 0; mask foreground above 128";
    match precision {
        Precision::Float32 => published.to_owned(),
        Precision::BFloat16 => format!("{published}; the encoder in bfloat16"),
    }
}

/// Whether any rank was asked to stop.
fn stop_is_agreed(context: &EvalContext<'_>) -> Result<bool, TrainError> {
    let Some(stop) = context.stop else { return Ok(false) };
    let request = f64::from(u8::from(stop()));
    let requests = context.data_parallel.sum(&[request], context.device)?;
    Ok(requests.iter().any(|&request| request > 0.0))
}

/// Refuses prompts of another size than the model takes, which only mask prompts can have.
pub(crate) fn check_protocols(model: &SamHq, protocols: &[Protocol]) -> Result<(), TrainError> {
    let side = model.logits_size();
    if protocols.contains(&Protocol::CoarseMask) && side != NOISE_MASK_SIZE as i64 {
        return Err(TrainError::Config(format!(
            "protocol coarse_mask: its prompt is {NOISE_MASK_SIZE} x {NOISE_MASK_SIZE} and this \
             model takes {side} x {side}"
        )));
    }
    Ok(())
}

/// What all protocols share of a batch.
struct EvalBatch<'a> {
    samples: &'a [EvalSample],
    stretched_masks: Vec<Mask255>,
    truths: Vec<Truth>,
    features: ImageFeatures,
}

fn prepare<'a>(
    context: &EvalContext<'_>,
    samples: &'a [EvalSample],
    dilation_ratio: f64,
) -> EvalBatch<'a> {
    let side = context.img_size;
    let mut pixels = Vec::with_capacity(samples.len() * side * side * 3);
    let mut stretched_masks = Vec::with_capacity(samples.len());
    for sample in samples {
        let (image, mask) = augment::stretch(&sample.image, &sample.mask, side);
        pixels.extend_from_slice(&image.pixels);
        stretched_masks.push(mask);
    }
    let images = Tensor::from_slice(&pixels)
        .view([samples.len() as i64, side as i64, side as i64, 3])
        .to_device(context.device);
    let features = tch::no_grad(|| {
        feature_cache::encode(context.model.encoders(), context.feature_cache, &images, &pixels)
    });
    let truths = samples.iter().map(|sample| Truth::new(&sample.mask, dilation_ratio)).collect();
    EvalBatch { samples, stretched_masks, truths, features }
}

/// The scores of a batch with one protocol.
fn score(
    context: &EvalContext<'_>,
    batch: &EvalBatch<'_>,
    protocol: Protocol,
    config: &EvalSection,
    gallery: &mut Gallery,
) -> Vec<ImageScore> {
    let (prompts, replaced): (Vec<Prompt>, Vec<bool>) = batch
        .samples
        .iter()
        .zip(&batch.stretched_masks)
        .map(|(sample, mask)| {
            let prompt = protocol.prompt(mask, config.seed, &sample.sample_id);
            (prompt.prompt, prompt.is_replaced)
        })
        .unzip();
    let hq_output = match config.hq_output {
        HqOutput::Hq => DecodeOutput::Hq,
        HqOutput::Sum => DecodeOutput::Both { multimask: false },
    };
    let sam_output = DecodeOutput::Sam { multimask: false };
    let [sam_logits, hq_logits] = [sam_output, hq_output]
        .map(|output| logits(context, batch, prompts.clone(), output, protocol.further_clicks()));
    let mut scores = Vec::with_capacity(prompts.len());
    for (index, (sample, truth)) in batch.samples.iter().zip(&batch.truths).enumerate() {
        let [sam_mask, hq_mask] = [&sam_logits, &hq_logits]
            .map(|logits| predict(&logits[index], (truth.height, truth.width)));
        let (sam, hq) = (truth.compare(&sam_mask), truth.compare(&hq_mask));
        let score = ImageScore {
            row: sample.row,
            sample_id: sample.sample_id.clone(),
            source: sample.source.clone(),
            protocol,
            height: truth.height,
            width: truth.width,
            truth_pixels: truth.pixels,
            sam_pixels: sam.pixels,
            hq_pixels: hq.pixels,
            prompt_replaced: replaced[index],
            sam: sam.score,
            hq: hq.score,
        };
        gallery.offer(&score, sample, Masks { sam: &sam_mask, hq: &hq_mask });
        scores.push(score);
    }
    scores
}

/// Logits (1, 1, h, w) of each sample after `further_clicks` corrections of its prompt.
fn logits(
    context: &EvalContext<'_>,
    batch: &EvalBatch<'_>,
    mut prompts: Vec<Prompt>,
    output: DecodeOutput,
    further_clicks: usize,
) -> Vec<Tensor> {
    let mut found = decode(context, &batch.features, &prompts, output);
    let side = context.img_size;
    for _ in 0..further_clicks {
        for ((prompt, mask), logits) in prompts.iter_mut().zip(&batch.stretched_masks).zip(&found) {
            clicks::add(prompt, mask, &predict(logits, (side, side)));
        }
        found = decode(context, &batch.features, &prompts, output);
    }
    found
}

/// Logits (1, 1, h, w) of each prompt; those of one kind go through the decoder together.
fn decode(
    context: &EvalContext<'_>,
    features: &ImageFeatures,
    prompts: &[Prompt],
    output: DecodeOutput,
) -> Vec<Tensor> {
    let mut found: Vec<Tensor> = prompts.iter().map(|_| Tensor::new()).collect();
    for PromptGroup { indices, prompts } in group_prompts(prompts, context.device) {
        let rows: Vec<i64> = indices.iter().map(|&index| index as i64).collect();
        let logits = tch::no_grad(|| {
            let prompts = context.model.embed_prompts(&prompts);
            let decoded = context.model.decode(&features.select(&rows), &prompts, output);
            match (decoded.hq_logits, decoded.sam_logits) {
                (Some(hq), Some(sam)) => hq + sam,
                (hq, sam) => hq.or(sam).unwrap_or_default(),
            }
        });
        for (position, index) in (0..).zip(indices) {
            found[index] = logits.narrow(0, position, 1);
        }
    }
    found
}

/// The mask of one prompt at a size, a byte a pixel.
fn predict(logits: &Tensor, (height, width): (usize, usize)) -> Vec<u8> {
    let upsampled = upsample_logits(logits, height as i64, width as i64);
    let predicted = upsampled.gt(0.0).to_kind(Kind::Uint8).to_device(Device::Cpu);
    Vec::try_from(predicted.reshape([-1]))
        .expect("a tensor of bytes on the CPU becomes a vector of bytes")
}

/// All ranks' scores by protocol, then in row order.
fn gather(
    context: &EvalContext<'_>,
    scores: &[ImageScore],
    protocols: &[Protocol],
) -> Result<Vec<ImageScore>, TrainError> {
    let own =
        serde_json::to_vec(scores).map_err(|error| TrainError::Internal(error.to_string()))?;
    let mut images: Vec<ImageScore> = Vec::new();
    for part in context.data_parallel.all_gather_bytes(&own, context.device)? {
        let part: Vec<ImageScore> = serde_json::from_slice(&part)
            .map_err(|error| TrainError::Internal(format!("scores of another rank: {error}")))?;
        images.extend(part);
    }
    let place = |protocol| protocols.iter().position(|other| *other == protocol);
    images.sort_by_key(|image| (place(image.protocol), image.row));
    Ok(images)
}
