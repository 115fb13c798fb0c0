//! Pixels of JPEG files, the very ones libjpeg-turbo gives: the published code reads with it.
//!
//! Only what libjpeg-turbo decodes to its end is taken here. Everything else (CMYK, damaged
//! or cut files) is left to the general decoder of the parent module, which says what is wrong.

use image::metadata::Orientation;
use image::{DynamicImage, RgbImage};
use libjpeg_turbo_rs::{
    ColorSpace, DecodeLimits as TurboLimits, Decoder, PixelFormat, ScalingFactor,
};

use super::strips::Strips;
use super::{DecodeLimits, jpeg};
use crate::raster::RgbRaster;
use crate::resample::Rows;

/// By what a scaled decode may divide the sides, greatest first: those with fast transforms.
const DIVISORS: [usize; 3] = [8, 4, 2];
/// Scans of a progressive file. Real ones have about ten.
const MAX_SCANS: usize = 500;

/// A JPEG file whose header is read.
pub(super) struct Jpeg<'a> {
    bytes: &'a [u8],
    decoder: Decoder<'a>,
    orientation: Orientation,
}

impl<'a> Jpeg<'a> {
    /// `None` for what is left to the general decoder.
    pub(super) fn open(bytes: &'a [u8], limits: &DecodeLimits) -> Option<Self> {
        if !bytes.starts_with(&[0xFF, 0xD8, 0xFF]) || limits.check_file(bytes.len() as u64).is_err()
        {
            return None;
        }
        // A whole file ends with its end marker, most of the time; a cut one that happens to end
        // like that lacks blocks, which the decoder notices. The walk is for files with a tail.
        let checked = match bytes.ends_with(&[0xFF, 0xD9]) {
            true => jpeg::check_headers(bytes),
            false => jpeg::check(bytes),
        };
        checked.ok()?;
        let limits = TurboLimits {
            max_pixels: limits.max_pixels,
            max_scans: MAX_SCANS,
            ..TurboLimits::default()
        };
        let mut decoder = Decoder::new_with_limits(bytes, limits).ok()?;
        let frame = decoder.header();
        let usual = frame.precision == 8 && !frame.is_lossless;
        let colours = frame.components.len();
        let empty = frame.width == 0 || frame.height == 0;
        let pixels = u64::from(frame.width) * u64::from(frame.height);
        if !usual || !matches!(colours, 1 | 3) || empty || pixels > limits.max_pixels {
            return None;
        }
        decoder.set_output_format(PixelFormat::Rgb);
        let orientation = decoder.exif_orientation().and_then(Orientation::from_exif);
        let orientation = orientation.unwrap_or(Orientation::NoTransforms);
        Some(Self { bytes, decoder, orientation })
    }

    /// The same file without what its EXIF data say of its orientation.
    pub(super) fn into_stored(self) -> Self {
        Self { orientation: Orientation::NoTransforms, ..self }
    }

    /// Height and width of the upright picture.
    pub(super) fn size_hw(&self) -> (usize, usize) {
        let frame = self.decoder.header();
        self.upright((frame.height.into(), frame.width.into()))
    }

    /// All pixels, upright.
    pub(super) fn decode(&self) -> Option<RgbRaster> {
        self.rows(1).and_then(whole).or_else(|| {
            let decoded = self.decoder.decode_image().ok()?;
            self.raster(decoded.width, decoded.height, decoded.data)
        })
    }

    /// The picture shrunk, while decoding, by [`Jpeg::divisor`].
    pub(super) fn decode_scaled(&mut self, wanted_hw: (usize, usize)) -> Option<RgbRaster> {
        let divisor = self.divisor(wanted_hw);
        if let Some(image) = self.rows(divisor).and_then(whole) {
            return Some(image);
        }
        self.decoder.set_scale(ScalingFactor::try_new(1, divisor as u32).ok()?);
        let decoded = self.decoder.decode_image().ok();
        self.decoder.set_scale(ScalingFactor::default());
        decoded.and_then(|decoded| self.raster(decoded.width, decoded.height, decoded.data))
    }

    /// The rows of a picture that is stored upright and sequentially, shrunk by `divisor`.
    pub(super) fn rows(&self, divisor: usize) -> Option<Strips<'a>> {
        let plain = self.orientation == Orientation::NoTransforms
            && self.decoder.jpeg_color_space() == ColorSpace::YCbCr;
        if plain { Strips::open(self.bytes, divisor) } else { None }
    }

    /// The greatest of 8, 4 and 2 that leaves both sides at least `wanted_hw` long when they are
    /// divided by it; 1 where none does.
    pub(super) fn divisor(&self, wanted_hw: (usize, usize)) -> usize {
        let full = self.size_hw();
        let long_enough = |divisor: &usize| {
            full.0.div_ceil(*divisor) >= wanted_hw.0 && full.1.div_ceil(*divisor) >= wanted_hw.1
        };
        DIVISORS.into_iter().find(long_enough).unwrap_or(1)
    }

    fn raster(&self, width: usize, height: usize, pixels: Vec<u8>) -> Option<RgbRaster> {
        if self.orientation == Orientation::NoTransforms {
            return Some(RgbRaster { height, width, pixels });
        }
        let mut image =
            DynamicImage::from(RgbImage::from_raw(width as u32, height as u32, pixels)?);
        image.apply_orientation(self.orientation);
        let (height, width) = (image.height() as usize, image.width() as usize);
        Some(RgbRaster { height, width, pixels: image.into_rgb8().into_raw() })
    }

    fn upright(&self, (height, width): (usize, usize)) -> (usize, usize) {
        match self.orientation {
            Orientation::Rotate90
            | Orientation::Rotate270
            | Orientation::Rotate90FlipH
            | Orientation::Rotate270FlipH => (width, height),
            _ => (height, width),
        }
    }
}

/// All rows; `None` where the scan is damaged.
fn whole(mut rows: Strips<'_>) -> Option<RgbRaster> {
    let (height, width) = rows.size_hw();
    let mut pixels = Vec::new();
    pixels.try_reserve_exact(height * width * 3).ok()?;
    for y in 0..height {
        pixels.extend_from_slice(rows.row(y)?);
    }
    Some(RgbRaster { height, width, pixels })
}
