//! Many ranks in one process: their streams and the checkpoints are the real ones, the step is a
//! pause, and a barrier stands for the all-reduce.

use std::path::Path;
use std::sync::{Arc, Barrier};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use dataset::augment::LargeScaleJitter;
use dataset::order::{World, steps_per_epoch};
use object_store::ObjectStore;
use pipeline::{Dataset, Position, TrainRecipe, TrainStream};
use tch::Device;
use trainer::checkpoint::{self, CHECKPOINT_VERSION, Checkpoint, CheckpointInfo};
use trainer::model::{EncoderConfig, SamHq, VitConfig};
use trainer::optim::{Adam, AdamConfig};

use crate::layout::{Reads, Split};
use crate::store::CountingStore;

pub(crate) const SEED: u64 = 42;
/// Pixels of a side: requests do not depend on it.
const OUTPUT_SIZE: usize = 64;

/// What to simulate.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) ranks: usize,
    pub(crate) global_batch: usize,
    pub(crate) epochs: u64,
    /// Of a step's computation.
    pub(crate) step: Duration,
    /// Of the store's answers.
    pub(crate) latency: Duration,
    /// Steps between checkpoints.
    pub(crate) checkpoint_every: u64,
    /// Channels of the encoder, which decide how much is trained.
    pub(crate) vit_dim: i64,
}

/// What was seen.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) steps: u64,
    pub(crate) reads: Reads,
    /// How long ranks waited for each batch, in ascending order.
    pub(crate) waits: Vec<Duration>,
    pub(crate) elapsed: Duration,
    pub(crate) checkpoints: Checkpoints,
}

/// What rank 0 wrote.
#[derive(Debug, Default)]
pub(crate) struct Checkpoints {
    pub(crate) files: u64,
    /// Of tensors, in all files.
    pub(crate) tensor_bytes: u64,
    /// Of the files.
    pub(crate) file_bytes: u64,
    /// Longest time that a step was held up.
    pub(crate) longest: Duration,
}

/// Runs whole epochs of the training split `split` in `folder`.
pub(crate) fn simulate(folder: &Path, split: &Split, name: &str, setup: &Setup) -> Result<Outcome> {
    let store = Arc::new(CountingStore::new(folder, setup.latency)?);
    let steps = setup.epochs * steps_per_epoch(split.num_samples, setup.global_batch as u64);
    let barrier = Barrier::new(setup.ranks);
    let started = Instant::now();
    let (waits, checkpoints) = std::thread::scope(|scope| {
        let ranks: Vec<_> = (0..setup.ranks)
            .map(|rank| {
                let store: Arc<dyn ObjectStore> = store.clone();
                let barrier = &barrier;
                scope.spawn(move || Rank { rank, setup, name, barrier }.run(store, steps))
            })
            .collect();
        let (mut waits, mut checkpoints) = (Vec::new(), Checkpoints::default());
        for rank in ranks {
            let (waited, written) =
                rank.join().map_err(|_| anyhow!("a rank's thread panicked"))??;
            waits.extend(waited);
            checkpoints = written.unwrap_or(checkpoints);
        }
        anyhow::Ok((waits, checkpoints))
    })?;
    let elapsed = started.elapsed();
    let mut waits = waits;
    waits.sort();
    Ok(Outcome { steps, reads: split.sort(&store.take()), waits, elapsed, checkpoints })
}

struct Rank<'a> {
    rank: usize,
    setup: &'a Setup,
    name: &'a str,
    barrier: &'a Barrier,
}

impl Rank<'_> {
    /// Times of waiting, and what rank 0 wrote. All ranks come to all barriers, whatever fails.
    fn run(
        &self,
        store: Arc<dyn ObjectStore>,
        steps: u64,
    ) -> Result<(Vec<Duration>, Option<Checkpoints>)> {
        let mut stream = self.stream(store);
        let mut writer = if self.rank == 0 { Some(Writer::new(self.setup.vit_dim)) } else { None };
        let mut waits = Vec::new();
        let mut failure = None;
        for step in 1..=steps {
            let waiting = Instant::now();
            match stream.as_mut().map(TrainStream::next_batch) {
                Ok(Ok(Some(_batch))) => waits.push(waiting.elapsed()),
                Ok(Ok(None)) => failure = Some(anyhow!("rank {}: no step {step}", self.rank)),
                Ok(Err(error)) => failure = failure.or(Some(error.into())),
                Err(_) => {}
            }
            std::thread::sleep(self.setup.step);
            self.barrier.wait();
            if let Some(Ok(writer)) = &mut writer
                && step % self.setup.checkpoint_every == 0
                && let Err(error) = writer.start(step)
            {
                failure = Some(error);
            }
        }
        stream?;
        match failure {
            Some(error) => Err(error),
            None => Ok((waits, writer.transpose()?.map(Writer::finish).transpose()?)),
        }
    }

    fn stream(&self, store: Arc<dyn ObjectStore>) -> Result<TrainStream> {
        let Setup { ranks, global_batch, epochs, .. } = *self.setup;
        let base = object_store::path::Path::default();
        let dataset = Dataset::open_in(store, base, "the simulated store".to_owned())?;
        let recipe = TrainRecipe {
            jitter: Some(LargeScaleJitter { output_size: OUTPUT_SIZE, scale_range: [0.1, 2.0] }),
            output_size: OUTPUT_SIZE,
            threads: 1,
            ..TrainRecipe::published(self.name, SEED, global_batch)
        };
        let world = World::new(self.rank, ranks)?;
        Ok(TrainStream::new(Arc::new(dataset), recipe, world, Position::default(), epochs)?)
    }
}

/// Writes checkpoints of the real size behind the steps, one at a time, as training does.
struct Writer {
    folder: tempfile::TempDir,
    parameters: Vec<(String, tch::Tensor)>,
    adam: Adam,
    writing: Option<JoinHandle<Result<std::path::PathBuf>>>,
    written: Checkpoints,
}

impl Writer {
    fn new(vit_dim: i64) -> Result<Self> {
        // Of the encoder, only its width decides what is trained.
        let encoder = EncoderConfig::Vit(VitConfig {
            img_size: 64,
            embed_dim: vit_dim,
            depth: 1,
            num_heads: vit_dim / 64,
            window_size: 2,
            global_attn_indexes: vec![0],
            ..VitConfig::default()
        });
        let parameters = SamHq::random(&encoder, SEED, Device::Cpu).hq_parameters();
        let adam = Adam::new(&parameters, AdamConfig::default());
        let folder = tempfile::tempdir()?;
        Ok(Self { folder, parameters, adam, writing: None, written: Checkpoints::default() })
    }

    fn start(&mut self, step: u64) -> Result<()> {
        let started = Instant::now();
        self.wait()?;
        let info = CheckpointInfo {
            version: CHECKPOINT_VERSION,
            global_step: step,
            epoch: 0,
            step,
            seed: SEED,
            global_batch: 1,
            data_sha256: String::new(),
            sam_sha256: String::new(),
            tensors_sha256: String::new(),
            config: String::new(),
            program: String::new(),
        };
        let copies = self.parameters.iter().map(|(name, t)| (name.clone(), t.detach().copy()));
        let hq_parameters = copies.collect();
        let checkpoint = Checkpoint { info, hq_parameters, adam: self.adam.state() };
        let folder = self.folder.path().to_owned();
        self.writing = Some(std::thread::spawn(move || {
            let path = checkpoint::save(&folder, &checkpoint)?;
            checkpoint::retain(&folder, checkpoint.info.global_step, 2)?;
            Ok(path)
        }));
        self.written.longest = self.written.longest.max(started.elapsed());
        Ok(())
    }

    fn wait(&mut self) -> Result<()> {
        let Some(writing) = self.writing.take() else { return Ok(()) };
        let path = writing.join().map_err(|_| anyhow!("the writing thread panicked"))??;
        let bytes = std::fs::read(&path)?;
        let header = bytes.first_chunk().context("an empty checkpoint")?;
        self.written.files += 1;
        self.written.file_bytes += bytes.len() as u64;
        self.written.tensor_bytes += bytes.len() as u64 - 8 - u64::from_le_bytes(*header);
        Ok(())
    }

    fn finish(mut self) -> Result<Checkpoints> {
        self.wait()?;
        Ok(self.written)
    }
}
