//! Rows of remote data sets kept on the local disk, so that later epochs and later runs ask the
//! store for nothing.
//!
//! One file a row, named after the digest of its shard and its number: a data set that is built
//! again never meets rows of the old one. Files are written beside their place and renamed, and
//! their digests are checked when they are read, so processes may share a folder and a damaged file
//! only costs a read. The rows that were used longest ago go first.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::digest::sha256;
use crate::manifest::ShardInfo;
use crate::shard::StoredSample;

/// Environment variable that names the cache folder for data sets in a store; unset: no cache.
pub const CACHE_DIR_VARIABLE: &str = "HQSEG_CACHE_DIR";
/// Environment variable for the most GiB the folder may hold (a decimal number).
pub const CACHE_GIB_VARIABLE: &str = "HQSEG_CACHE_GIB";
/// The limit where none is given: HQSeg-44K fits.
const DEFAULT_GIB: f64 = 32.0;

/// Extension of finished rows.
const EXTENSION: &str = "row";
/// The folder is looked at anew after each such part of the limit that this process has added, so
/// that processes which share it keep to the limit together, give or take this part of it each.
const PARTS: u64 = 16;
/// Digits of a shard's digest in a name.
const DIGITS: usize = 32;

/// A folder of rows with a size limit.
pub(super) struct RowCache {
    folder: PathBuf,
    limit_bytes: u64,
    state: Mutex<State>,
    /// Distinguishes the files that this process is writing.
    next: AtomicU64,
}

/// What this process believes of the folder.
#[derive(Default)]
struct State {
    bytes: u64,
    added: u64,
}

/// First line of a file; the image and the mask follow.
#[derive(Deserialize, Serialize)]
struct Header {
    sample_id: String,
    source: String,
    image_sha256: String,
    mask_sha256: String,
    image_bytes: usize,
    mask_bytes: usize,
}

impl RowCache {
    /// The cache that the environment asks for.
    ///
    /// # Errors
    /// One line: a limit that is no number, or a folder that cannot be made.
    pub(super) fn from_env() -> Result<Option<Self>, String> {
        let Some(folder) = std::env::var_os(CACHE_DIR_VARIABLE).filter(|folder| !folder.is_empty())
        else {
            return Ok(None);
        };
        let gib = match std::env::var(CACHE_GIB_VARIABLE) {
            Ok(text) => text
                .parse()
                .ok()
                .filter(|gib: &f64| gib.is_finite() && *gib > 0.0)
                .ok_or(format!("{CACHE_GIB_VARIABLE}={text}: a number above 0 is needed"))?,
            Err(_) => DEFAULT_GIB,
        };
        let folder = PathBuf::from(folder);
        let cannot = |error| format!("{CACHE_DIR_VARIABLE}={}: {error}", folder.display());
        Self::open(&folder, (gib * f64::from(1 << 30)) as u64).map(Some).map_err(cannot)
    }

    /// Opens (creates) the cache in `folder`, which may grow to `limit_bytes`.
    fn open(folder: &Path, limit_bytes: u64) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let cache = Self {
            folder: folder.to_owned(),
            limit_bytes,
            state: Mutex::default(),
            next: AtomicU64::new(0),
        };
        cache.shrink(&mut cache.state())?;
        Ok(cache)
    }

    /// The row, where it is there and whole. Blocks on the disk.
    pub(super) fn get(&self, shard: &ShardInfo, row: u64) -> Option<StoredSample> {
        let path = self.path(shard, row);
        let bytes = Bytes::from(fs::read(&path).ok()?);
        let Some(sample) = parse(&bytes) else {
            tracing::warn!(file = %path.display(), "a cached row is damaged, reading it again");
            // Whoever writes it next replaces it anyway.
            let _gone_already = fs::remove_file(&path);
            return None;
        };
        // Its time says when it was last of use; where that cannot be noted it just goes sooner.
        let _unnoted = File::options()
            .append(true)
            .open(&path)
            .and_then(|file| file.set_modified(SystemTime::now()));
        Some(sample)
    }

    /// Removes a row that turned out to be wrong. Blocks on the disk.
    pub(super) fn forget(&self, shard: &ShardInfo, row: u64) {
        let _gone_already = fs::remove_file(self.path(shard, row));
    }

    /// Keeps a row. Blocks on the disk. A cache that cannot be written costs time, not the stream.
    pub(super) fn put(&self, shard: &ShardInfo, row: u64, sample: &StoredSample) {
        if let Err(error) = self.try_put(shard, row, sample) {
            tracing::warn!(folder = %self.folder.display(), %error, "cannot cache a row");
        }
    }

    fn try_put(&self, shard: &ShardInfo, row: u64, sample: &StoredSample) -> io::Result<()> {
        let header = Header {
            sample_id: sample.sample_id.clone(),
            source: sample.source.clone(),
            image_sha256: sample.image_sha256.clone(),
            mask_sha256: sample.mask_sha256.clone(),
            image_bytes: sample.image_bytes.len(),
            mask_bytes: sample.mask_bytes.len(),
        };
        let mut bytes = serde_json::to_vec(&header)?;
        bytes.push(b'\n');
        bytes.extend_from_slice(&sample.image_bytes);
        bytes.extend_from_slice(&sample.mask_bytes);
        let size = bytes.len() as u64;
        if size > self.limit_bytes / PARTS {
            return Ok(());
        }
        let path = self.path(shard, row);
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let staged = path.with_extension(format!("{}-{number}.tmp", std::process::id()));
        let written = File::create(&staged).and_then(|mut file| file.write_all(&bytes));
        if let Err(error) = written.and_then(|()| fs::rename(&staged, &path)) {
            let _never_made = fs::remove_file(&staged);
            return Err(error);
        }
        let mut state = self.state();
        state.bytes += size;
        state.added += size;
        if state.bytes > self.limit_bytes || state.added > self.limit_bytes / PARTS {
            self.shrink(&mut state)?;
        }
        Ok(())
    }

    /// Looks at the folder and, above the limit, removes what was used longest ago until a part of
    /// the limit is free.
    fn shrink(&self, state: &mut State) -> io::Result<()> {
        let mut rows = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let path = entry.path();
            // A file that another process has just renamed or removed is none.
            let Ok(metadata) = entry.metadata() else { continue };
            if path.extension().is_some_and(|extension| extension == EXTENSION) {
                rows.push((metadata.modified()?, path, metadata.len()));
            }
        }
        let mut bytes = rows.iter().map(|(_, _, size)| size).sum::<u64>();
        if bytes > self.limit_bytes {
            rows.sort();
            let mut rows = VecDeque::from(rows);
            while bytes > self.limit_bytes - self.limit_bytes / PARTS
                && let Some((_, path, size)) = rows.pop_front()
            {
                let _gone_already = fs::remove_file(path);
                bytes -= size;
            }
        }
        *state = State { bytes, added: 0 };
        Ok(())
    }

    fn path(&self, shard: &ShardInfo, row: u64) -> PathBuf {
        let digits = shard.sha256.get(..DIGITS).unwrap_or(&shard.sha256);
        self.folder.join(format!("{digits}-{row}.{EXTENSION}"))
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn parse(bytes: &Bytes) -> Option<StoredSample> {
    let end = bytes.iter().position(|&byte| byte == b'\n')?;
    let header: Header = serde_json::from_slice(&bytes[..end]).ok()?;
    let image_end = (end + 1).checked_add(header.image_bytes)?;
    if image_end.checked_add(header.mask_bytes)? != bytes.len() {
        return None;
    }
    let (image_bytes, mask_bytes) = (bytes.slice(end + 1..image_end), bytes.slice(image_end..));
    let whole =
        sha256(&image_bytes) == header.image_sha256 && sha256(&mask_bytes) == header.mask_sha256;
    whole.then_some(StoredSample {
        sample_id: header.sample_id,
        source: header.source,
        image_sha256: header.image_sha256,
        mask_sha256: header.mask_sha256,
        image_bytes,
        mask_bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard() -> ShardInfo {
        ShardInfo { path: "shards/x".into(), rows: 99, bytes: 1, sha256: "ab".repeat(32) }
    }

    fn sample(row: u64) -> StoredSample {
        let (image_bytes, mask_bytes) =
            (Bytes::from(vec![row as u8; 700]), Bytes::from_static(b"\nmask\n"));
        StoredSample {
            sample_id: format!("drawn/{row}"),
            source: "drawn".into(),
            image_sha256: sha256(&image_bytes),
            mask_sha256: sha256(&mask_bytes),
            image_bytes,
            mask_bytes,
        }
    }

    fn bytes_in(folder: &Path) -> u64 {
        let entries = fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
    }

    #[test]
    fn rows_come_back_unless_they_are_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let cache = RowCache::open(folder.path(), 1 << 20).unwrap();
        assert!(cache.get(&shard(), 3).is_none());
        cache.put(&shard(), 3, &sample(3));
        assert_eq!(cache.get(&shard(), 3), Some(sample(3)));
        let other = ShardInfo { sha256: "cd".repeat(32), ..shard() };
        assert!(cache.get(&other, 3).is_none(), "rows of another shard");
        let path = cache.path(&shard(), 3);
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x20;
            fs::write(&path, &bytes).unwrap();
            let found = cache.get(&shard(), 3);
            // A changed name is no damage to the pixels; anything else is noticed.
            assert!(found.is_none_or(|found| found.image_bytes == sample(3).image_bytes), "{at}");
            fs::write(&path, &whole[..at]).unwrap();
            assert!(cache.get(&shard(), 3).is_none(), "cut at {at}");
        }
    }

    #[test]
    fn the_oldest_go_and_the_limit_holds() {
        let folder = tempfile::tempdir().unwrap();
        let limit = 32 << 10;
        let cache = RowCache::open(folder.path(), limit).unwrap();
        let long_ago = SystemTime::now() - std::time::Duration::from_secs(3600);
        for row in 0..200 {
            cache.put(&shard(), row, &sample(row));
            // Rows 0 to 3 are used all the time, the others were used long ago.
            if let Ok(file) = File::options().append(true).open(cache.path(&shard(), row))
                && row > 3
            {
                file.set_modified(long_ago + std::time::Duration::from_secs(row)).unwrap();
            }
            assert!(bytes_in(folder.path()) <= limit + limit / PARTS, "after {row}");
        }
        for row in [0, 1, 2, 3, 199] {
            assert!(cache.get(&shard(), row).is_some(), "{row}");
        }
        assert!(cache.get(&shard(), 4).is_none());
        // Another process with a smaller limit makes room at once.
        RowCache::open(folder.path(), limit / 4).unwrap();
        assert!(bytes_in(folder.path()) <= limit / 4);
    }
}
