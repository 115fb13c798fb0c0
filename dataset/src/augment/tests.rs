use proptest::prelude::*;

use super::*;
use crate::rng::{Draw, sample_rng};

/// A pair whose three channels all equal the mask: whatever is done to one must be done to both.
fn aligned_pair(height: usize, width: usize, seed: u64) -> (RgbRaster, Mask255) {
    let mut rng = sample_rng(seed, 0, "pair", Draw::Augment);
    let mask: Vec<u8> = (0..height * width).map(|_| rng.random()).collect();
    let image = mask.iter().flat_map(|&value| [value; 3]).collect();
    (RgbRaster { height, width, pixels: image }, Mask255 { height, width, pixels: mask })
}

#[test]
fn flipping_twice_is_nothing_and_once_mirrors() {
    let (mut image, mut mask) = aligned_pair(3, 5, 1);
    let before = (image.clone(), mask.clone());
    flip_horizontal(&mut image, &mut mask);
    assert_eq!(mask.pixels[0], before.1.pixels[4]);
    assert_eq!(image.pixels[3 * 4], before.0.pixels[0]);
    flip_horizontal(&mut image, &mut mask);
    assert_eq!((image, mask), before);
}

#[test]
fn quantisation_equals_the_plain_casts() {
    let values: Vec<f32> = (0..=255 * 64).map(|value| value as f32 / 64.0).collect();
    let (mut truncated, mut rounded) = (vec![0; values.len()], vec![0; values.len()]);
    truncate(values.iter().copied(), &mut truncated);
    round(values.iter().copied(), &mut rounded);
    for ((value, truncated), rounded) in values.iter().zip(truncated).zip(rounded) {
        assert_eq!((truncated, rounded), (*value as u8, value.round_ties_even() as u8));
    }
    let mut just_below = [0; 2];
    truncate([254.999_98, 0.999_999_94].into_iter(), &mut just_below);
    assert_eq!(just_below, [254, 0]);
}

#[test]
fn images_are_truncated_and_masks_rounded_on_every_way() {
    // Enlarged four times, the middle columns lie at 1/8, 3/8, 5/8 and 7/8 between 0 and 255.
    let (image, mask) = (vec![0, 0, 0, 255, 255, 255], vec![0, 255]);
    let image = RgbRaster { height: 1, width: 2, pixels: image };
    let mask = Mask255 { height: 1, width: 2, pixels: mask };
    let steps = [0.0, 0.0, 0.125, 0.375, 0.625, 0.875, 1.0, 1.0_f32].map(|share| share * 255.0);
    let (stretched, stretched_mask) = stretch(&image, &mask, 8);
    let jitter = LargeScaleJitter { output_size: 8, scale_range: [1.0, 1.0] };
    let params = JitterParams { random_scale: 1.0, crop_offset_yx: [0, 0] };
    let (jittered, jittered_mask) = jitter.apply(&params, &image, &mask);
    for (x, step) in steps.into_iter().enumerate() {
        for (image, mask) in [(&stretched, &stretched_mask), (&jittered, &jittered_mask)] {
            assert_eq!(image.pixels[x * 3..][..3], [step.floor() as u8; 3], "{step}");
            assert_eq!(mask.pixels[x], step.round() as u8, "{step}");
        }
    }
}

#[test]
fn the_longer_side_gets_the_scale() {
    let jitter = LargeScaleJitter { output_size: 1024, scale_range: [0.1, 2.0] };
    assert_eq!(jitter.scaled_size(1.0, (300, 400)), (768, 1024));
    assert_eq!(jitter.scaled_size(0.1, (400, 300)), (102, 76));
    assert_eq!(jitter.scaled_size(0.1, (4000, 3)), (102, 1));
}

#[test]
fn padding_is_grey_in_the_image_and_background_in_the_mask() {
    let (image, mask) = aligned_pair(4, 4, 2);
    let jitter = LargeScaleJitter { output_size: 8, scale_range: [0.5, 0.5] };
    let params = JitterParams { random_scale: 0.5, crop_offset_yx: [0, 0] };
    let (image_out, mask_out) = jitter.apply(&params, &image, &mask);
    for y in 0..8 {
        for x in 0..8 {
            let (pixel, value) = (image_out.pixels[(y * 8 + x) * 3], mask_out.pixels[y * 8 + x]);
            if y < 4 && x < 4 {
                assert_eq!((pixel, value), (mask.pixels[y * 4 + x], mask.pixels[y * 4 + x]));
            } else {
                assert_eq!((pixel, value), (128, 0));
            }
        }
    }
}

#[test]
fn a_flip_on_the_way_equals_one_before() {
    let (image, mask) = aligned_pair(7, 11, 4);
    let jitter = LargeScaleJitter { output_size: 9, scale_range: [0.1, 2.0] };
    let params = JitterParams { random_scale: 1.3, crop_offset_yx: [0, 2] };
    let mut target = Target::new(9);
    target.views().image.fill(7);
    target.views().mask.fill(7);
    jitter.apply_into(&params, true, &image, &mask, &mut target.views());
    let (mut flipped, mut flipped_mask) = (image.clone(), mask.clone());
    flip_horizontal(&mut flipped, &mut flipped_mask);
    assert!(target.into_pair() == jitter.apply(&params, &flipped, &flipped_mask));

    let mut target = Target::new(9);
    stretch_into(true, &image, &mask, &mut target.views());
    assert!(target.into_pair() == stretch(&flipped, &flipped_mask, 9));
}

#[test]
fn stretching_to_the_same_size_changes_nothing() {
    let (image, mask) = aligned_pair(9, 9, 3);
    assert_eq!(stretch(&image, &mask, 9), (image, mask));
}

proptest! {
    #[test]
    fn jitter_keeps_size_alignment_and_bounds(
        height in 1_usize..80,
        width in 1_usize..80,
        output_size in 1_usize..96,
        seed: u64,
    ) {
        let (image, mask) = aligned_pair(height, width, seed);
        let jitter = LargeScaleJitter { output_size, scale_range: [0.1, 2.0] };
        let params =
            jitter.draw(&mut sample_rng(seed, 0, "jitter", Draw::Augment), (height, width));
        let scaled = jitter.scaled_size(params.random_scale, (height, width));
        prop_assert!(params.crop_offset_yx[0] <= scaled.0.saturating_sub(output_size));
        prop_assert!(params.crop_offset_yx[1] <= scaled.1.saturating_sub(output_size));
        let (image, mask) = jitter.apply(&params, &image, &mask);
        prop_assert_eq!((image.height, image.width), (output_size, output_size));
        prop_assert_eq!((mask.height, mask.width), (output_size, output_size));
        for y in 0..output_size.min(scaled.0) {
            for x in 0..output_size.min(scaled.1) {
                // The image truncates where the mask rounds.
                let at = y * output_size + x;
                prop_assert!(mask.pixels[at] - image.pixels[at * 3] <= 1);
            }
        }
    }
}
