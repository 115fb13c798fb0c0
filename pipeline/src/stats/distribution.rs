//! Whole numbers and how often each occurs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// How often each value occurs. Quantiles are exact, two distributions add up, and the memory is
/// that of the different values, not of the rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Distribution {
    counts: BTreeMap<u32, u64>,
    total: u64,
}

/// The usual places of a distribution, in its unit.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct Quantiles {
    /// Smallest value.
    pub min: f64,
    /// 5 % of the values are at most this.
    pub p5: f64,
    /// 25 % of the values are at most this.
    pub p25: f64,
    /// Half of the values are at most this.
    pub median: f64,
    /// 75 % of the values are at most this.
    pub p75: f64,
    /// 95 % of the values are at most this.
    pub p95: f64,
    /// Largest value.
    pub max: f64,
    /// Arithmetic mean, to two decimals.
    pub mean: f64,
}

impl Distribution {
    /// Counts one value.
    pub fn add(&mut self, value: u32) {
        *self.counts.entry(value).or_insert(0) += 1;
        self.total += 1;
    }

    /// Counts everything that `other` has counted.
    pub fn merge(&mut self, other: &Self) {
        for (value, count) in &other.counts {
            *self.counts.entry(*value).or_insert(0) += count;
        }
        self.total += other.total;
    }

    /// Values counted.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Smallest and largest value; `None` when nothing was counted.
    #[must_use]
    pub fn range(&self) -> Option<(u32, u32)> {
        Some((*self.counts.keys().next()?, *self.counts.keys().next_back()?))
    }

    /// The smallest value that at least the part `share` (0..=1) of all values does not exceed.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Option<u32> {
        let wanted = ((share * self.total as f64).ceil() as u64).clamp(1, self.total.max(1));
        let mut seen = 0;
        self.counts.iter().find_map(|(value, count)| {
            seen += count;
            (seen >= wanted).then_some(*value)
        })
    }

    /// The usual quantiles, each value divided by `divisor`; `None` when nothing was counted.
    #[must_use]
    pub fn quantiles(&self, divisor: u32) -> Option<Quantiles> {
        let divisor = f64::from(divisor);
        let at = |share: f64| Some(f64::from(self.quantile(share)?) / divisor);
        let sum: u128 =
            self.counts.iter().map(|(value, count)| u128::from(*value) * u128::from(*count)).sum();
        let (min, max) = self.range()?;
        Some(Quantiles {
            min: f64::from(min) / divisor,
            p5: at(0.05)?,
            p25: at(0.25)?,
            median: at(0.5)?,
            p75: at(0.75)?,
            p95: at(0.95)?,
            max: f64::from(max) / divisor,
            mean: (sum as f64 / self.total as f64 / divisor * 100.0).round() / 100.0,
        })
    }

    /// Values in each of the bins `edges[i]..edges[i + 1]`; the last bin includes its upper edge,
    /// and values outside all bins count in the nearest one.
    #[must_use]
    pub fn histogram(&self, edges: &[f64]) -> Vec<u64> {
        let mut bins = vec![0; edges.len().saturating_sub(1)];
        let Some(last) = bins.len().checked_sub(1) else { return bins };
        for (value, count) in &self.counts {
            let after = edges.partition_point(|edge| *edge <= f64::from(*value));
            bins[after.saturating_sub(1).min(last)] += count;
        }
        bins
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[u32]) -> Distribution {
        let mut distribution = Distribution::default();
        values.iter().for_each(|value| distribution.add(*value));
        distribution
    }

    #[test]
    fn quantiles_are_exact_and_parts_add_up() {
        let all = of(&(1..=100).collect::<Vec<_>>());
        let quantiles = all.quantiles(10).unwrap();
        assert_eq!((quantiles.min, quantiles.p5, quantiles.p25), (0.1, 0.5, 2.5));
        assert_eq!((quantiles.median, quantiles.p95, quantiles.max), (5.0, 9.5, 10.0));
        assert_eq!(quantiles.mean, 5.05);
        let mut parts = of(&(1..=40).collect::<Vec<_>>());
        parts.merge(&of(&(41..=100).collect::<Vec<_>>()));
        assert_eq!(parts, all);
        assert_eq!(of(&[]).quantiles(1), None);
        assert_eq!(of(&[7]).quantile(0.5), Some(7));
    }

    #[test]
    fn every_value_has_a_bin() {
        let values = of(&[0, 1, 5, 9, 10, 12]);
        assert_eq!(values.histogram(&[0.0, 5.0, 10.0]), [2, 4]);
        assert_eq!(values.histogram(&[]), Vec::<u64>::new());
    }
}
