//! Prompts on an image in, masks with scores out, as the published predictor does it: the longest
//! side is resized to the input size with an antialiased bilinear filter, the rest is padding.
//!
//! ```text
//! RgbRaster -> Predictor::encode -> EncodedImage, once an image
//! EncodedImage + [ImagePrompt] -> Predictor::predict -> [Prediction], prompts of one form together
//! ```

use std::path::{Path, PathBuf};

use dataset::codec::{DecodeLimits, decode_image, decode_image_as_stored};
use dataset::raster::{Mask255, RgbRaster};
use dataset::verify::RejectReason;
use tch::{Device, Kind, Tensor};

mod overlay;
mod prompt;
mod resize;

pub use overlay::overlay;
pub(crate) use prompt::single_points;
pub use prompt::{BoxFit, ImagePrompt, MaskInput};
use resize::resize_longest_side;

use crate::model::{DecodeOutput, ImageFeatures, PromptBatch, SamHq};

/// Prompts that are decoded together. Each takes about 60 MiB at published sizes.
const PROMPTS_AT_ONCE: usize = 16;

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

/// What the model computes of an image once, for any number of prompts.
pub struct EncodedImage {
    features: ImageFeatures,
    /// Height and width as the encoder saw them, without the padding.
    input_hw: (usize, usize),
    /// Height and width of the image.
    pub original_hw: (usize, usize),
}

/// The masks of one prompt: one, or SAM's three.
pub struct Prediction {
    /// 0 or 255, at the original resolution.
    pub masks: Vec<Mask255>,
    /// Predicted IoU of each mask (in HQ modes: of SAM's mask, as published).
    pub scores: Vec<f32>,
    /// (masks, 4 g, 4 g), on the CPU; 256 x 256 for published sizes.
    pub low_res_logits: Tensor,
}

impl Prediction {
    /// Index of the mask with the highest score.
    #[must_use]
    pub fn best(&self) -> usize {
        let scores = self.scores.iter().enumerate();
        scores.max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(index, _)| index)
    }

    /// The logits of that mask, as a prompt that a further prediction refines.
    #[must_use]
    pub fn best_mask_input(&self) -> MaskInput {
        let logits = self.low_res_logits.get(self.best() as i64);
        let values = Vec::try_from(logits.reshape([-1])).unwrap_or_default();
        MaskInput { side: logits.size()[0] as usize, values }
    }
}

/// Reads an image of any mode the codec takes, upright.
///
/// # Errors
/// An unreadable file, with the reason.
pub fn read_image(path: &Path) -> Result<RgbRaster, PredictError> {
    read(path, None)
}

/// Reads an image of which a list of boxes tells width and height. Some lists are made without regard
/// to EXIF data: where only the picture as it lies in its file has that size, it is not turned upright.
///
/// # Errors
/// As [`read_image`], and a picture of another size.
pub fn read_listed_image(path: &Path, size_wh: (usize, usize)) -> Result<RgbRaster, PredictError> {
    read(path, Some(size_wh))
}

fn read(path: &Path, listed_wh: Option<(usize, usize)>) -> Result<RgbRaster, PredictError> {
    let problem = |problem: String| PredictError::Image { path: path.to_owned(), problem };
    let bytes = std::fs::read(path).map_err(|error| problem(error.to_string()))?;
    let limits = DecodeLimits::default();
    let upright = decode_image(&bytes, &limits).map_err(|reason| problem(refusal_text(&reason)))?;
    let found = (upright.width, upright.height);
    let Some(listed) = listed_wh.filter(|listed| *listed != found) else { return Ok(upright) };
    if listed == (found.1, found.0) {
        let stored = decode_image_as_stored(&bytes, &limits)
            .map_err(|reason| problem(refusal_text(&reason)))?;
        if listed == (stored.width, stored.height) {
            return Ok(stored);
        }
    }
    Err(problem(format!(
        "its boxes are of a picture of {} x {} pixels (width x height), and it has {} x {}: another \
         file, or one that was resized",
        listed.0, listed.1, found.0, found.1
    )))
}

/// A limit of the codec is a setting of builds, which a prediction does not have.
pub(crate) fn refusal_text(reason: &RejectReason) -> String {
    match reason {
        RejectReason::TooLarge { height, width, max_pixels } => {
            format!("{width} x {height} pixels are more than {max_pixels}: shrink the picture")
        }
        RejectReason::FileTooLarge { bytes, max_file_bytes } => {
            format!("{bytes} bytes are more than {max_file_bytes}: recompress the picture")
        }
        other => other.to_string(),
    }
}

/// Applies a model to images.
pub struct Predictor<'a> {
    model: &'a SamHq,
}

impl<'a> Predictor<'a> {
    /// A predictor that computes where the model lies.
    #[must_use]
    pub fn new(model: &'a SamHq) -> Self {
        Self { model }
    }

    /// Side of the low-resolution logits in pixels, 256 for published sizes.
    #[must_use]
    pub fn logits_side(&self) -> usize {
        self.model.logits_size() as usize
    }

    /// The device that computes.
    #[must_use]
    pub fn device(&self) -> Device {
        self.model.device()
    }

    fn img_size(&self) -> usize {
        self.model.config().img_size() as usize
    }

    /// Runs the encoder on one image.
    ///
    /// # Errors
    /// An image without pixels.
    pub fn encode(&self, image: &RgbRaster) -> Result<EncodedImage, PredictError> {
        let resized = resize_longest_side(image, self.img_size())?;
        let pixels = Tensor::from_slice(&resized.pixels)
            .view([1, resized.height as i64, resized.width as i64, 3])
            .to_device(self.model.device());
        let features = self.model.encode(&self.model.preprocess(&pixels));
        Ok(EncodedImage {
            features,
            input_hw: (resized.height, resized.width),
            original_hw: (image.height, image.width),
        })
    }

    /// The masks of every prompt, in the order of `prompts`. With `multimask` the HQ modes take
    /// the best of SAM's three masks, as published, and [`MaskMode::Sam`] gives all three.
    ///
    /// # Errors
    /// An empty prompt, one outside the image, or a mask of another size.
    pub fn predict(
        &self,
        image: &EncodedImage,
        prompts: &[ImagePrompt],
        mode: MaskMode,
        multimask: bool,
    ) -> Result<Vec<Prediction>, PredictError> {
        for prompt in prompts {
            prompt.check(image.original_hw, self.logits_side())?;
        }
        let mut predictions: Vec<Option<Prediction>> = prompts.iter().map(|_| None).collect();
        for group in prompt::groups(prompts) {
            for indices in group.chunks(PROMPTS_AT_ONCE) {
                let members: Vec<&ImagePrompt> =
                    indices.iter().map(|&index| &prompts[index]).collect();
                let batch = prompt::batch(&members, image.original_hw, image.input_hw);
                let (logits, scores) = self.decode(image, &batch, mode, multimask);
                for (row, &index) in (0..).zip(indices) {
                    predictions[index] =
                        Some(self.prediction(image, &logits.get(row), &scores.get(row)));
                }
            }
        }
        Ok(predictions.into_iter().flatten().collect())
    }

    /// Logits (B, M, 4 g, 4 g) and predicted IoU (B, M) of prompts in pixels of the encoder's
    /// input, on the model's device.
    pub(crate) fn decode(
        &self,
        image: &EncodedImage,
        prompts: &PromptBatch,
        mode: MaskMode,
        multimask: bool,
    ) -> (Tensor, Tensor) {
        let output = match (mode, multimask) {
            (MaskMode::Sam, true) => DecodeOutput::SamEach,
            (MaskMode::Sam, false) => DecodeOutput::Sam { multimask },
            (MaskMode::Hq | MaskMode::Sum, _) => DecodeOutput::Both { multimask },
        };
        tch::no_grad(|| {
            let prompts = self.model.embed_prompts(prompts);
            let decoded = self.model.decode(&image.features, &prompts, output);
            let sam = decoded.sam_logits.expect("every output but Hq has SAM's mask");
            let logits = match (mode, decoded.hq_logits) {
                (MaskMode::Hq, Some(hq)) => hq,
                (MaskMode::Sum, Some(hq)) => sam + hq,
                _ => sam,
            };
            (logits, decoded.iou_predictions.expect("computed with SAM's mask"))
        })
    }

    /// Logits (B, M, 4 g, 4 g) at the size of the original, (B, M, H, W): to the input size,
    /// without the padding, to the original.
    pub(crate) fn upsample(&self, image: &EncodedImage, logits: &Tensor) -> Tensor {
        upsample(logits, self.img_size(), image.input_hw, image.original_hw)
    }

    /// As [`Predictor::upsample`], with rows and columns exchanged: (B, M, W, H).
    pub(crate) fn upsample_transposed(&self, image: &EncodedImage, logits: &Tensor) -> Tensor {
        let turned = |(height, width): (usize, usize)| (width, height);
        let logits = logits.transpose(2, 3).contiguous();
        upsample(&logits, self.img_size(), turned(image.input_hw), turned(image.original_hw))
    }

    /// From logits (M, 4 g, 4 g) and scores (M).
    fn prediction(&self, image: &EncodedImage, logits: &Tensor, scores: &Tensor) -> Prediction {
        let (height, width) = image.original_hw;
        let masks = self.upsample(image, &logits.unsqueeze(0)).gt(0.0).to_kind(Kind::Uint8) * 255;
        let masks = masks.squeeze_dim(0).to_device(Device::Cpu).contiguous();
        let pixels = |index| Vec::try_from(masks.get(index).reshape([-1])).unwrap_or_default();
        Prediction {
            masks: (0..masks.size()[0])
                .map(|index| Mask255 { height, width, pixels: pixels(index) })
                .collect(),
            scores: Vec::try_from(scores.to_device(Device::Cpu)).unwrap_or_default(),
            low_res_logits: logits.to_device(Device::Cpu),
        }
    }
}

fn upsample(
    logits: &Tensor,
    img_size: usize,
    (input_height, input_width): (usize, usize),
    (height, width): (usize, usize),
) -> Tensor {
    let side = img_size as i64;
    logits
        .upsample_bilinear2d([side, side], false, None, None)
        .narrow(2, 0, input_height as i64)
        .narrow(3, 0, input_width as i64)
        .upsample_bilinear2d([height as i64, width as i64], false, None, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{EncoderConfig, VitConfig};

    fn small() -> SamHq {
        let config = EncoderConfig::Vit(VitConfig {
            img_size: 128,
            embed_dim: 16,
            depth: 2,
            num_heads: 2,
            window_size: 3,
            global_attn_indexes: vec![1],
            ..VitConfig::default()
        });
        SamHq::random(&config, 3, Device::Cpu)
    }

    fn photo(height: usize, width: usize) -> RgbRaster {
        let pixels = (0..height * width * 3).map(|index| (index * 7919 % 251) as u8).collect();
        RgbRaster { height, width, pixels }
    }

    fn in_box(corners: [f32; 4]) -> ImagePrompt {
        ImagePrompt { box_xyxy: Some(corners), ..ImagePrompt::default() }
    }

    #[test]
    fn prompts_of_several_forms_come_back_in_their_order() {
        let model = small();
        let predictor = Predictor::new(&model);
        let image = predictor.encode(&photo(60, 90)).unwrap();
        let point = ImagePrompt {
            points: vec![[20.0, 30.0]],
            point_labels: vec![1.0],
            ..ImagePrompt::default()
        };
        let prompts = [in_box([1.0, 2.0, 40.0, 50.0]), point, in_box([30.0, 10.0, 80.0, 55.0])];
        let together = predictor.predict(&image, &prompts, MaskMode::Hq, false).unwrap();
        for (prompt, found) in prompts.iter().zip(&together) {
            let prompt = std::slice::from_ref(prompt);
            let alone = predictor.predict(&image, prompt, MaskMode::Hq, false).unwrap();
            let difference = (&found.low_res_logits - &alone[0].low_res_logits).abs().max();
            assert!(difference.double_value(&[]) < 1e-4);
            assert_eq!((found.masks[0].height, found.masks[0].width), (60, 90));
        }
    }

    #[test]
    fn plain_sam_gives_three_masks_whose_best_is_the_chosen_one() {
        let model = small();
        let predictor = Predictor::new(&model);
        let image = predictor.encode(&photo(128, 128)).unwrap();
        let prompt = [in_box([10.0, 10.0, 90.0, 90.0])];
        let each = predictor.predict(&image, &prompt, MaskMode::Sam, true).unwrap();
        assert_eq!((each[0].masks.len(), each[0].scores.len()), (3, 3));
        let batch = prompt::batch(&[&prompt[0]], (128, 128), (128, 128));
        let best = model.decode(
            &image.features,
            &model.embed_prompts(&batch),
            DecodeOutput::Sam { multimask: true },
        );
        let chosen = each[0].low_res_logits.get(each[0].best() as i64);
        let difference = (chosen - best.sam_logits.unwrap().squeeze()).abs().max();
        assert!(difference.double_value(&[]) < 1e-5);
    }

    #[test]
    fn transposed_upsampling_is_the_transpose() {
        let model = small();
        let predictor = Predictor::new(&model);
        let image = predictor.encode(&photo(50, 90)).unwrap();
        let logits = Tensor::arange(32 * 32, (Kind::Float, Device::Cpu)).sin().view([1, 1, 32, 32]);
        let plain = predictor.upsample(&image, &logits);
        let turned = predictor.upsample_transposed(&image, &logits).transpose(2, 3);
        assert_eq!(plain.size(), [1, 1, 50, 90]);
        assert!((plain - turned).abs().max().double_value(&[]) < 1e-5);
    }
}
