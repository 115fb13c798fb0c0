//! Linear layers.

use c10d::packed::PackedWeight;
use tch::{Kind, Tensor};

use super::layers::Source;
use crate::weights::WeightsError;

/// Rows of the products that weights are laid out for: the tokens of an image of 1024 x 1024.
const ROWS: i64 = 4096;

/// Values of a float32 weight from which on it is laid out. Below, MKL is about as fast, and of the two it
/// rounds less: sums of products over 768 inputs are 1.4 times as far off with oneDNN (2e-7 of values
/// around 0.5), over 3,072 twice.
const SMALLEST_FLOAT32: usize = 1 << 18;

/// `x @ weight.T + bias` over the last dimension.
pub(crate) struct Linear {
    weight: Weight,
    /// (outputs)
    pub(crate) bias: Option<Tensor>,
}

/// (outputs, inputs)
enum Weight {
    Plain(Tensor),
    /// On a CPU, for layers without a gradient.
    Packed(PackedWeight),
}

impl Linear {
    pub(crate) fn load(source: &Source<'_>) -> Result<Self, WeightsError> {
        let weight = source.rounded(&source.float("weight")?);
        let bias = source.optional_float("bias").map(|bias| source.for_products(&bias));
        let is_small = weight.kind() == Kind::Float && weight.numel() < SMALLEST_FLOAT32;
        let may_pack = source.may_pack() && !is_small;
        let packed = may_pack.then(|| PackedWeight::new(&weight, ROWS).ok()).flatten();
        let weight = match packed {
            Some(packed) => {
                let _ = source.hold(packed.memory().shallow_clone());
                Weight::Packed(packed)
            }
            // Where oneDNN has no layout of its own, libtorch's layers do what they can.
            None => Weight::Plain(source.hold(weight)),
        };
        Ok(Self { weight, bias })
    }

    /// A layer of `weight` (outputs, inputs) as it is.
    pub(crate) fn plain(weight: Tensor, bias: Option<Tensor>) -> Self {
        Self { weight: Weight::Plain(weight), bias }
    }

    /// (..., inputs) -> (..., outputs), in the type of `x`.
    ///
    /// # Panics
    /// `x` has another number of channels.
    pub(crate) fn forward(&self, x: &Tensor) -> Tensor {
        let bias = self.bias.as_ref();
        let product = match &self.weight {
            Weight::Plain(weight) => x.to_kind(weight.kind()).linear(weight, bias),
            Weight::Packed(weight) => {
                let product = weight.linear(&x.to_kind(weight.kind()), bias);
                product.expect("oneDNN multiplies with what it has laid out")
            }
        };
        product.to_kind(x.kind())
    }
}
