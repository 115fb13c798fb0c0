//! Files that are cut, damaged, too large, of another kind, or no files at all.

use dataset::codec::{DecodeLimits, decode_image, decode_mask};
use dataset::verify::RejectReason;
use image::{Rgb, RgbImage};
use proptest::prelude::*;

use crate::support::{jpeg, limits, png, two_halves, with_orientation};

#[test]
fn files_cut_short_are_refused() {
    // Large enough that a cut leaves most of the scan.
    let noise = RgbImage::from_fn(200, 150, |x, y| Rgb([(x * y) as u8, (x ^ y) as u8, x as u8]));
    let whole = jpeg(&noise);
    assert!(decode_image(&whole, &limits()).is_ok());
    for length in [whole.len() / 4, whole.len() / 2, whole.len() - 2] {
        assert_eq!(decode_image(&whole[..length], &limits()), Err(RejectReason::Truncated));
    }
    let progressive = include_bytes!("../fixtures/progressive.jpg");
    let cut = &progressive[..progressive.len() - 3];
    assert_eq!(decode_image(cut, &limits()), Err(RejectReason::Truncated));
    let whole = png(noise);
    for length in [40, whole.len() / 2, whole.len() - 20] {
        assert_eq!(decode_image(&whole[..length], &limits()), Err(RejectReason::Truncated));
        assert_eq!(decode_mask(&whole[..length], &limits()), Err(RejectReason::Truncated));
    }
}

#[test]
fn damaged_png_files_are_refused_and_what_follows_a_picture_is_not_read() {
    let whole = png(two_halves());
    // A bit of the pixel data: its checksum tells.
    let mut damaged = whole.clone();
    let data = whole.windows(4).position(|kind| kind == b"IDAT").unwrap();
    damaged[data + 12] ^= 4;
    assert!(matches!(decode_image(&damaged, &limits()), Err(RejectReason::Unreadable { .. })));
    // Cameras put a second picture behind the first.
    let pictures = [jpeg(&two_halves()), jpeg(&RgbImage::new(8, 8))].concat();
    assert_eq!(decode_image(&pictures, &limits()), decode_image(&jpeg(&two_halves()), &limits()));
}

#[test]
fn files_that_claim_too_much_are_refused_before_anything_is_allocated() {
    // 65,500 x 65,500 pixels would take 12 GB.
    let mut bomb = jpeg(&two_halves());
    let frame = bomb.windows(2).position(|marker| marker == [0xFF, 0xC0]).unwrap();
    bomb[frame + 5..frame + 9].copy_from_slice(&[0xFF, 0xDC, 0xFF, 0xDC]);
    let too_large =
        |side| RejectReason::TooLarge { height: side, width: side, max_pixels: 200_000_000 };
    assert_eq!(decode_image(&bomb, &limits()), Err(too_large(65_500)));
    let header =
        [b"IHDR".as_slice(), &[0x7F, 0xFF, 0xFF, 0xFF].repeat(2), &[8, 2, 0, 0, 0]].concat();
    let bomb = [
        b"\x89PNG\r\n\x1a\n\0\0\0\r".as_slice(),
        &header,
        &crc32(&header).to_be_bytes(),
        b"\0\0\0\0IDAT\x35\xaf\x06\x1e",
    ]
    .concat();
    for refused in [decode_image(&bomb, &limits()).err(), decode_mask(&bomb, &limits()).err()] {
        // The decoder may have a limit of its own.
        assert!(
            matches!(
                &refused,
                Some(RejectReason::TooLarge { .. } | RejectReason::Unreadable { .. })
            ),
            "{refused:?}"
        );
    }
    let small = DecodeLimits { max_file_bytes: 100, ..limits() };
    let bytes = jpeg(&two_halves());
    let reason = decode_image(&bytes, &small).unwrap_err();
    assert_eq!(
        reason,
        RejectReason::FileTooLarge { bytes: bytes.len() as u64, max_file_bytes: 100 }
    );
    assert!(reason.to_string().contains("raise max_file_bytes"), "{reason}");
    assert!(decode_image(&bytes, &DecodeLimits::none()).is_ok());
}

/// The checksum of PNG chunks, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc: u32, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ (if crc & 1 == 1 { 0xEDB8_8320 } else { 0 })
        })
    })
}

#[test]
fn kinds_that_are_not_handled_are_refused_by_name() {
    let fixtures: [(&[u8], &str); 6] = [
        (include_bytes!("../fixtures/arithmetic.jpg"), "arithmetic"),
        (include_bytes!("../fixtures/twelve_bit.jpg"), "12 bits"),
        (include_bytes!("../fixtures/lossless.jpg"), "lossless"),
        (include_bytes!("../fixtures/mask.tiff"), "Tiff"),
        (include_bytes!("../fixtures/mask.bmp"), "Bmp"),
        (include_bytes!("../fixtures/mask.webp"), "WebP"),
    ];
    for (bytes, name) in fixtures {
        for refused in [decode_image(bytes, &limits()).err(), decode_mask(bytes, &limits()).err()] {
            let Some(RejectReason::Unsupported { detail }) = refused else {
                panic!("{name}: {refused:?}")
            };
            assert!(detail.contains(name), "{detail}");
        }
    }
}

#[test]
fn other_files_and_oversized_ones_are_refused_with_the_reason() {
    let gif = b"GIF89a\x01\0\x01\0\0\0\0;";
    assert!(matches!(decode_image(gif, &limits()), Err(RejectReason::Unsupported { .. })));
    for nothing in [&b""[..], b"<html>not found</html>"] {
        assert!(matches!(decode_mask(nothing, &limits()), Err(RejectReason::Unreadable { .. })));
    }
    let small = DecodeLimits { max_pixels: 127, ..limits() };
    assert_eq!(
        decode_image(&jpeg(&two_halves()), &small),
        Err(RejectReason::TooLarge { height: 8, width: 16, max_pixels: 127 })
    );
}

proptest! {
    #[test]
    fn any_bytes_give_a_result(bytes in prop::collection::vec(any::<u8>(), 0..300), kind in 0..3) {
        let start: &[u8] = match kind {
            0 => b"",
            1 => b"\xFF\xD8\xFF\xC0\x00\x11\x08\x00\x10\x00\x10\x03\x01\x22\x00\x02\x11\x01\x03\x11\x01",
            _ => b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x10\0\0\0\x10\x08\0\0\0\0",
        };
        let bytes = [start, &bytes].concat();
        let _ = decode_image(&bytes, &limits());
        let _ = decode_mask(&bytes, &limits());
    }

    #[test]
    fn a_damaged_file_gives_a_result(at in 0_usize..1000, value: u8, length in 0_usize..1000) {
        let files = [
            &include_bytes!("../fixtures/cmyk.jpg")[..],
            include_bytes!("../fixtures/ycck.jpg"),
            include_bytes!("../fixtures/progressive.jpg"),
            include_bytes!("../fixtures/interlaced_mask.png"),
            include_bytes!("../fixtures/texture_420.jpg"),
            include_bytes!("../fixtures/texture_420_progressive.jpg"),
            include_bytes!("../fixtures/texture_420_restarts.jpg"),
        ];
        let own = [jpeg(&two_halves()), with_orientation(&jpeg(&two_halves()), 6), png(two_halves())];
        for file in files.into_iter().chain(own.iter().map(Vec::as_slice)) {
            let mut damaged = file.to_vec();
            let at = at % damaged.len();
            damaged[at] = value;
            let _ = decode_image(&damaged, &limits());
            let _ = decode_mask(&damaged[..damaged.len().min(length)], &limits());
        }
    }
}
