//! Masks: greys, alpha, object ids, and their encoding.

use dataset::codec::{MaskValues, decode_mask, decode_mask_as, encode_mask_png};
use dataset::raster::Mask255;
use dataset::verify::RejectReason;
use image::{GrayAlphaImage, GrayImage, ImageBuffer, Luma, LumaA, Rgb, RgbImage, Rgba, RgbaImage};

use crate::support::{HEIGHT, WIDTH, jpeg, limits, mask_pixels, png, soft, soft_pixels};

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
fn a_photograph_is_no_mask_unless_it_is_cut_out() {
    let photo = |x: u32, y: u32| [(x * 16) as u8, 255 - (x * 16 + y) as u8, (y * 30) as u8];
    let plain = png(RgbImage::from_fn(WIDTH, HEIGHT, |x, y| Rgb(photo(x, y))));
    assert_eq!(decode_mask(&plain, &limits()), Err(RejectReason::Picture));
    assert!(decode_mask_as(&plain, &limits(), MaskValues::Grey).is_ok(), "a setting is believed");
    let cut_out = |shape: fn(u32, u32) -> u8| {
        png(RgbaImage::from_fn(WIDTH, HEIGHT, |x, y| {
            let [red, green, blue] = photo(x, y);
            Rgba([red, green, blue, shape(x, y)])
        }))
    };
    assert_eq!(mask_pixels(&cut_out(soft)), soft_pixels());
    assert_eq!(decode_mask(&cut_out(|_, _| 255), &limits()), Err(RejectReason::Picture));
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
    assert_eq!(mask_pixels(include_bytes!("../fixtures/one_bit.png")), expected(3..4));
    assert_eq!(mask_pixels(include_bytes!("../fixtures/voc_palette.png")), expected(3..5));
    let zero_one =
        GrayImage::from_fn(WIDTH, HEIGHT, |x, y| Luma([u8::from(y == 3 && (4..8).contains(&x))]));
    assert_eq!(mask_pixels(&png(zero_one)), expected(3..4));
    let ids = GrayImage::from_fn(WIDTH, HEIGHT, |x, y| {
        Luma([if (4..8).contains(&x) && y < 5 { y as u8 } else { 0 }])
    });
    assert_eq!(mask_pixels(&png(ids)), expected(1..5));
}

/// An indexed PNG of one byte a pixel with that palette.
fn indexed(palette: &[[u8; 3]], pixels: impl Fn(u32, u32) -> u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, WIDTH, HEIGHT);
    encoder.set_color(png::ColorType::Indexed);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_palette(palette.concat());
    let mut writer = encoder.write_header().unwrap();
    let pixels: Vec<u8> = (0..HEIGHT)
        .flat_map(|y| (0..WIDTH).map(move |x| (x, y)))
        .map(|(x, y)| pixels(x, y))
        .collect();
    writer.write_image_data(&pixels).unwrap();
    writer.finish().unwrap();
    bytes
}

/// The colours of PASCAL VOC: the bits of an id, three at a time from the lowest, are the bits of
/// red, green and blue from the highest.
fn voc_palette() -> Vec<[u8; 3]> {
    let bit_of = |id: u16, bit: u16, channel: u16| (id >> (3 * bit + channel) & 1) << (7 - bit);
    let value = |id, channel| (0..3).map(|bit| bit_of(id, bit, channel)).sum::<u16>() as u8;
    (0..=255).map(|id| [0, 1, 2].map(|channel| value(id, channel))).collect()
}

#[test]
fn a_palette_of_colours_numbers_objects() {
    let palette = voc_palette();
    assert_eq!(
        (palette[1], palette[15], palette[255]),
        ([128, 0, 0], [192, 128, 128], [224, 224, 192])
    );
    // An object in a ring of the undecided border, as VOC draws it; id 7 is a grey.
    for id in [1, 7, 15, 63] {
        let map = indexed(&palette, |x, y| match (x, y) {
            (4..8, 3..5) => id,
            (3..9, 2..6) => 255,
            _ => 0,
        });
        let expected: Vec<u8> = (0..HEIGHT)
            .flat_map(|y| (0..WIDTH).map(move |x| (x, y)))
            .map(|at| if matches!(at, (4..8, 3..5)) { 255 } else { 0 })
            .collect();
        assert_eq!(mask_pixels(&map), expected, "id {id}");
        assert_eq!(
            mask_pixels(&indexed(&palette, |x, _| if x < 4 { id } else { 0 }))[3..5],
            [255, 0]
        );
    }
    // Beside nothing else, 255 is the object of a 0/255 mask.
    let hard = indexed(&palette, |x, _| if x < 4 { 255 } else { 0 });
    assert_eq!(mask_pixels(&hard)[3..5], [255, 0]);
    let empty = indexed(&palette, |_, _| 0);
    assert_eq!(decode_mask(&empty, &limits()).unwrap().foreground_pixels(), 0);
}

#[test]
fn palettes_of_greys_and_black_and_white_are_read_by_their_luma() {
    // Index and grey differ: the greys count.
    let greys: Vec<[u8; 3]> = (0..=255).rev().map(|value| [value; 3]).collect();
    assert_eq!(mask_pixels(&indexed(&greys, |x, y| 255 - soft(x, y))), soft_pixels());
    assert_eq!(mask_pixels(&indexed(&[[0; 3], [255; 3]], |x, _| u8::from(x < 4)))[3..5], [255, 0]);
    // White first, in a palette that has colours that are not shown.
    let colors = [[255; 3], [0; 3], [200, 0, 0]];
    assert_eq!(mask_pixels(&indexed(&colors, |x, _| u8::from(x >= 4)))[3..5], [255, 0]);
    // Black in two places, as Pillow's web palette has it.
    let web = [[0; 3], [200, 0, 0], [0; 3]];
    assert_eq!(mask_pixels(&indexed(&web, |x, _| if x < 4 { 1 } else { 2 }))[3..5], [255, 0]);
    // A photograph of 128 colours is none.
    let photo: Vec<[u8; 3]> = (0..128).map(|at| [at * 2, 255 - at, at]).collect();
    let photo = indexed(&photo, |x, y| (x * 8 + y) as u8);
    assert_eq!(decode_mask(&photo, &limits()), Err(RejectReason::Picture));
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
    assert_eq!(mask_pixels(include_bytes!("../fixtures/interlaced_mask.png")), soft_pixels());
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
