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

/// Blocks `rank`, `rank + world_size`, ... of the rows of a split, in that order. No row is repeated
/// to make the ranks even, so ranks may differ by one block.
pub struct EvalStream {
    samples: Samples<EvalSample>,
    left: u64,
    // After `samples`: its tasks run on the data set's runtime.
    dataset: Arc<Dataset>,
}

impl EvalStream {
    /// [`EvalStream::in_blocks`] of one row.
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
        Self::in_blocks(dataset, split, world, threads, limit, 1)
    }

    /// Starts to read. `threads` decoding threads, 0 for one per core; `limit` keeps to the first
    /// rows of the split (over all ranks together); a rank gets whole blocks of `block` rows (at
    /// least 1), of which the last may be shorter.
    ///
    /// # Errors
    /// [`StreamError`] for an unknown split.
    pub fn in_blocks(
        dataset: Arc<Dataset>,
        split: &str,
        world: World,
        threads: usize,
        limit: Option<u64>,
        block: usize,
    ) -> Result<Self, StreamError> {
        let num_samples = dataset.num_samples(split)?;
        let end = limit.map_or(num_samples, |limit| limit.min(num_samples));
        let threads = if threads == 0 { crate::workers::default_threads() } else { threads };
        let rows = rows_of(world, end, block.max(1));
        let left = rows.clone().count() as u64;
        let rows = rows.map(|row| (row, ()));
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
        Ok(Self { samples, left, dataset })
    }
}

/// The rows below `end` of one rank.
fn rows_of(world: World, end: u64, block: usize) -> impl Iterator<Item = u64> + Clone {
    let block_rows = block as u64;
    (world.rank as u64 * block_rows..end)
        .step_by(world.world_size * block)
        .flat_map(move |start| start..(start + block_rows).min(end))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_share_the_rows_block_by_block() {
        for (end, block, world_size) in [(0, 2, 3), (1, 2, 3), (7, 2, 3), (12, 2, 3), (11, 5, 1)] {
            let rows = |rank| rows_of(World::new(rank, world_size).unwrap(), end, block);
            let mut all: Vec<u64> = (0..world_size).flat_map(rows).collect();
            all.sort_unstable();
            assert!(
                all.into_iter().eq(0..end),
                "{end} rows, blocks of {block}, {world_size} ranks"
            );
        }
        let second: Vec<u64> = rows_of(World::new(1, 3).unwrap(), 11, 2).collect();
        assert_eq!(second, [2, 3, 8, 9]);
    }
}
