//! Who runs where: starts, watches, restarts and stops the ranks of a job on one or several
//! machines, and owns the rank environment.
//!
//! ```text
//! launch, node 0                                       launch, node 1
//!   cli ─> job ─> host ── coordinator                    cli ─> job ─> member
//!           │      │  └────── link: orders, reports ────────────────────┤
//!           │    agent                                                agent
//!           │      ├─ rank 0  (own process group)                       ├─ rank 2
//!           │      └─ rank 1  (lines behind "[rank 1]")                 └─ rank 3
//!           └─ guard: ends the ranks when the launcher is killed
//! ```
//!
//! The coordinator is pure and decides; agents start and stop processes. What a rank needs to know
//! is in [`rank_env`]; nothing else of this crate is needed there.

mod agent;
pub mod cli;
mod coordinator;
pub mod failure;
pub mod gpus;
pub mod guard;
mod heartbeat;
mod host;
pub mod job;
mod link;
mod member;
mod orphans;
mod output;
mod port;
mod processes;
mod protocol;
pub mod rank_env;
mod ranks;
pub mod restarts;
mod terminal;

use std::io::Write;

/// Tells the user something, in one line on stderr.
pub fn say(text: &str) {
    // The terminal may be gone; the job goes on.
    let _ = std::io::stderr().write_all(format!("launch: {text}\n").as_bytes());
}
