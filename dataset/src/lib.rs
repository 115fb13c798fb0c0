//! What a sample is: raw layouts, masks, records, augmentation, prompts and order.
//!
//! Everything here is synchronous and pure: no async runtime, no object store, no tensors. The
//! modules follow the path of one sample:
//!
//! ```text
//! source    raw folders  -> pairs of an image file and a mask file, by split
//! codec     file bytes   -> RgbRaster, Mask255                 every odd mode handled or refused
//! verify    the pair     -> Facts | RejectReason               the only judge of a sample
//! schema    a row        <-> Arrow record batch                shared by writer and reader
//! order     (seed, epoch, position) -> row                     a function, not a list
//! rng       (seed, epoch, sample id, purpose) -> generator     one per sample and purpose
//! augment   flip, large-scale jitter                           draw, then apply
//! color_jitter  brightness, contrast, saturation, hue          draw, then apply; off as published
//! prompt    box | points | noise mask                          draw, then apply
//! draw      synthetic pairs with exact masks
//! ```
//!
//! ```
//! use dataset::augment::LargeScaleJitter;
//! use dataset::draw::draw_pair;
//! use dataset::prompt::{PromptKind, PromptRecipe};
//! use dataset::rng::{Draw, sample_rng};
//!
//! let (image, mask) = draw_pair(7, 0, (120, 160));
//! let jitter = LargeScaleJitter { output_size: 128, scale_range: [0.5, 1.5] };
//! let mut rng = sample_rng(42, 0, "drawn/0", Draw::Augment);
//! let params = jitter.draw(&mut rng, (image.height, image.width));
//! let (image, mask) = jitter.apply(&params, &image, &mask);
//! assert_eq!((image.height, mask.width), (128, 128));
//!
//! let recipe = PromptRecipe { kinds: vec![PromptKind::Box], ..PromptRecipe::default() };
//! let prompt = recipe.draw(&mut sample_rng(42, 0, "drawn/0", Draw::Prompt), &mask);
//! # let _ = prompt;
//! ```

pub mod augment;
pub mod codec;
pub mod color_jitter;
pub mod draw;
pub mod order;
pub mod prompt;
pub mod raster;
mod resample;
pub mod rng;
pub mod schema;
pub mod source;
pub mod verify;
