//! What departs from the published recipe, and an order of a billion samples.

use std::process::Command;

use dataset::augment::LargeScaleJitter;
use dataset::color_jitter::ColorJitter;
use dataset::order::World;
use dataset::prompt::{Prompt, PromptKind, PromptRecipe};
use pipeline::{Batch, Position, TrainRecipe, TrainStream};

use crate::support::Collection;

const SIZE: usize = 48;
const COLOR: ColorJitter =
    ColorJitter { brightness: 0.4, contrast: 0.4, saturation: 0.4, hue: 0.1 };

fn recipe() -> TrainRecipe {
    let published = TrainRecipe::published("train", 7, 6);
    let jitter = LargeScaleJitter { output_size: SIZE, scale_range: [0.1, 2.0] };
    TrainRecipe { jitter: Some(jitter), output_size: SIZE, threads: 2, ..published }
}

fn batches(collection: &Collection, recipe: TrainRecipe) -> Result<Vec<Batch>, String> {
    let world = World::new(0, 1).unwrap();
    let start = Position { epoch: 0, step: 0 };
    let mut stream = TrainStream::new(collection.open("out"), recipe, world, start, 2)
        .map_err(|error| error.to_string())?;
    Ok(std::iter::from_fn(|| stream.next_batch().unwrap()).collect())
}

fn built() -> Collection {
    let collection = Collection::new(24);
    collection.build("out");
    collection
}

#[test]
fn several_prompts_belong_to_one_augmented_sample() {
    let collection = built();
    let prompts = PromptRecipe { prompts_per_image: 3, ..PromptRecipe::default() };
    let one = batches(&collection, recipe()).unwrap();
    let three = batches(&collection, TrainRecipe { prompts, ..recipe() }).unwrap();
    assert_eq!((one.len(), three.len()), (6, 6));
    for (one, three) in one.iter().zip(&three) {
        assert_eq!((&one.images, &one.masks), (&three.images, &three.masks));
        assert_eq!((one.prompts.len(), three.prompts.len()), (6, 18));
        for index in 0..6 {
            let prompts = three.prompts_of(index);
            assert_eq!(prompts.len(), 3);
            assert_eq!(one.prompts_of(index), &prompts[..1]);
            assert_eq!(one.prompts_of(index)[0], one.prompts[index]);
        }
    }
}

#[test]
fn negative_points_and_noisy_boxes_are_on_and_off_the_object() {
    let collection = built();
    let prompts = PromptRecipe {
        kinds: vec![PromptKind::Box, PromptKind::Points],
        negative_points: 4,
        box_noise: 0.4,
        ..PromptRecipe::default()
    };
    let (mut points, mut boxes, mut moved) = (0, 0, 0);
    for batch in batches(&collection, TrainRecipe { prompts, ..recipe() }).unwrap() {
        for (index, mask) in batch.masks.chunks_exact(SIZE * SIZE).enumerate() {
            let mask =
                dataset::raster::Mask255 { height: SIZE, width: SIZE, pixels: mask.to_vec() };
            match &batch.prompts_of(index)[0] {
                Prompt::Points { coords, labels } => {
                    points += 1;
                    for ([x, y], label) in coords.iter().zip(labels) {
                        let value = mask.pixels[*y as usize * SIZE + *x as usize];
                        assert_eq!(value > 128, *label == 1.0);
                    }
                    assert!(labels.iter().filter(|label| **label == 0.0).count() % 4 == 0);
                }
                Prompt::Box(corners) => {
                    boxes += 1;
                    let limit = (SIZE - 1) as f32;
                    assert!(corners.iter().all(|corner| (0.0..=limit).contains(corner)));
                    moved += usize::from(dataset::prompt::box_prompt(&mask) != Some(*corners));
                }
                // A crop without any of the object.
                Prompt::NoiseMask(_) => assert_eq!(mask.foreground_pixels(), 0),
            }
        }
    }
    assert!(points > 5 && boxes > 5 && moved * 3 > boxes * 2, "{points} {boxes} {moved}");
}

#[test]
fn color_jitter_changes_images_alone_the_same_way_each_time() {
    let collection = built();
    let plain = batches(&collection, recipe()).unwrap();
    let jittered = TrainRecipe { color_jitter: Some(COLOR), ..recipe() };
    let colored = batches(&collection, jittered.clone()).unwrap();
    assert!(colored == batches(&collection, TrainRecipe { threads: 1, ..jittered }).unwrap());
    for (plain, colored) in plain.iter().zip(&colored) {
        assert_eq!((&plain.masks, &plain.prompts), (&colored.masks, &colored.prompts));
        assert_ne!(plain.images, colored.images);
        // The padding keeps its grey.
        assert_eq!(plain.images.last() == Some(&128), colored.images.last() == Some(&128));
    }
    let copies = TrainRecipe {
        color_jitter: Some(COLOR),
        augment_copies: Some(1),
        global_batch: 18,
        ..recipe()
    };
    let epochs = batches(&collection, copies).unwrap();
    let sorted = |batch: &Batch| {
        let images = batch.images.chunks_exact(SIZE * SIZE * 3).map(<[u8]>::to_vec);
        let mut samples: Vec<_> = batch.sample_ids.iter().cloned().zip(images).collect();
        samples.sort();
        samples
    };
    assert!(sorted(&epochs[0]) == sorted(&epochs[1]));
}

#[test]
fn options_out_of_range_are_refused_by_name() {
    let collection = built();
    let prompts = PromptRecipe { box_noise: 1.0, ..PromptRecipe::default() };
    let message = batches(&collection, TrainRecipe { prompts, ..recipe() }).unwrap_err();
    assert!(message.contains("box_noise = 1 is not within 0..1"), "{message}");
    let color_jitter = Some(ColorJitter { hue: 0.7, ..COLOR });
    let message = batches(&collection, TrainRecipe { color_jitter, ..recipe() }).unwrap_err();
    assert!(message.contains("color_jitter.hue = 0.7"), "{message}");
}

#[test]
fn a_position_of_a_billion_samples_costs_no_memory() {
    let measured = |samples: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_hqseg"))
            .args(["bench", "order", "--samples", samples, "--positions", "50000", "--json"])
            .output()
            .unwrap();
        let speed: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(speed["round_trips"], 50_000, "{speed}");
        assert_eq!(speed["samples"].to_string(), samples);
        speed
    };
    let (few, many) = (measured("1000"), measured("1000000000"));
    // A bit for each of a billion samples would be 119 MiB.
    let peak = |speed: &serde_json::Value| speed["peak_resident_kib"].as_u64().unwrap();
    assert!(peak(&few) > 1000, "{few}");
    assert!(peak(&many) < peak(&few) + (4 << 10), "{few} {many}");
    // A walk over a billion samples takes half a second at least; this leaves a busy machine time.
    let nanoseconds = |name: &str| many[name].as_f64().unwrap();
    assert!(nanoseconds("ns_per_position") < 1e6 && nanoseconds("ns_per_inverse") < 1e6, "{many}");
}
