//! Writes the shards of a plan: threads decode and judge, one thread writes in order, so the
//! bytes do not depend on the number of threads. A written shard is stored while the next one is
//! decoded.

use std::collections::VecDeque;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread::{Scope, ScopedJoinHandle};
use std::time::Instant;

use dataset::order::World;
use dataset::source::Pair;
use dataset::verify::RejectReason;
use indicatif::{ProgressBar, ProgressStyle};

use super::judge::{Judge, Judged, Unfit};
use super::output::Output;
use super::plan::{Inputs, Plan, ShardPlan};
use super::quarantine::{Adjustment, Refusal, to_jsonl};
use super::ranks::{Need, owner};
use super::receipt::Receipt;
use super::report::RowFacts;
use super::tally::Tally;
use super::{BuildConfig, BuildError};
use crate::shard::ShardWriter;
use crate::workers::{Slot, Workers, default_threads};

/// Pairs in work at once, for each thread: bounds the memory of a build. What is done and waits to
/// be written is two files as stored; so many keep a thread busy while a row group is written.
const PAIRS_PER_THREAD: usize = 8;
/// Threads at least where raw files come over a network: most of them wait for it.
const REMOTE_THREADS: usize = 8;

/// Which shards of a plan to write.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(super) enum Part {
    /// Those that fall to this rank.
    Own,
    /// Those of the other ranks, last first, so that two ranks meet in the middle.
    Others,
}

/// Writes those shards of a part that are not finished yet; returns how many were.
pub(super) fn write_shards(
    config: &BuildConfig,
    output: &Output,
    plan: &Plan,
    world: World,
    (part, need): (Part, Need),
) -> Result<u64, BuildError> {
    let remote = plan.inputs.values().any(|input| input.is_remote());
    let threads = config.threads.unwrap_or_else(default_threads);
    let threads = threads.max(if remote { REMOTE_THREADS } else { 1 });
    // `_running` joins the threads when it drops, which is after the builder that owns `workers`.
    // This thread is one of them: it decodes whenever there is nothing to write.
    let (workers, _running) = Workers::start("hqseg-build", threads.saturating_sub(1))
        .map_err(|error| BuildError::Worker { message: error.to_string() })?;
    let shards = shards_of(plan, world, part);
    let pairs = shards.iter().map(|shard| shard.pairs.len() as u64).sum();
    let stops = Stops::new(config, output, plan)?;
    std::thread::scope(|scope| {
        let mut builder = Builder {
            config,
            inputs: &plan.inputs,
            output,
            judge: Arc::new(Judge::new(config)),
            workers,
            window: threads * PAIRS_PER_THREAD,
            stops,
            // What looks hopeless in one rank's part may not be so in the whole.
            alone: world.world_size == 1,
            progress: progress(pairs),
            scope,
            keeping: None,
        };
        let mut reused = 0;
        for shard in shards {
            let receipt = match need {
                Need::Facts => output.receipt(shard)?,
                Need::Shard => output.finished(shard)?,
            };
            match receipt {
                Some(receipt) => {
                    reused += 1;
                    builder.take(shard, &receipt)?;
                }
                None => builder.write(shard)?,
            }
        }
        builder.wait_until_kept()?;
        builder.progress.finish_and_clear();
        Ok(reused)
    })
}

fn shards_of(plan: &Plan, world: World, part: Part) -> Vec<&ShardPlan> {
    let own = |index| owner(index, world.world_size) == world.rank;
    let shards = plan.shards.iter().enumerate();
    let shards = shards.filter(|(index, _)| own(*index) == (part == Part::Own));
    let shards = shards.map(|(_, shard)| shard);
    if part == Part::Others { shards.rev().collect() } else { shards.collect() }
}

/// Applies the rules that stop a build to all its shards, in the plan's order: the same answer
/// whoever wrote them.
pub(super) fn check_refusals(
    config: &BuildConfig,
    output: &Output,
    plan: &Plan,
    receipts: &[Receipt],
) -> Result<(), BuildError> {
    let mut stops = Stops::new(config, output, plan)?;
    for (shard, receipt) in plan.shards.iter().zip(receipts) {
        stops.take(shard, receipt)?;
    }
    match stops.tally.mostly_refused(config.max_rejected_fraction) {
        Some(source) => Err(stops.stop(source)),
        None => Ok(()),
    }
}

/// Counts pairs and says when too many are refused.
struct Stops<'a> {
    config: &'a BuildConfig,
    output: &'a Output,
    tally: Tally,
    /// Of all shards so far, for a stopped build to leave behind.
    refused: Vec<Refusal>,
}

impl<'a> Stops<'a> {
    /// Starts with the pairs that were refused while listing.
    fn new(config: &'a BuildConfig, output: &'a Output, plan: &Plan) -> Result<Self, BuildError> {
        let mut tally = Tally::default();
        plan.refused.iter().for_each(|refusal| tally.refuse(refusal));
        match plan.refused.first().filter(|_| config.strict) {
            Some(refusal) => Err(strict(refusal)),
            None => Ok(Self { config, output, tally, refused: plan.refused.clone() }),
        }
    }

    /// Counts a finished shard.
    fn take(&mut self, shard: &ShardPlan, receipt: &Receipt) -> Result<(), BuildError> {
        let mut refused = receipt.refused.iter().peekable();
        for pair in &shard.pairs {
            match refused.next_if(|refusal| refusal.sample_id == pair.sample_id()) {
                Some(refusal) => self.refuse(refusal.clone(), true)?,
                None => self.tally.accept(&pair.source),
            }
        }
        Ok(())
    }

    fn refuse(&mut self, refusal: Refusal, stop_early: bool) -> Result<(), BuildError> {
        if self.config.strict {
            return Err(strict(&refusal));
        }
        tracing::debug!(sample_id = refusal.sample_id, reason = refusal.message, "refused");
        let source = refusal.source.clone();
        self.tally.refuse(&refusal);
        self.refused.push(refusal);
        if stop_early && self.tally.hopeless(&source) { Err(self.stop(&source)) } else { Ok(()) }
    }

    fn stop(&self, source: &str) -> BuildError {
        match self.output.leave("quarantine.jsonl", &to_jsonl(&self.refused)) {
            Ok(quarantine) => {
                self.tally.stop(source, self.config.max_rejected_fraction, quarantine)
            }
            Err(error) => error,
        }
    }
}

struct Builder<'scope, 'env> {
    config: &'env BuildConfig,
    inputs: &'env Inputs,
    output: &'env Output,
    judge: Arc<Judge>,
    workers: Workers,
    window: usize,
    stops: Stops<'env>,
    alone: bool,
    progress: ProgressBar,
    scope: &'scope Scope<'scope, 'env>,
    /// The shard that is made durable or uploaded while the next one is decoded. One at a time: each
    /// holds as much of the disk as a shard.
    keeping: Option<ScopedJoinHandle<'scope, Result<(), BuildError>>>,
}

impl<'env> Builder<'_, 'env> {
    /// Counts a shard that is finished already.
    fn take(&mut self, shard: &ShardPlan, receipt: &Receipt) -> Result<(), BuildError> {
        if self.alone {
            self.stops.take(shard, receipt)?;
        }
        self.progress.inc(shard.pairs.len() as u64);
        if self.progress.is_hidden() {
            tracing::info!(shard = shard.name, rows = receipt.rows, "kept from an earlier run");
        }
        Ok(())
    }

    fn write(&mut self, shard: &'env ShardPlan) -> Result<(), BuildError> {
        let started = Instant::now();
        let scratch = self.output.scratch(shard)?;
        let cannot = BuildError::io(&scratch.path, "cannot use the file twice");
        let file = scratch.file.try_clone().map_err(cannot)?;
        let mut writer = ShardWriter::new(file, &scratch.path, self.config.rows_per_group)?;
        let first_refused = self.stops.refused.len();
        let (mut adjusted, mut facts) = (Vec::new(), Vec::new());
        let mut pairs = shard.pairs.iter();
        let mut window: VecDeque<(&Pair, Slot<Result<Judged, Unfit>>)> = VecDeque::new();
        loop {
            for pair in pairs.by_ref().take(self.window - window.len()) {
                let (job, input) = (pair.clone(), Arc::clone(&self.inputs[&pair.source]));
                let judge = Arc::clone(&self.judge);
                window.push_back((pair, self.workers.submit(move || judge.judge(&job, &input))));
            }
            let Some((pair, slot)) = window.pop_front() else { break };
            // A decoder that panics refuses its own pair, not the whole build.
            match self.workers.wait(slot).unwrap_or_else(|| Err(panicked(&pair.image))) {
                Ok(judged) => {
                    self.stops.tally.accept(&pair.source);
                    adjusted.extend(judged.resized.map(|resized| Adjustment::new(pair, resized)));
                    facts.push(RowFacts::of(&judged.row));
                    writer.push(judged.row)?;
                }
                Err(Unfit::Refused(reason)) => {
                    self.stops.refuse(self.refusal(pair, &reason), self.alone)?;
                }
                Err(Unfit::Broken(error)) => {
                    let name = pair.source.clone();
                    return Err(BuildError::Read { name, source: error });
                }
            }
            self.progress.inc(1);
        }
        let written = writer.finish()?;
        let refused = self.stops.refused[first_refused..].to_vec();
        let receipt = Receipt::new(shard, &written, (refused, adjusted), facts);
        if self.progress.is_hidden() {
            let rows_per_second = (written.rows as f64 / started.elapsed().as_secs_f64()).round();
            let (rows, refused) = (written.rows, receipt.refused.len());
            tracing::info!(shard = shard.name, rows, refused, rows_per_second, "written");
        }
        self.wait_until_kept()?;
        let output = self.output;
        self.keeping = Some(self.scope.spawn(move || {
            output.keep(shard, scratch, &written)?;
            output.put(&shard.receipt_path(), &receipt.to_bytes())
        }));
        Ok(())
    }

    fn wait_until_kept(&mut self) -> Result<(), BuildError> {
        let kept = self.keeping.take().map(ScopedJoinHandle::join);
        kept.map_or(Ok(()), |kept| kept.unwrap_or_else(|panic| resume_unwind(panic)))
    }

    fn refusal(&self, pair: &Pair, reason: &RejectReason) -> Refusal {
        let refusal = Refusal::judged(pair, reason);
        match self.config.source.iter().find(|source| source.name == pair.source) {
            Some(source) => refusal.explained(source),
            None => refusal,
        }
    }
}

fn panicked(image: &str) -> Unfit {
    let detail = format!("the decoder broke down on {image}");
    Unfit::Refused(RejectReason::Unreadable { detail })
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
