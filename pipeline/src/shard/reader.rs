//! Reads single rows of one shard out of an object store.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, RecordBatch};
use bytes::Bytes;
use futures::TryStreamExt;
use object_store::ObjectStore;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, RowSelection, RowSelector,
};
use parquet::arrow::async_reader::{AsyncFileReader, ParquetRecordBatchStreamBuilder};
use parquet::errors::ParquetError;
use tokio::sync::OnceCell;

use super::guard;
use super::layout::STREAMED_COLUMNS;
use super::ranges::RangeReader;
use crate::manifest::ShardInfo;

/// A shard that could not be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShardError {
    /// The operating system refused.
    #[error("{path}: cannot write the shard: {source}")]
    Write {
        /// The file being written.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The file is not the Parquet file it should be, or could not be read.
    #[error("shard {shard}: {source}")]
    Parquet {
        /// The shard's path or key.
        shard: String,
        /// What the Parquet library said.
        source: ParquetError,
    },
    /// The place where the shard lies did not give it.
    #[error("shard {shard} cannot be read, nothing is known of it: {source}")]
    Store {
        /// The shard's path or key.
        shard: String,
        /// What the store said.
        source: Box<object_store::Error>,
    },
    /// A column is absent or of another type.
    #[error("shard {shard}: {message}")]
    Schema {
        /// The shard's path or key.
        shard: String,
        /// Which column, and what was expected.
        message: String,
    },
    /// The Parquet library broke down over it.
    #[error("shard {shard} is damaged ({message}): copy it again or rebuild the data set")]
    Damaged {
        /// The shard's path or key.
        shard: String,
        /// What the library had taken for granted.
        message: String,
    },
    /// The shard has fewer rows than the manifest says.
    #[error("shard {shard} has {rows} rows, the manifest says {expected}: rebuild the data set")]
    RowCount {
        /// The shard's key.
        shard: String,
        /// Rows in the file.
        rows: u64,
        /// Rows in the manifest.
        expected: u64,
    },
}

impl ShardError {
    pub(super) fn write(path: &Path, source: std::io::Error) -> Self {
        Self::Write { path: path.to_owned(), source }
    }

    /// What the Parquet library said, or the store through it.
    pub(crate) fn parquet(shard: impl ToString, source: ParquetError) -> Self {
        let shard = shard.to_string();
        match source {
            ParquetError::External(error) => match error.downcast::<object_store::Error>() {
                Ok(source) => Self::Store { shard, source },
                Err(error) => Self::Parquet { shard, source: ParquetError::External(error) },
            },
            source => Self::Parquet { shard, source },
        }
    }

    /// Whether nothing is known of the shard, because the place where it lies refused or could not
    /// be reached. A shard that is not there is one of the shard's own faults.
    #[must_use]
    pub fn is_of_the_place(&self) -> bool {
        matches!(self, Self::Store { source, .. }
            if !matches!(**source, object_store::Error::NotFound { .. }))
    }

    pub(crate) fn schema(shard: impl ToString, message: &impl ToString) -> Self {
        Self::Schema { shard: shard.to_string(), message: message.to_string() }
    }
}

/// One row as stored: what a stream needs and nothing else.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredSample {
    /// `source/name`.
    pub sample_id: String,
    /// Name of the source.
    pub source: String,
    /// Hexadecimal digest of `image_bytes` at build time.
    pub image_sha256: String,
    /// Hexadecimal digest of `mask_bytes` at build time.
    pub mask_sha256: String,
    /// The image file as it was found.
    pub image_bytes: Bytes,
    /// Grey PNG, 0..255.
    pub mask_bytes: Bytes,
}

/// One shard. The footer is read at the first row and kept.
pub struct ShardReader {
    reader: RangeReader,
    info: ShardInfo,
    footer: OnceCell<Footer>,
}

struct Footer {
    metadata: ArrowReaderMetadata,
    projection: ProjectionMask,
    /// First row of each row group, and the number of rows as the last entry.
    group_starts: Vec<u64>,
}

impl ShardReader {
    /// A reader of the shard that `info` describes, stored at `key`. Nothing is read yet.
    #[must_use]
    pub fn new(
        store: Arc<dyn ObjectStore>,
        key: object_store::path::Path,
        info: ShardInfo,
    ) -> Self {
        let reader = RangeReader::new(store, key, info.bytes);
        Self { reader, info, footer: OnceCell::new() }
    }

    /// The shard's entry in the manifest.
    #[must_use]
    pub fn info(&self) -> &ShardInfo {
        &self.info
    }

    /// Where the shard is.
    pub(crate) fn place(&self) -> (&dyn ObjectStore, &object_store::path::Path) {
        self.reader.place()
    }

    /// Reads ranges of the shard's file.
    pub(crate) fn ranges(&self) -> &RangeReader {
        &self.reader
    }

    /// Fetches one row: the pages of its six columns and nothing else.
    ///
    /// # Errors
    /// [`ShardError`] after several tries, naming the shard.
    ///
    /// # Panics
    /// When `row` is not below the shard's number of rows.
    pub async fn read(&self, row: u64) -> Result<StoredSample, ShardError> {
        assert!(row < self.info.rows, "row {row} of a shard with {} rows", self.info.rows);
        self.guarded(self.read_row(row)).await
    }

    /// Runs what reads this shard with the Parquet library. The library asserts much of what a footer
    /// says, and a damaged one says anything: its panics become [`ShardError::Damaged`].
    pub(crate) async fn guarded<T>(
        &self,
        work: impl Future<Output = Result<T, ShardError>>,
    ) -> Result<T, ShardError> {
        let done = guard::catch(work).await;
        done.unwrap_or_else(|message| {
            Err(ShardError::Damaged { shard: self.info.path.clone(), message })
        })
    }

    async fn read_row(&self, row: u64) -> Result<StoredSample, ShardError> {
        let footer = self.footer.get_or_try_init(|| self.read_footer()).await?;
        let group = footer.group_starts.partition_point(|start| *start <= row) - 1;
        let in_group = (row - footer.group_starts[group]) as usize;
        let selection =
            RowSelection::from(vec![RowSelector::skip(in_group), RowSelector::select(1)]);
        let parquet = |source| ShardError::parquet(&self.info.path, source);
        let batches: Vec<RecordBatch> = ParquetRecordBatchStreamBuilder::new_with_metadata(
            self.reader.clone(),
            footer.metadata.clone(),
        )
        .with_row_groups(vec![group])
        .with_row_selection(selection)
        .with_projection(footer.projection.clone())
        .with_batch_size(1)
        .build()
        .map_err(parquet)?
        .try_collect()
        .await
        .map_err(parquet)?;
        let batch = batches.first().filter(|batch| batch.num_rows() == 1).ok_or_else(|| {
            ShardError::schema(&self.info.path, &format!("row {row} came back empty"))
        })?;
        stored_sample(batch).map_err(|message| ShardError::schema(&self.info.path, &message))
    }

    async fn read_footer(&self) -> Result<Footer, ShardError> {
        let parquet = |source| ShardError::parquet(&self.info.path, source);
        let mut reader = self.reader.clone();
        let metadata = reader.get_metadata(None).await.map_err(parquet)?;
        let mut group_starts = vec![0];
        for group in metadata.row_groups() {
            let rows = u64::try_from(group.num_rows()).unwrap_or(0);
            group_starts.push(group_starts[group_starts.len() - 1] + rows);
        }
        let rows = group_starts[group_starts.len() - 1];
        if rows != self.info.rows {
            let (shard, expected) = (self.info.path.clone(), self.info.rows);
            return Err(ShardError::RowCount { shard, rows, expected });
        }
        let metadata =
            ArrowReaderMetadata::try_new(metadata, ArrowReaderOptions::new()).map_err(parquet)?;
        let projection = ProjectionMask::columns(metadata.parquet_schema(), STREAMED_COLUMNS);
        Ok(Footer { metadata, projection, group_starts })
    }
}

fn stored_sample(batch: &RecordBatch) -> Result<StoredSample, String> {
    Ok(StoredSample {
        sample_id: text(batch, "sample_id")?,
        source: text(batch, "source")?,
        image_sha256: text(batch, "image_sha256")?,
        mask_sha256: text(batch, "mask_sha256")?,
        image_bytes: file_bytes(batch, "image")?,
        mask_bytes: file_bytes(batch, "mask")?,
    })
}

fn text(batch: &RecordBatch, name: &str) -> Result<String, String> {
    let column = batch.column_by_name(name).ok_or_else(|| format!("no column `{name}`"))?;
    let array = column
        .as_string_opt::<i32>()
        .filter(|array| array.is_valid(0))
        .ok_or_else(|| format!("column `{name}` is not text"))?;
    Ok(array.value(0).to_owned())
}

/// The `bytes` field of the struct column `name`.
fn file_bytes(batch: &RecordBatch, name: &str) -> Result<Bytes, String> {
    let column = batch.column_by_name(name).ok_or_else(|| format!("no column `{name}`"))?;
    let array = column
        .as_struct_opt()
        .and_then(|files| files.column_by_name("bytes"))
        .and_then(|bytes| bytes.as_binary_opt::<i32>())
        .filter(|bytes| bytes.is_valid(0))
        .ok_or_else(|| format!("column `{name}.bytes` is not binary"))?;
    Ok(Bytes::copy_from_slice(array.value(0)))
}
