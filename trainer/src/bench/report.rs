//! What `hqsam bench` finds.

use serde::Serialize;

use super::shares::PartShare;

/// Medians over the measured steps of one rank.
#[derive(Clone, Debug, Serialize)]
pub struct BenchReport {
    /// `Cpu` or `Cuda(index)`.
    pub device: String,
    /// Threads of libtorch.
    pub threads: i32,
    /// `float32` or `bfloat16`, of the frozen encoder.
    pub precision: &'static str,
    /// Whether the device multiplies bfloat16 itself.
    pub native_bf16: bool,
    /// Whether the frozen weights are random, for lack of a checkpoint.
    pub random_weights: bool,
    /// Samples a step and rank.
    pub batch: usize,
    /// Steps measured.
    pub steps: usize,
    /// Ranks.
    pub world_size: usize,
    /// Seconds of a step and of its parts.
    pub seconds: PartSeconds,
    /// Of all ranks, from the whole step without the data, which threads prepare meanwhile; from
    /// `seconds.ahead` where that was measured.
    pub images_per_second: f64,
    /// The all-reduce of a step without waiting for slower ranks; `None` for a single process.
    pub all_reduce: Option<AllReduce>,
    /// 1e9 operations of the encoder for an image as published, with linear layers over padded
    /// windows.
    pub published_gflop_per_image: f64,
    /// The encoder beside the matrix products it consists of, as computed here.
    pub encoder: PartShare,
    /// The same of the prompt encoder and the decoder: `seconds.decoder`.
    pub decoder: PartShare,
    /// The same of what follows the logits: the products are those of the backward pass, the time,
    /// `seconds.loss_backward`, is also that of the loss.
    pub backward: PartShare,
    /// Loss of the first and the last step: real training steps on the same samples.
    pub losses: [f64; 2],
    /// Most memory that the process ever held, in MiB.
    pub peak_resident_mib: u64,
    /// Most memory in tensors on the GPU at once, in MiB; null on a CPU, where it is resident memory.
    pub peak_device_mib: Option<u64>,
    /// Most memory that libtorch took from the GPU, unused parts included, in MiB.
    pub peak_device_reserved_mib: Option<u64>,
}

/// Seconds of a step.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct PartSeconds {
    /// From the batch in memory to the update.
    pub step: f64,
    /// Scaling, cropping and prompts of one batch on one thread, outside of the step.
    pub data: f64,
    /// Frozen encoder.
    pub encoder: f64,
    /// Prompt encoder and HQ decoder.
    pub decoder: f64,
    /// Loss and backward.
    pub loss_backward: f64,
    /// All-reduce and what the host reads of it.
    pub all_reduce: f64,
    /// Adam.
    pub optimizer: f64,
    /// A step as in training, without a wait after each part, the next batch being encoded beside it;
    /// null where `train.encode_ahead` is off.
    pub ahead: Option<f64>,
}

/// The one all-reduce of a step, measured alone.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct AllReduce {
    /// Size of the flat bucket.
    pub bytes: usize,
    /// Median seconds: packing, agreeing on the call, summing, unpacking.
    pub seconds: f64,
}
