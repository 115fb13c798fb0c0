//! Images that occur twice, and images that look like another: in other splits, in other sources, in
//! their own.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::alike::{Group, Groups, Place};
use super::facts::RowFacts;

/// Pairs of each kind that a report lists; the counts are exact.
const MOST_LISTED: usize = 100;

/// The split that trains; what it shares with any other is a leak.
pub(in super::super) const TRAIN_SPLIT: &str = "train";

/// Repetitions found in a data set.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Duplicates {
    /// Rows whose image file another row has too.
    pub identical: u64,
    /// Rows of the split `train` whose image is the same as, or looks like, one of another split: those
    /// that `drop_leaks` leaves out.
    pub leaked: u64,
    /// Pairs of alike images in different splits: what is trained on may be evaluated on.
    pub across_splits: u64,
    /// Pairs of alike images in one split, of different sources.
    pub across_sources: u64,
    /// Pairs of alike images in one split of one source, other than those that share a file.
    pub within_sources: u64,
    /// The first of each kind, in the order of [`Repetition`]. Of many images that are all alike each is
    /// listed, not each pair.
    pub pairs: Vec<DuplicatePair>,
}

/// Where two alike images lie. The first kind is the worst.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Repetition {
    /// In different splits.
    AcrossSplits,
    /// In one split, from different sources.
    AcrossSources,
    /// In one split of one source, in different files.
    WithinSource,
    /// In one split of one source, and the same file: also several objects of one image.
    SameFile,
}

/// Two samples whose images are the same or alike.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct DuplicatePair {
    /// Where the two lie.
    pub kind: Repetition,
    /// Differing bits of the perceptual hashes; 0 for identical files.
    pub bits: u32,
    /// `split: source/name`.
    pub left: String,
    /// `split: source/name`.
    pub right: String,
}

/// Finds repetitions among all rows.
pub(super) fn find(facts: &[RowFacts]) -> Duplicates {
    let groups = Groups::of(facts);
    let mut search = Search { facts, found: Duplicates::default(), listed: BTreeMap::new() };
    groups.alike(|left, right, bits| search.take(left, right, bits));
    let Search { mut found, listed, .. } = search;
    found.identical = identical(facts);
    found.leaked = leaks_of(facts, &groups).len() as u64;
    for (kind, pairs) in listed {
        found.pairs.extend(pairs.into_iter().map(|(bits, left, right)| {
            let [left, right] = [left, right].map(|row| place(&facts[row]));
            DuplicatePair { kind, bits, left, right }
        }));
    }
    found
}

fn identical(facts: &[RowFacts]) -> u64 {
    let mut by_digest: BTreeMap<&str, u64> = BTreeMap::new();
    for fact in facts {
        *by_digest.entry(&fact.image_sha256).or_default() += 1;
    }
    by_digest.into_values().filter(|&rows| rows > 1).sum()
}

/// Counts pairs and keeps the first of each kind.
struct Search<'a> {
    facts: &'a [RowFacts],
    found: Duplicates,
    /// Differing bits and the two rows.
    listed: BTreeMap<Repetition, BTreeSet<(u32, usize, usize)>>,
}

impl Search<'_> {
    fn take(&mut self, left: &Group<'_>, right: &Group<'_>, bits: u32) {
        let itself = std::ptr::eq(left, right);
        for (at, (place, rows)) in left.rows.iter().enumerate() {
            for (other, others) in right.rows.iter().skip(if itself { at } else { 0 }) {
                match itself && place == other {
                    true => self.take_alike(rows),
                    false => self.take_both((place, rows), (other, others), bits),
                }
            }
        }
    }

    /// Rows of one hash in one place.
    fn take_alike(&mut self, rows: &[usize]) {
        let pairs = |rows: u64| rows * (rows - 1) / 2;
        // By file, its first row and how many have it.
        let mut files: BTreeMap<&str, (usize, u64)> = BTreeMap::new();
        for &row in rows {
            let (first, copies) = files.entry(&self.facts[row].image_sha256).or_insert((row, 0));
            *copies += 1;
            if *first != row {
                let first = *first;
                self.list(Repetition::SameFile, 0, (first, row));
            } else if row != rows[0] {
                self.list(Repetition::WithinSource, 0, (rows[0], row));
            }
        }
        self.found.within_sources += pairs(rows.len() as u64)
            - files.into_values().map(|(_, copies)| pairs(copies)).sum::<u64>();
    }

    /// Rows of two hashes, or of one hash in two places.
    fn take_both(
        &mut self,
        (place, rows): (&Place<'_>, &[usize]),
        (other, others): (&Place<'_>, &[usize]),
        bits: u32,
    ) {
        let (kind, count) = match place {
            _ if place.0 != other.0 => (Repetition::AcrossSplits, &mut self.found.across_splits),
            _ if place.1 != other.1 => (Repetition::AcrossSources, &mut self.found.across_sources),
            _ => (Repetition::WithinSource, &mut self.found.within_sources),
        };
        *count += rows.len() as u64 * others.len() as u64;
        for at in 0..rows.len().max(others.len()) {
            self.list(kind, bits, (rows[at % rows.len()], others[at % others.len()]));
        }
    }

    fn list(&mut self, kind: Repetition, bits: u32, (left, right): (usize, usize)) {
        let listed = self.listed.entry(kind).or_default();
        listed.insert((bits, left.min(right), left.max(right)));
        if listed.len() > MOST_LISTED {
            listed.pop_last();
        }
    }
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
    let nearest = leaks_of(facts, &Groups::of(facts)).into_iter();
    nearest
        .map(|(row, (bits, of))| {
            (facts[row].sample_id.clone(), Leak { bits, of: place(&facts[of]) })
        })
        .collect()
}

/// By row for training, the differing bits and the row of another split that it resembles most.
fn leaks_of(facts: &[RowFacts], groups: &Groups<'_>) -> BTreeMap<usize, (u32, usize)> {
    let mut leaks: BTreeMap<usize, (u32, usize)> = BTreeMap::new();
    let mut look = |trained: &Group<'_>, evaluated: &Group<'_>, bits| {
        let others = evaluated.rows.iter().filter(|(place, _)| place.0 != TRAIN_SPLIT);
        // Of those that differ in as many bits the first by name.
        let first = others.map(|(_, rows)| rows[0]).min_by_key(|&row| place(&facts[row]));
        let Some(first) = first else { return };
        let train = trained.rows.iter().filter(|(place, _)| place.0 == TRAIN_SPLIT);
        for &row in train.flat_map(|(_, rows)| rows) {
            let known = leaks.entry(row).or_insert((bits, first));
            if (bits, place(&facts[first])) < (known.0, place(&facts[known.1])) {
                *known = (bits, first);
            }
        }
    };
    groups.alike(|left, right, bits| {
        look(left, right, bits);
        if !std::ptr::eq(left, right) {
            look(right, left, bits);
        }
    });
    leaks
}

/// `split: source/name`.
pub(super) fn place(fact: &RowFacts) -> String {
    format!("{}: {}", fact.split, fact.sample_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fact(name: &str, (split, source): (&str, &str), sha256: &str, hash: u64) -> RowFacts {
        RowFacts {
            sample_id: format!("{source}/{name}"),
            source: source.into(),
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

    const TRAIN: (&str, &str) = ("train", "s");
    const VAL: (&str, &str) = ("val", "s");

    fn counts(found: &Duplicates) -> [u64; 5] {
        let Duplicates { identical, leaked, across_splits, across_sources, within_sources, .. } =
            *found;
        [identical, leaked, across_splits, across_sources, within_sources]
    }

    #[test]
    fn identical_files_and_alike_pictures_are_found_wherever_they_lie() {
        let facts = [
            fact("a", TRAIN, "1", 0),
            fact("b", TRAIN, "1", 0),
            fact("c", VAL, "2", 1 << 3 | 1 << 20 | 1 << 63),
            fact("d", VAL, "3", u64::MAX),
            fact("e", VAL, "4", u64::MAX ^ 1),
            fact("f", ("val", "t"), "5", u64::MAX ^ 1 << 40),
        ];
        let found = find(&facts);
        assert_eq!(counts(&found), [2, 2, 2, 2, 1]);
        let listed: Vec<_> = found
            .pairs
            .iter()
            .map(|pair| (pair.kind, pair.bits, pair.left.as_str(), pair.right.as_str()))
            .collect();
        use Repetition::{AcrossSources, AcrossSplits, SameFile, WithinSource};
        assert_eq!(
            listed,
            [
                (AcrossSplits, 3, "train: s/a", "val: s/c"),
                (AcrossSplits, 3, "train: s/b", "val: s/c"),
                (AcrossSources, 1, "val: s/d", "val: t/f"),
                (AcrossSources, 2, "val: s/e", "val: t/f"),
                (WithinSource, 1, "val: s/d", "val: s/e"),
                (SameFile, 0, "train: s/a", "train: s/b"),
            ]
        );

        let leaks = leaks(&facts);
        assert_eq!(leaks.keys().collect::<Vec<_>>(), ["s/a", "s/b"], "never a row of `val`");
        assert_eq!(leaks["s/a"], Leak { bits: 3, of: "val: s/c".into() });
    }

    #[test]
    fn many_copies_hide_no_leak() {
        let train = (0..205).map(|at| fact(&format!("{at:03}"), TRAIN, "1", 7));
        let facts: Vec<_> =
            train.chain((0..6).map(|at| fact(&format!("v{at}"), VAL, "1", 7))).collect();
        let found = find(&facts);
        assert_eq!(counts(&found), [211, 205, 205 * 6, 0, 0]);
        assert_eq!(leaks(&facts).len(), 205);
        assert_eq!(found.pairs.len(), 2 * MOST_LISTED);
        assert!(
            found.pairs[..MOST_LISTED].iter().all(|pair| pair.kind == Repetition::AcrossSplits)
        );
    }

    /// Comparing each of these with each would take minutes.
    #[test]
    fn uniform_pictures_cost_no_more_than_their_number() {
        let rows = 300_000_u64;
        let flat = (0..rows).map(|at| fact(&at.to_string(), TRAIN, &at.to_string(), 0));
        let facts: Vec<_> = flat.chain([fact("v", VAL, "v", 1)]).collect();
        let found = find(&facts);
        assert_eq!(counts(&found), [0, rows, rows, 0, rows * (rows - 1) / 2]);
        assert_eq!(found.pairs.len(), 2 * MOST_LISTED);
    }

    /// All pairs of hashes around two others, by comparing each with each.
    #[test]
    fn bands_find_what_comparing_all_finds() {
        let hashes = (0..64).flat_map(|bit| {
            let near = 0x0123_4567_89ab_cdef_u64;
            [near ^ 1 << bit, near ^ 1 << bit ^ 1 << (bit * 7 % 64), !near ^ 3 << (bit % 63)]
        });
        let facts: Vec<_> = hashes
            .enumerate()
            .map(|(at, hash)| {
                fact(&at.to_string(), if at % 3 == 0 { VAL } else { TRAIN }, &at.to_string(), hash)
            })
            .collect();
        let mut expected = [0; 2];
        let mut leaked = BTreeSet::new();
        for (at, left) in facts.iter().enumerate() {
            for right in &facts[at + 1..] {
                let bits = (left.perceptual_hash ^ right.perceptual_hash).count_ones();
                expected[usize::from(left.split == right.split)] += u64::from(bits <= 3);
                if bits <= 3 && left.split != right.split {
                    let both = [left, right].into_iter();
                    leaked.extend(
                        both.filter(|fact| fact.split == TRAIN_SPLIT).map(|fact| &fact.sample_id),
                    );
                }
            }
        }
        let found = find(&facts);
        assert!(expected.iter().all(|&pairs| pairs > 100), "{expected:?}");
        assert_eq!([found.across_splits, found.within_sources], expected);
        assert!(leaked.len() > 30 && leaked.len() < facts.len() / 3 * 2);
        assert!(leaks(&facts).keys().eq(leaked), "whichever of the two has the smaller hash");
    }
}
