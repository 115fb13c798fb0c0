//! SAM and HQ-SAM: the frozen image encoder, prompt encoder and mask decoder, and the 25
//! trained tensors of the HQ part. One file is one part, named as in the published code:
//!
//! ```text
//! images u8 (B, H, W, 3) -> preprocess -> encode (image_encoder | tiny_vit) -> ImageFeatures
//! PromptBatch -> embed_prompts (prompt_encoder) -> PromptEmbeddings
//! both -> decode (mask_decoder, two_way_transformer, mask_decoder_hq) -> Decoded, logits at 256
//! ```
//!
//! Names of tensors are the published state-dict keys.

use std::collections::BTreeMap;

use tch::Tensor;

mod attention;
mod config;
mod dot_product_attention;
mod encoders;
mod flops;
mod image_encoder;
mod init;
mod layers;
mod linear;
mod load;
mod mask_decoder;
mod mask_decoder_hq;
mod precision;
mod prompt_encoder;
mod sam;
mod spec;
#[cfg(test)]
mod tests;
mod tiny_vit;
mod two_way_transformer;
mod windows;

pub use config::{EncoderConfig, Normalization, Stem, TinyVitConfig, VitConfig};
pub use encoders::Encoders;
pub use flops::{DecoderFlop, PromptParts, computed_flop, decoder_flop, published_flop};
pub use load::HqInit;
pub use precision::{ENCODER_ARITHMETIC, Precision, multiplies_bf16};
pub use prompt_encoder::{PromptBatch, PromptEmbeddings};
pub use sam::{DecodeOutput, Decoded, ImageFeatures, PIXEL_MEAN, PIXEL_STD, SamHq};

/// Tensors by published name.
pub type StateDict = BTreeMap<String, Tensor>;
