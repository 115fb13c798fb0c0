//! Where points and crops lie, by the rules of the published `utils/amg.py`.

/// Points over the unit square, row by row, each in the middle of its cell.
pub(super) fn point_grid(per_side: usize) -> Vec<[f64; 2]> {
    let offset = 1.0 / (2 * per_side) as f64;
    let step = if per_side > 1 { (1.0 - 2.0 * offset) / (per_side - 1) as f64 } else { 0.0 };
    let place = |index: usize| offset + index as f64 * step;
    (0..per_side).flat_map(|y| (0..per_side).map(move |x| [place(x), place(y)])).collect()
}

/// A part of the image, x0 y0 x1 y1, and its layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Crop {
    pub(super) box_xyxy: [usize; 4],
    pub(super) layer: u32,
}

/// The whole image, then layer by layer `4^layer` crops that overlap by `overlap_ratio` of the
/// shorter side, less in further layers.
pub(super) fn crops(
    (height, width): (usize, usize),
    num_layers: u32,
    overlap_ratio: f64,
) -> Vec<Crop> {
    let mut crops = vec![Crop { box_xyxy: [0, 0, width, height], layer: 0 }];
    let shorter = height.min(width) as f64;
    for layer in 1..=num_layers {
        let per_side = 1_usize << layer;
        let overlap = (overlap_ratio * shorter * (2.0 / per_side as f64)) as usize;
        let length = |side: usize| (overlap * (per_side - 1) + side).div_ceil(per_side);
        let (crop_width, crop_height) = (length(width), length(height));
        for column in 0..per_side {
            for row in 0..per_side {
                let x0 = crop_width.saturating_sub(overlap) * column;
                let y0 = crop_height.saturating_sub(overlap) * row;
                let box_xyxy =
                    [x0, y0, (x0 + crop_width).min(width), (y0 + crop_height).min(height)];
                crops.push(Crop { box_xyxy, layer });
            }
        }
    }
    crops
}

/// Whether a box (inclusive pixels of the image) touches an edge of its crop that is no edge of
/// the image: its object probably goes on outside.
pub(super) fn is_near_crop_edge(box_xyxy: [f32; 4], crop: &Crop, image: (usize, usize)) -> bool {
    /// As published, in pixels.
    const TOLERANCE: f32 = 20.0;
    let image = [0, 0, image.1, image.0];
    (0..4).any(|side| {
        let near = |edge: usize| (box_xyxy[side] - edge as f32).abs() <= TOLERANCE;
        near(crop.box_xyxy[side]) && !near(image[side])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_lie_in_the_middle_of_their_cells() {
        assert_eq!(point_grid(2), [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]);
        assert_eq!(point_grid(1), [[0.5, 0.5]]);
    }

    #[test]
    fn crops_are_those_of_the_published_code() {
        let found = crops((300, 400), 1, 512.0 / 1500.0);
        let boxes: Vec<_> = found.iter().map(|crop| crop.box_xyxy).collect();
        let expected = [
            [0, 0, 400, 300],
            [0, 0, 251, 201],
            [0, 99, 251, 300],
            [149, 0, 400, 201],
            [149, 99, 400, 300],
        ];
        assert_eq!(boxes, expected);
        assert_eq!(crops((300, 400), 2, 0.3).len(), 1 + 4 + 16);
    }

    #[test]
    fn the_edge_of_the_image_is_no_edge_of_a_crop() {
        let crop = Crop { box_xyxy: [0, 0, 200, 200], layer: 1 };
        assert!(!is_near_crop_edge([0.0, 0.0, 100.0, 100.0], &crop, (400, 400)));
        assert!(is_near_crop_edge([50.0, 50.0, 185.0, 100.0], &crop, (400, 400)));
    }
}
