//! SAM's own part of the mask decoder. Frozen.

use tch::Tensor;

use super::config::{EMBED_DIM, NUM_SAM_MASK_TOKENS};
use super::layers::{LAYER_NORM_2D_EPS, LayerNorm, Perceptron, Source, gelu, upscale_weight};
use super::two_way_transformer::TwoWayTransformer;
use crate::weights::WeightsError;

/// Linear layers of every perceptron of the decoder.
pub(crate) const PERCEPTRON_LAYERS: usize = 3;

/// Tokens, transformer, upscaling and heads of SAM.
pub(crate) struct MaskDecoder {
    /// The IoU token and the mask tokens: (5, 256)
    output_tokens: Tensor,
    transformer: TwoWayTransformer,
    upscaling: Upscaling,
    hypernetworks: Vec<Perceptron>,
    iou_prediction_head: Perceptron,
}

impl MaskDecoder {
    /// `image_pe` is (1, g * g, 256).
    pub(crate) fn load(source: &Source<'_>, image_pe: &Tensor) -> Result<Self, WeightsError> {
        let tokens = [source.tensor("iou_token.weight")?, source.tensor("mask_tokens.weight")?];
        let mlp = |index: i64| {
            let source = source.at("output_hypernetworks_mlps").at(index);
            Perceptron::load(&source, PERCEPTRON_LAYERS)
        };
        let iou_head = source.at("iou_prediction_head");
        Ok(Self {
            output_tokens: source.hold(Tensor::cat(&tokens, 0)),
            transformer: TwoWayTransformer::load(&source.at("transformer"), image_pe)?,
            upscaling: Upscaling::load(&source.at("output_upscaling"))?,
            hypernetworks: (0..NUM_SAM_MASK_TOKENS).map(mlp).collect::<Result<_, _>>()?,
            iou_prediction_head: Perceptron::load(&iou_head, PERCEPTRON_LAYERS)?,
        })
    }

    /// Runs the transformer with `hf_token` (1, 256), if any, after SAM's tokens. Image tokens
    /// (B or 1, g * g, 256), prompt tokens (B, N, 256) -> output tokens (B, 5 or 6, 256), HQ last,
    /// and image tokens (B, g * g, 256).
    pub(crate) fn transform(
        &self,
        image_tokens: &Tensor,
        sparse_prompt_embeddings: &Tensor,
        hf_token: Option<&Tensor>,
    ) -> (Tensor, Tensor) {
        let batch = sparse_prompt_embeddings.size()[0];
        let output_tokens = match hf_token {
            Some(hf_token) => Tensor::cat(&[&self.output_tokens, hf_token], 0),
            None => self.output_tokens.shallow_clone(),
        };
        let num_output_tokens = output_tokens.size()[0];
        let output_tokens = output_tokens.unsqueeze(0).expand([batch, -1, -1], false);
        let tokens = Tensor::cat(&[&output_tokens, sparse_prompt_embeddings], 1);
        let (tokens, image_tokens) = self.transformer.forward(image_tokens, &tokens);
        (tokens.narrow(1, 0, num_output_tokens), image_tokens)
    }

    /// Image tokens (B, g * g, 256) -> upscaled embedding in sub-pixel order (B, 16 g * g, 32).
    pub(crate) fn upscale(&self, image_tokens: &Tensor) -> Tensor {
        self.upscaling.forward(image_tokens)
    }

    /// Output tokens (B, 5 or 6, 256) and the upscaled embedding (B, 16 g * g, 32) -> SAM's masks in
    /// sub-pixel order (B, 16 g * g, 4).
    pub(crate) fn masks(&self, tokens: &Tensor, upscaled_embedding: &Tensor) -> Tensor {
        let hyper_in = self.hypernetworks.iter().zip(1..);
        let hyper_in: Vec<Tensor> =
            hyper_in.map(|(mlp, token)| mlp.forward(&tokens.select(1, token))).collect();
        upscaled_embedding.matmul(&Tensor::stack(&hyper_in, 2))
    }

    /// Output tokens (B, 5 or 6, 256) -> predicted IoU of each of SAM's masks (B, 4).
    pub(crate) fn predict_iou(&self, tokens: &Tensor) -> Tensor {
        self.iou_prediction_head.forward(&tokens.select(1, 0))
    }
}

/// SAM's `output_upscaling`: every output pixel depends on one token, so the pixels stay in
/// sub-pixel order until the end.
struct Upscaling {
    first: Tensor,
    first_bias: Tensor,
    norm: LayerNorm,
    second: Tensor,
    second_bias: Tensor,
}

impl Upscaling {
    fn load(source: &Source<'_>) -> Result<Self, WeightsError> {
        Ok(Self {
            first: source.hold(upscale_weight(&source.tensor("0.weight")?)),
            first_bias: source.hold(source.tensor("0.bias")?.repeat([4])),
            norm: LayerNorm::load(&source.at("1"), LAYER_NORM_2D_EPS)?,
            second: source.hold(upscale_weight(&source.tensor("3.weight")?)),
            second_bias: source.hold(source.tensor("3.bias")?.repeat([4])),
        })
    }

    /// (B, T, 256) -> (B, 16 T, 32)
    fn forward(&self, tokens: &Tensor) -> Tensor {
        let batch = tokens.size()[0];
        let x = tokens.linear(&self.first.tr(), Some(&self.first_bias));
        let x = gelu(&self.norm.forward(&x.view([batch, -1, EMBED_DIM / 4])));
        let x = x.linear(&self.second.tr(), Some(&self.second_bias));
        gelu(&x).view([batch, -1, EMBED_DIM / 8])
    }
}
