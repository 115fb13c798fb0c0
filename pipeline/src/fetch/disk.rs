//! Whether the disk can hold what is about to be written.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use super::FetchError;

/// The bytes that one download has still to write, counted among those of all of them.
pub(super) struct Reservation<'a> {
    outstanding: &'a AtomicU64,
    left: u64,
}

impl<'a> Reservation<'a> {
    /// Reserves `bytes` on the disk of `path` beside what `outstanding` says is already to come.
    pub(super) fn new(
        outstanding: &'a AtomicU64,
        path: &Path,
        bytes: u64,
    ) -> Result<Self, FetchError> {
        let others = outstanding.fetch_add(bytes, Ordering::Relaxed);
        // Given back when dropped, so also when the disk is too small.
        let reservation = Self { outstanding, left: bytes };
        require(path, others.saturating_add(bytes))?;
        Ok(reservation)
    }

    /// Tells that `bytes` have been written and are no longer to come.
    pub(super) fn written(&mut self, bytes: u64) {
        let bytes = bytes.min(self.left);
        self.left -= bytes;
        self.outstanding.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.outstanding.fetch_sub(self.left, Ordering::Relaxed);
    }
}

/// Refuses where fewer than `needed` bytes are free for this user in the folder of `path`.
pub(super) fn require(path: &Path, needed: u64) -> Result<(), FetchError> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let disk = rustix::fs::statvfs(folder)
        .map_err(|error| FetchError::io(folder, "cannot ask for free space")(error.into()))?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    if needed > free {
        return Err(FetchError::DiskFull { path: path.to_owned(), needed, free });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn downloads_that_run_together_share_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let outstanding = AtomicU64::new(0);
        let disk = rustix::fs::statvfs(folder.path()).unwrap();
        // Half of the disk twice, and some to spare for whoever else writes meanwhile.
        let more_than_half = disk.f_bavail * disk.f_frsize / 5 * 3;
        let mut first = Reservation::new(&outstanding, &path, more_than_half).unwrap();
        let second = Reservation::new(&outstanding, &path, more_than_half);
        assert!(matches!(second, Err(FetchError::DiskFull { .. })));
        first.written(more_than_half);
        assert_eq!(outstanding.load(Ordering::Relaxed), 0);
        drop(first);
        Reservation::new(&outstanding, &path, more_than_half).unwrap();
        assert_eq!(outstanding.load(Ordering::Relaxed), 0);
    }
}
