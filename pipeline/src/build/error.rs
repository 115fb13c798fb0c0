//! Why a build stopped. Staged shards are kept: the next build goes on from them.

use std::io;
use std::path::PathBuf;

use dataset::source::SourceError;

use crate::input::{InputError, ReadError};
use crate::shard::ShardError;

/// One line each, saying what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The configuration makes no data set.
    #[error("{message}")]
    Config {
        /// Which setting, and what it may be.
        message: String,
    },
    /// A raw collection is not where or what it should be; names the source.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The root of a source cannot be listed.
    #[error("source `{name}`: {source}")]
    Input {
        /// Name of the source.
        name: String,
        /// Why.
        source: InputError,
    },
    /// The disk or store of a source failed while a file was read.
    #[error(
        "source `{name}`: {source}; start the build again when the place can be read, it goes on \
         from here"
    )]
    Read {
        /// Name of the source.
        name: String,
        /// Which file, and why.
        source: ReadError,
    },
    /// A source without a single pair.
    #[error(
        "source `{name}`: no image and mask pairs under {root}{first}; look at its layout and root"
    )]
    NoPairs {
        /// Name of the source.
        name: String,
        /// Its root.
        root: PathBuf,
        /// The first file without a partner, where there was one, after `: `.
        first: String,
    },
    /// A commercial-only build of sources that permit no such use.
    #[error(
        "commercial_only leaves no source: none of {sources} is known to permit commercial use; \
         a source whose owner permits it gets `commercial = true` in the configuration"
    )]
    NothingPermitted {
        /// Names and licences.
        sources: String,
    },
    /// A build without a configuration found nothing it knows.
    #[error(
        "{raw}: no collection recognised in or directly under it; expected ECSSD, DUTS, FSS-1000, \
         MSRA10K, DUT-OMRON, DIS5K, ThinObject5K, BIG or COCO as shipped (archives too), a list \
         (.csv, .jsonl) with `image` and `mask`, or folders `im` and `gt`; for \
         anything else write a configuration with layout = \"custom\""
    )]
    NothingRecognised {
        /// The folder that was looked at.
        raw: PathBuf,
    },
    /// Nearly everything of a source was refused: something is wrong with all of it.
    #[error(
        "source `{name}`: {rejected} of {judged} pairs were refused, more than \
         max_rejected_fraction = {limit} allows; the first reasons: {reasons}; all of them are in \
         {quarantine}"
    )]
    MostlyRejected {
        /// Name of the source.
        name: String,
        /// Pairs refused.
        rejected: u64,
        /// Pairs judged so far.
        judged: u64,
        /// The setting.
        limit: f64,
        /// Up to three `sample: reason`.
        reasons: String,
        /// Where the list is.
        quarantine: PathBuf,
    },
    /// With `drop_leaks`, no row of the split `train` would remain.
    #[error(
        "drop_leaks leaves nothing to train on: all {rows} rows of `train` have an image that another \
         split has too; look at the `split` rules and roots of the sources (one folder used for both?), \
         or build without drop_leaks to see the pairs in the report; all of them are in {quarantine}"
    )]
    EverythingLeaks {
        /// Rows of the split for training.
        rows: usize,
        /// Where the list is.
        quarantine: PathBuf,
    },
    /// A refused pair in a strict build.
    #[error("{sample_id}: {reason} (--strict stops at the first refused pair)")]
    Strict {
        /// The sample.
        sample_id: String,
        /// Why it was refused.
        reason: String,
    },
    /// Another build writes to the same folder.
    #[error("{output}: another hqseg build is writing there; wait for it or choose another output")]
    Locked {
        /// The output folder.
        output: PathBuf,
    },
    /// Another build has published to the same place since this one started.
    #[error(
        "{output}: another build has published or removed something there since this one started; \
         give each data set an output of its own, or run this build again to replace that one"
    )]
    Replaced {
        /// The output folder or URL.
        output: String,
    },
    /// The output holds files that no build wrote.
    #[error(
        "{output} holds {found}, which no build of a data set wrote and this one would replace or \
         remove; choose a folder of its own as output"
    )]
    Foreign {
        /// The output folder or URL.
        output: String,
        /// One of the files.
        found: String,
    },
    /// Two ranks of one build plan different data sets.
    #[error(
        "{output}: rank {rank} plans another data set than rank {other}: their configurations or \
         the raw files they see differ (names, sizes and times count); give all ranks the same, \
         then start them again"
    )]
    PlansDiffer {
        /// The output folder or URL.
        output: String,
        /// This rank.
        rank: usize,
        /// The rank that started later.
        other: usize,
    },
    /// The object store refused or could not be reached.
    #[error("{path}: {action}: {source}")]
    Store {
        /// The object.
        path: String,
        /// What was tried.
        action: &'static str,
        /// What the store said.
        source: object_store::Error,
    },
    /// A shard could not be written or read back.
    #[error(transparent)]
    Shard(#[from] ShardError),
    /// The operating system refused.
    #[error("{path}: {action}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the operating system said.
        source: io::Error,
    },
    /// The report page could not be rendered.
    #[error("the report could not be made: {message}")]
    Report {
        /// What the renderer said.
        message: String,
    },
    /// A decoding thread is gone.
    #[error("a decoding thread could not be started or broke down: {message}")]
    Worker {
        /// What happened.
        message: String,
    },
}

impl BuildError {
    /// Whether another rank that has published, and removed the staging folder, explains it.
    pub(super) fn may_be_a_lost_race(&self) -> bool {
        matches!(
            self,
            Self::Io { .. } | Self::Store { .. } | Self::Shard(_) | Self::Replaced { .. }
        )
    }

    /// An adapter for `map_err`.
    pub(super) fn io(
        path: impl Into<PathBuf>,
        action: &'static str,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, action, source }
    }
}
