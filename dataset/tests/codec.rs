//! Every odd mode of image and mask files, and bytes that are none.

use std::io::Cursor;

use dataset::codec::{DecodeLimits, ImageFile, decode_image, decode_mask, encode_mask_png};
use dataset::raster::{Mask255, RgbRaster};
use dataset::verify::RejectReason;
use image::codecs::jpeg::JpegEncoder;
use image::{DynamicImage, GrayAlphaImage, GrayImage, ImageBuffer, ImageFormat, Luma, LumaA, Rgb};
use image::{RgbImage, Rgba, RgbaImage};
use proptest::prelude::*;

const WIDTH: u32 = 16;
const HEIGHT: u32 = 8;

fn limits() -> DecodeLimits {
    DecodeLimits::default()
}

fn png(image: impl Into<DynamicImage>) -> Vec<u8> {
    let mut bytes = Vec::new();
    image.into().write_to(&mut Cursor::new(&mut bytes), ImageFormat::Png).unwrap();
    bytes
}

/// Left half red, right half blue; the block edge keeps JPEG from mixing them.
fn two_halves() -> RgbImage {
    RgbImage::from_fn(WIDTH, HEIGHT, |x, _| {
        if x < WIDTH / 2 { Rgb([200, 40, 40]) } else { Rgb([30, 60, 190]) }
    })
}

fn jpeg(image: &RgbImage) -> Vec<u8> {
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, 95).encode_image(image).unwrap();
    bytes
}

/// Puts an EXIF segment with that orientation behind the start marker.
fn with_orientation(jpeg: &[u8], orientation: u8) -> Vec<u8> {
    let tiff = [
        b"II*\0\x08\0\0\0\x01\0".as_slice(),
        &[0x12, 0x01, 3, 0, 1, 0, 0, 0, orientation, 0, 0, 0],
        &[0; 4],
    ]
    .concat();
    let length = (2 + 6 + tiff.len()) as u16;
    [&jpeg[..2], &[0xFF, 0xE1], &length.to_be_bytes(), b"Exif\0\0", &tiff, &jpeg[2..]].concat()
}

fn close(found: &[u8], expected: [u8; 3]) -> bool {
    found.iter().zip(expected).all(|(a, b)| a.abs_diff(b) <= 8)
}

/// A soft line, so that nothing takes the mask for a map of ids.
fn soft(x: u32, y: u32) -> u8 {
    [0, 90, 200, 255][((x + y) % 4) as usize]
}

fn soft_pixels() -> Vec<u8> {
    (0..HEIGHT).flat_map(|y| (0..WIDTH).map(move |x| soft(x, y))).collect()
}

fn mask_pixels(bytes: &[u8]) -> Vec<u8> {
    let mask = decode_mask(bytes, &limits()).unwrap();
    assert_eq!((mask.height, mask.width), (HEIGHT as usize, WIDTH as usize));
    mask.pixels
}

#[test]
fn colour_modes_of_images_become_rgb() {
    let rgb = decode_image(&jpeg(&two_halves()), &limits()).unwrap();
    assert_eq!((rgb.height, rgb.width), (8, 16));
    assert!(close(&rgb.pixels[..3], [200, 40, 40]) && close(&rgb.pixels[45..48], [30, 60, 190]));

    for fixture in
        [&include_bytes!("fixtures/cmyk.jpg")[..], &include_bytes!("fixtures/progressive.jpg")[..]]
    {
        let rgb = decode_image(fixture, &limits()).unwrap();
        assert!(close(&rgb.pixels[..3], [200, 40, 40]), "{:?}", &rgb.pixels[..3]);
        assert!(close(&rgb.pixels[45..48], [30, 60, 190]), "{:?}", &rgb.pixels[45..48]);
    }

    let grey = GrayImage::from_pixel(WIDTH, HEIGHT, Luma([77]));
    assert_eq!(decode_image(&png(grey), &limits()).unwrap().pixels[..3], [77; 3]);
    let alpha = RgbaImage::from_pixel(WIDTH, HEIGHT, Rgba([9, 8, 7, 0]));
    assert_eq!(decode_image(&png(alpha), &limits()).unwrap().pixels[..3], [9, 8, 7]);
    let deep: ImageBuffer<Rgb<u16>, Vec<u16>> =
        ImageBuffer::from_pixel(WIDTH, HEIGHT, Rgb([65_535, 257 * 100, 0]));
    assert_eq!(decode_image(&png(deep), &limits()).unwrap().pixels[..3], [255, 100, 0]);
    let palette = decode_image(include_bytes!("fixtures/voc_palette.png"), &limits()).unwrap();
    assert_eq!(palette.pixels[(3 * 16 + 4) * 3..][..3], [128, 0, 0]);
}

/// The published code reads JPEG files with libjpeg-turbo. `fixtures/texture_*.png` are what Pillow
/// 13.0 with libjpeg-turbo 3 makes of the files beside them.
#[test]
fn jpeg_pixels_are_those_of_libjpeg_turbo() {
    let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");
    for name in ["420", "422", "444", "420_progressive", "420_restarts", "grey"] {
        let read = |kind: &str| std::fs::read(format!("{fixtures}/texture_{name}.{kind}")).unwrap();
        let found = decode_image(&read("jpg"), &limits()).unwrap();
        let expected = decode_image(&read("png"), &limits()).unwrap();
        assert_eq!((found.height, found.width), (37, 45));
        let differs = |(a, b): (&u8, &u8)| a.abs_diff(*b);
        let most = found.pixels.iter().zip(&expected.pixels).map(differs).max();
        assert_eq!(most, Some(0), "{name}");
    }
}

#[test]
fn a_scaled_decode_is_as_large_as_asked_and_a_mean_of_the_pixels() {
    let bytes = include_bytes!("fixtures/texture_420.jpg");
    let scaled = |wanted| ImageFile::open(bytes, &limits()).unwrap().decode_scaled(wanted).unwrap();
    let size = |image: &RgbRaster| (image.height, image.width);
    assert_eq!(ImageFile::open(bytes, &limits()).unwrap().size_hw(), (37, 45));
    assert_eq!(size(&scaled((5, 6))), (5, 6));
    assert_eq!(size(&scaled((6, 6))), (10, 12));
    assert_eq!(size(&scaled((10, 12))), (10, 12));
    assert_eq!(size(&scaled((10, 13))), (19, 23));
    assert_eq!(scaled((20, 1)), decode_image(bytes, &limits()).unwrap());
    assert_eq!(size(&scaled((100, 100))), (37, 45));
    let mean = |image: &RgbRaster| {
        image.pixels.iter().map(|&value| f64::from(value)).sum::<f64>() / image.pixels.len() as f64
    };
    let whole = mean(&scaled((37, 45)));
    assert!((mean(&scaled((19, 23))) - whole).abs() < 3.0);
    // Turned by the camera: the sizes are those of the upright picture.
    let turned = with_orientation(bytes, 6);
    let file = ImageFile::open(&turned, &limits()).unwrap();
    assert_eq!(file.size_hw(), (45, 37));
    assert_eq!(size(&file.decode_scaled((12, 10)).unwrap()), (12, 10));
    // Files that cannot be scaled are decoded whole.
    let plain = png(two_halves());
    let file = ImageFile::open(&plain, &limits()).unwrap();
    assert_eq!(file.size_hw(), (8, 16));
    assert_eq!(size(&file.decode_scaled((1, 2)).unwrap()), (8, 16));
}

#[test]
fn exif_orientation_turns_the_picture_upright() {
    let plain = jpeg(&two_halves());
    // 6: the camera was turned; the left half of the file is the top of the picture.
    let turned = decode_image(&with_orientation(&plain, 6), &limits()).unwrap();
    assert_eq!((turned.height, turned.width), (16, 8));
    assert!(close(&turned.pixels[..3], [200, 40, 40]));
    assert!(close(&turned.pixels[turned.pixels.len() - 3..], [30, 60, 190]));
    let upside_down = decode_image(&with_orientation(&plain, 3), &limits()).unwrap();
    assert!(close(&upside_down.pixels[..3], [30, 60, 190]));
    assert_eq!(
        decode_image(&with_orientation(&plain, 1), &limits()),
        decode_image(&plain, &limits())
    );
}

#[test]
fn modes_of_masks_keep_their_greys() {
    let grey = GrayImage::from_fn(WIDTH, HEIGHT, |x, y| Luma([soft(x, y)]));
    assert_eq!(mask_pixels(&png(grey)), soft_pixels());
    let rgb = RgbImage::from_fn(WIDTH, HEIGHT, |x, y| Rgb([soft(x, y); 3]));
    assert_eq!(mask_pixels(&png(rgb)), soft_pixels());
    let rgba = RgbaImage::from_fn(WIDTH, HEIGHT, |x, y| {
        let value = soft(x, y);
        Rgba([value, value, value, 255])
    });
    assert_eq!(mask_pixels(&png(rgba)), soft_pixels());
    let with_alpha = GrayAlphaImage::from_fn(WIDTH, HEIGHT, |x, y| LumaA([soft(x, y), x as u8]));
    assert_eq!(mask_pixels(&png(with_alpha)), soft_pixels(), "alpha is no part of the mask");
    let deep: ImageBuffer<Luma<u16>, Vec<u16>> =
        ImageBuffer::from_fn(WIDTH, HEIGHT, |x, y| Luma([u16::from(soft(x, y)) * 257]));
    assert_eq!(mask_pixels(&png(deep)), soft_pixels());
    let shallow: ImageBuffer<Luma<u16>, Vec<u16>> =
        ImageBuffer::from_fn(WIDTH, HEIGHT, |x, y| Luma([u16::from(soft(x, y))]));
    assert_eq!(mask_pixels(&png(shallow)), soft_pixels(), "8-bit values in 16 bits");
}

#[test]
fn alpha_is_the_mask_when_it_alone_has_the_shape() {
    let cut_out = RgbaImage::from_fn(WIDTH, HEIGHT, |x, y| Rgba([255, 255, 255, soft(x, y)]));
    assert_eq!(mask_pixels(&png(cut_out)), soft_pixels());
    let black = GrayAlphaImage::from_fn(WIDTH, HEIGHT, |x, y| LumaA([0, soft(x, y)]));
    assert_eq!(mask_pixels(&png(black)), soft_pixels());
}

#[test]
fn ids_and_zero_one_become_foreground() {
    let expected = |rows: std::ops::Range<usize>| -> Vec<u8> {
        (0..128)
            .map(
                |at| if rows.contains(&(at / 16)) && (4..8).contains(&(at % 16)) { 255 } else { 0 },
            )
            .collect()
    };
    assert_eq!(mask_pixels(include_bytes!("fixtures/one_bit.png")), expected(3..4));
    assert_eq!(mask_pixels(include_bytes!("fixtures/voc_palette.png")), expected(3..5));
    let zero_one =
        GrayImage::from_fn(WIDTH, HEIGHT, |x, y| Luma([u8::from(y == 3 && (4..8).contains(&x))]));
    assert_eq!(mask_pixels(&png(zero_one)), expected(3..4));
    let ids = GrayImage::from_fn(WIDTH, HEIGHT, |x, y| {
        Luma([if (4..8).contains(&x) && y < 5 { y as u8 } else { 0 }])
    });
    assert_eq!(mask_pixels(&png(ids)), expected(1..5));
}

#[test]
fn dark_pictures_and_empty_masks_stay_as_they_are() {
    let dark = GrayImage::from_fn(WIDTH, HEIGHT, |x, y| Luma([(x + y * 16) as u8 % 120]));
    assert_eq!(decode_mask(&png(dark), &limits()).unwrap().foreground_pixels(), 0);
    assert_eq!(mask_pixels(&png(GrayImage::new(WIDTH, HEIGHT))), vec![0; 128]);
    // A hard mask whose object is 129 is none of ids.
    let faint = GrayImage::from_fn(WIDTH, HEIGHT, |x, _| Luma([if x < 3 { 129 } else { 0 }]));
    assert_eq!(mask_pixels(&png(faint))[0], 129);
}

#[test]
fn masks_survive_their_encoding() {
    let mask = Mask255 { height: 8, width: 16, pixels: soft_pixels() };
    let bytes = encode_mask_png(&mask);
    assert_eq!(bytes, encode_mask_png(&mask));
    assert_eq!(decode_mask(&bytes, &limits()).unwrap(), mask);
}

#[test]
fn files_cut_short_are_refused() {
    // Large enough that a cut leaves most of the scan.
    let noise = RgbImage::from_fn(200, 150, |x, y| Rgb([(x * y) as u8, (x ^ y) as u8, x as u8]));
    let whole = jpeg(&noise);
    assert!(decode_image(&whole, &limits()).is_ok());
    for length in [whole.len() / 4, whole.len() / 2, whole.len() - 2] {
        assert_eq!(decode_image(&whole[..length], &limits()), Err(RejectReason::Truncated));
    }
    let progressive = include_bytes!("fixtures/progressive.jpg");
    let cut = &progressive[..progressive.len() - 3];
    assert_eq!(decode_image(cut, &limits()), Err(RejectReason::Truncated));
    let whole = png(noise);
    assert!(decode_image(&whole[..whole.len() / 2], &limits()).is_err());
}

#[test]
fn other_files_and_oversized_ones_are_refused_with_the_reason() {
    let gif = b"GIF89a\x01\0\x01\0\0\0\0;";
    assert!(matches!(decode_image(gif, &limits()), Err(RejectReason::Unsupported { .. })));
    for nothing in [&b""[..], b"<html>not found</html>"] {
        assert!(matches!(decode_mask(nothing, &limits()), Err(RejectReason::Unreadable { .. })));
    }
    let small = DecodeLimits { max_pixels: 127 };
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
        let files =
            [&include_bytes!("fixtures/cmyk.jpg")[..], include_bytes!("fixtures/progressive.jpg")];
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
