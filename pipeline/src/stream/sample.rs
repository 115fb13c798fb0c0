//! One stored row -> pixels: checksums, decode, and for training augment and prompt. Pure: the
//! result depends on the row, the recipe, the seed and the epoch only.

use std::cell::RefCell;

use bytes::BytesMut;
use clap::ValueEnum;
use dataset::augment::{Flip, JitterParams, LargeScaleJitter, PairMut, Part};
use dataset::codec::{DecodeLimits, ImageFile, StoredMask, decode_image, decode_mask};
use dataset::color_jitter::ColorJitter;
use dataset::prompt::{Prompt, PromptRecipe};
use dataset::raster::{MASK_THRESHOLD, Mask255, RgbRaster};
use dataset::rng::{Draw, sample_rng};
use dataset::verify::RejectReason;
use rand::Rng;
use serde::{Deserialize, Serialize};

use super::StreamError;
use super::dataset::Fetched;
use crate::digest::sha256;

/// Draws of the jitter for one sample, where a smallest foreground is asked for.
const JITTER_ATTEMPTS: usize = 10;

/// How the pixels of JPEG files are decoded before they are resized.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Deserialize, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum DecodeMode {
    /// Every pixel, as the published training does.
    #[default]
    Exact,
    /// Shrunk by 2, 4 or 8 while decoding where the jitter shrinks at least as much: faster for
    /// large pictures, but not the published pixels. Resizing then reads means of neighbouring
    /// pixels where the published code, which does not antialias, reads single ones, so that fine
    /// texture comes out smooth. On a photograph of 3492 x 2328 pixels the levels move by 0.9 (halved),
    /// 2.0 (quartered) and 3.5 (an eighth) of 255 on average, single ones by up to 123; on 400 x 300
    /// pictures, halved, by 5.5 on average. Masks and prompts stay the same. Pictures that are not shrunk by
    /// at least 2 do not change.
    Scaled,
}

/// How a decoded pair becomes a training sample.
#[derive(Clone)]
pub(super) struct SampleRecipe {
    pub(super) seed: u64,
    pub(super) flip_probability: f64,
    pub(super) jitter: Option<LargeScaleJitter>,
    pub(super) output_size: usize,
    pub(super) min_foreground_pixels: Option<usize>,
    pub(super) augment_copies: Option<u64>,
    pub(super) prompts: PromptRecipe,
    pub(super) color_jitter: Option<ColorJitter>,
    pub(super) decode: DecodeMode,
}

/// Where a sample goes in its batch.
pub(super) struct Place {
    /// `output_size * output_size * 3` bytes.
    pub(super) image: BytesMut,
    /// `output_size * output_size` bytes.
    pub(super) mask: BytesMut,
}

/// A sample of a batch, in its place.
pub(super) struct TrainSample {
    pub(super) sample_id: String,
    pub(super) place: Place,
    /// As many as the recipe says.
    pub(super) prompts: Vec<Prompt>,
}

/// Decodes the image and mask of a row.
pub(super) fn decode(fetched: &Fetched) -> Result<(RgbRaster, Mask255), StreamError> {
    let image = decode_image(&fetched.sample.image_bytes, &limits())
        .map_err(|reason| undecodable(fetched, "image", reason))?;
    Ok((image, mask(fetched)?))
}

/// The build has judged the size of a row's pictures, and their digests are right.
fn limits() -> DecodeLimits {
    DecodeLimits::none()
}

fn mask(fetched: &Fetched) -> Result<Mask255, StreamError> {
    decode_mask(&fetched.sample.mask_bytes, &limits())
        .map_err(|reason| undecodable(fetched, "mask", reason))
}

thread_local! {
    /// The mask of the sample being prepared, as prompts want it; used again for the next one.
    static MASK: RefCell<Mask255> =
        const { RefCell::new(Mask255 { height: 0, width: 0, pixels: Vec::new() }) };
}

/// Decodes and augments one row of `epoch` into `place` and draws its prompts.
pub(super) fn prepare(
    fetched: &Fetched,
    epoch: u64,
    mut place: Place,
    recipe: &SampleRecipe,
) -> Result<TrainSample, StreamError> {
    let prompts = MASK.with_borrow_mut(|augmented| {
        let side = recipe.output_size;
        (augmented.height, augmented.width) = (side, side);
        augmented.pixels.resize(side * side, 0);
        let mut target = PairMut { side, image: &mut place.image, mask: &mut augmented.pixels };
        augment(fetched, epoch, recipe, &mut target)?;
        place.mask.copy_from_slice(&augmented.pixels);
        let sample_id = &fetched.sample.sample_id;
        let mut rng = sample_rng(recipe.seed, epoch, sample_id, Draw::Prompt);
        Ok::<_, StreamError>(recipe.prompts.draw_all(&mut rng, augmented))
    })?;
    Ok(TrainSample { sample_id: fetched.sample.sample_id.clone(), place, prompts })
}

/// Flips and jitters (or stretches) the pair into `target`, decoding as much of it as is kept.
fn augment(
    fetched: &Fetched,
    epoch: u64,
    recipe: &SampleRecipe,
    target: &mut PairMut<'_>,
) -> Result<(), StreamError> {
    let undecodable = |reason| undecodable(fetched, "image", reason);
    let file = ImageFile::open(&fetched.sample.image_bytes, &limits()).map_err(undecodable)?;
    // All of the mask is needed only to see how much of it a draw keeps.
    let whole_mask = recipe.min_foreground_pixels.map(|_| mask(fetched)).transpose()?;
    let size_hw = file.size_hw();
    let copy = recipe.augment_copies.map_or(epoch, |copies| epoch % copies.max(1));
    let mut rng = sample_rng(recipe.seed, copy, &fetched.sample.sample_id, Draw::Augment);
    let flip = Flip::draw(&mut rng, recipe.flip_probability);
    let part = match &recipe.jitter {
        Some(jitter) => {
            let wanted = recipe.min_foreground_pixels.zip(whole_mask.as_ref());
            let params = draw_jitter(jitter, wanted, &mut rng, flip, size_hw, target.mask);
            jitter.part(&params, size_hw)
        }
        None => Part::stretched(target.side),
    };
    match whole_mask {
        Some(whole) => part.of_mask(flip, &whole, target.mask),
        None => mask_part(fetched, &part, flip, target.mask)?,
    }
    let scaled_to = match recipe.decode {
        DecodeMode::Exact => None,
        DecodeMode::Scaled => Some(part.scaled_hw()),
    };
    // Colour jitter changes each pixel by the mean of all.
    let rows = if recipe.color_jitter.is_some() { None } else { file.rows(scaled_to) };
    if rows.is_some_and(|rows| part.of_image_rows(flip, rows, target.image)) {
        return Ok(());
    }
    let image = match scaled_to {
        None => file.decode(),
        Some(scaled_hw) => file.decode_scaled(scaled_hw),
    };
    let mut image = image.map_err(undecodable)?;
    if let Some(jitter) = &recipe.color_jitter {
        // Before the crop, so that its grey padding stays as it is and has no part in the contrast.
        let mut rng = sample_rng(recipe.seed, copy, &fetched.sample.sample_id, Draw::ColorJitter);
        jitter.draw(&mut rng).apply(&mut image);
    }
    part.of_image(flip, &image, target.image);
    Ok(())
}

fn mask_part(
    fetched: &Fetched,
    part: &Part,
    flip: bool,
    target: &mut [u8],
) -> Result<(), StreamError> {
    let stored = StoredMask::open(&fetched.sample.mask_bytes);
    if !stored.is_some_and(|stored| part.of_stored_mask(flip, stored, target)) {
        part.of_mask(flip, &mask(fetched)?, target);
    }
    Ok(())
}

/// One jitter, or, where a smallest foreground is asked for, the first of several that keeps so
/// much, or the one that keeps most. `wanted` is that foreground, in pixels, and the mask; `scratch`
/// is as large as a jittered mask.
fn draw_jitter(
    jitter: &LargeScaleJitter,
    wanted: Option<(usize, &Mask255)>,
    rng: &mut impl Rng,
    flip: bool,
    size_hw: (usize, usize),
    scratch: &mut [u8],
) -> JitterParams {
    let mut best = jitter.draw(rng, size_hw);
    let Some((wanted, mask)) = wanted else { return best };
    let mut kept = |params: &JitterParams| {
        jitter.apply_to_mask(params, flip, mask, scratch);
        scratch.iter().filter(|value| **value > MASK_THRESHOLD).count()
    };
    let mut most = kept(&best);
    for _ in 1..JITTER_ATTEMPTS {
        if most >= wanted {
            break;
        }
        let next = jitter.draw(rng, size_hw);
        let kept = kept(&next);
        if kept > most {
            (best, most) = (next, kept);
        }
    }
    best
}

/// Whether both files of a row are those that the build wrote.
pub(super) fn verify_checksums(fetched: &Fetched) -> Result<(), StreamError> {
    let sample = &fetched.sample;
    verify_checksum(fetched, "image", &sample.image_bytes, &sample.image_sha256)?;
    verify_checksum(fetched, "mask", &sample.mask_bytes, &sample.mask_sha256)
}

fn verify_checksum(
    fetched: &Fetched,
    part: &'static str,
    bytes: &[u8],
    expected: &str,
) -> Result<(), StreamError> {
    if sha256(bytes) == expected {
        return Ok(());
    }
    Err(StreamError::Checksum {
        sample_id: fetched.sample.sample_id.clone(),
        shard: fetched.shard.clone(),
        row: fetched.shard_row,
        part,
    })
}

fn undecodable(fetched: &Fetched, part: &'static str, reason: RejectReason) -> StreamError {
    StreamError::Decode {
        sample_id: fetched.sample.sample_id.clone(),
        shard: fetched.shard.clone(),
        row: fetched.shard_row,
        part,
        reason,
    }
}
