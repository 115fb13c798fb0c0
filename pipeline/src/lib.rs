//! How samples move: raw collections -> verified Parquet shards -> training batches.
//!
//! ```text
//! raw folders ─ build ─> manifest.json            ─ stream ─> Batch      (training)
//!                        shards/*.parquet                    EvalSample (evaluation)
//!                        quarantine.jsonl
//!                        report.json, report/index.html
//! ```
//!
//! A data set is read from a folder or from any URL the object store library understands; what a
//! row holds is defined by [`dataset::schema`], how rows are laid out by the shard writer here.
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use dataset::order::World;
//! use pipeline::{Dataset, EvalStream};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let dataset = Arc::new(Dataset::open("data/ecssd")?);
//! for sample in EvalStream::new(dataset, "val", World::new(0, 1)?, 0, Some(10))? {
//!     let sample = sample?;
//!     println!("{} {}x{}", sample.sample_id, sample.image.width, sample.image.height);
//! }
//! # Ok(())
//! # }
//! ```

pub mod build;
pub mod config;
mod digest;
pub mod doctor;
pub mod fetch;
pub mod input;
pub mod manifest;
pub mod page;
pub mod shard;
pub mod stats;
pub mod store;
pub mod stream;
mod workers;

pub use build::{BuildConfig, BuildError, BuildOutcome, BuildReport, build, build_rank};
pub use config::{ConfigError, load_config};
pub use manifest::Manifest;
pub use store::{RemoteFolder, StoreError};
pub use stream::{
    Batch, Dataset, DecodeMode, EvalSample, EvalStream, MAX_PREFETCH_BATCHES, Position,
    StreamError, TrainRecipe, TrainStream,
};
pub use workers::MAX_THREADS;
