//! Building blocks shared by the encoders and the decoder.
//!
//! Activations keep channels last (`..., C`) throughout, so linear layers and
//! layer norms run on them as they are and convolutions see a
//! channels-last view of the same memory.

use std::cell::RefCell;
use std::rc::Rc;

use tch::{Device, Kind, Tensor};

use super::StateDict;
pub(crate) use super::linear::Linear;
use super::precision::Precision;
use crate::weights::WeightsError;

/// Epsilon of PyTorch's `LayerNorm`.
pub(crate) const LAYER_NORM_EPS: f64 = 1e-5;
/// Epsilon of SAM's `LayerNorm2d`.
pub(crate) const LAYER_NORM_2D_EPS: f64 = 1e-6;
/// Epsilon of PyTorch's `BatchNorm2d`.
pub(crate) const BATCH_NORM_EPS: f64 = 1e-5;

/// Tensors that compute, by the part that holds them, in the order of loading.
pub(crate) type Held = Vec<(String, Tensor)>;

/// Tensors of a state dict below a name, on the device that computes. What it hands out is held by
/// the part that loads it and noted, so that training can prove at its end that nothing changed it;
/// what a part makes of it, in memory of its own, it notes with [`Source::hold`].
pub(crate) struct Source<'a> {
    state: &'a StateDict,
    prefix: String,
    device: Device,
    precision: Precision,
    held: Rc<RefCell<Held>>,
    without_gradient: bool,
}

impl<'a> Source<'a> {
    /// Everything in `state`, for a part that computes in float32.
    pub(crate) fn new(state: &'a StateDict, device: Device) -> Self {
        let (prefix, precision) = (String::new(), Precision::Float32);
        Self { state, prefix, device, precision, held: Rc::default(), without_gradient: false }
    }

    /// The same for a part through which nothing is ever differentiated.
    pub(crate) fn without_gradient(self) -> Self {
        Self { without_gradient: true, ..self }
    }

    /// Whether weights may be kept as CPUs multiply them fastest, in layouts that know no gradient.
    pub(crate) fn may_pack(&self) -> bool {
        self.without_gradient && self.device == Device::Cpu
    }

    /// The same for a part that computes in `precision`.
    pub(crate) fn in_precision(self, precision: Precision) -> Self {
        Self { precision, ..self }
    }

    /// The tensors below `name`.
    pub(crate) fn at(&self, name: impl std::fmt::Display) -> Self {
        let prefix = format!("{}{name}.", self.prefix);
        Self { prefix, held: Rc::clone(&self.held), ..*self }
    }

    /// Notes that the part holds `tensor`, and gives it back.
    pub(crate) fn hold(&self, tensor: Tensor) -> Tensor {
        let part = self.prefix.trim_end_matches('.').to_owned();
        self.held.borrow_mut().push((part, tensor.shallow_clone()));
        tensor
    }

    /// Everything that was noted, below every name.
    pub(crate) fn held(&self) -> Held {
        self.held.take()
    }

    /// The tensor called `name` on the device, in the type of the part's activations.
    pub(crate) fn tensor(&self, name: &str) -> Result<Tensor, WeightsError> {
        Ok(self.hold(self.float(name)?.to_kind(self.precision.kind())))
    }

    /// The tensor called `name`, or nothing.
    pub(crate) fn optional(&self, name: &str) -> Option<Tensor> {
        Some(self.hold(self.optional_float(name)?.to_kind(self.precision.kind())))
    }

    /// The tensor called `name` as float32, for what is computed from it at loading.
    pub(crate) fn float(&self, name: &str) -> Result<Tensor, WeightsError> {
        self.optional_float(name)
            .ok_or_else(|| WeightsError::MissingTensor { name: format!("{}{name}", self.prefix) })
    }

    /// The tensor called `name` as float32, or nothing.
    pub(crate) fn optional_float(&self, name: &str) -> Option<Tensor> {
        let tensor = self.state.get(&format!("{}{name}", self.prefix))?;
        Some(tensor.to_device(self.device).to_kind(Kind::Float))
    }

    /// `weight`, rounded to the part's precision, in the type in which products are taken.
    pub(crate) fn for_products(&self, weight: &Tensor) -> Tensor {
        self.hold(self.rounded(weight))
    }

    /// The same where the part does not hold it.
    pub(crate) fn rounded(&self, weight: &Tensor) -> Tensor {
        let rounded = weight.to_kind(self.precision.kind());
        rounded.to_kind(self.precision.weight_kind(self.device))
    }
}

/// A convolution in the type of `weight`, back in the type of `x`.
pub(crate) fn conv2d(
    x_bchw: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    stride: i64,
    padding: i64,
    groups: i64,
) -> Tensor {
    let x = x_bchw.to_kind(weight.kind());
    x.conv2d(weight, bias, [stride], [padding], [1], groups).to_kind(x_bchw.kind())
}

/// Layer norm over the last dimension. On channels-last data it is also
/// SAM's `LayerNorm2d`.
pub(crate) struct LayerNorm {
    /// (C)
    pub(crate) weight: Tensor,
    /// (C)
    pub(crate) bias: Tensor,
    eps: f64,
}

impl LayerNorm {
    pub(crate) fn load(source: &Source<'_>, eps: f64) -> Result<Self, WeightsError> {
        Ok(Self { weight: source.tensor("weight")?, bias: source.tensor("bias")?, eps })
    }

    /// (..., C) -> (..., C)
    pub(crate) fn forward(&self, x: &Tensor) -> Tensor {
        x.layer_norm(self.weight.size(), Some(&self.weight), Some(&self.bias), self.eps, true)
    }
}

/// Linear layers with ReLU between them (SAM's `MLP`).
pub(crate) struct Perceptron {
    layers: Vec<Linear>,
}

impl Perceptron {
    pub(crate) fn load(source: &Source<'_>, num_layers: usize) -> Result<Self, WeightsError> {
        let layer = |index| Linear::load(&source.at("layers").at(index));
        Ok(Self { layers: (0..num_layers).map(layer).collect::<Result<_, _>>()? })
    }

    /// (..., inputs) -> (..., outputs)
    pub(crate) fn forward(&self, x: &Tensor) -> Tensor {
        let last = self.layers.len() - 1;
        self.layers.iter().enumerate().fold(x.shallow_clone(), |x, (index, layer)| {
            let x = layer.forward(&x);
            if index < last { x.relu() } else { x }
        })
    }
}

/// Exact (erf) GELU in the tensor's own memory; only for data without gradient.
pub(crate) fn gelu_in_place(mut x: Tensor) -> Tensor {
    x.gelu_("none")
}

/// Exact (erf) GELU.
pub(crate) fn gelu(x: &Tensor) -> Tensor {
    x.gelu("none")
}

/// (B, H, W, C) -> (B, C, H, W): the same memory, seen as channels last.
pub(crate) fn bchw(x_bhwc: &Tensor) -> Tensor {
    x_bhwc.permute([0, 3, 1, 2])
}

/// (B, C, H, W) -> (B, H, W, C): the same memory.
pub(crate) fn bhwc(x_bchw: &Tensor) -> Tensor {
    x_bchw.permute([0, 2, 3, 1])
}

/// A 2x2 convolution transposed with stride 2 writes four separate outputs for
/// each input pixel, so it is a linear layer: (inputs, outputs, 2, 2) ->
/// (inputs, 4 * outputs), the four sub-pixels row by row.
pub(crate) fn upscale_weight(weight: &Tensor) -> Tensor {
    let inputs = weight.size()[0];
    weight.permute([0, 2, 3, 1]).reshape([inputs, -1])
}

/// Image order from sub-pixel order: (B, side, side, 2, 2, 2, 2, C) flattened in any
/// way -> (B, 4 * side, 4 * side, C). The first pair of twos is the coarser.
pub(crate) fn shuffle_subpixels(x: &Tensor, batch: i64, side: i64) -> Tensor {
    x.reshape([batch, side, side, 2, 2, 2, 2, -1]).permute([0, 1, 3, 5, 2, 4, 6, 7]).reshape([
        batch,
        4 * side,
        4 * side,
        -1,
    ])
}

/// A convolution whose batch norm is folded into it.
pub(crate) struct FoldedConv {
    /// (outputs, inputs / groups, k, k), channels last in memory
    pub(crate) weight: Tensor,
    /// (outputs)
    pub(crate) bias: Tensor,
}

impl FoldedConv {
    pub(crate) fn load(source: &Source<'_>) -> Result<Self, WeightsError> {
        let bn = source.at("bn");
        let deviation = (bn.float("running_var")? + BATCH_NORM_EPS).sqrt();
        let scale = bn.float("weight")? / deviation;
        let weight = source.at("c").float("weight")? * scale.view([-1, 1, 1, 1]);
        let bias = bn.float("bias")? - bn.float("running_mean")? * scale;
        let weight = source.for_products(&bchw(&bhwc(&weight).contiguous()));
        Ok(Self { weight, bias: source.for_products(&bias) })
    }

    /// A 1x1 convolution as a linear layer over channels-last data.
    pub(crate) fn into_linear(self) -> Linear {
        let outputs = self.weight.size()[0];
        Linear::plain(self.weight.reshape([outputs, -1]), Some(self.bias))
    }

    /// A 3x3 convolution with padding 1, (B, H, W, C) -> (B, H / stride, W / stride, outputs).
    pub(crate) fn forward(&self, x_bhwc: &Tensor, stride: i64, groups: i64) -> Tensor {
        let pad = self.weight.size()[2] / 2;
        bhwc(&conv2d(&bchw(x_bhwc), &self.weight, Some(&self.bias), stride, pad, groups))
    }
}

/// The 1x1 and 3x3 convolutions with layer norms after every image encoder.
pub(crate) struct Neck {
    reduce: Linear,
    norm1: LayerNorm,
    conv: Tensor,
    norm2: LayerNorm,
}

impl Neck {
    pub(crate) fn load(source: &Source<'_>) -> Result<Self, WeightsError> {
        let weight = source.for_products(&source.float("0.weight")?);
        let reduce = Linear::plain(weight.reshape([weight.size()[0], -1]), None);
        let conv = source.for_products(&source.float("2.weight")?);
        Ok(Self {
            reduce,
            norm1: LayerNorm::load(&source.at("1"), LAYER_NORM_2D_EPS)?,
            conv: source.hold(bchw(&bhwc(&conv).contiguous())),
            norm2: LayerNorm::load(&source.at("3"), LAYER_NORM_2D_EPS)?,
        })
    }

    /// (B, H, W, C) -> (B, H, W, 256)
    pub(crate) fn forward(&self, x_bhwc: &Tensor) -> Tensor {
        let x = self.norm1.forward(&self.reduce.forward(x_bhwc));
        let x = conv2d(&bchw(&x), &self.conv, None, 1, 1, 1);
        self.norm2.forward(&bhwc(&x))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CPU: (Kind, Device) = (Kind::Float, Device::Cpu);

    #[test]
    fn folding_batch_norm_keeps_the_values() {
        let mut state = StateDict::new();
        state.insert("x.c.weight".into(), Tensor::randn([6, 4, 3, 3], CPU));
        for (name, low) in
            [("weight", 0.5), ("bias", -1.0), ("running_mean", -1.0), ("running_var", 0.1)]
        {
            state.insert(format!("x.bn.{name}"), Tensor::rand([6], CPU) + low);
        }
        let x = Tensor::randn([2, 5, 7, 4], CPU);
        let folded = FoldedConv::load(&Source::new(&state, Device::Cpu).at("x")).unwrap();
        let plain =
            bchw(&x).conv2d(&state["x.c.weight"], None::<&Tensor>, [1], [1], [1], 1).batch_norm(
                Some(&state["x.bn.weight"]),
                Some(&state["x.bn.bias"]),
                Some(&state["x.bn.running_mean"]),
                Some(&state["x.bn.running_var"]),
                false,
                0.0,
                BATCH_NORM_EPS,
                false,
            );
        let error = (bchw(&folded.forward(&x, 1, 1)) - plain).square().mean(Kind::Float);
        assert!(error.double_value(&[]) < 1e-10);
    }

    #[test]
    fn two_upscalings_in_subpixel_order_are_two_transposed_convolutions() {
        let (first, second) = (Tensor::randn([3, 4, 2, 2], CPU), Tensor::randn([4, 5, 2, 2], CPU));
        let x = Tensor::randn([2, 6, 6, 3], CPU);
        let tokens = x.matmul(&upscale_weight(&first)).view([2, 6, 6, 4, 4]);
        let ours = shuffle_subpixels(&tokens.matmul(&upscale_weight(&second)), 2, 6);
        let up =
            |x: &Tensor, w: &Tensor| x.conv_transpose2d(w, None::<&Tensor>, [2], [0], [0], 1, [1]);
        let expected = up(&up(&bchw(&x), &first), &second);
        assert!((bchw(&ours) - expected).abs().max().double_value(&[]) < 1e-5);
    }
}
