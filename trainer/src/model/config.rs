//! Sizes of the published image encoders, and of any other one may train.

use serde::{Deserialize, Serialize};

/// Channels of the image embedding, the prompts and the decoder's tokens.
pub(crate) const EMBED_DIM: i64 = 256;
/// Attention heads of the two-way transformer.
pub(crate) const DECODER_HEADS: i64 = 8;
/// Layers of the two-way transformer.
pub(crate) const DECODER_DEPTH: i64 = 2;
/// Hidden width of the two-way transformer's perceptrons.
pub(crate) const DECODER_MLP_DIM: i64 = 2048;
/// Masks that SAM's decoder predicts: one, and three for ambiguous prompts.
pub(crate) const NUM_SAM_MASK_TOKENS: i64 = 4;
/// No size of an encoder may be larger: products of a few of them stay whole numbers.
const MAX_SIZE: i64 = 1 << 16;
/// No encoder may have more blocks (of a stage).
const MAX_DEPTH: i64 = 1 << 10;
/// Hidden channels of the prompt encoder's mask branch.
pub(crate) const MASK_IN_CHANS: i64 = 16;

/// Which image encoder, and how large.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum EncoderConfig {
    /// The plain ViT of SAM with windowed and global blocks.
    Vit(VitConfig),
    /// The TinyViT of MobileSAM and LiteMedSAM.
    TinyVit(TinyVitConfig),
}

/// Sizes of SAM's ViT.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VitConfig {
    /// Side of the square input in pixels.
    pub img_size: i64,
    /// Side of a patch in pixels.
    pub patch_size: i64,
    /// Channels of a token.
    pub embed_dim: i64,
    /// Number of blocks.
    pub depth: i64,
    /// Attention heads of a block.
    pub num_heads: i64,
    /// Hidden width of a block's perceptron over `embed_dim`.
    pub mlp_ratio: f64,
    /// Side of an attention window in tokens.
    pub window_size: i64,
    /// Blocks that attend over the whole image.
    pub global_attn_indexes: Vec<i64>,
    /// Whether attention adds decomposed relative positions.
    pub use_rel_pos: bool,
    /// Whether the query, key and value projection has a bias.
    pub qkv_bias: bool,
    /// Channels of the image embedding; the decoder needs 256.
    pub out_chans: i64,
    /// Epsilon of the blocks' layer norms.
    pub norm_eps: f64,
}

impl Default for VitConfig {
    fn default() -> Self {
        Self {
            img_size: 1024,
            patch_size: 16,
            embed_dim: 768,
            depth: 12,
            num_heads: 12,
            mlp_ratio: 4.0,
            window_size: 14,
            global_attn_indexes: vec![2, 5, 8, 11],
            use_rel_pos: true,
            qkv_bias: true,
            out_chans: EMBED_DIM,
            norm_eps: 1e-6,
        }
    }
}

impl VitConfig {
    /// Hidden width of a block's perceptron.
    pub(crate) fn mlp_dim(&self) -> i64 {
        (self.embed_dim as f64 * self.mlp_ratio) as i64
    }
}

/// First layers of a TinyViT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stem {
    /// Two 3x3 convolutions of stride 2 (MobileSAM).
    Stride4,
    /// Two 1x1 convolutions that keep the resolution (LiteMedSAM).
    Pointwise,
}

/// How 8-bit pixels become the encoder's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Normalization {
    /// SAM's channel means and deviations.
    MeanStd,
    /// Each image stretched to the range 0 to 1.
    MinMax,
}

/// Sizes of a TinyViT; every list has one entry a stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TinyVitConfig {
    /// Side of the square input in pixels.
    pub img_size: i64,
    /// Channels of each stage.
    pub embed_dims: [i64; 4],
    /// Blocks of each stage.
    pub depths: [i64; 4],
    /// Attention heads of each stage (the first stage has only convolutions).
    pub num_heads: [i64; 4],
    /// Window side of each stage in tokens.
    pub window_sizes: [i64; 4],
    /// First layers.
    pub stem: Stem,
    /// How pixels are normalised.
    pub normalization: Normalization,
}

impl Default for TinyVitConfig {
    fn default() -> Self {
        Self {
            img_size: 1024,
            embed_dims: [64, 128, 160, 320],
            depths: [2, 2, 6, 2],
            num_heads: [2, 4, 5, 10],
            window_sizes: [7, 7, 14, 7],
            stem: Stem::Stride4,
            normalization: Normalization::MeanStd,
        }
    }
}

impl TinyVitConfig {
    /// Side of the stem's output in tokens.
    pub(crate) fn stem_size(&self) -> i64 {
        match self.stem {
            Stem::Stride4 => self.img_size / 4,
            Stem::Pointwise => self.img_size,
        }
    }

    /// Side of stage `index`'s input in tokens. The last merging keeps the resolution.
    pub(crate) fn stage_size(&self, index: usize) -> i64 {
        (0..index).fold(self.stem_size(), |size, merge| self.merged_size(size, merge))
    }

    /// Stride of the merging after stage `index`.
    pub(crate) fn merge_stride(&self, index: usize) -> i64 {
        if index == 2 { 1 } else { 2 }
    }

    fn merged_size(&self, size: i64, index: usize) -> i64 {
        (size - 1) / self.merge_stride(index) + 1
    }
}

impl EncoderConfig {
    /// The encoder published under `name`, one of [`EncoderConfig::names`].
    pub fn named(name: &str) -> Option<Self> {
        let vit = |embed_dim, depth, num_heads, global: [i64; 4]| {
            Self::Vit(VitConfig {
                embed_dim,
                depth,
                num_heads,
                global_attn_indexes: global.to_vec(),
                ..VitConfig::default()
            })
        };
        match name {
            "vit_b" => Some(vit(768, 12, 12, [2, 5, 8, 11])),
            "vit_l" => Some(vit(1024, 24, 16, [5, 11, 17, 23])),
            "vit_h" => Some(vit(1280, 32, 16, [7, 15, 23, 31])),
            "vit_tiny" => Some(Self::TinyVit(TinyVitConfig::default())),
            "lite_medsam" => Some(Self::TinyVit(TinyVitConfig {
                img_size: 256,
                stem: Stem::Pointwise,
                normalization: Normalization::MinMax,
                ..TinyVitConfig::default()
            })),
            _ => None,
        }
    }

    /// The names that [`EncoderConfig::named`] knows.
    pub fn names() -> &'static [&'static str] {
        &["vit_b", "vit_l", "vit_h", "vit_tiny", "lite_medsam"]
    }

    /// Side of the square input in pixels.
    pub fn img_size(&self) -> i64 {
        match self {
            Self::Vit(vit) => vit.img_size,
            Self::TinyVit(tiny) => tiny.img_size,
        }
    }

    /// Channels of the intermediate features that the HQ decoder reads.
    pub fn vit_dim(&self) -> i64 {
        match self {
            Self::Vit(vit) => vit.embed_dim,
            Self::TinyVit(tiny) => tiny.embed_dims[2],
        }
    }

    /// Side of the image embedding in tokens; masks have four times this side.
    pub fn embedding_size(&self) -> i64 {
        match self {
            Self::Vit(vit) => vit.img_size / vit.patch_size,
            Self::TinyVit(tiny) => tiny.stage_size(3),
        }
    }

    /// Values that training changes. For the published encoders B 1,071,104, L 1,333,248,
    /// H 1,595,392 and TinyViT 448,512: a 2x2 kernel to 256 channels for each of [`Self::vit_dim`],
    /// and what does not depend on the encoder.
    pub fn num_trained_values(&self) -> i64 {
        284_672 + 4 * EMBED_DIM * self.vit_dim()
    }

    /// How pixels are normalised.
    pub fn normalization(&self) -> Normalization {
        match self {
            Self::Vit(_) => Normalization::MeanStd,
            Self::TinyVit(tiny) => tiny.normalization,
        }
    }

    /// Checks that the sizes fit together; the error says which does not.
    pub fn validate(&self) -> Result<(), String> {
        match self {
            Self::Vit(vit) => validate_vit(vit),
            Self::TinyVit(tiny) => validate_tiny_vit(tiny),
        }
    }
}

fn validate_vit(vit: &VitConfig) -> Result<(), String> {
    let positive =
        [vit.img_size, vit.patch_size, vit.embed_dim, vit.depth, vit.num_heads, vit.window_size];
    if positive.iter().any(|size| !(1..=MAX_SIZE).contains(size)) || vit.depth > MAX_DEPTH {
        return Err(format!(
            "every size of the encoder must be at least 1 and at most {MAX_SIZE}, its depth at most \
             {MAX_DEPTH}"
        ));
    }
    if vit.img_size % vit.patch_size != 0 {
        return Err(format!(
            "img_size {} is not a multiple of patch_size {}",
            vit.img_size, vit.patch_size
        ));
    }
    if vit.embed_dim % vit.num_heads != 0 {
        return Err(format!(
            "embed_dim {} is not a multiple of num_heads {}",
            vit.embed_dim, vit.num_heads
        ));
    }
    let mlp_dim = vit.mlp_dim();
    if !(1..=MAX_SIZE).contains(&mlp_dim) {
        return Err(format!(
            "mlp_ratio {} of embed_dim {} makes a perceptron of {mlp_dim} channels, which must be at \
             least 1 and at most {MAX_SIZE}",
            vit.mlp_ratio, vit.embed_dim
        ));
    }
    if !(vit.norm_eps > 0.0 && vit.norm_eps.is_finite()) {
        return Err(format!("norm_eps {} is not a positive number", vit.norm_eps));
    }
    if vit.out_chans != EMBED_DIM {
        return Err(format!("out_chans is {}, the mask decoder needs {EMBED_DIM}", vit.out_chans));
    }
    let first = vit.global_attn_indexes.iter().min().copied();
    if first.is_none_or(|index| index < 0)
        || vit.global_attn_indexes.iter().any(|&i| i >= vit.depth)
    {
        return Err(format!(
            "global_attn_indexes needs at least one block, all of 0..{}",
            vit.depth
        ));
    }
    Ok(())
}

fn validate_tiny_vit(tiny: &TinyVitConfig) -> Result<(), String> {
    for stage in 0..4 {
        let (dim, heads) = (tiny.embed_dims[stage], tiny.num_heads[stage]);
        let sizes = [tiny.img_size, dim, heads, tiny.window_sizes[stage]];
        if dim < 2
            || sizes.iter().any(|size| !(1..=MAX_SIZE).contains(size))
            || !(0..=MAX_DEPTH).contains(&tiny.depths[stage])
        {
            return Err(format!(
                "stage {stage} of the encoder has a size below 1 or above {MAX_SIZE}, or more than \
                 {MAX_DEPTH} blocks"
            ));
        }
        if stage > 0 && dim % heads != 0 {
            return Err(format!(
                "embed_dims[{stage}] {dim} is not a multiple of num_heads {heads}"
            ));
        }
    }
    if tiny.stem_size() < 4 || tiny.stem_size() % 4 != 0 {
        return Err(format!("img_size {} does not divide down to whole tokens", tiny.img_size));
    }
    Ok(())
}
