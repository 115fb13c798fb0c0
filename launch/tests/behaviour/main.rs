//! The launcher among real processes: shell scripts and a small example play the ranks.

mod cable;
mod failures;
mod machines;
mod namespaces;
mod processes;
mod starters;
mod support;
