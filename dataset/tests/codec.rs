//! Every odd mode of image and mask files, and bytes that are none.

use std::io::Cursor;

use dataset::codec::{
    DecodeLimits, ImageFile, MaskValues, decode_image, decode_mask, decode_mask_as, encode_mask_png,
};
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

/// EXIF data that holds nothing but an orientation.
fn exif(orientation: u8) -> Vec<u8> {
    [
        b"II*\0\x08\0\0\0\x01\0".as_slice(),
        &[0x12, 0x01, 3, 0, 1, 0, 0, 0, orientation, 0, 0, 0],
        &[0; 4],
    ]
    .concat()
}

/// Puts an EXIF segment with that orientation behind the start marker.
fn with_orientation(jpeg: &[u8], orientation: u8) -> Vec<u8> {
    let tiff = exif(orientation);
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

    for fixture in [
        &include_bytes!("fixtures/cmyk.jpg")[..],
        include_bytes!("fixtures/ycck.jpg"),
        include_bytes!("fixtures/progressive.jpg"),
    ] {
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

/// Where the upright pixel (x, y) lies in a file of that orientation, after the EXIF standard's
/// table of what its first row and column show.
fn stored_at(orientation: u8, x: u32, y: u32, (width, height): (u32, u32)) -> (u32, u32) {
    let (right, bottom) = (width - 1 - x, height - 1 - y);
    match orientation {
        2 => (right, y),
        3 => (right, bottom),
        4 => (x, bottom),
        5 => (y, x),
        6 => (y, right),
        7 => (bottom, right),
        8 => (bottom, x),
        _ => (x, y),
    }
}

#[test]
fn all_eight_orientations_turn_image_and_mask_upright() {
    // Every 8 x 8 block has its own colour, so that JPEG keeps them apart.
    let upright = RgbImage::from_fn(24, 16, |x, y| Rgb([x as u8 / 8 * 100, y as u8 / 8 * 200, 60]));
    let shape = GrayImage::from_fn(24, 16, |x, y| Luma([soft(x, 2 * y)]));
    for orientation in 0..=9 {
        let (width, height) = if (5..=8).contains(&orientation) { (16, 24) } else { (24, 16) };
        let (mut image, mut mask) = (RgbImage::new(width, height), GrayImage::new(width, height));
        for (x, y) in (0..16).flat_map(|y| (0..24).map(move |x| (x, y))) {
            let (stored_x, stored_y) = stored_at(orientation, x, y, (24, 16));
            image.put_pixel(stored_x, stored_y, *upright.get_pixel(x, y));
            mask.put_pixel(stored_x, stored_y, *shape.get_pixel(x, y));
        }
        let mut png_mask = Vec::new();
        let mut encoder = image::codecs::png::PngEncoder::new(&mut png_mask);
        image::ImageEncoder::set_exif_metadata(&mut encoder, exif(orientation)).unwrap();
        mask.write_with_encoder(encoder).unwrap();

        let found = decode_image(&with_orientation(&jpeg(&image), orientation), &limits()).unwrap();
        assert_eq!((found.height, found.width), (16, 24), "orientation {orientation}");
        let errors = found.pixels.iter().zip(upright.as_raw()).map(|(a, b)| a.abs_diff(*b));
        assert!(errors.max() <= Some(12), "orientation {orientation}");
        let found = decode_mask(&png_mask, &limits()).unwrap();
        assert_eq!((found.height, found.width), (16, 24), "orientation {orientation}");
        assert_eq!(&found.pixels, shape.as_raw(), "orientation {orientation}");
        // What is stored is upright and says nothing of orientation.
        let stored = encode_mask_png(&found);
        assert_eq!(decode_mask(&stored, &limits()).unwrap(), found);
        assert!(!stored.windows(4).any(|kind| kind == b"eXIf"));
    }
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
fn ids_of_16_bits_keep_the_first_objects() {
    let ids = |values: [u16; 4]| -> ImageBuffer<Luma<u16>, Vec<u16>> {
        ImageBuffer::from_fn(WIDTH, HEIGHT, |x, _| Luma([values[x as usize / 4]]))
    };
    let shown =
        |values| mask_pixels(&png(ids(values)))[..16].chunks(4).map(|part| part[0]).collect();
    // 3 of 255 steps would be below one step of 8 bits.
    assert_eq!(shown([0, 3, 1000, 20_000]), [0, 255, 255, 255]);
    assert_eq!(shown([0, 1, 2, 3]), [0, 255, 255, 255]);
    let greys: Vec<u8> = shown([0, 10_000, 40_000, 65_535]);
    assert_eq!(greys, [0, 38, 155, 255], "a matte, not ids");
}

#[test]
fn what_a_source_says_of_its_masks_is_believed() {
    let read = |bytes: &[u8], values| decode_mask_as(bytes, &limits(), values).unwrap().pixels;
    // Object ids up to 255, as in maps with many objects: taken for greys unless told.
    let ids =
        png(GrayImage::from_fn(WIDTH, HEIGHT, |x, _| Luma([[0, 1, 90, 250][x as usize / 4]])));
    let first = |pixels: Vec<u8>| [pixels[0], pixels[4], pixels[8], pixels[12]];
    assert_eq!(first(read(&ids, MaskValues::Auto)), [0, 1, 90, 250]);
    assert_eq!(first(read(&ids, MaskValues::Nonzero)), [0, 255, 255, 255]);
    // Ids as colours, one of them too dark for any grey; alpha says nothing.
    let colors = [[0, 0, 0, 255], [0, 0, 1, 255], [128, 0, 0, 0], [224, 224, 192, 255]];
    let map = png(RgbaImage::from_fn(WIDTH, HEIGHT, |x, _| Rgba(colors[x as usize / 4])));
    assert_eq!(first(read(&map, MaskValues::Nonzero)), [0, 255, 255, 255]);
    assert_eq!(first(read(&map, MaskValues::Alpha)), [255, 255, 0, 255]);
    let deep: ImageBuffer<Luma<u16>, Vec<u16>> =
        ImageBuffer::from_fn(WIDTH, HEIGHT, |x, _| Luma([[0, 1, 300, 65_535][x as usize / 4]]));
    assert_eq!(first(read(&png(deep), MaskValues::Nonzero)), [0, 255, 255, 255]);
    // A dark matte that looks like ids.
    let dark =
        png(GrayImage::from_fn(WIDTH, HEIGHT, |x, _| Luma([[0, 20, 40, 60][x as usize / 4]])));
    assert_eq!(first(read(&dark, MaskValues::Grey)), [0, 20, 40, 60]);
    assert_eq!(first(read(&dark, MaskValues::Auto)), [0, 255, 255, 255]);
    // A cut-out whose colours vary: only its owner can know that the shape is in the alpha.
    let cut_out = png(RgbaImage::from_fn(WIDTH, HEIGHT, |x, y| {
        Rgba([x as u8 * 16, y as u8 * 30, 200, soft(x, y)])
    }));
    assert_eq!(read(&cut_out, MaskValues::Alpha), soft_pixels());
    assert_eq!(decode_mask_as(&ids, &limits(), MaskValues::Alpha), Err(RejectReason::NoAlpha));
}

#[test]
fn interlaced_and_jpeg_masks_are_read() {
    assert_eq!(mask_pixels(include_bytes!("fixtures/interlaced_mask.png")), soft_pixels());
    let block = RgbImage::from_fn(WIDTH, HEIGHT, |x, _| Rgb([if x < 8 { 255 } else { 0 }; 3]));
    let mask = decode_mask(&jpeg(&block), &limits()).unwrap();
    assert_eq!((mask.foreground_pixels(), mask.box_xyxy()), (64, Some([0, 0, 7, 7])));
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
        (include_bytes!("fixtures/arithmetic.jpg"), "arithmetic"),
        (include_bytes!("fixtures/twelve_bit.jpg"), "12 bits"),
        (include_bytes!("fixtures/lossless.jpg"), "lossless"),
        (include_bytes!("fixtures/mask.tiff"), "Tiff"),
        (include_bytes!("fixtures/mask.bmp"), "Bmp"),
        (include_bytes!("fixtures/mask.webp"), "WebP"),
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
            &include_bytes!("fixtures/cmyk.jpg")[..],
            include_bytes!("fixtures/ycck.jpg"),
            include_bytes!("fixtures/progressive.jpg"),
            include_bytes!("fixtures/interlaced_mask.png"),
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
