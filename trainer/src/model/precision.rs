//! The number type in which the frozen image encoder computes.

use tch::{Device, Kind};

/// Version of the encoder's arithmetic: goes up with every change by which the same image, weights and
/// settings get other bits, since features that a cache keeps are found by it.
pub const ENCODER_ARITHMETIC: u32 = 1;

/// Number type of the frozen encoder's activations and weights. Its features are float32 either
/// way, as are the decoder, the loss and everything trained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// float32, as published.
    #[default]
    Float32,
    /// bfloat16 activations and weights; products are summed in float32.
    BFloat16,
}

impl Precision {
    /// The type of the activations.
    pub fn kind(self) -> Kind {
        match self {
            Self::Float32 => Kind::Float,
            Self::BFloat16 => Kind::BFloat16,
        }
    }

    /// The type in which the weights of linear layers and convolutions are kept. Where the
    /// processor cannot multiply bfloat16 itself, weights that were rounded to bfloat16 are kept in
    /// float32 and activations are widened for each product: the values are the same but for the
    /// order of sums, and libtorch's own fallback is about ten times slower.
    pub(crate) fn weight_kind(self, device: Device) -> Kind {
        match self {
            Self::BFloat16 if !multiplies_bf16(device) => Kind::Float,
            other => other.kind(),
        }
    }
}

/// Whether matrix products of bfloat16 values have instructions of their own on `device`.
pub fn multiplies_bf16(device: Device) -> bool {
    match device {
        // Every processor with AMX has AVX-512 BF16 too.
        Device::Cpu => std::arch::is_x86_feature_detected!("avx512bf16"),
        _ => true,
    }
}
