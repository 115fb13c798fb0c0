//! One channel out of whatever a mask file holds.

use image::DynamicImage;

use crate::raster::{MASK_THRESHOLD, Mask255};

/// More different values than this are no map of object ids but a dark picture.
const MAX_OBJECT_IDS: usize = 32;

/// See [`super::decode_mask`] for the rules.
pub(super) fn from_decoded(decoded: DynamicImage) -> Mask255 {
    let (height, width) = (decoded.height() as usize, decoded.width() as usize);
    let mut pixels = to_grey(decoded);
    if is_id_map(&pixels) {
        pixels.iter_mut().for_each(|value| *value = if *value > 0 { 255 } else { 0 });
    }
    Mask255 { height, width, pixels }
}

fn to_grey(decoded: DynamicImage) -> Vec<u8> {
    let alpha = alpha_channel(&decoded);
    let luma = match decoded {
        DynamicImage::ImageLuma8(grey) => grey.into_raw(),
        DynamicImage::ImageLuma16(_)
        | DynamicImage::ImageLumaA16(_)
        | DynamicImage::ImageRgb16(_)
        | DynamicImage::ImageRgba16(_) => narrow(decoded.into_luma16().into_raw()),
        other => other.into_luma8().into_raw(),
    };
    match alpha {
        Some(alpha) if is_constant(&luma) && !is_constant(&alpha) => alpha,
        _ => luma,
    }
}

/// 16 bits to 8. Files that use 16 bits for 8-bit values exist, and those keep their values.
fn narrow(values: Vec<u16>) -> Vec<u8> {
    let fits = values.iter().all(|&value| value <= u16::from(u8::MAX));
    let narrowed = |value: u16| if fits { value as u8 } else { (value / 257) as u8 };
    values.into_iter().map(narrowed).collect()
}

fn alpha_channel(decoded: &DynamicImage) -> Option<Vec<u8>> {
    if !decoded.color().has_alpha() {
        return None;
    }
    Some(decoded.to_rgba8().as_raw().as_chunks::<4>().0.iter().map(|pixel| pixel[3]).collect())
}

fn is_constant(values: &[u8]) -> bool {
    values.iter().all(|value| Some(value) == values.first())
}

fn is_id_map(values: &[u8]) -> bool {
    let mut seen = [false; 256];
    for &value in values {
        seen[usize::from(value)] = true;
    }
    let highest = seen.iter().rposition(|&seen| seen).unwrap_or(0);
    highest > 0
        && highest < usize::from(MASK_THRESHOLD)
        && seen.iter().filter(|&&seen| seen).count() <= MAX_OBJECT_IDS
}
