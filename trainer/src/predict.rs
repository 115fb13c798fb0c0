//! One image and one prompt in, one mask out, as the published predictor does it: the longest
//! side is resized to the input size with an antialiased bilinear filter, the rest is padding.

use std::path::{Path, PathBuf};

use dataset::codec::{DecodeLimits, decode_image};
use dataset::raster::{MASK_THRESHOLD, Mask255, RgbRaster};
use fast_image_resize as fir;
use tch::{Device, Kind, Tensor};

use crate::model::{DecodeOutput, PromptBatch, SamHq};

/// Which logits become the mask.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum MaskMode {
    /// The HQ token alone (`hq_token_only` of the published code).
    #[default]
    Hq,
    /// The frozen SAM by itself.
    Sam,
    /// SAM's logits plus the HQ logits, the published default at inference.
    Sum,
}

/// Why a prediction failed.
#[derive(Debug, thiserror::Error)]
pub enum PredictError {
    /// The image cannot be read.
    #[error("{}: {problem}", path.display())]
    Image {
        /// File.
        path: PathBuf,
        /// Why.
        problem: String,
    },
    /// The prompt cannot be used.
    #[error("{0}")]
    Prompt(String),
}

/// A prompt in pixels of the original image.
#[derive(Clone, Debug, Default)]
pub struct ImagePrompt {
    /// Box, x0 y0 x1 y1.
    pub box_xyxy: Option<[f32; 4]>,
    /// Points, x y.
    pub points: Vec<[f32; 2]>,
    /// 1 for foreground, 0 for background; one per point.
    pub point_labels: Vec<f32>,
}

/// Logits and mask of one prompt.
pub struct Prediction {
    /// 1 x 1 x 256 x 256.
    pub low_res_logits: Tensor,
    /// Predicted IoU of SAM's mask.
    pub iou_prediction: f64,
    /// 0 or 255, at the original resolution.
    pub mask: Mask255,
}

/// Reads an image of any mode the codec takes.
///
/// # Errors
/// An unreadable file, with the reason.
pub fn read_image(path: &Path) -> Result<RgbRaster, PredictError> {
    let problem = |problem: String| PredictError::Image { path: path.to_owned(), problem };
    let bytes = std::fs::read(path).map_err(|error| problem(error.to_string()))?;
    decode_image(&bytes, &DecodeLimits::default()).map_err(|reason| problem(reason.to_string()))
}

/// Predicts the mask of one prompt.
///
/// # Errors
/// No prompt at all, or one outside the image.
pub fn predict(
    model: &SamHq,
    img_size: usize,
    image: &RgbRaster,
    prompt: &ImagePrompt,
    mode: MaskMode,
    multimask: bool,
    device: Device,
) -> Result<Prediction, PredictError> {
    let resized = resize_longest_side(image, img_size)?;
    let prompts = prompt_batch(prompt, image, &resized, device)?;
    let pixels = Tensor::from_slice(&resized.pixels)
        .view([1, resized.height as i64, resized.width as i64, 3])
        .to_device(device);
    let logits_and_iou = tch::no_grad(|| {
        let features = model.encode(&model.preprocess(&pixels));
        let prompts = model.embed_prompts(&prompts);
        let output = match mode {
            MaskMode::Sam => DecodeOutput::Sam { multimask },
            MaskMode::Hq | MaskMode::Sum => DecodeOutput::Both { multimask },
        };
        let decoded = model.decode(&features, &prompts, output);
        let sam = decoded.sam_logits.unwrap_or_default();
        let hq = decoded.hq_logits.unwrap_or_default();
        let logits = match mode {
            MaskMode::Hq => hq,
            MaskMode::Sam => sam,
            MaskMode::Sum => sam + hq,
        };
        (logits, decoded.iou_predictions)
    });
    let (low_res_logits, iou) = logits_and_iou;
    let upsampled = postprocess(&low_res_logits, img_size, &resized, image);
    let mask = (upsampled.gt(0.0).to_kind(Kind::Uint8) * 255).to_device(Device::Cpu);
    Ok(Prediction {
        iou_prediction: iou.map_or(f64::NAN, |iou| iou.double_value(&[0, 0])),
        low_res_logits: low_res_logits.to_device(Device::Cpu),
        mask: Mask255 {
            height: image.height,
            width: image.width,
            pixels: Vec::try_from(mask.reshape([-1])).unwrap_or_default(),
        },
    })
}

/// Logits at the original resolution: to the input size, without the padding, to the original.
fn postprocess(
    logits: &Tensor,
    img_size: usize,
    input: &RgbRaster,
    original: &RgbRaster,
) -> Tensor {
    let side = img_size as i64;
    logits
        .upsample_bilinear2d([side, side], false, None, None)
        .narrow(2, 0, input.height as i64)
        .narrow(3, 0, input.width as i64)
        .upsample_bilinear2d([original.height as i64, original.width as i64], false, None, None)
}

fn prompt_batch(
    prompt: &ImagePrompt,
    original: &RgbRaster,
    input: &RgbRaster,
    device: Device,
) -> Result<PromptBatch, PredictError> {
    let scale_x = input.width as f32 / original.width as f32;
    let scale_y = input.height as f32 / original.height as f32;
    let inside = |x: f32, y: f32| {
        (0.0..=original.width as f32).contains(&x) && (0.0..=original.height as f32).contains(&y)
    };
    let outside = |what: String| {
        PredictError::Prompt(format!(
            "{what} lies outside the image of {} x {} pixels",
            original.width, original.height
        ))
    };
    let boxes = match prompt.box_xyxy {
        None => None,
        Some([x0, y0, x1, y1]) if x0 < x1 && y0 < y1 => {
            if !(inside(x0, y0) && inside(x1, y1)) {
                return Err(outside(format!("the box {x0},{y0},{x1},{y1}")));
            }
            let scaled = [x0 * scale_x, y0 * scale_y, x1 * scale_x, y1 * scale_y];
            Some(Tensor::from_slice(&scaled).view([1, 4]).to_device(device))
        }
        Some(other) => {
            return Err(PredictError::Prompt(format!(
                "the box {other:?} is empty; give x0,y0,x1,y1 with x0 < x1 and y0 < y1"
            )));
        }
    };
    if let Some([x, y]) = prompt.points.iter().find(|[x, y]| !inside(*x, *y)) {
        return Err(outside(format!("the point {x},{y}")));
    }
    let points = (!prompt.points.is_empty()).then(|| {
        let coords: Vec<f32> =
            prompt.points.iter().flat_map(|[x, y]| [x * scale_x, y * scale_y]).collect();
        (
            Tensor::from_slice(&coords).view([1, -1, 2]).to_device(device),
            Tensor::from_slice(&prompt.point_labels).view([1, -1]).to_device(device),
        )
    });
    match (points, boxes) {
        (None, None) => Err(PredictError::Prompt(
            "no prompt: give --box x0,y0,x1,y1 or --point x,y[,label]".into(),
        )),
        (None, Some(boxes)) => Ok(PromptBatch::Boxes(boxes)),
        (Some((coords, labels)), None) => Ok(PromptBatch::Points { coords, labels }),
        (points, boxes) => Ok(PromptBatch::Mixed { points, boxes, masks: None }),
    }
}

/// `ResizeLongestSide`: the longest side becomes `img_size`, sizes rounded half up, through the
/// antialiased bilinear filter that PIL applies.
fn resize_longest_side(image: &RgbRaster, img_size: usize) -> Result<RgbRaster, PredictError> {
    let scale = img_size as f64 / image.height.max(image.width) as f64;
    let side = |length: usize| ((length as f64 * scale + 0.5) as usize).max(1);
    let (height, width) = (side(image.height), side(image.width));
    if (height, width) == (image.height, image.width) {
        return Ok(image.clone());
    }
    let problem = |error: &dyn std::fmt::Display| {
        PredictError::Prompt(format!("the image cannot be resized: {error}"))
    };
    let source = fir::images::ImageRef::new(
        image.width as u32,
        image.height as u32,
        &image.pixels,
        fir::PixelType::U8x3,
    )
    .map_err(|error| problem(&error))?;
    let mut target = fir::images::Image::new(width as u32, height as u32, fir::PixelType::U8x3);
    let options = fir::ResizeOptions::new()
        .resize_alg(fir::ResizeAlg::Convolution(fir::FilterType::Bilinear));
    fir::Resizer::new().resize(&source, &mut target, &options).map_err(|error| problem(&error))?;
    Ok(RgbRaster { height, width, pixels: target.into_vec() })
}

/// The image with the mask tinted and outlined, for people.
#[must_use]
pub fn overlay(image: &RgbRaster, mask: &Mask255) -> RgbRaster {
    const TINT: [u8; 3] = [30, 144, 255];
    const OUTLINE: [u8; 3] = [255, 255, 0];
    let mut picture = image.clone();
    let pixels = picture.pixels.chunks_exact_mut(3);
    for ((pixel, value), is_outline) in pixels.zip(&mask.pixels).zip(mask.outline()) {
        if is_outline {
            pixel.copy_from_slice(&OUTLINE);
        } else if *value > MASK_THRESHOLD {
            pixel.iter_mut().zip(TINT).for_each(|(value, tint)| *value = value.midpoint(tint));
        }
    }
    picture
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longest_side_becomes_the_input_size() {
        let image = RgbRaster { height: 300, width: 400, pixels: vec![7; 300 * 400 * 3] };
        let resized = resize_longest_side(&image, 1024).unwrap();
        assert_eq!((resized.height, resized.width), (768, 1024));
        assert!(resized.pixels.iter().all(|&value| value == 7));
    }

    #[test]
    fn a_box_outside_the_image_is_named() {
        let image = RgbRaster { height: 10, width: 10, pixels: vec![0; 300] };
        let prompt = ImagePrompt { box_xyxy: Some([1.0, 1.0, 50.0, 5.0]), ..Default::default() };
        let error = prompt_batch(&prompt, &image, &image, Device::Cpu).err().unwrap().to_string();
        assert!(error.contains("outside the image of 10 x 10"), "{error}");
    }

    #[test]
    fn overlay_outlines_the_mask() {
        let image = RgbRaster { height: 5, width: 5, pixels: vec![0; 75] };
        let mut mask = Mask255 { height: 5, width: 5, pixels: vec![0; 25] };
        for y in 1..4 {
            mask.pixels[y * 5 + 1..y * 5 + 4].fill(255);
        }
        let picture = overlay(&image, &mask);
        assert_eq!(picture.pixels[(5 + 1) * 3..][..3], [255, 255, 0]);
        assert_eq!(picture.pixels[(2 * 5 + 2) * 3..][..3], [15, 72, 127]);
        assert_eq!(picture.pixels[..3], [0, 0, 0]);
    }
}
