//! Images at the size of the encoder's input, with the arithmetic of PIL's bilinear filter: a
//! difference of one in a few pixels moves logits by a hundredth.

use dataset::raster::RgbRaster;

use super::PredictError;

/// Fractional bits of the weights, PIL's `PRECISION_BITS`.
const PRECISION_BITS: u32 = 22;
const CHANNELS: usize = 3;

/// `ResizeLongestSide`: the longest side becomes `img_size`, sizes rounded half up, through the
/// antialiased bilinear filter that PIL applies.
pub(super) fn resize_longest_side(
    image: &RgbRaster,
    img_size: usize,
) -> Result<RgbRaster, PredictError> {
    if image.height == 0 || image.width == 0 {
        return Err(PredictError::Prompt("the image has no pixels".into()));
    }
    let (height, width) = input_size((image.height, image.width), img_size);
    let mut pixels = image.pixels.clone();
    if width != image.width {
        pixels = columns(&pixels, image.width, width);
    }
    if height != image.height {
        pixels = rows(&pixels, width, image.height, height);
    }
    Ok(RgbRaster { height, width, pixels })
}

/// Height and width of a `height` x `width` image whose longest side became `img_size`.
pub(super) fn input_size((height, width): (usize, usize), img_size: usize) -> (usize, usize) {
    let scale = img_size as f64 / height.max(width) as f64;
    let side = |length: usize| ((length as f64 * scale + 0.5) as usize).max(1);
    (side(height), side(width))
}

/// What an output pixel is made of along one axis: the first input pixel and the weights from there.
struct Window {
    first: usize,
    weights: Vec<i32>,
}

/// PIL's `precompute_coeffs` and `normalize_coeffs_8bpc` for its bilinear filter.
fn windows(from: usize, to: usize) -> Vec<Window> {
    let scale = from as f64 / to as f64;
    // A filter that shrinks covers all input pixels; one that enlarges, two.
    let support = scale.max(1.0);
    let window = |index: usize| {
        let center = (index as f64 + 0.5) * scale;
        // Conversions cut towards zero and at zero, as in C after its own check.
        let first = (center - support + 0.5) as usize;
        let end = ((center + support + 0.5) as usize).min(from);
        let weight = |at: usize| (1.0 - ((at as f64 - center + 0.5) / support).abs()).max(0.0);
        let total: f64 = (first..end).map(weight).sum();
        let one = f64::from(1 << PRECISION_BITS);
        let weights = (first..end).map(|at| (0.5 + weight(at) / total * one) as i32).collect();
        Window { first, weights }
    };
    (0..to).map(window).collect()
}

/// Rounded to the nearest 8-bit value.
fn rounded(sum: i32) -> u8 {
    ((sum + (1 << (PRECISION_BITS - 1))) >> PRECISION_BITS).clamp(0, 255) as u8
}

fn columns(pixels: &[u8], from: usize, to: usize) -> Vec<u8> {
    let windows = windows(from, to);
    let mut resized = Vec::with_capacity(pixels.len() / from * to);
    for row in pixels.chunks_exact(from * CHANNELS) {
        for Window { first, weights } in &windows {
            let mut sums = [0; CHANNELS];
            let inputs = row[first * CHANNELS..].chunks_exact(CHANNELS);
            for (pixel, weight) in inputs.zip(weights) {
                for (sum, value) in sums.iter_mut().zip(pixel) {
                    *sum += i32::from(*value) * weight;
                }
            }
            resized.extend(sums.map(rounded));
        }
    }
    resized
}

fn rows(pixels: &[u8], width: usize, from: usize, to: usize) -> Vec<u8> {
    let length = width * CHANNELS;
    let mut resized = Vec::with_capacity(length * to);
    let mut sums = vec![0; length];
    for Window { first, weights } in windows(from, to) {
        sums.fill(0);
        for (row, weight) in pixels[first * length..].chunks_exact(length).zip(&weights) {
            for (sum, value) in sums.iter_mut().zip(row) {
                *sum += i32::from(*value) * weight;
            }
        }
        resized.extend(sums.iter().copied().map(rounded));
    }
    resized
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
        let empty = RgbRaster { height: 0, width: 4, pixels: Vec::new() };
        assert!(resize_longest_side(&empty, 1024).is_err());
    }
}
