//! Why something could not be brought.

use std::path::{Path, PathBuf};

use indicatif::DecimalBytes;

use crate::config::ConfigError;

/// Every message names the source, address or file it is about and says what can be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// The catalogue cannot be read.
    #[error(transparent)]
    Catalogue(#[from] ConfigError),
    /// An entry of the catalogue that contradicts itself.
    #[error("{catalogue}: source `{name}`: {message}")]
    Entry {
        /// The catalogue.
        catalogue: PathBuf,
        /// The source.
        name: String,
        /// What is wrong with it.
        message: String,
    },
    /// The catalogue has no such source.
    #[error("no source `{name}`{suggestion}")]
    UnknownSource {
        /// As typed.
        name: String,
        /// `; did you mean ...?` or `; there are ...`.
        suggestion: String,
    },
    /// The terms were shown and not accepted yet; nothing was downloaded.
    #[error("nothing downloaded: read the terms above, then add --accept-license ({names})")]
    LicenseNotAccepted {
        /// The sources that would be downloaded.
        names: String,
    },
    /// Files without a direct address are not there yet.
    #[error("to be brought by hand, then run the same command again: {files}")]
    ByHand {
        /// The missing files.
        files: String,
    },
    /// The HTTP client cannot start.
    #[error("cannot start the HTTP client: {message}")]
    Client {
        /// What it said.
        message: String,
    },
    /// An address, or one that a server sent the client on to, cannot be used.
    #[error("{address}: {message}")]
    Address {
        /// The address of the catalogue or the environment variable.
        address: String,
        /// What is wrong.
        message: String,
    },
    /// The server refuses.
    #[error("{address}: the server answers {status}{hint}")]
    Refused {
        /// The address.
        address: String,
        /// HTTP status.
        status: u16,
        /// What can be done about it; empty where nothing is known.
        hint: String,
    },
    /// The server asks to come back later than we are ready to wait.
    #[error(
        "{address}: the server asks to wait {seconds} s; run the same command later, it goes on where it stopped"
    )]
    Later {
        /// The address.
        address: String,
        /// Seconds it asks for.
        seconds: u64,
    },
    /// Attempt after attempt failed.
    #[error(
        "{address}: gave up after {failures} failures in a row, last: {reason}; run the same command to go on where it stopped"
    )]
    GaveUp {
        /// The address.
        address: String,
        /// Failures since the last progress.
        failures: u32,
        /// The last one.
        reason: String,
    },
    /// Something else than the file came, mostly a web page.
    #[error(
        "{address}: {found} came instead of {path}; open the address in a browser, and put the file there by hand if it asks something"
    )]
    OtherContent {
        /// The address.
        address: String,
        /// The file that was wanted.
        path: PathBuf,
        /// What came.
        found: String,
    },
    /// The file has another size than announced.
    #[error("{path}: {found} bytes, but {expected} by {authority}")]
    WrongSize {
        /// The file or its address.
        path: PathBuf,
        /// Bytes of the file or announced by the server.
        found: u64,
        /// Bytes it should have.
        expected: u64,
        /// Who says so.
        authority: Authority,
    },
    /// The file has another hash than announced.
    #[error("{path}: sha256 {found}, but {expected} by {authority}{}", authority.advice(path))]
    WrongHash {
        /// The file.
        path: PathBuf,
        /// Its hash.
        found: String,
        /// The hash it should have.
        expected: String,
        /// Who says so.
        authority: Authority,
    },
    /// The disk is too small.
    #[error("{path}: {} more are needed there, {} are free", DecimalBytes(*.needed), DecimalBytes(*.free))]
    DiskFull {
        /// Where it was to be written.
        path: PathBuf,
        /// Bytes still to be written, those of other running downloads included.
        needed: u64,
        /// Bytes free for this user.
        free: u64,
    },
    /// Another process downloads the same file.
    #[error("{path}: another download is writing there")]
    Busy {
        /// The partial file.
        path: PathBuf,
    },
    /// A file could not be read or written.
    #[error("{path}: {action}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// `cannot ...`.
        action: &'static str,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// An archive cannot be unpacked.
    #[error("{path}: {message}")]
    Archive {
        /// The archive.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// Several files failed; each was logged.
    #[error("{failed} of {files} files could not be brought, the first: {first}")]
    Several {
        /// How many failed.
        failed: usize,
        /// Of how many.
        files: usize,
        /// The first of them.
        first: Box<FetchError>,
    },
}

/// Who said how large a file is, or what its hash is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Authority {
    /// The catalogue.
    Catalogue,
    /// The Hugging Face hub, in the answer that led to the file.
    Hub,
    /// What was seen when the file was first downloaded.
    Record,
    /// The server that sent the file.
    Server,
}

impl std::fmt::Display for Authority {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Self::Catalogue => "the catalogue",
            Self::Hub => "the Hugging Face hub",
            Self::Record => "the record of the first download",
            Self::Server => "the server",
        })
    }
}

impl Authority {
    fn advice(self, path: &Path) -> String {
        match self {
            Self::Record => {
                let record = super::record::Record::path(path);
                format!("; delete {} to accept the new file", record.display())
            }
            _ => String::new(),
        }
    }
}

impl FetchError {
    /// Exit code of the programs: 2 where the user has to agree first, as for wrong usage.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::LicenseNotAccepted { .. } => 2,
            _ => 1,
        }
    }

    /// Whether another address cannot help.
    pub(super) fn is_local(&self) -> bool {
        matches!(self, Self::Io { .. } | Self::DiskFull { .. } | Self::Busy { .. })
    }

    pub(super) fn io(
        path: &Path,
        action: &'static str,
    ) -> impl FnOnce(std::io::Error) -> FetchError + use<> {
        let path = path.to_owned();
        move |source| FetchError::Io { path, action, source }
    }
}
