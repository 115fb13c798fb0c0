//! Shards -> training batches and evaluation samples, in an order that is a pure function.
//!
//! ```text
//! position ──order──> row ──range reads──> stored bytes ──threads──> sample ──in order──> Batch
//!           dataset        tokio runtime                  checksum, decode,
//!                          retried                        augment, prompt
//! ```
//!
//! Everything between the arrows is bounded: reads in flight, decoded samples, finished batches.
//! Dropping a stream stops its threads.

mod dataset;
mod error;
mod eval;
mod fetch;
mod location;
mod sample;
mod train;
mod verify;

pub use dataset::Dataset;
pub use error::StreamError;
pub use eval::{EvalSample, EvalStream};
pub(crate) use location::{Place, resolve};
pub use train::{Batch, Position, TrainRecipe, TrainStream};
pub use verify::{DamagedShard, VerifyOptions, verify};
