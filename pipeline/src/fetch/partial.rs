//! A download that is not whole yet: `<file>.partial`, and in `<file>.partial.json` which version
//! of the remote file its bytes belong to.
//!
//! The bytes count only together with that state, so the state is written first; a process that is
//! killed leaves a prefix of one version, whose length is the length of the file.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::FetchError;
use super::content::HEAD_BYTES;
use super::record::{beside, put, remove_if_there, sync_folder};
use crate::digest::hex;

/// Which version of the remote file the bytes belong to.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct Version {
    /// A strong entity tag, or else the time of the last change: what `If-Range` takes.
    pub(super) validator: Option<String>,
    /// Bytes of the whole file, where the server said so.
    pub(super) total: Option<u64>,
}

/// A partial file, locked for this process. Its digest is kept up to date with its bytes.
pub(super) struct Partial {
    path: PathBuf,
    state: PathBuf,
    file: File,
    length: u64,
    digest: Sha256,
    head: Vec<u8>,
    version: Option<Version>,
}

impl Partial {
    /// Opens or makes the partial file of `target` and reads what it holds so far.
    pub(super) fn open(target: &Path) -> Result<Self, FetchError> {
        let (path, state) = (beside(target, "partial"), beside(target, "partial.json"));
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(FetchError::io(folder, "cannot make the folder"))?;
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(FetchError::io(&path, "cannot open"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(FetchError::Busy { path }),
            Err(TryLockError::Error(source)) => {
                return Err(FetchError::Io { path, action: "cannot lock", source });
            }
        }
        let version = fs::read(&state).ok().and_then(|text| serde_json::from_slice(&text).ok());
        let (length, digest, head) = (0, Sha256::new(), Vec::new());
        let mut partial = Self { path, state, file, length, digest, head, version };
        if partial.version.is_some() {
            partial.read_back().map_err(FetchError::io(&partial.path, "cannot read"))?;
        } else {
            partial.clear()?;
        }
        Ok(partial)
    }

    fn read_back(&mut self) -> std::io::Result<()> {
        let mut buffer = vec![0; 1 << 20];
        loop {
            match self.file.read(&mut buffer)? {
                0 => return Ok(()),
                length => self.count(&buffer[..length]),
            }
        }
    }

    fn count(&mut self, bytes: &[u8]) {
        self.length += bytes.len() as u64;
        self.digest.update(bytes);
        let missing = HEAD_BYTES.saturating_sub(self.head.len()).min(bytes.len());
        self.head.extend_from_slice(&bytes[..missing]);
    }

    /// Bytes so far.
    pub(super) fn len(&self) -> u64 {
        self.length
    }

    /// The first bytes, at most [`HEAD_BYTES`].
    pub(super) fn head(&self) -> &[u8] {
        &self.head
    }

    /// The version the bytes belong to, once the first answer has come.
    pub(super) fn version(&self) -> Option<&Version> {
        self.version.as_ref()
    }

    /// Digest of the bytes so far.
    pub(super) fn sha256(&self) -> String {
        hex(&self.digest.clone().finalize())
    }

    /// Appends bytes of the current version.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), FetchError> {
        self.file.write_all(bytes).map_err(FetchError::io(&self.path, "cannot write"))?;
        self.count(bytes);
        Ok(())
    }

    /// Throws all bytes away; those to come belong to `version`.
    pub(super) fn begin(&mut self, version: Version) -> Result<(), FetchError> {
        self.clear()?;
        let text = serde_json::to_vec(&version).expect("a version serialises");
        put(&self.state, &text)?;
        self.version = Some(version);
        Ok(())
    }

    /// Throws all bytes away.
    pub(super) fn clear(&mut self) -> Result<(), FetchError> {
        // The state goes first: bytes without it count for nothing.
        remove_if_there(&self.state)?;
        self.file
            .set_len(0)
            .and_then(|()| self.file.seek(SeekFrom::Start(0)))
            .map_err(FetchError::io(&self.path, "cannot empty"))?;
        (self.length, self.digest, self.version) = (0, Sha256::new(), None);
        self.head.clear();
        Ok(())
    }

    /// Makes the bytes durable and gives them their final name.
    pub(super) fn publish(&mut self, target: &Path) -> Result<(), FetchError> {
        self.file.sync_all().map_err(FetchError::io(&self.path, "cannot sync"))?;
        fs::rename(&self.path, target).map_err(FetchError::io(target, "cannot rename"))?;
        sync_folder(target)?;
        remove_if_there(&self.state)
    }

    /// Leaves nothing behind where nothing came.
    pub(super) fn remove_if_empty(&mut self) -> Result<(), FetchError> {
        if self.length > 0 {
            return Ok(());
        }
        remove_if_there(&self.state)?;
        remove_if_there(&self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::sha256;

    fn version(tag: &str) -> Version {
        Version { validator: Some(tag.into()), total: Some(10) }
    }

    #[test]
    fn bytes_count_only_with_their_version() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("deep/x.zip");
        let mut partial = Partial::open(&target).unwrap();
        assert!(matches!(Partial::open(&target), Err(FetchError::Busy { .. })));
        partial.begin(version("a")).unwrap();
        partial.write(b"0123").unwrap();
        drop(partial);

        let mut partial = Partial::open(&target).unwrap();
        assert_eq!((partial.len(), partial.version()), (4, Some(&version("a"))));
        partial.write(b"456789").unwrap();
        assert_eq!((partial.sha256(), partial.head()), (sha256(b"0123456789"), &b"0123456789"[..]));
        drop(partial);

        std::fs::remove_file(beside(&target, "partial.json")).unwrap();
        let mut partial = Partial::open(&target).unwrap();
        assert_eq!((partial.len(), partial.version()), (0, None));
        partial.begin(version("b")).unwrap();
        partial.write(b"ab").unwrap();
        partial.publish(&target).unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"ab");
        let names = std::fs::read_dir(folder.path().join("deep")).unwrap().count();
        assert_eq!(names, 1, "only the file itself is left");
    }
}
