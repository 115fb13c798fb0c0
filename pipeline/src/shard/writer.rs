//! Writes one shard, row group by row group, and digests its bytes as they pass.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use arrow_array::RecordBatch;
use dataset::schema::{Row, to_record_batch};
use parquet::arrow::ArrowWriter;
use parquet::errors::ParquetError;
use sha2::{Digest, Sha256};

use super::layout::{ROW_GROUP_BYTES, stored_schema, writer_properties};
use super::reader::ShardError;

/// What was written: facts for the manifest.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct WrittenShard {
    /// Rows in the file.
    pub rows: u64,
    /// Size of the file.
    pub bytes: u64,
    /// Lower-case hexadecimal digest of the file.
    pub sha256: String,
}

/// Writes rows to one Parquet file. The file is complete once [`ShardWriter::finish`] returned.
pub struct ShardWriter {
    path: PathBuf,
    writer: ArrowWriter<Digesting>,
    rows_per_group: usize,
    /// Rows of the group being filled, and the bytes of their images and masks.
    group: Vec<Row>,
    group_bytes: usize,
    rows: u64,
}

impl ShardWriter {
    /// Creates (or truncates) the file at `path`; row groups get at most `rows_per_group` rows.
    ///
    /// # Errors
    /// [`ShardError`] naming `path`.
    pub fn create(path: &Path, rows_per_group: usize) -> Result<Self, ShardError> {
        let file = File::create(path).map_err(|source| ShardError::write(path, source))?;
        Self::new(file, path, rows_per_group)
    }

    /// Writes to an empty `file`, which errors call `path`.
    ///
    /// # Errors
    /// [`ShardError`] naming `path`.
    pub fn new(file: File, path: &Path, rows_per_group: usize) -> Result<Self, ShardError> {
        let writer =
            ArrowWriter::try_new(Digesting::new(file), stored_schema(), Some(writer_properties()))
                .map_err(|source| ShardError::parquet(path.display(), source))?;
        Ok(Self {
            path: path.to_owned(),
            writer,
            rows_per_group: rows_per_group.max(1),
            group: Vec::new(),
            group_bytes: 0,
            rows: 0,
        })
    }

    /// Adds one row.
    ///
    /// # Errors
    /// [`ShardError`] naming the file when a full row group cannot be written.
    pub fn push(&mut self, row: Row) -> Result<(), ShardError> {
        let bytes = row.image_bytes.len() + row.mask_bytes.len();
        if !self.group.is_empty() && self.group_bytes + bytes > ROW_GROUP_BYTES {
            self.write_group()?;
        }
        self.group.push(row);
        self.group_bytes += bytes;
        self.rows += 1;
        if self.group.len() == self.rows_per_group {
            self.write_group()?;
        }
        Ok(())
    }

    /// Writes what is left and the footer. The file is whole then, but not durable.
    ///
    /// # Errors
    /// [`ShardError`] naming the file.
    pub fn finish(mut self) -> Result<WrittenShard, ShardError> {
        self.write_group()?;
        let path = self.path;
        let digesting = self
            .writer
            .into_inner()
            .map_err(|source| ShardError::parquet(path.display(), source))?;
        let (bytes, sha256) =
            digesting.finish().map_err(|source| ShardError::write(&path, source))?;
        Ok(WrittenShard { rows: self.rows, bytes, sha256 })
    }

    fn write_group(&mut self) -> Result<(), ShardError> {
        if self.group.is_empty() {
            return Ok(());
        }
        let batch = to_record_batch(&self.group)
            .map_err(|error| ShardError::schema(self.path.display(), &error))?;
        self.group.clear();
        self.group_bytes = 0;
        RecordBatch::try_new(stored_schema(), batch.columns().to_vec())
            .map_err(ParquetError::from)
            .and_then(|batch| self.writer.write(&batch))
            .and_then(|()| self.writer.flush())
            .map_err(|source| ShardError::parquet(self.path.display(), source))
    }
}

/// A file writer that digests and counts what it writes.
struct Digesting {
    file: BufWriter<File>,
    digest: Sha256,
    bytes: u64,
}

impl Digesting {
    fn new(file: File) -> Self {
        Self { file: BufWriter::with_capacity(1 << 20, file), digest: Sha256::new(), bytes: 0 }
    }

    fn finish(self) -> io::Result<(u64, String)> {
        self.file.into_inner().map_err(io::IntoInnerError::into_error)?;
        Ok((self.bytes, crate::digest::hex(&self.digest.finalize())))
    }
}

impl Write for Digesting {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.file.write(buffer)?;
        self.digest.update(&buffer[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
