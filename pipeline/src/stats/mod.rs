//! What the images and masks of a data set are like, from the small columns alone: no picture is
//! decoded, and of a remote data set only those columns are fetched.

mod distribution;
mod scan;

use std::collections::BTreeMap;
use std::fmt;

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use arrow_array::types::{UInt32Type, UInt64Type};
use serde::{Deserialize, Serialize};

pub use distribution::{Distribution, Quantiles};
pub(crate) use scan::shard_geometry;
pub use scan::{DatasetStats, stats};

/// The columns that [`geometry`] reads.
pub(crate) const GEOMETRY_COLUMNS: [&str; 4] = ["height", "width", "foreground_pixels", "box_xyxy"];

/// Sizes of one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Geometry {
    /// Rows of image and mask.
    pub height: u32,
    /// Columns of image and mask.
    pub width: u32,
    /// Mask pixels above 128.
    pub foreground_pixels: u64,
    /// Tight box around them, inclusive pixel indices.
    pub box_xyxy: [u32; 4],
}

impl fmt::Display for Geometry {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { height, width, foreground_pixels, box_xyxy } = self;
        write!(
            formatter,
            "{height} x {width} (height x width), {foreground_pixels} foreground pixels in the box \
             {box_xyxy:?}"
        )
    }
}

/// Something that is measured on every row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Measure {
    /// Longer side of the image, in pixels.
    LongestSide,
    /// Shorter side of the image, in pixels.
    ShortestSide,
    /// Foreground pixels, in % of the image.
    Foreground,
    /// Longer side of the foreground's box, in pixels.
    BoxSide,
    /// The foreground's box, in % of the image.
    BoxArea,
    /// Foreground pixels, in % of their box: low for thin, slanted or scattered objects.
    BoxFill,
}

impl Measure {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 6] = [
        Self::LongestSide,
        Self::ShortestSide,
        Self::Foreground,
        Self::BoxSide,
        Self::BoxArea,
        Self::BoxFill,
    ];

    /// The name in JSON; its last part is the unit.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Self::LongestSide => "longest_side_px",
            Self::ShortestSide => "shortest_side_px",
            Self::Foreground => "foreground_percent",
            Self::BoxSide => "box_longest_side_px",
            Self::BoxArea => "box_area_percent",
            Self::BoxFill => "box_fill_percent",
        }
    }

    /// The name for people, with the unit.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::LongestSide => "longest side, px",
            Self::ShortestSide => "shortest side, px",
            Self::Foreground => "foreground, % of image",
            Self::BoxSide => "box longest side, px",
            Self::BoxArea => "box, % of image",
            Self::BoxFill => "foreground, % of box",
        }
    }

    /// Counted values are this many times the unit: percentages are counted in tenths.
    #[must_use]
    pub fn divisor(self) -> u32 {
        match self {
            Self::LongestSide | Self::ShortestSide | Self::BoxSide => 1,
            Self::Foreground | Self::BoxArea | Self::BoxFill => 10,
        }
    }

    /// Edges of `bins` bins that hold every value of `distribution`, in counted values: equal
    /// steps from 0 to 100 %, and equal ratios for sides, which run from 100 to 10,000 pixels.
    #[must_use]
    pub fn edges(self, distribution: &Distribution, bins: usize) -> Vec<f64> {
        let (low, high) = distribution.range().unwrap_or((0, 0));
        let at = |bin: usize| bin as f64 / bins as f64;
        if self.divisor() == 1 {
            // A single size still needs bins that are not empty.
            let (low, high) = (f64::from(low.max(1)).ln(), (f64::from(high.max(1)) + 1.0).ln());
            (0..=bins).map(|bin| (low + (high - low) * at(bin)).exp()).collect()
        } else {
            (0..=bins).map(|bin| 1000.0 * at(bin)).collect()
        }
    }

    fn of(self, row: &Geometry) -> u32 {
        let image = u64::from(row.height) * u64::from(row.width);
        let [left, top, right, bottom] = row.box_xyxy;
        // A damaged row may hold any numbers.
        let side = |from: u32, to: u32| to.saturating_sub(from).saturating_add(1);
        let (box_width, box_height) = (side(left, right), side(top, bottom));
        let box_pixels = u64::from(box_width) * u64::from(box_height);
        match self {
            Self::LongestSide => row.height.max(row.width),
            Self::ShortestSide => row.height.min(row.width),
            Self::Foreground => tenths_of_percent(row.foreground_pixels, image),
            Self::BoxSide => box_width.max(box_height),
            Self::BoxArea => tenths_of_percent(box_pixels, image),
            Self::BoxFill => tenths_of_percent(row.foreground_pixels, box_pixels),
        }
    }
}

fn tenths_of_percent(part: u64, whole: u64) -> u32 {
    ((1000.0 * part as f64 / whole.max(1) as f64).round() as u32).min(1000)
}

/// The distribution of every measure over some rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    rows: u64,
    distributions: [Distribution; Measure::ALL.len()],
}

/// [`Stats`] in numbers.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Summary {
    /// Rows measured.
    pub rows: u64,
    /// By [`Measure::key`]; empty where there are no rows.
    pub measures: BTreeMap<String, Quantiles>,
}

impl Stats {
    /// Measures one row.
    pub fn add(&mut self, row: &Geometry) {
        self.rows += 1;
        for (measure, distribution) in Measure::ALL.into_iter().zip(&mut self.distributions) {
            distribution.add(measure.of(row));
        }
    }

    /// Adds the rows of another.
    pub fn merge(&mut self, other: &Self) {
        self.rows += other.rows;
        for (mine, theirs) in self.distributions.iter_mut().zip(&other.distributions) {
            mine.merge(theirs);
        }
    }

    /// Rows measured.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// The distribution of one measure, in counted values (see [`Measure::divisor`]).
    #[must_use]
    pub fn distribution(&self, measure: Measure) -> &Distribution {
        &self.distributions[measure as usize]
    }

    /// Quantiles of every measure.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let measures = Measure::ALL.into_iter().filter_map(|measure| {
            let quantiles = self.distribution(measure).quantiles(measure.divisor())?;
            Some((measure.key().to_owned(), quantiles))
        });
        Summary { rows: self.rows, measures: measures.collect() }
    }
}

/// The sizes of every row of a batch; `Err` names the column that is not as expected.
pub(crate) fn geometry(batch: &RecordBatch) -> Result<Vec<Geometry>, &'static str> {
    let small = |name: &'static str| {
        let column = batch.column_by_name(name);
        column.and_then(|column| column.as_primitive_opt::<UInt32Type>()).ok_or(name)
    };
    let (height, width) = (small("height")?, small("width")?);
    let foreground = batch
        .column_by_name("foreground_pixels")
        .and_then(|column| column.as_primitive_opt::<UInt64Type>())
        .ok_or("foreground_pixels")?;
    let boxes = batch
        .column_by_name("box_xyxy")
        .and_then(|column| column.as_fixed_size_list_opt())
        .filter(|boxes| boxes.value_length() == 4)
        .ok_or("box_xyxy")?;
    let corners = boxes.values().as_primitive_opt::<UInt32Type>().ok_or("box_xyxy")?;
    Ok((0..batch.num_rows())
        .map(|row| {
            // Of a sliced list the values are not sliced with it.
            let first = boxes.value_offset_at(row);
            Geometry {
                height: height.value(row),
                width: width.value(row),
                foreground_pixels: foreground.value(row),
                box_xyxy: std::array::from_fn(|corner| corners.value(first + corner)),
            }
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_become_measures() {
        let row = Geometry {
            height: 100,
            width: 200,
            foreground_pixels: 500,
            box_xyxy: [10, 20, 59, 39],
        };
        let mut stats = Stats::default();
        stats.add(&row);
        let summary = stats.summary();
        let median = |key: &str| summary.measures[key].median;
        assert_eq!((median("longest_side_px"), median("shortest_side_px")), (200.0, 100.0));
        assert_eq!((median("foreground_percent"), median("box_longest_side_px")), (2.5, 50.0));
        assert_eq!((median("box_area_percent"), median("box_fill_percent")), (5.0, 50.0));
        assert_eq!(Stats::default().summary(), Summary::default());
    }

    #[test]
    fn a_single_size_has_bins() {
        let mut stats = Stats::default();
        let row = Geometry { height: 9, width: 9, foreground_pixels: 81, box_xyxy: [0, 0, 8, 8] };
        stats.add(&row);
        for measure in Measure::ALL {
            let distribution = stats.distribution(measure);
            let edges = measure.edges(distribution, 8);
            assert!(edges.is_sorted() && edges.len() == 9, "{edges:?}");
            assert_eq!(distribution.histogram(&edges).iter().sum::<u64>(), 1);
        }
    }
}
