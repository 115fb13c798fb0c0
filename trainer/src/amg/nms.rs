//! Non-maximum suppression of boxes, with the arithmetic of torchvision's.

/// Indices of the boxes (x0, y0, x1, y1) that stay, by falling score, the earlier of equals first.
/// A box goes when its IoU with one that stays exceeds `threshold`. An IoU of nothing with nothing
/// exceeds no threshold.
#[must_use]
pub fn nms(boxes: &[[f32; 4]], scores: &[f32], threshold: f64) -> Vec<usize> {
    let area = |[x0, y0, x1, y1]: [f32; 4]| (x1 - x0) * (y1 - y0);
    let mut order: Vec<usize> = (0..boxes.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    let mut kept: Vec<usize> = Vec::new();
    for index in order {
        let [x0, y0, x1, y1] = boxes[index];
        let is_new = kept.iter().all(|&other| {
            let [ox0, oy0, ox1, oy1] = boxes[other];
            let width = (x1.min(ox1) - x0.max(ox0)).max(0.0);
            let height = (y1.min(oy1) - y0.max(oy0)).max(0.0);
            let both = width * height;
            let iou = both / (area(boxes[other]) + area(boxes[index]) - both);
            iou.is_nan() || f64::from(iou) <= threshold
        });
        if is_new {
            kept.push(index);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_of_overlapping_boxes_stays_and_empty_ones_do_not_count() {
        let boxes = [
            [0.0, 0.0, 10.0, 10.0],
            [0.0, 0.0, 10.0, 9.0],
            [20.0, 0.0, 30.0, 10.0],
            [5.0, 5.0, 5.0, 5.0],
            [5.0, 5.0, 5.0, 5.0],
        ];
        assert_eq!(nms(&boxes, &[0.5, 0.9, 0.7, 0.1, 0.1], 0.7), [1, 2, 3, 4]);
        assert_eq!(nms(&boxes, &[0.5, 0.5, 0.5, 0.5, 0.5], 0.95), [0, 1, 2, 3, 4]);
    }
}
