//! Objects that grow.

use std::f32::consts::{FRAC_PI_2, PI};

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::super::outline::{Outline, Point, away, ellipse, rotate};

/// Branches fork this often; the thinnest are a pixel or two wide.
const TREE_LEVELS: u32 = 7;

pub(super) fn tree(rng: &mut ChaCha8Rng) -> Outline {
    let mut outline = Outline::default();
    let trunk = rng.random_range(0.05..0.1);
    let height = rng.random_range(0.42..0.58);
    branch(rng, &mut outline, [0.0, 1.0], -FRAC_PI_2, height, trunk, TREE_LEVELS);
    // Roots.
    for side in [-1.0, 1.0] {
        outline.curve([0.0, 0.9], [side * 0.04, 1.0], [side * 0.14, 1.0], trunk * 0.5);
    }
    outline
}

fn branch(
    rng: &mut ChaCha8Rng,
    outline: &mut Outline,
    from: Point,
    angle: f32,
    length: f32,
    width: f32,
    levels: u32,
) {
    let to = away(from, angle, length);
    let bend = away(from, angle + rng.random_range(-0.3..0.3), length * 0.5);
    // A branch of a tree that grew to the side of the frame ends there.
    if levels == 0 || to[0].abs() > 1.05 || to[1] < -1.05 {
        outline.curve(from, bend, to, width);
        return;
    }
    outline.curve(from, bend, to, width);
    let forks = if levels > 4 { 2 } else { rng.random_range(1..=3) };
    for fork in 0..forks {
        let share = if forks == 1 { 0.0 } else { 2.0 * fork as f32 / (forks - 1) as f32 - 1.0 };
        let spread = share * rng.random_range(0.35..0.7) + rng.random_range(-0.15..0.15);
        let shorter = length * rng.random_range(0.62..0.85);
        let thinner = (width * rng.random_range(0.58..0.74)).max(0.009);
        branch(rng, outline, to, angle + spread, shorter, thinner, levels - 1);
    }
}

pub(super) fn leaf(rng: &mut ChaCha8Rng) -> Outline {
    let mut outline = Outline::default();
    let half_width = rng.random_range(0.35..0.6);
    let teeth = rng.random_range(0.0..0.05_f32);
    let lobes = rng.random_range(3.0..9.0_f32);
    const STEPS: usize = 160;
    // Around the leaf: down one side, up the other.
    let edge: Vec<Point> = (0..STEPS)
        .map(|step| {
            let around = step as f32 / STEPS as f32 * 2.0;
            let (share, side) = if around < 1.0 { (around, 1.0) } else { (2.0 - around, -1.0) };
            let bulge = leaf_bulge(share);
            let wave = 1.0 + 0.12 * (share * lobes * PI).cos() + teeth * (share * 90.0).sin();
            [side * half_width * bulge * wave, 0.7 - 1.6 * share]
        })
        .collect();
    let holes: Vec<Vec<Point>> = (0..rng.random_range(6..16))
        .map(|_| {
            let share = rng.random_range(0.12..0.85_f32);
            let room = half_width * leaf_bulge(share);
            let x = rng.random_range(0.15..0.85) * room * if rng.random() { 1.0 } else { -1.0 };
            let axes = [rng.random_range(0.02..0.09), rng.random_range(0.02..0.09)];
            ellipse([x, 0.7 - 1.6 * share], axes, rng.random_range(0.0..PI))
        })
        .collect();
    outline.with_holes(&edge, &holes);
    // Veins bridge the holes, as they do in a leaf that was eaten.
    outline.curve([rng.random_range(-0.1..0.1), 1.0], [0.05, 0.8], [0.0, 0.65], 0.035);
    outline.line([0.0, 0.7], [0.0, -0.85], 0.016);
    for vein in 1..8 {
        let share = vein as f32 / 9.0;
        let y = 0.7 - 1.6 * share;
        let reach = half_width * leaf_bulge(share) * 0.8;
        for side in [-1.0, 1.0] {
            outline.line([0.0, y], [side * reach, y - 0.14], 0.009);
        }
    }
    outline
}

/// Half width of a leaf from stem (0) to tip (1), about 0 to 1.
fn leaf_bulge(share: f32) -> f32 {
    // Rounding makes the sine at the tip negative, which has no fractional power.
    (share * PI).sin().max(0.0).powf(0.8) * (1.0 - 0.35 * share)
}

pub(super) fn insect(rng: &mut ChaCha8Rng) -> Outline {
    let mut outline = Outline::default();
    // Head, thorax, abdomen along the x axis.
    let abdomen = [rng.random_range(0.25..0.4), rng.random_range(0.11..0.18)];
    outline.polygon(&ellipse([-0.12 - abdomen[0], 0.0], abdomen, 0.0));
    outline.polygon(&ellipse([0.06, 0.0], [0.19, 0.1], 0.0));
    outline.disc([0.33, 0.0], 0.1);
    outline.line([-0.2, 0.0], [0.3, 0.0], 0.06);
    let leg = rng.random_range(0.014..0.026);
    for side in [-1.0_f32, 1.0] {
        for (pair, lean) in [0.7_f32, 0.0, -0.75].into_iter().enumerate() {
            let hip = [0.16 - 0.1 * pair as f32, side * 0.06];
            let out = side * (FRAC_PI_2 - lean + rng.random_range(-0.12..0.12));
            let knee = away(hip, out, rng.random_range(0.28..0.36));
            let shin = out + side * if lean < 0.0 { 0.7 } else { -0.6 };
            let foot = away(knee, shin, rng.random_range(0.3..0.4));
            outline.line(hip, knee, leg);
            outline.line(knee, foot, leg * 0.7);
            outline.line(foot, away(foot, shin - side * 0.6, 0.1), leg * 0.5);
        }
        let tip = [rng.random_range(0.75..0.95), side * rng.random_range(0.25..0.45)];
        outline.curve([0.4, side * 0.04], [0.62, side * 0.05], tip, 0.012);
    }
    if rng.random() {
        for side in [-1.0, 1.0] {
            wing(rng, &mut outline, side);
        }
    }
    outline
}

/// A wing of veins: what is between them is seen through.
fn wing(rng: &mut ChaCha8Rng, outline: &mut Outline, side: f32) {
    let angle = side * rng.random_range(1.9..2.3);
    let axes = [rng.random_range(0.38..0.46), rng.random_range(0.1..0.16)];
    let place = |[x, y]: Point| {
        let [x, y] = rotate([x + axes[0], y], angle);
        [x + 0.08, y + side * 0.05]
    };
    let edge: Vec<Point> = ellipse([0.0, 0.0], axes, 0.0).into_iter().map(place).collect();
    outline.closed(&edge, 0.016);
    for vein in -2..=2 {
        let y = vein as f32 / 3.0;
        let reach = axes[0] * (1.0 - y * y).sqrt();
        outline.line(place([-axes[0], 0.0]), place([reach, y * axes[1]]), 0.008);
    }
}
