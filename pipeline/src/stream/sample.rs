//! One stored row -> pixels: checksum, decode, and for training augment and prompt. Pure: the
//! result depends on the row, the recipe, the seed and the epoch only.

use dataset::augment::{Flip, LargeScaleJitter, flip_horizontal, stretch};
use dataset::codec::{DecodeLimits, decode_image, decode_mask};
use dataset::color_jitter::ColorJitter;
use dataset::prompt::{Prompt, PromptRecipe};
use dataset::raster::{Mask255, RgbRaster};
use dataset::rng::{Draw, sample_rng};
use dataset::verify::RejectReason;
use rand::Rng;

use super::StreamError;
use super::dataset::Fetched;
use crate::digest::sha256;

/// Draws of the jitter for one sample, where a smallest foreground is asked for.
const JITTER_ATTEMPTS: usize = 10;

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
}

/// A sample of a batch: `output_size` x `output_size`.
pub(super) struct TrainSample {
    pub(super) sample_id: String,
    pub(super) image: RgbRaster,
    pub(super) mask: Mask255,
    /// As many as the recipe says.
    pub(super) prompts: Vec<Prompt>,
}

/// Verifies the checksums of a row and decodes its image and mask.
pub(super) fn decode(fetched: &Fetched) -> Result<(RgbRaster, Mask255), StreamError> {
    let sample = &fetched.sample;
    verify_checksum(fetched, "image", &sample.image_bytes, &sample.image_sha256)?;
    verify_checksum(fetched, "mask", &sample.mask_bytes, &sample.mask_sha256)?;
    // The build has judged their size, and their digest is right.
    let limits = DecodeLimits::none();
    let image = decode_image(&sample.image_bytes, &limits)
        .map_err(|reason| undecodable(fetched, "image", reason))?;
    let mask = decode_mask(&sample.mask_bytes, &limits)
        .map_err(|reason| undecodable(fetched, "mask", reason))?;
    Ok((image, mask))
}

/// Decodes and augments one row of `epoch` and draws its prompt.
pub(super) fn prepare(
    fetched: &Fetched,
    epoch: u64,
    recipe: &SampleRecipe,
) -> Result<TrainSample, StreamError> {
    let (mut image, mut mask) = decode(fetched)?;
    let sample_id = fetched.sample.sample_id.clone();
    let copy = recipe.augment_copies.map_or(epoch, |copies| epoch % copies.max(1));
    if let Some(jitter) = &recipe.color_jitter {
        // Before the crop, so that its grey padding stays as it is and has no part in the contrast.
        let mut rng = sample_rng(recipe.seed, copy, &sample_id, Draw::ColorJitter);
        jitter.draw(&mut rng).apply(&mut image);
    }
    let mut rng = sample_rng(recipe.seed, copy, &sample_id, Draw::Augment);
    if Flip::draw(&mut rng, recipe.flip_probability) {
        flip_horizontal(&mut image, &mut mask);
    }
    let (image, mask) = match &recipe.jitter {
        Some(jitter) => jittered(jitter, recipe.min_foreground_pixels, &mut rng, &image, &mask),
        None => stretch(&image, &mask, recipe.output_size),
    };
    let mut rng = sample_rng(recipe.seed, epoch, &sample_id, Draw::Prompt);
    let prompts = recipe.prompts.draw_all(&mut rng, &mask);
    Ok(TrainSample { sample_id, image, mask, prompts })
}

/// One jitter, or, where a smallest foreground is asked for, the first of several that keeps so
/// much, or the one that keeps most.
fn jittered(
    jitter: &LargeScaleJitter,
    min_foreground_pixels: Option<usize>,
    rng: &mut impl Rng,
    image: &RgbRaster,
    mask: &Mask255,
) -> (RgbRaster, Mask255) {
    let size = (image.height, image.width);
    let mut best = jitter.apply(&jitter.draw(rng, size), image, mask);
    let Some(wanted) = min_foreground_pixels else { return best };
    let mut most = best.1.foreground_pixels();
    for _ in 1..JITTER_ATTEMPTS {
        if most >= wanted {
            break;
        }
        let next = jitter.apply(&jitter.draw(rng, size), image, mask);
        let kept = next.1.foreground_pixels();
        if kept > most {
            (best, most) = (next, kept);
        }
    }
    best
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
