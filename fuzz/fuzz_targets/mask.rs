//! The mask decoder under every policy: any bytes give a mask that survives its encoding, or a
//! reason.
#![no_main]

use dataset::codec::{DecodeLimits, MaskValues, decode_mask_as, encode_mask_png};
use libfuzzer_sys::fuzz_target;

const LIMITS: DecodeLimits = DecodeLimits { max_pixels: 1 << 18, max_file_bytes: 1 << 20 };

fuzz_target!(|bytes: &[u8]| {
    for values in [MaskValues::Auto, MaskValues::Grey, MaskValues::Nonzero, MaskValues::Alpha] {
        let Ok(mask) = decode_mask_as(bytes, &LIMITS, values) else { continue };
        assert_eq!(mask.pixels.len(), mask.height * mask.width);
        let stored = encode_mask_png(&mask);
        let again = decode_mask_as(&stored, &DecodeLimits::none(), MaskValues::Grey);
        assert_eq!(again.as_ref(), Ok(&mask));
        // What a stream reads is what the build wrote, for every mask that a build takes.
        if mask.foreground_pixels() > 0 {
            let streamed = decode_mask_as(&stored, &DecodeLimits::none(), MaskValues::Auto);
            assert_eq!(streamed.as_ref(), Ok(&mask));
        }
    }
});
