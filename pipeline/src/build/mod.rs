//! Raw collections -> a data set: list, decode, verify, write shards, publish.
//!
//! ```text
//! plan    which pair goes into which shard       from names and sizes alone, so it is repeatable
//! judge   one pair -> a row or a reason          on threads
//! shards  rows -> staged Parquet files           in order, on one thread
//!         with drop_leaks, once more without the rows that other splits have
//! report  finished shards -> report.json, page
//! staging publish: shards, report, and the manifest last
//! ```
//!
//! A build that is killed leaves no manifest; the next one keeps the shards that were whole. The
//! bytes of a data set depend on the raw files and the configuration, not on the threads.

mod auto;
mod config;
mod error;
mod judge;
mod plan;
mod quarantine;
mod report;
mod shards;
mod staging;
mod tally;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

pub use auto::recognise;
pub use config::BuildConfig;
pub use error::BuildError;
pub use quarantine::{Adjustment, Refusal};
pub use report::{BuildReport, DuplicatePair, Duplicates, PAGE_FILE, REPORT_FILE, SourceReport};

use crate::manifest::{MANIFEST_FILE, Manifest, ShardInfo, SplitInfo};
use plan::{Plan, ShardPlan};
use report::WholeShard;
use shards::Written;
use staging::{Receipt, Staging};

/// Name of the list of refused pairs inside a data set.
pub const QUARANTINE_FILE: &str = "quarantine.jsonl";
/// Name of the list of pairs that were changed to be taken; absent where there are none.
pub const ADJUSTED_FILE: &str = "adjusted.jsonl";

/// Builds the data set that `config` describes, or finds that it is there already.
///
/// # Errors
/// [`BuildError`]; what was staged is kept for the next build, and an earlier data set in the
/// same folder stays as it was.
pub fn build(config: &BuildConfig) -> Result<BuildReport, BuildError> {
    let started = Instant::now();
    config.check()?;
    let mut plan = Plan::make(config)?;
    let output = Path::new(&config.output);
    if let Some(report) = finished(output, &plan.fingerprint) {
        return Ok(report);
    }
    let staging = Staging::open(output)?;
    let mut written = shards::write_shards(config, &plan, &staging)?;
    if config.drop_leaks {
        // Only whole shards tell which images look alike, so those that lose rows are written twice.
        let leaks = report::leaks(&report::read_facts(&whole(&plan, &written, &staging))?);
        plan.drop_leaks(&leaks);
        if !plan.leaked.is_empty() {
            tracing::info!(
                rows = plan.leaked.len(),
                "left out of training: other splits have them"
            );
            let reused = written.reused;
            written = shards::write_shards(config, &plan, &staging)?;
            written.reused = reused;
        }
    }
    let shards = whole(&plan, &written, &staging);
    let refusals = all_refusals(&plan, &written.receipts);
    let (mut report, page) = report::make(config, &plan.fingerprint, &shards, &refusals)?;
    let mut report_json = serde_json::to_vec_pretty(&report).expect("a report serialises");
    report_json.push(b'\n');
    let mut files = vec![
        (QUARANTINE_FILE, quarantine::to_jsonl(&refusals)),
        (REPORT_FILE, report_json),
        (PAGE_FILE, page),
    ];
    let adjusted = adjusted(&written.receipts);
    if !adjusted.is_empty() {
        tracing::info!(masks = adjusted.len(), "resized to their images, see {ADJUSTED_FILE}");
        files.push((ADJUSTED_FILE, quarantine::to_jsonl(&adjusted)));
    }
    let manifest = manifest(config, &plan, &written.receipts, &report);
    let shards: Vec<&ShardPlan> = shards.into_iter().map(|(shard, _, _)| shard).collect();
    staging.publish(&shards, &files, &manifest.to_bytes())?;
    report.reused_shards = written.reused as u64;
    report.seconds = started.elapsed().as_secs_f64();
    Ok(report)
}

/// The shards that have rows.
fn whole<'a>(plan: &'a Plan, written: &Written, staging: &Staging) -> Vec<WholeShard<'a>> {
    let shards = plan.shards.iter().zip(&written.receipts).filter(|(_, receipt)| receipt.rows > 0);
    shards
        .map(|(shard, receipt)| {
            let path = staging.locate(shard).expect("the shard was just written or checked");
            (shard, path, receipt.bytes)
        })
        .collect()
}

/// The report of a data set that is there already and whole.
fn finished(output: &Path, fingerprint: &str) -> Option<BuildReport> {
    let manifest = Manifest::parse(&std::fs::read(output.join(MANIFEST_FILE)).ok()?).ok()?;
    let mut report: BuildReport =
        serde_json::from_slice(&std::fs::read(output.join(REPORT_FILE)).ok()?).ok()?;
    let mut shards = manifest.splits.values().flat_map(|split| &split.shards);
    let whole = shards.all(|shard| {
        let path: PathBuf = output.join(&shard.path);
        path.metadata().is_ok_and(|metadata| metadata.len() == shard.bytes)
    });
    report.up_to_date = true;
    (whole && report.fingerprint == fingerprint).then_some(report)
}

fn all_refusals(plan: &Plan, receipts: &[Receipt]) -> Vec<Refusal> {
    let judged = receipts.iter().flat_map(|receipt| &receipt.refused);
    let listed = plan.refused.iter().chain(&plan.leaked);
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
            path: shard.path(),
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
