//! The published LiteMedSAM weights, on which the measured results rest: loaded, and computed as their
//! own Python package does, pointwise stem and min-max normalisation included.

use std::process::Command;

use tch::{Device, Kind, Tensor, no_grad};
use tests::{lite_medsam, python, workspace_root};
use trainer::model::{DecodeOutput, EncoderConfig, HqInit, PromptBatch, SamHq, StateDict};
use trainer::weights::{self, CheckpointKind};

/// Difference from the package's values, relative to the largest of a tensor (or 1). Observed: below
/// 1e-5; sums of floats in another order, through batch norms that are folded here.
const PACKAGE: f64 = 1e-4;

#[test]
fn the_weights_load_whole_and_lack_the_hq_part_only() {
    let Some(path) = lite_medsam() else { return };
    let config = EncoderConfig::named("lite_medsam").unwrap();
    let load = || weights::load(&path).unwrap();
    assert_eq!(load().kind, CheckpointKind::Sam);
    let lacking = SamHq::from_state(&config, load().state, HqInit::FromState, Device::Cpu);
    let lacking = lacking.err().unwrap().to_string();
    assert!(lacking.contains("mask_decoder.hf_token.weight: missing"), "{lacking}");
    let fresh = HqInit::Fresh { seed: 3 };
    let state = SamHq::from_state(&config, load().state, fresh, Device::Cpu).unwrap().state_dict();
    assert!(load().state.iter().all(|(name, tensor)| state[name] == *tensor));
}

#[test]
#[expect(clippy::print_stdout, reason = "the measured difference belongs to the result")]
fn the_weights_compute_what_their_own_package_does() {
    let (Some(path), Some(python)) = (lite_medsam(), python()) else { return };
    let folder = tempfile::tempdir().unwrap();
    let [given, found] = ["given.safetensors", "found.safetensors"].map(|n| folder.path().join(n));
    // A picture that does not fill the range of its values, nor the encoder's square.
    let (drawn, _) = dataset::draw::draw_pair(3, 0, (200, 256));
    let image = Tensor::from_slice(&drawn.pixels).view([1, 200, 256, 3]);
    let image = (image.to_kind(Kind::Float) * 0.5 + 40.0).to_kind(Kind::Uint8);
    let float = |values: &[f32], shape: &[i64]| Tensor::from_slice(values).view(shape);
    let boxes = float(&[20.0, 30.0, 180.0, 150.0, 90.5, 8.25, 250.0, 199.0], &[2, 4]);
    let coords = float(&[60.0, 70.0, 200.0, 20.0, 128.0, 100.0, 10.0, 190.0], &[2, 2, 2]);
    let labels = float(&[1.0, 0.0, 1.0, 1.0], &[2, 2]);
    let inputs =
        [("image", image.get(0)), ("boxes", boxes), ("coords", coords), ("labels", labels)];
    let inputs: StateDict = inputs.map(|(name, tensor)| (name.to_owned(), tensor)).into();
    weights::save_safetensors(&given, &inputs, &Default::default()).unwrap();
    let output = Command::new(python)
        .arg(workspace_root().join("tests/python/compare_lite_medsam.py"))
        .args([&path, &given, &found])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let expected = weights::load(&found).unwrap().state;

    let config = EncoderConfig::named("lite_medsam").unwrap();
    let (state, fresh) = (weights::load(&path).unwrap().state, HqInit::Fresh { seed: 3 });
    let model = SamHq::from_state(&config, state, fresh, Device::Cpu).unwrap();
    let input = model.preprocess(&image);
    let features = model.encode(&input);
    let mut ours = StateDict::from([
        ("input".to_owned(), input),
        ("image_embeddings".to_owned(), features.image_embeddings.shallow_clone()),
        ("interm_embeddings".to_owned(), features.interm_embeddings.shallow_clone()),
    ]);
    let of = |name: &str| inputs[name].shallow_clone();
    let prompts = [
        ("box", PromptBatch::Boxes(of("boxes"))),
        ("points", PromptBatch::Points { coords: of("coords"), labels: of("labels") }),
    ];
    for (name, prompt) in prompts {
        let prompt = model.embed_prompts(&prompt);
        let kinds =
            [("single", DecodeOutput::Sam { multimask: false }), ("each", DecodeOutput::SamEach)];
        for (kind, output) in kinds {
            let decoded = no_grad(|| model.decode(&features, &prompt, output));
            ours.insert(format!("{name}.{kind}"), decoded.sam_logits.unwrap());
            ours.insert(format!("{name}.{kind}_iou"), decoded.iou_predictions.unwrap());
        }
    }
    assert_eq!(ours.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (name, expected) in &expected {
        assert_eq!(ours[name].size(), expected.size(), "{name}");
        let scale = expected.abs().max().double_value(&[]).max(1.0);
        let error = (&ours[name] - expected).abs().max().double_value(&[]) / scale;
        println!("{name}: {error:.1e}");
        assert!(error < PACKAGE, "{name}: differs by {error:.2e} of the largest value");
    }
}
