//! Objects that people make. Widths are shares of half the object's extent: 0.015 is 2 to 3 pixels
//! in a picture of 400.

use std::f32::consts::{FRAC_PI_2, PI, TAU};

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::super::outline::{Outline, Point, away, between, ellipse};

pub(super) fn antenna(rng: &mut ChaCha8Rng) -> Outline {
    let mut outline = Outline::default();
    let mast = rng.random_range(0.018..0.03);
    outline.line([0.0, -0.95], [0.0, 1.0], mast * 1.4);
    let booms = rng.random_range(1..=3);
    for boom in 0..booms {
        let y = -0.8 + 0.45 * boom as f32 + rng.random_range(-0.05..0.05);
        let reach = rng.random_range(0.6..0.95);
        outline.line([-reach, y], [reach, y + rng.random_range(-0.06..0.06)], mast);
        let bars = rng.random_range(6..14);
        for bar in 0..bars {
            let share = bar as f32 / (bars - 1) as f32;
            let x = -reach + 2.0 * reach * share;
            let half = (0.08 + 0.16 * share) * rng.random_range(0.9..1.1);
            outline.line([x, y - half], [x, y + half], mast * 0.55);
        }
    }
    if rng.random() {
        let y = 0.45;
        outline.ring([0.32, y], 0.2, 0.02);
        outline.line([0.0, y], [0.32, y], 0.02);
        outline.line([0.32, y - 0.2], [0.32, y + 0.2], 0.012);
    }
    for side in [-1.0, 1.0] {
        outline.line([0.0, -0.1], [side * rng.random_range(0.5..0.8), 0.98], 0.009);
    }
    outline
}

pub(super) fn bicycle(rng: &mut ChaCha8Rng) -> Outline {
    let mut outline = Outline::default();
    let radius = rng.random_range(0.36..0.42);
    let (rear, front) = ([-0.56, 0.4], [0.56, 0.4]);
    let spokes = rng.random_range(14..28);
    for hub in [rear, front] {
        spoked_wheel(&mut outline, hub, radius, spokes, 0.03, 0.007);
    }
    let tube = rng.random_range(0.022..0.035);
    let (pedals, seat, head) = ([-0.08, 0.42], [-0.22, -0.18], [0.4, -0.22]);
    for (from, to) in
        [(rear, pedals), (rear, seat), (seat, pedals), (seat, head), (pedals, head), (head, front)]
    {
        outline.line(from, to, tube);
    }
    let saddle = [-0.26, -0.34];
    outline.line(seat, saddle, tube * 0.8);
    outline.line([-0.38, -0.36], [-0.14, -0.33], 0.05);
    let stem = [0.36, -0.4];
    outline.line(head, stem, tube * 0.8);
    outline.curve(stem, [0.56, -0.5], [0.54, -0.32], tube * 0.8);
    outline.ring(pedals, 0.09, 0.014);
    let crank = rng.random_range(0.0..TAU);
    for angle in [crank, crank + PI] {
        let end = away(pedals, angle, 0.17);
        outline.line(pedals, end, 0.016);
        outline.line([end[0] - 0.05, end[1]], [end[0] + 0.05, end[1]], 0.022);
    }
    outline.line([pedals[0], pedals[1] - 0.08], [rear[0], rear[1] - 0.03], 0.008);
    outline.line([pedals[0], pedals[1] + 0.08], [rear[0], rear[1] + 0.03], 0.008);
    outline
}

pub(super) fn chair(rng: &mut ChaCha8Rng) -> Outline {
    let mut outline = Outline::default();
    let leg = rng.random_range(0.035..0.06);
    let (seat_y, back_y) = (rng.random_range(0.05..0.2), -0.95);
    let depth = [rng.random_range(0.25..0.4), -rng.random_range(0.1..0.18)];
    let (left, right) = (-0.55, 0.3);
    let seat = [
        [left, seat_y],
        [right, seat_y],
        [right + depth[0], seat_y + depth[1]],
        [left + depth[0], seat_y + depth[1]],
    ];
    outline.polygon(&seat);
    outline.closed(&seat, leg * 0.8);
    for (corner, foot_y) in seat.into_iter().zip([1.0, 1.0, 0.86, 0.86]) {
        outline.line(corner, [corner[0], foot_y], leg);
    }
    outline.line([left, 0.65], [right, 0.65], leg * 0.5);
    outline.line([right, 0.72], [right + depth[0], 0.62], leg * 0.5);
    let posts = [left + depth[0], right + depth[0]];
    for x in posts {
        outline.line([x, seat_y + depth[1]], [x, back_y], leg);
    }
    outline.curve(
        [posts[0], back_y],
        [0.0 + depth[0] * 0.5, back_y - 0.1],
        [posts[1], back_y],
        leg,
    );
    let slats = rng.random_range(3..8);
    let vertical: bool = rng.random();
    for slat in 1..=slats {
        let share = slat as f32 / (slats + 1) as f32;
        let (x, y) = (between([posts[0], 0.0], [posts[1], 0.0], share)[0], back_y * (1.0 - share));
        let (from, to) = if vertical {
            ([x, back_y], [x, seat_y + depth[1]])
        } else {
            ([posts[0], y], [posts[1], y])
        };
        outline.line(from, to, leg * 0.45);
    }
    outline
}

pub(super) fn fence(rng: &mut ChaCha8Rng) -> Outline {
    let mut outline = Outline::default();
    let posts = rng.random_range(6..14);
    let slope = rng.random_range(-0.25..0.25_f32);
    let shrink = rng.random_range(0.55..1.0_f32);
    let width = rng.random_range(0.02..0.05_f32);
    let pointed: bool = rng.random();
    // Rails and posts get lower from left to right, as seen from an angle.
    let at = |x: f32, y: f32| {
        let scale = 1.0 - (1.0 - shrink) * (x + 1.0) / 2.0;
        [x, slope * x + y * scale]
    };
    for y in [-0.3, 0.32] {
        outline.line(at(-1.0, y), at(1.0, y), width * 0.8);
    }
    for post in 0..posts {
        let x = -0.96 + 1.92 * post as f32 / (posts - 1) as f32 + rng.random_range(-0.02..0.02);
        let half = width * rng.random_range(0.8..1.2);
        let (top, bottom) = (-0.6 + rng.random_range(-0.05..0.05), 0.6);
        let tip = if pointed { at(x, top - 0.12) } else { at(x, top) };
        outline.polygon(&[
            at(x - half, bottom),
            at(x - half, top),
            tip,
            at(x + half, top),
            at(x + half, bottom),
        ]);
    }
    if rng.random() {
        outline.line(at(-1.0, 0.32), at(1.0, -0.3), width * 0.5);
    }
    outline
}

pub(super) fn ladder(rng: &mut ChaCha8Rng) -> Outline {
    let mut outline = Outline::default();
    let rail = rng.random_range(0.03..0.055);
    let (foot, head) = (rng.random_range(0.28..0.42), rng.random_range(0.16..0.28));
    let lean = rng.random_range(-0.4..0.4);
    let (bottom, top) = ([-lean, 1.0], [lean, -1.0]);
    let side = |share: f32, sign: f32| {
        let [x, y] = between(bottom, top, share);
        [x + sign * (foot + (head - foot) * share), y]
    };
    for sign in [-1.0, 1.0] {
        outline.line(side(0.0, sign), side(1.0, sign), rail);
    }
    let rungs = rng.random_range(7..14);
    for rung in 0..rungs {
        let share = 0.06 + 0.9 * rung as f32 / (rungs - 1) as f32;
        outline.line(side(share, -1.0), side(share, 1.0), rail * 0.6);
    }
    if rng.random() {
        // A step-ladder: the second pair of legs is seen through the first.
        for sign in [-1.0, 1.0] {
            let [x, y] = side(0.97, sign);
            outline.line([x, y], [x * 0.9 + 0.5, 0.94], rail * 0.6);
        }
    }
    outline
}

pub(super) fn racket(rng: &mut ChaCha8Rng) -> Outline {
    let mut outline = Outline::default();
    let axes = [rng.random_range(0.42..0.52), rng.random_range(0.52..0.6)];
    let center = [0.0, -0.4];
    outline.closed(&ellipse(center, axes, 0.0), 0.05);
    let strings = rng.random_range(9..16);
    for string in 1..strings {
        let share = 2.0 * string as f32 / strings as f32 - 1.0;
        let reach = (1.0 - share * share).sqrt();
        let (x, y) = (share * axes[0], center[1] + share * axes[1]);
        outline.line([x, center[1] - reach * axes[1]], [x, center[1] + reach * axes[1]], 0.008);
        outline.line([-reach * axes[0], y], [reach * axes[0], y], 0.008);
    }
    let throat = center[1] + axes[1];
    outline.line([-0.16, throat - 0.04], [0.0, 0.45], 0.035);
    outline.line([0.16, throat - 0.04], [0.0, 0.45], 0.035);
    outline.line([0.0, 0.42], [0.0, 0.95], 0.085);
    outline
}

pub(super) fn spiral(rng: &mut ChaCha8Rng) -> Outline {
    let mut outline = Outline::default();
    let width = rng.random_range(0.018..0.05);
    let turns = rng.random_range(3.0..7.0_f32);
    let flatness = rng.random_range(0.55..1.0_f32);
    const STEPS: usize = 400;
    // A coil of wire seen from above, or a spring seen from the side.
    let spring: bool = rng.random();
    let points: Vec<Point> = (0..=STEPS)
        .map(|step| {
            let share = step as f32 / STEPS as f32;
            let (sin, cos) = (share * turns * TAU).sin_cos();
            if spring {
                [0.42 * cos * flatness, -0.9 + 1.8 * share + 0.14 * sin]
            } else {
                [0.95 * share * cos, 0.95 * share * sin * flatness]
            }
        })
        .collect();
    outline.polyline(&points, width);
    outline.disc(points[STEPS], width * 1.6);
    outline
}

pub(super) fn wheel(rng: &mut ChaCha8Rng) -> Outline {
    let mut outline = Outline::default();
    let spokes = rng.random_range(8..32);
    let tire = rng.random_range(0.04..0.11);
    spoked_wheel(&mut outline, [0.0, 0.0], 0.92, spokes, tire, rng.random_range(0.011..0.022));
    if rng.random() {
        outline.ring([0.0, 0.0], 0.92 - tire * 1.6, 0.018);
    }
    outline
}

fn spoked_wheel(
    outline: &mut Outline,
    hub: Point,
    radius: f32,
    spokes: usize,
    tire: f32,
    spoke: f32,
) {
    outline.ring(hub, radius, tire);
    outline.disc(hub, radius * 0.09);
    for index in 0..spokes {
        let angle = index as f32 / spokes as f32 * TAU;
        // Spokes leave the hub to alternating sides and cross their neighbours.
        let start = angle + if index % 2 == 0 { FRAC_PI_2 } else { -FRAC_PI_2 };
        outline.line(away(hub, start, radius * 0.07), away(hub, angle, radius), spoke);
    }
}

pub(super) fn wires(rng: &mut ChaCha8Rng) -> Outline {
    let mut outline = Outline::default();
    let cables = rng.random_range(2..5);
    for _ in 0..cables {
        let width = rng.random_range(0.014..0.032);
        let mut at: Point = [rng.random_range(-0.5..0.5), rng.random_range(-0.5..0.5)];
        let mut heading = rng.random_range(0.0..TAU);
        plug(&mut outline, at, heading + PI, width);
        let mut points = vec![at];
        let mut bend = 0.0_f32;
        for _ in 0..rng.random_range(90..170) {
            bend = (bend + rng.random_range(-0.07..0.07)).clamp(-0.25, 0.25);
            // Turns back before it leaves the frame.
            let outwards = at[0].hypot(at[1]) > 0.75;
            heading += if outwards { bend.signum() * 0.28 } else { bend };
            at = away(at, heading, 0.04);
            at = [at[0].clamp(-0.98, 0.98), at[1].clamp(-0.98, 0.98)];
            points.push(at);
        }
        outline.polyline(&points, width);
        plug(&mut outline, at, heading, width);
    }
    outline
}

fn plug(outline: &mut Outline, at: Point, heading: f32, width: f32) {
    let body = away(at, heading, 0.09);
    outline.line(at, body, width * 2.6);
    for side in [-0.5, 0.5] {
        let pin = away(body, heading + FRAC_PI_2, side * width * 1.6);
        outline.line(pin, away(pin, heading, 0.07), width * 0.5);
    }
}
