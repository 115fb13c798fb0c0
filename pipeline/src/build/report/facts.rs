//! What the report needs of every row.

use arrow_array::cast::AsArray;
use dataset::schema::Row;
use parquet::arrow::arrow_reader::{RowSelection, RowSelector};
use serde::{Deserialize, Serialize};

use super::super::output::ShardFile;
use super::super::receipt::Receipt;
use super::duplicates::TRAIN_SPLIT;
use crate::shard::ShardError;
use crate::stats::Geometry;

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

impl RowFacts {
    pub(in super::super) fn of(row: &Row) -> Self {
        Self {
            sample_id: row.sample_id.clone(),
            source: row.source.clone(),
            split: row.split.clone(),
            geometry: Geometry {
                height: row.height,
                width: row.width,
                foreground_pixels: row.foreground_pixels,
                box_xyxy: row.box_xyxy,
            },
            image_sha256: row.image_sha256.clone(),
            perceptual_hash: row.perceptual_hash,
            place: (0, 0),
        }
    }

    pub(in super::super) fn is_for_training(&self) -> bool {
        self.split == TRAIN_SPLIT
    }
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
