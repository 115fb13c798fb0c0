//! Shapes put together from strokes and fills, in a frame that reaches from -1 to 1.

use std::f32::consts::TAU;

use tiny_skia::{FillRule, LineCap, LineJoin, Path, PathBuilder, Stroke};

/// How finely curves are split before they are widened: frames are scaled to a few hundred pixels.
const RESOLUTION: f32 = 400.0;

/// A point, y downwards.
pub(super) type Point = [f32; 2];

/// What an object covers: the union of its paths.
#[derive(Default)]
pub(super) struct Outline {
    paths: Vec<(Path, FillRule)>,
}

impl Outline {
    pub(super) fn paths(&self) -> &[(Path, FillRule)] {
        &self.paths
    }

    /// A line through the points, `width` wide, with round ends and joins.
    pub(super) fn polyline(&mut self, points: &[Point], width: f32) {
        self.stroke(points, false, width);
    }

    /// A straight line.
    pub(super) fn line(&mut self, from: Point, to: Point, width: f32) {
        self.stroke(&[from, to], false, width);
    }

    /// A closed line.
    pub(super) fn closed(&mut self, points: &[Point], width: f32) {
        self.stroke(points, true, width);
    }

    /// A bent line: a quadratic curve that leaves `from` towards `bend`.
    pub(super) fn curve(&mut self, from: Point, bend: Point, to: Point, width: f32) {
        let mut builder = PathBuilder::new();
        builder.move_to(from[0], from[1]);
        builder.quad_to(bend[0], bend[1], to[0], to[1]);
        self.widen(builder, width);
    }

    /// A filled polygon, the corners in either order.
    pub(super) fn polygon(&mut self, corners: &[Point]) {
        self.fill(&[corners], FillRule::Winding);
    }

    /// A filled shape with holes.
    pub(super) fn with_holes(&mut self, shape: &[Point], holes: &[Vec<Point>]) {
        let mut contours = vec![shape];
        contours.extend(holes.iter().map(Vec::as_slice));
        self.fill(&contours, FillRule::EvenOdd);
    }

    /// A filled disc.
    pub(super) fn disc(&mut self, center: Point, radius: f32) {
        self.polygon(&ellipse(center, [radius, radius], 0.0));
    }

    /// A circle, `width` wide.
    pub(super) fn ring(&mut self, center: Point, radius: f32, width: f32) {
        self.closed(&ellipse(center, [radius, radius], 0.0), width);
    }

    fn stroke(&mut self, points: &[Point], close: bool, width: f32) {
        self.widen(trace(points, close), width);
    }

    fn widen(&mut self, builder: PathBuilder, width: f32) {
        let stroke = Stroke {
            width,
            line_cap: LineCap::Round,
            line_join: LineJoin::Round,
            ..Stroke::default()
        };
        // Nothing remains of a line without length: an object may well have one less.
        let path = builder.finish().and_then(|path| path.stroke(&stroke, RESOLUTION));
        self.paths.extend(path.map(|path| (path, FillRule::Winding)));
    }

    fn fill(&mut self, contours: &[&[Point]], rule: FillRule) {
        let mut builder = PathBuilder::new();
        for path in contours.iter().filter_map(|contour| trace(contour, true).finish()) {
            builder.push_path(&path);
        }
        self.paths.extend(builder.finish().map(|path| (path, rule)));
    }
}

fn trace(points: &[Point], close: bool) -> PathBuilder {
    let mut builder = PathBuilder::new();
    for (index, [x, y]) in points.iter().enumerate() {
        if index == 0 { builder.move_to(*x, *y) } else { builder.line_to(*x, *y) }
    }
    if close {
        builder.close();
    }
    builder
}

/// Corners of an ellipse with the given half axes, turned by `angle` (radians).
pub(super) fn ellipse(center: Point, half_axes: Point, angle: f32) -> Vec<Point> {
    const CORNERS: usize = 96;
    (0..CORNERS)
        .map(|corner| {
            let (sin, cos) = (corner as f32 / CORNERS as f32 * TAU).sin_cos();
            let offset = rotate([cos * half_axes[0], sin * half_axes[1]], angle);
            [center[0] + offset[0], center[1] + offset[1]]
        })
        .collect()
}

/// The point turned around the origin.
pub(super) fn rotate([x, y]: Point, angle: f32) -> Point {
    let (sin, cos) = angle.sin_cos();
    [x * cos - y * sin, x * sin + y * cos]
}

/// The point at `share` of the way.
pub(super) fn between(from: Point, to: Point, share: f32) -> Point {
    [from[0] + (to[0] - from[0]) * share, from[1] + (to[1] - from[1]) * share]
}

/// The point `length` away in direction `angle` (radians, 0 to the right, positive downwards).
pub(super) fn away(from: Point, angle: f32, length: f32) -> Point {
    [from[0] + angle.cos() * length, from[1] + angle.sin() * length]
}
