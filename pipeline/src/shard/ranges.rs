//! Ranges of one object of a store: which are asked for together, and how often.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, try_join_all};
use futures::{FutureExt, TryStreamExt};
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::errors::ParquetError;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};
use sha2::{Digest, Sha256};

use crate::digest::hex;

/// Reads of one range are tried this often before the error is believed.
const READ_ATTEMPTS: u32 = 5;
/// Wait before the second try; it triples with each further one (0.1, 0.3, 0.9, 2.7 s).
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
/// Read with the footer, so that a small shard's page index comes in the same request.
const FOOTER_PREFETCH_BYTES: usize = 256 << 10;

/// Ranges of a row that are no further apart become one request, the gap read along: less to wait
/// for than another request's answer. Object stores by themselves would join what is a MiB apart, which
/// for pictures of tens of kilobytes is mostly gaps.
pub const JOINED_BYTES: u64 = 64 << 10;

/// Ranges of one object, read through an [`ObjectStore`] and retried with growing waits.
///
/// A missing object is not retried, nor one that the store refuses to give. A short answer counts as
/// a failed read.
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

    /// The store and the key.
    pub(super) fn place(&self) -> (&dyn ObjectStore, &object_store::path::Path) {
        (&*self.store, &self.key)
    }

    async fn read(&self, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, ParquetError> {
        let mut failures = 0;
        loop {
            // At the same time. Stores join the ranges of one call that are near to each other.
            let calls = neighbours(ranges).map(|near| self.store.get_ranges(&self.key, near));
            let error = match try_join_all(calls).await.map(|parts| parts.concat()) {
                Ok(parts) if lengths_match(&parts, ranges) => return Ok(parts),
                Ok(_) => ParquetError::General("the store answered fewer bytes than asked".into()),
                Err(error) => ParquetError::External(Box::new(error)),
            };
            failures += 1;
            self.pause_after(failures, error).await?;
        }
    }

    /// Length and SHA-256 of the whole object, read to its end.
    pub(crate) async fn digest(&self) -> Result<(u64, String), ParquetError> {
        let mut failures = 0;
        loop {
            let error = match self.digest_once().await {
                Ok(read) => return Ok(read),
                Err(error) => ParquetError::External(Box::new(error)),
            };
            failures += 1;
            self.pause_after(failures, error).await?;
        }
    }

    async fn digest_once(&self) -> object_store::Result<(u64, String)> {
        let mut pieces = self.store.get(&self.key).await?.into_stream();
        let (mut digest, mut bytes) = (Sha256::new(), 0);
        while let Some(piece) = pieces.try_next().await? {
            digest.update(&piece);
            bytes += piece.len() as u64;
        }
        Ok((bytes, hex(&digest.finalize())))
    }

    /// Waits before the next try, or gives the error back where there is to be none.
    async fn pause_after(&self, failures: u32, error: ParquetError) -> Result<(), ParquetError> {
        if failures == READ_ATTEMPTS || is_final(&error) {
            return Err(error);
        }
        tracing::warn!(shard = %self.key, attempt = failures, %error, "read failed, trying again");
        tokio::time::sleep(FIRST_BACKOFF * 3_u32.pow(failures - 1)).await;
        Ok(())
    }
}

/// Whether asking again would give the same answer.
fn is_final(error: &ParquetError) -> bool {
    let ParquetError::External(error) = error else { return false };
    matches!(
        error.downcast_ref(),
        Some(
            object_store::Error::NotFound { .. }
                | object_store::Error::PermissionDenied { .. }
                | object_store::Error::Unauthenticated { .. }
        )
    )
}

/// The ranges, which ascend, in runs whose gaps are at most [`JOINED_BYTES`].
fn neighbours(ranges: &[Range<u64>]) -> impl Iterator<Item = &[Range<u64>]> {
    ranges.chunk_by(|left, right| right.start <= left.end.saturating_add(JOINED_BYTES))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_near_ranges_are_asked_for_together() {
        let far = 200 + JOINED_BYTES;
        let ranges =
            [0..100, 100..200, far..far + 1, 2 * far..2 * far + 5, 2 * far + 6..2 * far + 7];
        let runs: Vec<usize> = neighbours(&ranges).map(<[_]>::len).collect();
        assert_eq!(runs, [3, 2]);
        assert_eq!(neighbours(&[0..100, far..far + 1]).count(), 2);
        assert_eq!(neighbours(&[]).count(), 0);
    }
}
