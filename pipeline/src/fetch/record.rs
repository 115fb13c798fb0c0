//! What was seen of a downloaded file, kept next to it: a later download must agree.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::FetchError;

/// `<file>.fetched.json`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct Record {
    /// Address of the catalogue; `by hand` for a file that the user put there.
    pub(super) address: String,
    pub(super) bytes: u64,
    pub(super) sha256: String,
}

impl Record {
    pub(super) fn path(file: &Path) -> PathBuf {
        beside(file, "fetched.json")
    }

    /// The record of a file, if there is one.
    pub(super) fn read(file: &Path) -> Result<Option<Self>, FetchError> {
        let path = Self::path(file);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(FetchError::io(&path, "cannot read")(error)),
        };
        serde_json::from_slice(&bytes).map(Some).map_err(|error| {
            FetchError::io(&path, "not a record, delete it")(io::Error::other(error))
        })
    }

    pub(super) fn write(&self, file: &Path) -> Result<(), FetchError> {
        let mut text = serde_json::to_vec_pretty(self).expect("a record serialises");
        text.push(b'\n');
        put(&Self::path(file), &text)
    }
}

/// `file` with `.suffix` appended to its whole name.
pub(super) fn beside(file: &Path, suffix: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    PathBuf::from(name)
}

/// Writes a small file that is either whole or absent.
pub(super) fn put(path: &Path, bytes: &[u8]) -> Result<(), FetchError> {
    let staged = beside(path, "new");
    let write = || -> io::Result<()> {
        let mut file = File::create(&staged)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&staged, path)
    };
    write().map_err(FetchError::io(path, "cannot write"))?;
    sync_folder(path)
}

/// Makes a rename of `path` durable.
pub(super) fn sync_folder(path: &Path) -> Result<(), FetchError> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(FetchError::io(folder, "cannot sync"))
}

pub(super) fn remove_if_there(path: &Path) -> Result<(), FetchError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(FetchError::io(path, "cannot remove")(error))
        }
        _ => Ok(()),
    }
}
