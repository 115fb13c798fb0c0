//! What tch does not expose of a GPU: streams, events, the kernels of attention and the memory of
//! libtorch's allocator.
//!
//! libtorch's current stream belongs to a thread. A thread that works beside another one on the same
//! GPU takes a stream of its own ([`own_stream`]) and hands over what it made with an [`Event`]: the
//! other thread's stream waits for it, the host does not, and [`used_here`] keeps the memory of what
//! was handed over until that stream is done with it.
//!
//! On CPUs work is done when a call returns: there all of this is nothing.

use std::ffi::{c_char, c_int};
use std::ptr::NonNull;

use tch::{Device, Tensor};
use torch_sys::C_tensor;

use crate::error::C10dError;
use crate::ffi::check;

#[repr(C)]
struct RawEvent {
    _opaque: [u8; 0],
}

unsafe extern "C" {
    fn c10d_own_stream(index: c_int) -> *mut c_char;
    fn c10d_event_new(index: c_int, out: *mut *mut RawEvent) -> *mut c_char;
    fn c10d_event_block(event: *mut RawEvent, index: c_int) -> *mut c_char;
    fn c10d_event_drop(event: *mut RawEvent);
    fn c10d_used_on_stream(tensor: *mut C_tensor) -> *mut c_char;
    fn c10d_choose_attention() -> *mut c_char;
    fn c10d_attention(out: *mut bool) -> *mut c_char;
    fn c10d_device_memory(index: c_int, out: *mut i64) -> *mut c_char;
}

/// The number of a GPU; `None` for a CPU.
fn gpu(device: Device) -> Option<c_int> {
    match device {
        Device::Cuda(index) => c_int::try_from(index).ok(),
        _ => None,
    }
}

fn failed(device: Device) -> impl FnOnce(String) -> C10dError {
    move |reason| C10dError::Device { device: format!("{device:?}"), reason }
}

/// Gives the calling thread a stream of its own on `device`, and makes that GPU its current one.
///
/// # Errors
/// No such GPU, or a libtorch without CUDA.
pub fn own_stream(device: Device) -> Result<(), C10dError> {
    let Some(index) = gpu(device) else { return Ok(()) };
    // SAFETY: takes no pointer; the message is taken once.
    unsafe { check(c10d_own_stream(index)) }.map_err(failed(device))
}

/// Everything that the current stream of a thread had been given at some moment.
#[derive(Debug)]
pub struct Event {
    device: Device,
    /// `None` on a CPU.
    raw: Option<NonNull<RawEvent>>,
}

// SAFETY: an event of CUDA belongs to a device, not to a thread, and c10::Event is only not safe to
// use from two threads at once, which a value that is not Sync is not.
unsafe impl Send for Event {}

impl Event {
    /// What the current stream of this thread has been given so far.
    ///
    /// # Errors
    /// No such GPU, or a libtorch without CUDA.
    pub fn now(device: Device) -> Result<Self, C10dError> {
        let Some(index) = gpu(device) else { return Ok(Self { device, raw: None }) };
        let mut out = std::ptr::null_mut();
        // SAFETY: `out` outlives the call; the message is taken once.
        unsafe { check(c10d_event_new(index, &raw mut out)) }.map_err(failed(device))?;
        Ok(Self { device, raw: NonNull::new(out) })
    }

    /// Lets the current stream of this thread wait for it; the host goes on.
    ///
    /// # Errors
    /// What CUDA reports.
    pub fn block(&self) -> Result<(), C10dError> {
        let (Some(raw), Some(index)) = (self.raw, gpu(self.device)) else { return Ok(()) };
        // SAFETY: the event is live until Drop.
        unsafe { check(c10d_event_block(raw.as_ptr(), index)) }.map_err(failed(self.device))
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if let Some(raw) = self.raw {
            // SAFETY: the pointer came from c10d_event_new and is dropped only here.
            unsafe { c10d_event_drop(raw.as_ptr()) };
        }
    }
}

/// Says that the current stream of this thread uses `tensor`, which another stream made: once it is
/// dropped, its memory waits for what this stream has been given until then.
///
/// # Errors
/// What CUDA reports.
pub fn used_here(tensor: &Tensor) -> Result<(), C10dError> {
    // SAFETY: the tensor is live, and the bridge only reads it.
    unsafe { check(c10d_used_on_stream(tensor.as_ptr().cast_mut())) }
        .map_err(failed(tensor.device()))
}

/// Which kernels libtorch's `scaled_dot_product_attention` may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionKernels {
    /// Flash attention: half precision, no mask.
    pub flash: bool,
    /// Memory-efficient attention: any float type, with or without an additive mask.
    pub memory_efficient: bool,
    /// cuDNN's attention.
    pub cudnn: bool,
    /// Plain matrix products, which keep all scores in memory.
    pub math: bool,
}

/// From now on attention on `device` is fused: flash attention where there is no mask, and
/// memory-efficient attention where there is one. What neither can compute is libtorch's error "No
/// available kernel", with its reasons as warnings, and not a silent fall back on plain products.
///
/// libtorch keeps the choice for the process, CPUs included, so for a CPU this changes nothing: there
/// libtorch's own choice stays.
///
/// # Errors
/// What libtorch reports.
pub fn choose_attention(device: Device) -> Result<(), C10dError> {
    if gpu(device).is_none() {
        return Ok(());
    }
    // SAFETY: takes no pointer; the message is taken once.
    unsafe { check(c10d_choose_attention()) }.map_err(failed(device))
}

/// The kernels that attention may take now.
///
/// # Errors
/// What libtorch reports.
pub fn attention_kernels() -> Result<AttentionKernels, C10dError> {
    let mut out = [false; 4];
    // SAFETY: the bridge writes four values, and `out` has them.
    unsafe { check(c10d_attention(out.as_mut_ptr())) }.map_err(failed(Device::Cpu))?;
    let [flash, memory_efficient, cudnn, math] = out;
    Ok(AttentionKernels { flash, memory_efficient, cudnn, math })
}

/// What libtorch's allocator holds of a GPU, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceMemory {
    /// In tensors now.
    pub allocated: u64,
    /// The most that was in tensors at once.
    pub peak_allocated: u64,
    /// The most that was taken from the GPU, unused parts included.
    pub peak_reserved: u64,
}

/// The memory of `device` as this process uses it; `None` on a CPU, which libtorch does not count.
///
/// # Errors
/// No such GPU, or a libtorch without CUDA.
pub fn device_memory(device: Device) -> Result<Option<DeviceMemory>, C10dError> {
    let Some(index) = gpu(device) else { return Ok(None) };
    let mut bytes = [0_i64; 3];
    // SAFETY: the bridge writes three values, and `bytes` has them.
    unsafe { check(c10d_device_memory(index, bytes.as_mut_ptr())) }.map_err(failed(device))?;
    let [allocated, peak_allocated, peak_reserved] =
        bytes.map(|count| u64::try_from(count).unwrap_or(0));
    Ok(Some(DeviceMemory { allocated, peak_allocated, peak_reserved }))
}
