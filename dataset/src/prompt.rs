//! Prompts made from a mask: box, points, noisy mask. Draw, then apply.

use rand::seq::index;
use rand::{Rng, RngExt};
use rand_distr::StandardNormal;
use serde::{Deserialize, Serialize};

use crate::raster::{MASK_THRESHOLD, Mask255};
use crate::resample::Bilinear;

/// Side of a mask prompt in pixels: what SAM's prompt encoder takes for a 1024 input.
pub const NOISE_MASK_SIZE: usize = 256;
/// The published noise mask compares the mask with itself after a detour at 1/8 of its size.
const DETOUR_FACTOR: usize = 8;
/// Where that detour changes the mask by at least this much, noise is added.
const NOISE_BAND: f32 = 0.01;

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

/// A prompt in the coordinates of the mask it was made from.
#[derive(Clone, Debug, PartialEq)]
pub enum Prompt {
    /// `[x_min, y_min, x_max, y_max]`, inclusive pixel indices.
    Box([f32; 4]),
    /// Points on the object.
    Points {
        /// `[x, y]`, pixel indices.
        coords: Vec<[f32; 2]>,
        /// 1 for foreground, one for each point.
        labels: Vec<f32>,
    },
    /// [`NOISE_MASK_SIZE`] squared values, row by row, each 0 or 255.
    NoiseMask(Vec<u8>),
}

/// Which prompts a training draws.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PromptRecipe {
    /// One of them is drawn for each sample, all equally likely; all three as published. An empty
    /// list means boxes.
    pub kinds: Vec<PromptKind>,
    /// Points in a points prompt; 10 as published.
    pub num_points: usize,
}

impl PromptRecipe {
    /// Draws a prompt that is never degenerate: a mask with fewer than `num_points` foreground
    /// pixels gets points drawn with replacement, and one without foreground gets a noise mask
    /// whatever the kinds, since neither a box nor a point could say "nothing".
    pub fn draw(&self, rng: &mut (impl Rng + ?Sized), mask: &Mask255) -> Prompt {
        let kind = match self.kinds.as_slice() {
            [] => PromptKind::Box,
            kinds => kinds[rng.random_range(0..kinds.len())],
        };
        let drawn = match kind {
            PromptKind::Box => box_prompt(mask).map(Prompt::Box),
            PromptKind::Points => draw_points(rng, mask, self.num_points),
            PromptKind::NoiseMask => None,
        };
        drawn.unwrap_or_else(|| {
            let normal_draws: Vec<f32> = (0..NOISE_MASK_SIZE * NOISE_MASK_SIZE)
                .map(|_| rng.sample(StandardNormal))
                .collect();
            Prompt::NoiseMask(noise_mask(&downscale_mask(mask, NOISE_MASK_SIZE), &normal_draws))
        })
    }
}

fn draw_points(rng: &mut (impl Rng + ?Sized), mask: &Mask255, num_points: usize) -> Option<Prompt> {
    let foreground = mask.foreground_pixels();
    if foreground == 0 {
        return None;
    }
    let chosen: Vec<i64> = if foreground >= num_points {
        index::sample(rng, foreground, num_points).iter().map(|chosen| chosen as i64).collect()
    } else {
        (0..num_points).map(|_| rng.random_range(0..foreground as i64)).collect()
    };
    let coords = points_from_permutation(mask, &chosen);
    Some(Prompt::Points { labels: vec![1.0; coords.len()], coords })
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
    let width = mask.width.max(1);
    let is_foreground = |value: &u8| *value > MASK_THRESHOLD;
    // Foreground pixels up to and including each row: finds the row of a number by bisection.
    let row_ends: Vec<usize> = mask
        .pixels
        .chunks_exact(width)
        .scan(0, |sum, row| {
            *sum += row.iter().filter(|value| is_foreground(value)).count();
            Some(*sum)
        })
        .collect();
    permutation
        .iter()
        .filter_map(|&number| {
            let number = usize::try_from(number).ok()?;
            let y = row_ends.partition_point(|&end| end <= number);
            let before = if y == 0 { 0 } else { row_ends[y - 1] };
            let row = mask.pixels.get(y * width..(y + 1) * width)?;
            let in_row = row.iter().enumerate().filter(|(_, value)| is_foreground(value));
            let (x, _) = in_row.into_iter().nth(number - before)?;
            Some([x as f32, y as f32])
        })
        .collect()
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
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rng::{Draw, sample_rng};

    fn square(size: usize, from: usize, to: usize) -> Mask255 {
        let inside = from..to;
        let pixels = (0..size * size)
            .map(|at| {
                if inside.contains(&(at / size)) && inside.contains(&(at % size)) { 255 } else { 0 }
            })
            .collect();
        Mask255 { height: size, width: size, pixels }
    }

    #[test]
    fn permuted_numbers_are_row_major_foreground_pixels() {
        let mask = square(5, 2, 4);
        assert_eq!(
            points_from_permutation(&mask, &[0, 3, 1, 4, -1]),
            [[2.0, 2.0], [3.0, 3.0], [3.0, 2.0]]
        );
    }

    #[test]
    fn noise_stays_near_the_edge() {
        let mask = square(1024, 256, 768);
        let values = downscale_mask(&mask, NOISE_MASK_SIZE);
        let noisy = noise_mask(&values, &vec![-9.0; values.len()]);
        assert_eq!(noisy[128 * 256 + 128], 255, "the middle is out of reach of the noise");
        assert_eq!(noisy[64 * 256 + 64], 0, "the corner is within it");
        assert_eq!(noisy[0], 0);
    }

    #[test]
    fn few_pixels_give_repeated_points_and_none_a_noise_mask() {
        let recipe = PromptRecipe { kinds: vec![PromptKind::Points], num_points: 10 };
        let mut rng = sample_rng(1, 0, "few", Draw::Prompt);
        match recipe.draw(&mut rng, &square(16, 3, 5)) {
            Prompt::Points { coords, labels } => {
                assert_eq!((coords.len(), labels), (10, vec![1.0; 10]));
            }
            other => panic!("{other:?}"),
        }
        match recipe.draw(&mut rng, &square(16, 3, 3)) {
            Prompt::NoiseMask(values) => assert!(values.iter().all(|&value| value == 0)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn kinds_are_equally_likely() {
        let kinds = vec![PromptKind::Box, PromptKind::Points, PromptKind::NoiseMask];
        let recipe = PromptRecipe { kinds, num_points: 10 };
        let mask = square(32, 4, 20);
        let mut counts = [0; 3];
        for epoch in 0..300 {
            let prompt = recipe.draw(&mut sample_rng(42, epoch, "a", Draw::Prompt), &mask);
            counts[match prompt {
                Prompt::Box(_) => 0,
                Prompt::Points { .. } => 1,
                Prompt::NoiseMask(_) => 2,
            }] += 1;
        }
        assert!(counts.iter().all(|count| (70..=130).contains(count)), "{counts:?}");
    }

    proptest! {
        #[test]
        fn points_are_distinct_foreground_and_the_box_is_tight(
            pixels in prop::collection::vec(any::<u8>(), 20 * 30),
            seed: u64,
        ) {
            let mask = Mask255 { height: 20, width: 30, pixels };
            prop_assume!(mask.foreground_pixels() >= 10);
            let mut rng = sample_rng(seed, 0, "mask", Draw::Prompt);
            let Some(Prompt::Points { coords, .. }) = draw_points(&mut rng, &mask, 10) else {
                return Err(TestCaseError::fail("no points"));
            };
            let [x_min, y_min, x_max, y_max] = box_prompt(&mask).unwrap();
            for [x, y] in &coords {
                prop_assert!(mask.pixels[*y as usize * 30 + *x as usize] > MASK_THRESHOLD);
                prop_assert!((x_min..=x_max).contains(x) && (y_min..=y_max).contains(y));
            }
            let mut distinct = coords.clone();
            distinct.sort_by(|a, b| a.partial_cmp(b).unwrap());
            distinct.dedup();
            prop_assert_eq!(distinct.len(), 10);
            for (inside, outside) in [(x_min, x_min - 1.0), (x_max, x_max + 1.0)] {
                let column = |x: f32| (0..20).any(|y| {
                    (0.0..30.0).contains(&x) && mask.pixels[y * 30 + x as usize] > MASK_THRESHOLD
                });
                prop_assert!(column(inside));
                prop_assert!(!column(outside) || (x_min..=x_max).contains(&outside));
            }
        }
    }
}
