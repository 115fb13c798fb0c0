//! How ranks share a build without talking to each other: each writes the shards that fall to it,
//! and what the others have done it sees in the output.
//!
//! ```text
//! .staging/rank-1-of-3.json      the fingerprint of rank 1's plan, put when it starts
//! receipts/...                   one for each finished shard, whoever wrote it
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use dataset::order::World;
use serde::{Deserialize, Serialize};

use super::output::{Output, STAGING};
use super::plan::Plan;
use super::receipt::Receipt;
use super::{BuildConfig, BuildError, BuildReport, finished};

/// First wait of a rank that waits for others; it grows by half up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(15);

/// The rank that writes a shard. Depends on nothing but these numbers, so a rank that is started
/// again finds its own shards.
pub(super) fn owner(shard: usize, world_size: usize) -> usize {
    shard % world_size
}

/// What a rank tells the others about itself.
#[derive(Deserialize, Serialize)]
struct Announcement {
    fingerprint: String,
}

/// What a rank finds when it looks at the work of all.
pub(super) enum Found {
    /// Every shard is finished; the receipts in the plan's order.
    All(Vec<Receipt>),
    /// Another rank has published the data set.
    Published(Box<BuildReport>),
    /// Shards that these ranks have not finished.
    Missing(BTreeMap<usize, u64>),
}

/// What a receipt has to stand for.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(super) enum Need {
    /// The facts of the rows.
    Facts,
    /// The shard itself as well.
    Shard,
}

/// Announces this rank's plan. It also marks a store as one in which a build is under way.
pub(super) fn announce(output: &Output, plan: &Plan, world: World) -> Result<(), BuildError> {
    let announcement = Announcement { fingerprint: plan.fingerprint.clone() };
    let bytes = serde_json::to_vec(&announcement).expect("a text serialises");
    output.put(&announcement_path(world.rank, world.world_size), &bytes)
}

/// Where a rank announces its plan.
pub(super) fn announcement_path(rank: usize, world_size: usize) -> String {
    format!("{STAGING}/rank-{rank}-of-{world_size}.json")
}

/// Looks whether all shards are finished; with `wait`, looks again until they are.
pub(super) fn look(
    config: &BuildConfig,
    output: &Output,
    plan: &Plan,
    (world, wait): (World, bool),
    need: Need,
) -> Result<Found, BuildError> {
    let mut pause = FIRST_WAIT;
    loop {
        let receipts = all_receipts(output, plan, need)?;
        // After the receipts: a rank announces its plan before it writes any.
        compare_plans(output, plan, world)?;
        let missing = match receipts {
            Ok(receipts) => return Ok(Found::All(receipts)),
            Err(missing) => missing,
        };
        if let Some(report) = finished(config, output, plan)? {
            return Ok(Found::Published(Box::new(report)));
        }
        let mut by_rank = BTreeMap::new();
        for shard in missing {
            *by_rank.entry(owner(shard, world.world_size)).or_insert(0) += 1;
        }
        if !wait {
            return Ok(Found::Missing(by_rank));
        }
        tracing::info!(unfinished_shards_by_rank = ?by_rank, "waiting for other ranks");
        std::thread::sleep(pause);
        pause = (pause * 3 / 2).min(LONGEST_WAIT);
    }
}

/// The receipts of all shards, or the indices of those that are not finished.
fn all_receipts(
    output: &Output,
    plan: &Plan,
    need: Need,
) -> Result<Result<Vec<Receipt>, Vec<usize>>, BuildError> {
    // Names first: as long as one is missing, there is no need to read the others.
    let names = output.list("receipts")?;
    let paths = plan.shards.iter().map(|shard| shard.receipt_path());
    let missing = indices(paths.map(|path| names.contains_key(&path)));
    if !missing.is_empty() {
        return Ok(Err(missing));
    }
    let receipts = output.receipts(&plan.shards)?;
    let stored = if need == Need::Shard { output.list("shards")? } else { BTreeMap::new() };
    let whole = plan.shards.iter().zip(&receipts).map(|(shard, receipt)| {
        receipt.as_ref().is_some_and(|receipt| {
            need == Need::Facts
                || receipt.rows == 0
                || stored
                    .get(&shard.path(&receipt.sha256))
                    .is_some_and(|object| object.size == receipt.bytes)
        })
    });
    let missing = indices(whole);
    if missing.is_empty() {
        Ok(Ok(receipts.into_iter().flatten().collect()))
    } else {
        Ok(Err(missing))
    }
}

/// The indices of what is not there.
fn indices(there: impl Iterator<Item = bool>) -> Vec<usize> {
    there.enumerate().filter(|(_, there)| !there).map(|(index, _)| index).collect()
}

/// Refuses to go on beside a rank that builds something else. An announcement that is older than
/// this rank's own may be left from an earlier build: the rank it belongs to will replace it when
/// it starts.
fn compare_plans(output: &Output, plan: &Plan, world: World) -> Result<(), BuildError> {
    if world.world_size == 1 {
        return Ok(());
    }
    let announced = output.list(STAGING)?;
    let Some(own) = announced.get(&announcement_path(world.rank, world.world_size)) else {
        return Ok(());
    };
    for rank in (0..world.world_size).filter(|rank| *rank != world.rank) {
        let path = announcement_path(rank, world.world_size);
        let newer = announced.get(&path).is_some_and(|it| it.last_modified >= own.last_modified);
        let Some(bytes) = newer.then(|| output.get(&path)).transpose()?.flatten() else { continue };
        let other: Option<Announcement> = serde_json::from_slice(&bytes).ok();
        if other.is_some_and(|other| other.fingerprint != plan.fingerprint) {
            let output = output.name().to_owned();
            return Err(BuildError::PlansDiffer { output, rank: world.rank, other: rank });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shard_has_one_owner_and_parts_differ_by_at_most_one() {
        for (shards, world_size) in [(0, 1), (1, 3), (7, 1), (7, 2), (100, 3), (5, 8)] {
            let mut parts = vec![0; world_size];
            (0..shards).for_each(|shard| parts[owner(shard, world_size)] += 1);
            assert_eq!(parts.iter().sum::<usize>(), shards);
            assert!(parts.iter().max().unwrap() - parts.iter().min().unwrap() <= 1, "{parts:?}");
        }
    }
}
