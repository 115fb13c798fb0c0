//! Pairs that are not as they should be: what a build makes of them, and what it says.

use std::path::Path;

use dataset::codec::MaskValues;
use dataset::order::World;
use dataset::source::{Layout, SplitRule};
use dataset::verify::SizeMismatch;
use image::codecs::jpeg::JpegEncoder;
use image::{GrayImage, ImageEncoder, Luma, RgbImage};
use pipeline::build::{ADJUSTED_FILE, Adjustment, BuildError, QUARANTINE_FILE, Refusal};
use pipeline::{BuildConfig, Dataset, EvalStream, build};

use crate::support::{Collection, contents, disc, save_mask, texture};

fn lines<T: serde::de::DeserializeOwned>(path: &Path) -> Vec<T> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn size(collection: &Collection, index: u32) -> (u32, u32) {
    image::image_dimensions(collection.image(index)).unwrap()
}

fn refusals(output: &Path) -> Vec<Refusal> {
    lines(&output.join(QUARANTINE_FILE))
}

fn kinds(refusals: &[Refusal]) -> Vec<(&str, &str)> {
    refusals
        .iter()
        .map(|refusal| (refusal.sample_id.as_str(), refusal.reason["kind"].as_str().unwrap()))
        .collect()
}

#[test]
fn masks_of_another_size_are_refused_or_resized_within_the_tolerance() {
    let collection = Collection::new(12);
    let (width, height) = size(&collection, 2);
    save_mask(&disc(width + 1, height - 1), &collection.mask(2));
    save_mask(&disc(width + width / 8, height), &collection.mask(3));
    let refused = collection.build("out");
    let output = collection.output("out");
    assert_eq!((refused.rows, refused.refused), (10, 2));
    assert!(!output.join(ADJUSTED_FILE).exists());

    let mut config = collection.config("out");
    config.size_mismatch = SizeMismatch::ResizeWithin(0.05);
    let report = build(&config).unwrap();
    assert_eq!((report.up_to_date, report.rows, report.refused), (false, 11, 1));
    assert_eq!(kinds(&refusals(&output)), [("drawn/0003", "size_mismatch")]);
    let adjusted: Vec<Adjustment> = lines(&output.join(ADJUSTED_FILE));
    let (from, to) = ((height - 1, width + 1), (height, width));
    assert_eq!(adjusted.len(), 1);
    assert_eq!(adjusted[0].sample_id, "drawn/0002");
    let sides = |(height, width): (u32, u32)| (height as usize, width as usize);
    assert_eq!((adjusted[0].resized.from, adjusted[0].resized.to), (sides(from), sides(to)));
    assert!(build(&config).unwrap().up_to_date);
    // The stored mask has the size of its image, and the disc is where it was.
    let dataset = collection.open("out");
    let world = World::new(0, 1).unwrap();
    for split in ["train", "val"] {
        for sample in EvalStream::new(dataset.clone(), split, world, 1, None).unwrap() {
            let sample = sample.unwrap();
            assert_eq!(
                (sample.image.height, sample.image.width),
                (sample.mask.height, sample.mask.width)
            );
            if sample.sample_id == "drawn/0002" {
                let expected = disc(width, height);
                let expected = expected.pixels().filter(|pixel| pixel.0[0] > 128).count();
                assert!(sample.mask.foreground_pixels().abs_diff(expected) * 10 < expected);
            }
        }
    }
    drop(dataset);
    let again = collection.output("again").to_string_lossy().into_owned();
    build(&BuildConfig { output: again, threads: Some(1), ..config.clone() }).unwrap();
    assert!(contents(&collection.output("again")) == contents(&output));

    // Back to the default, the list goes and the data set is the first one.
    collection.build("out");
    assert!(!output.join(ADJUSTED_FILE).exists());
    config.size_mismatch = SizeMismatch::ResizeWithin(1.5);
    let message = build(&config).unwrap_err().to_string();
    assert_eq!(message, "size_mismatch: resize_within = 1.5 is not within 0..=1");
}

#[test]
fn limits_are_settings() {
    let collection = Collection::new(8);
    let (width, height) = size(&collection, 1);
    let mut config = collection.config("out");
    config.max_rejected_fraction = 0.99;
    config.max_pixels = u64::from(width * height);
    build(&config).unwrap();
    let found = refusals(&collection.output("out"));
    assert!(!found.is_empty() && found.iter().all(|refusal| refusal.reason["kind"] == "too_large"));
    assert!(found[0].message.contains("raise max_pixels"), "{}", found[0].message);

    // A file so large that it is refused before it is read.
    let mut config = collection.config("bytes");
    let sizes = |index| std::fs::metadata(collection.image(index)).unwrap().len();
    let largest = (0..8).max_by_key(|&index| sizes(index)).unwrap();
    config.max_file_bytes = sizes(largest) - 1;
    build(&config).unwrap();
    let found = refusals(&collection.output("bytes"));
    assert_eq!(kinds(&found)[0], (format!("drawn/{largest:04}").as_str(), "file_too_large"));
    config.max_pixels = 0;
    let message = build(&config).unwrap_err().to_string();
    assert_eq!(message, "max_pixels and max_file_bytes must be at least 1");
}

#[test]
fn the_values_of_masks_are_a_setting_of_their_source() {
    let collection = Collection::new(8);
    // Object ids up to 200: by their greys, only the second object is there.
    for index in 0..8 {
        let (width, height) = size(&collection, index);
        let ids = GrayImage::from_fn(width, height, |x, y| {
            Luma([match x {
                0..20 if (10..30).contains(&y) => 7,
                20..40 if (10..30).contains(&y) => 200,
                _ => 0,
            }])
        });
        save_mask(&ids, &collection.mask(index));
    }
    let foreground = |name: &str, values| {
        let mut config = collection.config(name);
        config.source[0].mask_values = values;
        config.source[0].split = SplitRule::Fixed("train".into());
        build(&config).unwrap();
        let world = World::new(0, 1).unwrap();
        let mut samples = EvalStream::new(collection.open(name), "train", world, 1, None).unwrap();
        samples.next().unwrap().unwrap().mask.foreground_pixels()
    };
    assert_eq!(foreground("auto", MaskValues::Auto), 20 * 20);
    assert_eq!(foreground("ids", MaskValues::Nonzero), 40 * 20);
    let mut config = collection.config("alpha");
    config.source[0].mask_values = MaskValues::Alpha;
    let message = build(&config).unwrap_err().to_string();
    assert!(message.contains("no alpha channel"), "{message}");
}

#[test]
fn a_turned_photograph_is_upright_in_facts_and_stream_and_untouched_in_storage() {
    let collection = Collection::new(6);
    // The camera was turned: the file is 40 x 90, the picture 90 x 40 and its mask too.
    let upright = RgbImage::from_fn(40, 90, |_, y| image::Rgb([if y < 48 { 220 } else { 20 }; 3]));
    let exif = [
        b"II*\0\x08\0\0\0\x01\0".as_slice(),
        &[0x12, 0x01, 3, 0, 1, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0],
    ];
    let mut bytes = Vec::new();
    let mut encoder = JpegEncoder::new_with_quality(&mut bytes, 95);
    encoder.set_exif_metadata(exif.concat()).unwrap();
    let stored = image::imageops::rotate270(&upright);
    assert_eq!(stored.dimensions(), (90, 40));
    encoder.encode_image(&stored).unwrap();
    std::fs::write(collection.image(0), &bytes).unwrap();
    save_mask(&disc(40, 90), &collection.mask(0));
    let mut config = collection.config("out");
    config.source[0].split = SplitRule::Fixed("train".into());
    assert_eq!(build(&config).unwrap().refused, 0);

    let dataset = collection.open("out");
    assert_eq!(dataset.read_stored("train", 0).unwrap().image_bytes, bytes);
    let mut samples =
        EvalStream::new(dataset, "train", World::new(0, 1).unwrap(), 1, None).unwrap();
    let sample = samples.next().unwrap().unwrap();
    assert_eq!(sample.sample_id, "drawn/0000");
    assert_eq!((sample.image.height, sample.image.width), (90, 40));
    assert_eq!((sample.mask.height, sample.mask.width), (90, 40));
    assert!(sample.image.pixels[0] > 200 && sample.image.pixels[89 * 40 * 3] < 40);
}

#[test]
fn a_source_that_is_mostly_refused_stops_the_build_and_says_why() {
    let collection = Collection::new(9);
    for index in 0..5 {
        let (width, height) = size(&collection, index);
        save_mask(&disc(height * 2, width), &collection.mask(index));
    }
    let error = build(&collection.config("out")).unwrap_err();
    let message = error.to_string();
    assert!(
        matches!(error, BuildError::MostlyRejected { rejected: 5, judged: 9, .. }),
        "{message}"
    );
    assert!(message.contains("source `drawn`") && message.contains("fix the mask"), "{message}");
    assert!(!collection.output("out").join("manifest.json").exists());
}

#[test]
fn refusals_that_users_know_of_are_explained() {
    let collection = Collection::new(0);
    let root = collection.output("duts");
    let part = |kind: &str| root.join(format!("DUTS-TR/DUTS-TR-{kind}"));
    for kind in ["Image", "Mask"] {
        std::fs::create_dir_all(part(kind)).unwrap();
    }
    for (index, name) in ["a", "b", "n04442312_17818"].into_iter().enumerate() {
        let (width, height) = (60 + 10 * index as u32, 50);
        texture(index as u32, width, height)
            .save(part("Image").join(format!("{name}.jpg")))
            .unwrap();
        let shrink = if name.starts_with('n') { 9 } else { 0 };
        disc(width, height - shrink).save(part("Mask").join(format!("{name}.png"))).unwrap();
    }
    let mut config = collection.config("out");
    config.source[0].layout = Layout::Duts;
    config.source[0].root = root;
    build(&config).unwrap();
    let found = refusals(&collection.output("out"));
    assert_eq!(kinds(&found), [("drawn/DUTS-TR/n04442312_17818", "size_mismatch")]);
    let message = &found[0].message;
    assert!(message.ends_with("differ in size, as in every download)"), "{message}");
    assert!(Dataset::open(&collection.output("out").to_string_lossy()).is_ok());
}

#[test]
fn annotations_of_another_size_or_above_the_limit_are_not_drawn() {
    let collection = Collection::new(4);
    let fits @ (width, height) = size(&collection, 0);
    let mut config = collection.config("out");
    config.source[0].layout = Layout::Coco;
    config.source[0].root = collection.raw();
    config.source[0].images = Some("images".into());
    config.source[0].annotations = Some("instances.json".into());
    config.source[0].split = SplitRule::Fixed("train".into());
    config.max_rejected_fraction = 1.0;
    config.max_pixels = u64::from(width * height);
    let refused = |config: &BuildConfig, (width, height): (u32, u32)| {
        // Nothing of the annotation but its size is looked at: drawing it would say "no polygon".
        let text = serde_json::json!({
            "images": [
                {"id": 1, "file_name": "0000.jpg", "height": height, "width": width},
                {"id": 2, "file_name": "0000.jpg", "height": fits.1, "width": fits.0},
            ],
            "categories": [{"id": 1, "name": "thing"}],
            "annotations": [
                {"id": 7, "image_id": 1, "category_id": 1, "segmentation": [[1, 1]]},
                {"id": 8, "image_id": 2, "category_id": 1, "segmentation": [[9, 9, 40, 12, 38, 41]]},
            ],
        });
        std::fs::write(collection.raw().join("instances.json"), text.to_string()).unwrap();
        build(config).unwrap();
        refusals(&collection.output("out"))
    };
    let found = refused(&config, (30_000, 30_000));
    assert_eq!(kinds(&found), [("drawn/0000/7", "size_mismatch")]);
    config.size_mismatch = SizeMismatch::ResizeWithin(0.1);
    let found = refused(&config, (width + 1, height + 1));
    assert_eq!(kinds(&found), [("drawn/0000/7", "too_large")]);
    assert!(found[0].message.contains("raise max_pixels"), "{}", found[0].message);
}
