//! libtorch's own distributed engine behind a small safe interface.
//!
//! ```text
//! ProcessGroup ── control group: Gloo over CPU tensors (fingerprints, barrier)
//!      │      └── data group: the same Gloo group, or NCCL over CUDA tensors
//!      └───────── roll call: heartbeats in rank 0's TCPStore, read after a failure
//! ```
//!
//! Every collective first compares a fingerprint (operation, type, shape) of all
//! ranks over the control group, because neither Gloo nor NCCL notices on every rank
//! that ranks disagree. When a collective fails, the roll call finds out which rank
//! is gone or behind, and the error names it.
//!
//! ```no_run
//! use c10d::{Backend, ProcessGroup, ReduceOp, Rendezvous};
//! use std::time::Duration;
//!
//! # fn main() -> Result<(), c10d::C10dError> {
//! let timeout = Duration::from_secs(60);
//! let rendezvous = Rendezvous::fixed("127.0.0.1", 29500);
//! let group = ProcessGroup::new(Backend::Gloo, 0, 1, &rendezvous, timeout, &|| false)?;
//! let mut gradient = tch::Tensor::from_slice(&[1.0f32, 2.0]);
//! group.all_reduce(&mut gradient, ReduceOp::Sum)?;
//! # Ok(())
//! # }
//! ```
//!
//! [`device`] and [`packed`] are what else of libtorch tch does not expose: streams, events and memory
//! of a GPU; linear layers over weights laid out for the processor.
//!
//! This package holds the workspace's only unsafe code and only C++.

pub mod device;
mod error;
mod ffi;
pub mod packed;
mod patience;
mod place;
mod process_group;
mod rendezvous;
mod roll_call;
mod store;

pub use error::{C10dError, Fault};
pub use process_group::{Backend, ProcessGroup, ReduceOp};
pub use rendezvous::{Rendezvous, StorePort};
