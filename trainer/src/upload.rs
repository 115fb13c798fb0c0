//! Values of the host as tensors on the device.

use tch::kind::Element;
use tch::{Device, Tensor};

/// `values` (one dimension) on `device`. A GPU copies from pinned memory while the host goes on;
/// libtorch keeps that memory until the copy is done.
pub fn upload<T: Element>(values: &[T], device: Device) -> Tensor {
    let host = Tensor::from_slice(values);
    match device {
        Device::Cuda(_) => host.pin_memory(device).to_device_(device, host.kind(), true, false),
        _ => host.to_device(device),
    }
}
