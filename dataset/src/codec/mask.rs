//! One channel out of whatever a mask file holds.

use std::collections::BTreeSet;

use image::DynamicImage;
use serde::{Deserialize, Serialize};

use super::palette;
use crate::raster::{MASK_THRESHOLD, Mask255};
use crate::verify::RejectReason;

/// More different values than this are no map of object ids but a dark picture.
pub(super) const MAX_OBJECT_IDS: usize = 32;
/// Levels between a pixel's least and greatest channel above which it has a colour. Grey masks that
/// were saved as colour JPEG stay far below.
pub(super) const MIN_CHROMA: u8 = 32;
/// One 8-bit step in 16 bits: 65,535 / 255.
const STEP_16: u16 = 257;

/// What the values of a mask file mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MaskValues {
    /// Told from each file, by the rules of [`super::decode_mask`].
    #[default]
    Auto,
    /// Greys as they are, also where all of them are dark: nothing is taken for object ids.
    Grey,
    /// Object ids: a pixel of any value but zero, in any channel but alpha, is foreground. For
    /// COIFT, HRSOD and any map with more objects than [`MaskValues::Auto`] expects.
    Nonzero,
    /// The alpha channel of a cut-out, whatever its colours are.
    Alpha,
}

impl MaskValues {
    /// True for the default, which configurations leave out.
    #[must_use]
    pub fn is_auto(&self) -> bool {
        *self == Self::Auto
    }
}

/// `palette` has the colours of a file whose pixels are numbers of them.
pub(super) fn from_decoded(
    decoded: DynamicImage,
    palette: Option<&[[u8; 3]]>,
    values: MaskValues,
) -> Result<Mask255, RejectReason> {
    let (height, width) = (decoded.height() as usize, decoded.width() as usize);
    let pixels = match values {
        MaskValues::Auto => {
            match palette.and_then(|colors| palette::object_ids(&decoded, colors)) {
                Some(pixels) => pixels,
                None => told_from_the_file(decoded)?,
            }
        }
        MaskValues::Grey => grey(decoded),
        MaskValues::Nonzero => nonzero(&decoded),
        MaskValues::Alpha => alpha_channel(&decoded).ok_or(RejectReason::NoAlpha)?,
    };
    Ok(Mask255 { height, width, pixels })
}

fn told_from_the_file(decoded: DynamicImage) -> Result<Vec<u8>, RejectReason> {
    let alpha = alpha_channel(&decoded).filter(|alpha| !is_constant(alpha));
    if is_picture(&decoded) {
        // A cut-out; without a shape of its own it is a photograph, and its greys mean nothing.
        return alpha.ok_or(RejectReason::Picture);
    }
    let mut pixels = if has_16_bits(&decoded) {
        let deep = decoded.into_luma16().into_raw();
        // Before the low bits, and with them the first ids, are lost.
        if is_deep_id_map(&deep) {
            deep.into_iter().map(|value| foreground(value > 0)).collect()
        } else {
            narrow(deep)
        }
    } else {
        grey(decoded)
    };
    if let Some(alpha) = alpha.filter(|_| is_constant(&pixels)) {
        pixels = alpha;
    }
    if is_id_map(&pixels) {
        pixels.iter_mut().for_each(|value| *value = foreground(*value > 0));
    }
    Ok(pixels)
}

/// Whether the file shows a coloured picture: colours in a tenth of what is neither black nor
/// white, and more greys than a map of object ids has.
fn is_picture(decoded: &DynamicImage) -> bool {
    let channels = match decoded {
        DynamicImage::ImageRgb8(_) => 3,
        DynamicImage::ImageRgba8(_) => 4,
        _ => return false,
    };
    let (mut between, mut colored, mut levels) = (0_u64, 0_u64, [false; 256]);
    for pixel in decoded.as_bytes().chunks_exact(channels) {
        let [red, green, blue] = [pixel[0], pixel[1], pixel[2]];
        let (least, greatest) = (red.min(green).min(blue), red.max(green).max(blue));
        between += u64::from(least < u8::MAX && greatest > 0);
        colored += u64::from(greatest - least > MIN_CHROMA);
        levels[usize::from(green)] = true;
    }
    colored > 0
        && colored * 10 >= between
        && levels.iter().filter(|&&seen| seen).count() > MAX_OBJECT_IDS
}

fn grey(decoded: DynamicImage) -> Vec<u8> {
    match decoded {
        DynamicImage::ImageLuma8(grey) => grey.into_raw(),
        deep if has_16_bits(&deep) => narrow(deep.into_luma16().into_raw()),
        other => other.into_luma8().into_raw(),
    }
}

fn nonzero(decoded: &DynamicImage) -> Vec<u8> {
    let color = decoded.color();
    let pixel_bytes = usize::from(color.bytes_per_pixel());
    let channel_bytes = pixel_bytes / usize::from(color.channel_count());
    let color_bytes = pixel_bytes - if color.has_alpha() { channel_bytes } else { 0 };
    let pixels = decoded.as_bytes().chunks_exact(pixel_bytes);
    pixels.map(|pixel| foreground(pixel[..color_bytes].iter().any(|&byte| byte > 0))).collect()
}

fn alpha_channel(decoded: &DynamicImage) -> Option<Vec<u8>> {
    if !decoded.color().has_alpha() {
        return None;
    }
    Some(decoded.to_rgba8().as_raw().as_chunks::<4>().0.iter().map(|pixel| pixel[3]).collect())
}

fn has_16_bits(decoded: &DynamicImage) -> bool {
    let color = decoded.color();
    color.bytes_per_pixel() == 2 * color.channel_count()
}

/// 16 bits to 8. Files that use 16 bits for 8-bit values exist, and those keep their values.
fn narrow(values: Vec<u16>) -> Vec<u8> {
    let fits = values.iter().all(|&value| value <= u16::from(u8::MAX));
    let narrowed = |value: u16| if fits { value as u8 } else { (value / STEP_16) as u8 };
    values.into_iter().map(narrowed).collect()
}

pub(super) fn foreground(yes: bool) -> u8 {
    if yes { 255 } else { 0 }
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

/// Ids that need more than 8 bits; those that do not are judged once narrowed.
fn is_deep_id_map(values: &[u16]) -> bool {
    let highest = values.iter().max().copied().unwrap_or(0);
    let within = u16::from(u8::MAX) < highest && highest < u16::from(MASK_THRESHOLD) * STEP_16;
    let mut seen = BTreeSet::new();
    within
        && values.iter().all(|value| {
            seen.contains(value) || (seen.insert(*value) && seen.len() <= MAX_OBJECT_IDS)
        })
}
