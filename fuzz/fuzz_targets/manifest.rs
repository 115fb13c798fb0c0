//! Manifests: any bytes are a manifest that survives its own encoding, or an error.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pipeline::Manifest;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(manifest) = Manifest::parse(bytes) {
        assert_eq!(Manifest::parse(&manifest.to_bytes()).as_ref(), Ok(&manifest));
        let _ = (manifest.num_samples(), manifest.num_bytes());
    }
});
