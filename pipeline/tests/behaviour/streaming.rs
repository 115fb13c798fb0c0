//! Streams: the same samples, pixels and prompts whatever the threads, ranks and restarts.

use std::sync::Arc;
use std::time::Duration;

use dataset::augment::LargeScaleJitter;
use dataset::order::World;
use dataset::prompt::PromptRecipe;
use dataset::raster::{MASK_THRESHOLD, Mask255};
use pipeline::{
    Batch, Dataset, DecodeMode, EvalStream, Position, StreamError, TrainRecipe, TrainStream,
};

use crate::support::Collection;

const SIZE: usize = 48;

fn recipe() -> TrainRecipe {
    TrainRecipe {
        split: "train".into(),
        seed: 7,
        global_batch: 5,
        flip_probability: 0.5,
        jitter: Some(LargeScaleJitter { output_size: SIZE, scale_range: [0.1, 2.0] }),
        output_size: SIZE,
        prompts: PromptRecipe::default(),
        min_foreground_pixels: None,
        augment_copies: None,
        color_jitter: None,
        decode: DecodeMode::Exact,
        threads: 2,
        prefetch_batches: 2,
    }
}

fn stream(
    dataset: &Arc<Dataset>,
    recipe: TrainRecipe,
    (rank, world_size): (usize, usize),
    (epoch, step): (u64, u64),
) -> Result<TrainStream, StreamError> {
    let world = World::new(rank, world_size).unwrap();
    TrainStream::new(Arc::clone(dataset), recipe, world, Position { epoch, step }, 2)
}

fn batches(
    dataset: &Arc<Dataset>,
    recipe: TrainRecipe,
    ranks: (usize, usize),
    start: (u64, u64),
) -> Vec<Batch> {
    let mut stream = stream(dataset, recipe, ranks, start).unwrap();
    std::iter::from_fn(|| stream.next_batch().unwrap()).collect()
}

fn built() -> (Collection, Arc<Dataset>) {
    let collection = Collection::new(24);
    collection.build("out");
    let dataset = collection.open("out");
    (collection, dataset)
}

#[test]
fn batches_do_not_depend_on_the_threads() {
    let (_collection, dataset) = built();
    let with = |threads| batches(&dataset, TrainRecipe { threads, ..recipe() }, (0, 1), (0, 0));
    let one = with(1);
    // 18 training samples, 5 a step: 3 steps, in 2 epochs.
    let positions: Vec<_> = one.iter().map(|batch| (batch.epoch, batch.step)).collect();
    assert_eq!(positions, [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]);
    assert_eq!((one[0].images.len(), one[0].masks.len()), (5 * SIZE * SIZE * 3, 5 * SIZE * SIZE));
    assert!(one == with(2) && one == with(4) && one == with(0));
    let other_seed = batches(&dataset, TrainRecipe { seed: 8, ..recipe() }, (0, 1), (0, 0));
    assert!(one != other_seed);
}

#[test]
fn an_epoch_shows_every_sample_at_most_once_and_epochs_differ() {
    let (_collection, dataset) = built();
    let all = batches(&dataset, recipe(), (0, 1), (0, 0));
    let ids = |epoch: u64| -> Vec<String> {
        let own = all.iter().filter(|batch| batch.epoch == epoch);
        own.flat_map(|batch| batch.sample_ids.clone()).collect()
    };
    let mut first = ids(0);
    assert_ne!(first, ids(1));
    first.sort();
    first.dedup();
    assert_eq!(first.len(), 15);
}

#[test]
fn a_resumed_stream_is_one_that_never_stopped() {
    let (_collection, dataset) = built();
    let whole = batches(&dataset, recipe(), (0, 1), (0, 0));
    for (start, skipped) in [((0, 1), 1), ((0, 2), 2), ((0, 3), 3), ((1, 0), 3), ((1, 2), 5)] {
        assert!(batches(&dataset, recipe(), (0, 1), start) == whole[skipped..], "{start:?}");
    }
    assert_eq!(batches(&dataset, recipe(), (0, 1), (2, 0)), []);
}

#[test]
fn ranks_share_the_global_batch() {
    let (_collection, dataset) = built();
    let whole = batches(&dataset, recipe(), (0, 1), (0, 0));
    for world_size in [2, 3] {
        let ranks: Vec<Vec<Batch>> = (0..world_size)
            .map(|rank| batches(&dataset, recipe(), (rank, world_size), (0, 0)))
            .collect();
        for (step, expected) in whole.iter().enumerate() {
            let parts = || ranks.iter().map(|rank| &rank[step]);
            assert_eq!(
                parts().flat_map(|part| part.sample_ids.clone()).collect::<Vec<_>>(),
                expected.sample_ids
            );
            assert_eq!(
                parts().flat_map(|part| part.images.to_vec()).collect::<Vec<_>>(),
                expected.images[..]
            );
            assert_eq!(
                parts().flat_map(|part| part.masks.to_vec()).collect::<Vec<_>>(),
                expected.masks[..]
            );
            assert_eq!(
                parts().flat_map(|part| part.prompts.clone()).collect::<Vec<_>>(),
                expected.prompts
            );
        }
        assert!(ranks.iter().all(|rank| rank.len() == whole.len()));
    }
}

#[test]
fn evaluation_shows_every_row_once_over_all_ranks() {
    let (collection, dataset) = built();
    let read = |rank, world_size, limit| -> Vec<(u64, String)> {
        let world = World::new(rank, world_size).unwrap();
        let samples = EvalStream::new(Arc::clone(&dataset), "train", world, 2, limit).unwrap();
        samples
            .map(|sample| {
                let sample = sample.unwrap();
                assert_eq!(
                    (sample.image.height, sample.image.width),
                    (sample.mask.height, sample.mask.width)
                );
                assert_eq!(sample.source, "drawn");
                (sample.row, sample.sample_id)
            })
            .collect()
    };
    let whole = read(0, 1, None);
    assert_eq!(whole.iter().map(|(row, _)| *row).collect::<Vec<_>>(), (0..18).collect::<Vec<_>>());
    for world_size in [2, 3, 5] {
        let mut union: Vec<_> =
            (0..world_size).flat_map(|rank| read(rank, world_size, None)).collect();
        union.sort();
        assert_eq!(union, whole);
    }
    assert_eq!(read(1, 2, Some(4)), [whole[1].clone(), whole[3].clone()]);
    assert_eq!(read(4, 5, Some(2)), []);
    // The stored image is the raw file, byte for byte.
    let stored = dataset.read_stored("train", 0).unwrap();
    let index: u32 = stored.sample_id.trim_start_matches("drawn/").parse().unwrap();
    assert_eq!(stored.image_bytes, std::fs::read(collection.image(index)).unwrap());
}

#[test]
fn a_smallest_foreground_redraws_the_jitter() {
    let (_collection, dataset) = built();
    let least = |min_foreground_pixels| {
        let recipe = TrainRecipe { min_foreground_pixels, ..recipe() };
        let batches = batches(&dataset, recipe, (0, 1), (0, 0));
        let masks = batches.iter().flat_map(|batch| batch.masks.chunks(SIZE * SIZE));
        masks
            .map(|mask| mask.iter().filter(|value| **value > MASK_THRESHOLD).count())
            .min()
            .unwrap()
    };
    let published = least(None);
    assert!(published < 60, "a draw should be small, or the test shows nothing: {published}");
    assert!(least(Some(60)) >= 60);
    // What cannot be reached takes the best of ten instead of failing.
    assert!(least(Some(usize::MAX)) > published);
}

#[test]
fn a_scaled_decode_changes_the_pixels_of_images_a_little_and_nothing_else() {
    let (_collection, dataset) = built();
    let jitter = Some(LargeScaleJitter { output_size: SIZE, scale_range: [0.1, 0.5] });
    let with =
        |decode| batches(&dataset, TrainRecipe { decode, jitter, ..recipe() }, (0, 1), (0, 0));
    let (exact, scaled) = (with(DecodeMode::Exact), with(DecodeMode::Scaled));
    assert_eq!(exact.len(), scaled.len());
    for (exact, scaled) in exact.iter().zip(&scaled) {
        assert!(exact.images != scaled.images);
        assert!(exact.masks == scaled.masks && exact.prompts == scaled.prompts);
        let padded = |batch: &Batch| -> Vec<bool> {
            batch.images.chunks(3).map(|pixel| pixel == [128; 3]).collect()
        };
        let moved = padded(exact).iter().zip(padded(scaled)).filter(|(a, b)| **a != *b).count();
        assert!(moved < 20, "the pictures lie where they lay: {moved}");
    }
    // Nothing is shrunk by two, so nothing is decoded differently.
    let jitter = Some(LargeScaleJitter { output_size: SIZE, scale_range: [1.9, 2.0] });
    let with =
        |decode| batches(&dataset, TrainRecipe { decode, jitter, ..recipe() }, (0, 1), (0, 0));
    assert!(with(DecodeMode::Exact) == with(DecodeMode::Scaled));
}

#[test]
fn a_batch_that_is_kept_stays_as_it_was() {
    let (_collection, dataset) = built();
    let expected = batches(&dataset, recipe(), (0, 1), (0, 0));
    let mut stream = stream(&dataset, recipe(), (0, 1), (0, 0)).unwrap();
    let kept = stream.next_batch().unwrap().unwrap();
    // The others are dropped at once, and their memory is written over.
    while stream.next_batch().unwrap().is_some() {}
    assert!(kept == expected[0]);
}

#[test]
fn the_memory_of_batches_is_taken_at_the_start() {
    let (_collection, dataset) = built();
    let (world, start) = (World::new(0, 1).unwrap(), Position::default());
    for (global_batch, threads, prefetch_batches) in [(1, 1, 1), (1, 3, 2), (3, 2, 1), (5, 2, 3)] {
        let recipe = TrainRecipe { global_batch, threads, prefetch_batches, ..recipe() };
        let mut stream =
            TrainStream::new(Arc::clone(&dataset), recipe.clone(), world, start, 40).unwrap();
        // Slow at times, so that everything that may be prepared is.
        let mut taken = 0;
        while let Some(batch) = stream.next_batch().unwrap() {
            taken += 1;
            if taken % 20 == 0 {
                std::thread::sleep(Duration::from_millis(30));
            }
            drop(batch);
        }
        assert!(taken >= 120);
        assert_eq!(stream.extra_buffers(), 0, "{recipe:?}");
        // Of what a consumer holds there is no end.
        let mut stream = TrainStream::new(Arc::clone(&dataset), recipe, world, start, 40).unwrap();
        let held: Vec<Batch> = std::iter::from_fn(|| stream.next_batch().unwrap()).collect();
        assert!(stream.extra_buffers() > 100, "{} of {}", stream.extra_buffers(), held.len());
    }
}

#[test]
fn limited_copies_repeat_the_pixels_but_not_the_prompts() {
    let (_collection, dataset) = built();
    let recipe = TrainRecipe { augment_copies: Some(1), global_batch: 18, ..recipe() };
    let all = batches(&dataset, recipe, (0, 1), (0, 0));
    assert_eq!(all.len(), 2);
    let samples = |batch: &Batch| {
        let images = batch.images.chunks(SIZE * SIZE * 3).map(<[u8]>::to_vec);
        let mut samples: Vec<_> = batch.sample_ids.iter().cloned().zip(images).collect();
        samples.sort();
        samples
    };
    assert!(samples(&all[0]) == samples(&all[1]));
    assert!(all[0].prompts != all[1].prompts);
}

#[test]
fn without_jitter_samples_are_stretched() {
    let (_collection, dataset) = built();
    let recipe = TrainRecipe { jitter: None, flip_probability: 0.0, ..recipe() };
    for batch in batches(&dataset, recipe, (0, 1), (0, 0)) {
        for mask in batch.masks.chunks(SIZE * SIZE) {
            let mask = Mask255 { height: SIZE, width: SIZE, pixels: mask.to_vec() };
            assert!(mask.foreground_pixels() > SIZE * SIZE / 10);
        }
    }
}

#[test]
fn a_dropped_stream_stops_its_threads() {
    let (_collection, dataset) = built();
    for _ in 0..20 {
        let mut stream = stream(&dataset, recipe(), (0, 1), (0, 0)).unwrap();
        stream.next_batch().unwrap().unwrap();
    }
    let mut samples =
        EvalStream::new(Arc::clone(&dataset), "train", World::new(0, 1).unwrap(), 2, None).unwrap();
    samples.next().unwrap().unwrap();
    drop(samples);
    // A stream joins its threads before it lets go of the data set.
    assert_eq!(Arc::strong_count(&dataset), 1);
}

#[test]
fn settings_that_make_no_stream_are_refused() {
    let (_collection, dataset) = built();
    let refused = |recipe: TrainRecipe, ranks, start| {
        stream(&dataset, recipe, ranks, start).err().unwrap().to_string()
    };
    let split = refused(TrainRecipe { split: "test".into(), ..recipe() }, (0, 1), (0, 0));
    assert!(split.ends_with("no split `test`; it has train, val"), "{split}");
    let large = refused(TrainRecipe { global_batch: 19, ..recipe() }, (0, 1), (0, 0));
    assert!(large.contains("a global batch of 19 is more than the split's 18 samples"), "{large}");
    let small = refused(TrainRecipe { global_batch: 2, ..recipe() }, (0, 3), (0, 0));
    assert!(small.contains("leaves some of 3 ranks without a sample"), "{small}");
    let late = refused(recipe(), (0, 1), (0, 4));
    assert!(late.contains("step 4 of epoch 0: an epoch has 3 steps"), "{late}");
    let size = refused(TrainRecipe { output_size: 64, ..recipe() }, (0, 1), (0, 0));
    assert!(size.contains("the jitter makes 48 pixels but output_size is 64"), "{size}");
}

#[test]
fn a_missing_shard_ends_the_stream_with_its_name() {
    let (collection, dataset) = built();
    let folder = collection.output("out").join("shards");
    for entry in std::fs::read_dir(folder).unwrap() {
        std::fs::remove_file(entry.unwrap().path()).unwrap();
    }
    let mut stream = stream(&dataset, recipe(), (0, 1), (0, 0)).unwrap();
    let message = stream.next_batch().unwrap_err().to_string();
    assert!(message.contains("of shards/train-000"), "{message}");
    assert!(stream.next_batch().unwrap().is_none());
}
