//! What training may change, counted at its start, and the proof at its end that it changed nothing
//! else.

use std::collections::BTreeSet;

use tch::{Device, Kind, Tensor};

use super::TrainError;
use crate::model::SamHq;

/// Tensors of the HQ part.
const TRAINED_TENSORS: usize = 25;

/// Checksums of the frozen tensors as they were at the start, those that compute and those that an
/// export holds.
pub(super) struct Frozen(Vec<(String, i64)>);

impl Frozen {
    /// Counts the trained values and records the frozen ones.
    ///
    /// # Errors
    /// Another number than the encoder's, which would be a bug of ours.
    pub(super) fn record(model: &SamHq) -> Result<Self, TrainError> {
        let parameters = model.hq_parameters();
        let values: usize = parameters.iter().map(|(_, tensor)| tensor.numel()).sum();
        let due = model.config().num_trained_values();
        let is_leaf = parameters.iter().all(|(_, tensor)| tensor.requires_grad());
        if parameters.len() != TRAINED_TENSORS || values as i64 != due || !is_leaf {
            return Err(TrainError::Internal(format!(
                "{values} values in {} tensors would be trained, {due} in {TRAINED_TENSORS} are due",
                parameters.len()
            )));
        }
        tracing::debug!("{values} values in {TRAINED_TENSORS} tensors are trained");
        Ok(Self(checksums(model)))
    }

    /// Compares the frozen tensors with what they were.
    ///
    /// # Errors
    /// A tensor that changed, which would be a bug of ours.
    pub(super) fn check(&self, model: &SamHq) -> Result<(), TrainError> {
        let now = checksums(model);
        match self.0.iter().zip(&now).find(|(then, now)| then != now) {
            None => Ok(()),
            Some(((name, _), _)) => {
                Err(TrainError::Internal(format!("training changed {name}, which is frozen")))
            }
        }
    }
}

/// The sum of the bits of every frozen tensor, memory that several share once. A device sums its
/// own, and is waited for once.
fn checksums(model: &SamHq) -> Vec<(String, i64)> {
    let mut tensors = model.frozen_tensors();
    let mut seen = BTreeSet::new();
    tensors.retain(|(_, tensor)| {
        let on_cpu = tensor.device() == Device::Cpu;
        seen.insert((on_cpu, tensor.data_ptr() as usize, tensor.numel()))
    });
    let sums = |on_cpu: bool| -> Vec<i64> {
        let here = tensors.iter().filter(|(_, tensor)| (tensor.device() == Device::Cpu) == on_cpu);
        let sums: Vec<Tensor> = here.map(|(_, tensor)| bits(tensor).sum(Kind::Int64)).collect();
        if sums.is_empty() {
            return Vec::new();
        }
        let sums = Tensor::stack(&sums, 0).to_device(Device::Cpu);
        Vec::try_from(sums).expect("whole numbers in one dimension")
    };
    let (mut on_cpu, mut elsewhere) = (sums(true).into_iter(), sums(false).into_iter());
    let pairs = tensors.into_iter().filter_map(|(name, tensor)| {
        let sums = if tensor.device() == Device::Cpu { &mut on_cpu } else { &mut elsewhere };
        Some((name, sums.next()?))
    });
    pairs.collect()
}

/// The bits of a tensor as whole numbers, in its own memory.
fn bits(tensor: &Tensor) -> Tensor {
    match tensor.kind() {
        Kind::Float => tensor.view_dtype(Kind::Int),
        Kind::BFloat16 | Kind::Half => tensor.view_dtype(Kind::Int16),
        Kind::Double => tensor.view_dtype(Kind::Int64),
        _ => tensor.shallow_clone(),
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, no_grad};

    use super::*;
    use crate::model::{EncoderConfig, Precision, TinyVitConfig, VitConfig};

    fn configs() -> [EncoderConfig; 2] {
        let vit = VitConfig {
            img_size: 64,
            embed_dim: 16,
            depth: 2,
            num_heads: 2,
            window_size: 3,
            global_attn_indexes: vec![1],
            ..VitConfig::default()
        };
        let tiny = TinyVitConfig {
            img_size: 64,
            embed_dims: [8, 16, 16, 32],
            depths: [1, 1, 1, 1],
            num_heads: [1, 2, 2, 2],
            ..TinyVitConfig::default()
        };
        [EncoderConfig::Vit(vit), EncoderConfig::TinyVit(tiny)]
    }

    #[test]
    fn a_changed_value_in_any_tensor_that_computes_is_found_and_a_trained_one_is_not() {
        for config in configs() {
            for precision in [Precision::Float32, Precision::BFloat16] {
                let model = SamHq::random_in(precision, &config, 1, Device::Cpu);
                let frozen = Frozen::record(&model).unwrap();
                let _ = no_grad(|| model.hq_parameters()[0].1.shallow_clone().g_add_scalar_(1.0));
                frozen.check(&model).unwrap();
                let (tensors, before) = (model.frozen_tensors(), checksums(&model));
                for (_, tensor) in &tensors {
                    let mut value = tensor.as_strided([1], [1], None);
                    let changed = &value + 1.0;
                    value.copy_(&changed);
                }
                let pairs = before.iter().zip(checksums(&model));
                let unseen: Vec<_> = pairs.filter(|(then, now)| *then == now).collect();
                assert!(unseen.is_empty(), "{config:?} {precision:?}: {unseen:?}");
                assert!(frozen.check(&model).is_err());
            }
        }
    }

    #[test]
    fn a_changed_copy_is_named_by_the_part_that_holds_it() {
        let model = SamHq::random_in(Precision::BFloat16, &configs()[0], 1, Device::Cpu);
        let part = "image_encoder.blocks.0.attn.qkv";
        let held = model.frozen_tensors();
        let (_, weight) = held.iter().find(|(name, _)| name == part).unwrap();
        assert_ne!(weight.data_ptr(), model.state_dict()[&format!("{part}.weight")].data_ptr());
        let frozen = Frozen::record(&model).unwrap();
        let _ = weight.flatten(0, -1).get(0).g_add_scalar_(1.0);
        let error = frozen.check(&model).unwrap_err().to_string();
        assert_eq!(error, format!("internal error: training changed {part}, which is frozen"));
    }
}
