//! Reads single rows of one shard out of an object store.

use std::any::Any;
use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arrow_array::cast::AsArray;
use arrow_array::{Array, RecordBatch};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, TryStreamExt};
use object_store::ObjectStore;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, RowSelection, RowSelector,
};
use parquet::arrow::async_reader::{AsyncFileReader, ParquetRecordBatchStreamBuilder};
use parquet::errors::ParquetError;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};
use tokio::sync::OnceCell;

use super::layout::STREAMED_COLUMNS;
use crate::manifest::ShardInfo;

/// Reads of one range are tried this often before the error is believed.
const READ_ATTEMPTS: u32 = 5;
/// Wait before the second try; it triples with each further one (0.1, 0.3, 0.9, 2.7 s).
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
/// Read with the footer, so that a small shard's page index comes in the same request.
const FOOTER_PREFETCH_BYTES: usize = 256 << 10;

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

    pub(crate) fn parquet(shard: impl ToString, source: ParquetError) -> Self {
        Self::Parquet { shard: shard.to_string(), source }
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

/// Ranges of one object, read through an [`ObjectStore`] and retried with growing waits.
///
/// A missing object is not retried. A short answer counts as a failed read.
#[derive(Clone, Debug)]
pub struct RangeReader {
    store: Arc<dyn ObjectStore>,
    key: object_store::path::Path,
    bytes: u64,
}

impl RangeReader {
    /// A reader of the object at `key`, which is `bytes` long.
    #[must_use]
    pub fn new(store: Arc<dyn ObjectStore>, key: object_store::path::Path, bytes: u64) -> Self {
        Self { store, key, bytes }
    }

    async fn read(&self, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, ParquetError> {
        let mut wait = FIRST_BACKOFF;
        for attempt in 1.. {
            let error = match self.store.get_ranges(&self.key, ranges).await {
                Ok(parts) if lengths_match(&parts, ranges) => return Ok(parts),
                Ok(_) => ParquetError::General("the store answered fewer bytes than asked".into()),
                Err(error @ object_store::Error::NotFound { .. }) => {
                    return Err(ParquetError::External(Box::new(error)));
                }
                Err(error) => ParquetError::External(Box::new(error)),
            };
            if attempt == READ_ATTEMPTS {
                return Err(error);
            }
            tracing::warn!(shard = %self.key, attempt, %error, "read failed, trying again");
            tokio::time::sleep(wait).await;
            wait *= 3;
        }
        unreachable!("the loop returns at the last attempt")
    }
}

fn lengths_match(parts: &[Bytes], ranges: &[Range<u64>]) -> bool {
    parts.len() == ranges.len()
        && parts
            .iter()
            .zip(ranges)
            .all(|(part, range)| part.len() as u64 == range.end - range.start)
}

impl AsyncFileReader for RangeReader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ParquetError>> {
        async move { Ok(self.read(&[range]).await?.swap_remove(0)) }.boxed()
    }

    fn get_byte_ranges(
        &mut self,
        ranges: Vec<Range<u64>>,
    ) -> BoxFuture<'_, Result<Vec<Bytes>, ParquetError>> {
        async move { self.read(&ranges).await }.boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        _options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Result<Arc<ParquetMetaData>, ParquetError>> {
        async move {
            let bytes = self.bytes;
            let metadata = ParquetMetaDataReader::new()
                .with_column_index_policy(PageIndexPolicy::Skip)
                .with_offset_index_policy(PageIndexPolicy::Required)
                .with_prefetch_hint(Some(FOOTER_PREFETCH_BYTES))
                .load_and_finish(self, bytes)
                .await?;
            Ok(Arc::new(metadata))
        }
        .boxed()
    }
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

    /// Reads ranges of the shard's file.
    pub(crate) fn ranges(&self) -> &RangeReader {
        &self.reader
    }

    /// Where the shard is.
    pub(crate) fn place(&self) -> (&dyn ObjectStore, &object_store::path::Path) {
        (&*self.reader.store, &self.reader.key)
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
        // The library asserts much of what a footer says, and a damaged one says anything.
        let read = AssertUnwindSafe(self.read_row(row)).catch_unwind().await;
        read.unwrap_or_else(|panic| Err(self.damaged(&*panic)))
    }

    fn damaged(&self, panic: &(dyn Any + Send)) -> ShardError {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        let message = text.unwrap_or("unknown").replace('\n', " ");
        ShardError::Damaged { shard: self.info.path.clone(), message }
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
