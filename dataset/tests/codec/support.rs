//! Encoded files, and what the tests compare.

use std::io::Cursor;

use dataset::codec::{DecodeLimits, decode_mask};
use image::codecs::jpeg::JpegEncoder;
use image::{DynamicImage, ImageFormat, Rgb, RgbImage};

pub(crate) const WIDTH: u32 = 16;
pub(crate) const HEIGHT: u32 = 8;

pub(crate) fn limits() -> DecodeLimits {
    DecodeLimits::default()
}

pub(crate) fn png(image: impl Into<DynamicImage>) -> Vec<u8> {
    let mut bytes = Vec::new();
    image.into().write_to(&mut Cursor::new(&mut bytes), ImageFormat::Png).unwrap();
    bytes
}

/// Left half red, right half blue; the block edge keeps JPEG from mixing them.
pub(crate) fn two_halves() -> RgbImage {
    RgbImage::from_fn(WIDTH, HEIGHT, |x, _| {
        if x < WIDTH / 2 { Rgb([200, 40, 40]) } else { Rgb([30, 60, 190]) }
    })
}

pub(crate) fn jpeg(image: &RgbImage) -> Vec<u8> {
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, 95).encode_image(image).unwrap();
    bytes
}

/// EXIF data that holds nothing but an orientation.
pub(crate) fn exif(orientation: u8) -> Vec<u8> {
    [
        b"II*\0\x08\0\0\0\x01\0".as_slice(),
        &[0x12, 0x01, 3, 0, 1, 0, 0, 0, orientation, 0, 0, 0],
        &[0; 4],
    ]
    .concat()
}

/// Puts an EXIF segment with that orientation behind the start marker.
pub(crate) fn with_orientation(jpeg: &[u8], orientation: u8) -> Vec<u8> {
    let tiff = exif(orientation);
    let length = (2 + 6 + tiff.len()) as u16;
    [&jpeg[..2], &[0xFF, 0xE1], &length.to_be_bytes(), b"Exif\0\0", &tiff, &jpeg[2..]].concat()
}

pub(crate) fn close(found: &[u8], expected: [u8; 3]) -> bool {
    found.iter().zip(expected).all(|(a, b)| a.abs_diff(b) <= 8)
}

/// A soft line, so that nothing takes the mask for a map of ids.
pub(crate) fn soft(x: u32, y: u32) -> u8 {
    [0, 90, 200, 255][((x + y) % 4) as usize]
}

pub(crate) fn soft_pixels() -> Vec<u8> {
    (0..HEIGHT).flat_map(|y| (0..WIDTH).map(move |x| soft(x, y))).collect()
}

pub(crate) fn mask_pixels(bytes: &[u8]) -> Vec<u8> {
    let mask = decode_mask(bytes, &limits()).unwrap();
    assert_eq!((mask.height, mask.width), (HEIGHT as usize, WIDTH as usize));
    mask.pixels
}
