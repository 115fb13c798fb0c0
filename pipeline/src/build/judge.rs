//! One pair of files -> a row, or the reason for refusing it.

use dataset::codec::{DecodeLimits, decode_image, decode_mask, encode_mask_png};
use dataset::schema::Row;
use dataset::source::{MaskOrigin, Pair};
use dataset::verify::{RejectReason, verify};

use crate::input::{Input, MAX_PICTURE_BYTES, ReadError};

/// Why a pair has no row.
pub(super) enum Unfit {
    /// The pair is at fault.
    Refused(RejectReason),
    /// The place it is read from is at fault: to refuse the pair would lose it for good.
    Broken(ReadError),
}

impl From<RejectReason> for Unfit {
    fn from(reason: RejectReason) -> Self {
        Self::Refused(reason)
    }
}

/// Reads, decodes and verifies a pair. Image bytes pass through untouched; the mask becomes a
/// grey PNG with values 0..255.
pub(super) fn judge(pair: &Pair, input: &Input) -> Result<Row, Unfit> {
    let limits = DecodeLimits::default();
    let image_bytes = read(input, &pair.image)?;
    let image = decode_image(&image_bytes, &limits)?;
    let mask = match &pair.mask {
        MaskOrigin::File(path) => decode_mask(&read(input, path)?, &limits)?,
        MaskOrigin::Annotation(annotation) => annotation.rasterise()?,
    };
    let mask_bytes = encode_mask_png(&mask);
    let facts = verify(&image, &mask, &image_bytes, &mask_bytes)?;
    let sample_id = pair.sample_id();
    Ok(Row {
        source: pair.source.clone(),
        split: pair.split.clone(),
        class: pair.class.clone(),
        height: facts.height,
        width: facts.width,
        foreground_pixels: facts.foreground_pixels,
        box_xyxy: facts.box_xyxy,
        image_sha256: facts.image_sha256,
        mask_sha256: facts.mask_sha256,
        perceptual_hash: facts.perceptual_hash,
        license: pair.license.clone(),
        image_path: format!("{sample_id}.{}", extension(&image_bytes)),
        mask_path: format!("{sample_id}.png"),
        image_bytes,
        mask_bytes,
        sample_id,
    })
}

fn read(input: &Input, path: &str) -> Result<Vec<u8>, Unfit> {
    input.read_file(path, MAX_PICTURE_BYTES).map_err(|error| match error {
        ReadError::Refused { detail } => Unfit::Refused(RejectReason::Unreadable { detail }),
        broken @ ReadError::Broken { .. } => Unfit::Broken(broken),
    })
}

/// By content: a PNG may be called .jpg.
fn extension(image: &[u8]) -> &'static str {
    if image.starts_with(b"\x89PNG") { "png" } else { "jpg" }
}
