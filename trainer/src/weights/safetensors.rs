//! Safetensors files.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::Write;
use std::path::Path;

use ::safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};
use tch::{Kind, Tensor};

use super::WeightsError;
use crate::model::StateDict;

fn format_error(path: &Path, reason: impl ToString) -> WeightsError {
    WeightsError::Format { path: path.into(), reason: reason.to_string() }
}

/// Reads every tensor, widening half precision, and the metadata.
pub(super) fn read(path: &Path) -> Result<(StateDict, BTreeMap<String, String>), WeightsError> {
    let bytes =
        fs::read(path).map_err(|source| WeightsError::Read { path: path.into(), source })?;
    let (_, header) =
        SafeTensors::read_metadata(&bytes).map_err(|error| format_error(path, error))?;
    let metadata = header.metadata().clone().unwrap_or_default();
    Ok((parse(path, &bytes)?, metadata.into_iter().collect()))
}

/// The tensors of bytes that have been read already.
pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<StateDict, WeightsError> {
    let file = SafeTensors::deserialize(bytes).map_err(|error| format_error(path, error))?;
    let mut state = StateDict::new();
    for (name, view) in file.tensors() {
        let kind = match view.dtype() {
            Dtype::F32 => Kind::Float,
            Dtype::F16 => Kind::Half,
            Dtype::BF16 => Kind::BFloat16,
            Dtype::F64 => Kind::Double,
            Dtype::I64 => Kind::Int64,
            Dtype::I32 => Kind::Int,
            Dtype::U8 => Kind::Uint8,
            Dtype::BOOL => Kind::Bool,
            other => {
                return Err(format_error(
                    path,
                    format!("{name} has the unsupported type {other:?}"),
                ));
            }
        };
        let shape: Vec<i64> = view.shape().iter().map(|&size| size as i64).collect();
        let tensor = Tensor::f_from_data_size(view.data(), &shape, kind)
            .map_err(|source| WeightsError::Tensor { name: name.clone(), source })?;
        state.insert(name, super::widened(tensor));
    }
    Ok(state)
}

/// Writes every tensor, contiguous.
pub(super) fn write(
    path: &Path,
    file: &mut impl Write,
    state: &StateDict,
    metadata: &BTreeMap<String, String>,
) -> Result<(), WeightsError> {
    let mut buffers = Vec::new();
    for (name, tensor) in state {
        let dtype = match tensor.kind() {
            Kind::Float => Dtype::F32,
            Kind::Half => Dtype::F16,
            Kind::BFloat16 => Dtype::BF16,
            Kind::Double => Dtype::F64,
            Kind::Int64 => Dtype::I64,
            Kind::Int => Dtype::I32,
            Kind::Uint8 => Dtype::U8,
            Kind::Bool => Dtype::BOOL,
            other => {
                return Err(format_error(
                    path,
                    format!("{name} has the unsupported type {other:?}"),
                ));
            }
        };
        let shape: Vec<usize> = tensor.size().iter().map(|&size| size as usize).collect();
        buffers.push((name.as_str(), dtype, shape, super::bytes_of(name, tensor)?));
    }
    let mut views = Vec::new();
    for (name, dtype, shape, bytes) in &buffers {
        let view = TensorView::new(*dtype, shape.clone(), bytes)
            .map_err(|error| format_error(path, error))?;
        views.push((*name, view));
    }
    let metadata: HashMap<String, String> = metadata.clone().into_iter().collect();
    let bytes = serialize(views, Some(metadata)).map_err(|error| format_error(path, error))?;
    file.write_all(&bytes).map_err(|source| WeightsError::Write { path: path.into(), source })
}
