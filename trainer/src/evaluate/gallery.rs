//! Pictures of an evaluation: the worst cases, and the same few images every time.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dataset::raster::Mask255;
use image::imageops::replace;
use image::{Rgb, RgbImage};
use pipeline::EvalSample;
use pipeline::page::{draw_outline, jpeg, shrink};
use serde::{Deserialize, Serialize};

use super::protocol::Protocol;
use super::report::ImageScore;
use crate::data_parallel::DataParallel;
use crate::train::TrainError;

/// Longest side of each of the three views of a case, in pixels.
const VIEW_SIDE: u32 = 256;
/// Between the views.
const GAP: u32 = 6;
/// Colours that differ in hue and in lightness; the page's legend has the same.
const TRUTH: Rgb<u8> = Rgb([90, 235, 120]);
const SAM: Rgb<u8> = Rgb([255, 150, 0]);
const HQ: Rgb<u8> = Rgb([255, 0, 160]);

/// Which pictures an evaluation makes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PictureWish {
    /// Images with the lowest IoU of HQ-SAM, for each protocol.
    pub worst: usize,
    /// Images spread evenly over the rows, the same in every evaluation.
    pub fixed: usize,
}

/// One image side by side with the outline of the truth, of SAM's and of HQ-SAM's mask.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Case {
    /// What was found.
    pub score: ImageScore,
    /// Rows of the picture.
    pub height: u32,
    /// Columns of the picture.
    pub width: u32,
    /// A JPEG file, in base64.
    pub jpeg_base64: String,
}

impl Case {
    /// The JPEG file.
    #[must_use]
    pub fn jpeg(&self) -> Vec<u8> {
        STANDARD.decode(&self.jpeg_base64).unwrap_or_default()
    }
}

/// The pictures of an evaluation.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Pictures {
    /// By protocol, the worst first.
    pub worst: Vec<Case>,
    /// By protocol, in row order.
    pub fixed: Vec<Case>,
}

/// Both predictions for one image, a byte a pixel.
#[derive(Clone, Copy)]
pub(super) struct Masks<'a> {
    pub(super) sam: &'a [u8],
    pub(super) hq: &'a [u8],
}

/// Collects pictures while the images pass; holds no more than are wanted.
pub(super) struct Gallery {
    wish: PictureWish,
    fixed_rows: Vec<u64>,
    /// For each protocol its worst cases so far, the worst first.
    worst: Vec<(Protocol, Vec<Case>)>,
    fixed: Vec<Case>,
}

impl Gallery {
    /// For an evaluation of `rows` images.
    pub(super) fn new(wish: PictureWish, rows: u64, protocols: &[Protocol]) -> Self {
        let fixed = (wish.fixed as u64).min(rows);
        Self {
            wish,
            fixed_rows: (0..fixed).map(|index| index * rows / fixed).collect(),
            worst: protocols.iter().map(|&protocol| (protocol, Vec::new())).collect(),
            fixed: Vec::new(),
        }
    }

    /// Keeps a picture of the image if it is one of those wanted.
    pub(super) fn offer(&mut self, score: &ImageScore, sample: &EvalSample, masks: Masks<'_>) {
        let Some((_, worst)) = self.worst.iter_mut().find(|(other, _)| *other == score.protocol)
        else {
            return;
        };
        let place = worst.partition_point(|case| by_badness(&case.score, score).is_lt());
        let is_worst = place < self.wish.worst;
        let is_fixed = self.fixed_rows.contains(&score.row);
        if !(is_fixed || is_worst) {
            return;
        }
        let Some(case) = draw(score, sample, masks) else { return };
        if is_fixed {
            self.fixed.push(case.clone());
        }
        if is_worst {
            worst.insert(place, case);
            worst.truncate(self.wish.worst);
        }
    }

    /// All ranks' pictures, cut to those wanted; the same on every rank.
    pub(super) fn gather(
        self,
        data_parallel: &DataParallel,
        device: tch::Device,
    ) -> Result<Pictures, TrainError> {
        let internal = |error: serde_json::Error| TrainError::Internal(error.to_string());
        let protocols: Vec<Protocol> = self.worst.iter().map(|(protocol, _)| *protocol).collect();
        let worst = self.worst.into_iter().flat_map(|(_, cases)| cases).collect();
        let own = serde_json::to_vec(&Pictures { worst, fixed: self.fixed }).map_err(internal)?;
        let mut parts = Pictures::default();
        for part in data_parallel.all_gather_bytes(&own, device)? {
            let part: Pictures = serde_json::from_slice(&part).map_err(internal)?;
            parts.worst.extend(part.worst);
            parts.fixed.extend(part.fixed);
        }
        let mut all = Pictures::default();
        for protocol in protocols {
            let of = |cases: &[Case]| -> Vec<Case> {
                cases.iter().filter(|case| case.score.protocol == protocol).cloned().collect()
            };
            let (mut worst, mut fixed) = (of(&parts.worst), of(&parts.fixed));
            worst.sort_by(|left, right| by_badness(&left.score, &right.score));
            worst.truncate(self.wish.worst);
            fixed.sort_by_key(|case| case.score.row);
            all.worst.extend(worst);
            all.fixed.extend(fixed);
        }
        Ok(all)
    }
}

fn by_badness(left: &ImageScore, right: &ImageScore) -> std::cmp::Ordering {
    left.hq.mask_iou.total_cmp(&right.hq.mask_iou).then(left.row.cmp(&right.row))
}

fn draw(score: &ImageScore, sample: &EvalSample, masks: Masks<'_>) -> Option<Case> {
    let view = shrink(&sample.image, VIEW_SIDE)?;
    let (view_width, height) = view.dimensions();
    let width = 3 * view_width + 2 * GAP;
    let mut picture = RgbImage::from_pixel(width, height, Rgb([255; 3]));
    let predicted = |mask: &[u8]| Mask255 {
        height: sample.mask.height,
        width: sample.mask.width,
        pixels: mask.iter().map(|&value| if value == 0 { 0 } else { 255 }).collect(),
    };
    let (sam, hq) = (predicted(masks.sam), predicted(masks.hq));
    for (index, (mask, color)) in
        [(&sample.mask, TRUTH), (&sam, SAM), (&hq, HQ)].into_iter().enumerate()
    {
        let mut outlined = view.clone();
        draw_outline(&mut outlined, mask, color);
        replace(&mut picture, &outlined, (index as u32 * (view_width + GAP)).into(), 0);
    }
    let jpeg_base64 = STANDARD.encode(jpeg(&picture).ok()?);
    Some(Case { score: score.clone(), height, width, jpeg_base64 })
}

#[cfg(test)]
mod tests {
    use dataset::raster::RgbRaster;

    use super::*;
    use crate::evaluate::report::tests::image;

    fn sample() -> EvalSample {
        EvalSample {
            row: 0,
            sample_id: "a/0".into(),
            source: "a".into(),
            image: RgbRaster { height: 30, width: 40, pixels: vec![80; 30 * 40 * 3] },
            mask: Mask255 { height: 30, width: 40, pixels: vec![255; 30 * 40] },
        }
    }

    fn offered(wish: PictureWish, scores: &[ImageScore]) -> Pictures {
        let protocols = [Protocol::Box, Protocol::Points(1)];
        let mut gallery = Gallery::new(wish, scores.len() as u64, &protocols);
        let mask = vec![1; 30 * 40];
        for score in scores {
            gallery.offer(score, &sample(), Masks { sam: &mask, hq: &mask });
        }
        gallery.gather(&DataParallel::single(), tch::Device::Cpu).unwrap()
    }

    fn rows(cases: &[Case]) -> Vec<u64> {
        cases.iter().map(|case| case.score.row).collect()
    }

    #[test]
    fn the_worst_of_each_protocol_are_kept_in_order() {
        let ious = [0.9, 0.2, 0.5, 0.2, 0.1, 0.7];
        let boxes = ious.iter().enumerate().map(|(row, iou)| image(row as u64, "a", *iou));
        let points = boxes
            .clone()
            .map(|score| ImageScore { protocol: Protocol::Points(1), ..score })
            .filter(|score| score.row != 4);
        // One image after the other, with all its prompts, as an evaluation goes.
        let mut scores: Vec<ImageScore> = boxes.chain(points).collect();
        scores.sort_by_key(|score| score.row);
        let pictures = offered(PictureWish { worst: 3, fixed: 0 }, &scores);
        assert_eq!(rows(&pictures.worst), [4, 1, 3, 1, 3, 2]);
        assert!(pictures.fixed.is_empty());
        let case = &pictures.worst[0];
        assert_eq!((case.height, case.width), (30, 3 * 40 + 12));
        assert_eq!(case.jpeg()[..2], [0xff, 0xd8]);
    }

    #[test]
    fn fixed_images_are_spread_over_the_rows() {
        let scores: Vec<ImageScore> = (0..10).map(|row| image(row, "a", 0.5)).collect();
        let pictures = offered(PictureWish { worst: 0, fixed: 3 }, &scores);
        assert_eq!(rows(&pictures.fixed), [0, 3, 6]);
        assert_eq!(rows(&offered(PictureWish { worst: 0, fixed: 4 }, &scores[..2]).fixed), [0, 1]);
        assert_eq!(offered(PictureWish::default(), &scores), Pictures::default());
    }
}
