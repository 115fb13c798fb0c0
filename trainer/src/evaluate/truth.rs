//! The truth of one image, compared with every mask predicted for it.

use dataset::raster::{MASK_THRESHOLD, Mask255};

use super::report::Score;
use crate::metrics::{Iou, boundary, boundary_radius, mask_iou};

/// The annotated mask and its boundary, which is found once.
pub(super) struct Truth {
    pub(super) height: usize,
    pub(super) width: usize,
    /// Foreground pixels.
    pub(super) pixels: u64,
    mask: Vec<u8>,
    boundary: Vec<bool>,
    radius: usize,
}

/// A predicted mask against the truth.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Compared {
    pub(super) score: Score,
    /// Foreground pixels predicted.
    pub(super) pixels: u64,
}

impl Truth {
    pub(super) fn new(mask: &Mask255, dilation_ratio: f64) -> Self {
        let (height, width) = (mask.height, mask.width);
        let radius = boundary_radius(height, width, dilation_ratio);
        let binary: Vec<u8> =
            mask.pixels.iter().map(|&value| u8::from(value > MASK_THRESHOLD)).collect();
        Self {
            height,
            width,
            pixels: foreground(&binary),
            boundary: boundary(&binary, height, width, radius),
            mask: binary,
            radius,
        }
    }

    /// `predicted` holds a byte a pixel, anything but 0 being foreground.
    pub(super) fn compare(&self, predicted: &[u8]) -> Compared {
        let edge = boundary(predicted, self.height, self.width, self.radius);
        let boundary_iou = Iou::of(edge.into_iter().zip(self.boundary.iter().copied()));
        Compared {
            score: Score {
                mask_iou: mask_iou(predicted, &self.mask).value,
                boundary_iou: boundary_iou.value,
            },
            pixels: foreground(predicted),
        }
    }
}

fn foreground(mask: &[u8]) -> u64 {
    mask.iter().map(|&value| u64::from(value != 0)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::boundary_iou;

    #[test]
    fn comparing_is_the_published_pair_of_metrics_at_any_dilation() {
        let (height, width) = (30, 40);
        let block = |from: usize| -> Vec<u8> {
            let inside =
                |at: usize| (from..25).contains(&(at / width)) && (5..30).contains(&(at % width));
            (0..height * width).map(|at| u8::from(inside(at))).collect()
        };
        let (truth, predicted) = (block(4), block(9));
        let mask =
            Mask255 { height, width, pixels: truth.iter().map(|value| value * 255).collect() };
        let mut found = Vec::new();
        for ratio in [0.01, 0.02, 0.1] {
            let compared = Truth::new(&mask, ratio).compare(&predicted);
            assert_eq!(compared.score.mask_iou, mask_iou(&predicted, &truth).value);
            let expected = boundary_iou(&predicted, &truth, height, width, ratio).value;
            assert_eq!(compared.score.boundary_iou, expected);
            assert_eq!(compared.pixels, 16 * 25);
            found.push(expected);
        }
        assert!(found[0] < found[2], "a wider band forgives more: {found:?}");
    }

    #[test]
    fn empty_against_empty_is_one_and_against_something_zero() {
        let empty = Truth::new(&Mask255 { height: 4, width: 4, pixels: vec![128; 16] }, 0.02);
        let score = |value| Score { mask_iou: value, boundary_iou: value };
        assert_eq!(empty.compare(&[0; 16]), Compared { score: score(1.0), pixels: 0 });
        assert_eq!(empty.compare(&[1; 16]), Compared { score: score(0.0), pixels: 16 });
    }
}
