//! The published collections: their parts, how many pairs the authors announce of each, and which of
//! them a source holds.

use std::collections::BTreeMap;

use super::folders::{Listing, root_name};
use super::layouts::{Candidate, Found};
use super::split::{SplitRule, by_folder};
use super::{Layout, SourceError, SourceSpec};

/// A part of a published collection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishedPart {
    /// Its folder or list as the authors call it; empty where a collection has one part only.
    pub name: &'static str,
    /// Pairs that the authors announce, where that is known for sure.
    pub pairs: Option<u64>,
}

const fn part(name: &'static str, pairs: u64) -> PublishedPart {
    PublishedPart { name, pairs: Some(pairs) }
}

/// The parts of a collection, by the layout that its authors ship it in; none for other layouts.
#[must_use]
pub fn published_parts(collection: Layout) -> &'static [PublishedPart] {
    match collection {
        Layout::Ecssd => const { &[part("", 1000)] },
        Layout::Duts => const { &[part("DUTS-TR", 10_553), part("DUTS-TE", 5019)] },
        Layout::Fss1000 | Layout::Msra10k => const { &[part("", 10_000)] },
        Layout::DutOmron => const { &[part("", 5168)] },
        Layout::Dis5k => {
            const {
                &[
                    part("DIS-TR", 3000),
                    part("DIS-VD", 470),
                    part("DIS-TE1", 500),
                    part("DIS-TE2", 500),
                    part("DIS-TE3", 500),
                    part("DIS-TE4", 500),
                ]
            }
        }
        // What is said of the other two lists, of COIFT and of HRSOD is not verified.
        Layout::ThinObject5k => {
            const {
                &[
                    part("train", 4748),
                    PublishedPart { name: "val", pairs: None },
                    PublishedPart { name: "test", pairs: None },
                ]
            }
        }
        Layout::Big => const { &[part("val", 50), part("test", 100)] },
        Layout::Custom | Layout::Csv | Layout::Jsonl | Layout::Coco => &[],
    }
}

/// What a source holds of one part of its collection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FoundPart {
    /// As [`PublishedPart::name`].
    pub name: String,
    /// Pairs that the authors announce, where that is known for sure.
    pub published: Option<u64>,
    /// Pairs by the split they go to.
    pub pairs: BTreeMap<String, u64>,
    /// Images and masks that make no pair, and pairs known to be wrong.
    pub rejected: u64,
    /// Pairs that the split rule leaves out.
    pub left_out: u64,
}

impl FoundPart {
    /// All that is there, used or not.
    #[must_use]
    pub fn found(&self) -> u64 {
        self.pairs.values().sum::<u64>() + self.rejected + self.left_out
    }
}

impl SourceSpec {
    /// The published collection that the source is: what it says, else by its layout.
    #[must_use]
    pub fn published_as(&self) -> Layout {
        self.collection.unwrap_or(self.layout)
    }

    /// The name that a pair of this source has in the collection as its authors ship it.
    #[must_use]
    pub fn published_name(&self, name: &str) -> String {
        match (&self.part, self.published_as()) {
            // Names of these begin with the folder of their part.
            (Some(part), Layout::Duts | Layout::Dis5k) => format!("{part}/{name}"),
            _ => name.to_owned(),
        }
    }
}

/// Refuses a collection or a part that there is not, or that the layout says already.
pub(super) fn check(listing: &Listing<'_>) -> Result<(), SourceError> {
    let spec = listing.spec;
    let own = !published_parts(spec.layout).is_empty();
    if own && (spec.collection.is_some() || spec.part.is_some()) {
        return Err(listing.problem(format!(
            "`collection` and `part` are for files in another layout; `{}` is the authors' own",
            spec.layout.name()
        )));
    }
    let parts = published_parts(spec.published_as());
    if let Some(collection) = spec.collection.filter(|_| parts.is_empty()) {
        return Err(listing.problem(format!(
            "`collection = \"{}\"`: that is no published collection",
            collection.name()
        )));
    }
    let Some(name) = &spec.part else { return Ok(()) };
    let known: Vec<&str> = parts.iter().map(|part| part.name).collect();
    match known.contains(&name.as_str()) && !name.is_empty() {
        true => Ok(()),
        false if spec.collection.is_none() => {
            Err(listing.problem("`part` needs `collection`, such as \"duts\"".to_owned()))
        }
        false => Err(listing.problem(format!(
            "`part = \"{name}\"`: its collection has {}",
            match &known[..] {
                [""] => "no parts".to_owned(),
                known => known.join(", "),
            }
        ))),
    }
}

/// Counts what was found by the parts of the collection. A part of which nothing is used is none of
/// the source's, unless the split rule asks for all there is.
pub(super) fn count(
    listing: &Listing<'_>,
    found: &Found,
    splits: &[Option<String>],
) -> Vec<FoundPart> {
    let spec = listing.spec;
    let published = published_parts(spec.published_as());
    // Whatever is found belongs to the part that the source says it is, or to the only one.
    let only = match published {
        [only] => Some(only.name),
        _ => spec.part.as_deref(),
    };
    let mut counts: BTreeMap<&str, FoundPart> = BTreeMap::new();
    for (Candidate { part, .. }, split) in found.candidates.iter().zip(splits) {
        let Some(part) = only.or(*part) else { continue };
        let count = counts.entry(part).or_default();
        match split {
            Some(split) => *count.pairs.entry(split.clone()).or_default() += 1,
            None => count.left_out += 1,
        }
    }
    for rejected in &found.rejected {
        let Some(part) = only.or(rejected.part) else { continue };
        counts.entry(part).or_default().rejected += 1;
    }
    let parts = published.iter().filter_map(|part| {
        let count = counts.remove(part.name).unwrap_or_default();
        let used = !count.pairs.is_empty() || (only.is_none() && wanted(spec, part.name));
        let (name, published) = (part.name.to_owned(), part.pairs);
        used.then_some(FoundPart { name, published, ..count })
    });
    parts.collect()
}

/// Whether the split rule asks for a part even where it is not there.
fn wanted(spec: &SourceSpec, part: &str) -> bool {
    let parts = published_parts(spec.layout);
    let root = root_name(&spec.root);
    let is_root = |part: &PublishedPart| part.name.eq_ignore_ascii_case(&root);
    // The root may be one part alone. What the lists of thin objects are of, only the lists tell.
    let told_by_files = spec.layout == Layout::ThinObject5k || parts.is_empty();
    if told_by_files || parts.iter().any(is_root) {
        return false;
    }
    match &spec.split {
        SplitRule::Native | SplitRule::Fixed(_) | SplitRule::Holdout { .. } => true,
        SplitRule::Folders(folders) => by_folder(folders, &format!("{part}/")).is_some(),
        SplitRule::Lists(_) => false,
    }
}
