//! The bytes that all ranks and runs keep in one cache, counted in a file which they lock in turn.

use std::fs::{File, OpenOptions};
use std::io::{Read, Result, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The count. It is right to within what is being written when a run starts, which counts anew.
const COUNT_FILE: &str = "used-bytes";
/// Extension of files that are being written.
pub(super) const STAGED: &str = "tmp";
/// Age at which such a file is one of a process that was killed: writing takes seconds.
const STAGED_FOR: Duration = Duration::from_secs(3600);
/// What a file has besides its values, at most.
pub(super) const HEADER_BYTES: u64 = 512;

/// How much may be added.
pub(super) struct Limit {
    folder: PathBuf,
    bytes: u64,
}

impl Limit {
    /// Counts what is in `folder` and removes what processes that were killed have left there.
    pub(super) fn open(folder: &Path, bytes: u64) -> Result<Self> {
        let limit = Self { folder: folder.to_owned(), bytes };
        let mut count = limit.locked()?;
        store(&mut count, limit.count()?)?;
        Ok(limit)
    }

    /// Whether a file of so many bytes of values may be written to `path`; if so they are counted.
    pub(super) fn reserve(&self, path: &Path, bytes: u64) -> Result<bool> {
        if path.exists() {
            // A damaged one, counted when it was written.
            return Ok(true);
        }
        let mut count = self.locked()?;
        let mut text = String::new();
        let _ = count.read_to_string(&mut text)?;
        // Empty where a process was killed while it wrote.
        let used: u64 = text.parse().or_else(|_| self.count())?;
        let used = used + bytes + HEADER_BYTES;
        let is_within = used <= self.bytes;
        if is_within {
            store(&mut count, used)?;
        }
        Ok(is_within)
    }

    /// The count, nobody else's until it is dropped.
    fn locked(&self) -> Result<File> {
        let path = self.folder.join(COUNT_FILE);
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        file.lock()?;
        Ok(file)
    }

    fn count(&self) -> Result<u64> {
        let mut used = 0;
        for entry in std::fs::read_dir(&self.folder)? {
            let path = entry?.path();
            // One that another process has just renamed or removed is not counted.
            let Ok(metadata) = path.metadata() else { continue };
            let is_staged = path.extension().is_some_and(|extension| extension == STAGED);
            let age = metadata.modified()?.elapsed().unwrap_or_default();
            if is_staged && age > STAGED_FOR && std::fs::remove_file(&path).is_ok() {
                continue;
            }
            used += metadata.len();
        }
        Ok(used)
    }
}

fn store(count: &mut File, used: u64) -> Result<()> {
    count.rewind()?;
    count.set_len(0)?;
    count.write_all(used.to_string().as_bytes())
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn what_killed_processes_left_is_removed_and_a_torn_count_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        for (name, hours) in [("a.7.tmp", 2), ("b.8.tmp", 0), ("c.safetensors", 2)] {
            std::fs::write(folder.join(name), vec![0; 1000]).unwrap();
            let time = SystemTime::now() - Duration::from_secs(hours * 3600);
            File::options()
                .write(true)
                .open(folder.join(name))
                .unwrap()
                .set_modified(time)
                .unwrap();
        }
        let limit = Limit::open(folder, 4000).unwrap();
        assert!(!folder.join("a.7.tmp").exists());
        assert!(folder.join("b.8.tmp").exists() && folder.join("c.safetensors").exists());
        let new = folder.join("new.safetensors");
        assert!(!limit.reserve(&new, 1500).unwrap(), "2000 are there");
        assert!(limit.reserve(&new, 1200).unwrap());
        assert!(!limit.reserve(&new, 1200).unwrap(), "reserved already");
        assert!(limit.reserve(&folder.join("c.safetensors"), 700).unwrap(), "in the place of one");
        std::fs::write(folder.join(COUNT_FILE), "").unwrap();
        assert!(limit.reserve(&new, 1200).unwrap(), "what was reserved was never written");
    }
}
