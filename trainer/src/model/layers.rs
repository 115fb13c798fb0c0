//! Building blocks shared by the encoders and the decoder.
//!
//! Activations keep channels last (`..., C`) throughout, so linear layers and
//! layer norms run on them as they are and convolutions see a
//! channels-last view of the same memory.

use tch::{Device, Kind, Tensor};

use super::StateDict;
use crate::weights::WeightsError;

/// Epsilon of PyTorch's `LayerNorm`.
pub(crate) const LAYER_NORM_EPS: f64 = 1e-5;
/// Epsilon of SAM's `LayerNorm2d`.
pub(crate) const LAYER_NORM_2D_EPS: f64 = 1e-6;
/// Epsilon of PyTorch's `BatchNorm2d`.
pub(crate) const BATCH_NORM_EPS: f64 = 1e-5;

/// Tensors of a state dict below a name, on the device that computes.
pub(crate) struct Source<'a> {
    state: &'a StateDict,
    prefix: String,
    device: Device,
}

impl<'a> Source<'a> {
    /// Everything in `state`.
    pub(crate) fn new(state: &'a StateDict, device: Device) -> Self {
        Self { state, prefix: String::new(), device }
    }

    /// The tensors below `name`.
    pub(crate) fn at(&self, name: impl std::fmt::Display) -> Self {
        let prefix = format!("{}{name}.", self.prefix);
        Self { state: self.state, prefix, device: self.device }
    }

    /// The tensor called `name`, as float32 on the device.
    pub(crate) fn tensor(&self, name: &str) -> Result<Tensor, WeightsError> {
        let name = format!("{}{name}", self.prefix);
        self.optional_full(&name).ok_or(WeightsError::MissingTensor { name })
    }

    /// The tensor called `name`, or nothing.
    pub(crate) fn optional(&self, name: &str) -> Option<Tensor> {
        self.optional_full(&format!("{}{name}", self.prefix))
    }

    fn optional_full(&self, name: &str) -> Option<Tensor> {
        self.state.get(name).map(|tensor| tensor.to_device(self.device).to_kind(Kind::Float))
    }
}

/// `x @ weight.T + bias` over the last dimension.
pub(crate) struct Linear {
    /// (outputs, inputs)
    pub(crate) weight: Tensor,
    /// (outputs)
    pub(crate) bias: Option<Tensor>,
}

impl Linear {
    pub(crate) fn load(source: &Source<'_>) -> Result<Self, WeightsError> {
        Ok(Self { weight: source.tensor("weight")?, bias: source.optional("bias") })
    }

    /// (..., inputs) -> (..., outputs)
    pub(crate) fn forward(&self, x: &Tensor) -> Tensor {
        x.linear(&self.weight, self.bias.as_ref())
    }
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
        let deviation = (bn.tensor("running_var")? + BATCH_NORM_EPS).sqrt();
        let scale = bn.tensor("weight")? / deviation;
        let weight = source.at("c").tensor("weight")? * scale.view([-1, 1, 1, 1]);
        let bias = bn.tensor("bias")? - bn.tensor("running_mean")? * scale;
        Ok(Self { weight: bchw(&bhwc(&weight).contiguous()), bias })
    }

    /// A 1x1 convolution as a linear layer over channels-last data.
    pub(crate) fn into_linear(self) -> Linear {
        let outputs = self.weight.size()[0];
        Linear { weight: self.weight.reshape([outputs, -1]), bias: Some(self.bias) }
    }

    /// A 3x3 convolution with padding 1, (B, H, W, C) -> (B, H / stride, W / stride, outputs).
    pub(crate) fn forward(&self, x_bhwc: &Tensor, stride: i64, groups: i64) -> Tensor {
        let x = bchw(x_bhwc);
        let pad = self.weight.size()[2] / 2;
        bhwc(&x.conv2d(&self.weight, Some(&self.bias), [stride], [pad], [1], groups))
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
        let weight = source.tensor("0.weight")?;
        let reduce = Linear { weight: weight.reshape([weight.size()[0], -1]), bias: None };
        Ok(Self {
            reduce,
            norm1: LayerNorm::load(&source.at("1"), LAYER_NORM_2D_EPS)?,
            conv: bchw(&bhwc(&source.tensor("2.weight")?).contiguous()),
            norm2: LayerNorm::load(&source.at("3"), LAYER_NORM_2D_EPS)?,
        })
    }

    /// (B, H, W, C) -> (B, H, W, 256)
    pub(crate) fn forward(&self, x_bhwc: &Tensor) -> Tensor {
        let x = self.norm1.forward(&self.reduce.forward(x_bhwc));
        let x = bchw(&x).conv2d(&self.conv, None::<&Tensor>, [1], [1], [1], 1);
        self.norm2.forward(&bhwc(&x))
    }
}

/// Cuts tokens into square windows, padding right and below with zeros:
/// (B, H, W, C) -> (B * windows, window * window, C), and the padded height and width.
pub(crate) fn window_partition(x_bhwc: &Tensor, window: i64) -> (Tensor, (i64, i64)) {
    let size = x_bhwc.size();
    let (batch, height, width, channels) = (size[0], size[1], size[2], size[3]);
    let pad = |side: i64| (window - side % window) % window;
    let (padded_h, padded_w) = (height + pad(height), width + pad(width));
    let x = if (padded_h, padded_w) == (height, width) {
        x_bhwc.shallow_clone()
    } else {
        x_bhwc.constant_pad_nd([0, 0, 0, pad(width), 0, pad(height)])
    };
    let windows = x
        .view([batch, padded_h / window, window, padded_w / window, window, channels])
        .transpose(2, 3)
        .reshape([-1, window * window, channels]);
    (windows, (padded_h, padded_w))
}

/// The inverse of [`window_partition`], padding cut off:
/// (B * windows, window * window, C) -> (B, H, W, C).
pub(crate) fn window_unpartition(
    windows: &Tensor,
    window: i64,
    padded: (i64, i64),
    (height, width): (i64, i64),
) -> Tensor {
    let channels = windows.size()[2];
    windows
        .view([-1, padded.0 / window, padded.1 / window, window, window, channels])
        .transpose(2, 3)
        .reshape([-1, padded.0, padded.1, channels])
        .narrow(1, 0, height)
        .narrow(2, 0, width)
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
    fn windows_come_back() {
        let x = Tensor::randn([2, 9, 5, 3], CPU);
        let (windows, padded) = window_partition(&x, 4);
        assert_eq!((windows.size(), padded), (vec![12, 16, 3], (12, 8)));
        assert_eq!(window_unpartition(&windows, 4, padded, (9, 5)), x);
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
