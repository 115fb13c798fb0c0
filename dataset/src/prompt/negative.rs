//! Background points beside an object.

use std::ops::Range;

use rand::Rng;

use super::draw_numbers;
use super::window::Window;
use crate::raster::{MASK_THRESHOLD, Mask255};

/// How much further than the object its surroundings reach on each side, as a share of its sides.
const MARGIN: f32 = 0.25;
/// And at least so many pixels: a small object has surroundings too.
const LEAST_MARGIN: usize = 8;

/// `count` background pixels as `[x, y]` around the foreground, distinct where there are so many;
/// from the whole mask when its surroundings are all foreground, none when everything is.
pub(super) fn draw(rng: &mut (impl Rng + ?Sized), mask: &Mask255, count: usize) -> Vec<[f32; 2]> {
    let is_background = |value: u8| value <= MASK_THRESHOLD;
    let Some([x_min, y_min, x_max, y_max]) = mask.box_xyxy() else { return Vec::new() };
    let windows = [
        Window {
            rows: widened(y_min, y_max, mask.height),
            columns: widened(x_min, x_max, mask.width),
        },
        Window { rows: 0..mask.height, columns: 0..mask.width },
    ];
    for window in windows {
        let available = window.count(mask, is_background);
        if available > 0 {
            let numbers = draw_numbers(rng, available, count);
            return window.pixels_at(mask, is_background, &numbers);
        }
    }
    Vec::new()
}

/// The inclusive range with a margin, within `0..size`.
fn widened(low: u32, high: u32, size: usize) -> Range<usize> {
    let (low, high) = (low as usize, high as usize);
    let margin = ((high - low + 1) as f32 * MARGIN) as usize;
    let margin = margin.max(LEAST_MARGIN);
    low.saturating_sub(margin)..(high + 1 + margin).min(size)
}
