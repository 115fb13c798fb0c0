//! Why a data set cannot be opened or a sample cannot be delivered.

use dataset::verify::RejectReason;

use crate::config::ConfigError;
use crate::shard::ShardError;

/// Every message names the data set, split, shard, row or sample it is about.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// The location is a build configuration that cannot be read.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The location is no folder and no URL of a known kind.
    #[error("{location}: {message}")]
    Location {
        /// As given.
        location: String,
        /// What is wrong with it.
        message: String,
    },
    /// There is no manifest, so there is no finished data set.
    #[error(
        "{location}: no manifest.json there, so no finished data set: run `hqseg build` first \
         (a build that was killed continues where it stopped)"
    )]
    NotBuilt {
        /// The data set.
        location: String,
    },
    /// The manifest cannot be read or understood.
    #[error("{location}/manifest.json: {message}")]
    Manifest {
        /// The data set.
        location: String,
        /// What is wrong with it.
        message: String,
    },
    /// The data set has no such split.
    #[error("{location}: no split `{split}`; it has {available}")]
    UnknownSplit {
        /// The data set.
        location: String,
        /// What was asked for.
        split: String,
        /// What there is.
        available: String,
    },
    /// The settings of a stream contradict each other or the data set.
    #[error("{location}, split `{split}`: {message}")]
    Settings {
        /// The data set.
        location: String,
        /// The split to be streamed.
        split: String,
        /// Which setting, and what it may be.
        message: String,
    },
    /// A row could not be fetched.
    #[error("row {row} of {shard}: {source}")]
    Read {
        /// The shard's path in the data set.
        shard: String,
        /// Row within the shard.
        row: u64,
        /// What failed.
        source: ShardError,
    },
    /// The small columns of a shard cannot be read.
    #[error(transparent)]
    Columns(#[from] ShardError),
    /// A file in a row is not the one that was written.
    #[error(
        "sample {sample_id} (row {row} of {shard}): the {part} is damaged: its checksum does not \
         match the one taken at build time; run `hqseg verify` and rebuild the data set"
    )]
    Checksum {
        /// The sample.
        sample_id: String,
        /// The shard's path in the data set.
        shard: String,
        /// Row within the shard.
        row: u64,
        /// `image` or `mask`.
        part: &'static str,
    },
    /// An image or mask that passed the build cannot be decoded now.
    #[error("sample {sample_id} (row {row} of {shard}): the {part} cannot be decoded: {reason}")]
    Decode {
        /// The sample.
        sample_id: String,
        /// The shard's path in the data set.
        shard: String,
        /// Row within the shard.
        row: u64,
        /// `image` or `mask`.
        part: &'static str,
        /// What the codec said.
        reason: RejectReason,
    },
    /// The columns of a row do not describe its files.
    #[error("sample {sample_id} (row {row} of {shard}): {message}")]
    Facts {
        /// The sample.
        sample_id: String,
        /// The shard's path in the data set.
        shard: String,
        /// Row within the shard.
        row: u64,
        /// What differs.
        message: String,
    },
    /// More threads than a process may start.
    #[error("{location}: {threads} threads are more than {}", crate::MAX_THREADS)]
    Threads {
        /// The data set.
        location: String,
        /// How many were asked for.
        threads: usize,
    },
    /// A thread of the stream panicked or could not be started.
    #[error("{location}: the stream broke down: {message}")]
    Broken {
        /// The data set.
        location: String,
        /// What happened.
        message: String,
    },
}

impl StreamError {
    /// Whether nothing is known of the rows, because the place where they lie refused or could not
    /// be reached.
    #[must_use]
    pub fn is_of_the_place(&self) -> bool {
        match self {
            Self::Read { source, .. } | Self::Columns(source) => source.is_of_the_place(),
            _ => false,
        }
    }
}
