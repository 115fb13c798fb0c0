//! The only judge of a sample: facts about a pair, or the reason why it is refused.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;

mod size;

pub use self::size::{Resized, SizeMismatch};
use crate::raster::{Mask255, RgbRaster};

/// Why a pair is not used. Each message says what the owner of the raw files can do.
#[derive(Clone, Debug, PartialEq, Eq, Error, Deserialize, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum RejectReason {
    /// A mask (or a line of a list) without an image.
    #[error("no image of that name: add it or delete the mask")]
    MissingImage,
    /// An image without a mask.
    #[error("no mask of that name: add it or delete the image")]
    MissingMask,
    /// Another file of the same name was taken.
    #[error("{kept} has the same name and was taken: rename or delete one of the two")]
    DuplicateName {
        /// File name of the one that was taken.
        kept: String,
    },
    /// The pair is on the list of known mistakes of its collection.
    #[error("known mistake of this collection: {note}")]
    KnownBad {
        /// What is wrong with it.
        note: String,
    },
    /// An annotation of a region with many objects in it.
    #[error("a crowd, not one object: left out by crowd = \"skip\"")]
    Crowd,
    /// An annotation of an object that is smaller than wanted.
    #[error("an area of {area} pixels: left out by min_area = {min_area}")]
    SmallObject {
        /// Its area in whole pixels.
        area: u64,
        /// The setting.
        min_area: u64,
    },
    /// An annotation that describes no region.
    #[error("the annotation cannot be drawn ({problem}): correct or delete it")]
    Annotation {
        /// What is wrong with it.
        problem: String,
    },
    /// The bytes are no image, or a damaged one.
    #[error("cannot be decoded ({detail}): download it again")]
    Unreadable {
        /// The decoder's words.
        detail: String,
    },
    /// The file ends before its picture does.
    #[error("the file is cut short: download it again")]
    Truncated,
    /// A kind of image that is not handled.
    #[error("not supported ({detail}): convert it to JPEG or PNG")]
    Unsupported {
        /// What it is.
        detail: String,
    },
    /// More pixels than the limit.
    #[error(
        "{height} x {width} pixels, above the limit of {max_pixels}: shrink it or raise max_pixels"
    )]
    TooLarge {
        /// Rows.
        height: u64,
        /// Columns.
        width: u64,
        /// The limit.
        max_pixels: u64,
    },
    /// The file is larger than the limit.
    #[error(
        "the file has {bytes} bytes, above the limit of {max_file_bytes}: recompress it or raise max_file_bytes"
    )]
    FileTooLarge {
        /// Bytes of the file.
        bytes: u64,
        /// The limit.
        max_file_bytes: u64,
    },
    /// A mask without the channel that its source says to read.
    #[error("the mask has no alpha channel: choose another mask_values than `alpha`")]
    NoAlpha,
    /// A mask file that shows a photograph.
    #[error(
        "the mask is a coloured picture: look whether images and masks are exchanged; if they are \
         not, say with mask_values what its values mean (`grey`, `nonzero`, `alpha`)"
    )]
    Picture,
    /// Image and mask do not lie over each other.
    #[error("the image is {} x {} but the mask {} x {} (height x width): fix the mask", .image.0, .image.1, .mask.0, .mask.1)]
    SizeMismatch {
        /// Height and width of the image.
        image: (usize, usize),
        /// Height and width of the mask.
        mask: (usize, usize),
    },
    /// No pixel of the mask is above 128.
    #[error("the mask has no foreground (no value above 128): label it or delete the pair")]
    EmptyMask,
    /// Its image is one that the data set is evaluated on.
    #[error(
        "its image is that of {of} ({bits} of 64 hash bits differ): left out of training by drop_leaks"
    )]
    Leak {
        /// `split: source/name` of the other.
        of: String,
        /// Differing bits of the perceptual hashes.
        bits: u32,
    },
}

impl RejectReason {
    /// Whether a setting of the source leaves the pair out: then nothing is wrong with it.
    #[must_use]
    pub fn is_by_setting(&self) -> bool {
        matches!(self, Self::Crowd | Self::SmallObject { .. })
    }
}

/// What is known of a good pair.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Facts {
    /// Rows of both.
    pub height: u32,
    /// Columns of both.
    pub width: u32,
    /// Mask pixels above 128; at least 1.
    pub foreground_pixels: u64,
    /// Tight box around them, inclusive.
    pub box_xyxy: [u32; 4],
    /// Digest of the image file, lower-case hexadecimal.
    pub image_sha256: String,
    /// Digest of the mask file, lower-case hexadecimal.
    pub mask_sha256: String,
    /// See [`perceptual_hash`].
    pub perceptual_hash: u64,
}

impl Facts {
    /// True when every pixel is foreground: allowed, but worth a line in a report.
    #[must_use]
    pub fn is_all_foreground(&self) -> bool {
        self.foreground_pixels == u64::from(self.height) * u64::from(self.width)
    }
}

/// Judges a decoded pair: equal sizes and at least one foreground pixel. The bytes are those that
/// will be stored; they are only digested.
///
/// # Errors
/// [`RejectReason::SizeMismatch`] or [`RejectReason::EmptyMask`].
pub fn verify(
    image: &RgbRaster,
    mask: &Mask255,
    image_bytes: &[u8],
    mask_bytes: &[u8],
) -> Result<Facts, RejectReason> {
    let (image_hw, mask_hw) = ((image.height, image.width), (mask.height, mask.width));
    if image_hw != mask_hw {
        return Err(RejectReason::SizeMismatch { image: image_hw, mask: mask_hw });
    }
    let box_xyxy = mask.box_xyxy().ok_or(RejectReason::EmptyMask)?;
    Ok(Facts {
        height: image.height as u32,
        width: image.width as u32,
        foreground_pixels: mask.foreground_pixels() as u64,
        box_xyxy,
        image_sha256: hex(image_bytes),
        mask_sha256: hex(mask_bytes),
        perceptual_hash: perceptual_hash(image),
    })
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Columns of the difference hash: one more than the bits of a row.
const HASH_COLUMNS: usize = 9;
const HASH_ROWS: usize = 8;

/// The 64-bit difference hash of a picture: the mean grey of 9 x 8 cells, each of the 64 bits
/// telling whether a cell is darker than its right neighbour, most significant bit first, row by
/// row. Pictures that differ in few bits are likely the same one after scaling or recompression.
#[must_use]
pub fn perceptual_hash(image: &RgbRaster) -> u64 {
    let mut sums = [[0_u64; HASH_COLUMNS]; HASH_ROWS];
    let mut counts = [[0_u64; HASH_COLUMNS]; HASH_ROWS];
    for (y, row) in image.pixels.chunks_exact(image.width.max(1) * 3).enumerate() {
        let cell_y = y * HASH_ROWS / image.height;
        for (x, [red, green, blue]) in row.as_chunks::<3>().0.iter().enumerate() {
            let cell_x = x * HASH_COLUMNS / image.width;
            // Rec. 601 luma in thousandths.
            sums[cell_y][cell_x] +=
                299 * u64::from(*red) + 587 * u64::from(*green) + 114 * u64::from(*blue);
            counts[cell_y][cell_x] += 1;
        }
    }
    let mut hash = 0;
    for (sums, counts) in sums.iter().zip(&counts) {
        for cell in 0..HASH_COLUMNS - 1 {
            // Compares means without dividing; an empty cell (picture narrower than 9) is black.
            let left = u128::from(sums[cell]) * u128::from(counts[cell + 1].max(1));
            let right = u128::from(sums[cell + 1]) * u128::from(counts[cell].max(1));
            hash = (hash << 1) | u64::from(left < right);
        }
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp(height: usize, width: usize) -> RgbRaster {
        let pixels =
            (0..height * width).flat_map(|at| [((at % width) * 255 / width) as u8; 3]).collect();
        RgbRaster { height, width, pixels }
    }

    fn full_mask(height: usize, width: usize) -> Mask255 {
        Mask255 { height, width, pixels: vec![255; height * width] }
    }

    #[test]
    fn a_good_pair_has_facts() {
        let mut mask = full_mask(20, 30);
        mask.pixels[..30].fill(0);
        let facts = verify(&ramp(20, 30), &mask, b"image", b"mask").unwrap();
        assert_eq!((facts.height, facts.width, facts.foreground_pixels), (20, 30, 570));
        assert_eq!(facts.box_xyxy, [0, 1, 29, 19]);
        assert_eq!(
            facts.image_sha256,
            "6105d6cc76af400325e94d588ce511be5bfdbb73b437dc51eca43917d7a43e3d"
        );
        assert!(!facts.is_all_foreground());
        assert!(verify(&ramp(4, 4), &full_mask(4, 4), b"", b"").unwrap().is_all_foreground());
    }

    #[test]
    fn sizes_must_agree_and_the_mask_must_not_be_empty() {
        assert_eq!(
            verify(&ramp(4, 5), &full_mask(5, 4), b"", b""),
            Err(RejectReason::SizeMismatch { image: (4, 5), mask: (5, 4) })
        );
        let empty = Mask255 { height: 4, width: 5, pixels: vec![128; 20] };
        assert_eq!(verify(&ramp(4, 5), &empty, b"", b""), Err(RejectReason::EmptyMask));
    }

    #[test]
    fn the_hash_survives_scaling_and_tells_pictures_apart() {
        assert_eq!(perceptual_hash(&ramp(64, 90)), u64::MAX);
        assert_eq!(perceptual_hash(&ramp(640, 900)), u64::MAX);
        let mut mirrored = ramp(64, 90);
        crate::augment::flip_horizontal(&mut mirrored, &mut full_mask(64, 90));
        assert_eq!(perceptual_hash(&mirrored), 0);
        // Smaller than the cells: still defined.
        let _ = perceptual_hash(&ramp(2, 3));
    }

    #[test]
    fn reasons_are_tagged_and_readable() {
        let reason = RejectReason::SizeMismatch { image: (400, 308), mask: (400, 266) };
        let json = serde_json::to_string(&reason).unwrap();
        assert_eq!(json, r#"{"kind":"size_mismatch","image":[400,308],"mask":[400,266]}"#);
        assert_eq!(serde_json::from_str::<RejectReason>(&json).unwrap(), reason);
        assert_eq!(
            reason.to_string(),
            "the image is 400 x 308 but the mask 400 x 266 (height x width): fix the mask"
        );
    }
}
