//! The small columns of finished shards: what the report needs of every row.

use std::fs::File;
use std::path::Path;

use serde::{Deserialize, Serialize};

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use arrow_array::types::UInt64Type;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReaderBuilder, RowSelection, RowSelector};

use super::super::output::ShardFile;
use super::super::receipt::Receipt;
use crate::shard::ShardError;
use crate::stats::{GEOMETRY_COLUMNS, Geometry, geometry};

const COLUMNS: [&str; 4] = ["sample_id", "source", "image_sha256", "perceptual_hash"];

/// Facts of one row, and where its pictures are. Kept in the shard's receipt.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(in super::super) struct RowFacts {
    pub(super) sample_id: String,
    pub(super) source: String,
    pub(super) split: String,
    pub(super) geometry: Geometry,
    pub(super) image_sha256: String,
    pub(super) perceptual_hash: u64,
    /// Index of the shard, known once all are, and row within it.
    #[serde(skip)]
    pub(super) place: (usize, usize),
}

/// The facts of all rows of receipts, each with its place among them.
pub(in super::super) fn facts<'a>(
    receipts: impl IntoIterator<Item = &'a Receipt>,
) -> Vec<RowFacts> {
    let place = |shard: usize, receipt: &'a Receipt| {
        let rows = receipt.facts.iter().enumerate();
        rows.map(move |(row, fact)| RowFacts { place: (shard, row), ..fact.clone() })
    };
    receipts.into_iter().enumerate().flat_map(|(shard, receipt)| place(shard, receipt)).collect()
}

/// The facts of all rows of the shard that was written to `file`; `path` is what errors call it.
pub(in super::super) fn facts_of(
    file: File,
    path: &Path,
    split: &str,
) -> Result<Vec<RowFacts>, ShardError> {
    let open = || {
        let builder = ParquetRecordBatchReaderBuilder::try_new(file)?;
        let schema = builder.parquet_schema();
        let projection =
            ProjectionMask::columns(schema, COLUMNS.iter().chain(&GEOMETRY_COLUMNS).copied());
        builder.with_projection(projection).build()
    };
    let batches = open().map_err(|source| ShardError::parquet(path.display(), source))?;
    let mut facts = Vec::new();
    for batch in batches {
        let batch = batch.map_err(|error| ShardError::schema(path.display(), &error))?;
        rows(&batch, split, &mut facts)
            .map_err(|name| ShardError::schema(path.display(), &format!("column `{name}`")))?;
    }
    Ok(facts)
}

/// The bytes of an image file and of its mask file.
type Files = (Vec<u8>, Vec<u8>);

/// Image and mask files of chosen rows of a shard; `rows` ascending.
pub(super) fn read_pictures(shard: &ShardFile, rows: &[usize]) -> Result<Vec<Files>, ShardError> {
    let mut selectors = Vec::new();
    let mut next = 0;
    for row in rows {
        selectors.extend([RowSelector::skip(row - next), RowSelector::select(1)]);
        next = row + 1;
    }
    let columns = ["image.bytes", "mask.bytes"];
    let mut pictures = Vec::with_capacity(rows.len());
    for batch in shard.read(&columns, Some(RowSelection::from(selectors)))? {
        let column = |name: &str| -> Option<_> {
            batch
                .column_by_name(name)?
                .as_struct_opt()?
                .column_by_name("bytes")?
                .as_binary_opt::<i32>()
        };
        let (Some(images), Some(masks)) = (column("image"), column("mask")) else {
            return Err(ShardError::schema(shard.path(), &"no image and mask columns"));
        };
        pictures.extend(
            (0..batch.num_rows())
                .map(|row| (images.value(row).to_vec(), masks.value(row).to_vec())),
        );
    }
    Ok(pictures)
}

/// `Err` names the column that is not as expected.
fn rows(batch: &RecordBatch, split: &str, facts: &mut Vec<RowFacts>) -> Result<(), &'static str> {
    let text = |name: &'static str| {
        batch.column_by_name(name).and_then(|column| column.as_string_opt::<i32>()).ok_or(name)
    };
    let large = |name: &'static str| {
        let column =
            batch.column_by_name(name).and_then(|column| column.as_primitive_opt::<UInt64Type>());
        column.ok_or(name)
    };
    let (sample_id, source, image_sha256) =
        (text("sample_id")?, text("source")?, text("image_sha256")?);
    let hash = large("perceptual_hash")?;
    facts.extend(geometry(batch)?.into_iter().enumerate().map(|(row, geometry)| RowFacts {
        sample_id: sample_id.value(row).to_owned(),
        source: source.value(row).to_owned(),
        split: split.to_owned(),
        geometry,
        image_sha256: image_sha256.value(row).to_owned(),
        perceptual_hash: hash.value(row),
        place: (0, 0),
    }));
    Ok(())
}
