//! Raw files wherever users have them: a folder, an archive, a place in an object store. They are
//! listed once and read in place; nothing is unpacked or downloaded whole.
//!
//! ```text
//! local    a folder of the disk              -> entries
//! store    a prefix of an object store       -> entries
//! archive  a .zip or .tar among them         -> its entries, as a folder of the archive's name
//! read_at  bytes at a place in a file or object, for any number of threads at once
//! ```
//!
//! A root may be a folder, an archive, or a folder inside an archive (`data/set.zip/train`, or
//! `data/set/train` where `data/set` is no folder but `data/set.zip` a file), and the URL of any
//! of these. Plain HTTP cannot list, so there the URL is that of an archive.

mod archive;
mod error;
mod local;
mod mount;
mod read_at;
mod store;
mod tar;
mod zip;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dataset::source::{FileTree, RawFile, RawFiles};
use object_store::path::Path as Key;

pub use error::{InputError, ReadError};
use read_at::ReadAt;
use store::Store;

/// Most bytes of a list: the annotations of the largest published collections have 1 GB.
const MAX_LIST_BYTES: u64 = 4 << 30;

/// The files below a root, and where each of them lies.
pub struct Input {
    tree: FileTree,
    places: HashMap<String, Place>,
    compressed: Vec<String>,
    remote: bool,
}

/// A file before it has its place in the listing.
struct Entry {
    file: RawFile,
    place: Place,
}

/// Where the bytes of a file are.
enum Place {
    Disk(PathBuf),
    Object(Arc<Store>, Key),
    /// Compressed in a zip archive.
    Zipped(Arc<zip::Zip>, usize),
    /// As they are, from this byte on.
    Part(Arc<dyn ReadAt>, u64),
    /// Known, but not readable, and why.
    Refused(&'static str),
}

impl Input {
    /// Lists what lies below `root`.
    ///
    /// # Errors
    /// [`InputError`] when there is nothing of that name, it cannot be listed, or an archive of it
    /// is damaged or has names that lead out of it.
    pub fn open(root: &Path) -> Result<Self, InputError> {
        let url = root.to_str().filter(|text| text.contains("://"));
        let entries = match url {
            Some(url) => store::entries(url)?,
            None => local::entries(root)?,
        };
        let remote = url.is_some_and(|url| !url.starts_with("file:"));
        Ok(Self::new(entries, remote))
    }

    fn new(entries: Vec<Entry>, remote: bool) -> Self {
        let (mut files, mut places, mut compressed) = (Vec::new(), HashMap::new(), Vec::new());
        for Entry { file, place } in entries {
            if archive::is_compressed_tar(&file.path) {
                compressed.push(file.path.clone());
            }
            places.insert(file.path.clone(), place);
            files.push(file);
        }
        Self { tree: FileTree::new(files), places, compressed, remote }
    }

    /// Archives that lie there but cannot be read in place: an explanation for missing files.
    #[must_use]
    pub fn compressed_archives(&self) -> &[String] {
        &self.compressed
    }

    /// Whether each read waits for a network.
    #[must_use]
    pub fn is_remote(&self) -> bool {
        self.remote
    }

    /// All bytes of a file of the listing, at most `max_bytes` of them.
    ///
    /// # Errors
    /// [`ReadError::Refused`] where the file itself is at fault, [`ReadError::Broken`] where the
    /// disk or store is: another try may succeed.
    pub fn read_file(&self, path: &str, max_bytes: u64) -> Result<Vec<u8>, ReadError> {
        let (Some(file), Some(place)) = (self.tree.get(path), self.places.get(path)) else {
            return Err(ReadError::refused(format!("{path}: not in the listing")));
        };
        if file.bytes > max_bytes {
            return Err(ReadError::refused(format!(
                "{path}: {} bytes, above the limit of {max_bytes}",
                file.bytes
            )));
        }
        let read = match place {
            Place::Disk(path) => local::read(path, max_bytes),
            Place::Object(store, key) => store.read(key, file),
            Place::Zipped(zip, index) => zip.read(*index, max_bytes),
            Place::Part(source, offset) => read_at::read(&**source, *offset, file.bytes),
            Place::Refused(why) => Err(ReadError::refused((*why).to_owned())),
        };
        read.map_err(|error| error.of(path))
    }
}

impl RawFiles for Input {
    fn tree(&self) -> &FileTree {
        &self.tree
    }

    fn read(&self, path: &str) -> io::Result<Vec<u8>> {
        self.read_file(path, MAX_LIST_BYTES).map_err(io::Error::from)
    }
}
