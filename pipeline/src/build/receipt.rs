//! What is known of a finished shard without opening it.

use serde::{Deserialize, Serialize};

use super::plan::ShardPlan;
use super::quarantine::{Adjustment, Refusal};
use super::report::RowFacts;
use crate::shard::WrittenShard;

/// What a finished shard holds. It is stored after the shard, under a name that holds the shard's
/// key, so that its presence means that the shard is whole and what this plan wants. It stays with
/// the data set: a later build keeps the shards whose key is still the same.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Receipt {
    pub(super) key: String,
    pub(super) rows: u64,
    pub(super) bytes: u64,
    pub(super) sha256: String,
    pub(super) refused: Vec<Refusal>,
    pub(super) adjusted: Vec<Adjustment>,
    /// One for each row, so that the rank that publishes need not read the others' shards.
    pub(super) facts: Vec<RowFacts>,
}

impl Receipt {
    pub(super) fn new(
        shard: &ShardPlan,
        written: &WrittenShard,
        (refused, adjusted): (Vec<Refusal>, Vec<Adjustment>),
        facts: Vec<RowFacts>,
    ) -> Self {
        Self {
            key: shard.key.clone(),
            rows: written.rows,
            bytes: written.bytes,
            sha256: written.sha256.clone(),
            refused,
            adjusted,
            facts,
        }
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec(self).expect("a receipt serialises");
        bytes.push(b'\n');
        bytes
    }
}
