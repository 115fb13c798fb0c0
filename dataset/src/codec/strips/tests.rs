use libjpeg_turbo_rs::decode::idct_scaled::{self, idct_1x1, idct_2x2};
use libjpeg_turbo_rs::decode::upsample::fancy_h2v2_row;
use libjpeg_turbo_rs::{Decoder, Encoder, PixelFormat, ScalingFactor, Subsampling};
use proptest::prelude::*;

use super::component::flat_level;
use super::reduced::idct_4x4;
use super::*;
use crate::rng::{Draw, sample_rng};

#[test]
fn a_flat_block_is_what_every_transform_makes_of_it() {
    let idct = detect().idct_islow;
    for dc in -8192..8192 {
        let mut coefficients = [0; 64];
        coefficients[0] = dc;
        let level = flat_level(dc, 1).unwrap();
        let (mut eight, mut four, mut two) = ([0; 64], [0; 16], [0; 4]);
        idct(&coefficients, &[1; 64], &mut eight);
        idct_4x4(V3::try_new(), &coefficients, &[1; 64], &mut four);
        idct_2x2(&coefficients, &[1; 64], &mut two);
        assert!(eight.iter().chain(&four).chain(&two).all(|&value| value == level), "{dc}");
        assert_eq!(idct_1x1(&coefficients, &[1; 64]), level);
    }
    assert_eq!(flat_level(8192, 1), None);
}

/// Smooth areas, edges and noise, so that blocks of every kind occur.
fn picture(height: usize, width: usize, seed: u64) -> Vec<u8> {
    use rand::RngExt;
    let mut rng = sample_rng(seed, 0, "picture", Draw::Augment);
    let (noise, edge) = (rng.random_range(0..3_u32), rng.random_range(0..width));
    let value = |y: usize, x: usize, channel: usize, random: u32| {
        let smooth = (y * 2 + x * (channel + 1)) as u32 / 3;
        let value = if x > edge { 255 - smooth.min(255) } else { smooth };
        (value + random * noise * 40 / 64) as u8
    };
    let mut pixels = Vec::new();
    for at in 0..height * width * 3 {
        let (y, x, channel) = (at / 3 / width, at / 3 % width, at % 3);
        pixels.push(value(y, x, channel, rng.random_range(0..64)));
    }
    pixels
}

proptest! {
    #[test]
    fn doubling_is_the_filter_of_libjpeg_turbo(
        rows in proptest::collection::vec((any::<u8>(), any::<u8>()), 3..80),
    ) {
        let (near, far): (Vec<u8>, Vec<u8>) = rows.into_iter().unzip();
        let (mut found, mut expected) = (vec![0; near.len() * 2], vec![0; near.len() * 2]);
        double(&near, &far, &mut found);
        fancy_h2v2_row(&near, &far, &mut expected, near.len());
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn the_reduced_transform_is_the_one_of_libjpeg_turbo(
        values in proptest::collection::vec((any::<i16>(), 0_u32..16, 1_u16..80, 0_u8..4), 64),
        sparse: bool,
    ) {
        // Of pictures, of damaged files, and of blocks with few values.
        let mut coefficients = [0; 64];
        let mut quantisation = [1; 64];
        for (at, (value, size, step, kind)) in values.into_iter().enumerate() {
            coefficients[at] = if sparse && kind > 0 { 0 } else { value >> size };
            quantisation[at] = step;
        }
        let (mut found, mut expected) = ([0; 16], [0; 16]);
        idct_4x4(V3::try_new(), &coefficients, &quantisation, &mut found);
        idct_scaled::idct_4x4(&coefficients, &quantisation, &mut expected);
        prop_assert_eq!(found, expected);
    }

    /// Any rows and columns of a picture are the very pixels of the whole one, as the library
    /// decodes it.
    #[test]
    fn parts_are_parts_of_the_whole(
        size in (1_usize..90, MIN_WIDTH..120),
        columns in (0.0..1.0, 0.0..1.0),
        first_row in 0.0..1.0,
        step in 1_usize..40,
        subsampling in prop_oneof![
            Just(Subsampling::S444), Just(Subsampling::S422), Just(Subsampling::S420)
        ],
        divisor in prop_oneof![Just(1_usize), Just(2), Just(4), Just(8)],
        quality in 5_u8..=100,
        restart_blocks in 0_u16..6,
        seed: u64,
    ) {
        let (height, width) = size;
        let pixels = picture(height, width, seed);
        let jpeg = Encoder::new(&pixels, width, height, PixelFormat::Rgb)
            .quality(quality)
            .subsampling(subsampling)
            .restart_blocks(restart_blocks)
            .encode()
            .unwrap();
        let mut decoder = Decoder::new(&jpeg).unwrap();
        decoder.set_output_format(PixelFormat::Rgb);
        decoder.set_scale(ScalingFactor::try_new(1, divisor as u32).unwrap());
        let whole = decoder.decode_image().unwrap();
        let Some(mut strips) = Strips::open(&jpeg, divisor) else {
            prop_assert!(subsampling == Subsampling::S422 && divisor > 1);
            return Ok(());
        };
        prop_assert_eq!(strips.size_hw(), (whole.height, whole.width));
        let start = (columns.0 * whole.width as f64) as usize;
        let end = start + 1 + (columns.1 * (whole.width - start) as f64) as usize;
        let end = end.min(whole.width);
        strips.keep_columns(start..end);
        let first = (first_row * whole.height as f64) as usize;
        for y in (first..whole.height).step_by(step) {
            let expected = &whole.data[(y * whole.width + start) * 3..][..(end - start) * 3];
            prop_assert_eq!(&strips.row(y).unwrap()[start * 3..end * 3], expected, "row {}", y);
        }
    }

    /// A damaged scan ends or gives other pixels, never a panic.
    #[test]
    fn damage_is_survived(at in 0.0..1.0, value: u8, cut: bool, seed: u64) {
        let pixels = picture(40, 40, seed);
        let mut jpeg = Encoder::new(&pixels, 40, 40, PixelFormat::Rgb).encode().unwrap();
        let at = (at * jpeg.len() as f64) as usize;
        jpeg[at] = value;
        if cut {
            jpeg.truncate(at);
        }
        if let Some(mut strips) = Strips::open(&jpeg, 1) {
            let (height, _) = strips.size_hw();
            let _ = (0..height).try_for_each(|y| strips.row(y).map(|_| ()));
        }
    }
}
