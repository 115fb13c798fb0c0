//! Shards -> training batches and evaluation samples, in an order that is a pure function.
//!
//! ```text
//! position ──order──> row ──range reads──> stored bytes ──threads──> sample ──in order──> Batch
//!           dataset        tokio runtime                  checksum, decode,
//!                          retried                        augment, prompt
//! ```
//!
//! Everything between the arrows is bounded: reads in flight, decoded samples, finished batches.
//! Dropping a stream stops its threads. Rows of a data set in a store are kept on the local disk
//! where [`CACHE_DIR_VARIABLE`] names a folder, up to [`CACHE_GIB_VARIABLE`]: later epochs and runs
//! then ask the store for nothing but the manifest.
//!
//! # Memory
//!
//! A stream with `T` threads whose rank takes `B` samples a step, of `S` x `S` pixels (4 bytes a
//! pixel: image and mask), and which keeps `P` finished batches ready, holds at most
//!
//! ```text
//! 4 S S B (P + 2 + 2 T / B)  batches, a broken number rounded up: P ready, one that waits to be
//!                          ready, one at the consumer, and those of the samples ahead
//! + T D                    pictures at work; D is what decoding the largest picture takes, about
//!                          8 bytes a pixel of its file
//! + (6 T + 1) F            stored rows, F bytes each: 4 T read ahead and 2 T queued
//! + footers of the shards  about 1 KB a row that has been near a read
//! ```
//!
//! whatever the number of samples and epochs. The batches' part is taken at the start and used again,
//! each once the batch in it is dropped; a consumer that holds more than one has more made. As
//! published (S = 1024) with B = 8, P = 2, T = 2 that is 160 MiB and the pictures.

mod cache;
mod dataset;
mod error;
mod eval;
mod fetch;
mod location;
mod pixels;
mod sample;
mod train;
mod verify;

pub use cache::{CACHE_DIR_VARIABLE, CACHE_GIB_VARIABLE};
pub use dataset::Dataset;
pub use error::StreamError;
pub use eval::{EvalSample, EvalStream};
pub(crate) use location::{Place, resolve};
pub use pixels::PixelBuffer;
pub use sample::DecodeMode;
pub use train::{Batch, MAX_PREFETCH_BATCHES, Position, TrainRecipe, TrainStream};
pub use verify::{DamagedShard, VerifyOptions, verify};
