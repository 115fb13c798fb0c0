//! Training batches of one rank.

mod check;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use dataset::augment::LargeScaleJitter;
use dataset::color_jitter::ColorJitter;
use dataset::order::{Order, World, steps_per_epoch};
use dataset::prompt::{Prompt, PromptRecipe};

pub use self::check::MAX_PREFETCH_BATCHES;
use self::check::check;
use super::StreamError;
use super::dataset::Dataset;
use super::fetch::{SAMPLES_PER_THREAD, Samples, broken};
use super::pixels::{PixelBuffer, Places, Pool};
use super::sample::{DecodeMode, Place, SampleRecipe, TrainSample, prepare};

/// What to stream and what to do to each sample.
#[derive(Clone, Debug)]
pub struct TrainRecipe {
    /// Split to stream.
    pub split: String,
    /// Seed of the order, the augmentation and the prompts.
    pub seed: u64,
    /// Samples of a step over all ranks. Global batch `k` of an epoch is the same set of samples
    /// whatever the number of ranks.
    pub global_batch: usize,
    /// Probability of a horizontal flip, 0..=1. Published training: 0.5.
    pub flip_probability: f64,
    /// Large-scale jitter; `None` stretches every sample to `output_size` instead.
    pub jitter: Option<LargeScaleJitter>,
    /// Height and width of every sample. Published training: 1024.
    pub output_size: usize,
    /// Which prompts to draw.
    pub prompts: PromptRecipe,
    /// Redraw the jitter, up to ten times, until the mask keeps this many foreground pixels;
    /// failing that the draw that keeps most is used. `None` takes the first draw, as the
    /// published training does.
    pub min_foreground_pixels: Option<usize>,
    /// Distinct augmentations (flip and jitter) of each sample over all epochs; prompts stay new
    /// in every epoch. `None`: a new one each epoch, as the published training does.
    pub augment_copies: Option<u64>,
    /// Brightness, contrast, saturation and hue of the image; `None` as published.
    pub color_jitter: Option<ColorJitter>,
    /// How image files are decoded; exact as published.
    pub decode: DecodeMode,
    /// Decoding threads; 0 means one per core. Has no influence on any pixel.
    pub threads: usize,
    /// Finished batches to keep ready (at least 1).
    pub prefetch_batches: usize,
}

impl TrainRecipe {
    /// The published training: flip one in two, jitter 0.1 to 2.0 into 1024 x 1024, and a box, ten
    /// points or a noise mask with equal probability.
    #[must_use]
    pub fn published(split: impl Into<String>, seed: u64, global_batch: usize) -> Self {
        let output_size = 1024;
        Self {
            split: split.into(),
            seed,
            global_batch,
            flip_probability: 0.5,
            jitter: Some(LargeScaleJitter { output_size, scale_range: [0.1, 2.0] }),
            output_size,
            prompts: PromptRecipe::default(),
            min_foreground_pixels: None,
            augment_copies: None,
            color_jitter: None,
            decode: DecodeMode::Exact,
            threads: 0,
            prefetch_batches: 2,
        }
    }
}

/// Where a stream starts: before step `step` of epoch `epoch`, both from 0.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Position {
    /// Epoch, from 0.
    pub epoch: u64,
    /// Step within the epoch, from 0.
    pub step: u64,
}

/// This rank's part of one global batch; `B` samples of `height` x `width`.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Epoch, from 0.
    pub epoch: u64,
    /// Step within the epoch, from 0.
    pub step: u64,
    /// Rows of every sample.
    pub height: usize,
    /// Columns of every sample.
    pub width: usize,
    /// `B, height, width, 3`: RGB, 0..255.
    pub images: PixelBuffer,
    /// `B, height, width`: 0..255, foreground above [`dataset::raster::MASK_THRESHOLD`].
    pub masks: PixelBuffer,
    /// [`PromptRecipe::prompts_per_image`] for each sample, those of the first sample first; one
    /// per sample unless the recipe asks for more. See [`Batch::prompts_of`].
    pub prompts: Vec<Prompt>,
    /// One per sample.
    pub sample_ids: Vec<String>,
}

/// The batches of one rank, prepared ahead by background threads, always in the same order.
///
/// A stream is resumed by starting it at a [`Position`]: nothing else is state. Dropping it stops
/// its threads.
pub struct TrainStream {
    // Dropped before `assembler` is joined, see `drop`.
    batches: Option<Receiver<Result<Batch, StreamError>>>,
    assembler: Option<JoinHandle<()>>,
    stopped: Arc<AtomicBool>,
    steps_per_epoch: u64,
    steps_left: u64,
    dataset: Arc<Dataset>,
    pools: Arc<Pools>,
}

impl TrainStream {
    /// Starts to prepare the batches of `world.rank` from `start` to the end of epoch
    /// `end_epoch - 1`. A `start` at the last step of an epoch plus one is the next epoch's first.
    ///
    /// # Errors
    /// [`StreamError`] for an unknown split or settings that make no stream: a global batch
    /// larger than the split or smaller than the number of ranks, a start beyond its epoch, a
    /// jitter whose size is not `output_size`.
    pub fn new(
        dataset: Arc<Dataset>,
        recipe: TrainRecipe,
        world: World,
        start: Position,
        end_epoch: u64,
    ) -> Result<Self, StreamError> {
        let num_samples = dataset.num_samples(&recipe.split)?;
        let steps_per_epoch = steps_per_epoch(num_samples, recipe.global_batch.max(1) as u64);
        check(&dataset, &recipe, &world, num_samples, start, steps_per_epoch)?;
        let threads =
            if recipe.threads == 0 { crate::workers::default_threads() } else { recipe.threads };
        let plan = Plan {
            num_samples,
            seed: recipe.seed,
            global_batch: recipe.global_batch as u64,
            slice: world.slice(recipe.global_batch),
            steps_per_epoch,
            stopped: Arc::default(),
        };
        let stopped = Arc::clone(&plan.stopped);
        let steps =
            start.epoch * steps_per_epoch + start.step..end_epoch.saturating_mul(steps_per_epoch);
        let steps_left = steps.end.saturating_sub(steps.start);
        let sample_recipe = SampleRecipe::from(&recipe);
        let pools = Arc::new(Pools::new(&recipe, plan.slice.len(), threads, steps_left));
        let mut places = pools.places(recipe.output_size);
        let samples = Samples::start(
            &dataset,
            &recipe.split,
            plan.clone().rows(steps.clone()),
            threads,
            move |epoch| (epoch, Place { image: places.0.next(), mask: places.1.next() }),
            move |fetched, (epoch, place)| prepare(fetched, epoch, place, &sample_recipe),
        )?;
        let (sender, receiver) = sync_channel(recipe.prefetch_batches.max(1));
        let (location, output_size) = (dataset.location().to_owned(), recipe.output_size);
        let kept = Arc::clone(&pools);
        let assembler = std::thread::Builder::new()
            .name("hqseg-batch".to_owned())
            .spawn(move || plan.assemble(steps, &pools, output_size, samples, &sender, &location))
            .map_err(|error| {
                broken(dataset.location(), format!("cannot start a thread: {error}"))
            })?;
        Ok(Self {
            batches: Some(receiver),
            assembler: Some(assembler),
            stopped,
            steps_per_epoch,
            steps_left,
            dataset,
            pools: kept,
        })
    }

    /// Blocks for the next batch; `None` after the last step of the last epoch.
    ///
    /// # Errors
    /// [`StreamError`] naming the sample, shard and row; the stream is over after an error.
    pub fn next_batch(&mut self) -> Result<Option<Batch>, StreamError> {
        if self.steps_left == 0 {
            return Ok(None);
        }
        match self.batches.as_ref().and_then(|batches| batches.recv().ok()) {
            Some(Ok(batch)) => {
                self.steps_left -= 1;
                Ok(Some(batch))
            }
            Some(Err(error)) => {
                self.steps_left = 0;
                Err(error)
            }
            None => Err(broken(self.dataset.location(), "a stream thread ended early".to_owned())),
        }
    }

    /// Steps of an epoch: whole global batches only, the same on every rank.
    #[must_use]
    pub fn steps_per_epoch(&self) -> u64 {
        self.steps_per_epoch
    }

    /// Batches for which memory had to be taken after the start, over the life of the stream: 0
    /// while the consumer drops each batch before it takes the next.
    #[must_use]
    pub fn extra_buffers(&self) -> usize {
        self.pools.images.extra().max(self.pools.masks.extra())
    }
}

impl Drop for TrainStream {
    fn drop(&mut self) {
        // The assembler looks at the flag between samples and at the channel between batches.
        self.stopped.store(true, Ordering::Relaxed);
        self.batches.take();
        if let Some(assembler) = self.assembler.take() {
            let _panicked = assembler.join();
        }
    }
}

/// Which samples a rank needs at which step.
#[derive(Clone)]
struct Plan {
    num_samples: u64,
    seed: u64,
    global_batch: u64,
    slice: std::ops::Range<usize>,
    steps_per_epoch: u64,
    stopped: Arc<AtomicBool>,
}

impl Plan {
    /// Rows of the split, with their epoch, for steps counted from the start of epoch 0.
    fn rows(
        self,
        steps: std::ops::Range<u64>,
    ) -> impl Iterator<Item = (u64, u64)> + Send + 'static {
        steps.flat_map(move |step| {
            let (epoch, step) = (step / self.steps_per_epoch, step % self.steps_per_epoch);
            let order = Order::new(self.num_samples, self.seed, epoch);
            let first = step * self.global_batch;
            self.slice.clone().map(move |place| (order.row(first + place as u64), epoch))
        })
    }

    fn assemble(
        &self,
        steps: std::ops::Range<u64>,
        pools: &Pools,
        output_size: usize,
        mut samples: Samples<TrainSample>,
        sender: &SyncSender<Result<Batch, StreamError>>,
        location: &str,
    ) {
        for step in steps {
            let (epoch, step) = (step / self.steps_per_epoch, step % self.steps_per_epoch);
            let mut batch = Batch {
                epoch,
                step,
                height: output_size,
                width: output_size,
                images: PixelBuffer::empty(&pools.images),
                masks: PixelBuffer::empty(&pools.masks),
                prompts: Vec::with_capacity(self.slice.len()),
                sample_ids: Vec::with_capacity(self.slice.len()),
            };
            for _ in self.slice.clone() {
                if self.stopped.load(Ordering::Relaxed) {
                    return;
                }
                match samples.next() {
                    Some(Ok(sample)) => batch.push(sample),
                    failed => {
                        let early = || broken(location, "a reading task ended early".to_owned());
                        let error = failed.and_then(Result::err).unwrap_or_else(early);
                        let _nobody_left = sender.send(Err(error));
                        return;
                    }
                }
            }
            if sender.send(Ok(batch)).is_err() {
                return;
            }
        }
    }
}

impl Batch {
    /// The prompts of sample `index` (from 0), at least one.
    #[must_use]
    pub fn prompts_of(&self, index: usize) -> &[Prompt] {
        let each = self.prompts.len() / self.sample_ids.len().max(1);
        &self.prompts[index * each..(index + 1) * each]
    }

    fn push(&mut self, sample: TrainSample) {
        self.images.append(sample.place.image);
        self.masks.append(sample.place.mask);
        self.prompts.extend(sample.prompts);
        self.sample_ids.push(sample.sample_id);
    }
}

/// The memory of this rank's batches.
struct Pools {
    images: Arc<Pool>,
    masks: Arc<Pool>,
}

impl Pools {
    fn new(recipe: &TrainRecipe, num_samples: usize, threads: usize, steps: u64) -> Self {
        let pixels = recipe.output_size * recipe.output_size * num_samples;
        // The batches that are ready, one that is complete and waits to be, one at the consumer, and
        // those that the samples ahead of them belong to.
        let ahead = (threads.max(1) * SAMPLES_PER_THREAD).div_ceil(num_samples.max(1));
        let most = recipe.prefetch_batches.max(1) + 2 + ahead;
        let count = most.min(usize::try_from(steps).unwrap_or(most));
        Self { images: Pool::new(pixels * 3, count), masks: Pool::new(pixels, count) }
    }

    fn places(&self, output_size: usize) -> (Places, Places) {
        let pixels = output_size * output_size;
        (Places::new(&self.images, pixels * 3), Places::new(&self.masks, pixels))
    }
}

impl From<&TrainRecipe> for SampleRecipe {
    fn from(recipe: &TrainRecipe) -> Self {
        Self {
            seed: recipe.seed,
            flip_probability: recipe.flip_probability,
            jitter: recipe.jitter,
            output_size: recipe.output_size,
            min_foreground_pixels: recipe.min_foreground_pixels,
            augment_copies: recipe.augment_copies,
            prompts: recipe.prompts.clone(),
            color_jitter: recipe.color_jitter,
            decode: recipe.decode,
        }
    }
}
