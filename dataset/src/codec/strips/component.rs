//! One colour component of a JPEG file: its tables, and the strips of its samples that are held.

use std::sync::Arc;

use libjpeg_turbo_rs::common::huffman_table::HuffmanTable;
use libjpeg_turbo_rs::decode::idct_scaled::{idct_1x1, idct_2x2};
use libjpeg_turbo_rs::decode::marker::JpegMetadata;
use pulp::x86::V3;

use super::super::entropy::Strides;
use super::reduced::idct_4x4;

/// Strips that a plane holds: upsampling reads one row beyond a strip, above it or below.
pub(super) const STRIPS_HELD: usize = 2;

/// Coefficients and the steps of their quantisation to 8 x 8 samples.
pub(super) type Transform = fn(&[i16; 64], &[u16; 64], &mut [u8; 64]);

/// One of Y, Cb and Cr.
pub(super) struct Component {
    /// Blocks of an MCU, across and down.
    pub(super) across: usize,
    pub(super) down: usize,
    /// Side of a block once transformed: 8, less in a scaled decode.
    pub(super) side: usize,
    quantisation: [u16; 64],
    pub(super) dc: Arc<HuffmanTable>,
    pub(super) ac: Arc<HuffmanTable>,
    pub(super) strides: Box<Strides>,
    /// The DC value of the block before.
    pub(super) predictor: i16,
    /// The strips, in turn.
    samples: Vec<u8>,
    pub(super) stride: usize,
}

impl Component {
    pub(super) fn new(
        metadata: &JpegMetadata,
        index: usize,
        (across, down): (usize, usize),
        side: usize,
        mcus_across: usize,
    ) -> Option<Self> {
        let (frame, scan) = (&metadata.frame.components[index], &metadata.scan.components[index]);
        let table = metadata.quant_tables.get(usize::from(frame.quant_table_index))?.as_ref()?;
        let dc = metadata.dc_huffman_tables.get(usize::from(scan.dc_table_index))?.clone()?;
        let ac = metadata.ac_huffman_tables.get(usize::from(scan.ac_table_index))?.clone()?;
        let stride = mcus_across * across * side;
        let samples = vec![0; stride * down * side * STRIPS_HELD];
        let (strides, quantisation) = (Strides::new(&ac), table.values);
        Some(Self {
            across,
            down,
            side,
            quantisation,
            dc,
            ac,
            strides,
            predictor: 0,
            samples,
            stride,
        })
    }

    pub(super) fn strip_height(&self) -> usize {
        self.down * self.side
    }

    pub(super) fn row(&self, y: usize) -> &[u8] {
        let held = y % (STRIPS_HELD * self.strip_height());
        &self.samples[held * self.stride..(held + 1) * self.stride]
    }

    /// Writes a block whose first sample is the one at `at`. `flat` blocks have a DC value only.
    #[inline(always)]
    pub(super) fn transform(
        &mut self,
        coefficients: &[i16; 64],
        flat: bool,
        (idct, simd): (Transform, Option<V3>),
        at: usize,
    ) {
        let (samples, table) = (&mut self.samples[at..], &self.quantisation);
        let level = if flat { flat_level(coefficients[0], table[0]) } else { None };
        match (self.side, level) {
            (8, Some(level)) => write::<8>(&[level; 64], samples, self.stride),
            (8, None) => {
                let mut block = [0; 64];
                idct(coefficients, table, &mut block);
                write::<8>(&block, samples, self.stride);
            }
            (4, Some(level)) => write::<4>(&[level; 16], samples, self.stride),
            (4, None) => {
                let mut block = [0; 16];
                idct_4x4(simd, coefficients, table, &mut block);
                write::<4>(&block, samples, self.stride);
            }
            (2, Some(level)) => write::<2>(&[level; 4], samples, self.stride),
            (2, None) => {
                let mut block = [0; 4];
                idct_2x2(coefficients, table, &mut block);
                write::<2>(&block, samples, self.stride);
            }
            _ => samples[0] = idct_1x1(coefficients, table),
        }
    }
}

/// What all samples of a block come to that has a DC value only, whatever its size. `None` beyond
/// what pictures have, where the transforms differ in how they overflow.
pub(super) fn flat_level(dc: i16, quantisation: u16) -> Option<u8> {
    let level = i32::from(dc) * i32::from(quantisation);
    (-8192..8192).contains(&level).then(|| (((level + 4) >> 3) + 128).clamp(0, 255) as u8)
}

#[inline(always)]
fn write<const SIDE: usize>(block: &[u8], samples: &mut [u8], stride: usize) {
    for (row, values) in block.as_chunks::<SIDE>().0.iter().enumerate() {
        samples[row * stride..row * stride + SIDE].copy_from_slice(values);
    }
}
