//! One file to an object store, in parts, tried again where it fails.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use object_store::path::Path as Key;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutPayload, WriteMultipart};

/// Size of a part. Stores want at least 5 MiB, all equal but the last, at most 10,000 of them.
const PART_BYTES: u64 = 8 << 20;
/// Parts on their way at once; with [`PART_BYTES`] this bounds the memory of an upload.
const PARTS_IN_FLIGHT: usize = 4;
/// The store client repeats each request by itself; this is for what it gives up on.
const ATTEMPTS: u32 = 3;
/// Wait before the second attempt; it triples with each further one.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);

/// Uploads the first `bytes` bytes of `file` and compares the size the store reports. Requests are
/// signed over their content where the store checks that (S3), so size is what is left to check.
pub(crate) async fn upload(
    store: &dyn ObjectStore,
    key: &Key,
    file: File,
    bytes: u64,
) -> object_store::Result<()> {
    let file = Arc::new(file);
    let mut wait = FIRST_BACKOFF;
    for attempt in 1.. {
        let error = match try_upload(store, key, &file, bytes).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        if attempt == ATTEMPTS || !worth_another(&error) {
            return Err(error);
        }
        tracing::warn!(%key, attempt, %error, "upload failed, trying again");
        tokio::time::sleep(wait).await;
        wait *= 3;
    }
    unreachable!("the loop returns at the last attempt")
}

pub(super) fn worth_another(error: &Error) -> bool {
    !matches!(
        error,
        Error::NotFound { .. }
            | Error::PermissionDenied { .. }
            | Error::Unauthenticated { .. }
            | Error::NotImplemented { .. }
            | Error::NotSupported { .. }
    )
}

async fn try_upload(
    store: &dyn ObjectStore,
    key: &Key,
    file: &Arc<File>,
    bytes: u64,
) -> object_store::Result<()> {
    if bytes <= PART_BYTES {
        let part = read_part(file, 0, bytes).await?;
        store.put(key, PutPayload::from_bytes(part)).await?;
    } else {
        let upload = store.put_multipart(key).await?;
        let mut parts = WriteMultipart::new_with_chunk_size(upload, PART_BYTES as usize);
        let mut start = 0;
        while start < bytes {
            let end = (start + PART_BYTES).min(bytes);
            let part = async {
                parts.wait_for_capacity(PARTS_IN_FLIGHT).await?;
                read_part(file, start, end).await
            };
            match part.await {
                Ok(part) => parts.put(part),
                Err(error) => {
                    // Parts of an abandoned upload are kept, and paid for, until it is aborted.
                    let _reported_above = parts.abort().await;
                    return Err(error);
                }
            }
            start = end;
        }
        parts.finish().await?;
    }
    let stored = store.head(key).await?.size;
    if stored == bytes {
        return Ok(());
    }
    let message = format!("{key}: {stored} bytes arrived of {bytes}");
    Err(Error::Generic { store: "upload", source: message.into() })
}

async fn read_part(file: &Arc<File>, start: u64, end: u64) -> object_store::Result<Bytes> {
    let file = Arc::clone(file);
    let read = tokio::task::spawn_blocking(move || {
        let mut part = vec![0; (end - start) as usize];
        file.read_exact_at(&mut part, start).map(|()| Bytes::from(part))
    });
    let failed = |source| Error::Generic { store: "scratch file", source };
    match read.await {
        Ok(Ok(part)) => Ok(part),
        Ok(Err(error)) => Err(failed(Box::new(error))),
        Err(error) => Err(failed(Box::new(error))),
    }
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;

    #[tokio::test]
    async fn small_files_go_whole_and_large_ones_in_parts() {
        let store = InMemory::new();
        for bytes in [0, 5, PART_BYTES, PART_BYTES + 1, 2 * PART_BYTES + 7] {
            let content: Vec<u8> = (0..bytes).map(|at| (at % 251) as u8).collect();
            let file = tempfile::tempfile().unwrap();
            file.write_all_at(&content, 0).unwrap();
            let key = Key::from("set/shards/a");
            upload(&store, &key, file, bytes).await.unwrap();
            let stored = store.get(&key).await.unwrap().bytes().await.unwrap();
            assert!(stored == content, "{bytes}");
        }
    }

    #[tokio::test]
    async fn a_file_that_is_shorter_than_it_should_be_is_no_upload() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(b"abc", 0).unwrap();
        let store = InMemory::new();
        let error = try_upload(&store, &Key::from("a"), &Arc::new(file), 4).await.unwrap_err();
        assert!(error.to_string().contains("scratch file"), "{error}");
    }
}
