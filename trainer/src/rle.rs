//! COCO's run lengths of masks: in the order of columns, background first, as numbers or as the
//! text of `pycocotools` (`rleToString` of `common/maskApi.c`).

use dataset::raster::{MASK_THRESHOLD, Mask255};
use serde::Serialize;

/// The runs of a mask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rle {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Lengths of runs of background, object, background, ..
    pub counts: Vec<u32>,
}

/// A segmentation as COCO files have it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Segmentation<Counts> {
    /// Height and width.
    pub size: [usize; 2],
    /// Text or numbers.
    pub counts: Counts,
}

impl Rle {
    /// The runs of the pixels above [`MASK_THRESHOLD`].
    #[must_use]
    pub fn from_mask(mask: &Mask255) -> Self {
        let (height, width) = (mask.height, mask.width);
        let mut runs = Runs::default();
        for x in 0..width {
            let column =
                mask.pixels[x..].iter().step_by(width).map(|&value| value > MASK_THRESHOLD);
            runs.add_column(x * height, column);
        }
        runs.finish(height, width)
    }

    /// The pixels, 0 or 255.
    #[must_use]
    pub fn to_mask(&self) -> Mask255 {
        let (height, width) = (self.height, self.width);
        let mut pixels = vec![0; height * width];
        let mut at = 0;
        for (index, &run) in self.counts.iter().enumerate() {
            let end = at + run as usize;
            if index % 2 == 1 {
                for place in at..end {
                    pixels[place % height * width + place / height] = u8::MAX;
                }
            }
            at = end;
        }
        Mask255 { height, width, pixels }
    }

    /// Pixels of the object.
    #[must_use]
    pub fn area(&self) -> u64 {
        self.counts.iter().skip(1).step_by(2).map(|&run| u64::from(run)).sum()
    }

    /// With counts as text: `coco_rle`.
    #[must_use]
    pub fn compressed(&self) -> Segmentation<String> {
        Segmentation { size: [self.height, self.width], counts: text(&self.counts) }
    }

    /// With counts as numbers: `uncompressed_rle`.
    #[must_use]
    pub fn uncompressed(&self) -> Segmentation<Vec<u32>> {
        Segmentation { size: [self.height, self.width], counts: self.counts.clone() }
    }
}

/// Runs while they are collected.
#[derive(Debug, Default)]
pub(crate) struct Runs {
    counts: Vec<u32>,
    end: usize,
}

impl Runs {
    /// Adds values of one column; `start` is the place of the first in the order of columns.
    pub(crate) fn add_column(&mut self, start: usize, foreground: impl Iterator<Item = bool>) {
        let mut run_start = None;
        let mut at = start;
        for is_foreground in foreground {
            match (is_foreground, run_start) {
                (true, None) => run_start = Some(at),
                (false, Some(begin)) => {
                    self.add(begin, at);
                    run_start = None;
                }
                _ => {}
            }
            at += 1;
        }
        if let Some(begin) = run_start {
            self.add(begin, at);
        }
    }

    fn add(&mut self, begin: usize, end: usize) {
        let length = (end - begin) as u32;
        match self.counts.last_mut() {
            // A run that goes on in the next column.
            Some(last) if begin == self.end => *last += length,
            _ => self.counts.extend([(begin - self.end) as u32, length]),
        }
        self.end = end;
    }

    /// The runs of a mask of that size.
    pub(crate) fn finish(mut self, height: usize, width: usize) -> Rle {
        let rest = (height * width - self.end) as u32;
        if rest > 0 || self.counts.is_empty() {
            self.counts.push(rest);
        }
        Rle { height, width, counts: self.counts }
    }
}

/// Six bits a character, five of them value, each number from the fourth on as its difference to
/// the one before the last.
fn text(counts: &[u32]) -> String {
    let mut text = String::new();
    for (index, &count) in counts.iter().enumerate() {
        let earlier = if index > 2 { i64::from(counts[index - 2]) } else { 0 };
        let mut value = i64::from(count) - earlier;
        loop {
            let bits = (value & 0x1f) as u8;
            value >>= 5;
            let is_last = if bits & 0x10 != 0 { value == -1 } else { value == 0 };
            text.push(char::from(48 + bits + if is_last { 0 } else { 0x20 }));
            if is_last {
                break;
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use dataset::source::{Annotation, Shape};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn runs_go_down_the_columns_and_begin_with_background() {
        let mask = Mask255 { height: 2, width: 3, pixels: vec![255, 0, 255, 255, 0, 0] };
        let rle = Rle::from_mask(&mask);
        assert_eq!(rle.counts, [0, 2, 2, 1, 1]);
        assert_eq!((rle.area(), rle.to_mask()), (3, mask));
    }

    proptest! {
        #[test]
        fn the_text_is_read_back_by_the_annotation_reader(
            height in 1_usize..40, width in 1_usize..40, seed in any::<u64>(), dense in 1_u64..40,
        ) {
            let value = |index: u64| (seed ^ index.wrapping_mul(0x9E37_79B9_7F4A_7C15)) >> 33;
            let pixels = (0..(height * width) as u64)
                .map(|index| if value(index / dense) % 2 == 0 { 0 } else { 255 })
                .collect();
            let mask = Mask255 { height, width, pixels };
            let rle = Rle::from_mask(&mask);
            let annotation = |shape| Annotation {
                file: String::new(), id: 0, size: (height as u32, width as u32), shape,
            };
            let text = annotation(Shape::Compressed(rle.compressed().counts));
            prop_assert_eq!(&text.rasterise().unwrap(), &mask);
            let numbers = annotation(Shape::Counts(rle.uncompressed().counts));
            prop_assert_eq!(numbers.rasterise().unwrap(), rle.to_mask());
        }
    }
}
