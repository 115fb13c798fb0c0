//! Horizontal flip and large-scale jitter: draw the parameters, then apply them.

use std::ops::Range;

use rand::{Rng, RngExt};

use crate::codec::{ImageRows, StoredMask};
use crate::raster::{Mask255, RgbRaster};
use crate::resample::{Bilinear, Blend};

/// What the published code pads images with, to the right and below; masks are padded with 0.
const IMAGE_PADDING: u8 = 128;

/// The horizontal flip. The published code flips half of the pairs, before the jitter.
pub struct Flip;

impl Flip {
    /// True with `probability` (clamped to 0..=1).
    pub fn draw(rng: &mut (impl Rng + ?Sized), probability: f64) -> bool {
        rng.random_bool(probability.clamp(0.0, 1.0))
    }
}

/// Mirrors both rasters left to right, in place.
pub fn flip_horizontal(image: &mut RgbRaster, mask: &mut Mask255) {
    for row in image.pixels.chunks_exact_mut(image.width.max(1) * 3) {
        row.as_chunks_mut::<3>().0.reverse();
    }
    for row in mask.pixels.chunks_exact_mut(mask.width.max(1)) {
        row.reverse();
    }
}

/// Large-scale jitter: the longer side becomes `output_size` times a random scale, then a crop or
/// padding makes the result a square of `output_size`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LargeScaleJitter {
    /// Side of the result in pixels; 1024 as published.
    pub output_size: usize,
    /// Lowest and highest scale; `[0.1, 2.0]` as published.
    pub scale_range: [f64; 2],
}

/// One draw of [`LargeScaleJitter`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct JitterParams {
    /// Longer side over `output_size`, before rounding.
    pub random_scale: f32,
    /// First row and first column of the crop within the scaled pair.
    pub crop_offset_yx: [usize; 2],
}

impl LargeScaleJitter {
    /// Draws a uniform scale and a uniform crop for a pair of `size_hw`.
    pub fn draw(&self, rng: &mut (impl Rng + ?Sized), size_hw: (usize, usize)) -> JitterParams {
        let [low, high] = self.scale_range;
        let random_scale = rng.random::<f32>() * (high - low) as f32 + low as f32;
        let (height, width) = self.scaled_size(random_scale, size_hw);
        let mut offset = |size: usize| rng.random_range(0..=size.saturating_sub(self.output_size));
        JitterParams { random_scale, crop_offset_yx: [offset(height), offset(width)] }
    }

    /// Height and width after scaling, before the crop: in float32 and rounding halves to even,
    /// as torch does, and at least 1.
    #[must_use]
    pub fn scaled_size(&self, random_scale: f32, size_hw: (usize, usize)) -> (usize, usize) {
        let longer_side = (random_scale * self.output_size as f32).round_ties_even();
        let (height, width) = (size_hw.0 as f32, size_hw.1 as f32);
        let scale = (longer_side / height).min(longer_side / width);
        let scaled = |side: f32| ((side * scale).round_ties_even() as usize).max(1);
        (scaled(height), scaled(width))
    }

    /// The pair scaled, cropped and padded to `output_size` squared. Resampling is bilinear
    /// without antialias; the image is truncated to 8 bits as published. The mask is rounded to 8 bits,
    /// where the published code keeps floats: of its values above 128, which are foreground, those up to
    /// 128.5 become background, and the loss sees all to within half a level of 255.
    /// Rows and columns outside the crop are not computed.
    #[must_use]
    pub fn apply(
        &self,
        params: &JitterParams,
        image: &RgbRaster,
        mask: &Mask255,
    ) -> (RgbRaster, Mask255) {
        let mut target = Target::new(self.output_size);
        self.apply_into(params, false, image, mask, &mut target.views());
        target.into_pair()
    }

    /// As [`LargeScaleJitter::apply`] on a pair that was first mirrored if `flip` says so, written
    /// over whatever is in `target`, whose side is `output_size`.
    ///
    /// The scaled size follows from the mask's, so that an image that was shrunk while it was
    /// decoded gives the same crop.
    pub fn apply_into(
        &self,
        params: &JitterParams,
        flip: bool,
        image: &RgbRaster,
        mask: &Mask255,
        target: &mut PairMut<'_>,
    ) {
        let part = self.part(params, (mask.height, mask.width));
        part.of_image(flip, image, target.image);
        part.of_mask(flip, mask, target.mask);
    }

    /// The mask of [`LargeScaleJitter::apply_into`] alone.
    pub fn apply_to_mask(
        &self,
        params: &JitterParams,
        flip: bool,
        mask: &Mask255,
        target: &mut [u8],
    ) {
        let part = self.part(params, (mask.height, mask.width));
        part.of_mask(flip, mask, target);
    }

    /// Which part of a pair of `size_hw` a draw keeps.
    #[must_use]
    pub fn part(&self, params: &JitterParams, size_hw: (usize, usize)) -> Part {
        let scaled = self.scaled_size(params.random_scale, size_hw);
        let kept = |offset: usize, scaled: usize| {
            offset.min(scaled)..(offset + self.output_size).min(scaled)
        };
        let [top, left] = params.crop_offset_yx;
        let (rows, columns) = (kept(top, scaled.0), kept(left, scaled.1));
        Part { side: self.output_size, scaled, rows, columns }
    }
}

/// An image and a mask of the same square size to be written: `side * side * 3` and `side * side`
/// values, row by row.
pub struct PairMut<'a> {
    /// Rows and columns.
    pub side: usize,
    /// Red, green, blue.
    pub image: &'a mut [u8],
    /// 0 is background, 255 is foreground.
    pub mask: &'a mut [u8],
}

/// The memory of a [`PairMut`].
struct Target {
    image: RgbRaster,
    mask: Mask255,
}

impl Target {
    fn new(side: usize) -> Self {
        Self {
            image: RgbRaster { height: side, width: side, pixels: vec![0; side * side * 3] },
            mask: Mask255 { height: side, width: side, pixels: vec![0; side * side] },
        }
    }

    fn views(&mut self) -> PairMut<'_> {
        let side = self.image.width;
        PairMut { side, image: &mut self.image.pixels, mask: &mut self.mask.pixels }
    }

    fn into_pair(self) -> (RgbRaster, Mask255) {
        (self.image, self.mask)
    }
}

/// The evaluation transform as published: both rasters stretched to `size` squared, whatever the
/// aspect, bilinear without antialias. The mask is rounded as by [`LargeScaleJitter::apply`].
#[must_use]
pub fn stretch(image: &RgbRaster, mask: &Mask255, size: usize) -> (RgbRaster, Mask255) {
    let mut target = Target::new(size);
    stretch_into(false, image, mask, &mut target.views());
    target.into_pair()
}

/// As [`stretch`] on a pair that was first mirrored if `flip` says so, written over whatever is in
/// `target`.
pub fn stretch_into(flip: bool, image: &RgbRaster, mask: &Mask255, target: &mut PairMut<'_>) {
    let whole = Part::stretched(target.side);
    whole.of_image(flip, image, target.image);
    whole.of_mask(flip, mask, target.mask);
}

/// What a pair is resized to, and which rows and columns of that come to the top left of a square
/// target, the rest of which is padding. Targets are `side * side` pixels, row by row.
#[derive(Clone, Debug)]
pub struct Part {
    side: usize,
    scaled: (usize, usize),
    rows: Range<usize>,
    columns: Range<usize>,
}

impl Part {
    /// The whole, stretched to a square of `side` pixels.
    #[must_use]
    pub fn stretched(side: usize) -> Self {
        Self { side, scaled: (side, side), rows: 0..side, columns: 0..side }
    }

    /// Height and width of the whole picture once it is resized.
    #[must_use]
    pub fn scaled_hw(&self) -> (usize, usize) {
        self.scaled
    }

    fn plan(&self, flip: bool, source_hw: (usize, usize)) -> Bilinear {
        let plan = Bilinear::new(source_hw, self.scaled, self.rows.clone(), self.columns.clone());
        if flip { plan.mirrored() } else { plan }
    }

    /// The part of an image that was first mirrored if `flip` says so, padded with grey.
    pub fn of_image(&self, flip: bool, image: &RgbRaster, target: &mut [u8]) {
        let plan = self.plan(flip, (image.height, image.width));
        plan.for_each_blend::<3, u8>(&image.pixels, |row, blend| {
            self.image_row(row, &blend, target);
        });
        self.pad_image(target);
    }

    /// [`Part::of_image`] of a file, of which no more is decoded than the part needs. False where
    /// the file is damaged; the target then holds anything.
    #[must_use]
    pub fn of_image_rows(&self, flip: bool, mut rows: ImageRows<'_>, target: &mut [u8]) -> bool {
        let plan = self.plan(flip, rows.size_hw());
        rows.keep_columns(plan.source_columns());
        let emit = |row, blend: Blend<'_>| self.image_row(row, &blend, target);
        let done = plan.for_each_blend_of::<3, u8>(&mut rows, emit);
        self.pad_image(target);
        done.is_some()
    }

    /// The part of a mask, padded with background; otherwise as [`Part::of_image`].
    pub fn of_mask(&self, flip: bool, mask: &Mask255, target: &mut [u8]) {
        let plan = self.plan(flip, (mask.height, mask.width));
        plan.for_each_blend::<1, u8>(&mask.pixels, |row, blend| {
            self.mask_row(row, &blend, target);
        });
        target[self.rows.len() * self.side..].fill(0);
    }

    /// [`Part::of_mask`] of a file, as [`Part::of_image_rows`].
    #[must_use]
    pub fn of_stored_mask(&self, flip: bool, mut mask: StoredMask<'_>, target: &mut [u8]) -> bool {
        let plan = self.plan(flip, mask.size_hw());
        let emit = |row, blend: Blend<'_>| self.mask_row(row, &blend, target);
        let done = plan.for_each_blend_of::<1, u8>(&mut mask, emit);
        target[self.rows.len() * self.side..].fill(0);
        done.is_some()
    }

    #[inline(always)]
    fn image_row(&self, row: usize, blend: &Blend<'_>, target: &mut [u8]) {
        let line = self.side * 3;
        let line = &mut target[row * line..(row + 1) * line];
        let (values, right) = line.split_at_mut(self.columns.len() * 3);
        truncate(blend.values(), values);
        right.fill(IMAGE_PADDING);
    }

    fn pad_image(&self, target: &mut [u8]) {
        target[self.rows.len() * self.side * 3..].fill(IMAGE_PADDING);
    }

    #[inline(always)]
    fn mask_row(&self, row: usize, blend: &Blend<'_>, target: &mut [u8]) {
        let line = &mut target[row * self.side..(row + 1) * self.side];
        let (values, right) = line.split_at_mut(self.columns.len());
        round(blend.values(), values);
        right.fill(0);
    }
}

/// Adding it to a float32 of 0 to 255 leaves the value, rounded to the nearest whole number (halves
/// to even), in the low bits. Unlike a cast, which saturates, this is two vector instructions.
const ROUNDING: f32 = (1_u32 << 23) as f32;

/// As `astype(uint8)`: drops the fraction. Values are 0 to 255.
#[inline(always)]
fn truncate(values: impl Iterator<Item = f32>, target: &mut [u8]) {
    for (target, value) in target.iter_mut().zip(values) {
        let nearest = (value + ROUNDING) - ROUNDING;
        let floor = if nearest > value { nearest - 1.0 } else { nearest };
        *target = (floor + ROUNDING).to_bits() as u8;
    }
}

/// To the nearest whole number. Values are 0 to 255.
#[inline(always)]
fn round(values: impl Iterator<Item = f32>, target: &mut [u8]) {
    for (target, value) in target.iter_mut().zip(values) {
        *target = (value + ROUNDING).to_bits() as u8;
    }
}

#[cfg(test)]
mod tests;
