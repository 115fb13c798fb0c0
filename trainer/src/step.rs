//! One optimiser step, read top to bottom.

use std::time::{Duration, Instant};

use tch::{Device, Tensor};

use crate::batch::{group_prompts, to_tensors};
use crate::data_parallel::{DataParallel, StepSums};
use crate::feature_cache::{self, FeatureCache};
use crate::loss::{LossConfig, point_sampled_loss};
use crate::loss_points::draw_loss_points;
use crate::model::{DecodeOutput, SamHq};
use crate::optim::Adam;
use crate::train::TrainError;

/// What a step needs besides its batch; lives as long as the training.
pub struct StepContext {
    /// Frozen SAM with its trainable HQ parameters.
    pub model: SamHq,
    /// Adam over the HQ parameters.
    pub optimizer: Adam,
    /// The trainable tensors in their published order.
    pub hq_parameters: Vec<(String, Tensor)>,
    /// The ranks.
    pub data_parallel: DataParallel,
    /// Features of samples that come again.
    pub feature_cache: Option<FeatureCache>,
    /// Sampling of the loss points.
    pub loss: LossConfig,
    /// Where the tensors live.
    pub device: Device,
    /// Seed of the run.
    pub seed: u64,
    /// Samples per step over all ranks.
    pub global_batch: usize,
    /// Samples that go through the model at once.
    pub micro_batch: usize,
}

/// What a step reports; the sums are over the global batch.
#[derive(Clone, Copy, Debug)]
pub struct StepReport {
    /// Mean BCE over the sampled points and masks.
    pub loss_mask: f64,
    /// Mean dice loss.
    pub loss_dice: f64,
    /// L2 norm of the averaged gradient.
    pub grad_norm: f64,
    /// Some rank was asked to stop after this step.
    pub stop: bool,
    /// Seconds of this rank in the frozen encoder.
    pub encode: Duration,
    /// Seconds of this rank in decoder, loss and backward.
    pub decode: Duration,
}

/// Forward and backward over this rank's part of the global batch, one all-reduce, one update.
///
/// # Errors
/// A loss or gradient that is not finite (no rank updates, the samples are named), or a rank that
/// is gone.
pub fn train_step(
    context: &mut StepContext,
    batch: &pipeline::Batch,
    lr: f64,
    stop_requested: bool,
) -> Result<StepReport, TrainError> {
    for (_, parameter) in &mut context.hq_parameters {
        parameter.zero_grad();
    }
    let mut sums =
        StepSums { stop_requests: f64::from(u8::from(stop_requested)), ..Default::default() };
    let (mut encode, mut decode) = (Duration::ZERO, Duration::ZERO);
    let local = batch.sample_ids.len();
    for from in (0..local).step_by(context.micro_batch) {
        let to = (from + context.micro_batch).min(local);
        let micro = forward_backward(context, batch, from, to);
        sums.loss_mask += micro.loss_mask;
        sums.loss_dice += micro.loss_dice;
        encode += micro.encode;
        decode += micro.decode;
    }

    let mut gradients = gradients(&context.hq_parameters);
    let sums = context.data_parallel.all_reduce(&mut gradients, sums)?;
    let grad_norm = global_norm(&gradients);
    if !(grad_norm.is_finite() && sums.loss_mask.is_finite() && sums.loss_dice.is_finite()) {
        return Err(TrainError::NotFinite {
            epoch: batch.epoch,
            step: batch.step,
            loss_mask: sums.loss_mask,
            loss_dice: sums.loss_dice,
            grad_norm,
            sample_ids: batch.sample_ids.clone(),
        });
    }

    context.optimizer.step(&gradients, lr);
    Ok(StepReport {
        loss_mask: sums.loss_mask,
        loss_dice: sums.loss_dice,
        grad_norm,
        stop: sums.stop_requests > 0.0,
        encode,
        decode,
    })
}

struct MicroBatch {
    loss_mask: f64,
    loss_dice: f64,
    encode: Duration,
    decode: Duration,
}

/// Samples `from..to`: encode once, decode once per prompt kind, backward into `.grad`.
fn forward_backward(
    context: &StepContext,
    batch: &pipeline::Batch,
    from: usize,
    to: usize,
) -> MicroBatch {
    let started = Instant::now();
    let tensors = to_tensors(batch, from, to, context.device);
    let image_bytes = batch.height * batch.width * 3;
    let pixels = &batch.images[from * image_bytes..to * image_bytes];
    let cache = context.feature_cache.as_ref();
    let features = feature_cache::encode(&context.model, cache, &tensors.images_u8_bhwc, pixels);
    let encode = started.elapsed();

    let mut micro = MicroBatch { loss_mask: 0.0, loss_dice: 0.0, encode, decode: Duration::ZERO };
    // Prompts of each sample; they share its features and its target.
    let each = batch.prompts.len() / batch.sample_ids.len().max(1);
    for group in group_prompts(&batch.prompts[from * each..to * each], context.device) {
        let samples: Vec<usize> = group.indices.iter().map(|&index| index / each).collect();
        let indices: Vec<i64> = samples.iter().map(|&sample| sample as i64).collect();
        let sample_ids: Vec<&str> =
            samples.iter().map(|&sample| batch.sample_ids[from + sample].as_str()).collect();
        let points =
            draw_loss_points(&context.loss, context.seed, batch.epoch, &sample_ids, context.device);
        let prompts = context.model.embed_prompts(&group.prompts);
        let decoded = context.model.decode(&features.select(&indices), &prompts, DecodeOutput::Hq);
        let Some(hq_logits) = decoded.hq_logits else { continue };
        let index = Tensor::from_slice(&indices).to_device(context.device);
        let target = tensors.target_b1hw.index_select(0, &index);
        let loss = point_sampled_loss(&hq_logits, &target, &points, &context.loss);
        // Each group's loss is a mean over its masks: weight it so that the sum over groups,
        // micro-batches and ranks is the mean over the global batch.
        let weight = indices.len() as f64 / (context.global_batch * each) as f64;
        let loss_mask = loss.loss_mask * weight;
        let loss_dice = loss.loss_dice * weight;
        (&loss_mask + &loss_dice).backward();
        micro.loss_mask += loss_mask.double_value(&[]);
        micro.loss_dice += loss_dice.double_value(&[]);
    }
    micro.decode = started.elapsed().saturating_sub(encode);
    micro
}

/// Gradients in the order of the parameters; zeros where a rank had no sample.
fn gradients(parameters: &[(String, Tensor)]) -> Vec<Tensor> {
    parameters
        .iter()
        .map(|(_, parameter)| {
            let gradient = parameter.grad();
            if gradient.defined() { gradient.detach() } else { parameter.zeros_like().detach() }
        })
        .collect()
}

fn global_norm(gradients: &[Tensor]) -> f64 {
    let squares: Vec<Tensor> = gradients.iter().map(|g| g.norm().square()).collect();
    Tensor::stack(&squares, 0).sum(tch::Kind::Double).sqrt().double_value(&[])
}
