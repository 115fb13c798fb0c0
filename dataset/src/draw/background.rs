//! What lies behind the object, and what the object is made of.

use std::f32::consts::TAU;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use tiny_skia::{Mask, Transform};

use super::outline::{Outline, Point, away, ellipse};
use crate::resample::Bilinear;

type Color = [f32; 3];

/// A textured background with other things in it, row by row, values 0 to 255.
pub(super) fn paint(rng: &mut ChaCha8Rng, size_hw: (usize, usize)) -> Vec<Color> {
    let (first, second) = (color(rng), color(rng));
    let texture = match rng.random_range(0..3) {
        0 => noise(rng, size_hw, 4),
        1 => stripes(rng, size_hw),
        _ => blobs(rng, size_hw),
    };
    let grain = noise(rng, size_hw, 7);
    let strength = rng.random_range(10.0..50.0);
    let mut pixels: Vec<Color> = texture
        .iter()
        .zip(&grain)
        .map(|(share, grain)| shade(mix(first, second, *share), (grain - 0.5) * strength))
        .collect();
    for _ in 0..rng.random_range(4..11) {
        let outline = distraction(rng);
        let color = if rng.random() { color(rng) } else { mix(first, second, rng.random()) };
        cover_with(rng, &mut pixels, size_hw, &outline, color);
    }
    pixels
}

/// What an object is made of: two related colors under a gradient and fine noise, at least
/// `min_contrast` away from `behind` in RGB.
pub(super) fn material(
    rng: &mut ChaCha8Rng,
    (height, width): (usize, usize),
    behind: Color,
    min_contrast: f32,
) -> Vec<Color> {
    let distance =
        |a: Color| a.iter().zip(behind).map(|(a, b)| (a - b) * (a - b)).sum::<f32>().sqrt();
    let mut first = color(rng);
    while distance(first) < min_contrast * 1.4 {
        first = color(rng);
    }
    let mut second = mix(first, color(rng), 0.35);
    if distance(second) < min_contrast {
        second = first;
    }
    let angle = rng.random_range(0.0..TAU);
    let texture = noise(rng, (height, width), 6);
    let strength = rng.random_range(8.0..40.0);
    (0..height * width)
        .map(|at| {
            let (x, y) = ((at % width) as f32 / width as f32, (at / width) as f32 / height as f32);
            let share = 0.5 + (x - 0.5) * angle.cos() + (y - 0.5) * angle.sin();
            shade(mix(first, second, share.clamp(0.0, 1.0)), (texture[at] - 0.5) * strength)
        })
        .collect()
}

fn color(rng: &mut ChaCha8Rng) -> Color {
    // Half of what a camera sees is close to grey.
    let grey = rng.random_range(20.0..235.0_f32);
    let chroma = if rng.random() { 25.0 } else { 90.0 };
    [(); 3].map(|()| (grey + rng.random_range(-chroma..chroma)).clamp(5.0, 250.0))
}

fn mix(first: Color, second: Color, share: f32) -> Color {
    std::array::from_fn(|channel| first[channel] + (second[channel] - first[channel]) * share)
}

fn shade(color: Color, by: f32) -> Color {
    color.map(|channel| (channel + by).clamp(0.0, 255.0))
}

/// Value noise: random grids of growing fineness, resampled and added with shrinking weight;
/// values 0 to 1. `octaves` of 7 reach grains of a few pixels.
fn noise(rng: &mut ChaCha8Rng, size_hw: (usize, usize), octaves: u32) -> Vec<f32> {
    let mut values = vec![0.0; size_hw.0 * size_hw.1];
    let mut total = 0.0;
    for octave in 0..octaves {
        let cells = 3 << octave;
        let weight = 0.62_f32.powi(octave as i32);
        total += weight;
        let grid: Vec<f32> = (0..cells * cells).map(|_| rng.random()).collect();
        Bilinear::whole((cells, cells), size_hw).for_each_row::<1, f32>(&grid, |row, line| {
            for (value, noise) in values[row * size_hw.1..].iter_mut().zip(line) {
                *value += noise * weight;
            }
        });
    }
    values.iter_mut().for_each(|value| *value /= total);
    values
}

/// Bands with wavering edges: boards, grass, cloth; values 0 to 1.
fn stripes(rng: &mut ChaCha8Rng, (height, width): (usize, usize)) -> Vec<f32> {
    let (sin, cos) = rng.random_range(0.0..TAU).sin_cos();
    let period = rng.random_range(8.0..60.0_f32);
    let sharpness = rng.random_range(1.0..6.0_f32);
    let waver = noise(rng, (height, width), 3);
    let reach = rng.random_range(0.5..4.0) * period;
    (0..height * width)
        .map(|at| {
            let along = (at % width) as f32 * cos + (at / width) as f32 * sin + waver[at] * reach;
            (0.5 + (along / period * TAU).sin() * sharpness * 0.5).clamp(0.0, 1.0)
        })
        .collect()
}

/// Patches with hard edges: foliage, stones; values 0 to 1.
fn blobs(rng: &mut ChaCha8Rng, size_hw: (usize, usize)) -> Vec<f32> {
    let octaves = rng.random_range(3..6);
    let steps = rng.random_range(2.0..6.0_f32);
    let mut values = noise(rng, size_hw, octaves);
    values.iter_mut().for_each(|value| {
        *value = ((*value * 2.4 - 0.7).clamp(0.0, 1.0) * steps).round() / steps;
    });
    values
}

/// Something that is no part of the object: lines, frames, discs, splinters.
fn distraction(rng: &mut ChaCha8Rng) -> Outline {
    let mut outline = Outline::default();
    let point = |rng: &mut ChaCha8Rng| [rng.random_range(-1.0..1.0), rng.random_range(-1.0..1.0)];
    match rng.random_range(0..6) {
        0 => {
            let width = rng.random_range(0.01..0.12);
            outline.line(
                [-1.5, rng.random_range(-1.0..1.0)],
                [1.5, rng.random_range(-1.0..1.0)],
                width,
            );
        }
        1 => {
            let (from, bend, to) = (point(rng), point(rng), point(rng));
            outline.curve(from, bend, to, rng.random_range(0.008..0.05));
        }
        2 => {
            let axes = [rng.random_range(0.05..0.4), rng.random_range(0.05..0.4)];
            outline.polygon(&ellipse(point(rng), axes, rng.random_range(0.0..TAU)));
        }
        3 => outline.ring(point(rng), rng.random_range(0.1..0.5), rng.random_range(0.01..0.05)),
        4 => {
            let center = point(rng);
            let corners: Vec<Point> = (0..rng.random_range(3..6))
                .map(|corner| {
                    let angle = corner as f32 * 1.3 + rng.random_range(-0.4..0.4);
                    away(center, angle, rng.random_range(0.08..0.45))
                })
                .collect();
            outline.polygon(&corners);
        }
        _ => {
            let start = point(rng);
            for line in 0..rng.random_range(3..9) {
                let y = start[1] + line as f32 * 0.09;
                outline.line([start[0], y], [start[0] + 0.6, y + 0.05], 0.014);
            }
        }
    }
    outline
}

fn cover_with(
    rng: &mut ChaCha8Rng,
    pixels: &mut [Color],
    (height, width): (usize, usize),
    outline: &Outline,
    color: Color,
) {
    let radius = height.max(width) as f32 / 2.0;
    let transform = Transform::from_translate(width as f32 / 2.0, height as f32 / 2.0)
        .pre_rotate(rng.random_range(0.0..360.0))
        .pre_scale(radius, radius);
    let Some(mut coverage) = Mask::new(width as u32, height as u32) else { return };
    for (path, rule) in outline.paths() {
        coverage.fill_path(path, *rule, true, transform);
    }
    let opacity = rng.random_range(0.6..1.0);
    for (pixel, &coverage) in pixels.iter_mut().zip(coverage.data()) {
        if coverage > 0 {
            *pixel = mix(*pixel, color, f32::from(coverage) / 255.0 * opacity);
        }
    }
}
