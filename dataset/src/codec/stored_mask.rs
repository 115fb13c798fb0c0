//! Rows of the masks that data sets hold.
//!
//! The PNG library inflates ahead and copies what it has inflated more than once, which for the
//! mask of a large photograph takes as long as resampling the photograph. Here lines of the file are
//! inflated into a small buffer that stays in the processor's cache, and no further than is read.

use std::io::Cursor;

use fdeflate::Decompressor;
use png::{BitDepth, ColorType, Decoder};

use super::png::chunks;
use crate::resample::Rows;

/// How far back deflate may refer to what it has written.
const WINDOW: usize = 32 * 1024;
/// Room for inflating beside the window and one line.
const ROOM: usize = 64 * 1024;

/// A mask as [`super::encode_mask_png`] writes it, read row by row and no further than rows are
/// asked for. Its values are taken as they are, which [`super::decode_mask`] does too for every
/// mask that has foreground.
pub struct StoredMask<'a> {
    size_hw: (usize, usize),
    lines: Lines<'a>,
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
        if !plain {
            return None;
        }
        let (height, width) = (info.height as usize, info.width as usize);
        let lines = Lines::new(bytes, width + 1);
        Some(Self { size_hw: (height, width), lines, row: vec![0; width], read: 0 })
    }

    /// Height and width.
    #[must_use]
    pub fn size_hw(&self) -> (usize, usize) {
        self.size_hw
    }
}

impl Rows<u8> for StoredMask<'_> {
    /// `None` too for a line that is not stored as a difference from the one above.
    fn row(&mut self, index: usize) -> Option<&[u8]> {
        while self.read <= index {
            let (&filter, differences) = self.lines.next()?.split_first()?;
            match filter {
                0 => self.row.copy_from_slice(differences),
                2 => {
                    for (value, difference) in self.row.iter_mut().zip(differences) {
                        *value = value.wrapping_add(*difference);
                    }
                }
                _ => return None,
            }
            self.read += 1;
        }
        Some(&self.row)
    }
}

/// The inflated lines of a PNG file: the filter's number, then the filtered values.
struct Lines<'a> {
    /// The chunks of image data that come next.
    chunks: Box<dyn Iterator<Item = &'a [u8]> + 'a>,
    /// What is left of the present one.
    data: &'a [u8],
    inflate: Decompressor,
    buffer: Vec<u8>,
    line_bytes: usize,
    /// Where the next line starts in `buffer`, and the end of what is inflated.
    start: usize,
    end: usize,
}

impl<'a> Lines<'a> {
    fn new(bytes: &'a [u8], line_bytes: usize) -> Self {
        let data = chunks(bytes).filter(|(kind, _)| kind == b"IDAT").map(|(_, data)| data);
        let mut inflate = Decompressor::new();
        inflate.ignore_adler32();
        let buffer = vec![0; WINDOW + line_bytes + ROOM];
        let chunks = Box::new(data);
        Self { chunks, data: &[], inflate, buffer, line_bytes, start: 0, end: 0 }
    }

    /// The next line; `None` where the file is cut or damaged.
    fn next(&mut self) -> Option<&[u8]> {
        while self.end - self.start < self.line_bytes {
            if self.end == self.buffer.len() {
                let kept = self.start.min(self.end - WINDOW);
                self.buffer.copy_within(kept..self.end, 0);
                (self.start, self.end) = (self.start - kept, self.end - kept);
            }
            let (read, written) =
                self.inflate.read(self.data, &mut self.buffer, self.end, false).ok()?;
            self.data = &self.data[read..];
            self.end += written;
            if written == 0 && read == 0 {
                self.data = self.chunks.next()?;
            }
        }
        let line = self.start..self.start + self.line_bytes;
        self.start = line.end;
        Some(&self.buffer[line])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::codec::encode_mask_png;
    use crate::raster::Mask255;

    fn rows(bytes: &[u8]) -> Option<Vec<u8>> {
        let mut mask = StoredMask::open(bytes)?;
        (0..mask.size_hw().0).try_fold(Vec::new(), |mut pixels, y| {
            pixels.extend_from_slice(mask.row(y)?);
            Some(pixels)
        })
    }

    /// Blobs of some size, or noise.
    fn mask(height: usize, width: usize, grain: usize) -> Mask255 {
        let value = |at: usize| {
            let (y, x) = (at / width / grain, at % width / grain);
            (y.wrapping_mul(2_654_435_761) ^ x.wrapping_mul(40_503)).wrapping_mul(97) as u8
        };
        Mask255 { height, width, pixels: (0..height * width).map(value).collect() }
    }

    /// The image data of a file that has one chunk of it, in chunks of `size` bytes.
    fn with_chunks_of(bytes: &[u8], size: usize) -> Vec<u8> {
        let at = bytes.windows(4).position(|name| name == b"IDAT").unwrap() - 4;
        let length = u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        let (data, end) = (&bytes[at + 8..at + 8 + length], &bytes[at + 12 + length..]);
        let mut split = bytes[..at].to_vec();
        for part in data.chunks(size) {
            split.extend((part.len() as u32).to_be_bytes());
            split.extend(b"IDAT");
            split.extend(part);
            split.extend([0; 4]);
        }
        split.extend(end);
        split
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn rows_are_what_was_encoded(
            height in 1_usize..300,
            width in 1_usize..2000,
            grain in 1_usize..200,
            size in 1_usize..5000,
        ) {
            let mask = mask(height, width, grain);
            let bytes = encode_mask_png(&mask);
            prop_assert!(rows(&bytes).is_some_and(|pixels| pixels == mask.pixels));
            let split = with_chunks_of(&bytes, size);
            prop_assert!(rows(&split).is_some_and(|pixels| pixels == mask.pixels));
        }

        #[test]
        fn a_cut_file_has_no_last_row(cut in 0.0..1.0_f64) {
            let bytes = encode_mask_png(&mask(40, 90, 7));
            let end = bytes.windows(4).position(|name| name == b"IEND").unwrap() - 4;
            // Without the checksums of the chunk and of the data, all values are still there.
            let cut = (cut * (end - 12) as f64) as usize;
            prop_assert_eq!(rows(&bytes[..cut]), None);
        }
    }
}
