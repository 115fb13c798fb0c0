//! Draws the points at which the loss of each mask is taken; [`crate::loss`] applies them.

use dataset::rng::{Draw, sample_rng};
use rand::RngExt;
use tch::Device;

use crate::loss::{LossConfig, LossPoints};

/// The points of one step's samples: for each mask `oversample_ratio * num_points` candidates and
/// `(1 - importance_ratio) * num_points` unconditioned ones, uniform in the unit square, from the
/// generator of (seed, epoch, sample id). They depend on nothing else, so the loss of a sample is
/// the same on any rank.
#[must_use]
pub fn draw_loss_points(
    config: &LossConfig,
    seed: u64,
    epoch: u64,
    sample_ids: &[&str],
    device: Device,
) -> LossPoints {
    let count = |points: i64| usize::try_from(points).unwrap_or(0) * 2;
    let (num_candidates, num_random) = (count(config.num_candidates()), count(config.num_random()));
    let mut candidates = Vec::with_capacity(sample_ids.len() * num_candidates);
    let mut random = Vec::with_capacity(sample_ids.len() * num_random);
    for sample_id in sample_ids {
        let mut rng = sample_rng(seed, epoch, sample_id, Draw::LossPoints);
        candidates.extend((0..num_candidates).map(|_| rng.random::<f32>()));
        random.extend((0..num_random).map(|_| rng.random::<f32>()));
    }
    LossPoints::from_values(&candidates, &random, sample_ids.len() as i64, config, device)
}
