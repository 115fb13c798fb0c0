//! `report.json`, `report/index.html` and the data card: what a build found, kept and refused.

mod alike;
mod card;
mod duplicates;
mod facts;
mod page;
mod parts;
mod pictures;
mod plots;

use std::collections::BTreeMap;

use dataset::source::{FoundPart, SourceSpec, Terms};
use serde::{Deserialize, Serialize};

pub(super) use card::card;
pub use duplicates::{DuplicatePair, Duplicates, Repetition};
pub(super) use duplicates::{Leak, TRAIN_SPLIT, leaks};
pub(super) use facts::{RowFacts, facts};
pub use parts::PartReport;

use super::licence::{self, LeftOut};
use super::output::ShardFile;
use super::plan::Plan;
use super::quarantine::Refusal;
use super::receipt::Receipt;
use super::{BuildConfig, BuildError};
use crate::stats::{Stats, Summary};
use crate::workers::{Workers, default_threads};

/// Name of the report inside a data set.
pub const REPORT_FILE: &str = "report.json";
/// Name of the page inside a data set.
pub const PAGE_FILE: &str = "report/index.html";
/// Name of the data card inside a data set.
pub const CARD_FILE: &str = "README.md";

/// What a build made. The same input gives the same report; what depends on the run is not saved.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct BuildReport {
    /// Digest of the configuration and of the names, sizes and times of all raw files: a build
    /// that comes to the same fingerprint has nothing to do.
    pub fingerprint: String,
    /// Digest of the manifest that was published after this report.
    #[serde(default)]
    pub manifest_sha256: String,
    /// Rows of all shards.
    pub rows: u64,
    /// Bytes of all shards.
    pub bytes: u64,
    /// Number of shards.
    pub shards: u64,
    /// Pairs in quarantine.
    pub refused: u64,
    /// In the order of the configuration.
    pub sources: Vec<SourceReport>,
    /// Sources of the configuration that were left out for their licence.
    pub left_out: Vec<LeftOut>,
    /// Repeated images.
    pub duplicates: Duplicates,
    /// Nothing had changed since the last build.
    #[serde(skip)]
    pub up_to_date: bool,
    /// Shards kept from a run that was stopped.
    #[serde(skip)]
    pub reused_shards: u64,
    /// Wall-clock time of this run.
    #[serde(skip)]
    pub seconds: f64,
}

/// One source of a build.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct SourceReport {
    /// Name in the configuration.
    pub name: String,
    /// Its licence and what it permits.
    #[serde(flatten)]
    pub terms: Terms,
    /// Pairs the published collection has, where that is known.
    pub expected: Option<u64>,
    /// Image and mask pairs found, whether kept or not.
    pub found: u64,
    /// The parts of the published collection that it takes pairs from.
    pub parts: Vec<PartReport>,
    /// Rows by split.
    pub rows: BTreeMap<String, u64>,
    /// Refused pairs by kind of reason.
    pub refused: BTreeMap<String, u64>,
    /// Sizes and areas of its rows.
    pub stats: Summary,
}

/// A whole shard: its receipt and where it lies.
pub(super) type WholeShard<'a> = (&'a Receipt, ShardFile);

/// The report of a build, and the page that shows it.
pub(super) fn make(
    config: &BuildConfig,
    plan: &Plan,
    shards: &[WholeShard<'_>],
    refusals: &[Refusal],
) -> Result<(BuildReport, Vec<u8>), BuildError> {
    let facts = facts(shards.iter().map(|(receipt, _)| *receipt));
    let stats = by_source(&facts);
    let sources = licence::used(config)
        .map(|source| {
            let found = plan.parts.get(&source.name).map_or(&[][..], Vec::as_slice);
            source_report(source, found, (&facts, stats.get(&source.name)), refusals)
        })
        .collect();
    let report = BuildReport {
        fingerprint: plan.fingerprint.clone(),
        rows: facts.len() as u64,
        bytes: shards.iter().map(|(receipt, _)| receipt.bytes).sum(),
        shards: shards.len() as u64,
        refused: refusals.len() as u64,
        sources,
        left_out: licence::left_out(config),
        duplicates: duplicates::find(&facts),
        manifest_sha256: String::new(),
        up_to_date: false,
        reused_shards: 0,
        seconds: 0.0,
    };
    let files: Vec<ShardFile> = shards.iter().map(|(_, file)| file.clone()).collect();
    // This thread draws too.
    let threads = config.threads.unwrap_or_else(default_threads);
    let (workers, _running) = Workers::start("hqseg-draw", threads.saturating_sub(1))
        .map_err(|error| BuildError::Worker { message: error.to_string() })?;
    let sheets = pictures::contact_sheets(&facts, &files, &workers)?;
    let repeated = pictures::repeated(&facts, &files, &report.duplicates.pairs, &workers)?;
    drop(workers);
    let page = page::render(&report, &stats, sheets, repeated, refusals)?;
    Ok((report, page.into_bytes()))
}

fn by_source(facts: &[RowFacts]) -> BTreeMap<String, Stats> {
    let mut sources: BTreeMap<String, Stats> = BTreeMap::new();
    for fact in facts {
        sources.entry(fact.source.clone()).or_default().add(&fact.geometry);
    }
    sources
}

fn source_report(
    source: &SourceSpec,
    found: &[FoundPart],
    (facts, stats): (&[RowFacts], Option<&Stats>),
    refusals: &[Refusal],
) -> SourceReport {
    let mut rows = BTreeMap::new();
    for fact in facts.iter().filter(|fact| fact.source == source.name) {
        *rows.entry(fact.split.clone()).or_insert(0) += 1;
    }
    let mut refused = BTreeMap::new();
    for refusal in refusals.iter().filter(|refusal| refusal.source == source.name) {
        *refused.entry(refusal.kind().to_owned()).or_insert(0) += 1;
    }
    SourceReport {
        name: source.name.clone(),
        terms: source.terms(),
        expected: source.expected.or_else(|| parts::expected(found)),
        parts: found.iter().map(PartReport::of).collect(),
        found: rows.values().sum::<u64>() + refused.values().sum::<u64>(),
        rows,
        refused,
        stats: stats.map(Stats::summary).unwrap_or_default(),
    }
}
