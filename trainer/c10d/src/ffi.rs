//! The declarations of `cpp/bridge.h` and the owners of its handles.
//!
//! Facts that every SAFETY comment below relies on, kept by `cpp/bridge.cpp`: no
//! exception leaves a function, arguments are borrowed for the call only, and a
//! returned message is a NUL-terminated string of our own.

use std::ffi::{CStr, CString, c_char, c_int};
use std::ptr::NonNull;
use std::time::Duration;

use tch::Tensor;
use torch_sys::C_tensor;

#[repr(C)]
struct RawStore {
    _opaque: [u8; 0],
}

#[repr(C)]
struct RawGroup {
    _opaque: [u8; 0],
}

unsafe extern "C" {
    fn c10d_free(text: *mut c_char);
    fn c10d_store_new(
        host: *const c_char,
        port: u16,
        is_server: c_int,
        timeout_ms: i64,
        out: *mut *mut RawStore,
    ) -> *mut c_char;
    fn c10d_store_drop(store: *mut RawStore);
    fn c10d_store_port(store: *const RawStore) -> u16;
    fn c10d_store_set(
        store: *mut RawStore,
        key: *const c_char,
        value: *const c_char,
    ) -> *mut c_char;
    fn c10d_store_get(
        store: *mut RawStore,
        key: *const c_char,
        out: *mut *mut c_char,
    ) -> *mut c_char;
    fn c10d_gloo_new(
        store: *mut RawStore,
        rank: c_int,
        size: c_int,
        timeout_ms: i64,
        host: *const c_char,
        out: *mut *mut RawGroup,
    ) -> *mut c_char;
    #[cfg(nccl)]
    fn c10d_nccl_new(
        store: *mut RawStore,
        rank: c_int,
        size: c_int,
        timeout_ms: i64,
        out: *mut *mut RawGroup,
    ) -> *mut c_char;
    fn c10d_group_drop(group: *mut RawGroup);
    fn c10d_all_reduce(group: *mut RawGroup, tensor: *mut C_tensor, op: c_int) -> *mut c_char;
    fn c10d_broadcast(group: *mut RawGroup, tensor: *mut C_tensor, root: c_int) -> *mut c_char;
    fn c10d_all_gather(
        group: *mut RawGroup,
        input: *mut C_tensor,
        outputs: *mut *mut C_tensor,
        count: usize,
    ) -> *mut c_char;
}

/// Takes a message out of the bridge; `None` where it gave none.
///
/// # Safety
/// `text` is null or was returned by the bridge and not yet released.
unsafe fn take_text(text: *mut c_char) -> Option<String> {
    if text.is_null() {
        return None;
    }
    // SAFETY: the caller promises a live message of the bridge, which ends in NUL.
    let owned = unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned();
    // SAFETY: it is released once, here, and not used after.
    unsafe { c10d_free(text) };
    Some(owned)
}

/// The first line of a message of the bridge: libtorch adds its C++ frames below.
///
/// # Safety
/// As for [`take_text`].
pub(crate) unsafe fn check(text: *mut c_char) -> Result<(), String> {
    // SAFETY: forwarded.
    match unsafe { take_text(text) } {
        None => Ok(()),
        Some(message) => {
            Err(message.lines().next().unwrap_or("libtorch gave no reason").trim().to_owned())
        }
    }
}

fn millis(timeout: Duration) -> i64 {
    i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX)
}

fn rank_number(rank: usize) -> Result<c_int, String> {
    c_int::try_from(rank).map_err(|_| format!("{rank} is more than libtorch can count"))
}

fn text(value: &str) -> Result<CString, String> {
    CString::new(value).map_err(|_| format!("{value:?} holds a NUL byte"))
}

/// A connection to a key-value store: the one that rank 0 hosts, or torchrun's.
pub(crate) struct StoreHandle(NonNull<RawStore>);

// SAFETY: c10d::TCPStore has no thread affinity; the handle is its only owner and
// `&self` methods cannot run on two threads at once because it is not Sync.
unsafe impl Send for StoreHandle {}

impl StoreHandle {
    pub(crate) fn new(
        host: &str,
        port: u16,
        is_server: bool,
        timeout: Duration,
    ) -> Result<Self, String> {
        let host = text(host)?;
        let mut out = std::ptr::null_mut();
        // SAFETY: `host` and `out` outlive the call; the message is taken once.
        unsafe {
            check(c10d_store_new(
                host.as_ptr(),
                port,
                is_server.into(),
                millis(timeout),
                &raw mut out,
            ))?;
        }
        NonNull::new(out).map(Self).ok_or_else(|| "libtorch gave no store".to_owned())
    }

    /// The port that it listens on, or is connected to.
    pub(crate) fn port(&self) -> u16 {
        // SAFETY: the handle is live until Drop; the call only reads a number.
        unsafe { c10d_store_port(self.0.as_ptr()) }
    }

    pub(crate) fn set(&self, key: &str, value: &str) -> Result<(), String> {
        let (key, value) = (text(key)?, text(value)?);
        // SAFETY: the handle is live until Drop; both strings outlive the call.
        unsafe { check(c10d_store_set(self.0.as_ptr(), key.as_ptr(), value.as_ptr())) }
    }

    pub(crate) fn get(&self, key: &str) -> Result<Option<String>, String> {
        let key = text(key)?;
        let mut out = std::ptr::null_mut();
        // SAFETY: the handle is live until Drop; `key` and `out` outlive the call.
        unsafe { check(c10d_store_get(self.0.as_ptr(), key.as_ptr(), &raw mut out))? };
        // SAFETY: `out` is null or a message of the bridge that nobody else holds.
        Ok(unsafe { take_text(out) })
    }
}

impl Drop for StoreHandle {
    fn drop(&mut self) {
        // SAFETY: the pointer came from c10d_store_new and is dropped only here.
        unsafe { c10d_store_drop(self.0.as_ptr()) };
    }
}

/// A backend of c10d: Gloo or NCCL.
pub(crate) struct GroupHandle(NonNull<RawGroup>);

// SAFETY: c10d::Backend has no thread affinity; the handle is its only owner and
// `&self` methods cannot run on two threads at once because it is not Sync.
unsafe impl Send for GroupHandle {}

impl GroupHandle {
    pub(crate) fn gloo(
        store: &StoreHandle,
        rank: usize,
        size: usize,
        timeout: Duration,
        host: &str,
    ) -> Result<Self, String> {
        let (rank, size, host) = (rank_number(rank)?, rank_number(size)?, text(host)?);
        Self::build(|out| {
            // SAFETY: the store is live and the group takes its own reference to it; `host` and
            // `out` outlive the call.
            unsafe {
                c10d_gloo_new(store.0.as_ptr(), rank, size, millis(timeout), host.as_ptr(), out)
            }
        })
    }

    #[cfg(nccl)]
    pub(crate) fn nccl(
        store: &StoreHandle,
        rank: usize,
        size: usize,
        timeout: Duration,
    ) -> Result<Self, String> {
        let (rank, size) = (rank_number(rank)?, rank_number(size)?);
        Self::build(|out| {
            // SAFETY: the store is live and the group takes its own reference to it; `out`
            // outlives the call.
            unsafe { c10d_nccl_new(store.0.as_ptr(), rank, size, millis(timeout), out) }
        })
    }

    /// What a constructor of the bridge left in the place that it was given.
    fn build(new: impl FnOnce(*mut *mut RawGroup) -> *mut c_char) -> Result<Self, String> {
        let mut out = std::ptr::null_mut();
        // SAFETY: the constructors return a message of the bridge, which is taken once.
        unsafe { check(new(&raw mut out))? };
        NonNull::new(out).map(Self).ok_or_else(|| "libtorch gave no group".to_owned())
    }

    pub(crate) fn all_reduce(&self, tensor: &mut Tensor, op: c_int) -> Result<(), String> {
        // SAFETY: the handle and the tensor are live; the collective is finished when
        // the call returns, and `&mut` keeps everyone else from the tensor meanwhile.
        unsafe { check(c10d_all_reduce(self.0.as_ptr(), tensor.as_mut_ptr(), op)) }
    }

    pub(crate) fn broadcast(&self, tensor: &mut Tensor, root: usize) -> Result<(), String> {
        let root = rank_number(root)?;
        // SAFETY: as in `all_reduce`.
        unsafe { check(c10d_broadcast(self.0.as_ptr(), tensor.as_mut_ptr(), root)) }
    }

    pub(crate) fn all_gather(&self, input: &Tensor, outputs: &mut [Tensor]) -> Result<(), String> {
        let mut raw: Vec<_> = outputs.iter_mut().map(Tensor::as_mut_ptr).collect();
        // SAFETY: as in `all_reduce`; the bridge only reads `input`, and `raw` holds
        // `raw.len()` live tensors.
        unsafe {
            check(c10d_all_gather(
                self.0.as_ptr(),
                input.as_ptr().cast_mut(),
                raw.as_mut_ptr(),
                raw.len(),
            ))
        }
    }
}

impl Drop for GroupHandle {
    fn drop(&mut self) {
        // SAFETY: the pointer came from a constructor of the bridge and is dropped only here.
        unsafe { c10d_group_drop(self.0.as_ptr()) };
    }
}
