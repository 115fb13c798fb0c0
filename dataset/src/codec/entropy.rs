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
    /// The highest `count` bits are the next ones, the others zero.
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
                self.buffer |= u64::from(word) << (32 - self.count);
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
            self.buffer |= u64::from(byte) << (56 - self.count);
            self.count += 8;
        }
        self
    }

    #[inline(always)]
    fn peek(&self) -> u16 {
        (self.buffer >> 48) as u16
    }

    #[inline(always)]
    fn drop_bits(&mut self, bits: u32) {
        self.buffer <<= bits;
        self.count -= bits;
    }

    /// The value of a coefficient from its next `size` bits, 1 to 15 of them: `HUFF_EXTEND`.
    #[inline(always)]
    fn value(&mut self, size: u32) -> i16 {
        let value = (self.buffer >> (64 - size)) as i32;
        // Without its highest bit a value is negative.
        let negative = !(self.buffer as i64 >> 63) as i32;
        self.drop_bits(size);
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

    /// Reads the DC value of a block, given as its difference from the block before.
    #[inline(always)]
    pub(super) fn dc(&mut self, table: &HuffmanTable, predictor: &mut i16) -> Result<(), Damaged> {
        self.fill();
        let (size, length) = match table.lookup_fast(self.peek()) {
            (_, 0) => table.lookup(self.peek()).map_err(|_| Damaged)?,
            found => found,
        };
        self.drop_bits(length.into());
        match size {
            0 => {}
            1..=15 => *predictor = predictor.wrapping_add(self.value(size.into())),
            _ => return Err(Damaged),
        }
        Ok(())
    }

    /// Reads all other values of a block into `coefficients`, which are zero there, in their natural
    /// order. True if there are none.
    #[inline(always)]
    pub(super) fn ac(
        &mut self,
        ac: &HuffmanTable,
        coefficients: &mut [i16; 64],
    ) -> Result<bool, Damaged> {
        let mut index = 1;
        while index < 64 {
            self.fill();
            let peek = self.peek();
            let (short, mut symbol, mut length) = ac.lookup_combined(peek);
            if short != 0 {
                // The table knows the value too: value, run and bits of both.
                self.drop_bits((short & 15) as u32);
                index += (short >> 4 & 15) as usize;
                coefficients[usize::from(NATURAL_ORDER[index & 127])] = short >> 8;
                index += 1;
                continue;
            }
            if length == 0 {
                (symbol, length) = ac.lookup(peek).map_err(|_| Damaged)?;
            }
            self.drop_bits(length.into());
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

    /// Goes to the end of a block without looking at its values but the first, which is read.
    #[inline(always)]
    pub(super) fn skip_ac(&mut self, ac: &HuffmanTable, strides: &Strides) -> Result<(), Damaged> {
        let mut index = 1;
        while index < 64 {
            self.fill();
            let stride = strides.0[usize::from(self.peek() >> (16 - STRIDE_BITS))];
            let (bits, values) = (u32::from(stride & 31), usize::from(stride >> 5 & 63));
            // Behind the last value comes another block, which has another table.
            if bits != 0 && index + values < 64 {
                self.drop_bits(bits);
                if stride & STRIDE_ENDS != 0 {
                    break;
                }
                index += values;
                continue;
            }
            let (symbol, length) = ac.lookup(self.peek()).map_err(|_| Damaged)?;
            let size = u32::from(symbol & 15);
            self.drop_bits(u32::from(length) + size);
            if size == 0 && symbol >> 4 != 15 {
                break;
            }
            index += usize::from(symbol >> 4) + 1;
        }
        Ok(())
    }
}

/// Bits by which a stride is looked up.
const STRIDE_BITS: usize = 11;
/// Of a stride: the block ends with it.
const STRIDE_ENDS: u16 = 1 << 15;

/// For all that the next bits may be: how many bits and values of a block can be passed over at
/// once, because the codes in them are whole. Five bits for the bits, six for the values, then
/// [`STRIDE_ENDS`]. Zero where not even one code is whole.
pub(super) struct Strides([u16; 1 << STRIDE_BITS]);

impl Strides {
    /// For blocks whose values but the first have codes of `ac`.
    pub(super) fn new(ac: &HuffmanTable) -> Box<Self> {
        let mut strides = Box::new(Self([0; 1 << STRIDE_BITS]));
        for (next, stride) in strides.0.iter_mut().enumerate() {
            *stride = Self::of(ac, (next << (16 - STRIDE_BITS)) as u16);
        }
        strides
    }

    fn of(ac: &HuffmanTable, next: u16) -> u16 {
        let (mut bits, mut values) = (0, 0);
        // A code and its value take 31 bits at most, which is what is sure to be there.
        while bits < STRIDE_BITS {
            let Ok((symbol, length)) = ac.lookup(next << bits) else { break };
            let (run, size) = (usize::from(symbol >> 4), usize::from(symbol & 15));
            if bits + usize::from(length) > STRIDE_BITS || values + run + 1 > 63 {
                break;
            }
            bits += usize::from(length) + size;
            if size == 0 && run != 15 {
                return (bits | values << 5) as u16 | STRIDE_ENDS;
            }
            values += run + 1;
        }
        (bits | values << 5) as u16
    }
}

#[cfg(test)]
mod tests {
    use libjpeg_turbo_rs::encode::tables::{AC_LUMINANCE_BITS, AC_LUMINANCE_VALUES};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// From any data on, block after block, valid or not.
        #[test]
        fn a_block_that_is_skipped_ends_where_it_does_when_it_is_read(
            data in proptest::collection::vec(any::<u8>(), 1..400),
        ) {
            let ac = HuffmanTable::build(&AC_LUMINANCE_BITS, &AC_LUMINANCE_VALUES).unwrap();
            let strides = Strides::new(&ac);
            let mut skipping = Bits::new(&data);
            while !skipping.is_short() {
                let mut reading = skipping;
                let read = reading.ac(&ac, &mut [0; 64]);
                let skipped = skipping.skip_ac(&ac, &strides);
                prop_assert_eq!(read.is_ok(), skipped.is_ok());
                if read.is_err() {
                    break;
                }
                prop_assert_eq!(skipping.is_short(), reading.is_short());
                let next = |mut bits: Bits<'_>| {
                    bits.fill();
                    bits.peek()
                };
                prop_assert_eq!(next(skipping), next(reading));
            }
        }
    }
}
