//! What is learned: SAM and HQ-SAM in tch, the data-parallel training step, checkpoints,
//! evaluation and export.
//!
//! ```text
//! pipeline::Batch -> batch (tensors) -> model (encode, embed prompts, decode) -> loss
//!   -> backward -> data_parallel (one flat all-reduce) -> optim (Adam) -> checkpoint -> export
//! ```
//!
//! [`step`] is one optimiser step from top to bottom, [`train`] the loop around it.

pub mod allocator;
pub mod amg;
pub mod batch;
pub mod bench;
pub mod checkpoint;
pub mod config;
pub mod curve;
pub mod data_parallel;
pub mod device;
pub mod eval_files;
pub mod evaluate;
pub mod export;
pub mod feature_cache;
pub mod frozen_stage;
mod json_lines;
pub mod loss;
pub mod loss_points;
pub mod memory;
pub mod metrics;
pub mod model;
pub mod model_card;
pub mod optim;
pub mod panic_line;
pub mod part_clock;
pub mod predict;
pub mod ranks;
pub mod recognise;
pub mod rle;
pub mod run;
pub mod run_log;
pub mod sample_digest;
pub mod serve;
pub mod step;
pub mod tensorboard;
pub mod train;
pub mod upload;
pub mod weights;
