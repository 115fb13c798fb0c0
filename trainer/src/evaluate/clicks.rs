//! Clicks as the evaluation of interactive segmentation sets them (RITM, SAM): the first at the
//! centre-most pixel of the mask, each further one at that of the largest error so far.
//!
//! Centre-most is the maximum of the Euclidean distance transform, everything outside of the image
//! being background; of several maxima the first in row order.

use dataset::prompt::Prompt;
use dataset::raster::{MASK_THRESHOLD, Mask255};
use image::{GrayImage, Luma};
use imageproc::distance_transform::euclidean_squared_distance_transform;

/// A pixel and its squared distance to the nearest pixel outside of its region.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Centre {
    xy: [f32; 2],
    squared_distance: f64,
}

/// The click that begins: a foreground pixel; `None` without any.
pub(super) fn first(mask: &Mask255) -> Option<Prompt> {
    let foreground: Vec<bool> = mask.pixels.iter().map(|&value| value > MASK_THRESHOLD).collect();
    let centre = centre(&foreground, mask.width, &[])?;
    Some(Prompt::Points { coords: vec![centre.xy], labels: vec![1.0] })
}

/// Adds a click where `predicted` (a byte a pixel, anything but 0 being foreground) is wrong: a
/// foreground point where the missing region is deeper than the surplus one, else a background point.
/// No pixel is clicked twice, and nothing is added where nothing is left to correct.
pub(super) fn add(prompt: &mut Prompt, mask: &Mask255, predicted: &[u8]) {
    let Prompt::Points { coords, labels } = prompt else { return };
    let pairs = || mask.pixels.iter().zip(predicted).map(|(&t, &p)| (t > MASK_THRESHOLD, p != 0));
    let missing: Vec<bool> = pairs().map(|(truth, found)| truth && !found).collect();
    let surplus: Vec<bool> = pairs().map(|(truth, found)| !truth && found).collect();
    let missing = centre(&missing, mask.width, coords);
    let surplus = centre(&surplus, mask.width, coords);
    let depth = |centre: Option<Centre>| centre.map_or(0.0, |centre| centre.squared_distance);
    let is_positive = depth(missing) > depth(surplus);
    if let Some(centre) = if is_positive { missing } else { surplus } {
        coords.push(centre.xy);
        labels.push(f32::from(u8::from(is_positive)));
    }
}

/// The centre-most pixel of `region` (rows of `width`) that is not among `taken`.
fn centre(region: &[bool], width: usize, taken: &[[f32; 2]]) -> Option<Centre> {
    let [x_min, y_min, x_max, y_max] = corners(region, width)?;
    // The region's box with a frame of background: nothing farther out can be nearer.
    let size = [x_max - x_min + 3, y_max - y_min + 3].map(|side| side as u32);
    let is_inside = |column: u32, row: u32| {
        let inner = (1..size[0] - 1).contains(&column) && (1..size[1] - 1).contains(&row);
        inner && region[(y_min + row as usize - 1) * width + x_min + column as usize - 1]
    };
    let outside = GrayImage::from_fn(size[0], size[1], |column, row| {
        Luma([if is_inside(column, row) { 0 } else { u8::MAX }])
    });
    let squared = euclidean_squared_distance_transform(&outside);
    let mut best: Option<Centre> = None;
    for (column, row, &Luma([squared_distance])) in squared.enumerate_pixels() {
        let most = best.map_or(0.0, |best| best.squared_distance);
        // `enumerate_pixels` goes row by row, so the first of equals stays.
        if squared_distance > most {
            let xy = [x_min + column as usize, y_min + row as usize].map(|at| (at - 1) as f32);
            if !taken.contains(&xy) {
                best = Some(Centre { xy, squared_distance });
            }
        }
    }
    best
}

/// The region's box, inclusive.
fn corners(region: &[bool], width: usize) -> Option<[usize; 4]> {
    let mut found: Option<[usize; 4]> = None;
    for (y, row) in region.chunks_exact(width.max(1)).enumerate() {
        let Some(first) = row.iter().position(|&inside| inside) else { continue };
        let last = row.iter().rposition(|&inside| inside).unwrap_or(first);
        let [x_min, y_min, x_max, _] = found.unwrap_or([first, y, last, y]);
        found = Some([x_min.min(first), y_min, x_max.max(last), y]);
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Every pixel against every pixel outside, the frame around the image included.
    fn brute_force(region: &[bool], width: usize, taken: &[[f32; 2]]) -> Option<Centre> {
        let height = region.len() / width;
        let inside = |x: i64, y: i64| {
            let within = (0..width as i64).contains(&x) && (0..height as i64).contains(&y);
            within && region[y as usize * width + x as usize]
        };
        let mut best: Option<Centre> = None;
        for y in 0..height as i64 {
            for x in (0..width as i64).filter(|&x| inside(x, y)) {
                let outside = (-1..=height as i64)
                    .flat_map(|oy| (-1..=width as i64).map(move |ox| (ox, oy)))
                    .filter(|&(ox, oy)| !inside(ox, oy));
                let nearest = outside.map(|(ox, oy)| (ox - x).pow(2) + (oy - y).pow(2)).min();
                let squared_distance = nearest.unwrap_or(0) as f64;
                let xy = [x as f32, y as f32];
                let is_more = best.is_none_or(|best| squared_distance > best.squared_distance);
                if is_more && !taken.contains(&xy) {
                    best = Some(Centre { xy, squared_distance });
                }
            }
        }
        best
    }

    fn regions() -> impl Strategy<Value = (usize, Vec<bool>)> {
        // Mostly foreground, so that there is depth.
        (1_usize..18, 1_usize..18).prop_flat_map(|(width, height)| {
            (Just(width), prop::collection::vec(prop::bool::weighted(0.85), width * height))
        })
    }

    proptest! {
        #[test]
        fn the_centre_is_what_trying_every_pixel_finds((width, region) in regions()) {
            let first = centre(&region, width, &[]);
            prop_assert_eq!(first, brute_force(&region, width, &[]));
            if let Some(first) = first {
                let taken = [first.xy];
                prop_assert_eq!(centre(&region, width, &taken), brute_force(&region, width, &taken));
            }
        }
    }

    fn mask(width: usize, inside: impl Fn(usize, usize) -> bool) -> Mask255 {
        let pixel = |at: usize| if inside(at % width, at / width) { 255 } else { 0 };
        Mask255 { height: width, width, pixels: (0..width * width).map(pixel).collect() }
    }

    #[test]
    fn clicks_go_where_the_error_is_deepest_until_there_is_none() {
        let truth = mask(40, |x, y| (10..30).contains(&x) && (10..30).contains(&y));
        let Some(mut prompt) = first(&truth) else { panic!("there is a foreground") };
        let points = |prompt: &Prompt| match prompt {
            Prompt::Points { coords, labels } => (coords.clone(), labels.clone()),
            other => panic!("{other:?}"),
        };
        // Four pixels are equally deep in a square of even side: the first in row order.
        assert_eq!(points(&prompt), (vec![[19.0, 19.0]], vec![1.0]));
        // Half is missing, and three columns are too much.
        let found = mask(40, |x, y| (20..33).contains(&x) && (10..30).contains(&y));
        add(&mut prompt, &truth, &found.pixels);
        assert_eq!(points(&prompt).1, [1.0, 1.0]);
        let found = mask(40, |x, y| (10..33).contains(&x) && (10..30).contains(&y));
        add(&mut prompt, &truth, &found.pixels);
        let (coords, labels) = points(&prompt);
        assert_eq!((coords[2], labels[2]), ([31.0, 11.0], 0.0));
        add(&mut prompt, &truth, &truth.pixels);
        assert_eq!(points(&prompt).0.len(), 3, "nothing is left to correct");
        assert!(first(&mask(8, |_, _| false)).is_none());
    }
}
