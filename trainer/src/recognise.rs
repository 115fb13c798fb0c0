//! What a file of weights is, told from the names and shapes of its tensors.

use std::path::{Path, PathBuf};

use tch::Tensor;

use crate::model::{EncoderConfig, StateDict, TinyVitConfig, VitConfig};
use crate::run::{CONFIG_FILE, RunError};
use crate::weights::{self, Loaded};

/// The encoder that the tensors tell: a ViT of SAM's kind with relative positions, or one of the two
/// published TinyViTs. What makes no difference to them (the input's side of a TinyViT, the epsilon
/// of norms) is taken for the published one.
#[must_use]
pub fn recognise_encoder(state: &StateDict) -> Option<EncoderConfig> {
    let size = |name: &str| state.get(&format!("image_encoder.{name}")).map(Tensor::size);
    if size("pos_embed").is_some() {
        return recognise_vit(&size).map(EncoderConfig::Vit);
    }
    let found = EncoderConfig::TinyVit(recognise_tiny_vit(&size)?);
    // Another one may have any side of input, which no tensor tells.
    EncoderConfig::names()
        .iter()
        .filter_map(|name| EncoderConfig::named(name))
        .find(|named| *named == found)
}

/// Sizes of a ViT from its tensors; a table of relative positions has `2 * side - 1` rows of
/// `head_dim` values, where `side` is that of the window or, in a global block, of the grid. Where
/// the window is the grid, nothing tells which blocks are meant to be global, and the first of them
/// feeds the HQ part: none is named.
fn recognise_vit(size: &dyn Fn(&str) -> Option<Vec<i64>>) -> Option<VitConfig> {
    let grid = *size("pos_embed")?.get(1)?;
    let patch = size("patch_embed.proj.weight")?;
    let (embed_dim, patch_size) = (*patch.first()?, *patch.last()?);
    let mut config = VitConfig {
        img_size: grid.checked_mul(patch_size)?,
        patch_size,
        embed_dim,
        depth: 0,
        num_heads: embed_dim.checked_div(*size("blocks.0.attn.rel_pos_h")?.last()?)?,
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
    let all_span_the_grid = config.global_attn_indexes.len() as i64 == config.depth;
    (config.depth == 1 || !all_span_the_grid).then_some(config)
}

/// Sizes of a TinyViT from its tensors, with the input's side and the normalisation of the published
/// one with the same stem.
fn recognise_tiny_vit(size: &dyn Fn(&str) -> Option<Vec<i64>>) -> Option<TinyVitConfig> {
    // MobileSAM's stem has 3 x 3 kernels, LiteMedSAM's 1 x 1.
    let published = match size("patch_embed.seq.0.c.weight")?.last()? {
        3 => "vit_tiny",
        1 => "lite_medsam",
        _ => return None,
    };
    let Some(EncoderConfig::TinyVit(mut config)) = EncoderConfig::named(published) else {
        return None;
    };
    for stage in 0..4 {
        let first = match stage {
            0 => "patch_embed.seq.2.c.weight".to_owned(),
            _ => format!("layers.{}.downsample.conv3.c.weight", stage - 1),
        };
        config.embed_dims[stage] = *size(&first)?.first()?;
        let block = |index: i64, name: &str| size(&format!("layers.{stage}.blocks.{index}.{name}"));
        let name = if stage == 0 { "conv1.c.weight" } else { "attn.attention_biases" };
        config.depths[stage] =
            (0..).take_while(|&index| block(index, name).is_some()).count() as i64;
        if let (1.., Some(biases)) = (stage, block(0, name)) {
            let [heads, offsets] = biases[..] else { return None };
            config.num_heads[stage] = heads;
            config.window_sizes[stage] = offsets.isqrt();
        }
    }
    Some(config)
}

/// The encoder that a file names, or that its tensors tell.
pub(crate) fn encoder_told(loaded: &Loaded) -> Option<EncoderConfig> {
    loaded.encoder.clone().or_else(|| recognise_encoder(&loaded.state))
}

/// The encoder of the weights of `path`: `wanted`, which is a published name, a run or a TOML file,
/// or else what the weights say themselves.
///
/// # Errors
/// `wanted` is none of these; weights that do not say it.
pub(crate) fn encoder_of(
    path: &Path,
    loaded: &Loaded,
    wanted: Option<&str>,
) -> Result<EncoderConfig, RunError> {
    let refuse = |problem: String| RunError::NotUsable { path: path.to_owned(), problem };
    match wanted {
        Some(wanted) => wanted_encoder(wanted)
            .map_err(|problem| refuse(format!("--encoder {wanted}: {problem}"))),
        None if path.is_dir() => Ok(weights::transformers_encoder(path)?),
        None => encoder_told(loaded).ok_or_else(|| {
            refuse(
                "its tensors do not tell its encoder; name it with --encoder: the run it comes \
                 from, or a TOML file with kind = \"vit\" (\"tiny_vit\") and its sizes"
                    .into(),
            )
        }),
    }
}

fn wanted_encoder(wanted: &str) -> Result<EncoderConfig, String> {
    if let Some(encoder) = EncoderConfig::named(wanted) {
        return Ok(encoder);
    }
    let mut file = PathBuf::from(wanted);
    if file.is_dir() {
        file.push(CONFIG_FILE);
    }
    let text = std::fs::read_to_string(&file).map_err(|error| {
        format!(
            "{error}; valid are {}, a run's folder, its {CONFIG_FILE}, or a TOML file of sizes",
            EncoderConfig::names().join(", ")
        )
    })?;
    let sizes: toml::Table = text.parse().map_err(|error: toml::de::Error| error.to_string())?;
    // A configuration of a run, or the sizes by themselves.
    let choice = match sizes.get("model") {
        Some(model) => model.get("encoder").cloned().ok_or("it has no model.encoder")?,
        None => toml::Value::Table(sizes),
    };
    match choice {
        toml::Value::String(name) => EncoderConfig::named(&name)
            .ok_or_else(|| format!("model.encoder = \"{name}\" is not known")),
        sizes => sizes.try_into().map_err(|error: toml::de::Error| error.message().to_owned()),
    }
}

/// What a file holds, in words: its kind, its encoder, and how many tensors.
#[must_use]
pub fn describe(loaded: &Loaded) -> String {
    let encoder = encoder_told(loaded);
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
    use crate::export::{ExportFormat, export};
    use crate::model::SamHq;
    use crate::run::open_model;

    fn vit(changes: impl FnOnce(&mut VitConfig)) -> EncoderConfig {
        let mut vit = VitConfig {
            img_size: 64,
            embed_dim: 16,
            depth: 3,
            num_heads: 2,
            window_size: 4,
            global_attn_indexes: vec![1],
            ..VitConfig::default()
        };
        changes(&mut vit);
        EncoderConfig::Vit(vit)
    }

    /// Encoders that no tensor tells.
    fn untold() -> Vec<(&'static str, EncoderConfig)> {
        let tiny = TinyVitConfig {
            img_size: 64,
            embed_dims: [8, 16, 16, 32],
            depths: [1, 1, 2, 1],
            num_heads: [1, 2, 2, 2],
            ..TinyVitConfig::default()
        };
        vec![
            ("a window that is the grid", vit(|_| {})),
            ("no relative positions", vit(|vit| vit.use_rel_pos = false)),
            ("other sizes of a TinyViT", EncoderConfig::TinyVit(tiny)),
        ]
    }

    fn encoder_of_file(path: &Path, wanted: Option<&str>) -> Result<EncoderConfig, String> {
        let opened = open_model(path, wanted, Device::Cpu).map_err(|error| error.to_string())?;
        Ok(opened.encoder)
    }

    #[test]
    fn what_tensors_do_not_tell_is_stored_or_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for (what, config) in untold() {
            let state = SamHq::random(&config, 0, Device::Cpu).state_dict();
            assert_eq!(recognise_encoder(&state), None, "{what}");
            export(&state, &config, &at("model.safetensors"), ExportFormat::Safetensors).unwrap();
            assert_eq!(
                encoder_of_file(&at("model.safetensors"), None).as_ref(),
                Ok(&config),
                "{what}"
            );

            if matches!(config, EncoderConfig::Vit(_)) {
                let to = at(&what.replace(' ', "-"));
                export(&state, &config, &to, ExportFormat::Transformers).unwrap();
                assert_eq!(encoder_of_file(&to, None).as_ref(), Ok(&config), "{what}");
            }

            export(&state, &config, &at("model.pth"), ExportFormat::Pth).unwrap();
            let error = encoder_of_file(&at("model.pth"), None).unwrap_err();
            assert!(error.contains("name it with --encoder"), "{what}: {error}");
            let sizes = toml::to_string(&config).unwrap();
            std::fs::write(at("sizes.toml"), &sizes).unwrap();
            let run = format!("output = \"run\"\n[model.encoder]\n{sizes}");
            std::fs::write(at(CONFIG_FILE), run).unwrap();
            for wanted in [at("sizes.toml"), at(CONFIG_FILE), folder.path().to_owned()] {
                let found = encoder_of_file(&at("model.pth"), wanted.to_str());
                assert_eq!(found.as_ref(), Ok(&config), "{what}: {}", wanted.display());
            }
        }
        let other = encoder_of_file(&at("model.pth"), Some("vit_x")).unwrap_err();
        assert!(other.contains("--encoder vit_x: ") && other.contains("vit_tiny"), "{other}");
        std::fs::write(at("sizes.toml"), "kind = \"vit\"\ndept = 3\n").unwrap();
        let wrong = encoder_of_file(&at("model.pth"), at("sizes.toml").to_str()).unwrap_err();
        assert!(wrong.contains("unknown field `dept`"), "{wrong}");
    }

    #[test]
    fn odd_shapes_are_no_encoder_and_no_panic() {
        let config = vit(|vit| vit.window_size = 3);
        let state = || SamHq::random(&config, 0, Device::Cpu).state_dict();
        let table = "image_encoder.blocks.0.attn.rel_pos_h";
        for shape in [vec![5, 0], vec![0, 8], vec![0], vec![]] {
            let mut state = state();
            state.insert(table.into(), Tensor::zeros(&shape[..], (tch::Kind::Float, Device::Cpu)));
            let _ = recognise_encoder(&state);
        }
        let mut state = state();
        state.insert(
            "image_encoder.pos_embed".into(),
            Tensor::zeros([1], (tch::Kind::Float, Device::Cpu)),
        );
        assert_eq!(recognise_encoder(&state), None);
    }

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
