//! Bytes at a place: what archives are read through. No position is shared, so threads do not wait
//! for each other.

use std::io::{self, Read, Seek, SeekFrom};
use std::sync::Arc;

use bytes::Bytes;

use super::ReadError;

/// A file, object or part of one that is read at given places.
pub(super) trait ReadAt: Send + Sync {
    /// Length in bytes.
    fn len(&self) -> u64;

    /// The `length` bytes from `offset` on, which lie within the length.
    fn read_at(&self, offset: u64, length: usize) -> io::Result<Bytes>;
}

/// All `length` bytes from `offset` on.
pub(super) fn read(source: &dyn ReadAt, offset: u64, length: u64) -> Result<Vec<u8>, ReadError> {
    let bytes = source.read_at(offset, length as usize).map_err(ReadError::broken)?;
    Ok(Vec::from(bytes))
}

/// A file of the disk.
pub(super) struct LocalFile {
    file: std::fs::File,
    length: u64,
}

impl LocalFile {
    pub(super) fn open(path: &std::path::Path) -> io::Result<Self> {
        let file = std::fs::File::open(path)?;
        let length = file.metadata()?.len();
        Ok(Self { file, length })
    }
}

impl ReadAt for LocalFile {
    fn len(&self) -> u64 {
        self.length
    }

    fn read_at(&self, offset: u64, length: usize) -> io::Result<Bytes> {
        let mut bytes = vec![0; length];
        #[cfg(unix)]
        std::os::unix::fs::FileExt::read_exact_at(&self.file, &mut bytes, offset)?;
        #[cfg(windows)]
        {
            let mut done = 0;
            while done < length {
                let at = offset + done as u64;
                match std::os::windows::fs::FileExt::seek_read(&self.file, &mut bytes[done..], at)?
                {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    read => done += read,
                }
            }
        }
        Ok(bytes.into())
    }
}

/// Bytes that are in memory: an archive that was compressed inside of another.
impl ReadAt for Bytes {
    fn len(&self) -> u64 {
        Bytes::len(self) as u64
    }

    fn read_at(&self, offset: u64, length: usize) -> io::Result<Bytes> {
        Ok(self.slice(offset as usize..offset as usize + length))
    }
}

/// A part of another source: an archive inside of another.
pub(super) struct Slice {
    pub(super) source: Arc<dyn ReadAt>,
    pub(super) offset: u64,
    pub(super) length: u64,
}

impl ReadAt for Slice {
    fn len(&self) -> u64 {
        self.length
    }

    fn read_at(&self, offset: u64, length: usize) -> io::Result<Bytes> {
        self.source.read_at(self.offset + offset, length)
    }
}

/// A reader with a position of its own that fetches `ahead` bytes at once.
pub(super) struct Window {
    source: Arc<dyn ReadAt>,
    position: u64,
    held: Bytes,
    held_start: u64,
    ahead: u64,
    /// The source failed, so that what a decoder says about the bytes means nothing.
    failure: Option<io::Error>,
}

impl Window {
    pub(super) fn new(source: Arc<dyn ReadAt>, ahead: u64) -> Self {
        Self { source, position: 0, held: Bytes::new(), held_start: 0, ahead, failure: None }
    }

    /// A window that has the last `ahead` bytes already: where archives have their directory.
    pub(super) fn at_end(source: Arc<dyn ReadAt>, ahead: u64) -> io::Result<Self> {
        let held_start = source.len().saturating_sub(ahead);
        let held = source.read_at(held_start, (source.len() - held_start) as usize)?;
        Ok(Self { source, position: 0, held, held_start, ahead, failure: None })
    }

    /// Fetches that many bytes at once from now on.
    pub(super) fn set_ahead(&mut self, ahead: u64) {
        self.ahead = ahead;
    }

    /// The error of the source, if it failed.
    pub(super) fn take_failure(&mut self) -> Option<io::Error> {
        self.failure.take()
    }

    fn held_at(&self, position: u64) -> &[u8] {
        let start = position.checked_sub(self.held_start).map_or(usize::MAX, |at| at as usize);
        self.held.get(start..).unwrap_or_default()
    }
}

impl Read for Window {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.held_at(self.position).is_empty() {
            let left = self.source.len().saturating_sub(self.position);
            let wanted = self.ahead.max(buffer.len() as u64).min(left);
            if wanted == 0 {
                return Ok(0);
            }
            match self.source.read_at(self.position, wanted as usize) {
                Ok(bytes) => (self.held, self.held_start) = (bytes, self.position),
                Err(error) => {
                    let told = io::Error::new(error.kind(), error.to_string());
                    self.failure = Some(error);
                    return Err(told);
                }
            }
        }
        let held = self.held_at(self.position);
        let length = held.len().min(buffer.len());
        buffer[..length].copy_from_slice(&held[..length]);
        self.position += length as u64;
        Ok(length)
    }
}

impl Seek for Window {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
            SeekFrom::End(by) => self.source.len().checked_add_signed(by),
        };
        self.position = position.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}
