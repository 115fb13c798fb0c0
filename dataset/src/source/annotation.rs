//! The shape of one object as COCO annotations write it, and its pixels as `pycocotools` has them.

use serde::{Deserialize, Serialize};

use super::rle;
use crate::codec::DecodeLimits;
use crate::raster::Mask255;
use crate::verify::RejectReason;

/// Polygons may leave their image, but not by more than this many times its longer side: what lies
/// further out is no drawing, and drawing it would take memory without bound.
const MAX_OUTSIDE: f64 = 16.0;

/// One object of an annotation file.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Annotation {
    /// The annotation file, relative to the root.
    pub file: String,
    /// Its `id` there.
    pub id: u64,
    /// Height and width of the image, in pixels.
    pub size: (u32, u32),
    /// Where the object is.
    pub shape: Shape,
}

/// The three forms of a segmentation.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// Outlines `[x0, y0, x1, y1, ..]` in pixels; the object is their union.
    Polygons(Vec<Vec<f64>>),
    /// Lengths of runs of background, object, background, .. in the order of columns.
    Counts(Vec<u32>),
    /// The same run lengths as text.
    Compressed(String),
}

impl Annotation {
    /// [`Annotation::rasterise_within`] the limits that hold where no others are set.
    ///
    /// # Errors
    /// As there.
    pub fn rasterise(&self) -> Result<Mask255, RejectReason> {
        self.rasterise_within(&DecodeLimits::default())
    }

    /// The pixels of the object, 0 or 255, the same ones as `pycocotools` 2.0 gives.
    ///
    /// # Errors
    /// [`RejectReason::Annotation`] for a shape without a polygon, for polygons of fewer than three
    /// points or far outside of the image, and for run lengths that do not fill it;
    /// [`RejectReason::TooLarge`].
    pub fn rasterise_within(&self, limits: &DecodeLimits) -> Result<Mask255, RejectReason> {
        let (height, width) = (u64::from(self.size.0), u64::from(self.size.1));
        let max_pixels = limits.max_pixels;
        if height * width > max_pixels {
            return Err(RejectReason::TooLarge { height, width, max_pixels });
        }
        let size = (height as usize, width as usize);
        let mut mask = Mask255 { height: size.0, width: size.1, pixels: vec![0; size.0 * size.1] };
        match &self.shape {
            Shape::Counts(counts) => rle::paint(counts, &mut mask)?,
            Shape::Compressed(text) => rle::paint(&rle::from_text(text)?, &mut mask)?,
            Shape::Polygons(polygons) => {
                if polygons.is_empty() {
                    return Err(damaged("it has no polygon"));
                }
                for polygon in polygons {
                    self.check(polygon)?;
                    rle::paint(&rle::from_polygon(polygon, size), &mut mask)?;
                }
            }
        }
        Ok(mask)
    }

    fn check(&self, polygon: &[f64]) -> Result<(), RejectReason> {
        if polygon.len() < 6 || !polygon.len().is_multiple_of(2) {
            let problem = format!(
                "a polygon of {} numbers: expected x and y of 3 or more points",
                polygon.len()
            );
            return Err(damaged(&problem));
        }
        let limit = MAX_OUTSIDE * f64::from(self.size.0.max(self.size.1).max(1));
        match polygon.iter().find(|value| value.is_nan() || value.abs() > limit) {
            Some(value) => {
                Err(damaged(&format!("a point at {value} lies far outside of the image")))
            }
            None => Ok(()),
        }
    }
}

pub(super) fn damaged(problem: &str) -> RejectReason {
    RejectReason::Annotation { problem: problem.to_owned() }
}
