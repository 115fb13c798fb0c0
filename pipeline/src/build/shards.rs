//! Writes the shards of a plan: threads decode and judge, one thread writes in order, so the
//! bytes do not depend on the number of threads.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use dataset::source::Pair;
use dataset::verify::RejectReason;
use indicatif::{ProgressBar, ProgressStyle};

use super::judge::{Judge, Judged};
use super::plan::{Plan, ShardPlan};
use super::quarantine::{Adjustment, Refusal, to_jsonl};
use super::staging::{Receipt, Staging};
use super::tally::Tally;
use super::{BuildConfig, BuildError};
use crate::shard::ShardWriter;
use crate::workers::{Slot, Workers, default_threads};

/// Pairs in work at once, for each thread: bounds the memory of a build.
const PAIRS_PER_THREAD: usize = 2;

/// What became of every shard of a plan, in its order.
pub(super) struct Written {
    pub(super) receipts: Vec<Receipt>,
    /// Shards that an earlier run had finished.
    pub(super) reused: usize,
}

/// Writes every shard that is not there yet.
pub(super) fn write_shards(
    config: &BuildConfig,
    plan: &Plan,
    staging: &Staging,
) -> Result<Written, BuildError> {
    let threads = config.threads.unwrap_or_else(default_threads).max(1);
    // `_running` joins the threads when it drops, which is after the builder that owns `workers`.
    let (workers, _running) = Workers::start("hqseg-build", threads)
        .map_err(|error| BuildError::Worker { message: error.to_string() })?;
    let mut tally = Tally::default();
    plan.refused.iter().for_each(|refusal| tally.refuse(refusal));
    if let Some(refusal) = plan.refused.first().filter(|_| config.strict) {
        return Err(strict(refusal));
    }
    let mut builder = Builder {
        config,
        staging,
        judge: Arc::new(Judge::new(config)),
        workers,
        window: threads * PAIRS_PER_THREAD,
        tally,
        refused: plan.refused.clone(),
        progress: progress(plan.num_pairs()),
    };
    let mut written = Written { receipts: Vec::with_capacity(plan.shards.len()), reused: 0 };
    for shard in &plan.shards {
        let receipt = match staging.finished(shard) {
            Some(receipt) => {
                written.reused += 1;
                builder.take(shard, receipt)?
            }
            None => builder.write(shard)?,
        };
        written.receipts.push(receipt);
    }
    builder.progress.finish_and_clear();
    match builder.tally.mostly_refused(config.max_rejected_fraction) {
        Some(source) => Err(builder.stop(source)),
        None => Ok(written),
    }
}

struct Builder<'a> {
    config: &'a BuildConfig,
    staging: &'a Staging,
    judge: Arc<Judge>,
    workers: Workers,
    window: usize,
    tally: Tally,
    /// Of all shards so far, for a stopped build to leave behind.
    refused: Vec<Refusal>,
    progress: ProgressBar,
}

impl Builder<'_> {
    /// Counts a shard that an earlier run had finished.
    fn take(&mut self, shard: &ShardPlan, receipt: Receipt) -> Result<Receipt, BuildError> {
        let mut refused = receipt.refused.iter().peekable();
        for pair in &shard.pairs {
            match refused.next_if(|refusal| refusal.sample_id == pair.sample_id()) {
                Some(refusal) => self.refuse(refusal.clone())?,
                None => self.tally.accept(&pair.source),
            }
        }
        self.progress.inc(shard.pairs.len() as u64);
        if self.progress.is_hidden() {
            tracing::info!(shard = shard.name, rows = receipt.rows, "kept from an earlier run");
        }
        Ok(receipt)
    }

    fn write(&mut self, shard: &ShardPlan) -> Result<Receipt, BuildError> {
        let started = Instant::now();
        let partial = self.staging.partial(shard);
        let mut writer = ShardWriter::create(&partial, self.config.rows_per_group)?;
        let first_refused = self.refused.len();
        let mut adjusted = Vec::new();
        let mut pairs = shard.pairs.iter();
        let mut window: VecDeque<(&Pair, Slot<Result<Judged, RejectReason>>)> = VecDeque::new();
        loop {
            for pair in pairs.by_ref().take(self.window - window.len()) {
                let (judge, job) = (Arc::clone(&self.judge), pair.clone());
                window.push_back((pair, self.workers.submit(move || judge.judge(&job))));
            }
            let Some((pair, slot)) = window.pop_front() else { break };
            // A decoder that panics refuses its own pair, not the whole build.
            match slot.blocking_recv().unwrap_or_else(|_| Err(panicked(&pair.image))) {
                Ok(judged) => {
                    self.tally.accept(&pair.source);
                    adjusted.extend(judged.resized.map(|resized| Adjustment::new(pair, resized)));
                    writer.push(judged.row)?;
                }
                Err(reason) => self.refuse(self.refusal(pair, &reason))?,
            }
            self.progress.inc(1);
        }
        let written = writer.finish()?;
        let receipt =
            Receipt::new(shard, &written, self.refused[first_refused..].to_vec(), adjusted);
        self.staging.keep(shard, &receipt)?;
        if self.progress.is_hidden() {
            let rows_per_second = (written.rows as f64 / started.elapsed().as_secs_f64()).round();
            let (rows, refused) = (written.rows, receipt.refused.len());
            tracing::info!(shard = shard.name, rows, refused, rows_per_second, "written");
        }
        Ok(receipt)
    }

    fn refusal(&self, pair: &Pair, reason: &RejectReason) -> Refusal {
        let refusal = Refusal::judged(pair, reason);
        match self.config.source.iter().find(|source| source.name == pair.source) {
            Some(source) => refusal.explained(source),
            None => refusal,
        }
    }

    fn refuse(&mut self, refusal: Refusal) -> Result<(), BuildError> {
        if self.config.strict {
            return Err(strict(&refusal));
        }
        tracing::debug!(sample_id = refusal.sample_id, reason = refusal.message, "refused");
        let source = refusal.source.clone();
        self.tally.refuse(&refusal);
        self.refused.push(refusal);
        if self.tally.hopeless(&source) { Err(self.stop(&source)) } else { Ok(()) }
    }

    fn stop(&self, source: &str) -> BuildError {
        self.progress.finish_and_clear();
        match self.staging.leave("quarantine.jsonl", &to_jsonl(&self.refused)) {
            Ok(quarantine) => {
                self.tally.stop(source, self.config.max_rejected_fraction, quarantine)
            }
            Err(error) => error,
        }
    }
}

fn panicked(image: &Path) -> RejectReason {
    RejectReason::Unreadable { detail: format!("the decoder broke down on {}", image.display()) }
}

fn strict(refusal: &Refusal) -> BuildError {
    BuildError::Strict { sample_id: refusal.sample_id.clone(), reason: refusal.message.clone() }
}

/// Hidden where standard error is no terminal; log lines take its place there.
fn progress(pairs: u64) -> ProgressBar {
    let style = "{bar:40} {pos}/{len} pairs, {per_sec}, {eta} left";
    let style =
        ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(pairs).with_style(style)
}
