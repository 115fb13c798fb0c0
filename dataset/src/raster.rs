//! Decoded pixels, with their range in their type.

use image::{GrayImage, Luma};
use imageproc::distance_transform::Norm;
use imageproc::morphology::erode;

/// A mask value above this is foreground: the published code cuts 0..255 masks at `> 128` for
/// boxes, points and metrics.
pub const MASK_THRESHOLD: u8 = 128;

/// An 8-bit colour image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RgbRaster {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// `height * width * 3` values, row by row, red, green, blue.
    pub pixels: Vec<u8>,
}

/// A mask with soft edges: 0 is background, 255 is foreground.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mask255 {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// `height * width` values, row by row.
    pub pixels: Vec<u8>,
}

impl Mask255 {
    /// Number of pixels above [`MASK_THRESHOLD`].
    #[must_use]
    pub fn foreground_pixels(&self) -> usize {
        // Counts that fit a byte add up sixteen at a time, where `usize` ones would two at a time.
        let count = |part: &[u8]| -> u8 {
            part.iter().map(|&value| u8::from(value > MASK_THRESHOLD)).sum()
        };
        self.pixels.chunks(u8::MAX.into()).map(|part| usize::from(count(part))).sum()
    }

    /// The tight box around the foreground, `[x_min, y_min, x_max, y_max]` as inclusive pixel
    /// indices; `None` when there is no foreground.
    #[must_use]
    pub fn box_xyxy(&self) -> Option<[u32; 4]> {
        let is_foreground = |value: &u8| *value > MASK_THRESHOLD;
        let mut found: Option<[usize; 4]> = None;
        for (y, row) in self.pixels.chunks_exact(self.width.max(1)).enumerate() {
            let Some(left) = row.iter().position(is_foreground) else { continue };
            let right = row.iter().rposition(is_foreground).unwrap_or(left);
            found = Some(match found {
                None => [left, y, right, y],
                Some([x_min, y_min, x_max, _]) => [x_min.min(left), y_min, x_max.max(right), y],
            });
        }
        found.map(|corners| corners.map(|value| value as u32))
    }

    /// Whether each pixel is foreground with background, or the outside of the image, among its
    /// four neighbours: the line that pictures show around a mask.
    #[must_use]
    pub fn outline(&self) -> Vec<bool> {
        let (width, height) = (self.width as u32, self.height as u32);
        // `erode` takes the outside for foreground, so a frame of background stands around.
        let framed = GrayImage::from_fn(width + 2, height + 2, |x, y| {
            let inside = (1..=width).contains(&x) && (1..=height).contains(&y);
            let index = || (y as usize - 1) * self.width + (x as usize - 1);
            Luma([if inside && self.pixels[index()] > MASK_THRESHOLD { 255 } else { 0 }])
        });
        let inner = erode(&framed, Norm::L1, 1);
        let pixels = (0..height).flat_map(|y| (0..width).map(move |x| (x + 1, y + 1)));
        pixels.map(|(x, y)| framed.get_pixel(x, y).0[0] > inner.get_pixel(x, y).0[0]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(height: usize, width: usize, foreground: &[(usize, usize)]) -> Mask255 {
        let mut pixels = vec![0; height * width];
        for (y, x) in foreground {
            pixels[y * width + x] = 255;
        }
        Mask255 { height, width, pixels }
    }

    #[test]
    fn box_is_tight_and_inclusive() {
        assert_eq!(mask(4, 6, &[(1, 4), (3, 2)]).box_xyxy(), Some([2, 1, 4, 3]));
        assert_eq!(mask(4, 6, &[(2, 5)]).box_xyxy(), Some([5, 2, 5, 2]));
        assert_eq!(mask(4, 6, &[]).box_xyxy(), None);
    }

    #[test]
    fn threshold_is_strict() {
        let grey = Mask255 { height: 1, width: 2, pixels: vec![128, 129] };
        assert_eq!(grey.foreground_pixels(), 1);
        assert_eq!(grey.box_xyxy(), Some([1, 0, 1, 0]));
    }

    #[test]
    fn an_outline_is_one_pixel_wide_and_follows_the_frame() {
        let block: Vec<_> = (0..3).flat_map(|y| (1..5).map(move |x| (y, x))).collect();
        let outline = mask(4, 6, &block).outline();
        let rows: Vec<String> = outline
            .chunks(6)
            .map(|row| row.iter().map(|&on| if on { '#' } else { '.' }).collect())
            .collect();
        assert_eq!(rows, [".####.", ".#..#.", ".####.", "......"]);
    }

    #[test]
    fn an_empty_raster_has_no_box_and_no_outline() {
        let empty = Mask255 { height: 0, width: 0, pixels: vec![] };
        assert_eq!(empty.box_xyxy(), None);
        assert!(empty.outline().is_empty());
    }
}
