//! What a build writes, refuses and repeats.

use dataset::source::SplitRule;
use image::ImageFormat;
use pipeline::build;
use pipeline::build::{BuildError, Refusal};

use crate::support::{Collection, contents, disc, noise, save_mask, texture};

#[test]
fn the_bytes_do_not_depend_on_the_threads() {
    let collection = Collection::new(24);
    save_mask(&disc(7, 7), &collection.mask(3));
    let written: Vec<_> = [1, 2, 4]
        .map(|threads| {
            let name = format!("out{threads}");
            let mut config = collection.config(&name);
            config.threads = Some(threads);
            let report = build(&config).unwrap();
            assert!(report.shards > 2 && report.refused == 1, "{report:?}");
            contents(&collection.output(&name))
        })
        .into();
    let names: Vec<&str> = written[0].iter().map(|(name, _)| name.as_str()).collect();
    let of = |folder: &str| names.iter().filter(|name| name.starts_with(folder)).count();
    assert_eq!(of("receipts/train-0000"), of("shards/train-0000"), "{names:?}");
    let others: Vec<&str> = names.iter().filter(|name| !name.contains("s/")).copied().collect();
    assert_eq!(
        others,
        ["README.md", "manifest.json", "quarantine.jsonl", "report.json", "report/index.html"]
    );
    assert!(written[0] == written[1] && written[0] == written[2]);
}

#[test]
fn files_that_no_build_wrote_stay_as_they_are() {
    let collection = Collection::new(6);
    for file in ["README.md", "shards/mine.parquet", "receipts/2024.pdf", "report/mine.html"] {
        let name = file.replace(['/', '.'], "_");
        let path = collection.output(&name).join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, "mine").unwrap();
        let error = build(&collection.config(&name)).unwrap_err();
        assert!(matches!(&error, BuildError::Foreign { found, .. } if found == file), "{error}");
        assert_eq!(contents(&collection.output(&name)).len(), 1, "{file}");
        assert_eq!(std::fs::read(&path).unwrap(), b"mine");
    }
    // Beside files of other names there is room for a data set, and it may be built anew.
    std::fs::create_dir_all(collection.output("room")).unwrap();
    std::fs::write(collection.output("room/notes.txt"), "mine").unwrap();
    collection.build("room");
    std::fs::remove_file(collection.output("room/manifest.json")).unwrap();
    collection.build("room");
    assert_eq!(std::fs::read(collection.output("room/notes.txt")).unwrap(), b"mine");
}

#[test]
fn refused_pairs_are_listed_with_their_reason() {
    let collection = Collection::new(12);
    std::fs::remove_file(collection.mask(0)).unwrap();
    std::fs::remove_file(collection.image(1)).unwrap();
    std::fs::write(collection.image(2), b"not an image").unwrap();
    save_mask(&disc(20, 10), &collection.mask(3));
    save_mask(&image::GrayImage::new(texture(4, 96, 94).width(), 94), &collection.mask(4));
    let jpeg = std::fs::read(collection.image(5)).unwrap();
    std::fs::write(collection.image(5), &jpeg[..jpeg.len() / 2]).unwrap();
    let report = collection.build("out");
    let text = std::fs::read_to_string(collection.output("out").join("quarantine.jsonl")).unwrap();
    let refusals: Vec<Refusal> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let kinds: Vec<_> = refusals
        .iter()
        .map(|refusal| (refusal.sample_id.as_str(), refusal.reason["kind"].as_str().unwrap()))
        .collect();
    assert_eq!(
        kinds[..5],
        [
            ("drawn/0000", "missing_mask"),
            ("drawn/0001", "missing_image"),
            ("drawn/0002", "unreadable"),
            ("drawn/0003", "size_mismatch"),
            ("drawn/0004", "empty_mask"),
        ]
    );
    assert!(refusals[3].message.contains("mask 10 x 20"), "{}", refusals[3].message);
    assert_eq!((kinds[5].0, report.refused, report.rows), ("drawn/0005", 6, 6));
    let page = std::fs::read_to_string(collection.output("out").join("report/index.html")).unwrap();
    assert!(page.contains("drawn&#x2f;0003") && page.contains("data:image/jpeg;base64,"));
    // Links to the authors are no part of the page itself.
    assert!(!page.contains("src=\"http") && !page.contains("stylesheet"));
}

#[test]
fn a_source_without_a_usable_mask_stops_the_build() {
    let collection = Collection::new(8);
    for index in 0..8 {
        let size = image::image_dimensions(collection.mask(index)).unwrap();
        save_mask(&image::GrayImage::new(size.0, size.1), &collection.mask(index));
    }
    let error = build(&collection.config("out")).unwrap_err();
    let message = error.to_string();
    assert!(
        matches!(error, BuildError::MostlyRejected { rejected: 8, judged: 8, .. }),
        "{message}"
    );
    assert!(message.contains("drawn/0") && message.contains("no foreground"), "{message}");
    let output = collection.output("out");
    assert!(!output.join("manifest.json").exists());
    let listed = std::fs::read_to_string(output.join(".staging/quarantine.jsonl")).unwrap();
    assert_eq!(listed.lines().count(), 8);
}

#[test]
fn a_strict_build_stops_at_the_first_refusal() {
    let collection = Collection::new(6);
    save_mask(&disc(7, 7), &collection.mask(3));
    let mut config = collection.config("out");
    config.strict = true;
    let message = build(&config).unwrap_err().to_string();
    assert!(message.starts_with("drawn/0003: ") && message.contains("--strict"), "{message}");
}

#[test]
fn a_second_build_has_nothing_to_do_until_something_changes() {
    let collection = Collection::new(10);
    let first = collection.build("out");
    let before = contents(&collection.output("out"));
    let again = collection.build("out");
    assert!(!first.up_to_date && again.up_to_date);
    assert_eq!((again.rows, &again.sources), (first.rows, &first.sources));
    // Threads change no byte, so they are no reason to build again.
    let mut config = collection.config("out");
    config.threads = Some(1);
    assert!(build(&config).unwrap().up_to_date);
    assert!(before == contents(&collection.output("out")));

    std::fs::remove_file(collection.image(9)).unwrap();
    std::fs::remove_file(collection.mask(9)).unwrap();
    let changed = collection.build("out");
    assert_eq!((changed.up_to_date, changed.rows), (false, 9));
    assert!(!collection.output("out").join(".staging").exists());
}

#[test]
fn a_damaged_data_set_is_built_again() {
    let collection = Collection::new(6);
    collection.build("out");
    let whole = contents(&collection.output("out"));
    let shard = collection.shard("out", "train", 0);
    std::fs::write(&shard, b"short").unwrap();
    assert!(!collection.build("out").up_to_date);
    assert!(contents(&collection.output("out")) == whole);
}

#[test]
fn a_further_source_is_all_that_is_read() {
    further_source_is_all_that_is_read("zebra", Some(SplitRule::Fixed("test".into())));
    // In the splits of the others, and listed before them.
    further_source_is_all_that_is_read("aardvark", None);
}

fn further_source_is_all_that_is_read(name: &str, split: Option<SplitRule>) {
    let collection = Collection::new(16);
    let mut config = collection.config("out");
    config.drop_leaks = true;
    let first = build(&config).unwrap();
    let other = Collection::new(4);
    for index in 0..4 {
        noise(index, 90, 80).save_with_format(other.image(index), ImageFormat::Png).unwrap();
        save_mask(&disc(90, 80), &other.mask(index));
    }
    let mut source = config.source[0].clone();
    (source.name, source.root) = (name.to_owned(), other.raw());
    source.split = split.unwrap_or(source.split);
    // How masks of one source are read is no matter of the others' shards.
    source.mask_values = dataset::codec::MaskValues::Grey;
    config.source.push(source);
    let changed = pipeline::BuildConfig {
        output: collection.output("fresh").to_string_lossy().into_owned(),
        ..config.clone()
    };
    let fresh = build(&changed).unwrap();
    // Files of the same size and time whose content is gone: whoever reads them refuses them.
    for index in 0..16 {
        let path = collection.image(index);
        let metadata = std::fs::metadata(&path).unwrap();
        std::fs::write(&path, vec![0; metadata.len() as usize]).unwrap();
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(metadata.modified().unwrap()).unwrap();
    }
    let grown = build(&config).unwrap();
    assert_eq!((grown.rows, grown.refused), (fresh.rows, fresh.refused));
    assert_eq!(grown.reused_shards, first.shards);
    assert!(contents(&collection.output("out")) == contents(&collection.output("fresh")));
}

#[test]
fn a_data_set_that_is_replaced_is_always_the_old_or_the_new_one() {
    let collection = Collection::new(12);
    collection.build("out");
    let old = collection.open("out");
    let manifest = std::fs::read(collection.output("out").join("manifest.json")).unwrap();
    // The last pair of the last shard stops the build when nearly all is written.
    let mut config = collection.config("out");
    config.rows_per_group = 2;
    config.strict = true;
    let mask = std::fs::read(collection.mask(11)).unwrap();
    save_mask(&disc(7, 7), &collection.mask(11));
    build(&config).unwrap_err();
    assert!(std::fs::read(collection.output("out").join("manifest.json")).unwrap() == manifest);
    assert_eq!(damaged_shards(&old), 0);
    std::fs::write(collection.mask(11), mask).unwrap();
    build(&config).unwrap();
    assert_eq!(damaged_shards(&collection.open("out")), 0);
    let fresh = collection.output("fresh").to_string_lossy().into_owned();
    build(&pipeline::BuildConfig { output: fresh, ..config }).unwrap();
    assert!(contents(&collection.output("out")) == contents(&collection.output("fresh")));
}

#[test]
fn whole_shards_of_a_stopped_build_are_kept() {
    let collection = Collection::new(24);
    let whole = collection.build("reference");
    // The last pair of `val` stops a strict build after every shard before it.
    let last = std::fs::read(collection.mask(23)).unwrap();
    let mut config = collection.config("out");
    config.strict = true;
    config.source[0].split = dataset::source::SplitRule::Fixed("train".into());
    save_mask(&disc(7, 7), &collection.mask(23));
    build(&config).unwrap_err();
    assert!(!collection.output("out").join("manifest.json").exists());
    std::fs::write(collection.mask(23), last).unwrap();
    let report = build(&config).unwrap();
    assert!(report.reused_shards >= 1 && report.reused_shards < report.shards, "{report:?}");
    assert_eq!(report.rows, whole.rows);
}

#[test]
fn impossible_settings_are_refused_by_name() {
    let collection = Collection::new(1);
    let mut config = collection.config("out");
    config.source.push(config.source[0].clone());
    assert_eq!(
        build(&config).unwrap_err().to_string(),
        "two sources are named `drawn`: names must differ"
    );
    let mut config = collection.config("out");
    config.output = "https://example.com/set".into();
    let message = build(&config).unwrap_err().to_string();
    assert!(message.starts_with("output `https://example.com/set`: http(s) can only be read"));
    let mut config = collection.config("out");
    config.rows_per_group = 0;
    assert!(build(&config).unwrap_err().to_string().starts_with("rows_per_group = 0 "));
}

fn damaged_shards(dataset: &std::sync::Arc<pipeline::Dataset>) -> usize {
    let options = pipeline::stream::VerifyOptions { decode: false, threads: 1 };
    pipeline::stream::verify(dataset, &options, |_| true, |_, _| {}, |_| {}).unwrap().len()
}
