//! Run lengths in the order of columns, by the rules of `pycocotools` (`common/maskApi.c`).

use super::annotation::damaged;
use crate::raster::Mask255;
use crate::verify::RejectReason;

/// Outlines are followed on a grid this much finer than the pixels.
const SCALE: f64 = 5.0;

/// Adds the runs of an object to a mask. The first run is background.
pub(super) fn paint(counts: &[u32], mask: &mut Mask255) -> Result<(), RejectReason> {
    let (height, pixels) = (mask.height, mask.height * mask.width);
    let total: u64 = counts.iter().map(|&run| u64::from(run)).sum();
    if total != pixels as u64 {
        return Err(damaged(&format!(
            "its run lengths are {total} pixels, its image has {pixels}"
        )));
    }
    let mut at = 0;
    for (index, &run) in counts.iter().enumerate() {
        let end = at + run as usize;
        if index % 2 == 1 {
            for index in at..end {
                mask.pixels[index % height * mask.width + index / height] = u8::MAX;
            }
        }
        at = end;
    }
    Ok(())
}

/// Run lengths from their text: six bits a character, five of them value, each number from the
/// third on as its difference to the one before the last.
pub(super) fn from_text(text: &str) -> Result<Vec<u32>, RejectReason> {
    let wrong = || damaged("its compressed run lengths are no valid text");
    let mut counts: Vec<u32> = Vec::new();
    let mut bytes = text.bytes();
    while let Some(first) = bytes.next() {
        let (mut value, mut shift, mut byte) = (0_i64, 0, first);
        loop {
            let bits = byte.checked_sub(48).filter(|bits| *bits < 64).ok_or_else(wrong)?;
            value |= i64::from(bits & 0x1f) << shift;
            shift += 5;
            if bits & 0x20 == 0 {
                if bits & 0x10 != 0 {
                    value |= -1 << shift;
                }
                break;
            }
            // Seven characters hold more than any count.
            byte = bytes.next().filter(|_| shift < 35).ok_or_else(wrong)?;
        }
        if counts.len() > 2 {
            value += i64::from(counts[counts.len() - 2]);
        }
        counts.push(u32::try_from(value).map_err(|_| wrong())?);
    }
    Ok(counts)
}

/// Run lengths of the inside of an outline `[x0, y0, x1, y1, ..]` in an image of `(height, width)`.
///
/// The outline is followed on the finer grid; where it passes from one column of pixels to the
/// next, the row is noted, and between two noted rows of a column lies the object.
pub(super) fn from_polygon(polygon: &[f64], (height, width): (usize, usize)) -> Vec<u32> {
    let outline = follow(polygon);
    let mut crossings: Vec<u32> = Vec::new();
    for step in outline.windows(2) {
        let [(x_before, y_before), (x, y)] = [step[0], step[1]];
        if x == x_before {
            continue;
        }
        let column = f64::from(if x < x_before { x } else { x - 1 });
        let column = (column + 0.5) / SCALE - 0.5;
        if column.floor() != column || column < 0.0 || column > width as f64 - 1.0 {
            continue;
        }
        let row = (f64::from(y.min(y_before)) + 0.5) / SCALE - 0.5;
        let row = row.clamp(0.0, height as f64).ceil();
        crossings.push((column as usize * height + row as usize) as u32);
    }
    crossings.push((height * width) as u32);
    crossings.sort_unstable();
    let mut previous = 0;
    let runs =
        crossings.into_iter().map(|crossing| crossing - std::mem::replace(&mut previous, crossing));
    merge_empty(runs)
}

/// The points of the finer grid along the outline, from corner to corner and back to the first.
fn follow(polygon: &[f64]) -> Vec<(i32, i32)> {
    // Casts cut towards zero, as those of C do.
    let fine = |value: f64| (SCALE * value + 0.5) as i32;
    let mut corners: Vec<(i32, i32)> =
        polygon.as_chunks::<2>().0.iter().map(|&[x, y]| (fine(x), fine(y))).collect();
    corners.extend(corners.first().copied());
    let mut points = Vec::new();
    for side in corners.windows(2) {
        let [(mut x_start, mut y_start), (mut x_end, mut y_end)] = [side[0], side[1]];
        let (dx, dy) = ((x_end - x_start).abs(), (y_end - y_start).abs());
        let flip = (dx >= dy && x_start > x_end) || (dx < dy && y_start > y_end);
        if flip {
            std::mem::swap(&mut x_start, &mut x_end);
            std::mem::swap(&mut y_start, &mut y_end);
        }
        let long = dx.max(dy);
        for step in 0..=long {
            let step = if flip { long - step } else { step };
            let along = |start: i32, end: i32| {
                let slope = f64::from(end - start) / f64::from(long);
                (f64::from(start) + slope * f64::from(step) + 0.5) as i32
            };
            points.push(if dx >= dy {
                (step + x_start, along(y_start, y_end))
            } else {
                (along(x_start, x_end), step + y_start)
            });
        }
    }
    points
}

/// Runs of length zero join their neighbours, except for the first.
fn merge_empty(mut runs: impl Iterator<Item = u32>) -> Vec<u32> {
    let mut merged: Vec<u32> = runs.next().into_iter().collect();
    while let Some(run) = runs.next() {
        if run > 0 {
            merged.push(run);
        } else if let (Some(next), Some(last)) = (runs.next(), merged.last_mut()) {
            *last += next;
        }
    }
    merged
}
