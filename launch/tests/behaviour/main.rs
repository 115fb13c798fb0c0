//! The launcher among real processes: shell scripts and a small example play the ranks.

mod cable;
mod failures;
mod machines;
mod manifests;
mod namespaces;
mod processes;
mod running;
mod slurm;
mod starters;
mod support;
mod terminal;

use std::time::Duration;

/// Long enough for a loaded machine, far below what a hang would take.
const PATIENCE: Duration = Duration::from_secs(60);
