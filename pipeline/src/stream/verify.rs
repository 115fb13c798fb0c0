//! Compares the shards of a data set with the digests in its manifest and, on request, every row
//! with its own.

use std::ops::Range;

use super::dataset::Fetched;
use super::fetch::{Samples, check_threads};
use super::{Dataset, StreamError, sample};
use crate::manifest::ShardInfo;
use crate::shard::{ShardError, ShardReader};
use crate::stats::{Geometry, shard_geometry};

/// A shard that is not the one the manifest describes, or that holds damaged rows.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DamagedShard {
    /// Its path in the data set.
    pub path: String,
    /// What is wrong with the file as a whole; `None` where only rows are damaged.
    pub message: Option<String>,
    /// One line for each damaged row, naming row and sample.
    pub rows: Vec<String>,
}

/// What [`verify`] looks at.
#[derive(Clone, Copy, Debug)]
pub struct VerifyOptions {
    /// Also check and decode both files of every row and compare them with the columns. Rows of a
    /// shard whose digest is wrong are looked at in any case, to name the damaged ones.
    pub decode: bool,
    /// Decoding threads.
    pub threads: usize,
}

/// Reads every shard of `dataset` for which `wanted` says so to its end and returns those that
/// are missing or changed. `on_shard` is called after each one, with whether it is whole, and
/// `on_rows` with the number of rows done meanwhile. Blocks; not for async code.
///
/// # Errors
/// [`StreamError`] when a shard cannot be read because its place refuses or cannot be reached, which
/// says nothing of the shard; for more threads than [`crate::MAX_THREADS`]; when no thread can be
/// started.
pub fn verify(
    dataset: &Dataset,
    options: &VerifyOptions,
    wanted: impl Fn(&ShardInfo) -> bool,
    mut on_shard: impl FnMut(&ShardInfo, bool),
    mut on_rows: impl FnMut(u64),
) -> Result<Vec<DamagedShard>, StreamError> {
    check_threads(dataset.location(), options.threads)?;
    let shards = dataset.shards();
    let mut damaged = Vec::new();
    for (split, readers) in &shards.splits {
        let mut first_row = 0;
        for reader in &readers.readers {
            let info = reader.info();
            let rows = first_row..first_row + info.rows;
            first_row = rows.end;
            if !wanted(info) {
                on_rows(info.rows);
                continue;
            }
            let place = (dataset, split.as_str(), reader);
            let shard = verify_shard(place, rows, options, &mut on_rows)?;
            let whole = shard.message.is_none() && shard.rows.is_empty();
            on_shard(info, whole);
            if !whole {
                damaged.push(shard);
            }
        }
    }
    Ok(damaged)
}

/// `rows` are the shard's rows in its split.
fn verify_shard(
    (dataset, split, reader): (&Dataset, &str, &ShardReader),
    rows: Range<u64>,
    options: &VerifyOptions,
    on_rows: &mut impl FnMut(u64),
) -> Result<DamagedShard, StreamError> {
    let mut shard = DamagedShard {
        path: reader.info().path.clone(),
        message: dataset.runtime().block_on(read_whole(reader))?,
        rows: Vec::new(),
    };
    if !options.decode && shard.message.is_none() {
        on_rows(reader.info().rows);
        return Ok(shard);
    }
    match dataset.runtime().block_on(shard_geometry(reader)) {
        Ok(sizes) => {
            let rows = rows.zip(sizes);
            shard.rows = check_rows(dataset, split, rows, options.threads, on_rows)?;
        }
        Err(error) if error.is_of_the_place() => return Err(error.into()),
        // Without its small columns no row can be looked at.
        Err(error) => {
            shard.message.get_or_insert_with(|| error.to_string());
        }
    }
    Ok(shard)
}

/// What is wrong with the file as a whole, or why that cannot be known.
async fn read_whole(reader: &ShardReader) -> Result<Option<String>, ShardError> {
    let info = reader.info();
    let read = reader.ranges().digest().await;
    let (bytes, sha256) = match read.map_err(|source| ShardError::parquet(&info.path, source)) {
        Ok(read) => read,
        Err(error) if error.is_of_the_place() => return Err(error),
        Err(error) => return Ok(Some(error.to_string())),
    };
    Ok(if bytes != info.bytes {
        Some(format!("{bytes} bytes, the manifest says {}", info.bytes))
    } else if sha256 != info.sha256 {
        Some(format!("sha256 is {sha256}, the manifest says {}", info.sha256))
    } else {
        None
    })
}

/// One line for each damaged row.
fn check_rows(
    dataset: &Dataset,
    split: &str,
    rows: impl Iterator<Item = (u64, Geometry)> + Send + 'static,
    threads: usize,
    on_rows: &mut impl FnMut(u64),
) -> Result<Vec<String>, StreamError> {
    let mut damaged = Vec::new();
    let columns = |columns| columns;
    let mut samples = Samples::start(dataset, split, rows, threads, columns, check_row)?;
    while let Some(checked) = samples.next() {
        match checked {
            Err(error) if error.is_of_the_place() => return Err(error),
            Err(error) => damaged.push(error.to_string()),
            Ok(()) => {}
        }
        on_rows(1);
    }
    Ok(damaged)
}

/// Both files decode, are those that were written, and are what the columns say.
fn check_row(fetched: &Fetched, columns: Geometry) -> Result<(), StreamError> {
    let (image, mask) = sample::decode(fetched)?;
    let wrong = |message: String| StreamError::Facts {
        sample_id: fetched.sample.sample_id.clone(),
        shard: fetched.shard.clone(),
        row: fetched.shard_row,
        message,
    };
    let stored = &fetched.sample;
    let facts = dataset::verify::verify(&image, &mask, &stored.image_bytes, &stored.mask_bytes)
        .map_err(|reason| wrong(reason.to_string()))?;
    let files = Geometry {
        height: facts.height,
        width: facts.width,
        foreground_pixels: facts.foreground_pixels,
        box_xyxy: facts.box_xyxy,
    };
    if files == columns {
        Ok(())
    } else {
        Err(wrong(format!("the columns say {columns}, the files {files}")))
    }
}
