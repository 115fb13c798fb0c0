//! Mask IoU and boundary IoU of one image, and the upsampling before them.
//!
//! Masks are rows of bytes, anything but 0 being foreground.

use tch::Tensor;

/// Width of the boundary over the image's diagonal.
pub const DILATION_RATIO: f64 = 0.02;

/// An intersection over a union.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Iou {
    /// In 0..1, higher is better; 1 when both masks are empty, as in the evaluation of DAVIS 2017.
    pub value: f64,
    /// Neither mask has foreground, so the value is a convention.
    pub both_empty: bool,
}

impl Iou {
    pub(crate) fn of(pairs: impl Iterator<Item = (bool, bool)>) -> Self {
        let (mut intersection, mut union) = (0_u64, 0_u64);
        for (pred, gt) in pairs {
            intersection += u64::from(pred && gt);
            union += u64::from(pred || gt);
        }
        let both_empty = union == 0;
        let value = if both_empty { 1.0 } else { intersection as f64 / union as f64 };
        Self { value, both_empty }
    }
}

/// IoU of two masks of the same length.
///
/// # Panics
/// When the lengths differ.
pub fn mask_iou(pred_mask: &[u8], gt_mask: &[u8]) -> Iou {
    assert_eq!(pred_mask.len(), gt_mask.len(), "masks of one image have one size");
    Iou::of(pred_mask.iter().zip(gt_mask).map(|(&pred, &gt)| (pred != 0, gt != 0)))
}

/// IoU of the inner boundaries of two masks of `height` rows and `width` columns.
///
/// # Panics
/// When a mask does not have `height * width` bytes.
pub fn boundary_iou(
    pred_mask: &[u8],
    gt_mask: &[u8],
    height: usize,
    width: usize,
    dilation_ratio: f64,
) -> Iou {
    let radius = boundary_radius(height, width, dilation_ratio);
    let pred = boundary(pred_mask, height, width, radius);
    let gt = boundary(gt_mask, height, width, radius);
    Iou::of(pred.into_iter().zip(gt))
}

/// Width of the boundary in pixels: the rounded share of the diagonal, halves to even, at least 1.
pub fn boundary_radius(height: usize, width: usize, dilation_ratio: f64) -> usize {
    let diagonal = ((height * height + width * width) as f64).sqrt();
    (dilation_ratio * diagonal).round_ties_even().max(1.0) as usize
}

/// Foreground that has background, or the outside of the image, within a square of `radius`.
pub(crate) fn boundary(mask: &[u8], height: usize, width: usize, radius: usize) -> Vec<bool> {
    assert_eq!(mask.len(), height * width, "a mask has height * width bytes");
    let mut inside_row = vec![false; mask.len()];
    let mut run = vec![false; width];
    for (row, out) in mask.chunks_exact(width.max(1)).zip(inside_row.chunks_exact_mut(width.max(1)))
    {
        run.iter_mut().zip(row).for_each(|(run, &value)| *run = value != 0);
        erode_line(&run, out, radius);
    }
    let (mut column, mut eroded) = (vec![false; height], vec![false; height]);
    let mut result: Vec<bool> = mask.iter().map(|&value| value != 0).collect();
    for x in 0..width {
        column.iter_mut().enumerate().for_each(|(y, value)| *value = inside_row[y * width + x]);
        erode_line(&column, &mut eroded, radius);
        for (y, &inner) in eroded.iter().enumerate() {
            result[y * width + x] &= !inner;
        }
    }
    result
}

/// Keeps what has `radius` neighbours on both sides. A run of n keeps n - 2 * radius, so one pass
/// over the runs does it whatever the radius.
fn erode_line(line: &[bool], out: &mut [bool], radius: usize) {
    out.fill(false);
    let mut start = 0;
    while start < line.len() {
        let length = line[start..].iter().take_while(|&&value| value).count();
        if length > 2 * radius {
            out[start + radius..start + length - radius].fill(true);
        }
        start += length + 1;
    }
}

/// Logits (B, 1, 256, 256) at the size of an image, (B, 1, height, width), bilinear with pixel centres
/// aligned (`align_corners` false).
pub fn upsample_logits(logits: &Tensor, height: i64, width: i64) -> Tensor {
    logits.upsample_bilinear2d([height, width], false, None, None)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition: foreground minus a square minimum filter with zeros outside.
    fn boundary_by_definition(
        mask: &[u8],
        height: usize,
        width: usize,
        radius: usize,
    ) -> Vec<bool> {
        let reach = radius as isize;
        let at = |y: isize, x: isize| {
            let inside = y >= 0 && x >= 0 && y < height as isize && x < width as isize;
            inside && mask[y as usize * width + x as usize] != 0
        };
        let mut result = Vec::new();
        for y in 0..height as isize {
            for x in 0..width as isize {
                let full = (-reach..=reach).all(|dy| (-reach..=reach).all(|dx| at(y + dy, x + dx)));
                result.push(at(y, x) && !full);
            }
        }
        result
    }

    proptest! {
        #[test]
        fn boundary_is_its_definition(
            height in 1usize..14, width in 1usize..14, radius in 1usize..4,
            noise in prop::collection::vec(0u8..8, 196),
        ) {
            let mask: Vec<u8> = noise[..height * width].iter().map(|&n| u8::from(n > 0)).collect();
            prop_assert_eq!(
                boundary(&mask, height, width, radius),
                boundary_by_definition(&mask, height, width, radius)
            );
        }

        #[test]
        fn iou_is_symmetric_and_one_with_itself(a in prop::collection::vec(0u8..2, 30), b in prop::collection::vec(0u8..2, 30)) {
            prop_assert_eq!(mask_iou(&a, &b), mask_iou(&b, &a));
            prop_assert_eq!(mask_iou(&a, &a).value, 1.0);
            prop_assert_eq!(boundary_iou(&a, &b, 5, 6, 0.02), boundary_iou(&b, &a, 5, 6, 0.02));
        }
    }

    #[test]
    fn empty_masks_are_flagged() {
        assert_eq!(mask_iou(&[0; 4], &[0; 4]), Iou { value: 1.0, both_empty: true });
        assert_eq!(mask_iou(&[0, 1], &[0, 0]), Iou { value: 0.0, both_empty: false });
    }

    #[test]
    fn radius_rounds_halves_to_even() {
        assert_eq!(boundary_radius(75, 100, DILATION_RATIO), 2); // 2.5
        assert_eq!(boundary_radius(105, 140, DILATION_RATIO), 4); // 3.5
        assert_eq!(boundary_radius(3, 4, DILATION_RATIO), 1); // 0.1
    }

    #[test]
    fn upsampling_keeps_constants() {
        let logits = Tensor::full([1, 1, 4, 4], 2.5, (tch::Kind::Float, tch::Device::Cpu));
        let upsampled = upsample_logits(&logits, 7, 9);
        assert_eq!(upsampled.size(), [1, 1, 7, 9]);
        assert!((upsampled - 2.5).abs().max().double_value(&[]) < 1e-6);
    }
}
