//! Reads the small columns of every shard of a data set.

use std::collections::BTreeMap;

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use futures::{StreamExt, TryStreamExt};
use parquet::arrow::{ParquetRecordBatchStreamBuilder, ProjectionMask};
use serde::Serialize;

use super::{GEOMETRY_COLUMNS, Geometry, Stats, geometry};
use crate::shard::{ShardError, ShardReader};
use crate::stream::{Dataset, StreamError};

/// Shards read at once. The columns of a shard are a few ranges: the wait is the time.
const SHARDS_AT_ONCE: usize = 16;

/// Statistics of a data set, by split and then by source.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DatasetStats {
    /// By split name, then by source name.
    pub splits: BTreeMap<String, BTreeMap<String, Stats>>,
}

impl DatasetStats {
    /// All sources of a split together.
    #[must_use]
    pub fn whole_split(&self, split: &str) -> Stats {
        let mut all = Stats::default();
        for stats in self.splits.get(split).into_iter().flat_map(BTreeMap::values) {
            all.merge(stats);
        }
        all
    }

    /// As JSON: quantiles of each source and of each whole split.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        #[derive(Serialize)]
        struct Split {
            all: super::Summary,
            sources: BTreeMap<String, super::Summary>,
        }
        let splits: BTreeMap<&String, Split> = self
            .splits
            .iter()
            .map(|(name, sources)| {
                let summaries = sources.iter().map(|(name, stats)| (name.clone(), stats.summary()));
                let all = self.whole_split(name).summary();
                (name, Split { all, sources: summaries.collect() })
            })
            .collect();
        serde_json::json!({ "splits": splits })
    }
}

/// Reads the sizes of every row of `dataset`; `on_shard` is called after each shard. Blocks; not
/// for async code. Memory does not grow with the rows.
///
/// # Errors
/// [`StreamError::Columns`] naming the shard.
pub fn stats(dataset: &Dataset, mut on_shard: impl FnMut()) -> Result<DatasetStats, StreamError> {
    let shards = dataset.shards();
    let mut found = DatasetStats::default();
    for (split, readers) in &shards.splits {
        let sources = found.splits.entry(split.clone()).or_default();
        let scans = futures::stream::iter(readers.readers.iter().map(scan));
        let mut scans = scans.buffered(SHARDS_AT_ONCE);
        dataset.runtime().block_on(async {
            while let Some(shard) = scans.next().await {
                for (source, stats) in shard? {
                    sources.entry(source).or_default().merge(&stats);
                }
                on_shard();
            }
            Ok::<(), ShardError>(())
        })?;
    }
    Ok(found)
}

async fn scan(reader: &ShardReader) -> Result<BTreeMap<String, Stats>, ShardError> {
    let path = &reader.info().path;
    let mut sources: BTreeMap<String, Stats> = BTreeMap::new();
    for_each_batch(reader, &["source"], |batch, rows| {
        let names = batch.column_by_name("source").and_then(|column| column.as_string_opt::<i32>());
        let names = names.ok_or_else(|| wrong(path, "source"))?;
        for (row, geometry) in rows.iter().enumerate() {
            let name = names.value(row);
            if !sources.contains_key(name) {
                sources.insert(name.to_owned(), Stats::default());
            }
            sources.get_mut(name).expect("inserted above").add(geometry);
        }
        Ok(())
    })
    .await?;
    Ok(sources)
}

/// The sizes of every row of a shard.
pub(crate) async fn shard_geometry(reader: &ShardReader) -> Result<Vec<Geometry>, ShardError> {
    let mut all = Vec::new();
    for_each_batch(reader, &[], |_, rows| {
        all.extend(rows);
        Ok(())
    })
    .await?;
    Ok(all)
}

/// Fetches the columns of sizes, and those of `more`, batch by batch.
async fn for_each_batch(
    reader: &ShardReader,
    more: &[&str],
    take: impl FnMut(&RecordBatch, Vec<Geometry>) -> Result<(), ShardError>,
) -> Result<(), ShardError> {
    reader.guarded(read_batches(reader, more, take)).await
}

async fn read_batches(
    reader: &ShardReader,
    more: &[&str],
    mut take: impl FnMut(&RecordBatch, Vec<Geometry>) -> Result<(), ShardError>,
) -> Result<(), ShardError> {
    let path = &reader.info().path;
    let parquet = |source| ShardError::parquet(path, source);
    let builder =
        ParquetRecordBatchStreamBuilder::new(reader.ranges().clone()).await.map_err(parquet)?;
    let columns = GEOMETRY_COLUMNS.into_iter().chain(more.iter().copied());
    let projection = ProjectionMask::columns(builder.parquet_schema(), columns);
    let mut batches = builder.with_projection(projection).build().map_err(parquet)?;
    while let Some(batch) = batches.try_next().await.map_err(parquet)? {
        let rows = geometry(&batch).map_err(|name| wrong(path, name))?;
        take(&batch, rows)?;
    }
    Ok(())
}

fn wrong(path: &str, column: &str) -> ShardError {
    ShardError::schema(path, &format!("column `{column}` is not as expected"))
}
