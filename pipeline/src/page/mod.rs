//! What the HTML reports share: their style, and small pictures with outlines.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dataset::raster::{Mask255, RgbRaster};
use image::codecs::jpeg::JpegEncoder;
use image::imageops::{FilterType, resize, thumbnail};
use image::{ImageBuffer, ImageResult, Luma, Rgb, RgbImage};

/// Style sheet of the pages, light and dark.
pub const STYLE: &str = include_str!("style.css");

const JPEG_QUALITY: u8 = 80;

/// The image with its longest side at most `longest_side` pixels; `None` for an image without
/// pixels.
#[must_use]
pub fn shrink(image: &RgbRaster, longest_side: u32) -> Option<RgbImage> {
    let (height, width) = (image.height as u32, image.width as u32);
    let whole = ImageBuffer::<Rgb<u8>, &[u8]>::from_raw(width, height, &image.pixels)?;
    if width == 0 || height == 0 {
        return None;
    }
    let scale = (f64::from(longest_side) / f64::from(width.max(height))).min(1.0);
    let side = |length: u32| ((f64::from(length) * scale).round() as u32).max(1);
    Some(thumbnail(&whole, side(width), side(height)))
}

/// Draws the outline of a mask of any size over a picture of the same scene. Two pixels wide: one
/// gets lost when a browser scales the picture.
pub fn draw_outline(picture: &mut RgbImage, mask: &Mask255, color: Rgb<u8>) {
    let (width, height) = picture.dimensions();
    let (mask_width, mask_height) = (mask.width as u32, mask.height as u32);
    let pixels = mask.pixels.as_slice();
    let Some(whole) = ImageBuffer::<Luma<u8>, &[u8]>::from_raw(mask_width, mask_height, pixels)
    else {
        return;
    };
    let small = resize(&whole, width, height, FilterType::Nearest).into_raw();
    let small = Mask255 { height: height as usize, width: width as usize, pixels: small };
    let outline = small.outline();
    let at = |x: u32, y: u32| outline[(y * width + x) as usize];
    for y in 0..height {
        for x in 0..width {
            if at(x, y) || (x > 0 && at(x - 1, y)) || (y > 0 && at(x, y - 1)) {
                picture.put_pixel(x, y, color);
            }
        }
    }
}

/// The picture as a JPEG file.
///
/// # Errors
/// A picture that the format cannot hold.
pub fn jpeg(picture: &RgbImage) -> ImageResult<Vec<u8>> {
    let mut jpeg = Vec::new();
    JpegEncoder::new_with_quality(&mut jpeg, JPEG_QUALITY).encode_image(picture)?;
    Ok(jpeg)
}

/// A JPEG file as the source of an `img` element.
#[must_use]
pub fn jpeg_uri(jpeg: &[u8]) -> String {
    format!("data:image/jpeg;base64,{}", STANDARD.encode(jpeg))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outlines_of_larger_masks_fit_the_picture() {
        let image = RgbRaster { height: 80, width: 160, pixels: vec![9; 80 * 160 * 3] };
        let mut picture = shrink(&image, 40).unwrap();
        assert_eq!(picture.dimensions(), (40, 20));
        let inside = |at: usize| (20..60).contains(&(at / 160)) && (40..120).contains(&(at % 160));
        let pixels = (0..80 * 160).map(|at| if inside(at) { 255 } else { 0 }).collect();
        let color = Rgb([255, 0, 160]);
        draw_outline(&mut picture, &Mask255 { height: 80, width: 160, pixels }, color);
        assert_eq!(*picture.get_pixel(10, 10), color);
        assert_eq!(*picture.get_pixel(20, 10), Rgb([9; 3]));
        assert_eq!(*picture.get_pixel(2, 2), Rgb([9; 3]));
        assert!(jpeg_uri(&jpeg(&picture).unwrap()).starts_with("data:image/jpeg;base64,/9j/"));
        let nothing = RgbRaster { height: 0, width: 0, pixels: Vec::new() };
        assert!(shrink(&nothing, 40).is_none());
    }
}
