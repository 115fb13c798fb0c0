//! What is there already of a file of the catalogue.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use super::catalogue::{RemoteFile, Source};
use super::content::{HEAD_BYTES, other_content};
use super::download::Wanted;
use super::error::Authority;
use super::record::Record;
use super::unpack::is_filled;
use super::{FetchArguments, FetchError};
use crate::digest::sha256_file;

/// A file of the catalogue and where it goes.
pub(super) struct Place<'a> {
    pub(super) source: &'a Source,
    pub(super) file: &'a RemoteFile,
    pub(super) path: PathBuf,
    /// Folder to unpack to, unless archives stay packed.
    pub(super) folder: Option<PathBuf>,
}

/// How much of it is done.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Status {
    /// It is there, unpacked where that was asked for.
    There,
    /// The archive is there, its folder is not.
    Packed,
    /// It has to be downloaded.
    Missing,
    /// It has to be brought by hand.
    ByHand,
}

impl<'a> Place<'a> {
    pub(super) fn new(
        source: &'a Source,
        file: &'a RemoteFile,
        arguments: &FetchArguments,
    ) -> Self {
        let base = arguments.to.as_deref().unwrap_or(&source.folder);
        let unpack = file.unpack.as_ref().filter(|_| !arguments.keep_packed);
        let folder = unpack.map(|folder| base.join(folder));
        Self { source, file, path: base.join(&file.path), folder }
    }

    /// Looks at the disk. A file without a record was put there by hand: it is checked and gets
    /// one. With `verify` every file is hashed.
    pub(super) fn status(&self, verify: bool) -> Result<Status, FetchError> {
        let unpacked = self.folder.as_deref().map(is_filled);
        if !self.path.exists() {
            return Ok(match (unpacked, &self.file.by_hand) {
                (Some(true), _) => Status::There,
                (_, Some(_)) => Status::ByHand,
                (_, None) => Status::Missing,
            });
        }
        self.check(verify)?;
        Ok(if unpacked == Some(false) { Status::Packed } else { Status::There })
    }

    fn check(&self, verify: bool) -> Result<(), FetchError> {
        let path = &self.path;
        let bytes = fs::metadata(path).map_err(FetchError::io(path, "cannot look at"))?.len();
        let record = Record::read(path)?;
        let recorded = record.as_ref().map(|record| (record.bytes, Authority::Record));
        let sizes = self.file.bytes.map(|bytes| (bytes, Authority::Catalogue)).or(recorded);
        if let Some((expected, authority)) = sizes.filter(|(expected, _)| *expected != bytes) {
            let path = path.clone();
            return Err(FetchError::WrongSize { path, found: bytes, expected, authority });
        }
        if record.is_some() && !verify {
            return Ok(());
        }
        if let Some(found) = other_content(path, &head(path)?) {
            let address = "by hand".to_owned();
            return Err(FetchError::OtherContent { address, path: path.clone(), found });
        }
        let found = sha256_file(path).map_err(FetchError::io(path, "cannot read"))?;
        let recorded = record.as_ref().map(|record| (&record.sha256, Authority::Record));
        let catalogue = self.file.sha256.as_ref().map(|hash| (hash, Authority::Catalogue));
        if let Some((expected, authority)) =
            catalogue.or(recorded).filter(|(expected, _)| **expected != found)
        {
            let (path, expected) = (path.clone(), expected.clone());
            return Err(FetchError::WrongHash { path, found, expected, authority });
        }
        match record {
            Some(_) => Ok(()),
            None => Record { address: "by hand".into(), bytes, sha256: found }.write(path),
        }
    }

    pub(super) fn wanted(&self) -> Result<Wanted, FetchError> {
        Ok(Wanted {
            path: self.path.clone(),
            addresses: self.file.urls.clone(),
            bytes: self.file.bytes,
            sha256: self.file.sha256.clone(),
            record: Record::read(&self.path)?,
        })
    }

    /// Its name for progress bars.
    pub(super) fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

fn head(path: &Path) -> Result<Vec<u8>, FetchError> {
    let mut head = Vec::with_capacity(HEAD_BYTES);
    File::open(path)
        .and_then(|file| file.take(HEAD_BYTES as u64).read_to_end(&mut head))
        .map_err(FetchError::io(path, "cannot read"))?;
    Ok(head)
}
