//! The entropy-coded data of sequential JPEG files, block by block.
//!
//! libjpeg-turbo's own port decodes whole pictures only; this reads as far as a crop needs. Its
//! tables are used, and what it does with odd codes is done here: a damaged scan is given up, so
//! that the general decoders say what is wrong.

use libjpeg_turbo_rs::common::huffman_table::HuffmanTable;
use libjpeg_turbo_rs::common::quant_table::ZIGZAG_ORDER;

/// The data is not what an encoder writes.
#[derive(Debug)]
pub(super) struct Damaged;

/// Where the coefficient of an index goes. A run may lead behind the last one, which libjpeg-turbo
/// then writes to; the table is as long as a mask of seven bits.
const NATURAL_ORDER: [u8; 128] = {
    let mut order = [63; 128];
    let mut index = 0;
    while index < 64 {
        order[index] = ZIGZAG_ORDER[index] as u8;
        index += 1;
    }
    order
};

/// Bits of a scan, its stuffed zero bytes left out.
#[derive(Clone, Copy)]
pub(super) struct Bits<'a> {
    data: &'a [u8],
    at: usize,
    /// The lowest `count` bits are the next ones.
    buffer: u64,
    count: u32,
    /// How many of them stand for data that is not there, after a marker or the end.
    missing: u32,
}

impl<'a> Bits<'a> {
    pub(super) fn new(data: &'a [u8]) -> Self {
        Self { data, at: 0, buffer: 0, count: 0, missing: 0 }
    }

    /// Makes sure of 32 bits: as many as a code (16) and its value (15) take.
    #[inline(always)]
    fn fill(&mut self) {
        if self.count >= 32 {
            return;
        }
        if let Some(next) = self.data.get(self.at..).and_then(<[u8]>::first_chunk::<4>) {
            let word = u32::from_be_bytes(*next);
            // A byte of 0xFF, which a marker starts with, is a zero in the complement.
            if (!word).wrapping_sub(0x0101_0101) & word & 0x8080_8080 == 0 {
                self.buffer = self.buffer << 32 | u64::from(word);
                self.count += 32;
                self.at += 4;
                return;
            }
        }
        *self = self.filled_slowly();
    }

    /// By value, so that the fast way keeps its fields in registers.
    #[inline(never)]
    fn filled_slowly(mut self) -> Self {
        while self.count <= 56 {
            let byte = match (self.data.get(self.at), self.data.get(self.at + 1)) {
                (Some(0xFF), Some(0)) => {
                    self.at += 2;
                    0xFF
                }
                (Some(0xFF) | None, _) => {
                    self.missing = self.missing.saturating_add(8);
                    0
                }
                (Some(&byte), _) => {
                    self.at += 1;
                    byte
                }
            };
            self.buffer = self.buffer << 8 | u64::from(byte);
            self.count += 8;
        }
        self
    }

    #[inline(always)]
    fn peek(&self) -> u16 {
        (self.buffer >> (self.count - 16)) as u16
    }

    /// The value of a coefficient from its next `size` bits, 1 to 15 of them: `HUFF_EXTEND`.
    #[inline(always)]
    fn value(&mut self, size: u32) -> i16 {
        self.count -= size;
        let value = ((self.buffer >> self.count) as u32 & ((1 << size) - 1)) as i32;
        let negative = (value - (1 << (size - 1))) >> 31;
        (value + (negative & ((-1 << size) + 1))) as i16
    }

    /// True once bits were used that the data does not have.
    pub(super) fn is_short(&self) -> bool {
        self.count < self.missing
    }

    /// Goes on behind the restart marker that must come next.
    pub(super) fn restart(&mut self) -> Result<(), Damaged> {
        let marker = self.data.get(self.at..).and_then(<[u8]>::first_chunk::<2>);
        if self.is_short() || !matches!(marker, Some([0xFF, 0xD0..=0xD7])) {
            return Err(Damaged);
        }
        *self = Self { at: self.at + 2, ..Self::new(self.data) };
        Ok(())
    }

    /// Reads a block into `coefficients`, which are zero, in their natural order. True if the first
    /// one is all there is.
    #[inline(always)]
    pub(super) fn block(
        &mut self,
        dc: &HuffmanTable,
        ac: &HuffmanTable,
        predictor: &mut i16,
        coefficients: &mut [i16; 64],
    ) -> Result<bool, Damaged> {
        self.fill();
        let (size, length) = match dc.lookup_fast(self.peek()) {
            (_, 0) => dc.lookup(self.peek()).map_err(|_| Damaged)?,
            found => found,
        };
        self.count -= u32::from(length);
        match size {
            0 => {}
            1..=15 => *predictor = predictor.wrapping_add(self.value(size.into())),
            _ => return Err(Damaged),
        }
        coefficients[0] = *predictor;

        let mut index = 1;
        while index < 64 {
            self.fill();
            let peek = self.peek();
            let (short, mut symbol, mut length) = ac.lookup_combined(peek);
            if short != 0 {
                // The table knows the value too: value, run and bits of both.
                self.count -= (short & 15) as u32;
                index += (short >> 4 & 15) as usize;
                coefficients[usize::from(NATURAL_ORDER[index & 127])] = short >> 8;
                index += 1;
                continue;
            }
            if length == 0 {
                (symbol, length) = ac.lookup(peek).map_err(|_| Damaged)?;
            }
            self.count -= u32::from(length);
            let (run, size) = (usize::from(symbol >> 4), u32::from(symbol & 15));
            if size == 0 {
                // The end of the block, or sixteen zeros.
                if run != 15 {
                    break;
                }
                index += 16;
                continue;
            }
            index += run;
            coefficients[usize::from(NATURAL_ORDER[index & 127])] = self.value(size);
            index += 1;
        }
        Ok(index == 1)
    }
}
