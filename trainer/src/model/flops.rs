//! Floating-point operations of the image encoders: two for each product of the matrix products and
//! convolutions, attention included, nothing else.

use super::config::{EMBED_DIM, EncoderConfig, TinyVitConfig, VitConfig};

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
    let hidden = (dim as f64 * vit.mlp_ratio) as i64;
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
}
