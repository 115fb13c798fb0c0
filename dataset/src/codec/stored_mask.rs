//! Rows of the masks that data sets hold.

use std::io::Cursor;

use png::{BitDepth, ColorType, Decoder, Reader};

use crate::resample::Rows;

/// A mask as [`super::encode_mask_png`] writes it, read row by row and no further than rows are
/// asked for. Its values are taken as they are, which [`super::decode_mask`] does too for every
/// mask that has foreground.
pub struct StoredMask<'a> {
    reader: Reader<Cursor<&'a [u8]>>,
    row: Vec<u8>,
    /// Rows that were read.
    read: usize,
}

impl<'a> StoredMask<'a> {
    /// Reads the header. `None` for what is not stored like that: PNG files of other modes,
    /// interlaced ones and those that are to be turned, and other files.
    ///
    /// The checksums inside the file are not looked at: the caller has compared its digest.
    #[must_use]
    pub fn open(bytes: &'a [u8]) -> Option<Self> {
        let mut decoder = Decoder::new(Cursor::new(bytes));
        decoder.ignore_checksums(true);
        let reader = decoder.read_info().ok()?;
        let info = reader.info();
        let plain = info.color_type == ColorType::Grayscale
            && info.bit_depth == BitDepth::Eight
            && !info.interlaced
            && info.exif_metadata.is_none()
            && info.animation_control.is_none();
        let row = vec![0; info.width as usize];
        plain.then_some(Self { reader, row, read: 0 })
    }

    /// Height and width.
    #[must_use]
    pub fn size_hw(&self) -> (usize, usize) {
        let info = self.reader.info();
        (info.height as usize, info.width as usize)
    }
}

impl Rows<u8> for StoredMask<'_> {
    fn row(&mut self, index: usize) -> Option<&[u8]> {
        while self.read <= index {
            self.reader.read_row(&mut self.row).ok()??;
            self.read += 1;
        }
        Some(&self.row)
    }
}
