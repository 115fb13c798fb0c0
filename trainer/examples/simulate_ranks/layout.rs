//! What the layout of the shards says a training asks of a store, without asking it: the formulas of
//! docs/scaling.md.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::ops::{AddAssign, Range};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result};
use dataset::order::{Order, World, steps_per_epoch};
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};
use pipeline::Manifest;
use pipeline::manifest::ShardInfo;
use pipeline::shard::JOINED_BYTES;

use crate::store::Request;

/// Read from the end of a shard with its footer.
const FOOTER_BYTES: u64 = 256 << 10;
/// What a sample is made of: one page of each.
const COLUMNS: [&str; 6] =
    ["sample_id", "source", "image_sha256", "mask_sha256", "image.bytes", "mask.bytes"];
const MANIFEST: &str = "manifest.json";

/// Requests, and the bytes that they ask for.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Traffic {
    pub(crate) requests: u64,
    pub(crate) bytes: u64,
}

impl AddAssign for Traffic {
    fn add_assign(&mut self, other: Self) {
        self.requests += other.requests;
        self.bytes += other.bytes;
    }
}

impl Traffic {
    fn of(ranges: &[Range<u64>]) -> Self {
        let bytes = ranges.iter().map(|range| range.end - range.start).sum();
        Self { requests: ranges.len() as u64, bytes }
    }
}

/// What all ranks ask for together.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Reads {
    /// `manifest.json`, once by each rank.
    pub(crate) manifests: Traffic,
    /// Footers, once by each rank for each shard that it reads from.
    pub(crate) footers: Traffic,
    /// Samples, once by the rank that trains on them.
    pub(crate) rows: Traffic,
}

/// One split of a data set in a folder.
pub(crate) struct Split {
    pub(crate) num_samples: u64,
    manifest_bytes: u64,
    shards: Vec<Shard>,
}

struct Shard {
    key: String,
    rows: Vec<Traffic>,
    footer: Traffic,
    /// Where the pages end and the indexes begin.
    data_end: u64,
}

impl Split {
    pub(crate) fn read(folder: &Path, split: &str) -> Result<Self> {
        let path = folder.join(MANIFEST);
        let bytes = std::fs::read(&path).with_context(|| path.display().to_string())?;
        let manifest = Manifest::parse(&bytes).map_err(anyhow::Error::msg)?;
        let info = manifest.splits.get(split).with_context(|| format!("no split `{split}`"))?;
        let shards = info
            .shards
            .iter()
            .map(|info| Shard::read(folder, info).with_context(|| info.path.clone()));
        Ok(Self {
            num_samples: info.num_samples,
            manifest_bytes: bytes.len() as u64,
            shards: shards.collect::<Result<_>>()?,
        })
    }

    /// Requests and bytes of each row.
    pub(crate) fn rows(&self) -> impl Iterator<Item = Traffic> {
        self.shards.iter().flat_map(|shard| shard.rows.iter().copied())
    }

    /// What `ranks` ranks ask for in whole epochs.
    pub(crate) fn reads(&self, ranks: usize, global_batch: usize, epochs: u64, seed: u64) -> Reads {
        let mut reads = Reads::default();
        let steps = steps_per_epoch(self.num_samples, global_batch as u64);
        for rank in 0..ranks {
            reads.manifests += Traffic { requests: 1, bytes: self.manifest_bytes };
            let mut opened = BTreeSet::new();
            for epoch in 0..epochs {
                let order = Order::new(self.num_samples, seed, epoch);
                for step in 0..steps {
                    for place in (World { rank, world_size: ranks }).slice(global_batch) {
                        let row = order.row(step * global_batch as u64 + place as u64);
                        let (shard, row) = self.locate(row as usize);
                        reads.rows += self.shards[shard].rows[row];
                        opened.insert(shard);
                    }
                }
            }
            opened.into_iter().for_each(|shard| reads.footers += self.shards[shard].footer);
        }
        reads
    }

    fn locate(&self, mut row: usize) -> (usize, usize) {
        let mut index = 0;
        while row >= self.shards[index].rows.len() {
            row -= self.shards[index].rows.len();
            index += 1;
        }
        (index, row)
    }

    /// The same of requests that were seen.
    pub(crate) fn sort(&self, requests: &[Request]) -> Reads {
        let ends: BTreeMap<&str, u64> =
            self.shards.iter().map(|shard| (shard.key.as_str(), shard.data_end)).collect();
        let mut reads = Reads::default();
        for Request { key, range } in requests {
            let kind = match ends.get(key.as_str()) {
                None => &mut reads.manifests,
                Some(&data_end) if range.end > data_end => &mut reads.footers,
                Some(_) => &mut reads.rows,
            };
            *kind += Traffic::of(std::slice::from_ref(range));
        }
        reads
    }
}

impl Shard {
    fn read(folder: &Path, info: &ShardInfo) -> Result<Self> {
        let file = File::open(folder.join(&info.path))?;
        let metadata = ParquetMetaDataReader::new()
            .with_column_index_policy(PageIndexPolicy::Skip)
            .with_offset_index_policy(PageIndexPolicy::Required)
            .parse_and_finish(&file)?;
        let index = index_range(&metadata).context("no offset index")?;
        Ok(Self {
            key: info.path.clone(),
            rows: rows(&metadata)?,
            footer: footer(&file, info.bytes, &index)?,
            data_end: index.start,
        })
    }
}

/// The first read takes the last 256 KiB; what is not in it takes one more each.
fn footer(file: &File, size: u64, index: &Range<u64>) -> Result<Traffic> {
    let start = size.saturating_sub(FOOTER_BYTES);
    let last = start..size;
    let mut length = [0; 4];
    file.read_exact_at(&mut length, size.saturating_sub(8))?;
    let metadata = size.saturating_sub(u64::from(u32::from_le_bytes(length)) + 8);
    let metadata = (metadata < start).then(|| metadata..size - 8);
    let index = (index.start < start).then(|| index.clone());
    let ranges: Vec<Range<u64>> = [Some(last), metadata, index].into_iter().flatten().collect();
    Ok(Traffic::of(&ranges))
}

/// The offset indexes of all columns, which lie behind the pages.
fn index_range(metadata: &ParquetMetaData) -> Option<Range<u64>> {
    let columns = metadata.row_groups().iter().flat_map(|group| group.columns());
    columns
        .filter_map(|column| column.offset_index_range())
        .reduce(|whole, range| whole.start.min(range.start)..whole.end.max(range.end))
}

fn rows(metadata: &ParquetMetaData) -> Result<Vec<Traffic>> {
    let mut rows = Vec::new();
    for (number, group) in metadata.row_groups().iter().enumerate() {
        let offsets = metadata.page_index_for_row_group(number);
        let paths: Vec<String> =
            group.columns().iter().map(|column| column.column_path().string()).collect();
        for row in 0..usize::try_from(group.num_rows())? {
            let mut ranges = Vec::new();
            for name in COLUMNS {
                let column = paths.iter().position(|path| path == name).context(name)?;
                let pages = offsets.offset_index(column).context("no offset index")?;
                let page = pages.page_locations().get(row);
                let page = page.filter(|page| page.first_row_index == row as i64);
                let page = page.with_context(|| format!("{name} has not one page a row"))?;
                let start = u64::try_from(page.offset)?;
                ranges.push(start..start + u64::try_from(page.compressed_page_size)?);
            }
            rows.push(Traffic::of(&joined(ranges)));
        }
    }
    Ok(rows)
}

/// One range for all that are at most [`JOINED_BYTES`] apart, gaps included.
fn joined(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.sort_by_key(|range| range.start);
    let mut whole: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match whole.last_mut() {
            Some(last) if range.start <= last.end + JOINED_BYTES => {
                last.end = last.end.max(range.end)
            }
            _ => whole.push(range),
        }
    }
    whole
}
