//! Segment everything: the published `SamAutomaticMaskGenerator`.
//!
//! ```text
//! image -> crops -> (encode; grid of points -> decode -> filters -> boxes, run lengths -> NMS)
//!       -> NMS between crops -> small regions removed -> masks
//! ```
//!
//! Masks are kept as run lengths: memory does not grow with their number. A mask that its
//! predicted IoU rules out is never brought to the size of the image.

use dataset::raster::RgbRaster;
use tch::{Device, Tensor};

mod crops;
mod nms;
mod regions;

use crops::{Crop, crops, is_near_crop_edge, point_grid};
pub use nms::nms;

use crate::predict::{EncodedImage, MaskMode, PredictError, Predictor, single_points};
use crate::rle::{Rle, Runs};

/// Points decoded together on a CPU, whose caches more would overflow, and pixels of masks that are
/// brought to the size of the image together.
const CPU_POINTS_AT_ONCE: usize = 16;
const PIXELS_AT_ONCE: usize = 1 << 25;

/// A million points, of which each gives up to three masks.
const MAX_POINTS_PER_SIDE: usize = 1024;
/// Each takes about 60 MiB at published sizes.
const MAX_POINTS_PER_BATCH: usize = 4096;
/// A layer more has four times the crops, each through the encoder.
const MAX_LAYERS: u32 = 6;

/// The published generator's options with its names and defaults.
#[derive(Clone, Debug, PartialEq, clap::Args)]
pub struct AmgOptions {
    /// Points along one side of the image, so its square in all.
    #[arg(long, default_value_t = 32)]
    pub points_per_side: usize,
    /// Most points that are decoded together.
    #[arg(long, default_value_t = 64)]
    pub points_per_batch: usize,
    /// Keep masks whose predicted IoU exceeds this; 0 keeps all.
    #[arg(long, default_value_t = 0.88)]
    pub pred_iou_thresh: f32,
    /// Keep masks whose stability is at least this; 0 keeps all.
    #[arg(long, default_value_t = 0.95)]
    pub stability_score_thresh: f32,
    /// Shift of the logits' cut whose effect on a mask is its stability.
    #[arg(long, default_value_t = 1.0)]
    pub stability_score_offset: f32,
    /// Of masks of a crop whose boxes have a higher IoU the best is kept.
    #[arg(long, default_value_t = 0.7)]
    pub box_nms_thresh: f64,
    /// Layers of crops; layer n has 4^n crops.
    #[arg(long, default_value_t = 0)]
    pub crop_n_layers: u32,
    /// As --box-nms-thresh, between crops.
    #[arg(long, default_value_t = 0.7)]
    pub crop_nms_thresh: f64,
    /// Overlap of crops in the first layer, of the image's shorter side.
    #[arg(long, default_value_t = 512.0 / 1500.0)]
    pub crop_overlap_ratio: f64,
    /// Points along a side are divided by this from layer to layer.
    #[arg(long, default_value_t = 1)]
    pub crop_n_points_downscale_factor: usize,
    /// Remove holes and islands of fewer pixels; 0 leaves masks as they are.
    #[arg(long, default_value_t = 0)]
    pub min_mask_region_area: u64,
}

impl AmgOptions {
    /// Whether masks can be generated with these options.
    ///
    /// # Errors
    /// Numbers that are not finite or out of range, or under which no point is left.
    pub fn check(&self) -> Result<(), PredictError> {
        let refuse = |problem: String| Err(PredictError::Prompt(problem));
        for (option, value) in [
            ("pred-iou-thresh", self.pred_iou_thresh.into()),
            ("stability-score-thresh", self.stability_score_thresh.into()),
            ("stability-score-offset", self.stability_score_offset.into()),
            ("box-nms-thresh", self.box_nms_thresh),
            ("crop-nms-thresh", self.crop_nms_thresh),
        ] {
            if !f64::is_finite(value) {
                return refuse(format!("--{option} {value}: a finite number is needed"));
            }
        }
        for (option, value, most) in [
            ("points-per-side", self.points_per_side, MAX_POINTS_PER_SIDE),
            ("points-per-batch", self.points_per_batch, MAX_POINTS_PER_BATCH),
        ] {
            if !(1..=most).contains(&value) {
                return refuse(format!("--{option} {value}: 1 to {most} are possible"));
            }
        }
        if self.crop_n_points_downscale_factor == 0 {
            return refuse("--crop-n-points-downscale-factor is at least 1".into());
        }
        if self.crop_n_layers > MAX_LAYERS {
            return refuse(format!("--crop-n-layers is at most {MAX_LAYERS}: 4,096 crops"));
        }
        if !(0.0..1.0).contains(&self.crop_overlap_ratio) {
            return refuse("--crop-overlap-ratio is at least 0 and below 1".into());
        }
        if points_per_side(self, self.crop_n_layers) == 0 {
            return refuse("--points-per-side leaves no point in the last layer of crops".into());
        }
        Ok(())
    }
}

/// A mask found without a prompt of the user.
#[derive(Clone, Debug, PartialEq)]
pub struct GeneratedMask {
    /// The mask.
    pub rle: Rle,
    /// x_min, y_min, x_max, y_max as inclusive pixels.
    pub box_xyxy: [f32; 4],
    /// By SAM.
    pub predicted_iou: f32,
    /// IoU of the mask cut a bit higher and a bit lower.
    pub stability_score: f32,
    /// The point it was prompted with.
    pub point: [f64; 2],
    /// x0, y0, x1, y1 of the part of the image it was found in.
    pub crop_box: [usize; 4],
}

/// The masks of everything on an image.
///
/// # Errors
/// Options under which no point is left, or an image without pixels.
pub fn generate(
    predictor: &Predictor<'_>,
    image: &RgbRaster,
    options: &AmgOptions,
    mode: MaskMode,
) -> Result<Vec<GeneratedMask>, PredictError> {
    options.check()?;
    let size = (image.height, image.width);
    let crops = crops(size, options.crop_n_layers, options.crop_overlap_ratio);
    let mut masks = Vec::new();
    for crop in crops.iter().filter(|crop| !is_empty(crop)) {
        let generator = Generator { predictor, options, mode, crop, size };
        masks.extend(generator.masks(image)?);
    }
    if crops.len() > 1 {
        // Masks of smaller crops are preferred.
        let area = |[x0, y0, x1, y1]: [usize; 4]| ((x1 - x0) * (y1 - y0)) as f32;
        let scores: Vec<f32> = masks.iter().map(|mask| 1.0 / area(mask.crop_box)).collect();
        masks = keep(masks, &scores, options.crop_nms_thresh);
    }
    if options.min_mask_region_area > 0 {
        masks = clean(masks, options);
    }
    Ok(masks)
}

fn points_per_side(options: &AmgOptions, layer: u32) -> usize {
    options
        .crop_n_points_downscale_factor
        .checked_pow(layer)
        .map_or(0, |f| options.points_per_side / f)
}

fn is_empty(crop: &Crop) -> bool {
    let [x0, y0, x1, y1] = crop.box_xyxy;
    x0 >= x1 || y0 >= y1
}

/// The masks whose boxes suppress others, by falling score.
fn keep(masks: Vec<GeneratedMask>, scores: &[f32], threshold: f64) -> Vec<GeneratedMask> {
    let boxes: Vec<[f32; 4]> = masks.iter().map(|mask| mask.box_xyxy).collect();
    let mut masks: Vec<Option<GeneratedMask>> = masks.into_iter().map(Some).collect();
    nms(&boxes, scores, threshold).into_iter().filter_map(|index| masks[index].take()).collect()
}

/// Removes small regions and, of masks that have become alike, all but one: those that needed no
/// change are preferred.
fn clean(mut masks: Vec<GeneratedMask>, options: &AmgOptions) -> Vec<GeneratedMask> {
    let mut scores = Vec::with_capacity(masks.len());
    for mask in &mut masks {
        let changed =
            regions::without_small_regions(&mask.rle.to_mask(), options.min_mask_region_area);
        scores.push(if changed.is_some() { 0.0 } else { 1.0 });
        if let Some(changed) = changed {
            mask.box_xyxy = changed.box_xyxy().map_or([0.0; 4], |found| found.map(|at| at as f32));
            mask.rle = Rle::from_mask(&changed);
        }
    }
    keep(masks, &scores, options.box_nms_thresh.max(options.crop_nms_thresh))
}

/// Finds the masks of one crop.
struct Generator<'a> {
    predictor: &'a Predictor<'a>,
    options: &'a AmgOptions,
    mode: MaskMode,
    crop: &'a Crop,
    /// Height and width of the whole image.
    size: (usize, usize),
}

impl Generator<'_> {
    fn masks(&self, image: &RgbRaster) -> Result<Vec<GeneratedMask>, PredictError> {
        let encoded = self.predictor.encode(&cropped(image, self.crop.box_xyxy))?;
        let (height, width) = encoded.original_hw;
        let grid = point_grid(points_per_side(self.options, self.crop.layer));
        let points: Vec<[f64; 2]> =
            grid.iter().map(|[x, y]| [x * width as f64, y * height as f64]).collect();
        let at_once = match self.predictor.device() {
            Device::Cpu => self.options.points_per_batch.min(CPU_POINTS_AT_ONCE),
            _ => self.options.points_per_batch,
        };
        let mut masks = Vec::new();
        for points in points.chunks(at_once) {
            self.decode(&encoded, points, &mut masks);
        }
        let scores: Vec<f32> = masks.iter().map(|mask| mask.predicted_iou).collect();
        Ok(keep(masks, &scores, self.options.box_nms_thresh))
    }

    fn decode(&self, image: &EncodedImage, points: &[[f64; 2]], masks: &mut Vec<GeneratedMask>) {
        let (height, width) = image.original_hw;
        let prompts = single_points(points, image);
        let (logits, scores) = self.predictor.decode(image, &prompts, self.mode, true);
        let masks_each = scores.size()[1] as usize;
        let scores: Vec<f32> = Vec::try_from(scores.reshape([-1])).unwrap_or_default();
        let threshold = self.options.pred_iou_thresh;
        let good: Vec<usize> = (0..scores.len())
            .filter(|&index| threshold <= 0.0 || scores[index] > threshold)
            .collect();
        let logits = logits.flatten(0, 1).unsqueeze(1);
        for part in good.chunks((PIXELS_AT_ONCE / (height * width)).max(1)) {
            let places: Vec<i64> = part.iter().map(|&index| index as i64).collect();
            let places = Tensor::from_slice(&places).to_device(logits.device());
            let columns =
                self.predictor.upsample_transposed(image, &logits.index_select(0, &places));
            for (row, &index) in (0..).zip(part) {
                let columns = columns.get(row).reshape([-1]).to_device(Device::Cpu);
                let columns: Vec<f32> = Vec::try_from(columns).unwrap_or_default();
                if let Some(found) = self.mask(&columns, height) {
                    let [x, y] = points[index / masks_each];
                    let [x0, y0, ..] = self.crop.box_xyxy;
                    let point = [x + x0 as f64, y + y0 as f64];
                    masks.push(GeneratedMask { predicted_iou: scores[index], point, ..found });
                }
            }
        }
    }

    /// The mask of logits in the order of columns, unless it is unstable or cut off by its crop.
    fn mask(&self, columns: &[f32], height: usize) -> Option<GeneratedMask> {
        let offset = self.options.stability_score_offset;
        let count = |cut: f32| columns.iter().filter(|&&logit| logit > cut).count() as f32;
        let stability_score = count(offset) / count(-offset);
        let threshold = self.options.stability_score_thresh;
        // Without a pixel above the lower cut the score is no number, and not enough.
        if threshold > 0.0 && (stability_score.is_nan() || stability_score < threshold) {
            return None;
        }
        let [crop_x, crop_y, ..] = self.crop.box_xyxy;
        let mut runs = Runs::default();
        let mut found: Option<[usize; 4]> = None;
        for (x, column) in columns.chunks_exact(height).enumerate() {
            let Some(top) = column.iter().position(|&logit| logit > 0.0) else { continue };
            let bottom = column.iter().rposition(|&logit| logit > 0.0).unwrap_or(top);
            found = Some(found.map_or([x, top, x, bottom], |[x_min, y_min, _, y_max]| {
                [x_min, y_min.min(top), x, y_max.max(bottom)]
            }));
            let start = (x + crop_x) * self.size.0 + crop_y + top;
            runs.add_column(start, column[top..=bottom].iter().map(|&logit| logit > 0.0));
        }
        let corner = [crop_x, crop_y, crop_x, crop_y];
        let found = found.unwrap_or_default();
        let box_xyxy: [f32; 4] = std::array::from_fn(|side| (found[side] + corner[side]) as f32);
        if is_near_crop_edge(box_xyxy, self.crop, self.size) {
            return None;
        }
        Some(GeneratedMask {
            rle: runs.finish(self.size.0, self.size.1),
            box_xyxy,
            predicted_iou: 0.0,
            stability_score,
            point: [0.0; 2],
            crop_box: self.crop.box_xyxy,
        })
    }
}

fn cropped(image: &RgbRaster, [x0, y0, x1, y1]: [usize; 4]) -> RgbRaster {
    let rows = image.pixels.chunks_exact(image.width * 3).skip(y0).take(y1 - y0);
    let pixels = rows.flat_map(|row| &row[3 * x0..3 * x1]).copied().collect();
    RgbRaster { height: y1 - y0, width: x1 - x0, pixels }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(clap::Parser)]
    struct Call {
        #[command(flatten)]
        options: AmgOptions,
    }

    #[test]
    fn options_without_a_meaning_are_refused_by_name() {
        let check = |option: &str, value: &str| {
            Call::parse_from(["amg", &format!("--{option}={value}")]).options.check()
        };
        for (option, value) in [
            ("points-per-side", "99999999999"),
            ("points-per-side", "0"),
            ("points-per-batch", "0"),
            ("points-per-batch", "99999999999"),
            ("pred-iou-thresh", "nan"),
            ("stability-score-thresh", "inf"),
            ("stability-score-offset", "nan"),
            ("box-nms-thresh", "nan"),
            ("crop-nms-thresh", "-inf"),
            ("crop-n-layers", "7"),
            ("crop-overlap-ratio", "nan"),
            ("crop-n-points-downscale-factor", "0"),
        ] {
            let error = check(option, value).unwrap_err().to_string();
            assert!(error.starts_with(&format!("--{option} ")), "{option}={value}: {error}");
        }
        assert!(check("points-per-side", "1024").is_ok());
        assert!(check("stability-score-offset", "0").is_ok());
    }
}
