//! Replays values recorded from the published training code: augmentation, prompts, the model's
//! forward pass, five training steps, and metrics. Every case of `index.json` is handled by its kind.

use std::path::{Path, PathBuf};

use dataset::augment::{JitterParams, LargeScaleJitter};
use dataset::codec::{DecodeLimits, decode_image, decode_mask};
use dataset::prompt::{box_prompt, downscale_mask, noise_mask, points_from_permutation};
use dataset::raster::{Mask255, RgbRaster};
use serde_json::Value;
use tch::{Device, Kind, Tensor};
use trainer::loss::{LossConfig, LossPoints, point_sampled_loss};
use trainer::metrics::{boundary_iou, mask_iou, upsample_logits};
use trainer::model::{
    DecodeOutput, EncoderConfig, HqInit, ImageFeatures, PromptBatch, PromptEmbeddings, SamHq,
    StateDict,
};
use trainer::optim::{Adam, AdamConfig};

/// 8-bit results against recorded floats: truncation costs up to 1.
const JITTER_MAX: f64 = 1.0;
/// And half of that on average.
const JITTER_MEAN: f64 = 0.5;
/// Pixels of a noise mask that may fall on the other side of its threshold.
const NOISE_MASK_PIXELS: f64 = 10.0;
/// Resampled masks, values 0 to 1 of which the recording keeps float32.
const MASK_256: f64 = 1e-5;
/// Embeddings and logits.
const FORWARD: f64 = 1e-4;
/// Loss of each step.
const LOSS: f64 = 1e-4;
/// Norm of each gradient of the first step, relative.
const GRADIENT_NORM: f64 = 1e-4;
/// First values of each gradient, relative to its largest recorded one.
const GRADIENT_HEAD: f64 = 1e-3;
/// Norm of each parameter after the last step, relative.
const PARAMETER_NORM: f64 = 1e-5;
/// First values of each parameter after the last step. Adam divides by the gradient's size, so where
/// a gradient is near zero its rounding moves a parameter by up to the learning rate of 0.001.
const PARAMETER_HEAD: f64 = 1e-3;
/// Logits after the last step, which those parameters move.
const FINAL_LOGITS_MEAN: f64 = 1e-2;
/// Metrics.
const METRIC: f64 = 1e-6;
/// Values recorded at the head of a tensor.
const HEAD: i64 = 16;
/// Name of the position encoding's matrix.
const GAUSSIAN: &str = "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix";
/// A mask value above this is foreground.
const FOREGROUND: u8 = 128;

/// The recordings. `shift` is added to every recorded value, to see that it is compared.
struct Golden {
    folder: PathBuf,
    index: Value,
    shift: f64,
}

/// Differences found, each with its name and sizes.
type Mismatches = Vec<String>;

impl Golden {
    fn open(folder: &Path, shift: f64) -> Self {
        let text = std::fs::read_to_string(folder.join("index.json")).unwrap();
        Self { folder: folder.into(), index: serde_json::from_str(&text).unwrap(), shift }
    }

    fn tensors(&self, file: &str) -> StateDict {
        trainer::weights::load(&self.folder.join(file)).unwrap().state
    }

    fn image(&self, file: &str) -> RgbRaster {
        let bytes = std::fs::read(self.folder.join(file)).unwrap();
        decode_image(&bytes, &DecodeLimits::default()).unwrap()
    }

    fn mask(&self, file: &str) -> Mask255 {
        let bytes = std::fs::read(self.folder.join(file)).unwrap();
        decode_mask(&bytes, &DecodeLimits::default()).unwrap()
    }

    fn model(&self) -> SamHq {
        let mut encoder = self.index["model"]["encoder"].clone();
        encoder["kind"] = "vit".into();
        let config: EncoderConfig = serde_json::from_value(encoder).unwrap();
        let mut state = self.tensors(self.index["model"]["file"].as_str().unwrap());
        let exact = self.recovered_gaussian(&state);
        state.insert(GAUSSIAN.into(), exact);
        SamHq::from_state(&config, state, HqInit::FromState, Device::Cpu).unwrap()
    }

    /// The position encoding's matrix as it was when the values were recorded.
    ///
    /// The model is stored as float16 and all its parameters had been rounded to that before
    /// recording, but this matrix, a buffer, had not. Its rounding alone moves embeddings by 5e-3. The
    /// recorded point embeddings are sines and cosines of its products with known coordinates, so
    /// least squares give it back; it must round to the stored values, every one, so nothing but
    /// that rounding can hide here.
    fn recovered_gaussian(&self, state: &StateDict) -> Tensor {
        let stored = state[GAUSSIAN].to_kind(Kind::Double);
        let recorded = self.tensors("forward.safetensors");
        let label = |index: i64| {
            state[&format!("prompt_encoder.point_embeddings.{index}.weight")].to_kind(Kind::Double)
        };
        let side = self.index["model"]["encoder"]["img_size"].as_f64().unwrap();
        let (mut coords, mut features) = (Vec::new(), Vec::new());
        for (name, case) in self.index["cases"].as_object().unwrap() {
            let of = |part: &str| recorded[&format!("{name}.{part}")].to_kind(Kind::Double);
            let (pixels, labels) = match (case["kind"].as_str(), case["prompt"].as_str()) {
                (Some("forward"), Some("box")) => {
                    (of("boxes").view([2, 2]), Tensor::cat(&[label(2), label(3)], 0))
                }
                (Some("forward"), Some("point")) => (of("point_coords").squeeze_dim(0), label(1)),
                _ => continue,
            };
            let embeddings = of("sparse_prompt_embeddings").squeeze_dim(0);
            features.push(embeddings.narrow(0, 0, pixels.size()[0]) - labels);
            coords.push((pixels + 0.5) / side * 2.0 - 1.0);
        }
        let (coords, features) = (Tensor::cat(&coords, 0), Tensor::cat(&features, 0));
        let half = stored.size()[1];
        let phase = features.narrow(1, 0, half).atan2(&features.narrow(1, half, half));
        let turns = phase / std::f64::consts::TAU;
        let turns = &turns + (coords.matmul(&stored) - &turns).round();
        let exact = coords.tr().matmul(&coords).inverse().matmul(&coords.tr().matmul(&turns));
        let same = exact.to_kind(Kind::Half).eq_tensor(&stored.to_kind(Kind::Half));
        assert!(bool::try_from(same.all()).unwrap(), "the matrix is not the stored one");
        exact.to_kind(Kind::Float)
    }

    fn encode(&self, model: &SamHq, file: &str) -> ImageFeatures {
        let image = self.image(file);
        let size = [1, image.height as i64, image.width as i64, 3];
        let pixels = Tensor::from_slice(&image.pixels).view(size);
        model.encode(&model.preprocess(&pixels))
    }

    /// Largest absolute difference within `tolerance`.
    fn near(&self, name: &str, found: &Tensor, expected: &Tensor, tolerance: f64) -> Mismatches {
        if found.size() != expected.size() {
            return vec![format!("{name}: shape {:?} for {:?}", found.size(), expected.size())];
        }
        if found.numel() == 0 {
            return Vec::new();
        }
        let found = found.detach().to_kind(Kind::Double);
        let expected = expected.to_kind(Kind::Double) + self.shift;
        self.within(name, (found - expected).abs().max().double_value(&[]), tolerance)
    }

    /// Relative difference within `tolerance`.
    fn near_relative(&self, name: &str, found: f64, expected: f64, tolerance: f64) -> Mismatches {
        let expected = expected + self.shift;
        self.within(name, (found - expected).abs() / expected.abs().max(1e-12), tolerance)
    }

    fn within(&self, name: &str, error: f64, tolerance: f64) -> Mismatches {
        if error <= tolerance {
            return Vec::new();
        }
        vec![format!("{name}: differs by {error:e}, allowed {tolerance:e}")]
    }

    fn replay(&self, name: &str, case: &Value) -> Mismatches {
        match case["kind"].as_str() {
            Some("large_scale_jitter") => self.large_scale_jitter(name, case),
            Some("prompts") => self.prompts(name, case),
            Some("forward") => self.forward(name, case),
            Some("train") => self.train(name, case),
            other => vec![format!("{name}: no handler for the kind {other:?}")],
        }
    }

    fn large_scale_jitter(&self, name: &str, case: &Value) -> Mismatches {
        let pair = case["pair"].as_str().unwrap();
        let image = self.image(&format!("pair.{pair}.image.png"));
        let mask = self.mask(&format!("pair.{pair}.mask.png"));
        let offset = |index: usize| case["crop_offset_yx"][index].as_u64().unwrap() as usize;
        let range = |index: usize| case["scale_range"][index].as_f64().unwrap();
        let size = case["output_size"].as_u64().unwrap() as usize;
        let jitter = LargeScaleJitter { output_size: size, scale_range: [range(0), range(1)] };
        let random_scale = case["random_scale"].as_f64().unwrap() as f32;
        let params = JitterParams { random_scale, crop_offset_yx: [offset(0), offset(1)] };
        let (image, mask) = jitter.apply(&params, &image, &mask);
        let recorded = self.tensors("large_scale_jitter.safetensors");
        let side = size as i64;
        let image = Tensor::from_slice(&image.pixels).view([side, side, 3]).permute([2, 0, 1]);
        let mask = Tensor::from_slice(&mask.pixels).view([1, side, side]);
        let mut mismatches = Vec::new();
        for (part, found) in [("image", image), ("mask", mask)] {
            let (name, found) = (format!("{name}.{part}"), found.to_kind(Kind::Float));
            let expected = &recorded[&name];
            mismatches.extend(self.near(&name, &found, expected, JITTER_MAX));
            let mean = (&found - expected - self.shift).abs().mean(Kind::Double).double_value(&[]);
            mismatches.extend(self.within(&format!("{name} (mean)"), mean, JITTER_MEAN));
        }
        mismatches
    }

    fn prompts(&self, name: &str, case: &Value) -> Mismatches {
        let recorded = self.tensors("prompts.safetensors");
        let mask = self.mask(&format!("{name}.mask1024.png"));
        let permutation =
            Vec::<i64>::try_from(&recorded[&format!("{name}.permutation_first10")]).unwrap();
        let points = points_from_permutation(&mask, &permutation).concat();
        let mask_256 = downscale_mask(&mask, 256);
        let of = |part: &str| &recorded[&format!("{name}.{part}")];
        let draws = Vec::<f32>::try_from(of("normal_draws").flatten(0, -1)).unwrap();
        // The recorded mask, so that each of the two is compared on its own.
        let recorded_256 = Vec::<f32>::try_from(of("mask_256").flatten(0, -1)).unwrap();
        let noise = Tensor::from_slice(&noise_mask(&mask_256, &draws)).view([1, 1, 256, 256]);
        let box_xyxy = box_prompt(&mask).unwrap_or_default();
        let mut mismatches = self.near(
            &format!("{name}.box_xyxy"),
            &Tensor::from_slice(&box_xyxy).view([1, 4]),
            of("box_xyxy"),
            0.0,
        );
        let points = Tensor::from_slice(&points).view([1, -1, 2]);
        mismatches.extend(self.near(&format!("{name}.points"), &points, of("points_xy"), 0.0));
        let scale = if recorded_256.iter().any(|&value| value > 1.5) { 255.0 } else { 1.0 };
        let mask_256 = Tensor::from_slice(&mask_256).view([1, 1, 256, 256]) * scale;
        mismatches.extend(self.near(
            &format!("{name}.mask_256"),
            &mask_256,
            of("mask_256"),
            MASK_256 * scale,
        ));
        let different = noise.to_kind(Kind::Double) - of("noise_mask_256") - self.shift;
        let pixels = different.abs().gt(0.5).sum(Kind::Double).double_value(&[]);
        mismatches.extend(self.within(&format!("{name}.noise_mask"), pixels, NOISE_MASK_PIXELS));
        let foreground = case["foreground_pixels"].as_f64().unwrap();
        let found = mask.foreground_pixels() as f64;
        mismatches.extend(self.near_relative(
            &format!("{name}.foreground"),
            found,
            foreground,
            0.0,
        ));
        mismatches
    }

    fn forward(&self, name: &str, case: &Value) -> Mismatches {
        let model = self.model();
        let recorded = self.tensors("forward.safetensors");
        let of = |part: &str| &recorded[&format!("{name}.{part}")];
        let pair = case["pair"].as_str().unwrap();
        let features = self.encode(&model, &format!("forward.{pair}.image1024.png"));
        let prompts = model.embed_prompts(&recorded_prompt(&recorded, name, &case["prompt"]));
        let single = model.decode(&features, &prompts, DecodeOutput::Both { multimask: false });
        let best = model.decode(&features, &prompts, DecodeOutput::Both { multimask: true });
        let only = model.decode(&features, &prompts, DecodeOutput::Hq).hq_logits.unwrap();
        let (hq, sam) = (single.hq_logits.unwrap(), single.sam_logits.unwrap());
        let PromptEmbeddings { sparse_prompt_embeddings, dense_prompt_embeddings } = prompts;
        let strided = |x: &Tensor, dims: [i64; 3]| {
            x.slice(dims[0], 0, None, 8).slice(dims[1], 0, None, 4).slice(dims[2], 0, None, 4)
        };
        let checks = [
            ("image_embeddings_every8ch_every4px", strided(&features.image_embeddings, [1, 2, 3])),
            (
                "first_global_block_every8ch_every4px",
                strided(&features.interm_embeddings, [3, 1, 2]),
            ),
            (
                "dense_prompt_embeddings_every8ch_every4px",
                strided(&dense_prompt_embeddings, [1, 2, 3]),
            ),
            ("sparse_prompt_embeddings", sparse_prompt_embeddings),
            ("corrected_logits_256", &hq + &sam),
            ("hq_logits_256", hq),
            ("hq_logits_256", only),
            ("sam_logits_256", sam),
            ("sam_best_of_3_logits_256", best.sam_logits.unwrap()),
            ("iou_predictions", single.iou_predictions.unwrap()),
        ];
        let near = |(part, found): &(&str, Tensor)| {
            self.near(&format!("{name}.{part}"), found, of(part), FORWARD)
        };
        checks.iter().flat_map(near).collect()
    }

    fn train(&self, name: &str, case: &Value) -> Mismatches {
        let model = self.model();
        let recorded = self.tensors("train.safetensors");
        let prompts = case["prompts"].as_array().unwrap();
        let inputs: Vec<(ImageFeatures, PromptEmbeddings)> = prompts
            .iter()
            .enumerate()
            .map(|(index, prompt)| {
                let features = self.encode(&model, &format!("train.{index}.image1024.png"));
                let prompt = recorded_prompt(&recorded, &format!("{name}.input.{index}"), prompt);
                (features, model.embed_prompts(&prompt))
            })
            .collect();
        let targets: Vec<Tensor> = (0..inputs.len())
            .map(|index| {
                let mask = self.mask(&format!("train.{index}.mask1024.png"));
                let size = [1, 1, mask.height as i64, mask.width as i64];
                Tensor::from_slice(&mask.pixels).view(size).to_kind(Kind::Float) / 255.0
            })
            .collect();
        let target = Tensor::cat(&targets, 0);
        let parameters = model.hq_parameters();
        let mut adam = Adam::new(&parameters, AdamConfig::default());
        let lr = case["optimiser"]["lr"].as_f64().unwrap();
        let config = loss_config(&case["loss"]);
        let mut mismatches = Vec::new();
        for (step, losses) in case["losses"].as_array().unwrap().iter().enumerate() {
            let of = |part: &str| recorded[&format!("{name}.step{step}.{part}")].shallow_clone();
            let points =
                LossPoints { candidates: of("candidate_points"), random: of("random_points") };
            let loss = point_sampled_loss(&decode_all(&model, &inputs), &target, &points, &config);
            for (part, found) in [("loss_mask", &loss.loss_mask), ("loss_dice", &loss.loss_dice)] {
                let expected = Tensor::from(losses[part].as_f64().unwrap());
                mismatches.extend(self.near(
                    &format!("{name}.step{step}.{part}"),
                    found,
                    &expected,
                    LOSS,
                ));
            }
            let leaves: Vec<&Tensor> = parameters.iter().map(|(_, parameter)| parameter).collect();
            let grads = Tensor::run_backward(&[loss.total()], &leaves, false, false);
            if step == 0 {
                let grads: Vec<(String, Tensor)> = parameters
                    .iter()
                    .map(|(name, _)| name.clone())
                    .zip(grads.iter().map(Tensor::copy))
                    .collect();
                mismatches.extend(self.summaries(
                    &recorded,
                    &format!("{name}.step0.grad_"),
                    &grads,
                ));
            }
            adam.step(&grads, lr);
        }
        mismatches.extend(self.summaries(&recorded, &format!("{name}.final."), &parameters));
        let error = decode_all(&model, &inputs).detach()
            - &recorded[&format!("{name}.final.hq_logits_256")];
        let mean = (error - self.shift).abs().mean(Kind::Double).double_value(&[]);
        mismatches.extend(self.within(
            &format!("{name}.final.hq_logits (mean)"),
            mean,
            FINAL_LOGITS_MEAN,
        ));
        mismatches
    }

    /// Recorded norms and first values of gradients or parameters.
    fn summaries(
        &self,
        recorded: &StateDict,
        start: &str,
        tensors: &[(String, Tensor)],
    ) -> Mismatches {
        let is_gradient = start.ends_with("grad_");
        let norm_tolerance = if is_gradient { GRADIENT_NORM } else { PARAMETER_NORM };
        let mut mismatches = Vec::new();
        for (name, tensor) in tensors {
            let name = name.strip_prefix("mask_decoder.").unwrap();
            let tensor = tensor.detach().flatten(0, -1);
            let key = format!("{start}norm.{name}");
            let norm = tensor.norm().double_value(&[]);
            let expected = recorded[&key].double_value(&[0]);
            mismatches.extend(self.near_relative(&key, norm, expected, norm_tolerance));
            let key = format!("{start}head.{name}");
            let head = &recorded[&key];
            let scale = head.abs().max().double_value(&[]);
            let tolerance = if is_gradient { GRADIENT_HEAD * scale } else { PARAMETER_HEAD };
            mismatches.extend(self.near(&key, &tensor.narrow(0, 0, HEAD), head, tolerance));
        }
        mismatches
    }

    fn metric(&self, recorded: &Value) -> Mismatches {
        let pair = recorded["pair"].as_str().unwrap();
        let mask = self.mask(&format!("pair.{pair}.mask.png"));
        let logits = &self.tensors(&format!("metric.{pair}.safetensors"))["logits_256"];
        let upsampled = upsample_logits(logits, mask.height as i64, mask.width as i64);
        let pred =
            Vec::<u8>::try_from(upsampled.gt(0.0).to_kind(Kind::Uint8).flatten(0, -1)).unwrap();
        let gt: Vec<u8> = mask.pixels.iter().map(|&value| u8::from(value > FOREGROUND)).collect();
        let ratio = recorded["dilation_ratio"].as_f64().unwrap();
        let boundary = boundary_iou(&pred, &gt, mask.height, mask.width, ratio);
        let found = [("mask_iou", mask_iou(&pred, &gt)), ("boundary_iou", boundary)];
        let near = |(part, iou): (&str, trainer::metrics::Iou)| {
            let expected = Tensor::from(recorded[part].as_f64().unwrap());
            self.near(
                &format!("metrics.{pair}.{part}"),
                &Tensor::from(iou.value),
                &expected,
                METRIC,
            )
        };
        found.into_iter().flat_map(near).collect()
    }
}

fn recorded_prompt(recorded: &StateDict, start: &str, kind: &Value) -> PromptBatch {
    let of = |part: &str| recorded[&format!("{start}.{part}")].shallow_clone();
    match kind.as_str() {
        Some("box") => PromptBatch::Boxes(of("boxes")),
        Some("point") => {
            PromptBatch::Points { coords: of("point_coords"), labels: of("point_labels") }
        }
        Some("noise_mask") => PromptBatch::Masks(of("mask_inputs")),
        other => panic!("{start}: no handler for the prompt {other:?}"),
    }
}

fn decode_all(model: &SamHq, inputs: &[(ImageFeatures, PromptEmbeddings)]) -> Tensor {
    let decode = |(features, prompts): &(ImageFeatures, PromptEmbeddings)| {
        model.decode(features, prompts, DecodeOutput::Hq).hq_logits.unwrap()
    };
    Tensor::cat(&inputs.iter().map(decode).collect::<Vec<_>>(), 0)
}

fn loss_config(recorded: &Value) -> LossConfig {
    LossConfig {
        num_points: recorded["points"].as_i64().unwrap(),
        oversample_ratio: recorded["oversample_ratio"].as_f64().unwrap(),
        importance_ratio: recorded["importance_ratio"].as_f64().unwrap(),
    }
}

#[test]
fn every_recorded_case_is_replayed() {
    let Some(folder) = tests::golden_dir() else { return };
    let golden = Golden::open(&folder, 0.0);
    let cases = golden.index["cases"].as_object().unwrap();
    let mut mismatches: Mismatches =
        cases.iter().flat_map(|(name, case)| golden.replay(name, case)).collect();
    let metrics = golden.index["metrics"].as_array().unwrap();
    mismatches.extend(metrics.iter().flat_map(|recorded| golden.metric(recorded)));
    assert!(!cases.is_empty() && !metrics.is_empty(), "the index names no case");
    assert!(mismatches.is_empty(), "{}", mismatches.join("\n"));
}

#[test]
fn a_shifted_recording_is_noticed() {
    let Some(folder) = tests::golden_dir() else { return };
    let golden = Golden::open(&folder, 1.5);
    let mut seen = Vec::new();
    for (name, case) in golden.index["cases"].as_object().unwrap() {
        let kind = &case["kind"];
        if !seen.contains(&kind) {
            seen.push(kind);
            assert!(!golden.replay(name, case).is_empty(), "{name} compares nothing");
        }
    }
    let unknown = serde_json::json!({ "kind": "something new" });
    assert!(!Golden::open(&folder, 0.0).replay("unknown", &unknown).is_empty());
    assert!(!golden.metric(&golden.index["metrics"][0]).is_empty());
}
