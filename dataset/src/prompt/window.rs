//! Pixels of a part of a mask, by number.

use std::ops::Range;

use crate::raster::Mask255;

/// A rectangle within a mask.
pub(super) struct Window {
    pub(super) rows: Range<usize>,
    pub(super) columns: Range<usize>,
}

impl Window {
    /// Number of wanted pixels.
    pub(super) fn count(&self, mask: &Mask255, wanted: impl Fn(u8) -> bool) -> usize {
        self.row_ends(mask, wanted).last().copied().unwrap_or(0)
    }

    /// The wanted pixels of the given numbers, as `[x, y]`, numbered from 0 row by row; numbers
    /// that name none are left out.
    pub(super) fn pixels_at(
        &self,
        mask: &Mask255,
        wanted: impl Fn(u8) -> bool,
        numbers: &[i64],
    ) -> Vec<[f32; 2]> {
        // Finds the row of a number by bisection.
        let row_ends = self.row_ends(mask, &wanted);
        let pixel = |number: &i64| {
            let number = usize::try_from(*number).ok()?;
            let y = row_ends.partition_point(|&end| end <= number);
            let before = if y == 0 { 0 } else { row_ends[y - 1] };
            let row = (y < row_ends.len()).then(|| self.row(mask, y))?;
            let mut in_row = row.iter().enumerate().filter(|(_, value)| wanted(**value));
            let (x, _) = in_row.nth(number - before)?;
            Some([(self.columns.start + x) as f32, (self.rows.start + y) as f32])
        };
        numbers.iter().filter_map(pixel).collect()
    }

    /// Wanted pixels up to and including each row.
    fn row_ends(&self, mask: &Mask255, wanted: impl Fn(u8) -> bool) -> Vec<usize> {
        let counted = (0..self.rows.len()).scan(0, |sum, y| {
            *sum += self.row(mask, y).iter().filter(|value| wanted(**value)).count();
            Some(*sum)
        });
        counted.collect()
    }

    fn row<'a>(&self, mask: &'a Mask255, y: usize) -> &'a [u8] {
        let start = (self.rows.start + y) * mask.width;
        &mask.pixels[start + self.columns.start..start + self.columns.end]
    }
}
