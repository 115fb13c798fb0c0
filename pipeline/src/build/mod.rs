//! Raw collections -> a data set: list, decode, verify, write shards, publish.
//!
//! ```text
//! plan    which pair goes into which shard       from names and sizes alone, so it is repeatable
//! judge   one pair -> a row or a reason          on threads
//! shards  rows -> Parquet files and receipts     in order, on one thread; each rank its part
//!         with drop_leaks, once more without the rows that other splits have
//! ranks   are all shards there?                  seen in the output, by every rank
//! report  receipts -> report.json, page
//! output  publish: the manifest, last, by the rank that finds everything complete
//! ```
//!
//! A build that is killed leaves no manifest, or the earlier one with all its shards; the next one
//! keeps the shards that were whole. The bytes of a data set depend on the raw files and the
//! configuration, not on threads, ranks or restarts.
//!
//! Memory: for each thread eight pairs as stored and one decoded, a row group (`rows_per_group` pairs as
//! stored), and a few hundred bytes for each pair of the whole plan. So it grows with the size of the
//! pictures times threads and `rows_per_group`, and with the number of pairs only by those bytes; shards
//! and the data set may be of any size.

mod auto;
mod config;
mod error;
mod judge;
mod licence;
mod output;
mod plan;
mod quarantine;
mod ranks;
mod receipt;
mod report;
mod shards;
mod tally;
pub(crate) mod trial;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use dataset::order::World;

pub use auto::recognise;
pub use config::BuildConfig;
pub use error::BuildError;
pub use licence::LeftOut;
pub(crate) use licence::used as used_sources;
pub use quarantine::{Adjustment, Refusal};
pub use report::{
    BuildReport, CARD_FILE, DuplicatePair, Duplicates, PAGE_FILE, PartReport, REPORT_FILE,
    Repetition, SourceReport,
};

use crate::digest::sha256;
use crate::manifest::{Manifest, ShardInfo, SplitInfo};
use output::{Output, Published};
use plan::Plan;
use ranks::{Found, Need, announce, look};
use receipt::Receipt;
use report::{RowFacts, WholeShard};
use shards::{Part, check_refusals, write_shards};

/// Name of the list of refused pairs inside a data set.
pub const QUARANTINE_FILE: &str = "quarantine.jsonl";
/// Name of the list of pairs that were changed to be taken; absent where there are none.
pub const ADJUSTED_FILE: &str = "adjusted.jsonl";

/// What a rank's part in a build came to.
#[derive(Clone, Debug, PartialEq)]
pub enum BuildOutcome {
    /// The data set is there, published by this rank or another.
    Published(Box<BuildReport>),
    /// This rank has done its part; by rank, the number of shards that others have not finished.
    /// The one that finishes last publishes.
    Unfinished(BTreeMap<usize, u64>),
}

/// Builds the data set that `config` describes, or finds that it is there already.
///
/// # Errors
/// [`BuildError`]; finished shards are kept for the next build, and an earlier data set in the
/// same place stays as it was.
pub fn build(config: &BuildConfig) -> Result<BuildReport, BuildError> {
    let alone = World { rank: 0, world_size: 1 };
    match build_rank(config, alone, false)? {
        BuildOutcome::Published(report) => Ok(*report),
        BuildOutcome::Unfinished(_) => Err(BuildError::Replaced { output: config.output.clone() }),
    }
}

/// Does the part of one rank in a build that several ranks share, each started with the same
/// `config` and its own place in `world`, on this machine or others, at the same time or not. The
/// rank that finds the shards of all complete publishes the data set. With `wait`, a rank whose
/// part is done stays until the data set is published.
///
/// # Errors
/// As [`build`]; also where another rank has other raw files or another configuration.
pub fn build_rank(
    config: &BuildConfig,
    world: World,
    wait: bool,
) -> Result<BuildOutcome, BuildError> {
    let started = Instant::now();
    config.check()?;
    licence::check(config)?;
    let plan = Plan::make(config)?;
    let mut output = Output::open(&config.output, world)?;
    if let Some(report) = finished(config, &output, &plan)?
        && !output.is_staging()?
    {
        return Ok(BuildOutcome::Published(Box::new(report)));
    }
    output.refuse_foreign()?;
    output.lock()?;
    let before = output.published()?;
    announce(&output, &plan, world)?;
    let build = Build { config, output: &output, world, wait, before };
    let fingerprint = plan.fingerprint.clone();
    match build.run(plan) {
        Ok(BuildOutcome::Published(mut report)) => {
            report.seconds = started.elapsed().as_secs_f64();
            Ok(BuildOutcome::Published(report))
        }
        // The rank that published has cleaned up under this one's feet.
        Err(error) if error.may_be_a_lost_race() => {
            match published_report(&output, &fingerprint)? {
                Some(report) => Ok(BuildOutcome::Published(Box::new(report))),
                None => Err(error),
            }
        }
        other => other,
    }
}

struct Build<'a> {
    config: &'a BuildConfig,
    output: &'a Output,
    world: World,
    wait: bool,
    before: Option<Published>,
}

impl Build<'_> {
    fn run(&self, mut plan: Plan) -> Result<BuildOutcome, BuildError> {
        let mut keep: BTreeSet<String> = BTreeSet::new();
        let mut reused = None;
        if self.config.drop_leaks {
            // Only whole shards tell which images look alike, so those that lose rows are written
            // twice. Their receipts are kept: the next build knows the leaks without them.
            reused = Some(self.write(&plan, Part::Own, Need::Facts)?);
            keep.extend(plan.shards.iter().map(|shard| shard.receipt_path()));
            let receipts = match self.look(&plan, Need::Facts)? {
                Ok(receipts) => receipts,
                Err(outcome) => return Ok(outcome),
            };
            self.drop_leaks(&mut plan, &report::facts(&receipts))?;
            tracing::info!(
                rows = plan.leaked.len(),
                "left out of training: other splits have them"
            );
        }
        let also_reused = self.write(&plan, Part::Own, Need::Shard)?;
        if self.config.drop_leaks && self.world.world_size > 1 {
            // The other ranks may have ended before the leaks were known.
            self.write(&plan, Part::Others, Need::Shard)?;
        }
        let receipts = match self.look(&plan, Need::Shard)? {
            Ok(receipts) => receipts,
            Err(outcome) => return Ok(outcome),
        };
        check_refusals(self.config, self.output, &plan, &receipts)?;
        keep.extend(plan.shards.iter().map(|shard| shard.receipt_path()));
        let rows = plan.shards.iter().zip(&receipts).filter(|(_, receipt)| receipt.rows > 0);
        keep.extend(rows.map(|(shard, receipt)| shard.path(&receipt.sha256)));
        let _publishing = self.output.publishing()?;
        let faster = published_report(self.output, &plan.fingerprint)?;
        let mut report = match faster.filter(|_| self.world.world_size > 1) {
            Some(report) => report,
            None => self.publish(&plan, &receipts)?,
        };
        self.output.clean(&keep)?;
        report.reused_shards = reused.unwrap_or(also_reused);
        Ok(BuildOutcome::Published(Box::new(report)))
    }

    /// Takes the leaked rows out of the plan, unless nothing to train on would remain.
    fn drop_leaks(&self, plan: &mut Plan, facts: &[RowFacts]) -> Result<(), BuildError> {
        let leaks = report::leaks(facts);
        let rows = facts.iter().filter(|fact| fact.is_for_training()).count();
        plan.drop_leaks(&leaks);
        if rows == 0 || leaks.len() < rows {
            return Ok(());
        }
        let leaked = quarantine::to_jsonl(&plan.leaked);
        let quarantine = self.output.leave(QUARANTINE_FILE, &leaked)?;
        Err(BuildError::EverythingLeaks { rows, quarantine })
    }

    fn write(&self, plan: &Plan, part: Part, need: Need) -> Result<u64, BuildError> {
        write_shards(self.config, self.output, plan, self.world, (part, need))
    }

    /// The receipts of all ranks, or what this rank's part comes to without them.
    fn look(
        &self,
        plan: &Plan,
        need: Need,
    ) -> Result<Result<Vec<Receipt>, BuildOutcome>, BuildError> {
        let ranks = (self.world, self.wait);
        Ok(match look(self.config, self.output, plan, ranks, need)? {
            Found::All(receipts) => Ok(receipts),
            Found::Published(report) => Err(BuildOutcome::Published(report)),
            Found::Missing(by_rank) => Err(BuildOutcome::Unfinished(by_rank)),
        })
    }

    /// Puts the report, then the manifest.
    fn publish(&self, plan: &Plan, receipts: &[Receipt]) -> Result<BuildReport, BuildError> {
        let rows = plan.shards.iter().zip(receipts).filter(|(_, receipt)| receipt.rows > 0);
        let whole: Vec<WholeShard<'_>> = rows
            .map(|(shard, receipt)| (receipt, self.output.shard_file(shard, receipt)))
            .collect();
        let refusals = all_refusals(plan, receipts);
        let (mut report, page) = report::make(self.config, plan, &whole, &refusals)?;
        let manifest = manifest(self.config, plan, receipts, &report);
        let card = report::card(self.config, &report, &manifest);
        let manifest = manifest.to_bytes();
        report.manifest_sha256 = sha256(&manifest);
        let mut report_json = serde_json::to_vec_pretty(&report).expect("a report serialises");
        report_json.push(b'\n');
        self.output.put_all(&[
            (QUARANTINE_FILE, &quarantine::to_jsonl(&refusals)),
            (REPORT_FILE, &report_json),
            (PAGE_FILE, &page),
            (CARD_FILE, &card),
        ])?;
        let adjusted = adjusted(receipts);
        if adjusted.is_empty() {
            self.output.remove(&[ADJUSTED_FILE.to_owned()])?;
        } else {
            tracing::info!(masks = adjusted.len(), "resized to their images, see {ADJUSTED_FILE}");
            self.output.put(ADJUSTED_FILE, &quarantine::to_jsonl(&adjusted))?;
        }
        self.output.publish(&manifest, self.before.as_ref())?;
        Ok(report)
    }
}

/// The report of a data set that is there already, whole, and what `plan` would make.
fn finished(
    config: &BuildConfig,
    output: &Output,
    plan: &Plan,
) -> Result<Option<BuildReport>, BuildError> {
    let Some(report) = published_report(output, &plan.fingerprint)? else { return Ok(None) };
    let manifest = output.published()?.and_then(|published| published.manifest());
    let stored = output.list("shards")?;
    let whole = manifest.is_some_and(|manifest| {
        let mut shards = manifest.splits.values().flat_map(|split| &split.shards);
        shards.all(|shard| stored.get(&shard.path).is_some_and(|object| object.size == shard.bytes))
    });
    let refused = config.strict && report.refused > 0;
    Ok((whole && !refused).then_some(report))
}

/// The report that belongs to the manifest that is there, if both are of this `fingerprint`.
fn published_report(output: &Output, fingerprint: &str) -> Result<Option<BuildReport>, BuildError> {
    let Some(published) = output.published()? else { return Ok(None) };
    let Some(bytes) = output.get(REPORT_FILE)? else { return Ok(None) };
    let report: Option<BuildReport> = serde_json::from_slice(&bytes).ok();
    // A build that was killed before its manifest leaves its report beside the earlier one.
    let report = report.filter(|report| {
        report.fingerprint == fingerprint && report.manifest_sha256 == sha256(&published.bytes)
    });
    Ok(report.map(|report| BuildReport { up_to_date: true, ..report }))
}

fn all_refusals(plan: &Plan, receipts: &[Receipt]) -> Vec<Refusal> {
    let judged = receipts.iter().flat_map(|receipt| &receipt.refused);
    let listed = plan.refused.iter().chain(&plan.leaked).chain(&plan.left_out);
    let mut refusals: Vec<Refusal> = listed.chain(judged).cloned().collect();
    refusals.sort_by(|left, right| left.sample_id.cmp(&right.sample_id));
    refusals
}

fn adjusted(receipts: &[Receipt]) -> Vec<Adjustment> {
    let all = receipts.iter().flat_map(|receipt| &receipt.adjusted);
    let mut adjusted: Vec<Adjustment> = all.cloned().collect();
    adjusted.sort_by(|left, right| left.sample_id.cmp(&right.sample_id));
    adjusted
}

fn manifest(
    config: &BuildConfig,
    plan: &Plan,
    receipts: &[Receipt],
    report: &BuildReport,
) -> Manifest {
    let mut splits: BTreeMap<String, SplitInfo> = BTreeMap::new();
    for (shard, receipt) in plan.shards.iter().zip(receipts).filter(|(_, receipt)| receipt.rows > 0)
    {
        let split = splits.entry(shard.split.clone()).or_default();
        split.num_samples += receipt.rows;
        split.shards.push(ShardInfo {
            path: shard.path(&receipt.sha256),
            rows: receipt.rows,
            bytes: receipt.bytes,
            sha256: receipt.sha256.clone(),
        });
    }
    let by_source = report.sources.iter().map(|source| (source.name.clone(), source.rows.clone()));
    Manifest {
        schema_version: dataset::schema::SCHEMA_VERSION,
        splits,
        sources: by_source.collect(),
        config: serde_json::to_value(config).expect("a configuration serialises"),
    }
}
