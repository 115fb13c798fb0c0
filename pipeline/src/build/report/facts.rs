//! The small columns of finished shards: what the report needs of every row.

use std::fs::File;
use std::path::Path;

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use arrow_array::types::UInt64Type;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReaderBuilder, RowSelection, RowSelector};

use crate::shard::ShardError;
use crate::stats::{GEOMETRY_COLUMNS, Geometry, geometry};

const COLUMNS: [&str; 4] = ["sample_id", "source", "image_sha256", "perceptual_hash"];

/// Facts of one row, and where its pictures are.
pub(in super::super) struct RowFacts {
    pub(super) sample_id: String,
    pub(super) source: String,
    pub(super) split: String,
    pub(super) geometry: Geometry,
    pub(super) image_sha256: String,
    pub(super) perceptual_hash: u64,
    /// Index of the shard and row within it.
    pub(super) place: (usize, usize),
}

/// Reads the facts of all rows of a shard.
pub(super) fn read(
    path: &Path,
    split: &str,
    shard: usize,
    facts: &mut Vec<RowFacts>,
) -> Result<(), ShardError> {
    let mut first_row = 0;
    let columns = [&COLUMNS[..], &GEOMETRY_COLUMNS].concat();
    for batch in open(path, &columns)? {
        let batch = batch.map_err(|error| ShardError::schema(path.display(), &error))?;
        rows(&batch, split, (shard, first_row), facts)
            .map_err(|name| ShardError::schema(path.display(), &format!("column `{name}`")))?;
        first_row += batch.num_rows();
    }
    Ok(())
}

/// The bytes of an image file and of its mask file.
type Files = (Vec<u8>, Vec<u8>);

/// Image and mask files of chosen rows of a shard; `rows` ascending.
pub(super) fn read_pictures(path: &Path, rows: &[usize]) -> Result<Vec<Files>, ShardError> {
    let mut selectors = Vec::new();
    let mut next = 0;
    for row in rows {
        selectors.extend([RowSelector::skip(row - next), RowSelector::select(1)]);
        next = row + 1;
    }
    let reader = builder(path, &["image.bytes", "mask.bytes"])?
        .with_row_selection(RowSelection::from(selectors))
        .build()
        .map_err(|source| ShardError::parquet(path.display(), source))?;
    let mut pictures = Vec::with_capacity(rows.len());
    for batch in reader {
        let batch = batch.map_err(|error| ShardError::schema(path.display(), &error))?;
        let column = |name: &str| -> Option<_> {
            batch
                .column_by_name(name)?
                .as_struct_opt()?
                .column_by_name("bytes")?
                .as_binary_opt::<i32>()
        };
        let (Some(images), Some(masks)) = (column("image"), column("mask")) else {
            return Err(ShardError::schema(path.display(), &"no image and mask columns"));
        };
        pictures.extend(
            (0..batch.num_rows())
                .map(|row| (images.value(row).to_vec(), masks.value(row).to_vec())),
        );
    }
    Ok(pictures)
}

fn open(
    path: &Path,
    columns: &[&str],
) -> Result<parquet::arrow::arrow_reader::ParquetRecordBatchReader, ShardError> {
    builder(path, columns)?.build().map_err(|source| ShardError::parquet(path.display(), source))
}

fn builder(
    path: &Path,
    columns: &[&str],
) -> Result<ParquetRecordBatchReaderBuilder<File>, ShardError> {
    let file =
        File::open(path).map_err(|source| ShardError::parquet(path.display(), source.into()))?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(file)
        .map_err(|source| ShardError::parquet(path.display(), source))?;
    let projection = ProjectionMask::columns(builder.parquet_schema(), columns.iter().copied());
    Ok(builder.with_projection(projection))
}

/// `Err` names the column that is not as expected.
fn rows(
    batch: &RecordBatch,
    split: &str,
    (shard, first_row): (usize, usize),
    facts: &mut Vec<RowFacts>,
) -> Result<(), &'static str> {
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
        place: (shard, first_row + row),
    }));
    Ok(())
}
