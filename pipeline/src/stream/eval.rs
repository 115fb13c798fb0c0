//! Evaluation samples of one rank: every row of a split exactly once over all ranks.

use std::sync::Arc;

use dataset::order::World;
use dataset::raster::{Mask255, RgbRaster};

use super::StreamError;
use super::dataset::Dataset;
use super::fetch::{Samples, broken};
use super::sample::decode;

/// One pair at its own resolution.
#[derive(Clone, Debug, PartialEq)]
pub struct EvalSample {
    /// Row of the split, from 0.
    pub row: u64,
    /// `source/name`.
    pub sample_id: String,
    /// Name of the source, for results by source.
    pub source: String,
    /// The image as decoded.
    pub image: RgbRaster,
    /// The mask, as large as the image.
    pub mask: Mask255,
}

/// Rows `rank`, `rank + world_size`, ... of a split, in that order. No row is repeated to make
/// the ranks even, so ranks may differ by one sample.
pub struct EvalStream {
    samples: Samples<EvalSample>,
    left: u64,
    // After `samples`: its tasks run on the data set's runtime.
    dataset: Arc<Dataset>,
}

impl EvalStream {
    /// Starts to read. `threads` decoding threads, 0 for one per core; `limit` keeps to the first
    /// rows of the split (over all ranks together).
    ///
    /// # Errors
    /// [`StreamError`] for an unknown split.
    pub fn new(
        dataset: Arc<Dataset>,
        split: &str,
        world: World,
        threads: usize,
        limit: Option<u64>,
    ) -> Result<Self, StreamError> {
        let num_samples = dataset.num_samples(split)?;
        let end = limit.map_or(num_samples, |limit| limit.min(num_samples));
        let threads = if threads == 0 { crate::workers::default_threads() } else { threads };
        let (rank, world_size) = (world.rank as u64, world.world_size as u64);
        let rows = (rank..end).step_by(world.world_size).map(|row| (row, ()));
        let samples = Samples::start(
            &dataset,
            split,
            rows,
            threads,
            |()| (),
            |fetched, ()| {
                let (image, mask) = decode(fetched)?;
                let sample = &fetched.sample;
                Ok(EvalSample {
                    row: fetched.split_row,
                    sample_id: sample.sample_id.clone(),
                    source: sample.source.clone(),
                    image,
                    mask,
                })
            },
        )?;
        let left = end.saturating_sub(rank).div_ceil(world_size);
        Ok(Self { samples, left, dataset })
    }
}

impl Iterator for EvalStream {
    type Item = Result<EvalSample, StreamError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        let sample = self.samples.next().unwrap_or_else(|| {
            Err(broken(self.dataset.location(), "a reading task ended early".to_owned()))
        });
        self.left = if sample.is_ok() { self.left - 1 } else { 0 };
        Some(sample)
    }
}
