//! What training may change, counted at its start, and the proof at its end that it changed nothing
//! else.

use std::collections::BTreeMap;

use super::TrainError;
use crate::model::SamHq;

/// Tensors of the HQ part.
const TRAINED_TENSORS: usize = 25;

/// Checksums of the frozen tensors as they were at the start.
pub(super) struct Frozen(BTreeMap<String, i64>);

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
        Ok(Self(model.frozen_checksums()))
    }

    /// Compares the frozen tensors with what they were.
    ///
    /// # Errors
    /// A tensor that changed, which would be a bug of ours.
    pub(super) fn check(&self, model: &SamHq) -> Result<(), TrainError> {
        let now = model.frozen_checksums();
        match self.0.iter().find(|(name, sum)| now.get(*name) != Some(*sum)) {
            None => Ok(()),
            Some((name, _)) => {
                Err(TrainError::Internal(format!("training changed {name}, which is frozen")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, no_grad};

    use super::*;
    use crate::model::{EncoderConfig, HqInit, VitConfig};

    #[test]
    fn a_changed_frozen_tensor_is_named_and_a_trained_one_is_not() {
        let config = EncoderConfig::Vit(VitConfig {
            img_size: 64,
            embed_dim: 16,
            depth: 1,
            num_heads: 2,
            window_size: 2,
            global_attn_indexes: vec![0],
            ..VitConfig::default()
        });
        let state = SamHq::random(&config, 1, Device::Cpu).state_dict();
        let name = "prompt_encoder.no_mask_embed.weight";
        let shared = state[name].shallow_clone();
        let model = SamHq::from_state(&config, state, HqInit::FromState, Device::Cpu).unwrap();
        let frozen = Frozen::record(&model).unwrap();
        let _ = no_grad(|| model.hq_parameters()[0].1.shallow_clone().g_add_scalar_(1.0));
        frozen.check(&model).unwrap();
        let _ = no_grad(|| shared.narrow(1, 7, 1).g_add_scalar_(1e-6));
        let error = frozen.check(&model).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    }
}
