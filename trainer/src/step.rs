//! One optimiser step, read top to bottom.

use launch::rank_env::Heartbeat;
use tch::{Device, Kind, Tensor};

use crate::data_parallel::{DataParallel, STEP_SUMS};
use crate::frozen_stage::{EncodedPart, FrozenStage};
use crate::loss::{LossConfig, point_sampled_loss};
use crate::loss_points::draw_loss_points;
use crate::model::{DecodeOutput, SamHq};
use crate::optim::Adam;
use crate::part_clock::{PartClock, StepTimes};
use crate::sample_digest::SampleDigest;
use crate::train::{Ahead, TrainError};
use crate::upload::upload;

/// What a step needs besides its batch; lives as long as the training.
pub struct StepContext {
    /// Frozen SAM with its trainable HQ parameters.
    pub model: SamHq,
    /// Adam over the HQ parameters.
    pub optimizer: Adam,
    /// The trainable tensors in their published order.
    pub hq_parameters: Vec<(String, Tensor)>,
    /// What of a step is frozen.
    pub frozen: FrozenStage,
    /// The thread that does it for the next batch meanwhile; each batch must have been submitted to
    /// it. Without one a step does it itself.
    pub ahead: Option<Ahead>,
    /// Sampling of the loss points.
    pub loss: LossConfig,
    /// Where the tensors live.
    pub device: Device,
    /// Seed of the run.
    pub seed: u64,
    /// Samples per step over all ranks.
    pub global_batch: usize,
    /// Beaten for each micro-batch.
    pub heartbeat: Heartbeat,
    /// Wait for a GPU after each part of a step, so that its time can be told; costs speed.
    pub synchronize_parts: bool,
    /// The ranks. The last field, since the others notice when it is dropped: a rank that ends with an
    /// error has then ended in all but this, and is the first to be gone.
    pub data_parallel: DataParallel,
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
    /// Which samples all ranks together trained on.
    pub samples: SampleDigest,
    /// Time of this rank in each part.
    pub times: StepTimes,
}

/// Forward and backward over this rank's part of the global batch, one all-reduce, one update.
///
/// The host reads the device once, for the losses and the gradient's norm, which decide whether
/// the update is made. With several ranks it waits before that as well: for the other hosts, since the
/// ranks compare each collective on the CPU before they run it, and for the all-reduce itself.
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
    let mut clock = PartClock::start(context.device, context.synchronize_parts);
    let mut times = StepTimes::default();
    let sums = Tensor::zeros([STEP_SUMS as i64], (Kind::Double, context.device));
    for (from, to) in context.frozen.parts_of(batch) {
        context.heartbeat.live();
        let part = match &mut context.ahead {
            Some(ahead) => ahead.next_part()?,
            None => context.frozen.encode(batch, from, to, &mut clock, &mut times),
        };
        // With a thread ahead, what the host waited for it.
        times.encode += clock.lap();
        let losses = forward_backward(context, batch, &part, &mut clock, &mut times);
        let _ = sums.narrow(0, 0, 2).g_add_(&losses);
    }
    let _ = sums.narrow(0, 2, 1).fill_(i64::from(stop_requested));
    let lanes = upload(&SampleDigest::lanes(&batch.sample_ids), context.device);
    sums.narrow(0, 3, SampleDigest::LANES).copy_(&lanes);

    let mut gradients = gradients(&context.hq_parameters);
    let sums = context.data_parallel.all_reduce(&mut gradients, &sums)?;
    let read = Tensor::cat(&[sums, global_norm(&gradients).view([1])], 0);
    let read: Vec<f64> = Vec::try_from(read.to_device(Device::Cpu)).unwrap_or_default();
    times.all_reduce = clock.lap();
    let &[loss_mask, loss_dice, stop_requests, ref lanes @ .., grad_norm] = read.as_slice() else {
        return Err(TrainError::Internal(format!("only {} values of a step", read.len())));
    };
    let samples = SampleDigest::of_sums(lanes);
    if !(grad_norm.is_finite() && loss_mask.is_finite() && loss_dice.is_finite()) {
        return Err(TrainError::NotFinite {
            epoch: batch.epoch,
            step: batch.step,
            loss_mask,
            loss_dice,
            grad_norm,
            sample_ids: batch.sample_ids.clone(),
        });
    }

    context.optimizer.step(&gradients, lr);
    times.optimizer = clock.lap();
    let stop = stop_requests > 0.0;
    Ok(StepReport { loss_mask, loss_dice, grad_norm, stop, samples, times })
}

/// Decodes a part once per prompt kind, backward into `.grad`. The mask and the dice loss (2), on the
/// device.
fn forward_backward(
    context: &StepContext,
    batch: &pipeline::Batch,
    part: &EncodedPart,
    clock: &mut PartClock,
    times: &mut StepTimes,
) -> Tensor {
    let mut losses = Tensor::zeros([2], (Kind::Double, context.device));
    let each = batch.prompts.len() / batch.sample_ids.len().max(1);
    for group in &part.groups {
        let sample_ids: Vec<&str> =
            group.samples.iter().map(|&sample| batch.sample_ids[sample].as_str()).collect();
        let points =
            draw_loss_points(&context.loss, context.seed, batch.epoch, &sample_ids, context.device);
        let features = part.features.select(&group.indices);
        let decoded = context.model.decode(&features, &group.prompts, DecodeOutput::Hq);
        times.decode += clock.lap();
        let Some(hq_logits) = decoded.hq_logits else { continue };
        let target = part.target_b1hw.index_select(0, &upload(&group.indices, context.device));
        let loss = point_sampled_loss(&hq_logits, &target, &points, &context.loss);
        // Each group's loss is a mean over its masks: weight it so that the sum over groups,
        // micro-batches and ranks is the mean over the global batch.
        let weight = group.indices.len() as f64 / (context.global_batch * each) as f64;
        let loss_mask = loss.loss_mask * weight;
        let loss_dice = loss.loss_dice * weight;
        (&loss_mask + &loss_dice).backward();
        let _ = losses.g_add_(&Tensor::stack(&[loss_mask.detach(), loss_dice.detach()], 0));
        times.loss_backward += clock.lap();
    }
    losses
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

/// L2 norm of all gradients, float64 on the device.
fn global_norm(gradients: &[Tensor]) -> Tensor {
    let squares: Vec<Tensor> = gradients.iter().map(|g| g.norm().square()).collect();
    Tensor::stack(&squares, 0).sum(Kind::Double).sqrt()
}
