//! Images: colour modes, orientations, the pixels of JPEG files, scaled decodes.

use dataset::augment::LargeScaleJitter;
use dataset::codec::{
    ImageFile, StoredMask, decode_image, decode_image_as_stored, decode_mask, encode_mask_png,
};
use dataset::raster::{Mask255, RgbRaster};
use dataset::rng::{Draw, sample_rng};
use image::{GrayImage, ImageBuffer, Luma, Rgb, RgbImage, Rgba, RgbaImage};

use crate::support::{
    HEIGHT, WIDTH, close, exif, jpeg, limits, png, soft, two_halves, with_orientation,
};

#[test]
fn colour_modes_of_images_become_rgb() {
    let rgb = decode_image(&jpeg(&two_halves()), &limits()).unwrap();
    assert_eq!((rgb.height, rgb.width), (8, 16));
    assert!(close(&rgb.pixels[..3], [200, 40, 40]) && close(&rgb.pixels[45..48], [30, 60, 190]));

    for fixture in [
        &include_bytes!("../fixtures/cmyk.jpg")[..],
        include_bytes!("../fixtures/ycck.jpg"),
        include_bytes!("../fixtures/progressive.jpg"),
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
    let palette = decode_image(include_bytes!("../fixtures/voc_palette.png"), &limits()).unwrap();
    assert_eq!(palette.pixels[(3 * 16 + 4) * 3..][..3], [128, 0, 0]);
}

/// On which the library that decodes PNG files panics, as a fuzzer found.
#[test]
fn a_palette_that_ends_within_a_colour_is_refused() {
    let file = include_bytes!("../fixtures/short_palette.png");
    let reason = decode_image(file, &limits()).unwrap_err();
    assert!(reason.to_string().contains("palette has 8 bytes"), "{reason}");
    assert_eq!(decode_mask(file, &limits()), Err(reason));
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

/// What a crop makes of a file, of which it decodes no more than it needs, is what it makes of all
/// pixels, again those of Pillow.
#[test]
fn a_crop_of_a_file_is_the_crop_of_its_pixels() {
    let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");
    let jitter = LargeScaleJitter { output_size: 32, scale_range: [0.1, 4.0] };
    for name in ["420", "422", "444", "420_restarts"] {
        let read = |kind: &str| std::fs::read(format!("{fixtures}/texture_{name}.{kind}")).unwrap();
        let (jpeg, image) = (read("jpg"), decode_image(&read("png"), &limits()).unwrap());
        let size = (image.height, image.width);
        let pixels = image.pixels.as_chunks::<3>().0.iter().map(|pixel| pixel[0]).collect();
        let mask = Mask255 { height: size.0, width: size.1, pixels };
        let stored = encode_mask_png(&mask);
        for seed in 0..60 {
            let mut rng = sample_rng(seed, 0, name, Draw::Augment);
            let part = jitter.part(&jitter.draw(&mut rng, size), size);
            let flip = seed % 2 == 1;
            let (mut found, mut expected) = (vec![7; 32 * 32 * 3], vec![9; 32 * 32 * 3]);
            let file = ImageFile::open(&jpeg, &limits()).unwrap();
            assert!(part.of_image_rows(flip, file.rows(None).unwrap(), &mut found));
            part.of_image(flip, &image, &mut expected);
            assert!(found == expected, "image {name}, seed {seed}");
            let (mut found, mut expected) = (vec![7; 32 * 32], vec![9; 32 * 32]);
            assert!(part.of_stored_mask(flip, StoredMask::open(&stored).unwrap(), &mut found));
            part.of_mask(flip, &mask, &mut expected);
            assert!(found == expected, "mask {name}, seed {seed}");
        }
    }
    // Only what is stored like a data set's masks is read as such.
    assert!(StoredMask::open(include_bytes!("../fixtures/interlaced_mask.png")).is_none());
    assert!(StoredMask::open(include_bytes!("../fixtures/voc_palette.png")).is_none());
    assert!(StoredMask::open(include_bytes!("../fixtures/one_bit.png")).is_none());
    assert!(StoredMask::open(b"").is_none());
}

#[test]
fn a_scaled_decode_is_as_large_as_asked_and_a_mean_of_the_pixels() {
    let bytes = include_bytes!("../fixtures/texture_420.jpg");
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

        let (plain, turned) = (jpeg(&image), with_orientation(&jpeg(&image), orientation));
        let stored = decode_image_as_stored(&turned, &limits()).unwrap();
        assert_eq!(stored, decode_image(&plain, &limits()).unwrap(), "orientation {orientation}");
        let found = decode_image(&turned, &limits()).unwrap();
        assert_eq!((found.height, found.width), (16, 24), "orientation {orientation}");
        let errors = found.pixels.iter().zip(upright.as_raw()).map(|(a, b)| a.abs_diff(*b));
        assert!(errors.max() <= Some(12), "orientation {orientation}");
        let found = decode_mask(&png_mask, &limits()).unwrap();
        assert_eq!((found.height, found.width), (16, 24), "orientation {orientation}");
        assert_eq!(&found.pixels, shape.as_raw(), "orientation {orientation}");
        let stored = decode_image_as_stored(&png_mask, &limits()).unwrap();
        assert_eq!((stored.height as u32, stored.width as u32), (height, width));
        // What is stored is upright and says nothing of orientation.
        let stored = encode_mask_png(&found);
        assert_eq!(decode_mask(&stored, &limits()).unwrap(), found);
        assert!(!stored.windows(4).any(|kind| kind == b"eXIf"));
    }
}
