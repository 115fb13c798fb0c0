//! What to build: the TOML file of `hqseg build`.

use dataset::codec::DecodeLimits;
use dataset::source::SourceSpec;
use dataset::verify::SizeMismatch;
use serde::{Deserialize, Serialize};

use super::BuildError;
use crate::workers::MAX_THREADS;

/// A build configuration. Relative paths are relative to the current directory.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct BuildConfig {
    /// Folder or URL (`s3://`, `gs://`, `az://`, `file://`) of the data set.
    #[serde(skip_serializing)]
    pub output: String,
    /// The raw collections. Names are unique; they become the first part of each sample's id.
    pub source: Vec<SourceSpec>,
    /// Most rows of a Parquet row group.
    #[serde(default = "rows_per_group")]
    pub rows_per_group: usize,
    /// A shard is closed before the raw files behind it outgrow this.
    #[serde(default = "shard_bytes")]
    pub shard_bytes: u64,
    /// Threads, the one that writes included; one per core by default. Has no influence on any byte
    /// written.
    #[serde(default, skip_serializing)]
    pub threads: Option<usize>,
    /// The build stops when more than this part of a source's pairs is refused, 0..=1.
    #[serde(default = "max_rejected_fraction")]
    pub max_rejected_fraction: f64,
    /// Leave rows of the split `train` out whose image is the same as, or looks like, one of any
    /// other split; they are listed in the quarantine. Off, they are only reported.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub drop_leaks: bool,
    /// Leave out the sources that are not known to permit commercial use.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub commercial_only: bool,
    /// Most pixels of an image or mask; larger ones are refused before they are decoded.
    #[serde(default = "max_pixels", skip_serializing_if = "is_max_pixels")]
    pub max_pixels: u64,
    /// Most bytes of an image or mask file; larger ones are refused before they are read.
    #[serde(default = "max_file_bytes", skip_serializing_if = "is_max_file_bytes")]
    pub max_file_bytes: u64,
    /// What to do about a mask that has not the size of its image: `"refuse"`, or
    /// `{ resize_within = 0.02 }`. Resized masks are listed in `adjusted.jsonl`.
    #[serde(default, skip_serializing_if = "SizeMismatch::is_refuse")]
    pub size_mismatch: SizeMismatch,
    /// Stop at the first refused pair instead of putting it into quarantine.
    #[serde(default, skip_serializing)]
    pub strict: bool,
}

fn rows_per_group() -> usize {
    100
}

fn shard_bytes() -> u64 {
    256 << 20
}

fn max_rejected_fraction() -> f64 {
    0.5
}

fn max_pixels() -> u64 {
    DecodeLimits::default().max_pixels
}

fn max_file_bytes() -> u64 {
    DecodeLimits::default().max_file_bytes
}

// Left out where they are the default, so that the manifests of earlier builds stay as they are.
fn is_max_pixels(value: &u64) -> bool {
    *value == max_pixels()
}

fn is_max_file_bytes(value: &u64) -> bool {
    *value == max_file_bytes()
}

impl BuildConfig {
    /// A configuration of `source` with every other setting at its default.
    #[must_use]
    pub fn new(output: impl Into<String>, source: Vec<SourceSpec>) -> Self {
        Self {
            output: output.into(),
            source,
            rows_per_group: rows_per_group(),
            shard_bytes: shard_bytes(),
            threads: None,
            max_rejected_fraction: max_rejected_fraction(),
            drop_leaks: false,
            commercial_only: false,
            max_pixels: max_pixels(),
            max_file_bytes: max_file_bytes(),
            size_mismatch: SizeMismatch::Refuse,
            strict: false,
        }
    }

    /// Refuses settings that make no data set.
    pub(crate) fn check(&self) -> Result<(), BuildError> {
        let refuse = |message: String| Err(BuildError::Config { message });
        if self.output.contains("://")
            && let Some(message) = crate::store::refuses_writes(&self.output)
        {
            return refuse(format!("output `{}`: {message}", self.output));
        }
        if self.output.is_empty() {
            return refuse("output is empty: name a folder".to_owned());
        }
        if self.source.is_empty() {
            return refuse("no [[source]]: name at least one raw collection".to_owned());
        }
        if !(1..=1000).contains(&self.rows_per_group) {
            return refuse(format!(
                "rows_per_group = {} is not within 1..=1000",
                self.rows_per_group
            ));
        }
        if let Some(threads) = self.threads.filter(|&threads| threads > MAX_THREADS) {
            return refuse(format!("threads = {threads} is more than {MAX_THREADS}"));
        }
        if self.shard_bytes == 0 {
            return refuse("shard_bytes must be at least 1".to_owned());
        }
        if !(0.0..=1.0).contains(&self.max_rejected_fraction) {
            return refuse(format!(
                "max_rejected_fraction = {} is not within 0..=1",
                self.max_rejected_fraction
            ));
        }
        if self.max_pixels == 0 || self.max_file_bytes == 0 {
            return refuse("max_pixels and max_file_bytes must be at least 1".to_owned());
        }
        if let SizeMismatch::ResizeWithin(share) = self.size_mismatch
            && !(0.0..=1.0).contains(&share)
        {
            return refuse(format!("size_mismatch: resize_within = {share} is not within 0..=1"));
        }
        let mut names: Vec<&str> = self.source.iter().map(|source| source.name.as_str()).collect();
        names.sort_unstable();
        if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return refuse(format!("two sources are named `{}`: names must differ", pair[0]));
        }
        match names.iter().find(|name| name.is_empty() || name.contains('/')) {
            Some(name) => refuse(format!("source name `{name}`: must be non-empty, without `/`")),
            None => Ok(()),
        }
    }
}
