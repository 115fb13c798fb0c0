//! Images that occur again: in the split that is evaluated on, in another source, in their own.

use std::io::BufWriter;

use dataset::source::SplitRule;
use image::codecs::jpeg::JpegEncoder;
use image::imageops::{FilterType, resize};
use pipeline::build::{BuildError, PAGE_FILE, QUARANTINE_FILE, Repetition};
use pipeline::{BuildConfig, build};

use crate::support::{Collection, contents, disc, save_mask};

/// The image `from` smaller and recompressed, as downloads from another place are.
fn save_again(collection: &Collection, from: u32, to: u32, scale: f64, quality: u8) {
    let image = image::open(collection.image(from)).unwrap().to_rgb8();
    let side = |side: u32| (f64::from(side) * scale).round() as u32;
    let (width, height) = (side(image.width()), side(image.height()));
    let again = resize(&image, width, height, FilterType::Lanczos3);
    let file = std::fs::File::create(collection.image(to)).unwrap();
    JpegEncoder::new_with_quality(BufWriter::new(file), quality).encode_image(&again).unwrap();
    save_mask(&disc(width, height), &collection.mask(to));
}

fn copy(collection: &Collection, from: u32, to: u32) {
    std::fs::copy(collection.image(from), collection.image(to)).unwrap();
    std::fs::copy(collection.mask(from), collection.mask(to)).unwrap();
}

/// Pairs by number: those in `val`, and all others in `train`.
fn config(collection: &Collection, pairs: u32, val: &[u32]) -> BuildConfig {
    let (val, train): (Vec<u32>, Vec<u32>) = (0..pairs).partition(|index| val.contains(index));
    let lists = [("train", train), ("val", val)].map(|(split, indices)| {
        let names: String = indices.iter().map(|index| format!("{index:04}\n")).collect();
        let list = format!("{split}.txt");
        std::fs::write(collection.raw().join(&list), names).unwrap();
        (split.to_owned(), list.into())
    });
    let mut config = collection.config("out");
    config.source[0].split = SplitRule::Lists(lists.into());
    config
}

#[test]
fn leaks_are_reported_and_on_request_left_out_of_training() {
    let collection = Collection::new(24);
    // The first image once more under another name, the second smaller, the third larger.
    copy(&collection, 0, 24);
    save_again(&collection, 1, 25, 0.8, 60);
    save_again(&collection, 2, 26, 1.7, 85);
    // One of `train` twice in `train`.
    save_again(&collection, 3, 27, 0.9, 70);
    let mut config = config(&collection, 28, &[20, 21, 22, 23, 24, 25, 26]);

    let reported = build(&config).unwrap();
    let found = &reported.duplicates;
    assert_eq!((reported.rows, found.across_splits, found.leaked), (28, 3, 3), "{found:?}");
    assert_eq!((found.identical, found.across_sources, found.within_sources), (2, 0, 1));
    let kinds: Vec<Repetition> = found.pairs.iter().map(|pair| pair.kind).collect();
    use Repetition::{AcrossSplits, WithinSource};
    assert_eq!(kinds, [AcrossSplits, AcrossSplits, AcrossSplits, WithinSource]);
    assert_eq!(found.pairs[3].right, "train: drawn/0027");
    let page = std::fs::read_to_string(collection.output("out").join(PAGE_FILE)).unwrap();
    assert!(page.contains("across splits</strong>, the same file"), "{page}");

    config.drop_leaks = true;
    let dropped = build(&config).unwrap();
    let found = &dropped.duplicates;
    assert_eq!((dropped.rows, dropped.refused), (25, reported.duplicates.leaked));
    assert_eq!((found.across_splits, found.leaked), (0, 0));
    let source = &dropped.sources[0];
    assert_eq!((source.rows["train"], source.rows["val"], source.refused["leak"]), (18, 7, 3));
    let quarantine =
        std::fs::read_to_string(collection.output("out").join(QUARANTINE_FILE)).unwrap();
    for (line, at) in quarantine.lines().zip(0..) {
        let (train, val) = (format!("drawn/{at:04}"), format!("val: drawn/{:04}", at + 24));
        assert!(line.contains(&train) && line.contains(&val), "{line}");
    }

    // Elsewhere and on one thread: the same bytes.
    let again = collection.output("again").to_string_lossy().into_owned();
    build(&BuildConfig { output: again, threads: Some(1), ..config.clone() }).unwrap();
    assert_eq!(contents(&collection.output("again")), contents(&collection.output("out")));
    assert!(build(&config).unwrap().up_to_date);
}

#[test]
fn many_copies_are_counted_and_left_out_alike() {
    // More than the rows that were once compared, and all of them first in name and split.
    let collection = Collection::new(4);
    (4..220).for_each(|index| copy(&collection, 0, index));
    let mut config = config(&collection, 220, &[2, 3, 218, 219]);
    let reported = build(&config).unwrap().duplicates;
    assert_eq!((reported.leaked, reported.across_splits), (215, 215 * 2));
    assert!(reported.pairs[..100].iter().all(|pair| pair.kind == Repetition::AcrossSplits));
    config.drop_leaks = true;
    let dropped = build(&config).unwrap();
    assert_eq!((dropped.sources[0].refused["leak"], dropped.rows), (215, 5));
}

#[test]
fn images_of_two_sources_are_compared_within_a_split() {
    let (collection, other) = (Collection::new(6), Collection::new(0));
    for (from, to) in [(collection.image(0), 0), (collection.image(1), 1)] {
        std::fs::copy(from, other.image(to)).unwrap();
        std::fs::copy(collection.mask(to), other.mask(to)).unwrap();
    }
    let mut config = collection.config("out");
    config.source[0].split = SplitRule::Fixed("train".into());
    let mut source = config.source[0].clone();
    (source.name, source.root) = ("other".into(), other.raw());
    config.source.push(source);
    let found = build(&config).unwrap().duplicates;
    assert_eq!((found.across_sources, found.across_splits, found.leaked), (2, 0, 0));
    assert_eq!(found.pairs[0].kind, Repetition::AcrossSources);
    let page = std::fs::read_to_string(collection.output("out").join(PAGE_FILE)).unwrap();
    assert!(page.contains("across sources</strong>, the same file"), "{page}");
}

#[test]
fn a_build_that_would_train_on_nothing_stops() {
    let collection = Collection::new(5);
    (0..5).for_each(|index| copy(&collection, index, index + 5));
    let mut config = config(&collection, 10, &[5, 6, 7, 8, 9]);
    config.drop_leaks = true;
    let error = build(&config).unwrap_err();
    let BuildError::EverythingLeaks { rows: 5, quarantine } = &error else { panic!("{error}") };
    assert!(error.to_string().contains("all 5 rows of `train`"), "{error}");
    assert_eq!(std::fs::read_to_string(quarantine).unwrap().lines().count(), 5);
    assert!(!collection.output("out").join("manifest.json").exists());
    // Nothing to train on from the start is no leak.
    config.source[0].split = SplitRule::Fixed("val".into());
    assert_eq!(build(&config).unwrap().rows, 10);
}
