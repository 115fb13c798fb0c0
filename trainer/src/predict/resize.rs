//! Images at the size of the encoder's input.

use dataset::raster::RgbRaster;
use fast_image_resize as fir;

use super::PredictError;

/// `ResizeLongestSide`: the longest side becomes `img_size`, sizes rounded half up, through the
/// antialiased bilinear filter that PIL applies.
pub(super) fn resize_longest_side(
    image: &RgbRaster,
    img_size: usize,
) -> Result<RgbRaster, PredictError> {
    let (height, width) = input_size((image.height, image.width), img_size);
    if (height, width) == (image.height, image.width) {
        return Ok(image.clone());
    }
    let problem = |error: &dyn std::fmt::Display| {
        PredictError::Prompt(format!("the image cannot be resized: {error}"))
    };
    let source = fir::images::ImageRef::new(
        image.width as u32,
        image.height as u32,
        &image.pixels,
        fir::PixelType::U8x3,
    )
    .map_err(|error| problem(&error))?;
    let mut target = fir::images::Image::new(width as u32, height as u32, fir::PixelType::U8x3);
    let options = fir::ResizeOptions::new()
        .resize_alg(fir::ResizeAlg::Convolution(fir::FilterType::Bilinear));
    fir::Resizer::new().resize(&source, &mut target, &options).map_err(|error| problem(&error))?;
    Ok(RgbRaster { height, width, pixels: target.into_vec() })
}

/// Height and width of a `height` x `width` image whose longest side became `img_size`.
pub(super) fn input_size((height, width): (usize, usize), img_size: usize) -> (usize, usize) {
    let scale = img_size as f64 / height.max(width) as f64;
    let side = |length: usize| ((length as f64 * scale + 0.5) as usize).max(1);
    (side(height), side(width))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longest_side_becomes_the_input_size() {
        let image = RgbRaster { height: 300, width: 400, pixels: vec![7; 300 * 400 * 3] };
        let resized = resize_longest_side(&image, 1024).unwrap();
        assert_eq!((resized.height, resized.width), (768, 1024));
        assert!(resized.pixels.iter().all(|&value| value == 7));
    }
}
