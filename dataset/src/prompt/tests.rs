//! Prompts of every kind, from masks of every size.

use proptest::prelude::*;

use super::*;
use crate::rng::{Draw, sample_rng};

fn square(size: usize, from: usize, to: usize) -> Mask255 {
    let inside = from..to;
    let pixels =
        (0..size * size)
            .map(|at| {
                if inside.contains(&(at / size)) && inside.contains(&(at % size)) { 255 } else { 0 }
            })
            .collect();
    Mask255 { height: size, width: size, pixels }
}

#[test]
fn kinds_are_printed_as_configurations_name_them() {
    for kind in PromptRecipe::default().kinds {
        assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
    }
}

#[test]
fn permuted_numbers_are_row_major_foreground_pixels() {
    let mask = square(5, 2, 4);
    assert_eq!(
        points_from_permutation(&mask, &[0, 3, 1, 4, -1]),
        [[2.0, 2.0], [3.0, 3.0], [3.0, 2.0]]
    );
}

#[test]
fn noise_stays_near_the_edge() {
    let mask = square(1024, 256, 768);
    let values = downscale_mask(&mask, NOISE_MASK_SIZE);
    let noisy = noise_mask(&values, &vec![-9.0; values.len()]);
    assert_eq!(noisy[128 * 256 + 128], 255, "the middle is out of reach of the noise");
    assert_eq!(noisy[64 * 256 + 64], 0, "the corner is within it");
    assert_eq!(noisy[0], 0);
}

#[test]
fn few_pixels_give_repeated_points_and_none_a_noise_mask() {
    let recipe = PromptRecipe { kinds: vec![PromptKind::Points], ..PromptRecipe::default() };
    let mut rng = sample_rng(1, 0, "few", Draw::Prompt);
    match recipe.draw(&mut rng, &square(16, 3, 5)) {
        Prompt::Points { coords, labels } => {
            assert_eq!((coords.len(), labels), (10, vec![1.0; 10]));
        }
        other => panic!("{other:?}"),
    }
    match recipe.draw(&mut rng, &square(16, 3, 3)) {
        Prompt::NoiseMask(values) => assert!(values.iter().all(|&value| value == 0)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn kinds_are_equally_likely() {
    let recipe = PromptRecipe::default();
    let mask = square(32, 4, 20);
    let mut counts = [0; 3];
    for epoch in 0..300 {
        let prompt = recipe.draw(&mut sample_rng(42, epoch, "a", Draw::Prompt), &mask);
        counts[match prompt {
            Prompt::Box(_) => 0,
            Prompt::Points { .. } => 1,
            Prompt::NoiseMask(_) => 2,
        }] += 1;
    }
    assert!(counts.iter().all(|count| (70..=130).contains(count)), "{counts:?}");
}

#[test]
fn negative_points_lie_around_the_object() {
    let recipe = PromptRecipe {
        kinds: vec![PromptKind::Points],
        negative_points: 40,
        ..PromptRecipe::default()
    };
    // 40 pixels wide: the surroundings reach 10 further.
    let mask = square(200, 80, 120);
    let Prompt::Points { coords, labels } =
        recipe.draw(&mut sample_rng(1, 0, "a", Draw::Prompt), &mask)
    else {
        panic!("points")
    };
    assert_eq!((&labels[..10], &labels[10..]), (&[1.0; 10][..], &[0.0; 40][..]));
    for [x, y] in &coords[10..] {
        assert_eq!(mask.pixels[*y as usize * 200 + *x as usize], 0);
        assert!((70.0..130.0).contains(x) && (70.0..130.0).contains(y), "{x} {y}");
    }
    // The positive points are those that a recipe without negative ones draws.
    let published = PromptRecipe { negative_points: 0, ..recipe };
    let Prompt::Points { coords: positive, .. } =
        published.draw(&mut sample_rng(1, 0, "a", Draw::Prompt), &mask)
    else {
        panic!("points")
    };
    assert_eq!(positive, coords[..10]);
}

#[test]
fn a_noisy_box_is_the_published_one() {
    // box_noise of the published code with torch.rand(4) replaced: box_noise(tensor([[100., 200.,
    // 300., 260.]]), 0.2) at 2 * rand - 1 = 1, -1, 0.5, -0.5 moves the centre (200, 230) by (20, -6)
    // and changes the sides (200, 60) by (20, -6).
    let noise = [0.2, -0.2, 0.1, -0.1];
    let found = noisy_box([100.0, 200.0, 300.0, 260.0], noise, (1024, 1024));
    let expected = [110.0, 197.0, 330.0, 251.0];
    assert!(
        found.iter().zip(expected).all(|(a, b): (&f32, f32)| (a - b).abs() < 1e-3),
        "{found:?}"
    );
    let clipped = noisy_box([0.0, 0.0, 63.0, 63.0], [0.2, 0.2, 0.4, 0.4], (64, 64));
    assert!(clipped.iter().all(|corner| (0.0..=63.0).contains(corner)), "{clipped:?}");
    // A box of a pixel or two keeps its sides.
    assert_eq!(noisy_box([5.0, 7.0, 5.0, 8.0], [0.9; 4], (64, 64))[2], 5.0);
}

#[test]
fn the_first_of_several_prompts_is_the_only_one_of_a_single() {
    let one = PromptRecipe::default();
    let four = PromptRecipe { prompts_per_image: 4, ..one.clone() };
    let mask = square(64, 10, 50);
    let mut distinct = std::collections::BTreeSet::new();
    for epoch in 0..20 {
        let rng = || sample_rng(3, epoch, "a", Draw::Prompt);
        let prompts = four.draw_all(&mut rng(), &mask);
        assert_eq!(prompts.len(), 4);
        assert_eq!(one.draw_all(&mut rng(), &mask), prompts[..1]);
        distinct.insert(format!(
            "{:?}",
            prompts.iter().map(std::mem::discriminant).collect::<Vec<_>>()
        ));
    }
    assert!(distinct.len() > 5, "{distinct:?}");
}

#[test]
fn settings_that_make_no_prompt_are_refused_by_name() {
    let refused = |recipe: PromptRecipe| recipe.check().unwrap_err();
    let published = PromptRecipe::default;
    assert!(refused(PromptRecipe { num_points: 0, ..published() }).starts_with("num_points"));
    assert!(
        refused(PromptRecipe { prompts_per_image: 0, ..published() })
            .starts_with("prompts_per_image")
    );
    for box_noise in [-0.1, 1.0, f32::NAN] {
        assert!(refused(PromptRecipe { box_noise, ..published() }).starts_with("box_noise = "));
    }
    assert_eq!(published().check(), Ok(()));
}

proptest! {
    #[test]
    fn points_are_distinct_foreground_and_the_box_is_tight(
        pixels in prop::collection::vec(any::<u8>(), 20 * 30),
        seed: u64,
    ) {
        let mask = Mask255 { height: 20, width: 30, pixels };
        prop_assume!(mask.foreground_pixels() >= 10);
        let mut rng = sample_rng(seed, 0, "mask", Draw::Prompt);
        let drawn = PromptRecipe::default().draw_points(&mut rng, &mask);
        let Some(Prompt::Points { coords, .. }) = drawn else {
            return Err(TestCaseError::fail("no points"));
        };
        let [x_min, y_min, x_max, y_max] = box_prompt(&mask).unwrap();
        for [x, y] in &coords {
            prop_assert!(mask.pixels[*y as usize * 30 + *x as usize] > MASK_THRESHOLD);
            prop_assert!((x_min..=x_max).contains(x) && (y_min..=y_max).contains(y));
        }
        let mut distinct = coords.clone();
        distinct.sort_by(|a, b| a.partial_cmp(b).unwrap());
        distinct.dedup();
        prop_assert_eq!(distinct.len(), 10);
        for (inside, outside) in [(x_min, x_min - 1.0), (x_max, x_max + 1.0)] {
            let column = |x: f32| (0..20).any(|y| {
                (0.0..30.0).contains(&x) && mask.pixels[y * 30 + x as usize] > MASK_THRESHOLD
            });
            prop_assert!(column(inside));
            prop_assert!(!column(outside) || (x_min..=x_max).contains(&outside));
        }
    }

    /// Whatever the mask holds, from nothing to everything, a prompt of any recipe says something
    /// true about it.
    #[test]
    fn no_mask_makes_a_degenerate_prompt(
        (height, width) in (1_usize..40, 1_usize..40),
        foreground in prop_oneof![Just(0_usize), 1_usize..10, 10_usize..1600, Just(1600)],
        kinds in prop::sample::subsequence(
            vec![PromptKind::Box, PromptKind::Points, PromptKind::NoiseMask],
            0..=3,
        ),
        num_points in 0_usize..30,
        negative_points in 0_usize..30,
        box_noise in prop_oneof![Just(0.0_f32), 0.0_f32..0.999],
        seed: u64,
    ) {
        let mut rng = sample_rng(seed, 0, "mask", Draw::Prompt);
        let mut mask = Mask255 { height, width, pixels: vec![0; height * width] };
        let foreground = foreground.min(height * width);
        for at in index::sample(&mut rng, height * width, foreground) {
            mask.pixels[at] = 255;
        }
        let recipe = PromptRecipe {
            kinds, num_points, negative_points, box_noise, prompts_per_image: 3,
        };
        let is_foreground = |[x, y]: &[f32; 2]| {
            mask.pixels[*y as usize * width + *x as usize] > MASK_THRESHOLD
        };
        for prompt in recipe.draw_all(&mut rng, &mask) {
            match prompt {
                Prompt::Box([x_min, y_min, x_max, y_max]) => {
                    prop_assert!(foreground > 0);
                    prop_assert!(0.0 <= x_min && x_min <= x_max && x_max <= (width - 1) as f32);
                    prop_assert!(0.0 <= y_min && y_min <= y_max && y_max <= (height - 1) as f32);
                    let tight = box_prompt(&mask).unwrap();
                    prop_assert!(x_max - x_min >= (tight[2] - tight[0]).min(1.0));
                    prop_assert!(y_max - y_min >= (tight[3] - tight[1]).min(1.0));
                    prop_assert!(box_noise > 0.0 || [x_min, y_min, x_max, y_max] == tight);
                }
                Prompt::Points { coords, labels } => {
                    prop_assert!(foreground > 0);
                    prop_assert_eq!(coords.len(), labels.len());
                    let positive = labels.iter().filter(|label| **label == 1.0).count();
                    prop_assert_eq!(positive, num_points.max(1));
                    let negative = if foreground < height * width { negative_points } else { 0 };
                    prop_assert_eq!(labels.len() - positive, negative);
                    for (point, label) in coords.iter().zip(labels) {
                        prop_assert_eq!(is_foreground(point), label == 1.0);
                    }
                }
                Prompt::NoiseMask(values) => {
                    prop_assert_eq!(values.len(), NOISE_MASK_SIZE * NOISE_MASK_SIZE);
                    prop_assert!(values.iter().all(|value| [0, 255].contains(value)));
                    prop_assert!(foreground > 0 || values.iter().all(|value| *value == 0));
                }
            }
        }
    }
}
