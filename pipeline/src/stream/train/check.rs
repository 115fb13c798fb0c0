//! What a recipe may ask for.

use dataset::order::World;

use super::super::dataset::Dataset;
use super::super::{Position, StreamError};
use super::TrainRecipe;

/// Most rows and columns of a sample; SAM's are 1,024.
const MAX_OUTPUT_SIZE: usize = 8192;
/// Most batches that a stream may prepare ahead.
pub const MAX_PREFETCH_BATCHES: usize = 1024;

pub(super) fn check(
    dataset: &Dataset,
    recipe: &TrainRecipe,
    world: &World,
    num_samples: u64,
    start: Position,
    steps_per_epoch: u64,
) -> Result<(), StreamError> {
    let global_batch = recipe.global_batch;
    let message = if global_batch < world.world_size {
        format!(
            "a global batch of {global_batch} leaves some of {} ranks without a sample: use a \
             larger one (`train.global_batch`, `--global-batch`)",
            world.world_size
        )
    } else if steps_per_epoch == 0 {
        format!(
            "a global batch of {global_batch} is more than the split's {num_samples} samples: use \
             a smaller one (`train.global_batch`, `--global-batch`)"
        )
    } else if start.step > steps_per_epoch {
        format!(
            "step {} of epoch {}: an epoch has {steps_per_epoch} steps",
            start.step, start.epoch
        )
    } else if !(0.0..=1.0).contains(&recipe.flip_probability) {
        format!("flip_probability {} is not within 0..=1", recipe.flip_probability)
    } else if !(1..=MAX_OUTPUT_SIZE).contains(&recipe.output_size) {
        format!("a size of {} is not within 1..={MAX_OUTPUT_SIZE}", recipe.output_size)
    } else if (start.epoch.checked_add(1))
        .and_then(|end| end.checked_mul(steps_per_epoch))
        .is_none()
    {
        format!(
            "epoch {}: an epoch has {steps_per_epoch} steps, so many cannot be counted",
            start.epoch
        )
    } else if recipe.prefetch_batches > MAX_PREFETCH_BATCHES {
        format!(
            "{} batches prepared ahead are more than {MAX_PREFETCH_BATCHES}",
            recipe.prefetch_batches
        )
    } else if let Err(message) = recipe.prompts.check() {
        message
    } else if let Some(Err(message)) = recipe.color_jitter.map(|jitter| jitter.check()) {
        message
    } else if let Some(jitter) =
        recipe.jitter.filter(|jitter| jitter.output_size != recipe.output_size)
    {
        format!(
            "the jitter makes {} pixels but output_size is {}",
            jitter.output_size, recipe.output_size
        )
    } else {
        return Ok(());
    };
    Err(StreamError::Settings {
        location: dataset.location().to_owned(),
        split: recipe.split.clone(),
        message,
    })
}
