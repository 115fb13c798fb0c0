//! From a state dict to a checked one: nothing missing, nothing unknown, every shape right.

use super::StateDict;
use super::config::EncoderConfig;
use super::init::{Init, initial};
use super::spec::{TensorSpec, hq_specs, sam_specs};
use crate::weights::{KeyReport, WeightsError};

/// Names that some checkpoints carry although nothing reads them: SAM's normalisation constants and
/// TinyViT's index tables.
const IGNORED: [&str; 4] = ["pixel_mean", "pixel_std", "attention_bias_idxs", "attn.ab"];

/// Where the HQ tensors come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HqInit {
    /// From the state dict, which must hold all 25.
    FromState,
    /// Fresh values, whether or not the state dict holds any.
    Fresh {
        /// Seed of the values; the same on every rank.
        seed: u64,
    },
}

/// `state` checked against `config` and completed with fresh HQ tensors where asked.
pub(crate) fn complete(
    config: &EncoderConfig,
    mut state: StateDict,
    hq: HqInit,
) -> Result<StateDict, WeightsError> {
    config.validate().map_err(|reason| WeightsError::Config { reason })?;
    let hq_specs = hq_specs(config);
    if let HqInit::Fresh { seed } = hq {
        state.extend(hq_specs.iter().map(|spec| fresh(spec, seed)));
    }
    let mut specs = sam_specs(config);
    specs.extend(hq_specs);
    let report = compare(&specs, &state);
    if report.is_empty() { Ok(state) } else { Err(WeightsError::Keys(Box::new(report))) }
}

/// A state dict of random values for every tensor of a model.
pub(crate) fn random(config: &EncoderConfig, seed: u64) -> StateDict {
    let specs = sam_specs(config).into_iter().chain(hq_specs(config));
    specs.map(|spec| fresh(&spec, seed)).collect()
}

fn fresh(spec: &TensorSpec, seed: u64) -> (String, tch::Tensor) {
    (spec.name.clone(), initial(seed, &spec.name, &spec.shape, spec.init))
}

fn compare(specs: &[TensorSpec], state: &StateDict) -> KeyReport {
    let mut report = KeyReport::default();
    let mut unexpected: std::collections::BTreeSet<&str> =
        state.keys().map(String::as_str).collect();
    for spec in specs {
        unexpected.remove(spec.name.as_str());
        let Some(tensor) = state.get(&spec.name) else {
            if !spec.optional {
                report.missing.push(spec.name.clone());
            }
            continue;
        };
        let is_count = spec.init == Init::Count;
        if !spec.optional && !is_count && tensor.size() != spec.shape {
            report.mismatched.push((spec.name.clone(), spec.shape.clone(), tensor.size()));
        } else if !is_count && !tensor.is_floating_point() {
            report.not_floating.push((spec.name.clone(), tensor.kind()));
        }
    }
    let unknown =
        unexpected.into_iter().filter(|name| !IGNORED.iter().any(|end| name.ends_with(end)));
    report.unexpected.extend(unknown.map(String::from));
    report
}
