//! One pair of files -> a row, or the reason for refusing it.

use std::path::Path;

use dataset::codec::{DecodeLimits, decode_image, decode_mask, encode_mask_png};
use dataset::schema::Row;
use dataset::source::Pair;
use dataset::verify::{RejectReason, verify};

/// Reads, decodes and verifies a pair. Image bytes pass through untouched; the mask becomes a
/// grey PNG with values 0..255.
pub(super) fn judge(pair: &Pair) -> Result<Row, RejectReason> {
    let limits = DecodeLimits::default();
    let image_bytes = read(&pair.image)?;
    let image = decode_image(&image_bytes, &limits)?;
    let mask = decode_mask(&read(&pair.mask)?, &limits)?;
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

fn read(path: &Path) -> Result<Vec<u8>, RejectReason> {
    std::fs::read(path).map_err(|error| RejectReason::Unreadable {
        detail: format!("{}: {error}", path.display()),
    })
}

/// By content: a PNG may be called .jpg.
fn extension(image: &[u8]) -> &'static str {
    if image.starts_with(b"\x89PNG") { "png" } else { "jpg" }
}
