//! Small holes and islands of masks, as the published `remove_small_regions` treats them.

use dataset::raster::{MASK_THRESHOLD, Mask255};
use image::{GrayImage, Luma};
use imageproc::region_labelling::{Connectivity, connected_components};

/// Fills holes, then removes islands, of less than `min_area` pixels; the largest island always
/// stays. `None` when there is nothing to do.
pub(super) fn without_small_regions(mask: &Mask255, min_area: u64) -> Option<Mask255> {
    let filled = without_holes(mask, min_area);
    let cleared = without_islands(filled.as_ref().unwrap_or(mask), min_area);
    cleared.or(filled)
}

fn without_holes(mask: &Mask255, min_area: u64) -> Option<Mask255> {
    let (labels, areas) = regions(mask, false);
    let is_small = |label: u32| label > 0 && areas[label as usize] < min_area;
    if !(1..areas.len() as u32).any(is_small) {
        return None;
    }
    // Label 0 is the object itself.
    Some(select(mask, &labels, |label| label == 0 || is_small(label)))
}

fn without_islands(mask: &Mask255, min_area: u64) -> Option<Mask255> {
    let (labels, areas) = regions(mask, true);
    let islands = 1..areas.len() as u32;
    let is_small = |label: u32| areas[label as usize] < min_area;
    if !islands.clone().any(is_small) {
        return None;
    }
    if !islands.clone().all(is_small) {
        return Some(select(mask, &labels, |label| label > 0 && !is_small(label)));
    }
    // The first of equals, as `argmax` has it.
    let largest = islands.rev().max_by_key(|&label| areas[label as usize]);
    Some(select(mask, &labels, |label| Some(label) == largest))
}

/// The label of each pixel and the area of each label; 0 is what is not looked for.
fn regions(mask: &Mask255, of_foreground: bool) -> (Vec<u32>, Vec<u64>) {
    let is_wanted = |value: &u8| (*value > MASK_THRESHOLD) == of_foreground;
    let pixels = mask.pixels.iter().map(|value| u8::from(is_wanted(value))).collect();
    let image = GrayImage::from_raw(mask.width as u32, mask.height as u32, pixels)
        .expect("a mask has as many values as pixels");
    let labels = connected_components(&image, Connectivity::Eight, Luma([0])).into_raw();
    let count = labels.iter().max().map_or(0, |&label| label as usize) + 1;
    let mut areas = vec![0; count];
    labels.iter().for_each(|&label| areas[label as usize] += 1);
    (labels, areas)
}

fn select(mask: &Mask255, labels: &[u32], is_kept: impl Fn(u32) -> bool) -> Mask255 {
    let pixels = labels.iter().map(|&label| if is_kept(label) { u8::MAX } else { 0 }).collect();
    Mask255 { height: mask.height, width: mask.width, pixels }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(rows: &[&str]) -> Mask255 {
        let pixels = rows.iter().flat_map(|row| row.bytes());
        let pixels = pixels.map(|byte| if byte == b'#' { 255 } else { 0 }).collect();
        Mask255 { height: rows.len(), width: rows[0].len(), pixels }
    }

    #[test]
    fn small_holes_are_filled_and_small_islands_removed() {
        let spotted = mask(&["####..", "#.##..", "####.#"]);
        let clean = mask(&["####..", "####..", "####.."]);
        assert_eq!(without_small_regions(&spotted, 2), Some(clean));
        assert_eq!(without_small_regions(&spotted, 1), None);
    }

    #[test]
    fn diagonal_neighbours_are_connected_and_the_largest_island_stays() {
        let islands = mask(&["#..#", ".#..", "...."]);
        assert_eq!(without_islands(&islands, 2), Some(mask(&["#...", ".#..", "...."])));
        assert_eq!(without_islands(&islands, 9), Some(mask(&["#...", ".#..", "...."])));
    }
}
