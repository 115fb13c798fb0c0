//! What runs before the decoder: the frozen image encoder and prompt encoder.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tch::{Device, Kind, Tensor, no_grad};

use super::StateDict;
use super::config::{EncoderConfig, Normalization};
use super::image_encoder::ImageEncoderVit;
use super::layers::{Held, Source, bchw};
use super::precision::Precision;
use super::prompt_encoder::{PromptBatch, PromptEmbeddings, PromptEncoder};
use super::sam::{ImageFeatures, PIXEL_MEAN, PIXEL_STD};
use super::tiny_vit::TinyVit;
use crate::weights::WeightsError;

/// Smallest range that min-max normalisation divides by.
const MIN_PIXEL_RANGE: f64 = 1e-8;

enum ImageEncoder {
    Vit(Box<ImageEncoderVit>),
    TinyVit(Box<TinyVit>),
}

impl ImageEncoder {
    fn load(source: &Source<'_>, config: &EncoderConfig) -> Result<Self, WeightsError> {
        Ok(match config {
            EncoderConfig::Vit(vit) => Self::Vit(Box::new(ImageEncoderVit::load(source, vit)?)),
            EncoderConfig::TinyVit(tiny) => Self::TinyVit(Box::new(TinyVit::load(source, tiny)?)),
        })
    }

    fn forward(&self, input_bchw: &Tensor) -> (Tensor, Tensor) {
        match self {
            Self::Vit(encoder) => encoder.forward(input_bchw),
            Self::TinyVit(encoder) => encoder.forward(input_bchw),
        }
    }
}

/// Both encoders. A clone shares their weights and may be used on another thread, beside the decoder;
/// of two threads that use them at once, one waits.
#[derive(Clone)]
pub struct Encoders {
    parts: Arc<Mutex<Parts>>,
    precision: Precision,
    device: Device,
}

struct Parts {
    config: EncoderConfig,
    image_encoder: ImageEncoder,
    /// Channel means and deviations of the pixels, (3) each.
    pixel_mean: Tensor,
    pixel_std: Tensor,
    prompt_encoder: PromptEncoder,
    held: Held,
}

impl Encoders {
    pub(super) fn load(
        config: &EncoderConfig,
        state: &StateDict,
        precision: Precision,
        device: Device,
    ) -> Result<Self, WeightsError> {
        let source = Source::new(state, device);
        let constant = |name: &str, values: &[f32]| {
            source.at(name).hold(Tensor::from_slice(values).to_device(device))
        };
        let parts = Parts {
            config: config.clone(),
            image_encoder: ImageEncoder::load(
                &source.at("image_encoder").in_precision(precision).without_gradient(),
                config,
            )?,
            pixel_mean: constant("pixel_mean", &PIXEL_MEAN),
            pixel_std: constant("pixel_std", &PIXEL_STD),
            prompt_encoder: PromptEncoder::load(
                &source.at("prompt_encoder"),
                config.img_size(),
                config.embedding_size(),
            )?,
            held: source.held(),
        };
        Ok(Self { parts: Arc::new(Mutex::new(parts)), precision, device })
    }

    /// Nothing in it ever changes, so what a thread leaves behind that panicked is whole.
    fn parts(&self) -> MutexGuard<'_, Parts> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number type of the image encoder.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The device that computes.
    pub fn device(&self) -> Device {
        self.device
    }

    /// The tensors that compute, by the part that holds them, sharing storage with it.
    pub(super) fn held(&self) -> Held {
        let parts = self.parts();
        parts.held.iter().map(|(part, tensor)| (part.clone(), tensor.shallow_clone())).collect()
    }

    /// Positional encoding of the image embedding, (1, g * g, 256).
    pub(super) fn dense_pe(&self) -> Tensor {
        self.parts().prompt_encoder.dense_pe()
    }

    /// See [`super::SamHq::preprocess`].
    pub fn preprocess(&self, images_bhwc: &Tensor) -> Tensor {
        let parts = self.parts();
        let size = images_bhwc.size();
        let (height, width, side) = (size[1], size[2], parts.config.img_size());
        assert!(
            height <= side && width <= side && size[3] == 3,
            "images {size:?} do not fit the encoder's input of {side} x {side} x 3: resize them first"
        );
        let x = images_bhwc.to_device(self.device).to_kind(Kind::Float);
        let x = match parts.config.normalization() {
            Normalization::MeanStd => (x - &parts.pixel_mean).g_div_(&parts.pixel_std),
            Normalization::MinMax => {
                let low = x.amin([1, 2, 3], true);
                let range = x.amax([1, 2, 3], true) - &low;
                (x - low) / range.clamp_min(MIN_PIXEL_RANGE)
            }
        };
        if (height, width) == (side, side) {
            return bchw(&x);
        }
        bchw(&x.constant_pad_nd([0, 0, 0, side - width, 0, side - height]))
    }

    /// See [`super::SamHq::encode`].
    pub fn encode(&self, input_bchw: &Tensor) -> ImageFeatures {
        let parts = self.parts();
        let forward = |input: &Tensor| {
            let (image_embeddings, interm_embeddings) =
                parts.image_encoder.forward(&input.to_kind(self.precision.kind()));
            (image_embeddings.to_kind(Kind::Float), interm_embeddings.to_kind(Kind::Float))
        };
        let (image_embeddings, interm_embeddings) = no_grad(|| {
            let batch = input_bchw.size()[0];
            if batch == 1 || self.device != Device::Cpu {
                return forward(input_bchw);
            }
            let images = (0..batch).map(|index| forward(&input_bchw.narrow(0, index, 1)));
            let (image_embeddings, interm_embeddings): (Vec<_>, Vec<_>) = images.unzip();
            (Tensor::cat(&image_embeddings, 0), Tensor::cat(&interm_embeddings, 0))
        });
        ImageFeatures { image_embeddings: bchw(&image_embeddings), interm_embeddings }
    }

    /// See [`super::SamHq::embed_prompts`].
    pub fn embed_prompts(&self, prompts: &PromptBatch) -> PromptEmbeddings {
        let parts = self.parts();
        no_grad(|| parts.prompt_encoder.forward(prompts))
    }
}
