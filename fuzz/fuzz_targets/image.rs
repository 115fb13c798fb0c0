//! The image decoder: any bytes give an upright picture or a reason.
#![no_main]

use dataset::codec::{DecodeLimits, decode_image};
use libfuzzer_sys::fuzz_target;

/// Small, so that a file that claims much is told from one that takes long.
const LIMITS: DecodeLimits = DecodeLimits { max_pixels: 1 << 20, max_file_bytes: 1 << 20 };

fuzz_target!(|bytes: &[u8]| {
    if let Ok(image) = decode_image(bytes, &LIMITS) {
        assert!(image.height * image.width <= 1 << 20 && image.height * image.width > 0);
        assert_eq!(image.pixels.len(), image.height * image.width * 3);
    }
});
