//! How near the parts of a step come to the matrix products they consist of.

use dataset::prompt::Prompt;
use serde::Serialize;
use tch::{Device, Kind, Tensor};

use super::report::PartSeconds;
use crate::model::{
    EncoderConfig, Precision, PromptParts, computed_flop, decoder_flop, multiplies_bf16,
};
use crate::part_clock::PartClock;

/// Side of the matrices whose product is the floor, and how often it is taken.
const FLOOR_SIDE: i64 = 3072;
const FLOOR_REPETITIONS: usize = 4;

/// What share of the possible speed a part of the step reaches.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct PartShare {
    /// 1e9 operations an image of the matrix products and convolutions.
    pub gflop_per_image: f64,
    /// 1e9 of these operations a second.
    pub gflop_per_second: f64,
    /// The same of one large matrix product in the type in which the part's products are taken.
    pub floor_gflop_per_second: f64,
    /// The part's speed as a share of that.
    pub share_of_floor: f64,
}

impl PartShare {
    fn new(gflop_per_image: f64, images: usize, seconds: f64, floor: f64) -> Self {
        let gflop_per_second = gflop_per_image * images as f64 / seconds;
        let share_of_floor = gflop_per_second / floor;
        Self { gflop_per_image, gflop_per_second, floor_gflop_per_second: floor, share_of_floor }
    }
}

/// Of each part with products of its own.
pub(super) struct Shares {
    pub(super) encoder: PartShare,
    pub(super) decoder: PartShare,
    pub(super) backward: PartShare,
}

impl Shares {
    /// Takes the large products; `prompts` are those of `images` images, `seconds` a step's.
    pub(super) fn measure(
        precision: Precision,
        encoder: &EncoderConfig,
        prompts: &[Prompt],
        images: usize,
        seconds: &PartSeconds,
        device: Device,
    ) -> Self {
        let decoder_floor = floor_gflop_per_second(Precision::Float32, device);
        let encoder_floor = match precision {
            Precision::Float32 => decoder_floor,
            Precision::BFloat16 => floor_gflop_per_second(precision, device),
        };
        let flop: Vec<_> =
            prompts.iter().map(|prompt| decoder_flop(encoder, parts(prompt))).collect();
        let per_image = |flop: f64| flop / images as f64 / 1e9;
        let forward = per_image(flop.iter().map(|flop| flop.forward).sum());
        let backward = per_image(flop.iter().map(|flop| flop.backward).sum());
        let encode = computed_flop(encoder) / 1e9;
        Self {
            encoder: PartShare::new(encode, images, seconds.encoder, encoder_floor),
            decoder: PartShare::new(forward, images, seconds.decoder, decoder_floor),
            backward: PartShare::new(backward, images, seconds.loss_backward, decoder_floor),
        }
    }
}

fn parts(prompt: &Prompt) -> PromptParts {
    match prompt {
        Prompt::Box(_) => PromptParts { has_box: true, ..PromptParts::default() },
        Prompt::Points { coords, .. } => {
            PromptParts { points: coords.len() as i64, ..PromptParts::default() }
        }
        Prompt::NoiseMask(_) => PromptParts { has_mask: true, ..PromptParts::default() },
    }
}

/// 1e9 operations a second of a large matrix product in the type in which the encoder multiplies.
fn floor_gflop_per_second(precision: Precision, device: Device) -> f64 {
    let kind = match precision {
        Precision::BFloat16 if multiplies_bf16(device) => Kind::BFloat16,
        _ => Kind::Float,
    };
    let matrix = || Tensor::randn([FLOOR_SIDE, FLOOR_SIDE], (Kind::Float, device)).to_kind(kind);
    let (left, right) = (matrix(), matrix());
    let mut clock = PartClock::start(device, true);
    let fastest = (0..=FLOOR_REPETITIONS).map(|_| {
        let _ = left.matmul(&right);
        clock.lap()
    });
    let seconds = fastest.min().map_or(f64::NAN, |fastest| fastest.as_secs_f64());
    2.0 * (FLOOR_SIDE as f64).powi(3) / seconds / 1e9
}
