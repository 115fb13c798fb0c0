//! Which split a pair belongs to.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::PathBuf;

use serde::de::{MapAccess, Visitor, value::MapAccessDeserializer};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

use super::folders::{Listing, composed, name_of, without_extension};
use super::layouts::{Candidate, Found, TRAIN, VAL};
use super::{Discovery, Layout, Pair, Rejected, SourceError, published};
use crate::verify::RejectReason;

/// How pairs are divided into splits. In a configuration:
///
/// ```toml
/// split = "native"                                          # the default
/// split = "train"                                           # everything
/// split = { folders = { "DIS-TR" = "train", "DIS-VD" = "val" } }
/// split = { lists = { train = "list/train.txt", val = "list/val.txt" } }
/// split = { holdout = 0.2 }                                 # and optionally seed = 7
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub enum SplitRule {
    /// By the layout's own folders or lists; see the table in [`crate::source`].
    #[default]
    Native,
    /// Everything goes to this split.
    Fixed(String),
    /// By the leading folders of the name; pairs in no named folder are left out.
    Folders(BTreeMap<String, String>),
    /// By text files (relative to the root) of names, stems or file names, one a line; pairs in no
    /// list are left out.
    Lists(BTreeMap<String, PathBuf>),
    /// Of what the layout gives to `train`, a share goes to `val`; its own `val` and `test` stay as they
    /// are. The pictures are ranked by a hash of seed and name, and the first `round(fraction * n)` are
    /// held out: exact in number, the same each time, and independent of where the files lie. All
    /// objects of one picture go to the same side.
    Holdout {
        /// Share held out, 0 to 1.
        fraction: f64,
        /// Another seed holds out other pairs.
        seed: u64,
    },
}

const NATIVE: &str = "native";

/// The table form of a rule, as written in a configuration.
#[derive(Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
struct RuleTable {
    #[serde(skip_serializing_if = "Option::is_none")]
    folders: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lists: Option<BTreeMap<String, PathBuf>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    holdout: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
}

impl Serialize for SplitRule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let table = match self.clone() {
            Self::Native => return serializer.serialize_str(NATIVE),
            Self::Fixed(split) => return serializer.serialize_str(&split),
            Self::Folders(folders) => RuleTable { folders: Some(folders), ..Default::default() },
            Self::Lists(lists) => RuleTable { lists: Some(lists), ..Default::default() },
            Self::Holdout { fraction, seed } => {
                RuleTable { holdout: Some(fraction), seed: Some(seed), ..Default::default() }
            }
        };
        table.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for SplitRule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RuleVisitor)
    }
}

/// By hand, because an untagged enum would answer every mistake with the same words.
struct RuleVisitor;

impl<'de> Visitor<'de> for RuleVisitor {
    type Value = SplitRule;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("\"native\", the name of a split, or one of { folders = {..} }, { lists = {..} }, { holdout = 0.2 }")
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<SplitRule, E> {
        Ok(if value == NATIVE { SplitRule::Native } else { SplitRule::Fixed(value.to_owned()) })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<SplitRule, A::Error> {
        use serde::de::Error;
        let table = RuleTable::deserialize(MapAccessDeserializer::new(map))?;
        match table {
            RuleTable { folders: Some(folders), lists: None, holdout: None, seed: None } => {
                Ok(SplitRule::Folders(folders))
            }
            RuleTable { folders: None, lists: Some(lists), holdout: None, seed: None } => {
                Ok(SplitRule::Lists(lists))
            }
            RuleTable { folders: None, lists: None, holdout: Some(fraction), seed } => {
                if !(0.0..=1.0).contains(&fraction) {
                    return Err(A::Error::custom(format!("holdout = {fraction}: expected 0 to 1")));
                }
                Ok(SplitRule::Holdout { fraction, seed: seed.unwrap_or(0) })
            }
            _ => Err(A::Error::custom(
                "expected exactly one of `folders`, `lists`, `holdout` (with an optional `seed`)",
            )),
        }
    }
}

/// Divides what a layout found by the rule of the source, and sorts it.
pub(super) fn assign(listing: &Listing<'_>, found: Found) -> Result<Discovery, SourceError> {
    let spec = listing.spec;
    let mut found = found;
    found.candidates.sort_by(|a, b| a.name.cmp(&b.name));
    let splits = splits_of(listing, &found.candidates)?;
    let parts = published::count(listing, &found, &splits);
    let Found { candidates, rejected } = found;
    let license = spec.terms().license;
    let mut discovery = Discovery { parts, ..Discovery::default() };
    let mut taken: HashMap<String, String> = HashMap::new();
    for (candidate, split) in candidates.into_iter().zip(splits) {
        let Some(split) = split else { continue };
        let file_name = name_of(&candidate.image).to_owned();
        if let Some(kept) = taken.insert(candidate.name.clone(), file_name) {
            let reason = RejectReason::DuplicateName { kept: kept.clone() };
            taken.insert(candidate.name.clone(), kept);
            discovery.rejected.push(candidate.reject(listing, reason));
            continue;
        }
        discovery.pairs.push(Pair {
            source: spec.name.clone(),
            split,
            class: candidate.class,
            name: candidate.name,
            image: candidate.image,
            mask: candidate.mask,
            license: candidate.license.or_else(|| license.clone()),
        });
    }
    discovery.rejected.extend(rejected);
    discovery.pairs.sort_by_cached_key(Pair::sample_id);
    discovery.rejected.sort_by_cached_key(|entry: &Rejected| {
        let mask = entry.mask.as_ref().map(ToString::to_string);
        (entry.sample_id.clone(), entry.image.clone(), mask)
    });
    Ok(discovery)
}

/// The split of each candidate; `None` leaves it out.
fn splits_of(
    listing: &Listing<'_>,
    candidates: &[Candidate],
) -> Result<Vec<Option<String>>, SourceError> {
    let each =
        |split: &dyn Fn(&Candidate) -> Option<String>| candidates.iter().map(split).collect();
    Ok(match &listing.spec.split {
        SplitRule::Native => each(&|candidate| Some(candidate.native_split.to_owned())),
        SplitRule::Fixed(split) => each(&|_| Some(split.clone())),
        SplitRule::Folders(folders) => each(&|candidate| by_folder(folders, &candidate.name)),
        SplitRule::Lists(lists) => {
            let splits = read_lists(listing, lists)?;
            each(&|candidate| {
                let stem = candidate.name.rsplit('/').next().unwrap_or_default();
                splits.get(&candidate.name).or_else(|| splits.get(stem)).cloned()
            })
        }
        SplitRule::Holdout { fraction, seed } => {
            holdout(listing.spec.layout, candidates, *fraction, *seed)
        }
    })
}

/// The longest named folder that the name lies in decides.
pub(super) fn by_folder(folders: &BTreeMap<String, String>, name: &str) -> Option<String> {
    let inside = |folder: &str| {
        name.strip_prefix(composed(folder).trim_end_matches('/'))
            .is_some_and(|rest| rest.starts_with('/'))
    };
    let (_, split) = folders
        .iter()
        .filter(|(folder, _)| inside(folder))
        .max_by_key(|(folder, _)| folder.len())?;
    Some(split.clone())
}

/// Names and stems of all lists, each with its split.
fn read_lists(
    listing: &Listing<'_>,
    lists: &BTreeMap<String, PathBuf>,
) -> Result<HashMap<String, String>, SourceError> {
    let mut splits = HashMap::new();
    for (split, path) in lists {
        for name in read_list(listing, &path.to_string_lossy())? {
            if let Some(other) = splits.insert(name.clone(), split.clone())
                && other != *split
            {
                return Err(listing
                    .problem(format!("`{name}` is in the lists of both `{other}` and `{split}`")));
            }
        }
    }
    Ok(splits)
}

/// The lines of a list without image extensions; empty lines and carriage returns are dropped.
pub(super) fn read_list(listing: &Listing<'_>, path: &str) -> Result<Vec<String>, SourceError> {
    let path = listing.locate(path).unwrap_or_else(|| path.to_owned());
    let text = listing.read_text(&path)?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    Ok(lines.map(|line| composed(without_extension(line))).collect())
}

fn holdout(
    layout: Layout,
    candidates: &[Candidate],
    fraction: f64,
    seed: u64,
) -> Vec<Option<String>> {
    let mut pictures: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (index, candidate) in candidates.iter().enumerate() {
        if candidate.native_split == TRAIN {
            pictures.entry(picture_of(layout, candidate)).or_default().push(index);
        }
    }
    let key = |name: &String| {
        Sha256::new().chain_update(seed.to_le_bytes()).chain_update(name.as_bytes()).finalize()
    };
    let held_out = (fraction.clamp(0.0, 1.0) * pictures.len() as f64).round() as usize;
    let mut ranked: Vec<(String, Vec<usize>)> = pictures.into_iter().collect();
    ranked.sort_by_cached_key(|(name, _)| key(name));
    let mut splits: Vec<Option<String>> =
        candidates.iter().map(|candidate| Some(candidate.native_split.clone())).collect();
    for index in ranked.into_iter().take(held_out).flat_map(|(_, candidates)| candidates) {
        splits[index] = Some(VAL.to_owned());
    }
    splits
}

/// What the pairs of one picture have in common: by layout, as their names or files have it.
fn picture_of(layout: Layout, candidate: &Candidate) -> String {
    match layout {
        // `<image>/<annotation id>`.
        Layout::Coco => candidate.name.rsplit_once('/').map_or("", |(image, _)| image).to_owned(),
        // Lists may name an image as often as it has objects.
        Layout::Csv | Layout::Jsonl => composed(without_extension(&candidate.image)),
        _ => candidate.name.clone(),
    }
}
