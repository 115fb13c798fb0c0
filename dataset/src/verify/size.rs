//! What becomes of a mask that has not the size of its image.

use serde::{Deserialize, Serialize};

use super::RejectReason;
use crate::raster::Mask255;
use crate::resample::Bilinear;

/// What to do about a mask that has not the size of its image. In a configuration:
///
/// ```toml
/// size_mismatch = "refuse"                      # the default
/// size_mismatch = { resize_within = 0.02 }      # at most 2 % in height and in width
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SizeMismatch {
    /// The pair is refused.
    #[default]
    Refuse,
    /// The mask is resized to the image (bilinear, no antialias, as the published loader stretches
    /// it) when neither side differs by more than this share of the image's, 0..=1; otherwise the
    /// pair is refused.
    ResizeWithin(f64),
}

/// A mask that was resized.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Resized {
    /// Height and width of the file.
    pub from: (usize, usize),
    /// Height and width of the image.
    pub to: (usize, usize),
}

impl SizeMismatch {
    /// True for the default, which configurations leave out.
    #[must_use]
    pub fn is_refuse(&self) -> bool {
        *self == Self::Refuse
    }

    /// Whether a mask of a size, both height and width, could be fitted to its image: known before
    /// the mask is there.
    ///
    /// # Errors
    /// [`RejectReason::SizeMismatch`].
    pub fn check(
        self,
        mask_hw: (usize, usize),
        image_hw: (usize, usize),
    ) -> Result<(), RejectReason> {
        let share = |mask: usize, image: usize| mask.abs_diff(image) as f64 / image.max(1) as f64;
        let differs = share(mask_hw.0, image_hw.0).max(share(mask_hw.1, image_hw.1));
        let close = matches!(self, Self::ResizeWithin(tolerance) if differs <= tolerance);
        let empty = mask_hw.0 == 0 || mask_hw.1 == 0;
        if mask_hw == image_hw || close && !empty {
            return Ok(());
        }
        Err(RejectReason::SizeMismatch { image: image_hw, mask: mask_hw })
    }

    /// The mask in the size of its image, and how it got it if it had another.
    ///
    /// # Errors
    /// [`RejectReason::SizeMismatch`].
    pub fn fit(
        self,
        mask: Mask255,
        image_hw: (usize, usize),
    ) -> Result<(Mask255, Option<Resized>), RejectReason> {
        let mask_hw = (mask.height, mask.width);
        if mask_hw == image_hw {
            return Ok((mask, None));
        }
        self.check(mask_hw, image_hw)?;
        let mut pixels = Vec::with_capacity(image_hw.0 * image_hw.1);
        Bilinear::whole(mask_hw, image_hw).for_each_row::<1, u8>(&mask.pixels, |_, row| {
            pixels.extend(row.iter().map(|value| value.round_ties_even() as u8));
        });
        let resized = Mask255 { height: image_hw.0, width: image_hw.1, pixels };
        Ok((resized, Some(Resized { from: mask_hw, to: image_hw })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn half(height: usize, width: usize) -> Mask255 {
        let pixels = (0..height * width).map(|at| if at % width < width / 2 { 255 } else { 0 });
        Mask255 { height, width, pixels: pixels.collect() }
    }

    #[test]
    fn equal_sizes_pass_under_any_policy() {
        for policy in [SizeMismatch::Refuse, SizeMismatch::ResizeWithin(0.0)] {
            assert_eq!(policy.fit(half(4, 6), (4, 6)), Ok((half(4, 6), None)));
        }
    }

    #[test]
    fn the_tolerance_is_of_each_side_and_inclusive() {
        let policy = SizeMismatch::ResizeWithin(0.02);
        let (mask, resized) = policy.fit(half(98, 204), (100, 200)).unwrap();
        assert_eq!((mask.height, mask.width, mask.pixels.len()), (100, 200, 20_000));
        assert_eq!(resized, Some(Resized { from: (98, 204), to: (100, 200) }));
        assert_eq!((mask.pixels[0], mask.pixels[199]), (255, 0));
        assert!(mask.foreground_pixels().abs_diff(10_000) <= 100);
        // Turned by a quarter: no tolerance of a few hundredths takes it.
        for (mask, image) in [(half(97, 200), (100, 200)), (half(200, 100), (100, 200))] {
            let expected = RejectReason::SizeMismatch { image, mask: (mask.height, mask.width) };
            assert_eq!(policy.fit(mask.clone(), image), Err(expected.clone()));
            assert_eq!(SizeMismatch::Refuse.fit(mask, image), Err(expected));
        }
    }

    #[test]
    fn it_is_written_as_documented() {
        let read = |text| serde_json::from_str::<SizeMismatch>(text);
        assert_eq!(read("\"refuse\"").unwrap(), SizeMismatch::Refuse);
        let within = read("{\"resize_within\": 0.02}").unwrap();
        assert_eq!(within, SizeMismatch::ResizeWithin(0.02));
        assert!(read("\"stretch\"").is_err());
    }
}
