//! Colour jitter: random brightness, contrast, saturation and hue. Draw, then apply.
//!
//! The published training has none. Meaning, order and rounding are those of torchvision's
//! `ColorJitter` on 8-bit tensors.

use rand::seq::SliceRandom;
use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

use crate::raster::RgbRaster;

/// How far each property may change; 0 leaves it alone and draws nothing else differently.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ColorJitter {
    /// The picture is multiplied by a factor of `max(0, 1 - brightness)..=1 + brightness`.
    pub brightness: f32,
    /// Its distance from the mean grey, likewise.
    pub contrast: f32,
    /// Its distance from its own greys, likewise.
    pub saturation: f32,
    /// The hue turns by `-hue..=hue` of a full circle; 0..=0.5.
    pub hue: f32,
}

/// One of the four changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Multiplies.
    Brightness,
    /// Blends with the mean grey.
    Contrast,
    /// Blends with the greys.
    Saturation,
    /// Turns the colour circle.
    Hue,
}

/// One draw of [`ColorJitter`]: the changes in the order in which they are made. A factor of 1 and
/// a turn of 0 are no change.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ColorParams {
    /// Every change once.
    pub order: [Change; 4],
    /// At least 0.
    pub brightness: f32,
    /// At least 0.
    pub contrast: f32,
    /// At least 0.
    pub saturation: f32,
    /// -0.5..=0.5.
    pub hue: f32,
}

impl ColorJitter {
    /// Refuses ranges that mean nothing.
    ///
    /// # Errors
    /// One line that names the setting.
    pub fn check(&self) -> Result<(), String> {
        let factors = [
            ("brightness", self.brightness),
            ("contrast", self.contrast),
            ("saturation", self.saturation),
        ];
        if let Some((name, value)) =
            factors.iter().find(|(_, value)| !(*value >= 0.0 && value.is_finite()))
        {
            return Err(format!("color_jitter.{name} = {value} must be a number from 0 up"));
        }
        if !(0.0..=0.5).contains(&self.hue) {
            return Err(format!("color_jitter.hue = {} is not within 0..=0.5", self.hue));
        }
        Ok(())
    }

    /// Draws the order and the four amounts.
    pub fn draw(&self, rng: &mut (impl Rng + ?Sized)) -> ColorParams {
        let mut order = [Change::Brightness, Change::Contrast, Change::Saturation, Change::Hue];
        order.shuffle(rng);
        let mut factor = |by: f32| rng.random_range((1.0 - by).max(0.0)..=1.0 + by);
        let (brightness, contrast, saturation) =
            (factor(self.brightness), factor(self.contrast), factor(self.saturation));
        let hue = rng.random_range(-self.hue..=self.hue);
        ColorParams { order, brightness, contrast, saturation, hue }
    }
}

impl ColorParams {
    /// Makes the changes, in place.
    pub fn apply(&self, image: &mut RgbRaster) {
        let pixels = image.pixels.as_chunks_mut::<3>().0;
        for change in self.order {
            match change {
                Change::Brightness if self.brightness != 1.0 => {
                    pixels.iter_mut().for_each(|pixel| blend(pixel, 0.0, self.brightness));
                }
                Change::Contrast if self.contrast != 1.0 => {
                    let sum: u64 = pixels.iter().map(|pixel| u64::from(grey(pixel))).sum();
                    let mean = (sum as f64 / pixels.len().max(1) as f64) as f32;
                    pixels.iter_mut().for_each(|pixel| blend(pixel, mean, self.contrast));
                }
                Change::Saturation if self.saturation != 1.0 => {
                    pixels.iter_mut().for_each(|pixel| {
                        blend(pixel, f32::from(grey(pixel)), self.saturation);
                    });
                }
                Change::Hue if self.hue != 0.0 => {
                    pixels.iter_mut().for_each(|pixel| turn(pixel, self.hue));
                }
                _ => {}
            }
        }
    }
}

/// `ratio * pixel + (1 - ratio) * other`, the fraction dropped.
fn blend(pixel: &mut [u8; 3], other: f32, ratio: f32) {
    for value in pixel {
        *value = (ratio * f32::from(*value) + (1.0 - ratio) * other).clamp(0.0, 255.0) as u8;
    }
}

fn grey([red, green, blue]: &[u8; 3]) -> u8 {
    // The first weight is torchvision's, one digit short of the standard's.
    (0.2989 * f32::from(*red) + 0.587 * f32::from(*green) + 0.114 * f32::from(*blue)) as u8
}

/// Through hue, saturation and value, with torchvision's way back to 8 bits.
fn turn(pixel: &mut [u8; 3], by: f32) {
    let [red, green, blue] = pixel.map(|value| f32::from(value) / 255.0);
    let (value, low) = (red.max(green).max(blue), red.min(green).min(blue));
    let chroma = value - low;
    let (saturation, divisor) = if chroma == 0.0 { (0.0, 1.0) } else { (chroma / value, chroma) };
    let [from_red, from_green, from_blue] =
        [red, green, blue].map(|channel| (value - channel) / divisor);
    let sixths = if value == red {
        from_blue - from_green
    } else if value == green {
        2.0 + from_red - from_blue
    } else {
        4.0 + from_green - from_red
    };
    let hue = ((sixths / 6.0 + 1.0) % 1.0 + by).rem_euclid(1.0);
    let sector = (hue * 6.0).floor();
    let fraction = hue * 6.0 - sector;
    let lower = (value * (1.0 - saturation)).clamp(0.0, 1.0);
    let falling = (value * (1.0 - saturation * fraction)).clamp(0.0, 1.0);
    let rising = (value * (1.0 - saturation * (1.0 - fraction))).clamp(0.0, 1.0);
    let turned = match sector as u8 % 6 {
        0 => [value, rising, lower],
        1 => [falling, value, lower],
        2 => [lower, value, rising],
        3 => [lower, falling, value],
        4 => [rising, lower, value],
        _ => [value, lower, falling],
    };
    *pixel = turned.map(|channel| (channel * (255.0 + 1.0 - 1e-3)) as u8);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rng::{Draw, sample_rng};

    const NONE: ColorParams = ColorParams {
        order: [Change::Hue, Change::Contrast, Change::Brightness, Change::Saturation],
        brightness: 1.0,
        contrast: 1.0,
        saturation: 1.0,
        hue: 0.0,
    };

    #[rustfmt::skip]
    const PICTURE: [u8; 24] = [
        200, 40, 40, 30, 60, 190, 0, 0, 0, 255, 255, 255,
        17, 250, 99, 128, 128, 128, 90, 91, 92, 3, 200, 7,
    ];

    /// What torchvision 0.28.0 makes of [`PICTURE`] as a 3 x 2 x 4 tensor:
    /// `adjust_brightness(img, 1.4)` and so on, the last one
    /// `adjust_saturation(adjust_brightness(adjust_contrast(adjust_hue(img, 0.05), 1.2), 0.8), 1.3)`.
    #[rustfmt::skip]
    const EXPECTED: [(ColorParams, [u8; 24]); 10] = [
        (ColorParams { brightness: 1.4, ..NONE }, [255, 56, 56, 42, 84, 255, 0, 0, 0, 255, 255, 255, 23, 255, 138, 179, 179, 179, 126, 127, 128, 4, 255, 9]),
        (ColorParams { brightness: 0.6, ..NONE }, [120, 24, 24, 18, 36, 114, 0, 0, 0, 153, 153, 153, 10, 150, 59, 76, 76, 76, 54, 54, 55, 1, 120, 4]),
        (ColorParams { contrast: 1.3, ..NONE }, [226, 18, 18, 5, 44, 213, 0, 0, 0, 255, 255, 255, 0, 255, 94, 132, 132, 132, 83, 84, 85, 0, 226, 0]),
        (ColorParams { contrast: 0.5, ..NONE }, [156, 76, 76, 71, 86, 151, 56, 56, 56, 184, 184, 184, 65, 181, 106, 120, 120, 120, 101, 102, 102, 58, 156, 60]),
        (ColorParams { saturation: 1.5, ..NONE }, [255, 16, 16, 12, 57, 252, 0, 0, 0, 255, 255, 255, 0, 255, 67, 128, 128, 128, 90, 91, 93, 0, 240, 0]),
        (ColorParams { saturation: 0.2, ..NONE }, [109, 77, 77, 58, 64, 90, 0, 0, 0, 254, 254, 254, 133, 180, 150, 127, 127, 127, 90, 90, 90, 95, 135, 96]),
        (ColorParams { hue: 0.1, ..NONE }, [200, 136, 40, 96, 30, 190, 0, 0, 0, 255, 255, 255, 17, 250, 239, 128, 128, 128, 90, 90, 92, 3, 200, 125]),
        (ColorParams { hue: -0.4, ..NONE }, [40, 104, 200, 124, 190, 30, 0, 0, 0, 255, 255, 255, 250, 17, 28, 128, 128, 128, 92, 92, 90, 200, 3, 78]),
        (ColorParams { hue: 0.5, ..NONE }, [40, 200, 200, 190, 160, 30, 0, 0, 0, 255, 255, 255, 250, 17, 168, 128, 128, 128, 92, 91, 90, 200, 3, 196]),
        (ColorParams { hue: 0.05, contrast: 1.2, brightness: 0.8, saturation: 1.3, ..NONE }, [196, 57, 0, 25, 2, 202, 0, 0, 0, 204, 204, 204, 0, 224, 145, 104, 104, 104, 67, 67, 69, 0, 192, 25]),
    ];

    #[test]
    fn each_change_is_torchvisions() {
        for (params, expected) in EXPECTED {
            let mut image = RgbRaster { height: 2, width: 4, pixels: PICTURE.to_vec() };
            params.apply(&mut image);
            // torch fuses or reorders a float operation here and there: a value on the brink of a
            // whole number may fall to the other side of it.
            let errors = image.pixels.iter().zip(expected).map(|(a, b)| a.abs_diff(b));
            assert!(errors.max() <= Some(1), "{params:?}\n{:?}\n{expected:?}", image.pixels);
        }
    }

    #[test]
    fn no_range_is_no_change() {
        let params = ColorJitter::default().draw(&mut sample_rng(1, 0, "a", Draw::ColorJitter));
        let mut image = RgbRaster { height: 2, width: 4, pixels: PICTURE.to_vec() };
        params.apply(&mut image);
        assert_eq!(image.pixels, PICTURE);
    }

    #[test]
    fn ranges_that_mean_nothing_are_refused_by_name() {
        let jitter = ColorJitter { brightness: -0.1, ..ColorJitter::default() };
        assert!(jitter.check().unwrap_err().starts_with("color_jitter.brightness = -0.1 "));
        let jitter = ColorJitter { contrast: f32::NAN, ..ColorJitter::default() };
        assert!(jitter.check().unwrap_err().starts_with("color_jitter.contrast = NaN "));
        let jitter = ColorJitter { hue: 0.6, ..ColorJitter::default() };
        assert!(jitter.check().unwrap_err().starts_with("color_jitter.hue = 0.6 "));
        assert_eq!(ColorJitter::default().check(), Ok(()));
    }

    proptest! {
        #[test]
        fn draws_stay_within_their_ranges_and_any_picture_survives(
            brightness in 0.0_f32..3.0,
            contrast in 0.0_f32..3.0,
            saturation in 0.0_f32..3.0,
            hue in 0.0_f32..=0.5,
            pixels in prop::collection::vec(any::<u8>(), 0..60),
            seed: u64,
        ) {
            let jitter = ColorJitter { brightness, contrast, saturation, hue };
            let draw = || jitter.draw(&mut sample_rng(seed, 0, "a", Draw::ColorJitter));
            let params = draw();
            prop_assert_eq!(params, draw());
            let drawn = [
                (params.brightness, brightness),
                (params.contrast, contrast),
                (params.saturation, saturation),
            ];
            for (factor, by) in drawn {
                prop_assert!(factor >= (1.0 - by).max(0.0) && factor <= 1.0 + by);
            }
            prop_assert!(params.hue.abs() <= hue);
            let width = pixels.len() / 3;
            let mut image = RgbRaster { height: 1, width, pixels: pixels[..width * 3].to_vec() };
            params.apply(&mut image);
            prop_assert_eq!(image.pixels.len(), width * 3);
        }
    }
}
