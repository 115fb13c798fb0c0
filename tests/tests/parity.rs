//! Replays `golden/*.safetensors`, which `python/make_goldens.py` made with the published packages:
//! small models of random weights, every kind and mixture of prompts. Needs no Python; where there
//! is one, the files are made again and must be the committed ones.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use tch::{Device, Kind, Tensor};
use tests::{python, succeed, workspace_root};
use trainer::model::{
    DecodeOutput, EncoderConfig, HqInit, ImageFeatures, PromptBatch, SamHq, StateDict, Stem,
    TinyVitConfig, VitConfig,
};

use self::drawn::{pixels, weight};

#[path = "parity/drawn.rs"]
mod drawn;

/// Difference of a replayed value, relative to the largest of its tensor (or 1). Observed: below
/// 1e-5; sums of floats in another order.
const REPLAY: f64 = 1e-4;
/// The same where the resized pixels differ by one in 255 in a few places, as they do in the strip
/// alone. Observed: 6.3e-3.
const PREDICTION: f64 = 1e-2;
/// Share of a predicted mask's pixels that those logits may move over the threshold.
const MASK_PIXELS: f64 = 2e-3;
/// Difference of files made again, on another machine, by the same packages.
const REGENERATED: f64 = 2e-5;
/// Objects of each prompt in the files.
const PROMPTS: [&str; 10] = [
    "box",
    "point_foreground",
    "point_background",
    "points",
    "points_padded",
    "box_points",
    "mask",
    "mask_box",
    "mask_points",
    "mask_box_points",
];

fn golden(name: &str) -> StateDict {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    trainer::weights::load(&folder.join(format!("{name}.safetensors"))).unwrap().state
}

fn small_vit() -> EncoderConfig {
    EncoderConfig::Vit(VitConfig {
        img_size: 160,
        embed_dim: 64,
        depth: 3,
        num_heads: 2,
        window_size: 4,
        global_attn_indexes: vec![1, 2],
        ..VitConfig::default()
    })
}

fn small_tiny_vit() -> EncoderConfig {
    EncoderConfig::TinyVit(TinyVitConfig {
        embed_dims: [8, 16, 20, 320],
        depths: [1, 1, 2, 1],
        num_heads: [1, 2, 2, 10],
        stem: Stem::Stride4,
        ..TinyVitConfig::default()
    })
}

fn state(config: &EncoderConfig) -> StateDict {
    let shapes = SamHq::random(config, 0, Device::Cpu).state_dict();
    shapes.iter().map(|(name, tensor)| (name.clone(), weight(name, &tensor.size()))).collect()
}

fn model(config: &EncoderConfig, state: StateDict) -> SamHq {
    SamHq::from_state(config, state, HqInit::FromState, Device::Cpu).unwrap()
}

/// Comparisons with one file; `step` is that of the recorded logits' rows and columns.
struct Replay<'a> {
    model: &'a SamHq,
    golden: &'a StateDict,
    step: i64,
    mismatches: Vec<String>,
    largest: f64,
}

impl<'a> Replay<'a> {
    fn new(model: &'a SamHq, golden: &'a StateDict, step: i64) -> Self {
        Self { model, golden, step, mismatches: Vec::new(), largest: 0.0 }
    }

    fn near(&mut self, name: &str, found: &Tensor) {
        let expected = &self.golden[name];
        if found.size() != expected.size() {
            let (found, expected) = (found.size(), expected.size());
            self.mismatches.push(format!("{name}: shape {found:?} for {expected:?}"));
            return;
        }
        let error = relative_error(found, expected);
        self.largest = self.largest.max(error);
        // NaN is a mismatch as well.
        if error.is_nan() || error > REPLAY {
            self.mismatches.push(format!("{name}: differs by {error:.2e} of the largest value"));
        }
    }

    fn input(&self, number: i64) -> Tensor {
        let size = Vec::<i64>::try_from(&self.golden[&format!("image.{number}.size")]).unwrap();
        let image = Tensor::from_slice(&pixels(number, size[0], size[1]));
        self.model.preprocess(&image.view([1, size[0], size[1], 3]))
    }

    fn prompt(&self, name: &str) -> PromptBatch {
        let of = |part: &str| self.golden.get(&format!("{name}.{part}")).map(Tensor::shallow_clone);
        match (of("point_coords").zip(of("point_labels")), of("boxes"), of("mask_inputs")) {
            (None, Some(boxes), None) => PromptBatch::Boxes(boxes),
            (Some((coords, labels)), None, None) => PromptBatch::Points { coords, labels },
            (None, None, Some(masks)) => PromptBatch::Masks(masks),
            (points, boxes, masks) => PromptBatch::Mixed { points, boxes, masks },
        }
    }

    fn decode(&mut self, name: &str, features: &ImageFeatures) {
        let prompts = self.model.embed_prompts(&self.prompt(name));
        self.near(&format!("{name}.sparse_prompt_embeddings"), &prompts.sparse_prompt_embeddings);
        let dense = format!("{name}.dense_prompt_embeddings");
        if self.golden.contains_key(&dense) {
            self.near(&dense, &prompts.dense_prompt_embeddings.slice(1, 0, None, 16));
        }
        let only = self.model.decode(features, &prompts, DecodeOutput::Hq).hq_logits.unwrap();
        self.near(&format!("{name}.hq"), &self.strided(&only));
        for (kind, multimask) in [("sum", false), ("best", true)] {
            let both = self.model.decode(features, &prompts, DecodeOutput::Both { multimask });
            let sum = both.hq_logits.unwrap() + both.sam_logits.unwrap();
            self.near(&format!("{name}.{kind}"), &self.strided(&sum));
            self.near(&format!("{name}.{kind}_iou"), &both.iou_predictions.unwrap());
        }
    }

    fn strided(&self, logits: &Tensor) -> Tensor {
        logits.slice(2, 0, None, self.step).slice(3, 0, None, self.step)
    }
}

fn relative_error(found: &Tensor, expected: &Tensor) -> f64 {
    if expected.numel() == 0 {
        return 0.0;
    }
    let (found, expected) = (found.to_kind(Kind::Double), expected.to_kind(Kind::Double));
    let scale = expected.abs().max().double_value(&[]).max(1.0);
    (found - expected).abs().max().double_value(&[]) / scale
}

/// What `vit.safetensors` has about `prompts`, and the other images where these are all; the images
/// go through the encoder as one batch.
fn replay_vit(model: &SamHq, golden: &StateDict, prompts: &[&str]) -> (Vec<String>, f64) {
    let mut replay = Replay::new(model, golden, 3);
    let images = if prompts == PROMPTS { 3 } else { 1 };
    let inputs: Vec<Tensor> = (0..images).map(|number| replay.input(number)).collect();
    let features = tch::no_grad(|| model.encode(&Tensor::cat(&inputs, 0)));
    for number in 0..images {
        let one = features.select(&[number]);
        let embeddings = one.image_embeddings.slice(1, 0, None, 8);
        replay.near(&format!("image.{number}.image_embeddings"), &embeddings);
        let interm = one.interm_embeddings.slice(3, 0, None, 4);
        replay.near(&format!("image.{number}.interm_embeddings"), &interm);
    }
    tch::no_grad(|| {
        for name in prompts {
            replay.decode(name, &features.select(&[0]));
        }
        if images == 3 {
            replay.decode("images", &features.select(&[1, 2]));
        }
    });
    (replay.mismatches, replay.largest)
}

#[test]
#[expect(clippy::print_stdout, reason = "the measured difference belongs to the result")]
fn a_small_vit_computes_what_the_published_package_does() {
    let golden = golden("vit");
    let (mismatches, largest) =
        replay_vit(&model(&small_vit(), state(&small_vit())), &golden, &PROMPTS);
    println!("vit: largest difference {largest:.2e}");
    assert!(mismatches.is_empty(), "{}", mismatches.join("\n"));
}

#[test]
#[expect(clippy::print_stdout, reason = "the measured difference belongs to the result")]
fn a_small_tiny_vit_computes_what_the_published_package_does() {
    let golden = golden("tiny_vit");
    let model = model(&small_tiny_vit(), state(&small_tiny_vit()));
    let mut replay = Replay::new(&model, &golden, 13);
    let features = model.encode(&replay.input(0));
    let every_fifth =
        |tensor: &Tensor, row: i64| tensor.slice(row, 0, None, 5).slice(row + 1, 0, None, 5);
    let embeddings = every_fifth(&features.image_embeddings.slice(1, 0, None, 16), 2);
    replay.near("image.0.image_embeddings", &embeddings);
    replay.near("image.0.interm_embeddings", &every_fifth(&features.interm_embeddings, 1));
    tch::no_grad(|| {
        for name in ["box", "points"] {
            replay.decode(name, &features);
        }
    });
    println!("tiny_vit: largest difference {:.2e}", replay.largest);
    assert!(replay.mismatches.is_empty(), "{}", replay.mismatches.join("\n"));
}

/// A replay that compared too little would let a lost tensor pass.
#[test]
fn no_tensor_can_be_lost_unseen() {
    let golden = golden("vit");
    let whole = state(&small_vit());
    // Together they read every embedding of the prompt encoder.
    let prompts = ["points_padded", "mask_box"];
    // Hundreds of small models: threads would only wait for each other.
    tch::set_num_threads(1);
    let mut unseen = Vec::new();
    for name in whole.keys() {
        let mut broken: StateDict =
            whole.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect();
        broken.insert(name.clone(), whole[name].zeros_like());
        let is_seen = !replay_vit(&model(&small_vit(), broken), &golden, &prompts).0.is_empty();
        // The bias of a key adds the same to every score of a query, which softmax takes away.
        if !is_seen && !name.ends_with("k_proj.bias") {
            unseen.push(name.clone());
        }
    }
    // Of SAM's masks for ambiguous prompts only the best is returned.
    let mut is_chosen = [false; 4];
    (1..4).for_each(|index| {
        let start = format!("mask_decoder.output_hypernetworks_mlps.{index}.");
        is_chosen[index] = !unseen.iter().any(|name| name.starts_with(&start));
    });
    assert!(is_chosen.contains(&true), "no replayed prompt has three masks");
    unseen.retain(|name| !name.starts_with("mask_decoder.output_hypernetworks_mlps."));
    assert!(unseen.is_empty(), "zeroed and nobody noticed: {unseen:?}");
}

/// The same of TinyViT's encoder, of the recorded weights on a smaller picture, for its tensors do not
/// depend on the picture's size; what decodes is the ViT's.
#[test]
fn no_tensor_of_tiny_vit_can_be_lost_unseen() {
    let EncoderConfig::TinyVit(recorded) = small_tiny_vit() else { unreachable!() };
    let config = EncoderConfig::TinyVit(TinyVitConfig { img_size: 64, ..recorded });
    let image = Tensor::from_slice(&pixels(0, 64, 64)).view([1, 64, 64, 3]);
    let features = |state: StateDict| {
        let model = model(&config, state);
        model.encode(&model.preprocess(&image))
    };
    let whole = state(&config);
    let copy = || -> StateDict {
        whole.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect()
    };
    let expected = features(copy());
    // Counts of training and the head that classifies, which nothing reads.
    let unread = [
        "num_batches_tracked",
        ".norm_head.weight",
        ".norm_head.bias",
        ".head.weight",
        ".head.bias",
    ];
    let is_read = |name: &&String| {
        name.starts_with("image_encoder.") && !unread.iter().any(|end| name.ends_with(end))
    };
    let mut tried = 0;
    for name in whole.keys().filter(is_read) {
        let mut broken = copy();
        broken.insert(name.clone(), whole[name].zeros_like());
        let found = features(broken);
        let error = relative_error(&found.image_embeddings, &expected.image_embeddings)
            .max(relative_error(&found.interm_embeddings, &expected.interm_embeddings));
        // A variance of zero may leave nothing that is a number.
        assert!(error.is_nan() || error > REPLAY, "{name}: zeroed and nobody noticed, {error:.1e}");
        tried += 1;
    }
    assert!(tried > 100, "only {tried} tensors were tried");
}

#[test]
fn exchanged_prompts_are_noticed() {
    let mut golden = golden("vit");
    let model = model(&small_vit(), state(&small_vit()));
    for (one, other) in [("point_foreground", "point_background"), ("mask_box", "mask_points")] {
        for part in ["boxes", "point_coords", "point_labels"] {
            let keys = [format!("{one}.{part}"), format!("{other}.{part}")];
            let [first, second] = keys.each_ref().map(|key| golden.remove(key));
            let [first_key, second_key] = keys;
            golden.extend(second.map(|tensor| (first_key, tensor)));
            golden.extend(first.map(|tensor| (second_key, tensor)));
        }
        let (mismatches, _) = replay_vit(&model, &golden, &PROMPTS);
        for name in [one, other] {
            let of_it = mismatches.iter().filter(|text| text.starts_with(&format!("{name}.")));
            assert!(of_it.count() >= 3, "{name}: {mismatches:?}");
        }
    }
}

/// Pixels of the two masks that differ, as a share.
fn differing(found: &[u8], bits: &[u8]) -> f64 {
    let expected = |index: usize| bits[index / 8] >> (7 - index % 8) & 1 == 1;
    let wrong = found.iter().enumerate().filter(|(index, v)| (**v > 128) != expected(*index));
    wrong.count() as f64 / found.len() as f64
}

#[test]
#[expect(clippy::print_stdout, reason = "the measured difference belongs to the result")]
fn whole_predictions_have_the_published_masks_in_original_sizes() {
    let golden = golden("predict");
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    trainer::weights::save_pth(&folder.join("model.pth"), &state(&small_vit())).unwrap();
    for (number, name) in ["larger", "smaller", "equal", "strip"].into_iter().enumerate() {
        let of = |part: &str| &golden[&format!("{name}.{part}")];
        let numbers = |part: &str| {
            Vec::<f64>::try_from(of(part).to_kind(Kind::Double).flatten(0, -1)).unwrap()
        };
        let (size, corners, coords) = (numbers("size"), numbers("box"), numbers("coords"));
        let image = pixels(number as i64 + 5, size[0] as i64, size[1] as i64);
        let (height, width) = (size[0] as u32, size[1] as u32);
        let path = folder.join("image.png");
        image::save_buffer(path, &image, width, height, image::ColorType::Rgb8).unwrap();
        let corners: Vec<String> = corners.iter().map(f64::to_string).collect();
        let (box_, points) = (
            corners.join(","),
            [format!("{},{},1", coords[0], coords[1]), format!("{},{},0", coords[2], coords[3])],
        );
        let mode = if numbers("flags")[1] == 1.0 { "hq" } else { "sum" };
        let mut arguments = vec!["predict", "model.pth", "image.png", "--box", &box_];
        arguments.extend(["--point", &points[0], "--point", &points[1], "--mode", mode]);
        arguments.extend(["--logits", "logits.safetensors", "-o", "mask.png"]);
        arguments.extend((numbers("flags")[0] == 1.0).then_some("--multimask"));
        let _ = succeed(folder, "hqsam", &arguments);

        let found = trainer::weights::load(&folder.join("logits.safetensors")).unwrap().state;
        let logits = found["low_res_logits"].view([1, 40, 40]);
        let error = relative_error(&logits, of("low_res_logits"));
        let mask = image::open(folder.join("mask.png")).unwrap().to_luma8();
        assert_eq!(mask.dimensions(), (width, height), "{name}");
        let bits = Vec::<u8>::try_from(of("mask_bits")).unwrap();
        let share = differing(mask.as_raw(), &bits);
        let scores = relative_error(&found["iou_predictions"].view([1, 1]), of("iou"));
        println!(
            "{name}: logits differ by {error:.2e}, IoU by {scores:.2e}, {share:.5} of the pixels"
        );
        let tolerance = if name == "strip" { PREDICTION } else { REPLAY };
        assert!(error < tolerance, "{name}: logits differ by {error}");
        assert!(scores < REPLAY, "{name}: predicted IoU differs by {scores}");
        assert!(share < MASK_PIXELS, "{name}: {share} of the pixels differ");
        // Other interpolations and a forgotten padding would be noticed.
        let side = i64::from(width.max(height));
        let wrong = [
            of("low_res_logits").unsqueeze(0).upsample_nearest2d([side, side], None, None),
            of("low_res_logits").unsqueeze(0).upsample_bilinear2d(
                [i64::from(height), i64::from(width)],
                true,
                None,
                None,
            ),
        ];
        for logits in wrong {
            let cut = logits.narrow(2, 0, i64::from(height)).narrow(3, 0, i64::from(width));
            let cut = cut.gt(0.0).to_kind(Kind::Uint8).flatten(0, -1) * 255;
            let share = differing(&Vec::<u8>::try_from(cut).unwrap(), &bits);
            assert!(share > MASK_PIXELS, "{name}: {share}");
        }
    }
}

#[test]
fn the_committed_files_are_what_the_script_makes() {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().unwrap();
    let script: PathBuf = workspace_root().join("tests/python/make_goldens.py");
    let output = Command::new(python).arg(script).arg(folder.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for name in ["vit", "tiny_vit", "predict"] {
        let committed = golden(name);
        let path = folder.path().join(format!("{name}.safetensors"));
        let made: BTreeMap<_, _> = trainer::weights::load(&path).unwrap().state;
        assert!(committed.keys().eq(made.keys()), "{name}: other tensors");
        for (key, tensor) in &made {
            assert_eq!(tensor.size(), committed[key].size(), "{name} {key}");
            if key.ends_with("mask_bits") {
                let differ = tensor.ne_tensor(&committed[key]).sum(Kind::Int64).int64_value(&[]);
                assert!(differ <= 2, "{name} {key}: {differ} bytes differ");
                continue;
            }
            let error = relative_error(tensor, &committed[key]);
            assert!(error < REGENERATED, "{name} {key}: differs by {error:.2e}");
        }
    }
}
