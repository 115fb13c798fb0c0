//! One pair of files -> a row, or the reason for refusing it.

use std::collections::BTreeMap;

use dataset::codec::{DecodeLimits, MaskValues, decode_image, decode_mask_as, encode_mask_png};
use dataset::schema::Row;
use dataset::source::{MaskOrigin, Pair, RawFiles};
use dataset::verify::{RejectReason, Resized, SizeMismatch, verify};

use super::BuildConfig;
use crate::input::{Input, ReadError};

/// The settings that decide what becomes of a pair.
pub(super) struct Judge {
    limits: DecodeLimits,
    size_mismatch: SizeMismatch,
    /// By source, where they are not told from each file.
    mask_values: BTreeMap<String, MaskValues>,
}

/// A good pair.
pub(super) struct Judged {
    pub(super) row: Row,
    /// Set where the mask had not the size of its image.
    pub(super) resized: Option<Resized>,
}

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

impl Judge {
    pub(super) fn new(config: &BuildConfig) -> Self {
        let told = config.source.iter().filter(|source| !source.mask_values.is_auto());
        Self {
            limits: DecodeLimits {
                max_pixels: config.max_pixels,
                max_file_bytes: config.max_file_bytes,
            },
            size_mismatch: config.size_mismatch,
            mask_values: told.map(|source| (source.name.clone(), source.mask_values)).collect(),
        }
    }

    /// Reads, decodes and verifies a pair. Image bytes pass through untouched; the mask becomes a
    /// grey PNG with values 0..255.
    pub(super) fn judge(&self, pair: &Pair, input: &Input) -> Result<Judged, Unfit> {
        let values = self.mask_values.get(&pair.source).copied().unwrap_or_default();
        let image_bytes = self.read(input, &pair.image)?;
        let image = decode_image(&image_bytes, &self.limits)?;
        let mask = match &pair.mask {
            MaskOrigin::File(path) => {
                decode_mask_as(&self.read(input, path)?, &self.limits, values)?
            }
            MaskOrigin::Annotation(annotation) => {
                // Before it is drawn: a wrong size may be a huge one.
                let (height, width) = annotation.size;
                let mask_hw = (height as usize, width as usize);
                self.size_mismatch.check(mask_hw, (image.height, image.width))?;
                annotation.rasterise_within(&self.limits)?
            }
        };
        let (mask, resized) = self.size_mismatch.fit(mask, (image.height, image.width))?;
        let mask_bytes = encode_mask_png(&mask);
        let facts = verify(&image, &mask, &image_bytes, &mask_bytes)?;
        let sample_id = pair.sample_id();
        let row = Row {
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
        };
        Ok(Judged { row, resized })
    }

    fn read(&self, input: &Input, path: &str) -> Result<Vec<u8>, Unfit> {
        if let Some(file) = input.tree().get(path) {
            self.limits.check_file(file.bytes)?;
        }
        input.read_file(path, self.limits.max_file_bytes).map_err(|error| match error {
            ReadError::Refused { detail } => Unfit::Refused(RejectReason::Unreadable { detail }),
            broken @ ReadError::Broken { .. } => Unfit::Broken(broken),
        })
    }
}

/// By content: a PNG may be called .jpg.
fn extension(image: &[u8]) -> &'static str {
    if image.starts_with(b"\x89PNG") { "png" } else { "jpg" }
}
