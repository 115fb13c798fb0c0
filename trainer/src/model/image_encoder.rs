//! SAM's image encoder: a plain ViT with windowed and global attention blocks.

use tch::Tensor;

use super::attention::Attention;
use super::config::VitConfig;
use super::layers::{LayerNorm, Linear, Neck, Source, bhwc, conv2d, gelu_in_place};
use crate::weights::WeightsError;

/// The ViT of SAM.
pub(crate) struct ImageEncoderVit {
    patch_embed: PatchEmbed,
    pos_embed: Tensor,
    blocks: Vec<Block>,
    neck: Neck,
}

impl ImageEncoderVit {
    pub(crate) fn load(source: &Source<'_>, config: &VitConfig) -> Result<Self, WeightsError> {
        let block = |index: i64| Block::load(&source.at("blocks").at(index), config, index);
        Ok(Self {
            patch_embed: PatchEmbed::load(&source.at("patch_embed.proj"))?,
            pos_embed: source.tensor("pos_embed")?,
            blocks: (0..config.depth).map(block).collect::<Result<_, _>>()?,
            neck: Neck::load(&source.at("neck"))?,
        })
    }

    /// (B, 3, S, S) -> image embeddings (B, g, g, 256) and the output of the first
    /// global block (B, g, g, C).
    pub(crate) fn forward(&self, x_bchw: &Tensor) -> (Tensor, Tensor) {
        let mut x = self.patch_embed.forward(x_bchw) + &self.pos_embed;
        let mut interm_embeddings = None;
        for block in &self.blocks {
            x = block.forward(&x);
            if block.attn.is_global() {
                interm_embeddings.get_or_insert_with(|| x.shallow_clone());
            }
        }
        let interm_embeddings = interm_embeddings.expect("the configuration has a global block");
        (self.neck.forward(&x), interm_embeddings)
    }
}

/// A convolution whose stride is its kernel's side: patches do not overlap.
struct PatchEmbed {
    /// (C, 3, p, p)
    weight: Tensor,
    bias: Option<Tensor>,
}

impl PatchEmbed {
    fn load(source: &Source<'_>) -> Result<Self, WeightsError> {
        let weight = source.for_products(&source.float("weight")?);
        let bias = source.optional("bias").map(|bias| source.for_products(&bias));
        Ok(Self { weight, bias })
    }

    /// (B, 3, S, S) -> (B, S / p, S / p, C)
    fn forward(&self, x_bchw: &Tensor) -> Tensor {
        let patch_size = self.weight.size()[3];
        bhwc(&conv2d(x_bchw, &self.weight, self.bias.as_ref(), patch_size, 0, 1))
    }
}

/// One transformer block.
struct Block {
    norm1: LayerNorm,
    attn: Attention,
    norm2: LayerNorm,
    lin1: Linear,
    lin2: Linear,
}

impl Block {
    fn load(source: &Source<'_>, config: &VitConfig, index: i64) -> Result<Self, WeightsError> {
        let is_global = config.global_attn_indexes.contains(&index);
        Ok(Self {
            norm1: LayerNorm::load(&source.at("norm1"), config.norm_eps)?,
            attn: Attention::load(
                &source.at("attn"),
                config,
                (!is_global).then_some(config.window_size),
            )?,
            norm2: LayerNorm::load(&source.at("norm2"), config.norm_eps)?,
            lin1: Linear::load(&source.at("mlp.lin1"))?,
            lin2: Linear::load(&source.at("mlp.lin2"))?,
        })
    }

    /// (B, H, W, C) -> (B, H, W, C)
    fn forward(&self, x_bhwc: &Tensor) -> Tensor {
        let mut x = self.attn.forward(&self.norm1.forward(x_bhwc)).g_add_(x_bhwc);
        let hidden = gelu_in_place(self.lin1.forward(&self.norm2.forward(&x)));
        x.g_add_(&self.lin2.forward(&hidden))
    }
}
