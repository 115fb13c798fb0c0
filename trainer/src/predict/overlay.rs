//! Masks over their image, for people.

use std::borrow::Borrow;

use dataset::raster::{MASK_THRESHOLD, Mask255, RgbRaster};

/// Tints of the objects in turn.
const TINTS: [[u8; 3]; 8] = [
    [30, 144, 255],
    [255, 99, 71],
    [50, 205, 50],
    [186, 85, 211],
    [255, 165, 0],
    [0, 206, 209],
    [255, 105, 180],
    [154, 205, 50],
];
const OUTLINE: [u8; 3] = [255, 255, 0];

/// The image with each mask tinted in a colour of its own and outlined.
#[must_use]
pub fn overlay(
    image: &RgbRaster,
    masks: impl IntoIterator<Item = impl Borrow<Mask255>>,
) -> RgbRaster {
    let mut picture = image.clone();
    for (mask, tint) in masks.into_iter().zip(TINTS.iter().cycle()) {
        let mask = mask.borrow();
        let pixels = picture.pixels.chunks_exact_mut(3);
        for ((pixel, value), is_outline) in pixels.zip(&mask.pixels).zip(mask.outline()) {
            if is_outline {
                pixel.copy_from_slice(&OUTLINE);
            } else if *value > MASK_THRESHOLD {
                pixel.iter_mut().zip(tint).for_each(|(value, tint)| *value = value.midpoint(*tint));
            }
        }
    }
    picture
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlay_outlines_the_mask() {
        let image = RgbRaster { height: 5, width: 5, pixels: vec![0; 75] };
        let mut mask = Mask255 { height: 5, width: 5, pixels: vec![0; 25] };
        for y in 1..4 {
            mask.pixels[y * 5 + 1..y * 5 + 4].fill(255);
        }
        let picture = overlay(&image, [&mask]);
        assert_eq!(picture.pixels[(5 + 1) * 3..][..3], [255, 255, 0]);
        assert_eq!(picture.pixels[(2 * 5 + 2) * 3..][..3], [15, 72, 127]);
        assert_eq!(picture.pixels[..3], [0, 0, 0]);
    }
}
