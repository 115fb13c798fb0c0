//! The image decoders: any bytes give an upright picture or a reason, whole or row by row.
#![no_main]

use dataset::augment::Part;
use dataset::codec::{DecodeLimits, ImageFile, decode_image};
use libfuzzer_sys::fuzz_target;

/// Small, so that a file that claims much is told from one that takes long.
const LIMITS: DecodeLimits = DecodeLimits { max_pixels: 1 << 20, max_file_bytes: 1 << 20 };
/// Of the square that rows are resampled to.
const SIDE: usize = 24;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(image) = decode_image(bytes, &LIMITS) {
        assert!(image.height * image.width <= 1 << 20 && image.height * image.width > 0);
        assert_eq!(image.pixels.len(), image.height * image.width * 3);
    }
    let Ok(file) = ImageFile::open(bytes, &LIMITS) else { return };
    let mut target = [0; SIDE * SIDE * 3];
    for scaled_to_hw in [None, Some((SIDE, SIDE))] {
        if let Some(rows) = file.rows(scaled_to_hw) {
            let _ = Part::stretched(SIDE).of_image_rows(true, rows, &mut target);
        }
    }
});
