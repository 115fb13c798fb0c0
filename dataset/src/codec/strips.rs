//! Rows of an ordinary JPEG file, decoded in the order in which they are asked for: nothing is
//! transformed, upsampled or converted outside the rows and columns that a crop keeps, nothing is
//! read below them, and no plane of the whole picture is ever in memory. The pixels are
//! libjpeg-turbo's, whose transforms and colour conversion are used.

mod component;
mod reduced;

use std::ops::Range;

use libjpeg_turbo_rs::decode::marker::{JpegMetadata, MarkerReader};
use libjpeg_turbo_rs::simd::{SimdRoutines, detect};

use pulp::x86::V3;
use pulp::{Arch, Simd, WithSimd};

use self::component::{Component, STRIPS_HELD};
use super::entropy::{Bits, Damaged};
use crate::resample::Rows;

/// Narrower pictures have borders that libjpeg-turbo upsamples in ways of their own.
const MIN_WIDTH: usize = 16;
/// How chroma gets to the size of luma.
#[derive(Clone, Copy, PartialEq)]
enum Upsampling {
    /// It has it already.
    None,
    /// Twice as wide, by libjpeg-turbo's triangle filter.
    Across,
    /// Twice as wide and twice as high.
    Both,
}

/// The rows of one file.
pub(super) struct Strips<'a> {
    bits: Bits<'a>,
    components: [Component; 3],
    upsampling: Upsampling,
    routines: SimdRoutines,
    /// Where the processor has AVX2.
    simd: Option<V3>,
    height: usize,
    width: usize,
    /// Output rows and columns of an MCU.
    mcu_height: usize,
    mcu_width: usize,
    mcus_across: usize,
    restart_interval: usize,
    mcus_to_restart: usize,
    /// The strip that is decoded next.
    next: usize,
    columns: Range<usize>,
    /// Upsampled rows of Cb and Cr.
    chroma: [Vec<u8>; 2],
    rgb: Vec<u8>,
}

impl<'a> Strips<'a> {
    /// Rows of the file with both sides divided by `divisor` (1, 2, 4 or 8), rounding up. `None`
    /// for what is left to the general decoders: progressive files, several scans, odd sampling.
    /// The caller knows that the colours are YCbCr.
    pub(super) fn open(bytes: &'a [u8], divisor: usize) -> Option<Self> {
        let metadata = MarkerReader::new(bytes).read_markers().ok()?;
        let frame = &metadata.frame;
        let odd = frame.precision != 8 || frame.is_progressive || frame.is_lossless;
        let width = usize::from(frame.width);
        if odd || metadata.is_arithmetic || metadata.scans.len() > 1 || width < MIN_WIDTH {
            return None;
        }
        let side = 8 / divisor;
        let (max_across, max_down, chroma_side, upsampling) = match sampling(&metadata)? {
            [(1, 1), (1, 1), (1, 1)] => (1, 1, side, Upsampling::None),
            [(2, 1), (1, 1), (1, 1)] if divisor == 1 => (2, 1, side, Upsampling::Across),
            [(2, 2), (1, 1), (1, 1)] if divisor == 1 => (2, 2, side, Upsampling::Both),
            // A scaled decode leaves chroma as it is instead of shrinking and enlarging it.
            [(2, 2), (1, 1), (1, 1)] => (2, 2, 2 * side, Upsampling::None),
            _ => return None,
        };
        let mcus_across = width.div_ceil(8 * max_across);
        let component = |index: usize| {
            let (across, down) = if index == 0 { (max_across, max_down) } else { (1, 1) };
            let side = if index == 0 { side } else { chroma_side };
            Component::new(&metadata, index, (across, down), side, mcus_across)
        };
        let height = usize::from(frame.height).div_ceil(divisor);
        let width = width.div_ceil(divisor);
        let restart_interval = usize::from(metadata.restart_interval);
        let (mcu_height, mcu_width) = (max_down * side, max_across * side);
        let row = || vec![0; mcus_across * mcu_width + 2];
        Some(Self {
            bits: Bits::new(bytes.get(metadata.entropy_data_offset..)?),
            components: [component(0)?, component(1)?, component(2)?],
            upsampling,
            routines: detect(),
            simd: V3::try_new(),
            height,
            width,
            mcu_height,
            mcu_width,
            mcus_across,
            restart_interval,
            mcus_to_restart: restart_interval,
            next: 0,
            columns: 0..width,
            chroma: if upsampling == Upsampling::None {
                Default::default()
            } else {
                [row(), row()]
            },
            rgb: vec![0; width * 3],
        })
    }

    /// Height and width.
    pub(super) fn size_hw(&self) -> (usize, usize) {
        (self.height, self.width)
    }

    /// Leaves the pixels of all other columns undefined.
    pub(super) fn keep_columns(&mut self, columns: Range<usize>) {
        self.columns = columns;
    }

    /// The rows of chroma that row `y` is made from: the nearest one and the next nearest.
    fn chroma_rows(&self, y: usize) -> (usize, usize) {
        if self.upsampling != Upsampling::Both {
            return (y, y);
        }
        let (near, last) = (y / 2, (self.height - 1) / 2);
        (near, if y.is_multiple_of(2) { near.saturating_sub(1) } else { (near + 1).min(last) })
    }

    /// Decodes strips until those that row `y` reads are there, without transforming earlier ones.
    fn advance_to(&mut self, y: usize) -> Result<(), Damaged> {
        let chroma_height = self.components[1].strip_height();
        let (of_luma, of_chroma) = (y / self.mcu_height, self.chroma_rows(y).1 / chroma_height);
        let (first, last) = (of_luma.min(of_chroma), of_luma.max(of_chroma));
        while self.next <= last {
            let wanted = self.next >= first;
            Arch::new().dispatch(DecodeStrip { strips: self, wanted })?;
        }
        Ok(())
    }

    /// MCUs of a strip that the kept columns read, neighbours for upsampling included.
    fn kept_mcus(&self) -> Range<usize> {
        let first = self.columns.start.saturating_sub(2) / self.mcu_width;
        first..(self.columns.end + 2).div_ceil(self.mcu_width)
    }

    #[inline(always)]
    fn decode_strip(&mut self, wanted: bool) -> Result<(), Damaged> {
        let kept = if wanted { self.kept_mcus() } else { 0..0 };
        let (idct, simd) = (self.routines.idct_islow, self.simd);
        let mut bits = self.bits;
        let slot = self.next % STRIPS_HELD;
        for mcu in 0..self.mcus_across {
            if self.restart_interval > 0 {
                if self.mcus_to_restart == 0 {
                    bits.restart()?;
                    self.components.iter_mut().for_each(|component| component.predictor = 0);
                    self.mcus_to_restart = self.restart_interval;
                }
                self.mcus_to_restart -= 1;
            }
            let kept = kept.contains(&mcu);
            for component in &mut self.components {
                for row in 0..component.down {
                    for column in 0..component.across {
                        bits.dc(&component.dc, &mut component.predictor)?;
                        if !kept {
                            bits.skip_ac(&component.ac, &component.strides)?;
                            continue;
                        }
                        let y = slot * component.strip_height() + row * component.side;
                        let x = (mcu * component.across + column) * component.side;
                        let at = y * component.stride + x;
                        let mut coefficients = [0; 64];
                        coefficients[0] = component.predictor;
                        let flat = if component.side == 1 {
                            bits.skip_ac(&component.ac, &component.strides)?;
                            true
                        } else {
                            bits.ac(&component.ac, &mut coefficients)?
                        };
                        component.transform(&coefficients, flat, (idct, simd), at);
                    }
                }
            }
        }
        if bits.is_short() {
            return Err(Damaged);
        }
        self.bits = bits;
        self.next += 1;
        Ok(())
    }

    /// Converts the kept columns of row `y`, the strips of which are there.
    fn convert(&mut self, y: usize) {
        let (near, far) = self.chroma_rows(y);
        let Range { start, end } = self.columns;
        let [luma, cb, cr] = &self.components;
        let luma = &luma.row(y)[start..end];
        let rgb = &mut self.rgb[start * 3..end * 3];
        if self.upsampling == Upsampling::None {
            let (cb, cr) = (&cb.row(y)[start..end], &cr.row(y)[start..end]);
            return self.routines.ycbcr_to_rgb_row(luma, cb, cr, rgb, end - start);
        }
        // One sample more on each side than is used, and three at least: then no kept pixel comes
        // from the filter's rules for borders, unless it lies at the border of the picture.
        let samples = self.width.div_ceil(2);
        let first = (start / 2).saturating_sub(1).min(samples - 3);
        let last = ((end - 1) / 2 + 2).clamp(first + 3, samples);
        for (target, component) in self.chroma.iter_mut().zip([cb, cr]) {
            let near = &component.row(near)[first..last];
            match self.upsampling {
                Upsampling::Both => double(near, &component.row(far)[first..last], target),
                _ => self.routines.fancy_upsample_h2v1(near, last - first, target),
            }
        }
        let [cb, cr] = &self.chroma;
        let kept = start - 2 * first..end - 2 * first;
        let (cb, cr) = (&cb[kept.clone()], &cr[kept]);
        self.routines.ycbcr_to_rgb_row(luma, cb, cr, rgb, end - start);
    }
}

impl Rows<u8> for Strips<'_> {
    fn row(&mut self, index: usize) -> Option<&[u8]> {
        self.advance_to(index).ok()?;
        self.convert(index);
        Some(&self.rgb)
    }
}

/// Sampling factors, across and down, where each component is in the scan, in order.
fn sampling(metadata: &JpegMetadata) -> Option<[(u8, u8); 3]> {
    let (frame, scan) = (&metadata.frame.components, &metadata.scan.components);
    let all = frame.iter().map(|component| component.id);
    if !all.eq(scan.iter().map(|component| component.component_id)) {
        return None;
    }
    let factors: Vec<_> =
        frame.iter().map(|it| (it.horizontal_sampling, it.vertical_sampling)).collect();
    factors.try_into().ok()
}

/// [`Strips::decode_strip`], compiled for the processor at hand. No closure: one that borrows is
/// called by way of a function that is compiled for any processor.
struct DecodeStrip<'s, 'a> {
    strips: &'s mut Strips<'a>,
    wanted: bool,
}

impl WithSimd for DecodeStrip<'_, '_> {
    type Output = Result<(), Damaged>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Self::Output {
        self.strips.decode_strip(self.wanted)
    }
}

/// libjpeg-turbo's `h2v2_fancy_upsample` of one row: three quarters of the nearer sample and one
/// quarter of the further one, both ways. At least two samples.
fn double(near: &[u8], far: &[u8], target: &mut [u8]) {
    Arch::new().dispatch(
        #[inline(always)]
        move || {
            // Moved, not borrowed, for the reason given at `DecodeStrip`.
            let target = target;
            let sum = |at: usize| 3 * u16::from(near[at]) + u16::from(far[at]);
            let last = near.len() - 1;
            let far = &far[..near.len()];
            let (pairs, _) = target[..2 * near.len()].as_chunks_mut::<2>();
            pairs[0] = [((sum(0) * 4 + 8) >> 4) as u8, ((sum(0) * 3 + sum(1) + 7) >> 4) as u8];
            let windows = near.windows(3).zip(far.windows(3));
            for (pair, (near, far)) in pairs[1..last].iter_mut().zip(windows) {
                let sum = |at: usize| 3 * u16::from(near[at]) + u16::from(far[at]);
                let (before, here, after) = (sum(0), 3 * sum(1), sum(2));
                *pair = [((here + before + 8) >> 4) as u8, ((here + after + 7) >> 4) as u8];
            }
            let before = sum(last - 1);
            pairs[last] =
                [((sum(last) * 3 + before + 8) >> 4) as u8, ((sum(last) * 4 + 7) >> 4) as u8];
        },
    );
}

#[cfg(test)]
mod tests;
