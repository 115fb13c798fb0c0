//! The decoder's transformer: tokens attend to the image and the image to the tokens.
//! Its weights are frozen, but gradients flow through it to the HQ token.

use tch::Tensor;

use super::config::{DECODER_DEPTH, DECODER_HEADS};
use super::layers::{LAYER_NORM_EPS, LayerNorm, Linear, Source};
use crate::weights::WeightsError;

/// Two layers and a last look of the tokens at the image.
pub(crate) struct TwoWayTransformer {
    layers: Vec<TwoWayLayer>,
    final_attn: TokenToImage,
    final_keys: ImageProjection,
    norm_final_attn: LayerNorm,
}

impl TwoWayTransformer {
    /// `image_pe` is (1, g * g, 256).
    pub(crate) fn load(source: &Source<'_>, image_pe: &Tensor) -> Result<Self, WeightsError> {
        let layer = |index| TwoWayLayer::load(&source.at("layers").at(index), image_pe, index == 0);
        let final_attn = source.at("final_attn_token_to_image");
        Ok(Self {
            layers: (0..DECODER_DEPTH).map(layer).collect::<Result<_, _>>()?,
            final_keys: ImageProjection::load(&final_attn, None, image_pe)?,
            final_attn: TokenToImage::load(&final_attn)?,
            norm_final_attn: LayerNorm::load(&source.at("norm_final_attn"), LAYER_NORM_EPS)?,
        })
    }

    /// Image tokens (B, g * g, 256) and prompt tokens (B, N, 256) -> both, processed,
    /// prompt tokens first.
    pub(crate) fn forward(&self, image_tokens: &Tensor, tokens: &Tensor) -> (Tensor, Tensor) {
        let mut queries = tokens.shallow_clone();
        let mut keys = image_tokens.shallow_clone();
        for layer in &self.layers {
            (queries, keys) = layer.forward(&queries, &keys, tokens);
        }
        let projected = self.final_keys.forward(&keys);
        let attended = self.final_attn.forward(&(&queries + tokens), &projected[0], &projected[1]);
        (self.norm_final_attn.forward(&(queries + attended)), keys)
    }
}

/// One layer: tokens to themselves, tokens to image, perceptron, image to tokens.
struct TwoWayLayer {
    self_attn: SelfAttention,
    norm1: LayerNorm,
    token_to_image: TokenToImage,
    image_projection: ImageProjection,
    norm2: LayerNorm,
    lin1: Linear,
    lin2: Linear,
    norm3: LayerNorm,
    image_to_token: ImageToToken,
    norm4: LayerNorm,
    is_first: bool,
}

impl TwoWayLayer {
    fn load(source: &Source<'_>, image_pe: &Tensor, is_first: bool) -> Result<Self, WeightsError> {
        let norm = |name: &str| LayerNorm::load(&source.at(name), LAYER_NORM_EPS);
        let token_to_image = source.at("cross_attn_token_to_image");
        let image_to_token = source.at("cross_attn_image_to_token");
        Ok(Self {
            self_attn: SelfAttention::load(&source.at("self_attn"))?,
            norm1: norm("norm1")?,
            image_projection: ImageProjection::load(
                &token_to_image,
                Some(&image_to_token),
                image_pe,
            )?,
            token_to_image: TokenToImage::load(&token_to_image)?,
            norm2: norm("norm2")?,
            lin1: Linear::load(&source.at("mlp.lin1"))?,
            lin2: Linear::load(&source.at("mlp.lin2"))?,
            norm3: norm("norm3")?,
            image_to_token: ImageToToken::load(&image_to_token)?,
            norm4: norm("norm4")?,
            is_first,
        })
    }

    /// Queries (B, N, 256), keys (B, g * g, 256), positions of the queries -> queries, keys.
    fn forward(&self, queries: &Tensor, keys: &Tensor, query_pe: &Tensor) -> (Tensor, Tensor) {
        let queries = if self.is_first {
            self.self_attn.forward(queries, queries)
        } else {
            queries + self.self_attn.forward(&(queries + query_pe), queries)
        };
        let queries = self.norm1.forward(&queries);
        let projected = self.image_projection.forward(keys);
        let attended =
            self.token_to_image.forward(&(&queries + query_pe), &projected[0], &projected[1]);
        let queries = self.norm2.forward(&(queries + attended));
        let hidden = self.lin1.forward(&queries).relu();
        let queries = self.norm3.forward(&(&queries + self.lin2.forward(&hidden)));
        let attended = self.image_to_token.forward(&projected[2], &(&queries + query_pe), &queries);
        let keys = self.norm4.forward(&(keys + attended));
        (queries, keys)
    }
}

/// Attention among the tokens.
struct SelfAttention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    out_proj: Linear,
}

impl SelfAttention {
    fn load(source: &Source<'_>) -> Result<Self, WeightsError> {
        Ok(Self {
            q_proj: Linear::load(&source.at("q_proj"))?,
            k_proj: Linear::load(&source.at("k_proj"))?,
            v_proj: Linear::load(&source.at("v_proj"))?,
            out_proj: Linear::load(&source.at("out_proj"))?,
        })
    }

    /// (B, N, 256), (B, N, 256) -> (B, N, 256)
    fn forward(&self, with_pe: &Tensor, values: &Tensor) -> Tensor {
        let (q, k) = (self.q_proj.forward(with_pe), self.k_proj.forward(with_pe));
        self.out_proj.forward(&attention(&q, &k, &self.v_proj.forward(values)))
    }
}

/// The tokens' side of the attention of tokens to image.
struct TokenToImage {
    q_proj: Linear,
    out_proj: Linear,
}

impl TokenToImage {
    fn load(source: &Source<'_>) -> Result<Self, WeightsError> {
        let [q_proj, out_proj] = [source.at("q_proj"), source.at("out_proj")];
        Ok(Self { q_proj: Linear::load(&q_proj)?, out_proj: Linear::load(&out_proj)? })
    }

    /// Tokens (B, N, 256) and the image's keys and values (B, g * g, 128) -> (B, N, 256)
    fn forward(&self, tokens: &Tensor, k: &Tensor, v: &Tensor) -> Tensor {
        self.out_proj.forward(&attention(&self.q_proj.forward(tokens), k, v))
    }
}

/// The tokens' side of the attention of image to tokens.
struct ImageToToken {
    k_proj: Linear,
    v_proj: Linear,
    out_proj: Linear,
}

impl ImageToToken {
    fn load(source: &Source<'_>) -> Result<Self, WeightsError> {
        Ok(Self {
            k_proj: Linear::load(&source.at("k_proj"))?,
            v_proj: Linear::load(&source.at("v_proj"))?,
            out_proj: Linear::load(&source.at("out_proj"))?,
        })
    }

    /// The image's queries (B, g * g, 128), tokens with and without position (B, N, 256)
    /// -> (B, g * g, 256)
    fn forward(&self, q: &Tensor, with_pe: &Tensor, values: &Tensor) -> Tensor {
        let (k, v) = (self.k_proj.forward(with_pe), self.v_proj.forward(values));
        self.out_proj.forward(&attention(q, &k, &v))
    }
}

/// Every projection of the image tokens in one layer, as one product. The position
/// encoding is constant, so its projection is a constant too.
struct ImageProjection {
    /// (outputs, 256)
    weight: Tensor,
    /// (1, g * g, outputs): projected position encoding plus bias
    offset: Tensor,
    parts: Vec<i64>,
}

impl ImageProjection {
    /// Keys and values of `token_to_image`, and the queries of `image_to_token`.
    fn load(
        token_to_image: &Source<'_>,
        image_to_token: Option<&Source<'_>>,
        image_pe: &Tensor,
    ) -> Result<Self, WeightsError> {
        let projection = |source: Source<'_>, has_pe: bool| {
            let (weight, bias) = (source.float("weight")?, source.float("bias")?);
            let pe = if has_pe { image_pe.shallow_clone() } else { image_pe.zeros_like() };
            let offset = pe.linear(&weight, Some(&bias));
            Ok((weight, offset))
        };
        let mut projections = vec![
            projection(token_to_image.at("k_proj"), true)?,
            projection(token_to_image.at("v_proj"), false)?,
        ];
        if let Some(source) = image_to_token {
            projections.push(projection(source.at("q_proj"), true)?);
        }
        let (weights, offsets): (Vec<Tensor>, Vec<Tensor>) = projections.into_iter().unzip();
        Ok(Self {
            weight: token_to_image.hold(Tensor::cat(&weights, 0)),
            offset: token_to_image.hold(Tensor::cat(&offsets, 2)),
            parts: weights.iter().map(|weight| weight.size()[0]).collect(),
        })
    }

    /// (B, g * g, 256) -> one (B, g * g, 128) for each projection
    fn forward(&self, keys: &Tensor) -> Vec<Tensor> {
        let all = keys.linear(&self.weight, None::<&Tensor>) + &self.offset;
        all.split_with_sizes(&self.parts[..], 2)
    }
}

/// Multi-head attention of projected tensors: (B, N, C), (B, M, C), (B, M, C) -> (B, N, C).
fn attention(q: &Tensor, k: &Tensor, v: &Tensor) -> Tensor {
    let heads = |x: &Tensor| {
        let size = x.size();
        x.reshape([size[0], size[1], DECODER_HEADS, -1]).transpose(1, 2)
    };
    let none = None::<&Tensor>;
    let (q, k, v) = (heads(q), heads(k), heads(v));
    let x = Tensor::scaled_dot_product_attention(&q, &k, &v, none, 0.0, false, None, false);
    x.transpose(1, 2).flatten(2, 3)
}
