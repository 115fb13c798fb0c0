//! Which row comes at which position: a function of (seed, epoch, position), not a list.

use std::ops::Range;

use sha2::{Digest, Sha256};
use thiserror::Error;

/// A rank outside its world.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[error("rank {rank} of {world_size}: the rank must be below the world size, and that at least 1")]
pub struct WorldError {
    /// As given.
    pub rank: usize,
    /// As given.
    pub world_size: usize,
}

/// One rank among all ranks; all rank arithmetic of the data side is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct World {
    /// This rank, `0..world_size`.
    pub rank: usize,
    /// Number of ranks.
    pub world_size: usize,
}

impl World {
    /// Checks `rank < world_size`.
    ///
    /// # Errors
    /// [`WorldError`] with both numbers.
    pub fn new(rank: usize, world_size: usize) -> Result<Self, WorldError> {
        if rank < world_size {
            Ok(Self { rank, world_size })
        } else {
            Err(WorldError { rank, world_size })
        }
    }

    /// This rank's part of a global batch, as positions within the batch. The slices of all ranks
    /// are contiguous, cover the batch in rank order, and differ in length by at most one.
    #[must_use]
    pub fn slice(&self, global_batch: usize) -> Range<usize> {
        let (base, longer) = (global_batch / self.world_size, global_batch % self.world_size);
        let start = self.rank * base + self.rank.min(longer);
        start..start + base + usize::from(self.rank < longer)
    }
}

/// Full global batches in one epoch; samples that do not fill a batch are left out of the epoch
/// (another epoch leaves out others).
#[must_use]
pub fn steps_per_epoch(num_samples: u64, global_batch: u64) -> u64 {
    num_samples.checked_div(global_batch).unwrap_or(0)
}

/// Eight rounds mix domains of a few values as well as of billions; four would do for large ones.
const ROUNDS: usize = 8;

/// The order of one epoch: a keyed permutation of `0..num_samples` in constant memory.
///
/// A balanced Feistel network permutes the smallest square power of two that holds all samples;
/// values outside are fed through again (cycle walking), fewer than four times on average. So
/// [`Order::row`] costs the same at any position, and resuming in mid-epoch costs nothing.
#[derive(Clone, Debug)]
pub struct Order {
    num_samples: u64,
    half_bits: u32,
    round_keys: [u64; ROUNDS],
}

impl Order {
    /// The order of `num_samples` rows in `epoch`, keyed by `seed`.
    #[must_use]
    pub fn new(num_samples: u64, seed: u64, epoch: u64) -> Self {
        let bits = u64::BITS - num_samples.saturating_sub(1).leading_zeros();
        let mut round_keys = [0; ROUNDS];
        for (round, key) in round_keys.iter_mut().enumerate() {
            let digest = Sha256::new()
                .chain_update(b"order")
                .chain_update(seed.to_le_bytes())
                .chain_update(epoch.to_le_bytes())
                .chain_update((round as u64).to_le_bytes())
                .finalize();
            let mut first = [0; 8];
            first.copy_from_slice(&digest[..8]);
            *key = u64::from_le_bytes(first);
        }
        Self { num_samples, half_bits: bits.div_ceil(2).max(1), round_keys }
    }

    /// The row at `position` of this epoch.
    ///
    /// # Panics
    /// When `position` is not below the number of samples: no row exists there.
    #[must_use]
    pub fn row(&self, position: u64) -> u64 {
        assert!(
            position < self.num_samples,
            "position {position} of an epoch of {} samples",
            self.num_samples
        );
        let mut value = self.permute(position);
        while value >= self.num_samples {
            value = self.permute(value);
        }
        value
    }

    /// The position at which `row` comes in this epoch: the inverse of [`Order::row`], as cheap.
    ///
    /// # Panics
    /// When `row` is not below the number of samples: it comes nowhere.
    #[must_use]
    pub fn position(&self, row: u64) -> u64 {
        assert!(row < self.num_samples, "row {row} of an epoch of {} samples", self.num_samples);
        let mut value = self.permute_back(row);
        while value >= self.num_samples {
            value = self.permute_back(value);
        }
        value
    }

    /// One pass of the network over `2 * half_bits` bits.
    fn permute(&self, value: u64) -> u64 {
        let low_mask = (1_u64 << self.half_bits) - 1;
        let (mut left, mut right) = (value >> self.half_bits, value & low_mask);
        for key in self.round_keys {
            (left, right) = (right, left ^ (mix(right ^ key) & low_mask));
        }
        (left << self.half_bits) | right
    }

    /// The pass undone: the rounds in reverse, each its own inverse but for the exchange.
    fn permute_back(&self, value: u64) -> u64 {
        let low_mask = (1_u64 << self.half_bits) - 1;
        let (mut left, mut right) = (value >> self.half_bits, value & low_mask);
        for key in self.round_keys.iter().rev() {
            (left, right) = (right ^ (mix(left ^ key) & low_mask), left);
        }
        (left << self.half_bits) | right
    }
}

/// The finaliser of MurmurHash3 (Appleby's fmix64): every input bit reaches every output bit.
fn mix(mut value: u64) -> u64 {
    value ^= value >> 33;
    value = value.wrapping_mul(0xff51_afd7_ed55_8ccd);
    value ^= value >> 33;
    value = value.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    value ^ (value >> 33)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_small_epoch_is_a_permutation() {
        for num_samples in 0..600 {
            let order = Order::new(num_samples, 42, 3);
            let rows: BTreeSet<u64> =
                (0..num_samples).map(|position| order.row(position)).collect();
            assert!(rows.iter().copied().eq(0..num_samples), "{num_samples} samples");
            assert!(rows.iter().all(|&row| order.row(order.position(row)) == row));
        }
    }

    #[test]
    fn a_million_samples_are_a_permutation() {
        // Not a power of four: cycle walking is in play.
        let num_samples = 1_000_003;
        let order = Order::new(num_samples, 42, 3);
        let mut seen = vec![false; num_samples as usize];
        for position in 0..num_samples {
            assert!(!std::mem::replace(&mut seen[order.row(position) as usize], true));
        }
        assert!(seen.into_iter().all(|seen| seen));
    }

    #[test]
    fn neighbours_of_a_billion_samples_are_spread_evenly() {
        // 128,000 positions in a row, 256 bins of rows: 500 expected in each. The statistic has 255
        // degrees of freedom, mean 255 and standard deviation 22.6; the bound is five of these. Of
        // the differences of neighbours too, which an order that shuffles blocks would betray.
        let num_samples = 1_000_000_000_u64;
        let order = Order::new(num_samples, 42, 0);
        let chi_squared = |values: &mut dyn Iterator<Item = u64>| {
            let mut bins = [0_u32; 256];
            values.for_each(|value| bins[(value * 256 / num_samples) as usize] += 1);
            bins.iter().map(|&count| (f64::from(count) - 500.0).powi(2) / 500.0).sum::<f64>()
        };
        let start = 123_456_789;
        let row = |step: u64| order.row(start + step);
        let rows = chi_squared(&mut (0..128_000).map(row));
        let steps = chi_squared(
            &mut (0..128_000).map(|step| (row(step + 1) + num_samples - row(step)) % num_samples),
        );
        assert!((142.0..368.0).contains(&rows), "{rows}");
        assert!((142.0..368.0).contains(&steps), "{steps}");
    }

    #[test]
    fn an_order_is_its_keys_and_no_list() {
        assert!(size_of::<Order>() <= 96);
    }

    #[test]
    fn epochs_and_seeds_differ() {
        let rows = |seed, epoch| {
            let order = Order::new(1000, seed, epoch);
            (0..1000).map(move |position| order.row(position)).collect::<Vec<_>>()
        };
        let first = rows(42, 0);
        for other in [rows(42, 1), rows(43, 0), (0..1000).collect()] {
            let same = first.iter().zip(&other).filter(|(a, b)| a == b).count();
            assert!(same < 20, "{same} of 1000 rows at the same position");
        }
    }

    #[test]
    fn positions_of_a_row_are_spread_evenly() {
        // 64 bins, 6400 draws: 100 expected in each; a bound of 5 standard deviations.
        let mut bins = [0_u32; 64];
        for epoch in 0..6400 {
            bins[Order::new(64, 7, epoch).row(5) as usize] += 1;
        }
        assert!(bins.iter().all(|&count| (50..=150).contains(&count)), "{bins:?}");
    }

    #[test]
    fn the_order_is_pinned() {
        // Changing it would break the resume of every running training.
        let order = Order::new(10, 42, 0);
        let rows: Vec<u64> = (0..10).map(|position| order.row(position)).collect();
        assert_eq!(rows, PINNED);
    }

    const PINNED: [u64; 10] = [1, 4, 0, 7, 5, 9, 6, 2, 3, 8];

    #[test]
    fn steps_drop_the_last_partial_batch() {
        assert_eq!(steps_per_epoch(44_320, 32), 1385);
        assert_eq!(steps_per_epoch(31, 32), 0);
        assert_eq!(steps_per_epoch(31, 0), 0);
    }

    #[test]
    fn a_rank_outside_its_world_is_refused() {
        assert_eq!(World::new(2, 2), Err(WorldError { rank: 2, world_size: 2 }));
        assert!(World::new(0, 0).is_err());
    }

    proptest! {
        #[test]
        fn large_epochs_stay_in_range_and_do_not_collide(
            num_samples in 1_000_u64..1_000_000_000,
            seed: u64,
            epoch: u64,
            start: u64,
        ) {
            let order = Order::new(num_samples, seed, epoch);
            let rows: BTreeSet<u64> =
                (0..1000).map(|step| order.row((start % num_samples + step) % num_samples)).collect();
            prop_assert_eq!(rows.len(), 1000);
            prop_assert!(rows.iter().all(|&row| row < num_samples));
        }

        /// A function with an inverse on a finite set is a permutation of it.
        #[test]
        fn any_position_of_a_huge_epoch_comes_back(
            num_samples in prop_oneof![Just(1_000_000_000_u64), 1_u64..1 << 62],
            seed: u64,
            epoch: u64,
            places in prop::collection::vec(any::<u64>(), 64),
        ) {
            let order = Order::new(num_samples, seed, epoch);
            for place in places.into_iter().map(|place| place % num_samples) {
                let row = order.row(place);
                prop_assert!(row < num_samples);
                prop_assert_eq!(order.position(row), place);
                prop_assert_eq!(order.row(order.position(place)), place);
            }
        }

        #[test]
        fn slices_partition_the_global_batch(world_size in 1_usize..70, global_batch in 0_usize..500) {
            let mut next = 0;
            for rank in 0..world_size {
                let slice = World::new(rank, world_size).unwrap().slice(global_batch);
                prop_assert_eq!(slice.start, next);
                prop_assert!(slice.len().abs_diff(global_batch / world_size) <= 1);
                next = slice.end;
            }
            prop_assert_eq!(next, global_batch);
        }
    }
}
