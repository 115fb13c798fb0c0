//! Decoded pixels, with their range in their type.

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
    fn an_empty_raster_has_no_box() {
        assert_eq!(Mask255 { height: 0, width: 0, pixels: vec![] }.box_xyxy(), None);
    }
}
