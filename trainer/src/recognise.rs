//! What a file of weights is, told from the names and shapes of its tensors.

use tch::Tensor;

use crate::model::{EncoderConfig, StateDict, VitConfig};
use crate::weights::Loaded;

/// The encoder whose sizes the tensors have: every ViT of SAM's kind, and the two published
/// TinyViTs.
#[must_use]
pub fn recognise_encoder(state: &StateDict) -> Option<EncoderConfig> {
    let size = |name: &str| state.get(&format!("image_encoder.{name}")).map(Tensor::size);
    if size("pos_embed").is_some() {
        return recognise_vit(&size).map(EncoderConfig::Vit);
    }
    // MobileSAM's stem has 3 x 3 kernels, LiteMedSAM's 1 x 1.
    match size("patch_embed.seq.0.c.weight")?.last()? {
        3 => EncoderConfig::named("vit_tiny"),
        1 => EncoderConfig::named("lite_medsam"),
        _ => None,
    }
}

/// Sizes of a ViT from its tensors; a table of relative positions has `2 * side - 1` rows of
/// `head_dim` values, where `side` is that of the window or, in a global block, of the grid.
fn recognise_vit(size: &dyn Fn(&str) -> Option<Vec<i64>>) -> Option<VitConfig> {
    let grid = *size("pos_embed")?.get(1)?;
    let patch = size("patch_embed.proj.weight")?;
    let (embed_dim, patch_size) = (*patch.first()?, *patch.last()?);
    let mut config = VitConfig {
        img_size: grid * patch_size,
        patch_size,
        embed_dim,
        depth: 0,
        num_heads: embed_dim / size("blocks.0.attn.rel_pos_h")?.last()?,
        mlp_ratio: *size("blocks.0.mlp.lin1.weight")?.first()? as f64 / embed_dim as f64,
        global_attn_indexes: Vec::new(),
        qkv_bias: size("blocks.0.attn.qkv.bias").is_some(),
        ..VitConfig::default()
    };
    while let Some(rel_pos) = size(&format!("blocks.{}.attn.rel_pos_h", config.depth)) {
        let side = (rel_pos.first()? + 1) / 2;
        if side == grid {
            config.global_attn_indexes.push(config.depth);
        } else {
            config.window_size = side;
        }
        config.depth += 1;
    }
    Some(config)
}

/// What a file holds, in words: its kind, its encoder, and how many tensors.
#[must_use]
pub fn describe(loaded: &Loaded) -> String {
    let encoder = recognise_encoder(&loaded.state);
    let encoder =
        encoder.map_or_else(String::new, |encoder| format!(", {}", encoder_name(&encoder)));
    format!("{}{encoder}, {} tensors", loaded.kind, loaded.state.len())
}

/// The published name of an encoder, or its sizes.
#[must_use]
pub fn encoder_name(encoder: &EncoderConfig) -> String {
    let names = EncoderConfig::names().iter();
    let published =
        names.copied().find(|name| EncoderConfig::named(name).as_ref() == Some(encoder));
    match (published, encoder) {
        (Some(name), _) => name.to_owned(),
        (None, EncoderConfig::Vit(vit)) => format!(
            "a ViT of {} blocks, {} channels and {} pixels",
            vit.depth, vit.embed_dim, vit.img_size
        ),
        (None, EncoderConfig::TinyVit(tiny)) => {
            format!("a TinyViT of {:?} channels and {} pixels", tiny.embed_dims, tiny.img_size)
        }
    }
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;
    use crate::model::SamHq;

    #[test]
    fn sizes_are_recognised_from_the_tensors() {
        let tiny = VitConfig {
            img_size: 256,
            embed_dim: 32,
            depth: 3,
            num_heads: 2,
            window_size: 7,
            global_attn_indexes: vec![1],
            ..VitConfig::default()
        };
        let configs = [
            EncoderConfig::Vit(tiny),
            EncoderConfig::named("lite_medsam").unwrap(),
            EncoderConfig::named("vit_tiny").unwrap(),
        ];
        for config in configs {
            let state = SamHq::random(&config, 0, Device::Cpu).state_dict();
            assert_eq!(recognise_encoder(&state), Some(config));
        }
    }

    #[test]
    fn encoders_have_their_published_names() {
        for name in EncoderConfig::names() {
            assert_eq!(encoder_name(&EncoderConfig::named(name).unwrap()), *name);
        }
        let other = EncoderConfig::Vit(VitConfig { depth: 3, ..VitConfig::default() });
        assert_eq!(encoder_name(&other), "a ViT of 3 blocks, 768 channels and 1024 pixels");
    }
}
