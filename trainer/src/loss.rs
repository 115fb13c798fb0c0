//! The loss: binary cross-entropy and dice at points drawn where the mask is uncertain.
//!
//! Points are drawn elsewhere and applied here, so a step can be replayed exactly.
//! B masks, N points, (x, y) in 0..1 over the mask.

use tch::{Kind, Reduction, Tensor, no_grad};

use crate::upload::upload;

/// Points at which a mask is compared, 112 x 112.
pub const NUM_POINTS: i64 = 12_544;
/// Candidates drawn for each point.
pub const OVERSAMPLE_RATIO: f64 = 3.0;
/// Share of the points taken from the most uncertain candidates.
pub const IMPORTANCE_RATIO: f64 = 0.75;
/// Added above and below the dice fraction.
const DICE_SMOOTHING: f64 = 1.0;

/// How many points, and which.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LossConfig {
    /// Points at which each mask is compared.
    pub num_points: i64,
    /// Candidates drawn for each point.
    pub oversample_ratio: f64,
    /// Share of the points taken from the most uncertain candidates.
    pub importance_ratio: f64,
}

impl Default for LossConfig {
    fn default() -> Self {
        Self {
            num_points: NUM_POINTS,
            oversample_ratio: OVERSAMPLE_RATIO,
            importance_ratio: IMPORTANCE_RATIO,
        }
    }
}

impl LossConfig {
    /// Candidates of each mask.
    pub fn num_candidates(&self) -> i64 {
        (self.num_points as f64 * self.oversample_ratio) as i64
    }

    /// Points taken from the candidates.
    pub fn num_uncertain(&self) -> i64 {
        (self.num_points as f64 * self.importance_ratio) as i64
    }

    /// Points used as drawn.
    pub fn num_random(&self) -> i64 {
        self.num_points - self.num_uncertain()
    }
}

/// Drawn points of B masks.
#[derive(Debug)]
pub struct LossPoints {
    /// (B, candidates, 2)
    pub candidates: Tensor,
    /// (B, random, 2)
    pub random: Tensor,
}

impl LossPoints {
    /// From values mask by mask, x before y; the lengths must be B times those of `config`, times 2.
    pub fn from_values(
        candidates: &[f32],
        random: &[f32],
        batch: i64,
        config: &LossConfig,
        device: tch::Device,
    ) -> Self {
        let shaped = |values: &[f32], count: i64| upload(values, device).view([batch, count, 2]);
        Self {
            candidates: shaped(candidates, config.num_candidates()),
            random: shaped(random, config.num_random()),
        }
    }
}

/// Both terms, each summed over the masks and divided by their number.
#[derive(Debug)]
pub struct MaskLoss {
    /// Binary cross-entropy, without dimensions.
    pub loss_mask: Tensor,
    /// Dice loss, without dimensions.
    pub loss_dice: Tensor,
}

impl MaskLoss {
    /// The sum that is minimised.
    pub fn total(&self) -> Tensor {
        &self.loss_mask + &self.loss_dice
    }
}

/// The loss of logits (B, 1, h, w) against a target (B, 1, H, W) in 0..1, soft edges kept.
pub fn point_sampled_loss(
    hq_logits: &Tensor,
    target: &Tensor,
    points: &LossPoints,
    config: &LossConfig,
) -> MaskLoss {
    let (points, labels) = no_grad(|| {
        let points = choose_points(hq_logits, points, config);
        let labels = sample(target, &points);
        (points, labels)
    });
    let logits = sample(hq_logits, &points);
    let weight = None::<&Tensor>;
    let loss_mask =
        logits.binary_cross_entropy_with_logits(&labels, weight, weight, Reduction::Mean);
    let probabilities = logits.sigmoid();
    let sum = |x: &Tensor| x.sum_dim_intlist(-1, false, Kind::Float);
    let overlap = sum(&(&probabilities * &labels)) * 2.0 + DICE_SMOOTHING;
    let size = sum(&probabilities) + sum(&labels) + DICE_SMOOTHING;
    let loss_dice = (overlap / size * -1.0 + 1.0).mean(Kind::Float);
    MaskLoss { loss_mask, loss_dice }
}

/// The candidates whose logits are nearest to 0, then the random points: (B, N, 2).
fn choose_points(logits: &Tensor, points: &LossPoints, config: &LossConfig) -> Tensor {
    let uncertainty = -sample(logits, &points.candidates).abs();
    let (_, index) = uncertainty.topk(config.num_uncertain(), 1, true, false);
    let index = index.unsqueeze(-1).expand([-1, -1, 2], false);
    Tensor::cat(&[&points.candidates.gather(1, &index, false), &points.random], 1)
}

/// Bilinear values of a map (B, 1, H, W) at points (B, N, 2), zero outside: (B, N).
fn sample(map: &Tensor, points: &Tensor) -> Tensor {
    const BILINEAR: i64 = 0;
    const ZEROS: i64 = 0;
    let grid = (points * 2.0 - 1.0).unsqueeze(2);
    map.grid_sampler(&grid, BILINEAR, ZEROS, false).squeeze_dim(3).squeeze_dim(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: LossConfig =
        LossConfig { num_points: 4, oversample_ratio: 3.0, importance_ratio: 0.75 };

    fn grid_points(indices: &[(i64, i64)], side: f32) -> Vec<f32> {
        indices
            .iter()
            .flat_map(|&(x, y)| [(x as f32 + 0.5) / side, (y as f32 + 0.5) / side])
            .collect()
    }

    #[test]
    fn uncertain_candidates_are_chosen_and_both_terms_match_by_hand() {
        // Logits 0.1 * (column + 4 * row) - 0.8 on a 4 x 4 map, so small ones lie in the middle.
        let logits =
            (Tensor::arange(16, (Kind::Float, tch::Device::Cpu)) * 0.1 - 0.8).view([1, 1, 4, 4]);
        let target = logits.gt(0.0).to_kind(Kind::Float);
        let all: Vec<(i64, i64)> = (0..12).map(|i| (i % 4, i / 4)).collect();
        let candidates = grid_points(&all, 4.0);
        let random = grid_points(&[(3, 3)], 4.0);
        let points = LossPoints::from_values(&candidates, &random, 1, &SMALL, tch::Device::Cpu);
        let loss = point_sampled_loss(&logits, &target, &points, &SMALL);
        let chosen = [(0.0_f64, 0.0), (-0.1, 0.0), (0.1, 1.0), (0.7, 1.0)];
        let bce: f64 = chosen.iter().map(|(x, t)| (1.0 + x.exp()).ln() - x * t).sum::<f64>() / 4.0;
        let p: Vec<f64> = chosen.iter().map(|(x, _)| 1.0 / (1.0 + (-x).exp())).collect();
        let dice = 1.0 - (2.0 * (p[2] + p[3]) + 1.0) / (p.iter().sum::<f64>() + 2.0 + 1.0);
        assert!((loss.loss_mask.double_value(&[]) - bce).abs() < 1e-5);
        assert!((loss.loss_dice.double_value(&[]) - dice).abs() < 1e-5);
    }

    #[test]
    fn huge_logits_stay_finite() {
        let logits = Tensor::full([1, 1, 4, 4], 1e4, (Kind::Float, tch::Device::Cpu));
        let points = LossPoints::from_values(&[0.5; 24], &[0.5; 2], 1, &SMALL, tch::Device::Cpu);
        let loss = point_sampled_loss(&logits, &logits.zeros_like(), &points, &SMALL);
        assert!((loss.loss_mask.double_value(&[]) - 1e4).abs() < 1.0);
    }
}
