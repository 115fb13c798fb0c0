//! Folders that `transformers.SamHQModel.from_pretrained` loads: other names for the same tensors,
//! and the sizes in JSON. Names and keys are those of transformers 5 (`models/sam_hq`).

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};

use super::WeightsError;
use crate::model::{EncoderConfig, StateDict, VitConfig};

/// The weights inside the folder.
pub(super) const WEIGHTS_FILE: &str = "model.safetensors";
/// The sizes inside the folder.
const CONFIG_FILE: &str = "config.json";
/// What `SamHQProcessor` does to a picture.
const PROCESSOR_FILE: &str = "preprocessor_config.json";

/// Published beginning of a name, and the one in transformers; `*` is a number. The first entry
/// that fits counts, in both directions, so that longer beginnings stand first.
const RENAMED: [(&str, &str); 37] = [
    ("image_encoder.patch_embed.proj", "vision_encoder.patch_embed.projection"),
    ("image_encoder.blocks.*.norm1", "vision_encoder.layers.*.layer_norm1"),
    ("image_encoder.blocks.*.norm2", "vision_encoder.layers.*.layer_norm2"),
    ("image_encoder.blocks", "vision_encoder.layers"),
    ("image_encoder.neck.0", "vision_encoder.neck.conv1"),
    ("image_encoder.neck.1", "vision_encoder.neck.layer_norm1"),
    ("image_encoder.neck.2", "vision_encoder.neck.conv2"),
    ("image_encoder.neck.3", "vision_encoder.neck.layer_norm2"),
    ("image_encoder", "vision_encoder"),
    (
        "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
        "shared_image_embedding.positional_embedding",
    ),
    ("prompt_encoder.point_embeddings", "prompt_encoder.point_embed"),
    ("prompt_encoder.mask_downscaling.0", "prompt_encoder.mask_embed.conv1"),
    ("prompt_encoder.mask_downscaling.1", "prompt_encoder.mask_embed.layer_norm1"),
    ("prompt_encoder.mask_downscaling.3", "prompt_encoder.mask_embed.conv2"),
    ("prompt_encoder.mask_downscaling.4", "prompt_encoder.mask_embed.layer_norm2"),
    ("prompt_encoder.mask_downscaling.6", "prompt_encoder.mask_embed.conv3"),
    ("mask_decoder.transformer.norm_final_attn", "mask_decoder.transformer.layer_norm_final_attn"),
    ("mask_decoder.transformer.layers.*.norm1", "mask_decoder.transformer.layers.*.layer_norm1"),
    ("mask_decoder.transformer.layers.*.norm2", "mask_decoder.transformer.layers.*.layer_norm2"),
    ("mask_decoder.transformer.layers.*.norm3", "mask_decoder.transformer.layers.*.layer_norm3"),
    ("mask_decoder.transformer.layers.*.norm4", "mask_decoder.transformer.layers.*.layer_norm4"),
    ("mask_decoder.output_upscaling.0", "mask_decoder.upscale_conv1"),
    ("mask_decoder.output_upscaling.1", "mask_decoder.upscale_layer_norm"),
    ("mask_decoder.output_upscaling.3", "mask_decoder.upscale_conv2"),
    ("mask_decoder.output_hypernetworks_mlps.*", "mask_decoder.output_hypernetworks_mlps.*"),
    ("mask_decoder.iou_prediction_head", "mask_decoder.iou_prediction_head"),
    ("mask_decoder.hf_mlp", "mask_decoder.hq_mask_mlp"),
    ("mask_decoder.hf_token", "mask_decoder.hq_token"),
    ("mask_decoder.compress_vit_feat.0", "mask_decoder.compress_vit_conv1"),
    ("mask_decoder.compress_vit_feat.1", "mask_decoder.compress_vit_norm"),
    ("mask_decoder.compress_vit_feat.3", "mask_decoder.compress_vit_conv2"),
    ("mask_decoder.embedding_encoder.0", "mask_decoder.encoder_conv1"),
    ("mask_decoder.embedding_encoder.1", "mask_decoder.encoder_norm"),
    ("mask_decoder.embedding_encoder.3", "mask_decoder.encoder_conv2"),
    ("mask_decoder.embedding_maskfeature.0", "mask_decoder.mask_conv1"),
    ("mask_decoder.embedding_maskfeature.1", "mask_decoder.mask_norm"),
    ("mask_decoder.embedding_maskfeature.3", "mask_decoder.mask_conv2"),
];

/// Layers of a three-layer perceptron, published and in transformers.
const PERCEPTRON_LAYERS: [(&str, &str); 3] =
    [("layers.0", "proj_in"), ("layers.1", "layers.0"), ("layers.2", "proj_out")];
/// Where the perceptrons are, by the names that both sides may have.
const PERCEPTRONS: [&str; 4] = [
    "mask_decoder.output_hypernetworks_mlps.",
    "mask_decoder.iou_prediction_head.",
    "mask_decoder.hf_mlp.",
    "mask_decoder.hq_mask_mlp.",
];

/// transformers keeps a second copy of the positional matrix under this name.
const TIED_POSITIONS: &str = "prompt_encoder.shared_embedding.positional_embedding";

/// Epsilon of the layer norms inside the two-way transformer: torch's default, which SAM uses.
/// The default in transformers differs (1e-6) and would change the logits.
const DECODER_NORM_EPS: f64 = 1e-5;

fn to_transformers(name: &str) -> String {
    let name = perceptron_layer(name, PERCEPTRON_LAYERS);
    renamed(&name, RENAMED.iter().copied())
}

fn to_published(name: &str) -> String {
    if name == TIED_POSITIONS {
        return to_published("shared_image_embedding.positional_embedding");
    }
    let swapped = PERCEPTRON_LAYERS.map(|(published, other)| (other, published));
    // `layers.0` of transformers is the middle layer: looked up before the published names are back.
    let name = perceptron_layer(name, swapped);
    renamed(&name, RENAMED.iter().map(|(published, other)| (*other, *published)))
}

fn renamed<'a>(name: &str, table: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    for (from, to) in table {
        if let Some((number, rest)) = strip(name, from) {
            return format!("{}{rest}", to.replace('*', number));
        }
    }
    name.to_owned()
}

/// The number at `*` and what follows the pattern, when `name` starts with it at a whole segment.
fn strip<'n>(name: &'n str, pattern: &str) -> Option<(&'n str, &'n str)> {
    let (before, after) = pattern.split_once('*').unwrap_or((pattern, ""));
    let rest = name.strip_prefix(before)?;
    let digits = match pattern.contains('*') {
        true => rest.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(rest.len()),
        false => 0,
    };
    let (number, rest) = rest.split_at(digits);
    let rest = rest.strip_prefix(after)?;
    (rest.is_empty() || rest.starts_with('.')).then_some((number, rest))
}

fn perceptron_layer(name: &str, layers: [(&str, &str); 3]) -> String {
    let Some(start) = PERCEPTRONS.iter().find(|start| name.starts_with(**start)) else {
        return name.to_owned();
    };
    // One of the four hypernetworks has a number between its name and the layer.
    let inner = &name[start.len()..];
    let (number, inner) = match inner.split_once('.') {
        Some((number, inner)) if number.bytes().all(|byte| byte.is_ascii_digit()) => {
            (format!("{number}."), inner)
        }
        _ => (String::new(), inner),
    };
    for (from, to) in layers {
        if let Some(rest) = inner.strip_prefix(from).filter(|rest| rest.starts_with('.')) {
            return format!("{start}{number}{to}{rest}");
        }
    }
    name.to_owned()
}

/// Whether a folder looks like one that transformers saved.
pub(super) fn is_folder(path: &Path) -> bool {
    path.join(CONFIG_FILE).is_file() && path.join(WEIGHTS_FILE).is_file()
}

/// Reads the weights of a folder under their published names.
pub(super) fn read(folder: &Path) -> Result<StateDict, WeightsError> {
    if folder.join("model.safetensors.index.json").is_file() {
        return Err(WeightsError::Format {
            path: folder.to_owned(),
            reason: "its weights are split over several files: save it again with a larger \
                     max_shard_size"
                .into(),
        });
    }
    if !folder.join(WEIGHTS_FILE).is_file() {
        return Err(WeightsError::Folder { path: folder.to_owned() });
    }
    let state = super::safetensors::read(&folder.join(WEIGHTS_FILE))?.0;
    Ok(state.into_iter().map(|(name, tensor)| (to_published(&name), tensor)).collect())
}

#[derive(Deserialize)]
struct Sizes {
    model_type: String,
    vision_config: VisionSizes,
}

/// What of `vision_config` decides a shape or a result; absent keys have the defaults of ViT-B.
#[derive(Deserialize)]
struct VisionSizes {
    hidden_size: Option<i64>,
    num_hidden_layers: Option<i64>,
    num_attention_heads: Option<i64>,
    image_size: Option<i64>,
    patch_size: Option<i64>,
    mlp_dim: Option<i64>,
    window_size: Option<i64>,
    global_attn_indexes: Option<Vec<i64>>,
    qkv_bias: Option<bool>,
    use_rel_pos: Option<bool>,
    layer_norm_eps: Option<f64>,
}

/// The sizes that a folder's `config.json` states.
pub(super) fn read_encoder(folder: &Path) -> Result<EncoderConfig, WeightsError> {
    let path = folder.join(CONFIG_FILE);
    let refuse = |reason: String| WeightsError::Format { path: path.clone(), reason };
    let bytes =
        fs::read(&path).map_err(|source| WeightsError::Read { path: path.clone(), source })?;
    let sizes: Sizes = serde_json::from_slice(&bytes).map_err(|error| refuse(error.to_string()))?;
    if !["sam_hq", "sam"].contains(&sizes.model_type.as_str()) {
        return Err(refuse(format!("model_type is `{}`, not sam_hq or sam", sizes.model_type)));
    }
    let (vision, default) = (sizes.vision_config, VitConfig::default());
    let embed_dim = vision.hidden_size.unwrap_or(default.embed_dim);
    let encoder = EncoderConfig::Vit(VitConfig {
        img_size: vision.image_size.unwrap_or(default.img_size),
        patch_size: vision.patch_size.unwrap_or(default.patch_size),
        embed_dim,
        depth: vision.num_hidden_layers.unwrap_or(default.depth),
        num_heads: vision.num_attention_heads.unwrap_or(default.num_heads),
        mlp_ratio: vision.mlp_dim.map_or(default.mlp_ratio, |dim| dim as f64 / embed_dim as f64),
        window_size: vision.window_size.unwrap_or(default.window_size),
        global_attn_indexes: vision.global_attn_indexes.unwrap_or(default.global_attn_indexes),
        qkv_bias: vision.qkv_bias.unwrap_or(default.qkv_bias),
        use_rel_pos: vision.use_rel_pos.unwrap_or(default.use_rel_pos),
        norm_eps: vision.layer_norm_eps.unwrap_or(default.norm_eps),
        ..VitConfig::default()
    });
    encoder.validate().map_err(refuse)?;
    Ok(encoder)
}

/// Writes `config.json`, `preprocessor_config.json` and `model.safetensors`, the weights last.
///
/// # Errors
/// Any encoder but a ViT: transformers has no other for HQ-SAM.
pub(super) fn write(
    folder: &Path,
    state: &StateDict,
    encoder: &EncoderConfig,
) -> Result<(), WeightsError> {
    let EncoderConfig::Vit(vit) = encoder else {
        return Err(WeightsError::Config {
            reason: "transformers knows HQ-SAM with a ViT only; export TinyViT models as pth or \
                     safetensors"
                .into(),
        });
    };
    fs::create_dir_all(folder)
        .map_err(|source| WeightsError::Write { path: folder.to_owned(), source })?;
    for (name, value) in [(CONFIG_FILE, config_json(vit)), (PROCESSOR_FILE, processor_json(vit))] {
        let mut text = serde_json::to_string_pretty(&value).expect("JSON values serialise");
        text.push('\n');
        super::publish(&folder.join(name), |file| {
            use std::io::Write;
            file.write_all(text.as_bytes())
                .map_err(|source| WeightsError::Write { path: folder.join(name), source })
        })?;
    }
    let renamed: StateDict = state
        .iter()
        .map(|(name, tensor)| (to_transformers(name), tensor.shallow_clone()))
        .collect();
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    super::save_safetensors(&folder.join(WEIGHTS_FILE), &renamed, &metadata)
}

fn config_json(vit: &VitConfig) -> Value {
    json!({
        "architectures": ["SamHQModel"],
        "model_type": "sam_hq",
        "dtype": "float32",
        "vision_config": {
            "model_type": "sam_hq_vision_model",
            "hidden_size": vit.embed_dim,
            "num_hidden_layers": vit.depth,
            "num_attention_heads": vit.num_heads,
            "image_size": vit.img_size,
            "patch_size": vit.patch_size,
            "mlp_dim": (vit.embed_dim as f64 * vit.mlp_ratio).round() as i64,
            "mlp_ratio": vit.mlp_ratio,
            "window_size": vit.window_size,
            "global_attn_indexes": vit.global_attn_indexes,
            "qkv_bias": vit.qkv_bias,
            "use_rel_pos": vit.use_rel_pos,
            "layer_norm_eps": vit.norm_eps,
            "output_channels": vit.out_chans,
            "num_pos_feats": vit.out_chans / 2,
        },
        "prompt_encoder_config": {
            "model_type": "sam_hq_prompt_encoder",
            "hidden_size": vit.out_chans,
            "image_size": vit.img_size,
            "patch_size": vit.patch_size,
        },
        "mask_decoder_config": {
            "model_type": "sam_hq_mask_decoder",
            "hidden_size": vit.out_chans,
            "vit_dim": vit.embed_dim,
            "layer_norm_eps": DECODER_NORM_EPS,
        },
    })
}

/// The longer side to `img_size`, SAM's normalisation, zeros to the right and below.
fn processor_json(vit: &VitConfig) -> Value {
    let mask_size = vit.img_size / vit.patch_size * 4;
    json!({
        "image_processor_type": "SamImageProcessor",
        "processor_class": "SamHQProcessor",
        "do_convert_rgb": true,
        "do_resize": true,
        "size": { "longest_edge": vit.img_size },
        "resample": 2,
        "do_rescale": true,
        "rescale_factor": 1.0 / 255.0,
        "do_normalize": true,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "do_pad": true,
        "pad_size": { "height": vit.img_size, "width": vit.img_size },
        "mask_size": { "longest_edge": mask_size },
        "mask_pad_size": { "height": mask_size, "width": mask_size },
    })
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;
    use crate::model::SamHq;

    fn small() -> EncoderConfig {
        EncoderConfig::Vit(VitConfig {
            img_size: 64,
            embed_dim: 32,
            depth: 2,
            num_heads: 2,
            window_size: 2,
            global_attn_indexes: vec![1],
            ..VitConfig::default()
        })
    }

    #[test]
    fn every_name_goes_there_and_back() {
        let state = SamHq::random(&small(), 0, Device::Cpu).state_dict();
        let mut names = std::collections::BTreeSet::new();
        for name in state.keys() {
            let other = to_transformers(name);
            assert_eq!(to_published(&other), *name, "{other}");
            assert!(names.insert(other), "{name} shares its name with another tensor");
        }
        assert!(names.contains("mask_decoder.hq_mask_mlp.layers.0.weight"));
        assert!(names.contains("mask_decoder.output_hypernetworks_mlps.3.proj_out.bias"));
        assert!(names.contains("vision_encoder.layers.1.attn.rel_pos_h"));
    }

    #[test]
    fn a_folder_comes_back_with_its_sizes() {
        let folder = tempfile::tempdir().unwrap();
        let state = SamHq::random(&small(), 3, Device::Cpu).state_dict();
        write(folder.path(), &state, &small()).unwrap();
        assert!(is_folder(folder.path()));
        assert_eq!(read_encoder(folder.path()).unwrap(), small());
        let back = read(folder.path()).unwrap();
        assert!(back.keys().eq(state.keys()));
        assert!(back.iter().all(|(name, tensor)| *tensor == state[name]));
    }

    #[test]
    fn other_models_and_encoders_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(CONFIG_FILE), r#"{"model_type":"vit","vision_config":{}}"#)
            .unwrap();
        let error = read_encoder(folder.path()).unwrap_err().to_string();
        assert!(error.contains("`vit`, not sam_hq"), "{error}");
        let tiny = EncoderConfig::named("vit_tiny").unwrap();
        let error = write(folder.path(), &StateDict::new(), &tiny).unwrap_err().to_string();
        assert!(error.contains("ViT only"), "{error}");
    }
}
