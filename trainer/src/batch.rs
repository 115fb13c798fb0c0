//! Memory becomes tensors here, once.

use dataset::prompt::{NOISE_MASK_SIZE, Prompt};
use tch::{Device, Kind, Tensor};

use crate::model::PromptBatch;
use crate::upload::upload;

/// The part of a batch that goes through the model at once, as tensors on the device.
pub struct TensorBatch {
    /// u8, B x H x W x 3.
    pub images_u8_bhwc: Tensor,
    /// f32 in 0..1, B x 1 x H x W: greys are kept, as in the published loss.
    pub target_b1hw: Tensor,
}

/// Copies samples `from..to` of the batch to `device`.
#[must_use]
pub fn to_tensors(batch: &pipeline::Batch, from: usize, to: usize, device: Device) -> TensorBatch {
    let (height, width) = (batch.height, batch.width);
    let image_bytes = height * width * 3;
    let mask_bytes = height * width;
    let shape = [(to - from) as i64, height as i64, width as i64];
    let images = upload(&batch.images[from * image_bytes..to * image_bytes], device);
    let masks = upload(&batch.masks[from * mask_bytes..to * mask_bytes], device);
    TensorBatch {
        images_u8_bhwc: images.view([shape[0], shape[1], shape[2], 3]),
        target_b1hw: masks.view([shape[0], 1, shape[1], shape[2]]).to_kind(Kind::Float) / 255.0,
    }
}

/// Samples whose prompts can be embedded and decoded in one call.
pub struct PromptGroup {
    /// Positions within the prompts given to [`group_prompts`].
    pub indices: Vec<usize>,
    /// Their prompts.
    pub prompts: PromptBatch,
}

/// Groups prompts by kind (and number of points), keeping the order within each group.
#[must_use]
pub fn group_prompts(prompts: &[Prompt], device: Device) -> Vec<PromptGroup> {
    let mut groups: Vec<(GroupKey, Vec<usize>)> = Vec::new();
    for (index, prompt) in prompts.iter().enumerate() {
        let key = GroupKey::of(prompt);
        match groups.iter_mut().find(|(other, _)| *other == key) {
            Some((_, indices)) => indices.push(index),
            None => groups.push((key, vec![index])),
        }
    }
    groups
        .into_iter()
        .map(|(_, indices)| {
            let members: Vec<&Prompt> = indices.iter().map(|&index| &prompts[index]).collect();
            PromptGroup { prompts: prompt_batch(&members, device), indices }
        })
        .collect()
}

#[derive(PartialEq, Eq)]
enum GroupKey {
    Box,
    Points(usize),
    NoiseMask,
}

impl GroupKey {
    fn of(prompt: &Prompt) -> Self {
        match prompt {
            Prompt::Box(_) => Self::Box,
            Prompt::Points { coords, .. } => Self::Points(coords.len()),
            Prompt::NoiseMask(_) => Self::NoiseMask,
        }
    }
}

/// One [`PromptBatch`] of prompts of the same kind (and number of points).
fn prompt_batch(prompts: &[&Prompt], device: Device) -> PromptBatch {
    let batch = prompts.len() as i64;
    let mut values: Vec<f32> = Vec::new();
    let mut point_labels: Vec<f32> = Vec::new();
    for prompt in prompts {
        match prompt {
            Prompt::Box(xyxy) => values.extend_from_slice(xyxy),
            Prompt::Points { coords, labels } => {
                values.extend(coords.iter().flatten());
                point_labels.extend_from_slice(labels);
            }
            Prompt::NoiseMask(mask) => values.extend(mask.iter().map(|&value| f32::from(value))),
        }
    }
    let values = upload(&values, device);
    match prompts.first() {
        Some(Prompt::Points { .. }) => PromptBatch::Points {
            coords: values.view([batch, -1, 2]),
            labels: upload(&point_labels, device).view([batch, -1]),
        },
        Some(Prompt::NoiseMask(_)) => {
            let side = NOISE_MASK_SIZE as i64;
            PromptBatch::Masks(values.view([batch, 1, side, side]))
        }
        _ => PromptBatch::Boxes(values.view([batch, 4])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_are_grouped_by_kind_in_order() {
        let points =
            |n: usize| Prompt::Points { coords: vec![[1.0, 2.0]; n], labels: vec![1.0; n] };
        let prompts = [
            Prompt::Box([0.0, 0.0, 4.0, 4.0]),
            points(10),
            Prompt::Box([1.0, 1.0, 2.0, 2.0]),
            points(3),
        ];
        let groups = group_prompts(&prompts, Device::Cpu);
        let indices: Vec<_> = groups.iter().map(|group| group.indices.clone()).collect();
        assert_eq!(indices, [vec![0, 2], vec![1], vec![3]]);
        let PromptBatch::Boxes(boxes) = &groups[0].prompts else { panic!("boxes expected") };
        assert_eq!(boxes.size(), [2, 4]);
        assert_eq!(boxes.double_value(&[1, 2]), 2.0);
    }
}
