//! Synthetic pairs: thin and intricate objects with exact masks over textured backgrounds.
//!
//! A drawn object and its mask are the same antialiased coverage: the picture is
//! `object * coverage + background * (1 - coverage)` and the mask is `255 * coverage`, so unlike a
//! hand-made mask it is right to the pixel, soft edges included. Spokes, slats and twigs are a few
//! pixels wide, and lines and shapes of the background cross behind them, which is what a model
//! that is given only the box gets wrong.

mod background;
mod collection;
mod objects;
mod outline;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tiny_skia::{Mask, Transform};

pub use self::collection::{DrawError, draw_collection};
pub use self::objects::ObjectKind;
use self::outline::Outline;
use crate::raster::{Mask255, RgbRaster};

/// Least distance in RGB between an object and what lies behind it on average.
const MIN_CONTRAST: f32 = 80.0;
/// Half the object's extent, as a share of the shorter side of the picture.
const RADIUS_RANGE: std::ops::Range<f32> = 0.3..0.46;

/// Draws pair `index` of the endless collection that `seed` names, an object of any kind.
///
/// # Panics
/// When a side of `size_hw` is 0 or above 65,535.
#[must_use]
pub fn draw_pair(seed: u64, index: u64, size_hw: (usize, usize)) -> (RgbRaster, Mask255) {
    let mut rng = generator(seed, index);
    let kind = ObjectKind::ALL[rng.random_range(0..ObjectKind::ALL.len())];
    draw_object(&mut rng, kind, size_hw)
}

/// The generator of one pair: its own stream, so that pairs can be drawn in any order.
fn generator(seed: u64, index: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(index);
    rng
}

fn draw_object(
    rng: &mut ChaCha8Rng,
    kind: ObjectKind,
    (height, width): (usize, usize),
) -> (RgbRaster, Mask255) {
    assert!(
        (1..=65_535).contains(&height) && (1..=65_535).contains(&width),
        "cannot draw a picture of {height} x {width} pixels"
    );
    let outline = kind.outline(rng);
    let coverage = cover(rng, &outline, (height, width));
    let mut pixels = background::paint(rng, (height, width));
    let behind = mean_color(&pixels, &coverage);
    let object = background::material(rng, (height, width), behind, MIN_CONTRAST);
    for ((pixel, object), &coverage) in pixels.iter_mut().zip(&object).zip(&coverage) {
        let share = f32::from(coverage) / 255.0;
        for (channel, object) in pixel.iter_mut().zip(object) {
            *channel += (object - *channel) * share;
        }
    }
    let pixels = pixels.as_flattened().iter().map(|value| value.round() as u8).collect();
    (RgbRaster { height, width, pixels }, Mask255 { height, width, pixels: coverage })
}

/// The coverage of an outline placed somewhere in the picture, 0 to 255.
fn cover(rng: &mut ChaCha8Rng, outline: &Outline, (height, width): (usize, usize)) -> Vec<u8> {
    let radius = rng.random_range(RADIUS_RANGE) * height.min(width) as f32;
    let mut center = |side: usize| {
        let free = (side as f32 / 2.0 - radius).max(0.0);
        side as f32 / 2.0 + rng.random_range(-1.0..=1.0_f32) * free
    };
    let (x, y) = (center(width), center(height));
    let mirror = if rng.random() { 1.0 } else { -1.0 };
    let transform = Transform::from_translate(x, y)
        .pre_rotate(rng.random_range(-12.0..12.0))
        .pre_scale(radius * mirror, radius);
    let mut coverage =
        Mask::new(width as u32, height as u32).expect("both sides were checked to be in range");
    for (path, rule) in outline.paths() {
        coverage.fill_path(path, *rule, true, transform);
    }
    coverage.take()
}

/// Mean color of the pixels that the object will hide.
fn mean_color(pixels: &[[f32; 3]], coverage: &[u8]) -> [f32; 3] {
    let mut sum = [0.0; 3];
    let mut weight = 0.0;
    for (pixel, &coverage) in pixels.iter().zip(coverage) {
        let share = f32::from(coverage);
        weight += share;
        for (sum, channel) in sum.iter_mut().zip(pixel) {
            *sum += channel * share;
        }
    }
    sum.map(|sum| sum / weight.max(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_depends_on_seed_and_index_only() {
        let pair = draw_pair(7, 3, (90, 120));
        assert_eq!(pair, draw_pair(7, 3, (90, 120)));
        assert_ne!(pair, draw_pair(7, 4, (90, 120)));
        assert_ne!(pair, draw_pair(8, 3, (90, 120)));
    }

    #[test]
    fn every_kind_is_thin_visible_and_soft_at_its_edges() {
        for kind in ObjectKind::ALL {
            for index in 0..4 {
                let (_, mask) = draw_object(&mut generator(1, index), kind, (300, 400));
                let share = mask.foreground_pixels() as f64 / (300.0 * 400.0);
                assert!((0.004..0.45).contains(&share), "{kind:?} {index}: {share}");
                let soft = mask.pixels.iter().filter(|value| (1..255).contains(*value)).count();
                assert!(soft > 200, "{kind:?} {index}: {soft} soft pixels");
                // Intricate: the object fills little of its box.
                let [x_min, y_min, x_max, y_max] = mask.box_xyxy().unwrap().map(f64::from);
                let area = (x_max - x_min + 1.0) * (y_max - y_min + 1.0);
                assert!(mask.foreground_pixels() as f64 / area < 0.72, "{kind:?} {index}");
            }
        }
    }

    #[test]
    fn tiny_pictures_can_be_drawn() {
        for index in 0..20 {
            let (image, mask) = draw_pair(5, index, (1, 3));
            assert_eq!((image.pixels.len(), mask.pixels.len()), (9, 3));
        }
    }
}
