//! Floating-point operations of the image encoders and of the decoder: two for each product of the
//! matrix products and convolutions, attention included, nothing else.

use super::config::{
    DECODER_DEPTH, DECODER_MLP_DIM, EMBED_DIM, EncoderConfig, MASK_IN_CHANS, NUM_SAM_MASK_TOKENS,
    TinyVitConfig, VitConfig,
};

/// Operations of one image as the published code computes it, windows padded before the linear
/// layers: 972e9 for ViT-B, 2,986e9 for ViT-L, 5,961e9 for ViT-H.
pub fn published_flop(config: &EncoderConfig) -> f64 {
    encoder_flop(config, true)
}

/// Operations of one image as computed here, where padding skips the linear layers.
pub fn computed_flop(config: &EncoderConfig) -> f64 {
    encoder_flop(config, false)
}

fn encoder_flop(config: &EncoderConfig, padded: bool) -> f64 {
    let products = match config {
        EncoderConfig::Vit(vit) => vit_products(vit, padded),
        EncoderConfig::TinyVit(tiny) => tiny_vit_products(tiny, padded),
    };
    2.0 * products as f64
}

/// The 1x1 and the 3x3 convolution after an encoder of `dim` channels.
fn neck_products(tokens: i64, dim: i64) -> i64 {
    tokens * EMBED_DIM * (dim + 9 * EMBED_DIM)
}

/// Tokens of a grid of `side` squared that is padded to whole windows.
fn padded_tokens(side: i64, window: i64) -> i64 {
    ((side + window - 1) / window * window).pow(2)
}

fn vit_products(vit: &VitConfig, padded: bool) -> i64 {
    let (dim, side) = (vit.embed_dim, vit.img_size / vit.patch_size);
    let tokens = side * side;
    let hidden = vit.mlp_dim();
    let mut products = tokens * dim * 3 * vit.patch_size.pow(2) + neck_products(tokens, dim);
    for index in 0..vit.depth {
        let is_global = vit.global_attn_indexes.contains(&index);
        let window = if is_global { side } else { vit.window_size };
        let in_windows = padded_tokens(side, window);
        let through_linear = if padded { in_windows } else { tokens };
        let positions = if vit.use_rel_pos { 2 * window } else { 0 };
        products += through_linear * 4 * dim * dim
            + in_windows * dim * (2 * window.pow(2) + positions)
            + tokens * 2 * dim * hidden;
    }
    products
}

fn tiny_vit_products(tiny: &TinyVitConfig, padded: bool) -> i64 {
    let dims = tiny.embed_dims;
    let stem = tiny.stem_size();
    // Two 3x3 convolutions of stride 2, or two 1x1 ones.
    let (kernel, first) = if stem == tiny.img_size { (1, stem) } else { (9, 2 * stem) };
    let mut products = first.pow(2) * kernel * 3 * dims[0] / 2;
    products += stem.pow(2) * kernel * dims[0] / 2 * dims[0];
    for stage in 0..4 {
        let (dim, side, window) = (dims[stage], tiny.stage_size(stage), tiny.window_sizes[stage]);
        let (tokens, in_windows) = (side * side, padded_tokens(side, window));
        let through_linear = if padded { in_windows } else { tokens };
        products += tiny.depths[stage]
            * match stage {
                0 => tokens * 4 * dim * (2 * dim + 9),
                _ => {
                    through_linear * 4 * dim * dim
                        + in_windows * 2 * window.pow(2) * dim
                        + tokens * dim * (9 + 8 * dim)
                }
            };
        if stage < 3 {
            let (out, smaller) = (dims[stage + 1], tiny.stage_size(stage + 1));
            products += tokens * dim * out + smaller.pow(2) * out * (9 + out);
        }
    }
    products + neck_products(tiny.stage_size(3).pow(2), dims[3])
}

/// What prompts one object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PromptParts {
    /// Points, padding of ours left out.
    pub points: i64,
    /// Whether there is a box.
    pub has_box: bool,
    /// Whether there is a mask.
    pub has_mask: bool,
}

impl PromptParts {
    /// Tokens of the prompt: points alone get a padding point, a box is its two corners.
    fn tokens(self) -> i64 {
        match (self.points, self.has_box) {
            (0, false) => 0,
            (points, false) => points + 1,
            (points, true) => points + 2,
        }
    }
}

/// Operations of the decoder for one object on an image of its own.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DecoderFlop {
    /// From prompts and features to the HQ logits, SAM's masks left out.
    pub forward: f64,
    /// From the gradient of the logits to those of the 25 trained tensors, through the frozen
    /// transformer to the HQ token; attention's scores, which some kernels compute anew, once.
    pub backward: f64,
}

/// Operations of [`super::DecodeOutput::Hq`] and of its backward for an object prompted by `prompt`, as
/// computed here: the HQ kernel is multiplied into the last convolutions of the HQ part.
pub fn decoder_flop(config: &EncoderConfig, prompt: PromptParts) -> DecoderFlop {
    let mut products = Products::default();
    let grid = config.embedding_size().pow(2);
    products.prompt(grid, prompt);
    products.transformer(grid, 1 + NUM_SAM_MASK_TOKENS + 1 + prompt.tokens());
    products.masks(grid, config.vit_dim());
    DecoderFlop { forward: 2.0 * products.forward as f64, backward: 2.0 * products.backward as f64 }
}

#[derive(Default)]
struct Products {
    forward: i64,
    backward: i64,
}

impl Products {
    /// `count` products, of whose two factors `gradients` need one; each takes as many again.
    fn add(&mut self, count: i64, gradients: i64) {
        self.forward += count;
        self.backward += count * gradients;
    }

    /// Positions of the tokens, and the convolutions of a mask of four times the grid's side.
    fn prompt(&mut self, grid: i64, prompt: PromptParts) {
        self.add(prompt.tokens() * EMBED_DIM, 0);
        if prompt.has_mask {
            let (few, many) = (MASK_IN_CHANS / 4, MASK_IN_CHANS);
            self.add(4 * grid * 4 * few + grid * 4 * few * many + grid * many * EMBED_DIM, 0);
        }
    }

    /// The two-way transformer with `tokens` tokens. Every token depends on the HQ token from the first
    /// layer on, the image from the end of that layer on.
    fn transformer(&mut self, grid: i64, tokens: i64) {
        let (dim, inner) = (EMBED_DIM, EMBED_DIM / 2);
        for layer in 0..DECODER_DEPTH {
            let image = i64::from(layer > 0);
            self.add(tokens * 4 * dim * dim, 1);
            self.add(2 * tokens * tokens * dim, 2);
            // Keys and values of tokens to image, queries of image to tokens.
            self.add(grid * dim * 3 * inner, image);
            self.add(tokens * 2 * dim * inner, 1);
            self.add(2 * tokens * grid * inner, 1 + image);
            self.add(tokens * 2 * dim * DECODER_MLP_DIM, 1);
            self.add(tokens * 2 * dim * inner, 1);
            self.add(grid * tokens * inner, 1 + image);
            self.add(grid * tokens * inner, 2);
            self.add(grid * inner * dim, 1);
        }
        self.add(grid * dim * 2 * inner, 1);
        self.add(tokens * 2 * dim * inner, 1);
        self.add(2 * tokens * grid * inner, 2);
    }

    /// SAM's upscaling and the HQ part.
    fn masks(&mut self, grid: i64, vit_dim: i64) {
        let (dim, quarter, eighth) = (EMBED_DIM, EMBED_DIM / 4, EMBED_DIM / 8);
        self.add(grid * dim * 4 * quarter, 1);
        self.add(4 * grid * quarter * 4 * eighth, 1);
        // The kernel of the HQ token.
        self.add(2 * dim * dim + dim * eighth, 2);
        // `embedding_encoder` and `compress_vit_feat`, whose inputs need no gradient.
        for (inputs, hidden) in [(dim, quarter), (vit_dim, dim)] {
            self.add(grid * inputs * 4 * hidden, 1);
            self.add(hidden * 4 * eighth + 4 * grid * hidden * 4, 2);
        }
        // `embedding_maskfeature`.
        self.add(16 * grid * 9 * eighth * quarter, 2);
        self.add(quarter * 9 * eighth + 16 * grid * quarter * 9, 2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_encoders_take_the_published_operations() {
        for (name, gflop) in [("vit_b", 972.0), ("vit_l", 2986.0), ("vit_h", 5961.0)] {
            let config = EncoderConfig::named(name).unwrap();
            let found = published_flop(&config) / 1e9;
            assert!((found - gflop).abs() / gflop < 2e-3, "{name}: {found}");
            assert!(computed_flop(&config) < published_flop(&config));
        }
    }

    /// As `tests/python/count_decoder_flops.py` prints them.
    #[test]
    fn the_decoder_takes_the_operations_that_torch_counts() {
        let counted = |count: fn(&mut Products)| {
            let mut products = Products::default();
            count(&mut products);
            (2 * products.forward, 2 * products.backward)
        };
        let transformer = counted(|products| products.transformer(64 * 64, 8));
        assert_eq!(transformer, (2_815_557_632, 2_069_102_592));
        let (upscaling, maskfeature) = (805_306_368, 2_415_919_104);
        let (encoder, compress) = (536_870_912, 6_442_450_944);
        let (forward, backward) = counted(|products| products.masks(64 * 64, 768));
        // Beside these the kernel of the HQ token and its products with each branch.
        let kernel = 2 * (2 * 256 * 256 + 256 * 32);
        let branch =
            |hidden: i64, pixels: i64, taps: i64| 2 * (hidden * taps * 32 + pixels * hidden * taps);
        let rest = kernel
            + branch(64, 128 * 128, 4)
            + branch(256, 128 * 128, 4)
            + branch(64, 256 * 256, 9);
        assert_eq!(forward, upscaling + encoder + compress + maskfeature + rest);
        assert_eq!(backward, upscaling + encoder + compress + 2 * (maskfeature + rest));
    }

    #[test]
    fn every_prompt_has_its_operations() {
        let vit_b = EncoderConfig::named("vit_b").unwrap();
        let flop = |points, has_box, has_mask| {
            decoder_flop(&vit_b, PromptParts { points, has_box, has_mask })
        };
        // A point gets a padding point, a box has two corners.
        assert_eq!(flop(1, false, false), flop(0, true, false));
        assert!(flop(10, false, false).forward > flop(1, false, false).forward);
        let mask = flop(0, true, true).forward - flop(0, true, false).forward;
        // 2x2 kernels with stride 2 from 256 x 256 pixels, then a pointwise one.
        assert_eq!(mask, 2.0 * (128.0 * 128.0 * 4.0 * 4.0 + 64.0 * 64.0 * 16.0 * (16.0 + 256.0)));
        assert!((flop(0, true, false).forward / 1e9 - 13.1).abs() < 0.1);
    }
}
