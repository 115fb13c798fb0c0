//! What single-row reads ask of the store, and what happens when it answers badly.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use dataset::augment::LargeScaleJitter;
use dataset::order::World;
use futures::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use pipeline::{Dataset, EvalStream, Position, StreamError, TrainRecipe, TrainStream};

use crate::support::Collection;

/// Records range reads of another store; fails or falsifies some of them.
#[derive(Debug)]
struct Recorder {
    inner: LocalFileSystem,
    reads: Mutex<Vec<Range<u64>>>,
    failures_left: AtomicUsize,
    fault: Fault,
}

/// What is wrong with a read that fails.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Error,
    /// No permission.
    Refusal,
    /// The first range lacks its last byte.
    Short,
    /// A bit of the longest range is another one: of the image, where a row is read.
    Flipped,
}

impl Recorder {
    fn open(collection: &Collection, failures: usize, fault: Fault) -> (Arc<Self>, Dataset) {
        let recorder = Arc::new(Self {
            inner: LocalFileSystem::new_with_prefix(collection.output("out")).unwrap(),
            reads: Mutex::default(),
            failures_left: AtomicUsize::new(failures),
            fault,
        });
        let store: Arc<dyn ObjectStore> = recorder.clone();
        (recorder, Dataset::open_in(store, Path::default(), "recorded".into()).unwrap())
    }

    fn take(&self) -> Vec<Range<u64>> {
        std::mem::take(&mut self.reads.lock().unwrap())
    }
}

impl std::fmt::Display for Recorder {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Recorder")
    }
}

#[async_trait]
impl ObjectStore for Recorder {
    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.reads.lock().unwrap().extend_from_slice(ranges);
        let fails = self
            .failures_left
            .try_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        let mut parts = self.inner.get_ranges(location, ranges).await?;
        match fails {
            Ok(_) if matches!(self.fault, Fault::Short) => {
                parts[0] = parts[0].slice(..parts[0].len() - 1);
            }
            Ok(_) if matches!(self.fault, Fault::Flipped) => {
                let longest = parts.iter_mut().max_by_key(|part| part.len()).unwrap();
                let mut bytes = longest.to_vec();
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
                *longest = bytes.into();
            }
            Ok(_) if matches!(self.fault, Fault::Refusal) => {
                let (path, source) = (location.to_string(), "not yours".into());
                return Err(object_store::Error::PermissionDenied { path, source });
            }
            Ok(_) => {
                return Err(object_store::Error::Generic { store: "test", source: "flaky".into() });
            }
            Err(_) => {}
        }
        Ok(parts)
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    async fn put_opts(&self, _: &Path, _: PutPayload, _: PutOptions) -> Result<PutResult> {
        unreachable!("a data set is only read")
    }

    async fn put_multipart_opts(
        &self,
        _: &Path,
        _: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        unreachable!("a data set is only read")
    }

    fn delete_stream(
        &self,
        _: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        unreachable!("a data set is only read")
    }

    fn list(&self, _: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        unreachable!("a data set is read by its manifest, never by listing")
    }

    async fn list_with_delimiter(&self, _: Option<&Path>) -> Result<ListResult> {
        unreachable!("a data set is read by its manifest, never by listing")
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        unreachable!("a data set is only read")
    }
}

#[test]
fn a_row_costs_little_more_than_its_own_bytes() {
    let collection = Collection::new(20);
    let mut config = collection.config("out");
    config.rows_per_group = 100;
    config.shard_bytes = 1 << 24;
    pipeline::build(&config).unwrap();
    let (recorder, dataset) = Recorder::open(&collection, 0, Fault::Error);
    dataset.read_stored("train", 0).unwrap();
    let shard = collection.shard("out", "train", 0);
    let size = std::fs::metadata(shard).unwrap().len();
    // The footer is read once, at the first row.
    assert!(recorder.take().iter().any(|range| range.end == size));
    for row in [0, 7, 14, 3, 3] {
        let stored = dataset.read_stored("train", row).unwrap();
        let reads = recorder.take();
        assert_eq!(reads.len(), 6, "one page of each streamed column: {reads:?}");
        let asked: u64 = reads.iter().map(|range| range.end - range.start).sum();
        let files = (stored.image_bytes.len() + stored.mask_bytes.len()) as u64;
        let facts = (stored.sample_id.len() + stored.source.len() + 128) as u64;
        // A page has a header of some twenty bytes, and each value a length.
        assert!(asked < files + facts + 6 * 40, "{asked} bytes for {files} + {facts}");
    }
}

#[test]
fn failed_and_short_reads_are_tried_again() {
    let collection = Collection::new(5);
    collection.build("out");
    for fault in [Fault::Error, Fault::Short] {
        let (recorder, dataset) = Recorder::open(&collection, 0, fault);
        let before = dataset.read_stored("train", 1).unwrap();
        recorder.failures_left.store(2, Ordering::Relaxed);
        assert_eq!(dataset.read_stored("train", 1).unwrap(), before);
        assert_eq!(recorder.failures_left.load(Ordering::Relaxed), 0);
    }
}

#[test]
fn a_store_that_stays_broken_is_an_error_that_names_shard_and_row() {
    let collection = Collection::new(5);
    collection.build("out");
    let (recorder, dataset) = Recorder::open(&collection, 0, Fault::Error);
    dataset.read_stored("train", 0).unwrap();
    recorder.failures_left.store(usize::MAX, Ordering::Relaxed);
    let message = dataset.read_stored("train", 2).unwrap_err().to_string();
    assert!(message.starts_with("row 2 of shards/train-00000-"), "{message}");
    assert!(message.contains("flaky"), "{message}");
}

#[test]
fn a_store_that_refuses_is_not_asked_again() {
    let collection = Collection::new(5);
    collection.build("out");
    let (recorder, dataset) = Recorder::open(&collection, 0, Fault::Refusal);
    dataset.read_stored("train", 0).unwrap();
    recorder.take();
    recorder.failures_left.store(usize::MAX, Ordering::Relaxed);
    let message = dataset.read_stored("train", 2).unwrap_err().to_string();
    assert!(message.starts_with("row 2 of shards/train-00000-"), "{message}");
    assert!(message.contains("not yours"), "{message}");
    let reads = recorder.take();
    assert!(reads.len() <= 6, "one page of each streamed column at most: {reads:?}");
}

#[test]
fn a_row_that_came_wrong_once_is_read_once_more() {
    let collection = Collection::new(8);
    collection.build("out");
    let samples = |dataset: Dataset| {
        EvalStream::new(Arc::new(dataset), "train", World::new(0, 1).unwrap(), 1, None).unwrap()
    };
    let warm = |dataset: &Dataset| {
        // The footers, so that what comes wrong are rows.
        (0..6).for_each(|row| drop(dataset.read_stored("train", row).unwrap()));
    };
    let (_, dataset) = Recorder::open(&collection, 0, Fault::Flipped);
    let whole: Vec<_> = samples(dataset).map(Result::unwrap).collect();
    let (recorder, dataset) = Recorder::open(&collection, 0, Fault::Flipped);
    warm(&dataset);
    recorder.failures_left.store(1, Ordering::Relaxed);
    recorder.take();
    let found: Vec<_> = samples(dataset).map(Result::unwrap).collect();
    assert_eq!(recorder.take().len(), 7 * 6, "six rows of six pages, one of them twice");
    assert!(found == whole);

    let (recorder, dataset) = Recorder::open(&collection, 0, Fault::Flipped);
    warm(&dataset);
    recorder.failures_left.store(usize::MAX, Ordering::Relaxed);
    let error = samples(dataset).next().unwrap().unwrap_err();
    assert!(matches!(error, StreamError::Checksum { .. }), "{error}");
}

#[test]
fn a_changed_byte_is_noticed_and_named() {
    let collection = Collection::new(6);
    collection.build("out");
    let stored = collection.open("out").read_stored("train", 2).unwrap();
    let shard = collection.shard("out", "train", 0);
    let mut bytes = std::fs::read(&shard).unwrap();
    let image = &stored.image_bytes[..];
    let at = bytes.windows(image.len()).position(|window| window == image).unwrap();
    bytes[at + image.len() / 2] ^= 1;
    std::fs::write(&shard, bytes).unwrap();

    let dataset = collection.open("out");
    let options = pipeline::stream::VerifyOptions { decode: false, threads: 1 };
    let damaged =
        pipeline::stream::verify(&dataset, &options, |_| true, |_, _| {}, |_| {}).unwrap();
    assert_eq!(damaged.len(), 1);
    assert!(damaged[0].message.is_some() && damaged[0].rows.len() == 1, "{damaged:?}");
    assert!(shard.ends_with(&damaged[0].path), "{}", damaged[0].path);
    let mut samples =
        EvalStream::new(dataset, "train", World::new(0, 1).unwrap(), 2, None).unwrap();
    assert!(samples.next().unwrap().is_ok() && samples.next().unwrap().is_ok());
    let error = samples.next().unwrap().unwrap_err();
    let message = error.to_string();
    assert!(matches!(&error, StreamError::Checksum { row: 2, part: "image", .. }), "{message}");
    assert!(message.contains(&stored.sample_id), "{message}");
    assert!(samples.next().is_none());
}

#[test]
fn reading_ahead_waits_for_the_consumer() {
    let collection = Collection::new(24);
    collection.build("out");
    let (recorder, dataset) = Recorder::open(&collection, 0, Fault::Error);
    let recipe = TrainRecipe {
        jitter: Some(LargeScaleJitter { output_size: 64, scale_range: [0.1, 2.0] }),
        output_size: 64,
        threads: 1,
        prefetch_batches: 1,
        ..TrainRecipe::published("train", 7, 2)
    };
    let world = World::new(0, 1).unwrap();
    let start = Position { epoch: 0, step: 0 };
    let mut stream = TrainStream::new(Arc::new(dataset), recipe, world, start, 100).unwrap();
    // One batch ready, one waiting to be, one in the making; two samples and four reads for the
    // thread, and one of each in its hands.
    let ahead = 3 * 2 + 2 + 4 + 2;
    let (mut reads, mut most_ahead) = (0, 0);
    for consumed in 1..=200 {
        stream.next_batch().unwrap().unwrap();
        // Six pages a row; the footers are those that reach the end of a shard.
        reads += recorder.take().len();
        most_ahead = most_ahead.max((reads / 6).saturating_sub(consumed * 2));
        assert!(reads <= (consumed * 2 + ahead) * 6 + 20, "{reads} after {consumed} batches");
    }
    assert!(most_ahead > 2, "something is read ahead: {most_ahead}");
}

#[test]
fn what_is_no_data_set_is_refused_with_the_next_step() {
    let folder = tempfile::tempdir().unwrap();
    let open = |location: &str| Dataset::open(location).err().unwrap().to_string();
    let empty = open(&folder.path().to_string_lossy());
    assert!(empty.contains("no manifest.json") && empty.contains("hqseg build"), "{empty}");
    assert!(open("no/such/folder").starts_with("no/such/folder: no such folder"));
    assert!(open("gopher://host/set").starts_with("gopher://host/set: "));
    std::fs::write(folder.path().join("manifest.json"), b"{\"schema_version\":99}").unwrap();
    assert!(open(&folder.path().to_string_lossy()).contains("/manifest.json: "));
}

#[test]
fn damaged_manifests_are_errors_and_never_panics() {
    let collection = Collection::new(5);
    collection.build("out");
    let path = collection.output("out").join("manifest.json");
    let good = std::fs::read(&path).unwrap();
    for cut in (0..good.len()).step_by(97) {
        std::fs::write(&path, &good[..cut]).unwrap();
        assert!(Dataset::open(&collection.output("out").to_string_lossy()).is_err());
    }
    let text = String::from_utf8(good).unwrap();
    let huge = text.replacen("\"rows\": ", "\"rows\": 1844674407370955161", 1);
    std::fs::write(&path, huge).unwrap();
    assert!(Dataset::open(&collection.output("out").to_string_lossy()).is_err());
    // Counts that agree with each other but not with the shard.
    let split = text.find("\"train\"").unwrap();
    let mut lie = text.clone();
    let total = collection.build("ref").sources[0].rows["train"];
    lie.replace_range(
        split..,
        &text[split..]
            .replacen(
                &format!("\"num_samples\": {total}"),
                &format!("\"num_samples\": {}", total + 1),
                1,
            )
            .replacen(&format!("\"rows\": {total}"), &format!("\"rows\": {}", total + 1), 1),
    );
    std::fs::write(&path, lie).unwrap();
    let dataset = collection.open("out");
    let message = dataset.read_stored("train", total).unwrap_err().to_string();
    assert!(message.contains(&format!("has {total} rows")), "{message}");
}
