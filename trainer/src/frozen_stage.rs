//! The frozen half of a step: a batch in memory becomes what the decoder and the loss take.

use std::sync::Arc;

use tch::{Device, Tensor};

use crate::batch::{group_prompts, to_tensors};
use crate::feature_cache::{self, FeatureCache};
use crate::model::{Encoders, ImageFeatures, PromptEmbeddings};
use crate::part_clock::{PartClock, StepTimes};

/// Encodes batches; may be sent to another thread, since nothing in it is trained.
#[derive(Clone)]
pub struct FrozenStage {
    /// The frozen encoders.
    pub encoders: Encoders,
    /// Features of samples that come again.
    pub feature_cache: Option<Arc<FeatureCache>>,
    /// Whether training samples come again at all. Where they do not, the cache is for evaluations.
    pub pixels_repeat: bool,
    /// Samples that go through the model at once.
    pub micro_batch: usize,
}

/// Samples that go through the model at once, with everything frozen done.
pub struct EncodedPart {
    /// Of each sample.
    pub features: ImageFeatures,
    /// f32 in 0..1, B x 1 x H x W.
    pub target_b1hw: Tensor,
    /// Prompts that are decoded in one call.
    pub groups: Vec<EmbeddedGroup>,
}

/// Embedded prompts of one kind.
pub struct EmbeddedGroup {
    /// The sample of each prompt, counted from the first of the batch.
    pub samples: Vec<usize>,
    /// The same, counted from the first of the part.
    pub indices: Vec<i64>,
    /// The prompts.
    pub prompts: PromptEmbeddings,
}

impl EncodedPart {
    /// Every tensor in it.
    pub(crate) fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        let ImageFeatures { image_embeddings, interm_embeddings } = &self.features;
        let prompts = self.groups.iter().flat_map(|group| {
            [&group.prompts.sparse_prompt_embeddings, &group.prompts.dense_prompt_embeddings]
        });
        [image_embeddings, interm_embeddings, &self.target_b1hw].into_iter().chain(prompts)
    }
}

impl FrozenStage {
    /// Where it computes.
    #[must_use]
    pub fn device(&self) -> Device {
        self.encoders.device()
    }

    /// First and past-the-last sample of each part of a batch.
    pub fn parts_of(
        &self,
        batch: &pipeline::Batch,
    ) -> impl Iterator<Item = (usize, usize)> + use<> {
        let (local, micro_batch) = (batch.sample_ids.len(), self.micro_batch);
        (0..local).step_by(micro_batch).map(move |from| (from, (from + micro_batch).min(local)))
    }

    /// Samples `from..to`: images encoded once, prompts embedded once per kind.
    pub fn encode(
        &self,
        batch: &pipeline::Batch,
        from: usize,
        to: usize,
        clock: &mut PartClock,
        times: &mut StepTimes,
    ) -> EncodedPart {
        let device = self.device();
        let tensors = to_tensors(batch, from, to, device);
        let image_bytes = batch.height * batch.width * 3;
        let pixels = &batch.images[from * image_bytes..to * image_bytes];
        let cache = self.feature_cache.as_deref().filter(|_| self.pixels_repeat);
        let features =
            feature_cache::encode(&self.encoders, cache, &tensors.images_u8_bhwc, pixels);
        times.encode += clock.lap();

        // Prompts of each sample; they share its features and its target.
        let each = batch.prompts.len() / batch.sample_ids.len().max(1);
        let groups = group_prompts(&batch.prompts[from * each..to * each], device)
            .into_iter()
            .map(|group| {
                let within = group.indices.iter().map(|&index| index / each);
                EmbeddedGroup {
                    samples: within.clone().map(|sample| from + sample).collect(),
                    indices: within.map(|sample| sample as i64).collect(),
                    prompts: self.encoders.embed_prompts(&group.prompts),
                }
            })
            .collect();
        times.decode += clock.lap();
        EncodedPart { features, target_b1hw: tensors.target_b1hw, groups }
    }
}
