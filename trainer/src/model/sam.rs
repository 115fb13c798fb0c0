//! The whole model.

use tch::{Device, Tensor, no_grad};

use super::StateDict;
use super::config::{EncoderConfig, NUM_SAM_MASK_TOKENS};
use super::encoders::Encoders;
use super::layers::{Held, Source, bchw, bhwc, shuffle_subpixels};
use super::load::{HqInit, complete, random};
use super::mask_decoder::MaskDecoder;
use super::mask_decoder_hq::MaskDecoderHq;
use super::precision::Precision;
use super::prompt_encoder::{PromptBatch, PromptEmbeddings};
use super::spec::hq_specs;
use crate::upload::upload;
use crate::weights::WeightsError;

/// SAM's channel means, for RGB in 0..255.
pub const PIXEL_MEAN: [f32; 3] = [123.675, 116.28, 103.53];
/// SAM's channel deviations, for RGB in 0..255.
pub const PIXEL_STD: [f32; 3] = [58.395, 57.12, 57.375];

/// What the decoder reads of B images.
#[derive(Debug)]
pub struct ImageFeatures {
    /// (B, 256, g, g), g being 64 for published sizes; channels last in memory.
    pub image_embeddings: Tensor,
    /// (B, g, g, C): the first global block of a ViT, the second stage of a TinyViT.
    pub interm_embeddings: Tensor,
}

impl ImageFeatures {
    /// The features of the images at `indices`, in that order; an index may occur twice.
    pub fn select(&self, indices: &[i64]) -> Self {
        let index = upload(indices, self.image_embeddings.device());
        let image_embeddings = bhwc(&self.image_embeddings).index_select(0, &index);
        Self {
            image_embeddings: bchw(&image_embeddings),
            interm_embeddings: self.interm_embeddings.index_select(0, &index),
        }
    }

    /// The features of every image `times` times in a row, for several prompts on each.
    pub fn repeat(&self, times: i64) -> Self {
        let image_embeddings = bhwc(&self.image_embeddings);
        Self {
            image_embeddings: bchw(&image_embeddings.repeat_interleave_self_int(times, 0, None)),
            interm_embeddings: self.interm_embeddings.repeat_interleave_self_int(times, 0, None),
        }
    }
}

/// Which masks to decode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecodeOutput {
    /// The HQ mask alone: SAM's masks and predicted IoU are not computed.
    Hq,
    /// The HQ mask and SAM's mask with its predicted IoU.
    Both {
        /// Take the best by predicted IoU of SAM's three masks for ambiguous prompts, not the
        /// single mask.
        multimask: bool,
    },
    /// The mask of plain SAM, with no HQ token among its tokens. With one, as in `Both` and as
    /// published, SAM's tokens attend to it and its masks change a little.
    Sam {
        /// As in `Both`.
        multimask: bool,
    },
    /// As `Sam`, with all three masks for ambiguous prompts and a predicted IoU of each.
    SamEach,
}

/// Decoded masks of B prompts.
#[derive(Debug)]
pub struct Decoded {
    /// (B, 1, 4 g, 4 g)
    pub hq_logits: Option<Tensor>,
    /// (B, 1, 4 g, 4 g), three masks for [`DecodeOutput::SamEach`]; the published "corrected" mask
    /// is the sum of both.
    pub sam_logits: Option<Tensor>,
    /// (B, 1) or (B, 3): predicted IoU of each SAM mask.
    pub iou_predictions: Option<Tensor>,
}

/// Which of SAM's masks.
#[derive(Clone, Copy)]
enum SamChoice {
    /// The first one, for prompts that are not ambiguous.
    Single,
    /// The one of the other three with the highest predicted IoU.
    Best,
    /// The other three.
    Each,
}

/// HQ-SAM: a frozen SAM and the trained HQ part.
pub struct SamHq {
    config: EncoderConfig,
    device: Device,
    state: StateDict,
    encoders: Encoders,
    mask_decoder: MaskDecoder,
    /// What the mask decoder holds.
    held: Held,
    mask_decoder_hq: MaskDecoderHq,
}

impl SamHq {
    /// A model on `device` with the weights of `state`, in float32. Missing, unexpected and misshapen
    /// tensors are all reported together, by part.
    pub fn from_state(
        config: &EncoderConfig,
        state: StateDict,
        hq: HqInit,
        device: Device,
    ) -> Result<Self, WeightsError> {
        Self::from_state_in(Precision::Float32, config, state, hq, device)
    }

    /// [`from_state`](Self::from_state) with the frozen encoder in `precision`; its features stay
    /// float32.
    pub fn from_state_in(
        precision: Precision,
        config: &EncoderConfig,
        state: StateDict,
        hq: HqInit,
        device: Device,
    ) -> Result<Self, WeightsError> {
        no_grad(|| Self::build(precision, config, complete(config, state, hq)?, device))
    }

    /// A model of random values that depend on `seed` alone, in float32.
    ///
    /// # Panics
    /// When the sizes of `config` do not fit together.
    pub fn random(config: &EncoderConfig, seed: u64, device: Device) -> Self {
        Self::random_in(Precision::Float32, config, seed, device)
    }

    /// [`random`](Self::random) with the frozen encoder in `precision`.
    ///
    /// # Panics
    /// When the sizes of `config` do not fit together.
    pub fn random_in(
        precision: Precision,
        config: &EncoderConfig,
        seed: u64,
        device: Device,
    ) -> Self {
        Self::from_state_in(precision, config, random(config, seed), HqInit::FromState, device)
            .expect("the random state holds every tensor, if the configuration is valid")
    }

    fn build(
        precision: Precision,
        config: &EncoderConfig,
        state: StateDict,
        device: Device,
    ) -> Result<Self, WeightsError> {
        let source = Source::new(&state, device);
        let encoders = Encoders::load(config, &state, precision, device)?;
        let mask_decoder = MaskDecoder::load(&source.at("mask_decoder"), &encoders.dense_pe())?;
        let mask_decoder_hq = MaskDecoderHq::load(&state, &hq_specs(config), device)?;
        Ok(Self {
            config: config.clone(),
            device,
            encoders,
            mask_decoder,
            held: source.held(),
            mask_decoder_hq,
            state,
        })
    }

    /// The number type of the frozen encoder.
    pub fn encoder_precision(&self) -> Precision {
        self.encoders.precision()
    }

    /// What runs before the decoder, for another thread.
    pub fn encoders(&self) -> &Encoders {
        &self.encoders
    }

    /// The encoder's configuration.
    pub fn config(&self) -> &EncoderConfig {
        &self.config
    }

    /// The device that computes.
    pub fn device(&self) -> Device {
        self.device
    }

    /// Side of the logits in pixels, four times the image embedding's.
    pub fn logits_size(&self) -> i64 {
        4 * self.config.embedding_size()
    }

    /// Normalised input of the encoder, (B, 3, S, S) in channels-last memory, from 8-bit RGB
    /// (B, H, W, 3) with H and W at most S. Smaller images are padded right and below with zeros.
    ///
    /// # Panics
    /// When an image is larger than the encoder's input.
    pub fn preprocess(&self, images_bhwc: &Tensor) -> Tensor {
        self.encoders.preprocess(images_bhwc)
    }

    /// Runs the frozen encoder on (B, 3, S, S), without gradients.
    ///
    /// A CPU takes the images one by one: the activations of one already exceed its caches, and
    /// larger batches measured slower an image.
    pub fn encode(&self, input_bchw: &Tensor) -> ImageFeatures {
        self.encoders.encode(input_bchw)
    }

    /// Embeds prompts, without gradients.
    pub fn embed_prompts(&self, prompts: &PromptBatch) -> PromptEmbeddings {
        self.encoders.embed_prompts(prompts)
    }

    /// Masks for prompt i on image i; features of one image serve all prompts. Gradients flow to
    /// the HQ parameters.
    pub fn decode(
        &self,
        features: &ImageFeatures,
        prompts: &PromptEmbeddings,
        output: DecodeOutput,
    ) -> Decoded {
        let image_tokens = bhwc(&features.image_embeddings).flatten(1, 2);
        let vit_tokens = features.interm_embeddings.flatten(1, 2);
        let dense = bhwc(&prompts.dense_prompt_embeddings).flatten(1, 2);
        let choice = match output {
            DecodeOutput::Hq => None,
            DecodeOutput::Both { multimask } | DecodeOutput::Sam { multimask } if multimask => {
                Some(SamChoice::Best)
            }
            DecodeOutput::Both { .. } | DecodeOutput::Sam { .. } => Some(SamChoice::Single),
            DecodeOutput::SamEach => Some(SamChoice::Each),
        };
        let is_hq = matches!(output, DecodeOutput::Hq | DecodeOutput::Both { .. });
        let (tokens, transformed) = self.mask_decoder.transform(
            &(&image_tokens + dense),
            &prompts.sparse_prompt_embeddings,
            is_hq.then(|| self.mask_decoder_hq.hf_token()),
        );
        let upscaled = self.mask_decoder.upscale(&transformed);
        let hq_logits = is_hq.then(|| {
            let hq_token_out = tokens.select(1, 1 + NUM_SAM_MASK_TOKENS);
            self.mask_decoder_hq.forward(&hq_token_out, &image_tokens, &vit_tokens, &upscaled)
        });
        let sam = choice.map(|choice| self.sam_masks(&tokens, &upscaled, choice));
        let (sam_logits, iou_predictions) = sam.unzip();
        Decoded { hq_logits, sam_logits, iou_predictions }
    }

    /// SAM's masks (B, 1 or 3, 4 g, 4 g) and their predicted IoU (B, 1 or 3).
    fn sam_masks(&self, tokens: &Tensor, upscaled: &Tensor, choice: SamChoice) -> (Tensor, Tensor) {
        let (batch, side) = (tokens.size()[0], self.config.embedding_size());
        let masks = self.mask_decoder.masks(tokens, upscaled);
        let masks = bchw(&shuffle_subpixels(&masks, batch, side));
        let iou = self.mask_decoder.predict_iou(tokens);
        let ambiguous = NUM_SAM_MASK_TOKENS - 1;
        match choice {
            SamChoice::Single => return (masks.narrow(1, 0, 1), iou.narrow(1, 0, 1)),
            SamChoice::Each => return (masks.narrow(1, 1, ambiguous), iou.narrow(1, 1, ambiguous)),
            SamChoice::Best => {}
        }
        let best = iou.narrow(1, 1, ambiguous).argmax(1, true) + 1;
        let index = best.view([batch, 1, 1, 1]).expand([-1, -1, 4 * side, 4 * side], false);
        (masks.gather(1, &index, false), iou.gather(1, &best, false))
    }

    /// The 25 trained tensors in the order of the published module, under their full names,
    /// requiring gradients and sharing storage with the model.
    pub fn hq_parameters(&self) -> Vec<(String, Tensor)> {
        let parameters = self.mask_decoder_hq.parameters().iter();
        parameters.map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect()
    }

    /// Every frozen tensor, sharing storage with the model: those that compute by the part that holds
    /// them (on the device, in the encoder's precision, batch norms folded, tables laid out), then
    /// those of [`SamHq::state_dict`] by name, which are the same memory only where nothing was
    /// converted.
    pub(crate) fn frozen_tensors(&self) -> Vec<(String, Tensor)> {
        let mut tensors = self.encoders.held();
        let trained = self.mask_decoder_hq.parameters();
        let state = self.state.iter().filter(|(name, _)| !trained.iter().any(|(n, _)| n == *name));
        let others = self.held.iter().map(|(part, tensor)| (part, tensor)).chain(state);
        tensors.extend(others.map(|(name, tensor)| (name.clone(), tensor.shallow_clone())));
        tensors
    }

    /// Every tensor under its published name: the frozen ones as loaded, the trained ones as they
    /// are now (copied, on the CPU).
    pub fn state_dict(&self) -> StateDict {
        let frozen = self.state.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone()));
        let mut state: StateDict = frozen.collect();
        for (name, tensor) in self.mask_decoder_hq.parameters() {
            state.insert(name.clone(), tensor.detach().to_device(Device::Cpu).copy());
        }
        state
    }
}
