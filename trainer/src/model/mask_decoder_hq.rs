//! The HQ part of the mask decoder: 25 trained tensors.
//!
//! The HQ mask is a dot product of the HQ token's kernel `hyper_in` with features whose last
//! operation is linear (a convolution or a transposed one). So the kernel is multiplied into those
//! last weights first: 32 output channels become one, and the maths stays the same.

use tch::{Device, Tensor};

use super::config::EMBED_DIM;
use super::layers::{
    LAYER_NORM_2D_EPS, LayerNorm, Perceptron, Source, bchw, bhwc, gelu, shuffle_subpixels,
    upscale_weight,
};
use super::mask_decoder::PERCEPTRON_LAYERS;
use super::{StateDict, spec};
use crate::weights::WeightsError;

/// The trained tensors and the layers made of them.
pub(crate) struct MaskDecoderHq {
    parameters: Vec<(String, Tensor)>,
    hf_token: Tensor,
    hf_mlp: Perceptron,
    compress_vit_feat: Branch,
    embedding_encoder: Branch,
    maskfeature: MaskFeature,
}

impl MaskDecoderHq {
    /// Takes the tensors named by `specs` out of `state`, as leaves that require gradients.
    pub(crate) fn load(
        state: &StateDict,
        specs: &[spec::TensorSpec],
        device: Device,
    ) -> Result<Self, WeightsError> {
        let mut leaves = StateDict::new();
        for spec in specs {
            let name = spec.name.clone();
            let tensor =
                state.get(&name).ok_or(WeightsError::MissingTensor { name: name.clone() })?;
            let leaf = tensor.to_device(device).to_kind(tch::Kind::Float).detach().copy();
            leaves.insert(name, leaf.set_requires_grad(true));
        }
        let names = specs.iter().map(|spec| spec.name.clone());
        let parameters =
            names.map(|name| (leaves[&name].shallow_clone(), name)).map(|(t, n)| (n, t));
        let parameters = parameters.collect();
        let source = Source::new(&leaves, device).at("mask_decoder");
        Ok(Self {
            parameters,
            hf_token: source.tensor("hf_token.weight")?,
            hf_mlp: Perceptron::load(&source.at("hf_mlp"), PERCEPTRON_LAYERS)?,
            compress_vit_feat: Branch(ConvNormConv::load(&source.at("compress_vit_feat"))?),
            embedding_encoder: Branch(ConvNormConv::load(&source.at("embedding_encoder"))?),
            maskfeature: MaskFeature(ConvNormConv::load(&source.at("embedding_maskfeature"))?),
        })
    }

    /// The trained tensors under their full published names, sharing storage with the model.
    pub(crate) fn parameters(&self) -> &[(String, Tensor)] {
        &self.parameters
    }

    /// (1, 256)
    pub(crate) fn hf_token(&self) -> &Tensor {
        &self.hf_token
    }

    /// HQ logits (B, 1, 4 g, 4 g).
    ///
    /// * `hq_token_out`: the transformed HQ token (B, 256)
    /// * `image_tokens`: the image embeddings before the transformer (B or 1, g * g, 256)
    /// * `vit_tokens`: the intermediate embeddings (B or 1, g * g, C)
    /// * `upscaled_embedding`: SAM's, in sub-pixel order (B, 16 g * g, 32)
    pub(crate) fn forward(
        &self,
        hq_token_out: &Tensor,
        image_tokens: &Tensor,
        vit_tokens: &Tensor,
        upscaled_embedding: &Tensor,
    ) -> Tensor {
        let batch = hq_token_out.size()[0];
        let side = (image_tokens.size()[1] as f64).sqrt().round() as i64;
        let hyper_in = self.hf_mlp.forward(hq_token_out);
        let features = self.embedding_encoder.forward(image_tokens, &hyper_in)
            + self.compress_vit_feat.forward(vit_tokens, &hyper_in);
        let features = bchw(&shuffle_subpixels(&features, batch, side));
        let upscaled = shuffle_subpixels(upscaled_embedding, batch, side);
        features + self.maskfeature.forward(&upscaled, &hyper_in)
    }
}

/// Two convolutions with norm and GELU between them, under the published names `0`, `1` and `3`.
struct ConvNormConv {
    first: Tensor,
    first_bias: Tensor,
    norm: LayerNorm,
    second: Tensor,
    second_bias: Tensor,
}

impl ConvNormConv {
    fn load(source: &Source<'_>) -> Result<Self, WeightsError> {
        Ok(Self {
            first: source.tensor("0.weight")?,
            first_bias: source.tensor("0.bias")?,
            norm: LayerNorm::load(&source.at("1"), LAYER_NORM_2D_EPS)?,
            second: source.tensor("3.weight")?,
            second_bias: source.tensor("3.bias")?,
        })
    }
}

/// Two transposed convolutions (`compress_vit_feat`, `embedding_encoder`), followed by the dot
/// product with the HQ kernel.
struct Branch(ConvNormConv);

impl Branch {
    /// Tokens (B or 1, T, C) and kernels (B, 32) -> one logit a pixel in sub-pixel order
    /// (B, 4 T, 4).
    fn forward(&self, tokens: &Tensor, hyper_in: &Tensor) -> Tensor {
        let ConvNormConv { first, first_bias, norm, second, second_bias } = &self.0;
        let hidden = first.size()[1];
        let bias = first_bias.repeat([4]);
        let x = tokens.linear(&upscale_weight(first).tr(), Some(&bias));
        let x = gelu(&norm.forward(&x.view([tokens.size()[0], -1, hidden])));
        // (hidden, 4, 32) . (B, 32) -> (B, hidden, 4)
        let second = second.permute([0, 2, 3, 1]).reshape([-1, EMBED_DIM / 8]);
        let kernels = second.matmul(&hyper_in.tr()).view([hidden, 4, -1]).permute([2, 0, 1]);
        x.matmul(&kernels) + hyper_in.matmul(second_bias).view([-1, 1, 1])
    }
}

/// Two 3x3 convolutions (`embedding_maskfeature`), followed by the dot product with the HQ kernel.
struct MaskFeature(ConvNormConv);

impl MaskFeature {
    /// Upscaled embedding (B, H, W, 32) and kernels (B, 32) -> logits (B, 1, H, W).
    fn forward(&self, upscaled_bhwc: &Tensor, hyper_in: &Tensor) -> Tensor {
        let ConvNormConv { first, first_bias, norm, second, second_bias } = &self.0;
        let size = upscaled_bhwc.size();
        let (batch, height, width) = (size[0], size[1], size[2]);
        let x = bchw(upscaled_bhwc).conv2d(first, Some(first_bias), [1], [1], [1], 1);
        let x = gelu(&norm.forward(&bhwc(&x)));
        // A 3x3 convolution to one channel: nine products a pixel, then each is added to the
        // neighbour it belongs to. Scattering instead of gathering mirrors the kernel.
        let hidden = second.size()[1];
        let second = second.flip([2, 3]).permute([1, 2, 3, 0]).reshape([hidden * 9, -1]);
        let kernels = second.matmul(&hyper_in.tr()).view([hidden, 9, batch]).permute([2, 0, 1]);
        let products = x.view([batch, height * width, hidden]).matmul(&kernels).transpose(1, 2);
        let logits = products.col2im([height, width], [3, 3], [1, 1], [1, 1], [1, 1]);
        logits + hyper_in.matmul(second_bias).view([-1, 1, 1, 1])
    }
}
