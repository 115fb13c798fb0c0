//! File bytes to pixels: every odd mode is handled or refused here, and nowhere else.
//!
//! Images: JPEG and PNG of any mode become 8-bit RGB, turned upright by their EXIF orientation;
//! alpha is dropped (the colour under it is kept), grey is repeated, CMYK and YCCK are converted
//! (inverted, as Adobe writes them), 16 bits are scaled to 8. JPEG with arithmetic coding, with 12
//! bits or without loss, and any other format, is refused by name.
//!
//! The bytes of an image are stored as they are, so its orientation stays in its EXIF data: `height`
//! and `width` of a row are those of the upright picture. Hugging Face's `datasets` turns a picture
//! upright when it decodes one; with PIL alone call `ImageOps.exif_transpose`, or the picture lies
//! on its side under an upright mask. Masks are stored upright, without EXIF data.
//!
//! Masks: see [`decode_mask`].
//!
//! Any bytes give a result or a [`RejectReason`], never a panic or an allocation beyond what
//! [`DecodeLimits`] allows.

mod entropy;
mod jpeg;
mod mask;
mod palette;
mod png;
mod stored_mask;
mod strips;
mod turbo;

pub use self::mask::MaskValues;
pub use self::stored_mask::StoredMask;

use std::io::Cursor;
use std::ops::Range;

use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::error::{ImageError, LimitErrorKind};
use image::metadata::Orientation;
use image::{
    DynamicImage, ExtendedColorType, ImageDecoder, ImageEncoder, ImageFormat, ImageReader,
};

use crate::raster::{Mask255, RgbRaster};
use crate::resample::Rows;
use crate::verify::RejectReason;

/// What a file may hold. Both are looked at before anything is allocated: a small file may claim,
/// and unpack to, any number of pixels. A pixel takes 8 bytes at most while it is decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeLimits {
    /// Most pixels of an image or mask.
    pub max_pixels: u64,
    /// Most bytes of its file.
    pub max_file_bytes: u64,
}

impl Default for DecodeLimits {
    /// 200 million pixels and 256 MiB: the largest collections have pictures of about 30 million
    /// pixels and 20 MB.
    fn default() -> Self {
        Self { max_pixels: 200_000_000, max_file_bytes: 256 << 20 }
    }
}

impl DecodeLimits {
    /// No limits, for files that were judged before and are known by their digest.
    #[must_use]
    pub fn none() -> Self {
        Self { max_pixels: u64::MAX, max_file_bytes: u64::MAX }
    }

    /// Refuses a file of so many bytes; for callers that know the size before they read it.
    ///
    /// # Errors
    /// [`RejectReason::FileTooLarge`].
    pub fn check_file(&self, bytes: u64) -> Result<(), RejectReason> {
        if bytes <= self.max_file_bytes {
            return Ok(());
        }
        Err(RejectReason::FileTooLarge { bytes, max_file_bytes: self.max_file_bytes })
    }
}

/// Decodes a JPEG or PNG file to upright 8-bit RGB. The pixels of a JPEG file are those that
/// libjpeg-turbo gives.
///
/// # Errors
/// [`RejectReason`] `Unreadable`, `Truncated`, `Unsupported`, `TooLarge` or `FileTooLarge`.
pub fn decode_image(bytes: &[u8], limits: &DecodeLimits) -> Result<RgbRaster, RejectReason> {
    match turbo::Jpeg::open(bytes, limits).and_then(|jpeg| jpeg.decode()) {
        Some(image) => Ok(image),
        None => decode_any(bytes, limits),
    }
}

/// [`decode_image`] without turning the picture upright: its rows and columns are those of the file,
/// as in annotations that were made by a program that does not read EXIF data.
///
/// # Errors
/// As [`decode_image`].
pub fn decode_image_as_stored(
    bytes: &[u8],
    limits: &DecodeLimits,
) -> Result<RgbRaster, RejectReason> {
    match turbo::Jpeg::open(bytes, limits).and_then(|jpeg| jpeg.into_stored().decode()) {
        Some(image) => Ok(image),
        None => decode_as_stored(bytes, limits).map(|(image, _)| raster(image)),
    }
}

/// An image file of which the size is known before its pixels are decoded.
pub struct ImageFile<'a> {
    bytes: &'a [u8],
    limits: DecodeLimits,
    content: Content<'a>,
}

enum Content<'a> {
    Jpeg(Box<turbo::Jpeg<'a>>),
    Decoded(RgbRaster),
}

impl<'a> ImageFile<'a> {
    /// Reads the header of an ordinary JPEG file, and the whole of any other.
    ///
    /// # Errors
    /// As [`decode_image`].
    pub fn open(bytes: &'a [u8], limits: &DecodeLimits) -> Result<Self, RejectReason> {
        let content = match turbo::Jpeg::open(bytes, limits) {
            Some(jpeg) => Content::Jpeg(Box::new(jpeg)),
            None => Content::Decoded(decode_any(bytes, limits)?),
        };
        Ok(Self { bytes, limits: *limits, content })
    }

    /// Height and width of the whole upright picture.
    #[must_use]
    pub fn size_hw(&self) -> (usize, usize) {
        match &self.content {
            Content::Jpeg(jpeg) => jpeg.size_hw(),
            Content::Decoded(image) => (image.height, image.width),
        }
    }

    /// The rows of an ordinary JPEG file, decoded one after another and no further than they are
    /// asked for: the pixels of [`ImageFile::decode`], or with a size those of
    /// [`ImageFile::decode_scaled`]. `None` for files that can only be decoded whole.
    #[must_use]
    pub fn rows(&self, scaled_to_hw: Option<(usize, usize)>) -> Option<ImageRows<'a>> {
        match &self.content {
            Content::Jpeg(jpeg) => {
                let divisor = scaled_to_hw.map_or(1, |wanted| jpeg.divisor(wanted));
                jpeg.rows(divisor).map(ImageRows)
            }
            Content::Decoded(_) => None,
        }
    }

    /// All pixels: what [`decode_image`] gives.
    ///
    /// # Errors
    /// As [`decode_image`].
    pub fn decode(self) -> Result<RgbRaster, RejectReason> {
        match self.content {
            Content::Jpeg(jpeg) => match jpeg.decode() {
                Some(image) => Ok(image),
                None => decode_any(self.bytes, &self.limits),
            },
            Content::Decoded(image) => Ok(image),
        }
    }

    /// The picture, for a JPEG file shrunk while it is decoded: each side is divided (rounding up)
    /// by the greatest of 8, 4 and 2 that leaves both at least as long as in `wanted_hw`. Each
    /// pixel is then a mean of those it stands for, where [`ImageFile::decode`] followed by a
    /// resampling without antialias would read a few of them and skip the rest.
    ///
    /// # Errors
    /// As [`decode_image`].
    pub fn decode_scaled(self, wanted_hw: (usize, usize)) -> Result<RgbRaster, RejectReason> {
        match self.content {
            Content::Jpeg(mut jpeg) => match jpeg.decode_scaled(wanted_hw) {
                Some(image) => Ok(image),
                None => decode_any(self.bytes, &self.limits),
            },
            Content::Decoded(image) => Ok(image),
        }
    }
}

/// RGB rows of a file, see [`ImageFile::rows`].
pub struct ImageRows<'a>(strips::Strips<'a>);

impl ImageRows<'_> {
    /// Height and width of the picture, shrunk if so.
    #[must_use]
    pub fn size_hw(&self) -> (usize, usize) {
        self.0.size_hw()
    }

    /// Leaves the pixels of all other columns undefined.
    pub(crate) fn keep_columns(&mut self, columns: Range<usize>) {
        self.0.keep_columns(columns);
    }
}

impl Rows<u8> for ImageRows<'_> {
    fn row(&mut self, index: usize) -> Option<&[u8]> {
        self.0.row(index)
    }
}

fn decode_any(bytes: &[u8], limits: &DecodeLimits) -> Result<RgbRaster, RejectReason> {
    decode(bytes, limits).map(raster)
}

fn raster(image: DynamicImage) -> RgbRaster {
    let pixels = image.into_rgb8();
    let (width, height) = (pixels.width() as usize, pixels.height() as usize);
    RgbRaster { height, width, pixels: pixels.into_raw() }
}

/// Decodes a JPEG or PNG file to an upright mask, 0 background to 255 foreground.
///
/// - Colour masks are read by their luma, 1-bit and grey ones as they are; alpha is ignored, unless it
///   alone carries the shape (the luma is constant and alpha varies).
/// - A PNG whose pixels are numbers of palette colours, at most 32 of them shown, is a map of object
///   ids, as of PASCAL VOC: entry 0 is background, and so is entry 255, the undecided border, beside
///   other objects. Palettes of greys, and black and white alone, are read by their luma.
/// - 16-bit masks whose values do not exceed 255 keep them; others are scaled to 8 bits.
/// - A mask whose greatest value is below 128 (of 16-bit ones: below half of all values) and that
///   has at most 32 different values is a map of object ids (or 0/1): every non-zero value becomes
///   255. Under the published cut at 128 such a mask would be empty.
///
/// * A coloured picture is no mask, unless it is a cut-out: then its alpha channel is.
///
/// # Errors
/// As [`decode_image`], and [`RejectReason::Picture`].
pub fn decode_mask(bytes: &[u8], limits: &DecodeLimits) -> Result<Mask255, RejectReason> {
    decode_mask_as(bytes, limits, MaskValues::Auto)
}

/// [`decode_mask`] for a collection of which it is known what its mask values mean.
///
/// # Errors
/// As [`decode_image`], and [`RejectReason::NoAlpha`].
pub fn decode_mask_as(
    bytes: &[u8],
    limits: &DecodeLimits,
    values: MaskValues,
) -> Result<Mask255, RejectReason> {
    mask::from_decoded(decode(bytes, limits)?, png::palette(bytes), values)
}

/// The mask as 8-bit grey PNG, lossless, the same bytes each time.
///
/// Rows are stored as differences from the row above and packed by a compressor that only looks
/// for runs of zeros: written thirty times as fast as with ordinary compression and read no slower,
/// for about twice the bytes, which are one in fifty beside the image's.
#[must_use]
pub fn encode_mask_png(mask: &Mask255) -> Vec<u8> {
    let mut bytes = Vec::new();
    let encoder = PngEncoder::new_with_quality(&mut bytes, CompressionType::Fast, FilterType::Up);
    encoder
        .write_image(&mask.pixels, mask.width as u32, mask.height as u32, ExtendedColorType::L8)
        .expect("a Vec takes every byte, and a mask has width * height of them");
    bytes
}

fn decode(bytes: &[u8], limits: &DecodeLimits) -> Result<DynamicImage, RejectReason> {
    let (mut image, orientation) = decode_as_stored(bytes, limits)?;
    image.apply_orientation(orientation);
    Ok(image)
}

/// The picture as it lies in the file, and how it is turned upright.
fn decode_as_stored(
    bytes: &[u8],
    limits: &DecodeLimits,
) -> Result<(DynamicImage, Orientation), RejectReason> {
    limits.check_file(bytes.len() as u64)?;
    let reader = ImageReader::new(Cursor::new(bytes))
        .with_guessed_format()
        .map_err(|error| unreadable(&error))?;
    match reader.format() {
        Some(ImageFormat::Jpeg) => jpeg::check(bytes)?,
        Some(ImageFormat::Png) => png::check(bytes)?,
        Some(other) => {
            return Err(RejectReason::Unsupported { detail: format!("{other:?} file") });
        }
        None => {
            return Err(RejectReason::Unreadable { detail: "neither JPEG nor PNG".to_owned() });
        }
    }
    let mut decoder = reader.into_decoder().map_err(reject)?;
    let (width, height) = decoder.dimensions();
    let (height, width) = (u64::from(height), u64::from(width));
    if height * width > limits.max_pixels {
        return Err(RejectReason::TooLarge { height, width, max_pixels: limits.max_pixels });
    }
    if height * width == 0 {
        return Err(RejectReason::Unreadable { detail: "no pixels".to_owned() });
    }
    let orientation = decoder.orientation().map_err(reject)?;
    Ok((DynamicImage::from_decoder(decoder).map_err(reject)?, orientation))
}

fn unreadable(error: &dyn std::error::Error) -> RejectReason {
    RejectReason::Unreadable { detail: error.to_string() }
}

fn reject(error: ImageError) -> RejectReason {
    match &error {
        ImageError::Unsupported(unsupported) => {
            RejectReason::Unsupported { detail: unsupported.to_string() }
        }
        ImageError::Limits(limit) if limit.kind() == LimitErrorKind::DimensionError => {
            RejectReason::Unsupported { detail: limit.to_string() }
        }
        ImageError::IoError(source) if source.kind() == std::io::ErrorKind::UnexpectedEof => {
            RejectReason::Truncated
        }
        _ => unreadable(&error),
    }
}
