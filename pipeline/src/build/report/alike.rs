//! Which pictures look alike, found without comparing each with each.
//!
//! Rows are gathered by their perceptual hash first, so that any number of uniform pictures, which
//! share one, costs no more than as many rows. Different hashes are cut into bands, and only those
//! that agree in one are compared.

use std::collections::BTreeMap;

use super::facts::RowFacts;

/// Images whose 64-bit perceptual hashes differ in at most this many bits count as alike.
const ALIKE_BITS: u32 = 3;
/// Cuts the hash into bands: two hashes with at most `ALIKE_BITS` differing bits agree in one.
const BANDS: u32 = ALIKE_BITS + 1;
const BAND_BITS: u32 = u64::BITS / BANDS;

/// Split and source of a row.
pub(super) type Place<'a> = (&'a str, &'a str);

/// The rows of one perceptual hash.
pub(super) struct Group<'a> {
    hash: u64,
    /// Indices of the rows, ascending; nearly always one row.
    pub(super) rows: Vec<(Place<'a>, Vec<usize>)>,
}

/// All rows, by their hashes.
pub(super) struct Groups<'a>(Vec<Group<'a>>);

impl<'a> Groups<'a> {
    pub(super) fn of(facts: &'a [RowFacts]) -> Self {
        let mut groups: BTreeMap<u64, Vec<(Place<'a>, Vec<usize>)>> = BTreeMap::new();
        for (row, fact) in facts.iter().enumerate() {
            let places = groups.entry(fact.perceptual_hash).or_default();
            let place = (fact.split.as_str(), fact.source.as_str());
            match places.iter_mut().find(|(known, _)| *known == place) {
                Some((_, rows)) => rows.push(row),
                None => places.push((place, vec![row])),
            }
        }
        Self(groups.into_iter().map(|(hash, rows)| Group { hash, rows }).collect())
    }

    /// Calls `visit` with the differing bits once for each two groups that are alike, and once for
    /// each group with itself.
    pub(super) fn alike(&self, mut visit: impl FnMut(&Group<'a>, &Group<'a>, u32)) {
        for group in &self.0 {
            visit(group, group, 0);
        }
        for band in 0..BANDS {
            let mut buckets: BTreeMap<u64, Vec<&Group<'a>>> = BTreeMap::new();
            for group in &self.0 {
                buckets.entry(band_of(group.hash, band)).or_default().push(group);
            }
            for bucket in buckets.into_values() {
                for (at, left) in bucket.iter().enumerate() {
                    for right in &bucket[at + 1..] {
                        let differing = left.hash ^ right.hash;
                        let seen = (0..band).any(|earlier| band_of(differing, earlier) == 0);
                        if differing.count_ones() <= ALIKE_BITS && !seen {
                            visit(left, right, differing.count_ones());
                        }
                    }
                }
            }
        }
    }
}

fn band_of(hash: u64, band: u32) -> u64 {
    (hash >> (band * BAND_BITS)) & ((1 << BAND_BITS) - 1)
}
