//! Prompts in pixels of the original image, and the tensors they become.

use std::collections::BTreeMap;
use std::path::Path;

use dataset::codec::{DecodeLimits, decode_mask};
use dataset::raster::Mask255;
use tch::{Device, Kind, Tensor};

use super::resize::input_size;
use super::{EncodedImage, PredictError};
use crate::model::PromptBatch;
use crate::weights;

/// What an object is prompted with: any combination, but not nothing.
#[derive(Clone, Debug, Default)]
pub struct ImagePrompt {
    /// Box, x0 y0 x1 y1.
    pub box_xyxy: Option<[f32; 4]>,
    /// Points, x y.
    pub points: Vec<[f32; 2]>,
    /// 1 for foreground, 0 for background; one per point.
    pub point_labels: Vec<f32>,
    /// Mask.
    pub mask: Option<MaskInput>,
}

/// A mask prompt at the resolution of the logits, in the frame of the encoder's square input.
#[derive(Clone, Debug, PartialEq)]
pub struct MaskInput {
    /// Side in pixels, 256 for published sizes.
    pub side: usize,
    /// `side * side` values, row by row.
    pub values: Vec<f32>,
}

impl MaskInput {
    /// A mask of the image's size. HQ-SAM is trained on mask prompts of 0 to 255, not on logits,
    /// so these are the values; the padding is 0.
    ///
    /// # Errors
    /// A mask of another size than the image.
    pub fn from_mask(
        mask: &Mask255,
        original_hw: (usize, usize),
        side: usize,
    ) -> Result<Self, PredictError> {
        if (mask.height, mask.width) != original_hw {
            return Err(PredictError::Prompt(format!(
                "the mask has {} x {} pixels, the image {} x {}",
                mask.width, mask.height, original_hw.1, original_hw.0
            )));
        }
        let (height, width) = input_size(original_hw, side);
        let (height, width) = (height as i64, width as i64);
        let pixels = Tensor::from_slice(&mask.pixels).to_kind(Kind::Float);
        let small = pixels
            .view([1, 1, mask.height as i64, mask.width as i64])
            .internal_upsample_bilinear2d_aa([height, width], false, None, None)
            .constant_pad_nd([0, side as i64 - width, 0, side as i64 - height]);
        Ok(Self { side, values: Vec::try_from(small.reshape([-1])).unwrap_or_default() })
    }

    /// Reads a mask prompt: the logits of an earlier prediction (`.safetensors` with one mask in
    /// the tensor `low_res_logits`), or a mask image of the image's size.
    ///
    /// # Errors
    /// An unreadable file, or one of another size.
    pub fn read(
        path: &Path,
        original_hw: (usize, usize),
        side: usize,
    ) -> Result<Self, PredictError> {
        let problem = |problem: String| PredictError::Image { path: path.to_owned(), problem };
        if path.extension().is_some_and(|extension| extension == "safetensors") {
            let state = weights::load(path).map_err(|error| problem(error.to_string()))?.state;
            let logits = state.get("low_res_logits").ok_or_else(|| {
                problem("holds no tensor `low_res_logits`, as --logits writes it".into())
            })?;
            if logits.numel() != side * side || logits.size().last() != Some(&(side as i64)) {
                return Err(problem(format!(
                    "its logits have shape {:?}, one mask of {side} x {side} is needed",
                    logits.size()
                )));
            }
            let values = Vec::try_from(logits.to_kind(Kind::Float).reshape([-1]));
            return Ok(Self { side, values: values.unwrap_or_default() });
        }
        let bytes = std::fs::read(path).map_err(|error| problem(error.to_string()))?;
        let mask = decode_mask(&bytes, &DecodeLimits::default())
            .map_err(|reason| problem(reason.to_string()))?;
        Self::from_mask(&mask, original_hw, side).map_err(|error| problem(error.to_string()))
    }
}

/// How a prompt's box lies on its image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BoxFit {
    /// Within it, or there is no box.
    Inside,
    /// It stuck out and was cut at the edges.
    Cut,
    /// Without width or height, or beside the image.
    Empty,
}

impl ImagePrompt {
    /// Cuts the box at the edges of an image of that height and width. One of which nothing would be
    /// left stays as it is, to be named as it was given.
    pub fn fit_box(&mut self, (height, width): (usize, usize)) -> BoxFit {
        let Some(given) = self.box_xyxy else { return BoxFit::Inside };
        let sides = [width, height, width, height];
        let cut = std::array::from_fn(|at| given[at].clamp(0.0, sides[at] as f32));
        if cut[0] >= cut[2] || cut[1] >= cut[3] || given.iter().any(|at| at.is_nan()) {
            return BoxFit::Empty;
        }
        self.box_xyxy = Some(cut);
        if cut == given { BoxFit::Inside } else { BoxFit::Cut }
    }

    /// Whether the prompt can be used on an image of that height and width.
    ///
    /// # Errors
    /// Nothing prompted, a place outside the image, an empty box, or a mask of another size.
    pub fn check(
        &self,
        (height, width): (usize, usize),
        logits_side: usize,
    ) -> Result<(), PredictError> {
        let inside = |x: f32, y: f32| {
            (0.0..=width as f32).contains(&x) && (0.0..=height as f32).contains(&y)
        };
        let refuse = |problem: String| Err(PredictError::Prompt(problem));
        let outside = |what: String| {
            refuse(format!(
                "{what} is not within the image of {width} x {height} pixels (width x height)"
            ))
        };
        if let Some([x0, y0, x1, y1]) = self.box_xyxy {
            if !(x0 < x1 && y0 < y1) {
                return refuse(format!(
                    "the box {x0},{y0},{x1},{y1} is empty; give x0,y0,x1,y1 with x0 < x1 and y0 < y1"
                ));
            }
            if !(inside(x0, y0) && inside(x1, y1)) {
                return outside(format!("the box {x0},{y0},{x1},{y1}"));
            }
        }
        if let Some([x, y]) = self.points.iter().find(|[x, y]| !inside(*x, *y)) {
            return outside(format!("the point {x},{y}"));
        }
        if self.points.len() != self.point_labels.len() {
            return refuse("every point needs a label".into());
        }
        if let Some(mask) = self.mask.as_ref().filter(|mask| mask.side != logits_side) {
            return refuse(format!(
                "the mask prompt is {0} x {0}, the model takes {logits_side} x {logits_side}",
                mask.side
            ));
        }
        if self.box_xyxy.is_none() && self.points.is_empty() && self.mask.is_none() {
            return refuse("no prompt: a box, a point or a mask is needed".into());
        }
        Ok(())
    }
}

/// Indices of prompts that are decoded together: those with the same number of points, box or
/// none, mask or none. Padding points would make others alike as well, but each is a token of its
/// own to the decoder and changes the mask.
pub(super) fn groups(prompts: &[ImagePrompt]) -> Vec<Vec<usize>> {
    let mut groups: BTreeMap<(usize, bool, bool), Vec<usize>> = BTreeMap::new();
    for (index, prompt) in prompts.iter().enumerate() {
        let form = (prompt.points.len(), prompt.box_xyxy.is_some(), prompt.mask.is_some());
        groups.entry(form).or_default().push(index);
    }
    groups.into_values().collect()
}

/// Prompts of one form as tensors in pixels of the encoder's input.
pub(super) fn batch(
    prompts: &[&ImagePrompt],
    original_hw: (usize, usize),
    input_hw: (usize, usize),
) -> PromptBatch {
    let scale_x = input_hw.1 as f32 / original_hw.1 as f32;
    let scale_y = input_hw.0 as f32 / original_hw.0 as f32;
    let count = prompts.len() as i64;
    let tensor = |values: Vec<f32>, shape: &[i64]| {
        (!values.is_empty()).then(|| Tensor::from_slice(&values).view(shape))
    };
    let boxes = prompts.iter().filter_map(|prompt| prompt.box_xyxy);
    let boxes =
        boxes.flat_map(|[x0, y0, x1, y1]| [x0 * scale_x, y0 * scale_y, x1 * scale_x, y1 * scale_y]);
    let coords = prompts.iter().flat_map(|prompt| &prompt.points);
    let coords = coords.flat_map(|[x, y]| [x * scale_x, y * scale_y]);
    let labels = prompts.iter().flat_map(|prompt| prompt.point_labels.iter().copied());
    let masks: Vec<&MaskInput> = prompts.iter().filter_map(|prompt| prompt.mask.as_ref()).collect();
    let side = masks.first().map_or(0, |mask| mask.side as i64);
    let values = masks.iter().flat_map(|mask| mask.values.iter().copied());
    PromptBatch::Mixed {
        points: tensor(coords.collect(), &[count, -1, 2])
            .zip(tensor(labels.collect(), &[count, -1])),
        boxes: tensor(boxes.collect(), &[count, 4]),
        masks: tensor(values.collect(), &[count, 1, side, side]),
    }
}

/// One foreground point of the image a prompt.
pub(crate) fn single_points(points: &[[f64; 2]], image: &EncodedImage) -> PromptBatch {
    let count = points.len() as i64;
    let scale_x = image.input_hw.1 as f64 / image.original_hw.1 as f64;
    let scale_y = image.input_hw.0 as f64 / image.original_hw.0 as f64;
    let coords: Vec<f32> =
        points.iter().flat_map(|[x, y]| [(x * scale_x) as f32, (y * scale_y) as f32]).collect();
    PromptBatch::Points {
        coords: Tensor::from_slice(&coords).view([count, 1, 2]),
        labels: Tensor::ones([count, 1], (Kind::Float, Device::Cpu)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(prompt: &ImagePrompt) -> String {
        prompt.check((10, 10), 256).err().unwrap().to_string()
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let in_box = |corners| ImagePrompt { box_xyxy: Some(corners), ..ImagePrompt::default() };
        let error = problem(&in_box([1.0, 1.0, 50.0, 5.0]));
        assert!(error.contains("not within the image of 10 x 10"), "{error}");
        assert!(problem(&in_box([5.0, 1.0, 5.0, 5.0])).contains("is empty"));
        assert!(problem(&ImagePrompt::default()).contains("no prompt"));
        let mask = Some(MaskInput { side: 64, values: vec![0.0; 64 * 64] });
        let error = problem(&ImagePrompt { mask, ..ImagePrompt::default() });
        assert!(error.contains("64 x 64, the model takes 256 x 256"), "{error}");
    }

    #[test]
    fn a_box_is_cut_at_the_edges_of_its_image() {
        let fitted = |corners| {
            let mut prompt = ImagePrompt { box_xyxy: Some(corners), ..ImagePrompt::default() };
            let fit = prompt.fit_box((10, 20));
            (fit, prompt.box_xyxy.unwrap())
        };
        let inside = [0.0, 1.0, 20.0, 10.0];
        assert_eq!(fitted(inside), (BoxFit::Inside, inside));
        assert_eq!(fitted([-5.0, 1.0, 50.0, 99.0]), (BoxFit::Cut, inside));
        for empty in [
            [1.0, 1.0, 1.0, 9.0],
            [5.0, 1.0, 4.0, 9.0],
            [21.0, 1.0, 30.0, 9.0],
            [-9.0, 1.0, -1.0, 9.0],
        ] {
            assert_eq!(fitted(empty), (BoxFit::Empty, empty));
        }
        assert_eq!(ImagePrompt::default().fit_box((10, 20)), BoxFit::Inside);
    }

    #[test]
    fn a_mask_keeps_its_values_and_is_padded_with_background() {
        let mask = Mask255 { height: 512, width: 1024, pixels: vec![255; 512 * 1024] };
        let input = MaskInput::from_mask(&mask, (512, 1024), 256).unwrap();
        let (upper, lower) = input.values.split_at(128 * 256);
        assert!(upper.iter().all(|&value| (value - 255.0).abs() < 1e-3));
        assert!(lower.iter().all(|&value| value == 0.0));
        let error = MaskInput::from_mask(&mask, (512, 512), 256).unwrap_err().to_string();
        assert!(error.contains("1024 x 512 pixels, the image 512 x 512"), "{error}");
    }

    #[test]
    fn only_prompts_of_one_form_go_together() {
        let point = |count| ImagePrompt {
            points: vec![[1.0, 1.0]; count],
            point_labels: vec![1.0; count],
            ..ImagePrompt::default()
        };
        assert_eq!(groups(&[point(1), point(2), point(1)]), [vec![0, 2], vec![1]]);
    }
}
