//! Bilinear resampling as `torch.nn.functional.interpolate(mode="bilinear", align_corners=False)`
//! without antialias computes it, restricted to the part of the target that is kept.

use std::ops::Range;

/// Where one target index reads: `low * (1 - weight) + high * weight`.
#[derive(Clone, Copy)]
struct Tap {
    low: usize,
    high: usize,
    weight: f32,
}

/// The taps of the target indices `kept` when `source` values are resampled to `target` values.
fn taps(source: usize, target: usize, kept: Range<usize>) -> Vec<Tap> {
    let scale = source as f32 / target as f32;
    kept.map(|index| {
        // Half-pixel centres, clamped at the first pixel, in float32 as in torch.
        let position = (scale * (index as f32 + 0.5) - 0.5).max(0.0);
        let low = (position as usize).min(source - 1);
        let high = (low + 1).min(source - 1);
        Tap { low, high, weight: (position - low as f32).clamp(0.0, 1.0) }
    })
    .collect()
}

/// One resampling: a source of `source_hw`, thought of as resized to `target_hw`, of which only
/// `kept_rows` and `kept_columns` are computed.
pub(crate) struct Bilinear {
    source_width: usize,
    rows: Vec<Tap>,
    columns: Vec<Tap>,
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

    /// Calls `emit(row, values)` for each kept row in order, `values` holding `CHANNELS` values
    /// per kept column. `source` is row by row with interleaved channels.
    ///
    /// Compiled once more for processors with AVX2, `emit` included; the values are the same bits.
    pub(crate) fn for_each_row<const CHANNELS: usize, T: Copy + Into<f32>>(
        &self,
        source: &[T],
        emit: impl FnMut(usize, &[f32]),
    ) {
        pulp::Arch::new().dispatch(|| self.rows::<CHANNELS, T>(source, emit));
    }

    #[inline(always)]
    fn rows<const CHANNELS: usize, T: Copy + Into<f32>>(
        &self,
        source: &[T],
        mut emit: impl FnMut(usize, &[f32]),
    ) {
        let length = self.columns.len() * CHANNELS;
        // When enlarging, neighbouring target rows read the same two source rows: both are kept,
        // stretched to the target's width.
        let mut above = StretchedRow { index: usize::MAX, values: vec![0.0; length] };
        let mut below = StretchedRow { index: usize::MAX, values: vec![0.0; length] };
        let mut blended = vec![0.0; length];
        for (row, tap) in self.rows.iter().enumerate() {
            if above.index != tap.low {
                std::mem::swap(&mut above, &mut below);
            }
            for (line, index) in [(&mut above, tap.low), (&mut below, tap.high)] {
                if line.index != index {
                    let from = index * self.source_width * CHANNELS;
                    let pixels = &source[from..from + self.source_width * CHANNELS];
                    self.stretch_row::<CHANNELS, T>(pixels, &mut line.values);
                    line.index = index;
                }
            }
            let (low, high) = (1.0 - tap.weight, tap.weight);
            for ((value, above), below) in blended.iter_mut().zip(&above.values).zip(&below.values)
            {
                *value = above * low + below * high;
            }
            emit(row, &blended);
        }
    }

    #[inline(always)]
    fn stretch_row<const CHANNELS: usize, T: Copy + Into<f32>>(
        &self,
        pixels: &[T],
        values: &mut [f32],
    ) {
        let (pixels, _) = pixels.as_chunks::<CHANNELS>();
        let (values, _) = values.as_chunks_mut::<CHANNELS>();
        for (value, tap) in values.iter_mut().zip(&self.columns) {
            let (low, high) = (&pixels[tap.low], &pixels[tap.high]);
            for channel in 0..CHANNELS {
                let (low, high): (f32, f32) = (low[channel].into(), high[channel].into());
                value[channel] = low * (1.0 - tap.weight) + high * tap.weight;
            }
        }
    }
}

/// A source row stretched to the target's width.
struct StretchedRow {
    index: usize,
    values: Vec<f32>,
}

#[cfg(test)]
mod tests {
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
}
