//! Arguments that several commands take.

use clap::Args;
use pipeline::{Dataset, MAX_THREADS, StreamError};

/// A data set that is there.
#[derive(Args)]
pub(super) struct DatasetArguments {
    /// Folder or URL of the data set, or its build configuration (.toml).
    #[arg(value_name = "DATASET")]
    pub(super) location: String,
    /// Override a setting of the build configuration, for instance `output=data/b`. May be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(super) overrides: Vec<String>,
}

impl DatasetArguments {
    pub(super) fn open(&self) -> Result<Dataset, StreamError> {
        Dataset::open_configured(&self.location, &self.overrides)
    }
}

/// Reads a number of threads.
pub(super) fn threads(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(threads) if threads <= MAX_THREADS => Ok(threads),
        Ok(_) => Err(format!("more than {MAX_THREADS} threads")),
        Err(error) => Err(format!("{error}")),
    }
}
