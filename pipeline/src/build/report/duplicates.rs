//! Images that occur twice, and images of one split that look like one of another.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::facts::RowFacts;

/// Images whose 64-bit perceptual hashes differ in at most this many bits count as alike.
const ALIKE_BITS: u32 = 3;
/// Cuts the hash into bands: two hashes with at most `ALIKE_BITS` differing bits agree in one.
const BANDS: u32 = ALIKE_BITS + 1;
/// Pairs listed in a report; the counts are exact up to [`MOST_COMPARED`].
const MOST_LISTED: usize = 100;
/// Rows compared within one band value: flat pictures share hashes and would be compared
/// quadratically.
const MOST_COMPARED: usize = 200;

/// The split that trains; what it shares with any other is a leak.
pub(in super::super) const TRAIN_SPLIT: &str = "train";

/// Repetitions found in a data set.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Duplicates {
    /// Rows whose image file another row has too.
    pub identical: u64,
    /// Pairs of alike images in different splits: what is trained on may be evaluated on.
    pub across_splits: u64,
    /// The first of both kinds.
    pub pairs: Vec<DuplicatePair>,
}

/// Two samples whose images are the same or alike.
#[derive(Clone, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub struct DuplicatePair {
    /// Differing bits of the perceptual hashes; 0 for identical files.
    pub bits: u32,
    /// `split: source/name`.
    pub left: String,
    /// `split: source/name`.
    pub right: String,
}

/// Finds repetitions among all rows.
pub(super) fn find(facts: &[RowFacts]) -> Duplicates {
    let mut found = Duplicates::default();
    let mut pairs = identical(facts, &mut found.identical);
    let alike = alike_across_splits(facts);
    found.across_splits = alike.len() as u64;
    pairs.truncate(MOST_LISTED);
    pairs.extend(alike.into_iter().take(MOST_LISTED));
    pairs.sort();
    pairs.dedup();
    found.pairs = pairs;
    found
}

fn identical(facts: &[RowFacts], rows: &mut u64) -> Vec<DuplicatePair> {
    let mut by_digest: BTreeMap<&str, Vec<&RowFacts>> = BTreeMap::new();
    for fact in facts {
        by_digest.entry(&fact.image_sha256).or_default().push(fact);
    }
    let mut pairs = Vec::new();
    for same in by_digest.values().filter(|same| same.len() > 1) {
        *rows += same.len() as u64;
        pairs.extend(same[1..].iter().map(|other| pair(same[0], other, 0)));
    }
    pairs
}

fn alike_across_splits(facts: &[RowFacts]) -> Vec<DuplicatePair> {
    let mut pairs = Vec::new();
    for bucket in buckets(facts) {
        let bucket = &bucket[..bucket.len().min(MOST_COMPARED)];
        for (at, left) in bucket.iter().enumerate() {
            for right in bucket[at + 1..].iter().filter(|right| right.split != left.split) {
                if let Some(bits) = alike(left, right) {
                    pairs.push(pair(left, right, bits));
                }
            }
        }
    }
    pairs.sort();
    pairs.dedup();
    pairs
}

/// The image of a row for training that a row of another split has too.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(in super::super) struct Leak {
    /// Differing bits of the perceptual hashes.
    pub(in super::super) bits: u32,
    /// `split: source/name` of the other row.
    pub(in super::super) of: String,
}

/// Every leaked row of the split for training, by sample id, with the row it resembles most.
pub(in super::super) fn leaks(facts: &[RowFacts]) -> BTreeMap<String, Leak> {
    let mut leaks: BTreeMap<String, Leak> = BTreeMap::new();
    for bucket in buckets(facts) {
        let (train, others): (Vec<&RowFacts>, Vec<&RowFacts>) =
            bucket.into_iter().partition(|fact| fact.split == TRAIN_SPLIT);
        for row in train {
            let found = others
                .iter()
                .filter_map(|other| alike(row, other).map(|bits| Leak { bits, of: place(other) }));
            let known = leaks.get(&row.sample_id).cloned();
            if let Some(leak) = found.chain(known).min() {
                leaks.insert(row.sample_id.clone(), leak);
            }
        }
    }
    leaks
}

/// Rows whose hashes agree in one band; alike rows meet in at least one of these.
fn buckets(facts: &[RowFacts]) -> impl Iterator<Item = Vec<&RowFacts>> {
    let width = u64::BITS / BANDS;
    (0..BANDS).flat_map(move |band| {
        let mut buckets: BTreeMap<u64, Vec<&RowFacts>> = BTreeMap::new();
        for fact in facts {
            let value = (fact.perceptual_hash >> (band * width)) & ((1 << width) - 1);
            buckets.entry(value).or_default().push(fact);
        }
        buckets.into_values()
    })
}

/// The differing bits of two rows that count as alike.
fn alike(left: &RowFacts, right: &RowFacts) -> Option<u32> {
    let bits = (left.perceptual_hash ^ right.perceptual_hash).count_ones();
    (bits <= ALIKE_BITS).then_some(bits)
}

/// `split: source/name`.
pub(super) fn place(fact: &RowFacts) -> String {
    format!("{}: {}", fact.split, fact.sample_id)
}

fn pair(left: &RowFacts, right: &RowFacts, bits: u32) -> DuplicatePair {
    let (left, right) = (place(left), place(right));
    let (left, right) = if left <= right { (left, right) } else { (right, left) };
    DuplicatePair { bits, left, right }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fact(name: &str, split: &str, sha256: &str, hash: u64) -> RowFacts {
        RowFacts {
            sample_id: format!("s/{name}"),
            source: "s".into(),
            split: split.into(),
            geometry: crate::stats::Geometry {
                height: 1,
                width: 1,
                foreground_pixels: 1,
                box_xyxy: [0; 4],
            },
            image_sha256: sha256.into(),
            perceptual_hash: hash,
            place: (0, 0),
        }
    }

    #[test]
    fn identical_files_and_alike_pictures_across_splits_are_found() {
        let facts = [
            fact("a", "train", "1", 0),
            fact("b", "train", "1", 0),
            fact("c", "val", "2", 1 << 3 | 1 << 20 | 1 << 63),
            fact("d", "val", "3", u64::MAX),
        ];
        let found = find(&facts);
        assert_eq!((found.identical, found.across_splits), (2, 2));
        assert_eq!(found.pairs[0].right, "train: s/b");
        assert_eq!((found.pairs[1].bits, found.pairs[1].right.as_str()), (3, "val: s/c"));

        let leaks = leaks(&facts);
        assert_eq!(leaks.keys().collect::<Vec<_>>(), ["s/a", "s/b"], "never a row of `val`");
        assert_eq!(leaks["s/a"], Leak { bits: 3, of: "val: s/c".into() });
    }
}
