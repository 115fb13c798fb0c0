//! Zip archives: one parsed directory that all threads share, and a window of its own for each read.

use std::io::Read;
use std::sync::Arc;

use dataset::source::RawFile;
use zip::ZipArchive;
use zip::read::{ZipArchiveMetadata, ZipReadOptions};
use zip::result::{ZipError, ZipResult};

use super::read_at::{ReadAt, Window};
use super::{Entry, InputError, Place, ReadError, archive};

/// Fetched at once while reading the directory, which lies at the end.
const DIRECTORY_AHEAD: u64 = 1 << 20;
/// A local header without the name; its extra field is longer than that of the directory at times.
const HEADER_BYTES: u64 = 30 + 512;
/// Fetched at once while reading an entry.
const MAX_AHEAD: u64 = 8 << 20;

/// An open archive.
pub(super) struct Zip {
    source: Arc<dyn ReadAt>,
    metadata: Arc<ZipArchiveMetadata>,
}

/// The files of an archive; `path` names it in errors.
pub(super) fn entries(path: &str, source: Arc<dyn ReadAt>) -> Result<Vec<Entry>, InputError> {
    let window = Window::at_end(Arc::clone(&source), DIRECTORY_AHEAD)
        .map_err(|error| InputError::io(path, error))?;
    let mut window = std::io::BufReader::with_capacity(1 << 16, window);
    let metadata = match ZipArchive::new(&mut window) {
        Ok(archive) => archive.metadata(),
        Err(error) => {
            return Err(match window.get_mut().take_failure() {
                Some(source) => InputError::io(path, source),
                None => damaged(path, &error),
            });
        }
    };
    let zip = Arc::new(Zip { source, metadata });
    let mut entries = Vec::with_capacity(zip.metadata.len());
    for index in 0..zip.metadata.len() {
        let listed = || -> ZipResult<Option<(String, RawFile)>> {
            let entry = zip.metadata.entry(index)?;
            let name = entry.name()?.into_owned();
            let file = RawFile {
                path: String::new(),
                bytes: entry.size(),
                version: format!("{:08x}", entry.crc32()),
            };
            Ok(entry.is_file().then_some((name, file)))
        };
        let listed = listed().map_err(|error| damaged(path, &error))?;
        let Some((name, file)) = listed else { continue };
        let file = RawFile { path: archive::entry_path(path, &name)?, ..file };
        entries.push(Entry { file, place: Place::Zipped(Arc::clone(&zip), index) });
    }
    Ok(entries)
}

impl Zip {
    /// All bytes of an entry, checked against its checksum.
    pub(super) fn read(&self, index: usize, max_bytes: u64) -> Result<Vec<u8>, ReadError> {
        self.with_entry(index, |file| {
            // The directory is not to be trusted with an allocation.
            let mut bytes = Vec::with_capacity(file.size().min(max_bytes) as usize);
            file.take(max_bytes + 1).read_to_end(&mut bytes)?;
            Ok(bytes)
        })
        .and_then(|bytes| {
            if bytes.len() as u64 > max_bytes {
                return Err(ReadError::refused("more bytes than its archive says".to_owned()));
            }
            Ok(bytes)
        })
    }

    /// Where the bytes of an entry lie in the archive, if they lie there as they are.
    pub(super) fn stored_at(&self, index: usize) -> Result<Option<u64>, ReadError> {
        self.with_entry(index, |file| {
            let stored = file.compression() == zip::CompressionMethod::Stored && !file.encrypted();
            Ok(file.data_start().filter(|_| stored))
        })
    }

    pub(super) fn source(&self) -> &Arc<dyn ReadAt> {
        &self.source
    }

    fn with_entry<T>(
        &self,
        index: usize,
        work: impl FnOnce(&mut zip::read::ZipFile<'_, Window>) -> ZipResult<T>,
    ) -> Result<T, ReadError> {
        let mut window = Window::new(Arc::clone(&self.source), 0);
        let read = || {
            let entry = self.metadata.entry(index)?;
            let whole = entry.compressed_size() + entry.name_raw().len() as u64 + HEADER_BYTES;
            window.set_ahead(whole.min(MAX_AHEAD));
            work(&mut entry.with_reader(&mut window, ZipReadOptions::new())?)
        };
        let result = read();
        result.map_err(|error| match window.take_failure() {
            Some(failure) => ReadError::broken(failure),
            None => ReadError::refused(reason(&error)),
        })
    }
}

fn damaged(path: &str, error: &ZipError) -> InputError {
    InputError::Archive { path: path.to_owned(), detail: reason(error) }
}

fn reason(error: &ZipError) -> String {
    match error {
        ZipError::UnsupportedArchive(ZipError::PASSWORD_REQUIRED) | ZipError::InvalidPassword => {
            "encrypted: unpack the archive with its password".to_owned()
        }
        other => match other.to_string() {
            text if text.contains("ompression method") => {
                format!("{text}; only stored and deflated entries are read in place: unpack it")
            }
            text => text,
        },
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Cursor, Write};
    use std::sync::atomic::{AtomicBool, Ordering};

    use bytes::Bytes;
    use zip::write::SimpleFileOptions;

    use super::*;

    /// A place that can be lost.
    struct Lost(Bytes, AtomicBool);

    impl ReadAt for Lost {
        fn len(&self) -> u64 {
            ReadAt::len(&self.0)
        }

        fn read_at(&self, offset: u64, length: usize) -> io::Result<Bytes> {
            match self.1.load(Ordering::SeqCst) {
                true => Err(io::ErrorKind::ConnectionReset.into()),
                false => self.0.read_at(offset, length),
            }
        }
    }

    fn archive(count: usize) -> Bytes {
        let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
        for index in 0..count {
            zip.start_file(format!("{index:04}.bin"), SimpleFileOptions::default()).unwrap();
            zip.write_all(&content(index)).unwrap();
        }
        zip.finish().unwrap().into_inner().into()
    }

    fn content(index: usize) -> Vec<u8> {
        (0..3000).map(|at| (at * (index + 1) % 251) as u8).collect()
    }

    fn read(entry: &Entry) -> Result<Vec<u8>, ReadError> {
        let Place::Zipped(zip, index) = &entry.place else { panic!() };
        zip.read(*index, 1 << 20)
    }

    #[test]
    fn a_place_that_fails_is_told_from_a_file_that_is_damaged() {
        let lost = Arc::new(Lost(archive(1), AtomicBool::new(false)));
        let entries = entries("x.zip", Arc::clone(&lost) as Arc<dyn ReadAt>).unwrap();
        assert_eq!(read(&entries[0]).unwrap(), content(0));
        lost.1.store(true, Ordering::SeqCst);
        assert!(matches!(read(&entries[0]), Err(ReadError::Broken { .. })));
        let gone = super::entries("x.zip", lost).err().unwrap();
        assert!(matches!(gone, InputError::Io { .. }), "{gone}");
    }

    #[test]
    fn many_threads_read_one_archive() {
        let entries = entries("x.zip", Arc::new(archive(200))).unwrap();
        std::thread::scope(|scope| {
            for first in 0..8 {
                let entries = &entries;
                scope.spawn(move || {
                    for index in (first..200).step_by(3) {
                        assert_eq!(read(&entries[index]).unwrap(), content(index));
                    }
                });
            }
        });
    }
}
