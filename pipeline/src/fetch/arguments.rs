//! The arguments of `fetch`, the same in both programs.

use std::path::PathBuf;

use clap::Args;

/// What to bring, where to, and how patiently.
#[derive(Args, Clone, Debug)]
pub struct FetchArguments {
    /// Sources or groups of them; --list says which there are.
    #[arg(required_unless_present = "list")]
    pub sources: Vec<String>,
    /// Print what can be brought, with sizes and licences.
    #[arg(long)]
    pub list: bool,
    /// Folder, instead of the one that the shipped configurations read.
    #[arg(long, value_name = "FOLDER")]
    pub to: Option<PathBuf>,
    /// Download; without it the licences are shown and nothing else happens.
    #[arg(long)]
    pub accept_license: bool,
    /// Leave archives as they are.
    #[arg(long)]
    pub keep_packed: bool,
    /// Hash files that are there already.
    #[arg(long)]
    pub verify: bool,
    /// Files downloaded at the same time.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=16))]
    pub parallel: u8,
    /// Failures in a row, without a new byte, after which a file is given up.
    #[arg(long, default_value_t = 8)]
    pub retries: u32,
    /// First pause after a failure; each further one is twice as long, a minute at most.
    #[arg(long, default_value_t = 1000, value_name = "MILLISECONDS")]
    pub retry_pause: u64,
    /// Longest silence before a connection counts as broken.
    #[arg(long, default_value_t = 30_000, value_name = "MILLISECONDS")]
    pub stall: u64,
    /// Another list of sources (TOML).
    #[arg(long, value_name = "FILE")]
    pub catalogue: Option<PathBuf>,
}
