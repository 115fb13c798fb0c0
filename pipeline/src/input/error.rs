//! Why raw files cannot be listed or read.

use std::io;

use thiserror::Error;

/// A root that cannot be listed. One line each, naming the place.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum InputError {
    /// Nothing of that name.
    #[error("{root} is not a folder; nor is there an archive `{root}.zip` or `{root}.tar`{inside}")]
    NotFound {
        /// What was asked for.
        root: String,
        /// Where it was looked for, when that was inside an archive: `, or such a folder in ...`.
        inside: String,
    },
    /// A file that is no archive.
    #[error("{path} is a file: expected a folder, or an archive (.zip, .tar)")]
    NotAnArchive {
        /// The file.
        path: String,
    },
    /// An archive of which no part can be read without unpacking all before it.
    #[error(
        "{path} is compressed as a whole and cannot be read in place: unpack it (tar -xf {path}) \
         or make it a plain archive (gunzip, unxz, ...)"
    )]
    Compressed {
        /// The archive.
        path: String,
    },
    /// An archive that cannot be listed.
    #[error("{path}: no readable archive ({detail}): download it again, or unpack it")]
    Archive {
        /// The archive.
        path: String,
        /// What is wrong with it.
        detail: String,
    },
    /// An archive made to write elsewhere when unpacked.
    #[error("{path}: the entry `{entry}` leads out of the archive; get it from a place you trust")]
    UnsafeName {
        /// The archive.
        path: String,
        /// The name of the entry.
        entry: String,
    },
    /// A URL that names no store.
    #[error("{url}: {message}")]
    Location {
        /// The URL.
        url: String,
        /// What is wrong with it.
        message: String,
    },
    /// The file system or store refused.
    #[error("{path}: cannot be listed or read: {source}")]
    Io {
        /// The folder, file or URL.
        path: String,
        /// What it said.
        source: io::Error,
    },
}

impl InputError {
    pub(super) fn io(path: impl Into<String>, source: io::Error) -> Self {
        Self::Io { path: path.into(), source }
    }
}

/// Why a single file cannot be read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The file is at fault: damaged, encrypted or too large.
    #[error("{detail}")]
    Refused {
        /// What is wrong with it, with its path.
        detail: String,
    },
    /// The place is at fault, or no permission to read there: what is read now says nothing about
    /// the file.
    #[error("{path}: {source}")]
    Broken {
        /// The file.
        path: String,
        /// What the disk or store said.
        source: io::Error,
    },
}

impl ReadError {
    pub(super) fn refused(detail: String) -> Self {
        Self::Refused { detail }
    }

    pub(super) fn broken(source: io::Error) -> Self {
        Self::Broken { path: String::new(), source }
    }

    /// The error with the path of its file in front.
    pub(super) fn of(self, path: &str) -> Self {
        match self {
            Self::Refused { detail } if detail.contains(path) => Self::Refused { detail },
            Self::Refused { detail } => Self::Refused { detail: format!("{path}: {detail}") },
            Self::Broken { source, .. } => Self::Broken { path: path.to_owned(), source },
        }
    }
}

impl From<ReadError> for io::Error {
    fn from(error: ReadError) -> Self {
        let kind = match &error {
            ReadError::Refused { .. } => io::ErrorKind::InvalidData,
            ReadError::Broken { source, .. } => source.kind(),
        };
        Self::new(kind, error)
    }
}
