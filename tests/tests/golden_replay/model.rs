//! Replays the model: forward passes and five training steps.

use serde_json::Value;
use tch::{Device, Kind, Tensor};
use trainer::loss::{LossConfig, LossPoints, point_sampled_loss};
use trainer::model::{
    DecodeOutput, EncoderConfig, HqInit, ImageFeatures, PromptBatch, PromptEmbeddings, SamHq,
    StateDict,
};
use trainer::optim::{Adam, AdamConfig};

use super::{Golden, Mismatches};

/// What the decoder reads, image by image.
type Inputs = Vec<(ImageFeatures, PromptEmbeddings)>;

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
/// The same for biases, which begin at or near zero, so that after five steps they are little but
/// Adam's quotients of small sums. The published code in float64 is itself up to 1.1e-4 away from
/// the float32 recording there, and within 1e-6 in the weights.
const BIAS_NORM: f64 = 5e-4;
/// First values of each parameter after the last step. Adam divides by the gradient's size, so where
/// a gradient is near zero its rounding moves a parameter by up to the learning rate of 0.001.
const PARAMETER_HEAD: f64 = 1e-3;
/// Logits after the last step, which those parameters move.
const FINAL_LOGITS_MEAN: f64 = 1e-2;
/// Values recorded at the head of a tensor.
const HEAD: i64 = 16;
/// Name of the position encoding's matrix.
const GAUSSIAN: &str = "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix";

impl Golden {
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

    pub(super) fn forward(&self, name: &str, case: &Value) -> Mismatches {
        let model = self.model();
        let recorded = self.tensors("forward.safetensors");
        let of = |part: &str| &recorded[&format!("{name}.{part}")];
        let pair = case["pair"].as_str().unwrap();
        let features = self.encode(&model, &format!("forward.{pair}.image1024.png"));
        let prompts = model.embed_prompts(&recorded_prompt(&recorded, name, &case["prompt"]));
        let single = model.decode(&features, &prompts, DecodeOutput::Both { multimask: false });
        let best = model.decode(&features, &prompts, DecodeOutput::Both { multimask: true });
        let plain = model.decode(&features, &prompts, DecodeOutput::Sam { multimask: false });
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
            // Recorded from SAM's own decoder, which has no HQ token.
            ("iou_predictions", plain.iou_predictions.unwrap()),
        ];
        let near = |(part, found): &(&str, Tensor)| {
            self.near(&format!("{name}.{part}"), found, of(part), FORWARD)
        };
        checks.iter().flat_map(near).collect()
    }

    /// Features and prompts of the recorded batch, and its masks (B, 1, H, W) in 0..1.
    fn batch(
        &self,
        model: &SamHq,
        name: &str,
        case: &Value,
        recorded: &StateDict,
    ) -> (Inputs, Tensor) {
        let prompts = case["prompts"].as_array().unwrap();
        let inputs: Inputs = prompts
            .iter()
            .enumerate()
            .map(|(index, prompt)| {
                let features = self.encode(model, &format!("train.{index}.image1024.png"));
                let prompt = recorded_prompt(recorded, &format!("{name}.input.{index}"), prompt);
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
        (inputs, Tensor::cat(&targets, 0))
    }

    pub(super) fn train(&self, name: &str, case: &Value) -> Mismatches {
        let model = self.model();
        let recorded = self.tensors("train.safetensors");
        let (inputs, target) = self.batch(&model, name, case, &recorded);
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
        let mut mismatches = Vec::new();
        for (name, tensor) in tensors {
            let name = name.strip_prefix("mask_decoder.").unwrap();
            let tensor = tensor.detach().flatten(0, -1);
            let key = format!("{start}norm.{name}");
            let norm = tensor.norm().double_value(&[]);
            let expected = recorded[&key].double_value(&[0]);
            let tolerance = match (is_gradient, name.ends_with("bias")) {
                (true, _) => GRADIENT_NORM,
                (false, false) => PARAMETER_NORM,
                (false, true) => BIAS_NORM,
            };
            mismatches.extend(self.near_relative(&key, norm, expected, tolerance));
            let key = format!("{start}head.{name}");
            let head = &recorded[&key];
            let scale = head.abs().max().double_value(&[]);
            let tolerance = if is_gradient { GRADIENT_HEAD * scale } else { PARAMETER_HEAD };
            mismatches.extend(self.near(&key, &tensor.narrow(0, 0, HEAD), head, tolerance));
        }
        mismatches
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
