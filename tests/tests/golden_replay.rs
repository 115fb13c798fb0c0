//! Replays values recorded from the published training code: augmentation, prompts, the model's
//! forward pass, five training steps, and metrics. Every case of `index.json` is handled by its kind.

use std::path::{Path, PathBuf};

use dataset::augment::{JitterParams, LargeScaleJitter};
use dataset::codec::{DecodeLimits, decode_image, decode_mask};
use dataset::prompt::{box_prompt, downscale_mask, noise_mask, points_from_permutation};
use dataset::raster::{Mask255, RgbRaster};
use serde_json::Value;
use tch::{Kind, Tensor};
use trainer::metrics::{boundary_iou, mask_iou, upsample_logits};
use trainer::model::StateDict;

#[path = "golden_replay/model.rs"]
mod model;

/// 8-bit results against recorded floats: truncation costs up to 1.
const JITTER_MAX: f64 = 1.0;
/// Recorded values so near to where the 8 bits change may fall on either side.
const JITTER_EDGE: f64 = 1e-3;
/// Pixels of a noise mask that may fall on the other side of its threshold.
const NOISE_MASK_PIXELS: f64 = 10.0;
/// Resampled masks, values 0 to 1 of which the recording keeps float32.
const MASK_256: f64 = 1e-5;
/// Metrics.
const METRIC: f64 = 1e-6;
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

    /// Image and mask of a case, jittered here.
    fn jittered(&self, case: &Value) -> (RgbRaster, Mask255) {
        let pair = case["pair"].as_str().unwrap();
        let image = self.image(&format!("pair.{pair}.image.png"));
        let mask = self.mask(&format!("pair.{pair}.mask.png"));
        let offset = |index: usize| case["crop_offset_yx"][index].as_u64().unwrap() as usize;
        let range = |index: usize| case["scale_range"][index].as_f64().unwrap();
        let size = case["output_size"].as_u64().unwrap() as usize;
        let jitter = LargeScaleJitter { output_size: size, scale_range: [range(0), range(1)] };
        let random_scale = case["random_scale"].as_f64().unwrap() as f32;
        let params = JitterParams { random_scale, crop_offset_yx: [offset(0), offset(1)] };
        jitter.apply(&params, &image, &mask)
    }

    fn large_scale_jitter(&self, name: &str, case: &Value) -> Mismatches {
        let (image, mask) = self.jittered(case);
        let recorded = self.tensors("large_scale_jitter.safetensors");
        let side = mask.width as i64;
        let image = Tensor::from_slice(&image.pixels).view([side, side, 3]).permute([2, 0, 1]);
        let mask = Tensor::from_slice(&mask.pixels).view([1, side, side]);
        let mut mismatches = Vec::new();
        for (part, found) in [("image", image), ("mask", mask)] {
            let (name, found) = (format!("{name}.{part}"), found.to_kind(Kind::Float));
            let expected = &recorded[&name];
            mismatches.extend(self.near(&name, &found, expected, JITTER_MAX));
            // The published code truncates the image to 8 bits; masks it keeps as floats.
            let exact = expected.to_kind(Kind::Double) + self.shift;
            let above = if part == "image" { exact } else { exact + 0.5 };
            let from_edge = (&above - above.round()).abs();
            let wrong = found.to_kind(Kind::Double).not_equal_tensor(&above.floor());
            let wrong = wrong.logical_and(&from_edge.gt(JITTER_EDGE));
            let wrong = wrong.sum(Kind::Double).double_value(&[]);
            mismatches.extend(self.within(&format!("{name} (8 bits)"), wrong, 0.0));
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

/// The published code cuts masks of floats above 128, this one after rounding them to 8 bits: a value
/// above 128 and up to 128.5 is foreground there and background here. No other pixel changes sides.
#[test]
fn rounded_masks_lose_only_pixels_at_the_very_edge() {
    let Some(folder) = tests::golden_dir() else { return };
    let golden = Golden::open(&folder, 0.0);
    let recorded = golden.tensors("large_scale_jitter.safetensors");
    let (mut pixels, mut foreground, mut lost) = (0, 0, 0);
    for (name, case) in golden.index["cases"].as_object().unwrap() {
        if case["kind"] != "large_scale_jitter" {
            continue;
        }
        let (_, mask) = golden.jittered(case);
        let published = Vec::<f32>::try_from(recorded[&format!("{name}.mask")].flatten(0, -1));
        for (value, found) in published.unwrap().into_iter().zip(mask.pixels) {
            let sides = [value > f32::from(FOREGROUND), found > FOREGROUND];
            pixels += 1;
            foreground += usize::from(sides[0]);
            lost += usize::from(sides == [true, false]);
            let is_at_the_edge = (f32::from(FOREGROUND)..=128.5).contains(&value);
            assert!(sides[0] == sides[1] || is_at_the_edge, "{name}: {value} became {found}");
        }
    }
    assert_eq!((pixels, foreground, lost), (9 * 256 * 256, 102_520, 2));
}
