//! Bilinear resampling as `torch.nn.functional.interpolate(mode="bilinear", align_corners=False)`
//! without antialias computes it, restricted to the part of the target that is kept.

use std::ops::Range;

/// Where one target index reads: `low * (1 - weight) + high * weight`. Twelve bytes, so that the
/// taps of a row leave the processor's first cache to the pixels.
#[derive(Clone, Copy)]
struct Tap {
    low: u32,
    high: u32,
    weight: f32,
}

impl Tap {
    fn ends(&self) -> [usize; 2] {
        [self.low as usize, self.high as usize]
    }
}

/// The taps of the target indices `kept` when `source` values are resampled to `target` values.
fn taps(source: usize, target: usize, kept: Range<usize>) -> Vec<Tap> {
    let scale = source as f32 / target as f32;
    kept.map(|index| {
        // Half-pixel centres, clamped at the first pixel, in float32 as in torch.
        let position = (scale * (index as f32 + 0.5) - 0.5).max(0.0);
        let low = (position as u32).min(source as u32 - 1);
        let high = (low + 1).min(source as u32 - 1);
        Tap { low, high, weight: (position - low as f32).clamp(0.0, 1.0) }
    })
    .collect()
}

/// The rows of a source. They are asked for from the top, some not at all and some twice in a row.
pub(crate) trait Rows<T> {
    /// All values of a row; `None` where the source turns out to be damaged.
    fn row(&mut self, index: usize) -> Option<&[T]>;
}

/// A source that is in memory, and how many values a row of it has.
struct Whole<'a, T>(&'a [T], usize);

impl<T> Rows<T> for Whole<'_, T> {
    fn row(&mut self, index: usize) -> Option<&[T]> {
        self.0.get(index * self.1..(index + 1) * self.1)
    }
}

/// One resampling: a source of `source_hw`, thought of as resized to `target_hw`, of which only
/// `kept_rows` and `kept_columns` are computed.
pub(crate) struct Bilinear {
    source_width: usize,
    rows: Vec<Tap>,
    columns: Vec<Tap>,
}

/// Two source rows stretched to the target's width, and the weight of the one below: what a target
/// row is blended from.
pub(crate) struct Blend<'a> {
    above: &'a [f32],
    below: &'a [f32],
    weight: f32,
}

impl Blend<'_> {
    /// The values of the target row.
    #[inline(always)]
    pub(crate) fn values(&self) -> impl Iterator<Item = f32> {
        let (low, high) = (1.0 - self.weight, self.weight);
        self.above.iter().zip(self.below).map(move |(above, below)| above * low + below * high)
    }
}

impl Bilinear {
    /// Plans the resampling. All sizes are at least 1.
    pub(crate) fn new(
        source_hw: (usize, usize),
        target_hw: (usize, usize),
        kept_rows: Range<usize>,
        kept_columns: Range<usize>,
    ) -> Self {
        Self {
            source_width: source_hw.1,
            rows: taps(source_hw.0, target_hw.0, kept_rows),
            columns: taps(source_hw.1, target_hw.1, kept_columns),
        }
    }

    /// Plans the resampling of everything.
    pub(crate) fn whole(source_hw: (usize, usize), target_hw: (usize, usize)) -> Self {
        Self::new(source_hw, target_hw, 0..target_hw.0, 0..target_hw.1)
    }

    /// The same of the source mirrored left to right, which then need not be done.
    pub(crate) fn mirrored(mut self) -> Self {
        let last = self.source_width as u32 - 1;
        for tap in &mut self.columns {
            (tap.low, tap.high) = (last - tap.low, last - tap.high);
        }
        self
    }

    /// The source columns that are read, as few as hold them all.
    pub(crate) fn source_columns(&self) -> Range<usize> {
        let ends = || self.columns.iter().flat_map(Tap::ends);
        ends().min().unwrap_or(0)..ends().max().map_or(0, |last| last + 1)
    }

    /// Calls `emit(row, values)` for each kept row in order, `values` holding `CHANNELS` values
    /// per kept column. `source` is row by row with interleaved channels.
    pub(crate) fn for_each_row<const CHANNELS: usize, T: Copy + Into<f32>>(
        &self,
        source: &[T],
        mut emit: impl FnMut(usize, &[f32]),
    ) {
        let mut values = vec![0.0; self.columns.len() * CHANNELS];
        self.for_each_blend::<CHANNELS, T>(source, |row, blend| {
            values.iter_mut().zip(blend.values()).for_each(|(value, blended)| *value = blended);
            emit(row, &values);
        });
    }

    /// Calls `emit(row, blend)` for each kept row in order, with `CHANNELS` values per kept column.
    ///
    /// Compiled once more for processors with AVX2, `emit` included; the values are the same bits.
    pub(crate) fn for_each_blend<const CHANNELS: usize, T: Copy + Into<f32>>(
        &self,
        source: &[T],
        emit: impl FnMut(usize, Blend<'_>),
    ) {
        let mut source = Whole(source, self.source_width * CHANNELS);
        self.for_each_blend_of::<CHANNELS, T>(&mut source, emit)
            .expect("a source in memory has all its rows");
    }

    /// As [`Bilinear::for_each_blend`], of rows that come one after another; `None` where they end
    /// early.
    pub(crate) fn for_each_blend_of<const CHANNELS: usize, T: Copy + Into<f32>>(
        &self,
        source: &mut impl Rows<T>,
        emit: impl FnMut(usize, Blend<'_>),
    ) -> Option<()> {
        pulp::Arch::new().dispatch(
            // Without the attribute it is a call, into code for any processor.
            #[inline(always)]
            || self.blends::<CHANNELS, T>(source, emit),
        )
    }

    #[inline(always)]
    fn blends<const CHANNELS: usize, T: Copy + Into<f32>>(
        &self,
        source: &mut impl Rows<T>,
        mut emit: impl FnMut(usize, Blend<'_>),
    ) -> Option<()> {
        let length = self.columns.len() * CHANNELS;
        let mut stretch = Stretch::<CHANNELS>::new(&self.columns);
        // When enlarging, neighbouring target rows read the same two source rows: both are kept,
        // stretched to the target's width.
        let mut above = StretchedRow::new(length);
        let mut below = StretchedRow::new(length);
        for (row, tap) in self.rows.iter().enumerate() {
            let [low, high] = tap.ends();
            if above.index != low {
                std::mem::swap(&mut above, &mut below);
            }
            for (line, index) in [(&mut above, low), (&mut below, high)] {
                if line.index != index {
                    stretch.row(source.row(index)?, &mut line.values);
                    line.index = index;
                }
            }
            let (above, below) = (&above.values[..length], &below.values[..length]);
            emit(row, Blend { above, below, weight: tap.weight });
        }
        Some(())
    }
}

/// Stretches source rows to the target's width.
struct Stretch<'a, const CHANNELS: usize> {
    columns: &'a [Tap],
    /// First source column that is read.
    first: usize,
    /// The source columns that are read as float32, four to a pixel so that a pixel is one vector;
    /// empty when shrinking, which reads most of them once or never.
    wide: Vec<[f32; 4]>,
}

impl<'a, const CHANNELS: usize> Stretch<'a, CHANNELS> {
    fn new(columns: &'a [Tap]) -> Self {
        let ends = || columns.iter().flat_map(Tap::ends);
        let (first, last) = (ends().min().unwrap_or(0), ends().max().unwrap_or(0));
        let enlarges = CHANNELS > 1 && columns.len() > last - first;
        Self { columns, first, wide: vec![[0.0; 4]; if enlarges { last + 1 - first } else { 0 }] }
    }

    #[inline(always)]
    fn row<T: Copy + Into<f32>>(&mut self, pixels: &[T], values: &mut [f32]) {
        if self.wide.is_empty() {
            self.narrow_row(pixels, values);
            return;
        }
        let (pixels, _) = pixels.as_chunks::<CHANNELS>();
        for (wide, pixel) in self.wide.iter_mut().zip(&pixels[self.first..]) {
            for channel in 0..CHANNELS {
                wide[channel] = pixel[channel].into();
            }
        }
        for (index, tap) in self.columns.iter().enumerate() {
            let [low, high] = tap.ends().map(|column| self.wide[column - self.first]);
            // Four at once, of which the next pixel overwrites those beyond its own channels.
            values[index * CHANNELS..index * CHANNELS + 4]
                .copy_from_slice(&between(&low, &high, tap.weight));
        }
    }

    #[inline(always)]
    fn narrow_row<T: Copy + Into<f32>>(&self, pixels: &[T], values: &mut [f32]) {
        for (index, tap) in self.columns.iter().enumerate() {
            let [low, high] = tap.ends().map(|column| column * CHANNELS);
            let target = &mut values[index * CHANNELS..];
            let four = |at: usize| pixels[at..].first_chunk::<4>();
            match (four(low), four(high)) {
                // One vector, as above.
                (Some(low), Some(high)) if CHANNELS > 1 => {
                    target[..4].copy_from_slice(&between(low, high, tap.weight));
                }
                _ => {
                    for channel in 0..CHANNELS {
                        let (low, high) = (pixels[low + channel], pixels[high + channel]);
                        target[channel] = between(&[low], &[high], tap.weight)[0];
                    }
                }
            }
        }
    }
}

#[inline(always)]
fn between<const N: usize, T: Copy + Into<f32>>(
    low: &[T; N],
    high: &[T; N],
    weight: f32,
) -> [f32; N] {
    let (low, high): ([f32; N], [f32; N]) = (low.map(Into::into), high.map(Into::into));
    std::array::from_fn(|channel| low[channel] * (1.0 - weight) + high[channel] * weight)
}

/// A source row stretched to the target's width.
struct StretchedRow {
    index: usize,
    values: Vec<f32>,
}

impl StretchedRow {
    /// Room for four more values, because pixels are written four values at a time.
    fn new(length: usize) -> Self {
        Self { index: usize::MAX, values: vec![0.0; length + 4] }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn resize(source: &[u8], source_hw: (usize, usize), target_hw: (usize, usize)) -> Vec<f32> {
        let mut values = Vec::new();
        Bilinear::whole(source_hw, target_hw)
            .for_each_row::<1, u8>(source, |_, row| values.extend_from_slice(row));
        values
    }

    #[test]
    fn doubling_places_quarters() {
        // torch: F.interpolate(tensor([[[0., 4.]]]), 4, mode="linear") -> 0, 1, 3, 4
        assert_eq!(resize(&[0, 4], (1, 2), (1, 4)), [0.0, 1.0, 3.0, 4.0]);
    }

    #[test]
    fn shrinking_reads_two_pixels_only() {
        // Scale 4: the centre of the target lies between source pixels 1 and 2; 0 and 3 are unread.
        assert_eq!(resize(&[9, 2, 4, 9], (1, 4), (1, 1)), [3.0]);
    }

    #[test]
    fn the_kept_part_equals_that_part_of_the_whole() {
        let source: Vec<u8> = (0..35).map(|value| (value * 37 % 256) as u8).collect();
        let whole = resize(&source, (5, 7), (11, 13));
        let mut part = Vec::new();
        Bilinear::new((5, 7), (11, 13), 3..9, 4..10)
            .for_each_row::<1, u8>(&source, |_, row| part.extend_from_slice(row));
        let expected: Vec<f32> =
            (3..9).flat_map(|y| whole[y * 13 + 4..y * 13 + 10].to_vec()).collect();
        assert_eq!(part, expected);
    }

    /// The formula, value by value.
    fn plainly(
        source: &[u8],
        source_hw: (usize, usize),
        target_hw: (usize, usize),
        mirrored: bool,
    ) -> Vec<f32> {
        let (rows, columns) = (
            taps(source_hw.0, target_hw.0, 0..target_hw.0),
            taps(source_hw.1, target_hw.1, 0..target_hw.1),
        );
        let mut values = Vec::new();
        for row in &rows {
            for column in &columns {
                for channel in 0..3 {
                    let at = |y: usize, x: usize| {
                        let x = if mirrored { source_hw.1 - 1 - x } else { x };
                        f32::from(source[(y * source_hw.1 + x) * 3 + channel])
                    };
                    let across = |y: usize| {
                        let [low, high] = column.ends();
                        at(y, low) * (1.0 - column.weight) + at(y, high) * column.weight
                    };
                    let [low, high] = row.ends();
                    values.push(across(low) * (1.0 - row.weight) + across(high) * row.weight);
                }
            }
        }
        values
    }

    proptest! {
        #[test]
        fn every_way_to_the_values_gives_the_same_bits(
            height in 1_usize..20,
            width in 1_usize..20,
            target_hw in (1_usize..40, 1_usize..40),
            mirrored: bool,
            seed: u8,
        ) {
            let source: Vec<u8> =
                (0..height * width * 3).map(|at| (at * 89 + at * at + seed as usize) as u8).collect();
            let bilinear = Bilinear::whole((height, width), target_hw);
            let bilinear = if mirrored { bilinear.mirrored() } else { bilinear };
            let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
            let expected = bits(&plainly(&source, (height, width), target_hw, mirrored));
            let (mut fast, mut portable) = (Vec::new(), Vec::new());
            bilinear.for_each_blend::<3, u8>(&source, |_, blend| fast.extend(blend.values()));
            let mut rows = Whole(&source[..], width * 3);
            bilinear.blends::<3, u8>(&mut rows, |_, blend| portable.extend(blend.values()));
            prop_assert_eq!(bits(&fast), expected.clone());
            prop_assert_eq!(bits(&portable), expected);
        }
    }
}
