//! Who runs where: starts, watches and stops the ranks of a job on this machine, and
//! owns the rank environment.
//!
//! ```text
//! launch --procs 2 CONFIG ──> cli ──> job ── rank 0  (own process group, stderr untouched)
//!                                      │  └─ rank 1  (own process group, lines behind "[rank 1]")
//!                                      └──── first failure or signal: stop everyone
//! ```
//!
//! What a rank needs to know is in [`rank_env`]; nothing else of this crate is needed there.

pub mod cli;
pub mod gpus;
pub mod job;
mod output;
pub mod rank_env;
