//! A fingerprint of the samples of one step over all ranks.
//!
//! Each rank sums numbers made of its samples' ids; the sums travel with the gradients. They are
//! whole and small, so the total depends neither on the number of ranks nor on the order in which
//! they are added, and the log of a run that was interrupted, or that went on with other ranks, can
//! be compared with that of one that was not.

use std::fmt;

use sha2::{Digest, Sha256};

/// The first bytes of the SHA-256 of each sample's id, each byte's place summed for itself. The same
/// samples have the same digest, whoever had them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SampleDigest([u8; Self::LANES as usize]);

impl SampleDigest {
    /// Numbers that are summed over samples. Each stays below 2^24, and so exact in the all-reduce's
    /// float32, for up to 65,793 samples a step.
    pub const LANES: i64 = 8;

    /// The part of one rank.
    #[must_use]
    pub fn lanes<T: AsRef<str>>(sample_ids: &[T]) -> [f64; Self::LANES as usize] {
        let mut lanes = [0.0; Self::LANES as usize];
        for sample_id in sample_ids {
            for (lane, byte) in lanes.iter_mut().zip(Sha256::digest(sample_id.as_ref())) {
                *lane += f64::from(byte);
            }
        }
        lanes
    }

    /// Of the sums over all ranks.
    #[must_use]
    pub fn of_sums(sums: &[f64]) -> Self {
        let mut bytes = [0; Self::LANES as usize];
        for (byte, sum) in bytes.iter_mut().zip(sums) {
            *byte = (*sum as u64 % 256) as u8;
        }
        Self(bytes)
    }
}

impl fmt::Display for SampleDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_add_up_in_any_order_and_another_sample_is_seen() {
        let digest = |parts: &[&[&str]]| {
            let mut sums = [0.0; 8];
            for part in parts {
                for (sum, lane) in sums.iter_mut().zip(SampleDigest::lanes(part)) {
                    *sum += lane;
                }
            }
            SampleDigest::of_sums(&sums).to_string()
        };
        let whole = digest(&[&["a", "b", "c"]]);
        assert_eq!(whole.len(), 16);
        assert_eq!(whole, digest(&[&["c"], &[], &["b", "a"]]));
        assert_ne!(whole, digest(&[&["a", "b", "d"]]));
        assert_ne!(whole, digest(&[&["a", "b", "c", "c"]]));
    }
}
