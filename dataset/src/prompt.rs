//! Prompts made from a mask: box, points, noisy mask. Draw, then apply.

use rand::seq::index;
use rand::{Rng, RngExt};
use rand_distr::StandardNormal;
use serde::{Deserialize, Serialize};

mod negative;
mod window;

use self::window::Window;
use crate::raster::{MASK_THRESHOLD, Mask255};
use crate::resample::Bilinear;

/// Side of a mask prompt in pixels: what SAM's prompt encoder takes for a 1024 input.
pub const NOISE_MASK_SIZE: usize = 256;
/// The published noise mask compares the mask with itself after a detour at 1/8 of its size.
const DETOUR_FACTOR: usize = 8;
/// Where that detour changes the mask by at least this much, noise is added.
const NOISE_BAND: f32 = 0.01;

/// Most points of a prompt: the loss looks at 12,544 of a mask's.
pub const MAX_POINTS: usize = 10_000;
/// Most prompts of one augmented sample.
const MAX_PROMPTS_PER_IMAGE: usize = 256;

/// A kind of prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PromptKind {
    /// The tight box around the foreground.
    Box,
    /// Random foreground points.
    Points,
    /// The mask with noise along its edges.
    NoiseMask,
}

impl PromptKind {
    /// The name used in configurations.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Box => "box",
            Self::Points => "points",
            Self::NoiseMask => "noise_mask",
        }
    }
}

/// A prompt in the coordinates of the mask it was made from.
#[derive(Clone, Debug, PartialEq)]
pub enum Prompt {
    /// `[x_min, y_min, x_max, y_max]`, inclusive pixel indices.
    Box([f32; 4]),
    /// Points on the object and, where the recipe has them, beside it.
    Points {
        /// `[x, y]`, pixel indices.
        coords: Vec<[f32; 2]>,
        /// 1 for foreground, 0 for background, one for each point, foreground first.
        labels: Vec<f32>,
    },
    /// [`NOISE_MASK_SIZE`] squared values, row by row, each 0 or 255.
    NoiseMask(Vec<u8>),
}

/// Which prompts a training draws. Every field but `kinds` and `num_points` departs from the
/// published recipe where it is not at its default, and draws nothing there where it is.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct PromptRecipe {
    /// One of them is drawn for each prompt, all equally likely; all three as published. An empty
    /// list means boxes.
    pub kinds: Vec<PromptKind>,
    /// Foreground points in a points prompt; 10 as published.
    pub num_points: usize,
    /// Background points in a points prompt besides, with label 0: from the surroundings of the
    /// object (its box enlarged by a quarter of its sides), or from anywhere if these are all
    /// foreground. A mask without background gets none.
    pub negative_points: usize,
    /// How far a box may be off, as a share of its sides, 0 or more and below 1: its centre moves
    /// by up to half that share and its sides change by up to that share. 0.2 and 0.4 are what the
    /// paper evaluates.
    pub box_noise: f32,
    /// Prompts drawn for each augmented sample, at least 1. The first is the one that a recipe
    /// with a single prompt draws.
    pub prompts_per_image: usize,
}

impl Default for PromptRecipe {
    /// The published recipe.
    fn default() -> Self {
        Self {
            kinds: vec![PromptKind::Box, PromptKind::Points, PromptKind::NoiseMask],
            num_points: 10,
            negative_points: 0,
            box_noise: 0.0,
            prompts_per_image: 1,
        }
    }
}

impl PromptRecipe {
    /// Refuses settings that make no prompt.
    ///
    /// # Errors
    /// One line that names the setting.
    pub fn check(&self) -> Result<(), String> {
        if self.num_points == 0 {
            return Err("num_points must be at least 1".to_owned());
        }
        if self.prompts_per_image == 0 {
            return Err("prompts_per_image must be at least 1".to_owned());
        }
        for (setting, value, most) in [
            ("num_points", self.num_points, MAX_POINTS),
            ("negative_points", self.negative_points, MAX_POINTS),
            ("prompts_per_image", self.prompts_per_image, MAX_PROMPTS_PER_IMAGE),
        ] {
            if value > most {
                return Err(format!("{setting} = {value} is more than {most}"));
            }
        }
        if !(0.0..1.0).contains(&self.box_noise) {
            return Err(format!("box_noise = {} is not within 0..1", self.box_noise));
        }
        Ok(())
    }

    /// All prompts of one augmented sample, as [`PromptRecipe::draw`] draws them one after another.
    pub fn draw_all(&self, rng: &mut (impl Rng + ?Sized), mask: &Mask255) -> Vec<Prompt> {
        (0..self.prompts_per_image.max(1)).map(|_| self.draw(rng, mask)).collect()
    }

    /// Draws a prompt that is never degenerate: a mask with fewer than `num_points` foreground
    /// pixels gets points drawn with replacement, and one without foreground gets a noise mask
    /// whatever the kinds, since neither a box nor a point could say "nothing".
    pub fn draw(&self, rng: &mut (impl Rng + ?Sized), mask: &Mask255) -> Prompt {
        let kind = match self.kinds.as_slice() {
            [] => PromptKind::Box,
            kinds => kinds[rng.random_range(0..kinds.len())],
        };
        let drawn = match kind {
            PromptKind::Box => self.draw_box(rng, mask).map(Prompt::Box),
            PromptKind::Points => self.draw_points(rng, mask),
            PromptKind::NoiseMask => None,
        };
        drawn.unwrap_or_else(|| {
            let normal_draws: Vec<f32> = (0..NOISE_MASK_SIZE * NOISE_MASK_SIZE)
                .map(|_| rng.sample(StandardNormal))
                .collect();
            Prompt::NoiseMask(noise_mask(&downscale_mask(mask, NOISE_MASK_SIZE), &normal_draws))
        })
    }

    fn draw_box(&self, rng: &mut (impl Rng + ?Sized), mask: &Mask255) -> Option<[f32; 4]> {
        let corners = box_prompt(mask)?;
        if self.box_noise == 0.0 {
            return Some(corners);
        }
        let noise: [f32; 4] =
            std::array::from_fn(|_| rng.random_range(-1.0..=1.0) * self.box_noise);
        Some(noisy_box(corners, noise, (mask.height, mask.width)))
    }

    fn draw_points(&self, rng: &mut (impl Rng + ?Sized), mask: &Mask255) -> Option<Prompt> {
        let foreground = mask.foreground_pixels();
        if foreground == 0 {
            return None;
        }
        let chosen = draw_numbers(rng, foreground, self.num_points.max(1));
        let mut coords = points_from_permutation(mask, &chosen);
        let mut labels = vec![1.0; coords.len()];
        if self.negative_points > 0 {
            coords.extend(negative::draw(rng, mask, self.negative_points));
            labels.resize(coords.len(), 0.0);
        }
        Some(Prompt::Points { coords, labels })
    }
}

/// `count` numbers below `available` (at least 1): distinct ones if there are that many.
fn draw_numbers(rng: &mut (impl Rng + ?Sized), available: usize, count: usize) -> Vec<i64> {
    if available >= count {
        index::sample(rng, available, count).iter().map(|chosen| chosen as i64).collect()
    } else {
        (0..count).map(|_| rng.random_range(0..available as i64)).collect()
    }
}

/// The box with its centre moved by `noise[0]` and `noise[1]` times half its sides and its sides
/// changed by `noise[2]` and `noise[3]` times themselves (all within -1..1), clipped to the image:
/// `box_noise` of the published code, which its training leaves unused. A side that would shrink
/// below a pixel stays as it was.
#[must_use]
pub fn noisy_box(corners: [f32; 4], noise: [f32; 4], (height, width): (usize, usize)) -> [f32; 4] {
    let side = |low: f32, high: f32, shift: f32, growth: f32, size: usize| {
        let (centre, length) = ((low + high) / 2.0, high - low);
        let (centre, half) = (centre + shift * length / 2.0, (length + growth * length) / 2.0);
        let limit = size.saturating_sub(1) as f32;
        let noisy = ((centre - half).clamp(0.0, limit), (centre + half).clamp(0.0, limit));
        if noisy.1 - noisy.0 >= length.min(1.0) { noisy } else { (low, high) }
    };
    let [x_min, y_min, x_max, y_max] = corners;
    let (left, right) = side(x_min, x_max, noise[0], noise[2], width);
    let (top, bottom) = side(y_min, y_max, noise[1], noise[3], height);
    [left, top, right, bottom]
}

/// The tight box around the pixels above [`MASK_THRESHOLD`], inclusive pixel indices; `None`
/// without any.
#[must_use]
pub fn box_prompt(mask: &Mask255) -> Option<[f32; 4]> {
    mask.box_xyxy().map(|corners| corners.map(|value| value as f32))
}

/// The foreground pixels at the given indices, as `[x, y]`: foreground pixels are numbered from 0
/// in row-major order, and `permutation` is the head of a permutation of those numbers. Indices
/// that name no foreground pixel are left out.
#[must_use]
pub fn points_from_permutation(mask: &Mask255, permutation: &[i64]) -> Vec<[f32; 2]> {
    let window = Window { rows: 0..mask.height, columns: 0..mask.width };
    window.pixels_at(mask, |value| value > MASK_THRESHOLD, permutation)
}

/// The mask resampled to `size` squared (bilinear, no antialias), values 0 to 1.
#[must_use]
pub fn downscale_mask(mask: &Mask255, size: usize) -> Vec<f32> {
    let mut values = Vec::with_capacity(size * size);
    Bilinear::whole((mask.height, mask.width), (size, size))
        .for_each_row::<1, u8>(&mask.pixels, |_, row| {
            values.extend(row.iter().map(|value| value / 255.0))
        });
    values
}

/// The published noise: where a detour at 1/8 of the size blurs the mask by at least 0.01, a
/// normal draw is added before the cut at 0.5. `mask_256` (values 0 to 1) and `normal_draws` have
/// [`NOISE_MASK_SIZE`] squared values; the result has 0 or 255.
#[must_use]
pub fn noise_mask(mask_256: &[f32], normal_draws: &[f32]) -> Vec<u8> {
    let small = NOISE_MASK_SIZE / DETOUR_FACTOR;
    let down = resize_square(mask_256, NOISE_MASK_SIZE, small);
    let blurred = resize_square(&down, small, NOISE_MASK_SIZE);
    mask_256
        .iter()
        .zip(&blurred)
        .zip(normal_draws)
        .map(|((&value, &blurred), &normal)| {
            let in_band = (value - blurred).abs() >= NOISE_BAND;
            let noisy = if in_band { value + normal } else { value };
            if noisy > 0.5 { 255 } else { 0 }
        })
        .collect()
}

fn resize_square(values: &[f32], from: usize, to: usize) -> Vec<f32> {
    let mut resized = Vec::with_capacity(to * to);
    Bilinear::whole((from, from), (to, to))
        .for_each_row::<1, f32>(values, |_, row| resized.extend_from_slice(row));
    resized
}

#[cfg(test)]
mod tests;
