//! The whole model on sizes small enough for a second, and on real weights where they are given.

use tch::{Device, Kind, Tensor, no_grad};

use super::*;
use crate::loss::{LossConfig, point_sampled_loss};
use crate::loss_points::draw_loss_points;
use crate::weights::WeightsError;

fn tiny_vit() -> EncoderConfig {
    EncoderConfig::TinyVit(TinyVitConfig {
        img_size: 64,
        embed_dims: [8, 16, 16, 32],
        depths: [1, 1, 1, 1],
        num_heads: [1, 2, 2, 2],
        stem: Stem::Pointwise,
        ..TinyVitConfig::default()
    })
}

fn vit() -> EncoderConfig {
    EncoderConfig::Vit(VitConfig {
        img_size: 128,
        embed_dim: 16,
        depth: 2,
        num_heads: 2,
        window_size: 3,
        global_attn_indexes: vec![1],
        ..VitConfig::default()
    })
}

fn images(model: &SamHq, batch: i64) -> Tensor {
    let side = model.config().img_size();
    let ramp = Tensor::arange(batch * side * side * 3, (Kind::Int64, Device::Cpu));
    (ramp * 7919).remainder(251).view([batch, side, side, 3]).to_kind(Kind::Uint8)
}

fn assert_near(found: &Tensor, expected: &Tensor) {
    assert_eq!(found.size(), expected.size());
    let error = (found - expected).abs().max().double_value(&[]);
    let scale = expected.abs().max().double_value(&[]).max(1.0);
    assert!(error < 1e-4 * scale, "differs by {error}");
}

#[test]
fn a_batch_is_its_images_one_by_one_and_all_prompts_mix() {
    for config in [tiny_vit(), vit()] {
        let model = SamHq::random(&config, 1, Device::Cpu);
        let features = model.encode(&model.preprocess(&images(&model, 2)));
        let boxes =
            Tensor::from_slice(&[1.0f32, 2.0, 30.0, 40.0, 5.0, 6.0, 50.0, 20.0]).view([2, 4]);
        let decode = |features: &ImageFeatures, boxes: &Tensor, output| {
            let prompts = model.embed_prompts(&PromptBatch::Boxes(boxes.shallow_clone()));
            no_grad(|| model.decode(features, &prompts, output))
        };
        let both = decode(&features, &boxes, DecodeOutput::Both { multimask: true });
        let hq = both.hq_logits.unwrap();
        assert_near(&decode(&features, &boxes, DecodeOutput::Hq).hq_logits.unwrap(), &hq);
        for index in 0..2 {
            let one =
                decode(&features.select(&[index]), &boxes.narrow(0, index, 1), DecodeOutput::Hq);
            assert_near(&one.hq_logits.unwrap(), &hq.narrow(0, index, 1));
        }
        let first = features.select(&[0]);
        let repeated = decode(&first.repeat(2), &boxes, DecodeOutput::Hq).hq_logits.unwrap();
        assert_near(&decode(&first, &boxes, DecodeOutput::Hq).hq_logits.unwrap(), &repeated);
        assert_eq!(hq.size()[2], model.logits_size());
    }
}

#[test]
fn gradients_reach_all_25_trained_tensors_and_nothing_else() {
    let model = SamHq::random(&tiny_vit(), 1, Device::Cpu);
    let parameters = model.hq_parameters();
    assert_eq!(parameters.len(), 25);
    let features = model.encode(&model.preprocess(&images(&model, 1)));
    assert!(!features.image_embeddings.requires_grad());
    let coords = Tensor::from_slice(&[3.0f32, 4.0]).view([1, 1, 2]);
    let labels = Tensor::from_slice(&[1.0f32]).view([1, 1]);
    let prompts = model.embed_prompts(&PromptBatch::Points { coords, labels });
    assert_eq!(prompts.sparse_prompt_embeddings.size(), [1, 2, 256]);
    let logits = model.decode(&features, &prompts, DecodeOutput::Hq).hq_logits.unwrap();
    logits.square().sum(Kind::Float).backward();
    for (name, parameter) in &parameters {
        assert!(parameter.grad().abs().max().double_value(&[]) > 0.0, "{name} has no gradient");
    }
    let before = model.state_dict()["mask_decoder.hf_token.weight"].copy();
    let _ = no_grad(|| parameters[0].1.shallow_clone().g_add_scalar_(1.0));
    assert_near(&model.state_dict()["mask_decoder.hf_token.weight"], &(before + 1.0));
}

#[test]
fn a_state_dict_comes_back_whole() {
    for config in [tiny_vit(), vit()] {
        let model = SamHq::random(&config, 5, Device::Cpu);
        let state = model.state_dict();
        let again = SamHq::from_state(&config, model.state_dict(), HqInit::FromState, Device::Cpu);
        let again = again.unwrap().state_dict();
        assert_eq!(state.keys().collect::<Vec<_>>(), again.keys().collect::<Vec<_>>());
        assert!(state.iter().all(|(name, tensor)| *tensor == again[name]));
    }
}

/// Largest relative L2 distance of bfloat16's features from float32's; each rounding is off by up
/// to 2^-9, and the roundings of all layers add up.
const BF16_FEATURES: f64 = 0.02;
/// The same of the loss.
const BF16_LOSS: f64 = 0.01;

#[test]
fn bfloat16_stays_near_float32_in_features_and_loss() {
    let loss_config = LossConfig { num_points: 64, ..LossConfig::default() };
    for config in [tiny_vit(), vit()] {
        let load = |precision| SamHq::random_in(precision, &config, 4, Device::Cpu);
        let float = load(Precision::Float32);
        let bf16 = load(Precision::BFloat16);
        assert_eq!(bf16.encoder_precision(), Precision::BFloat16);
        let input = float.preprocess(&images(&float, 2));
        let features = [float.encode(&input), bf16.encode(&input)];
        let distance = |of: fn(&ImageFeatures) -> &Tensor| {
            let difference = (of(&features[0]) - of(&features[1])).norm();
            (difference / of(&features[0]).norm()).double_value(&[])
        };
        for distance in [distance(|f| &f.image_embeddings), distance(|f| &f.interm_embeddings)] {
            assert!(distance > 0.0 && distance < BF16_FEATURES, "{config:?}: {distance}");
        }
        let boxes = Tensor::from_slice(&[5.0f32, 6.0, 50.0, 40.0]).view([1, 4]).repeat([2, 1]);
        let prompts = float.embed_prompts(&PromptBatch::Boxes(boxes));
        let side = float.logits_size();
        let target = Tensor::zeros([2, 1, side, side], (Kind::Float, Device::Cpu));
        let points = draw_loss_points(&loss_config, 1, 0, &["a", "b"], Device::Cpu);
        let [loss, rounded] = features.map(|features| {
            let decoded = no_grad(|| float.decode(&features, &prompts, DecodeOutput::Hq));
            let logits = decoded.hq_logits.unwrap();
            point_sampled_loss(&logits, &target, &points, &loss_config).total().double_value(&[])
        });
        assert!((loss - rounded).abs() < BF16_LOSS * loss, "{config:?}: {loss} {rounded}");
    }
}

/// What a model computes, by every path of the encoders and the decoder.
fn everything_computed(model: &SamHq) -> Vec<Tensor> {
    let features = model.encode(&model.preprocess(&images(model, 2)));
    let side = model.logits_size();
    // The same values whichever model asks, spread over 0 to 1.
    let spread = |size: &[i64]| {
        let index = Tensor::arange(size.iter().product::<i64>(), (Kind::Float, Device::Cpu));
        (index * 0.618_034).frac().view(size)
    };
    let points = |label: f32| {
        let labels = Tensor::from_slice(&[label, 1.0 - label, -1.0]).view([1, 3]).repeat([2, 1]);
        (spread(&[2, 3, 2]) * 60.0, labels)
    };
    let prompts = PromptBatch::Mixed {
        points: Some(points(1.0)),
        boxes: Some(spread(&[2, 4]) * 60.0),
        masks: Some(spread(&[2, 1, side, side])),
    };
    let mut found = vec![features.image_embeddings.copy(), features.interm_embeddings.copy()];
    let (coords, labels) = points(0.0);
    for prompts in [prompts, PromptBatch::Points { coords, labels }] {
        let prompts = model.embed_prompts(&prompts);
        for output in [DecodeOutput::Both { multimask: false }, DecodeOutput::SamEach] {
            let decoded = no_grad(|| model.decode(&features, &prompts, output));
            let logits = [decoded.hq_logits, decoded.sam_logits, decoded.iou_predictions];
            found.extend(logits.into_iter().flatten());
        }
        found.extend([prompts.sparse_prompt_embeddings, prompts.dense_prompt_embeddings]);
    }
    found
}

/// A tensor that computes and is not listed keeps the values of its own model, and the results
/// differ.
#[test]
fn models_with_equal_listed_tensors_compute_the_same() {
    for config in [tiny_vit(), vit()] {
        for precision in [Precision::Float32, Precision::BFloat16] {
            let [one, other] = [1, 2].map(|seed| {
                let mut state = SamHq::random(&config, seed, Device::Cpu).state_dict();
                // Norms begin alike: without this, one that is not listed would not show.
                for tensor in state.values_mut().filter(|tensor| tensor.is_floating_point()) {
                    *tensor += tensor.rand_like() * 0.1;
                }
                let hq = HqInit::FromState;
                SamHq::from_state_in(precision, &config, state, hq, Device::Cpu).unwrap()
            });
            assert_ne!(everything_computed(&one), everything_computed(&other));
            let listed = [one.frozen_tensors(), other.frozen_tensors()];
            assert_eq!(listed[0].len(), listed[1].len());
            let trained = one.hq_parameters().into_iter().zip(other.hq_parameters());
            let [listed_one, listed_other] = listed;
            no_grad(|| {
                for ((_, from), (_, mut to)) in
                    listed_one.into_iter().zip(listed_other).chain(trained)
                {
                    to.copy_(&from);
                }
            });
            let found = everything_computed(&one).into_iter().zip(everything_computed(&other));
            for (index, (one, other)) in found.enumerate() {
                assert!(one.equal(&other), "{config:?} {precision:?}: result {index} differs");
            }
        }
    }
}

#[test]
fn misfits_are_reported_by_part() {
    let config = vit();
    let mut state = SamHq::random(&config, 5, Device::Cpu).state_dict();
    state.retain(|name, _| !name.contains("hf_mlp") && !name.contains("blocks.1."));
    let token = Tensor::zeros([1, 256], (Kind::Int64, Device::Cpu));
    state.insert("mask_decoder.iou_token.weight".into(), token);
    state.insert("image_encoder.extra".into(), Tensor::from(0.0));
    state.insert("prompt_encoder.no_mask_embed.weight".into(), Tensor::from(0.0));
    let text = match SamHq::from_state(&config, state, HqInit::FromState, Device::Cpu) {
        Err(error @ WeightsError::Keys(_)) => error.to_string(),
        _ => panic!("refused with a report"),
    };
    assert!(text.contains("\n  mask_decoder.hf_mlp.*: 6 missing"), "{text}");
    assert!(text.contains("\n  image_encoder.blocks.1.*: 14 missing"), "{text}");
    assert!(text.contains("\n  image_encoder.extra: unexpected"), "{text}");
    assert!(
        text.contains("no_mask_embed.weight: of another shape (needs [1, 256], found [])"),
        "{text}"
    );
    assert!(text.contains("iou_token.weight: not of floating-point numbers (Int64)"), "{text}");
}

#[test]
fn an_impossible_encoder_is_refused_with_the_reason() {
    let config = EncoderConfig::Vit(VitConfig { img_size: 100, ..VitConfig::default() });
    let result = SamHq::from_state(&config, StateDict::new(), HqInit::FromState, Device::Cpu);
    assert!(result.is_err_and(|error| error.to_string().contains("multiple of patch_size")));
}

#[test]
fn small_images_are_padded_after_normalising() {
    let model = SamHq::random(&vit(), 1, Device::Cpu);
    let pixels = Tensor::full([1, 100, 90, 3], 10, (Kind::Uint8, Device::Cpu));
    let input = model.preprocess(&pixels);
    assert_eq!(input.size(), [1, 3, 128, 128]);
    assert_eq!(input.double_value(&[0, 1, 100, 0]), 0.0);
    assert!((input.double_value(&[0, 0, 99, 89]) - (10.0 - 123.675) / 58.395).abs() < 1e-5);
}

#[test]
fn published_sizes_give_the_published_number_of_trained_values() {
    let count = |name: &str| -> i64 {
        let specs = spec::hq_specs(&EncoderConfig::named(name).unwrap());
        specs.iter().map(|spec| spec.shape.iter().product::<i64>()).sum()
    };
    let published = [
        ("vit_b", 1_071_104),
        ("vit_l", 1_333_248),
        ("vit_h", 1_595_392),
        ("vit_tiny", 448_512),
        ("lite_medsam", 448_512),
    ];
    for (name, values) in published {
        assert_eq!(count(name), values, "{name}");
        assert_eq!(EncoderConfig::named(name).unwrap().num_trained_values(), values, "{name}");
    }
    for name in EncoderConfig::names() {
        assert_eq!(EncoderConfig::named(name).unwrap().embedding_size(), 64, "{name}");
    }
}

#[test]
fn a_configuration_reads_as_written() {
    let text = r#"{"kind": "tiny_vit", "img_size": 256, "stem": "pointwise"}"#;
    let config: EncoderConfig = serde_json::from_str(text).unwrap();
    let again = serde_json::from_str(&serde_json::to_string(&config).unwrap()).unwrap();
    assert_eq!(config, again);
    assert!(serde_json::from_str::<EncoderConfig>(r#"{"kind": "vit", "dept": 3}"#).is_err());
}
