//! Which pair goes into which shard, decided before anything is decoded.
//!
//! The plan depends on the names, sizes and times of the raw files and on the configuration, so
//! it comes out the same in the next run, and a shard whose key is unchanged need not be rebuilt.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::UNIX_EPOCH;

use dataset::schema::SCHEMA_VERSION;
use dataset::source::{Pair, discover};
use dataset::verify::RejectReason;
use sha2::{Digest, Sha256};

use super::quarantine::Refusal;
use super::report::{Leak, TRAIN_SPLIT};
use super::{BuildConfig, BuildError};
use crate::digest::hex;
use crate::shard::LAYOUT_VERSION;

/// Everything a build will do.
pub(super) struct Plan {
    pub(super) shards: Vec<ShardPlan>,
    /// Refused while listing: an image without a mask or the reverse.
    pub(super) refused: Vec<Refusal>,
    /// Left out of training because another split has them; see [`Plan::drop_leaks`].
    pub(super) leaked: Vec<Refusal>,
    /// Changes when the configuration or any raw file does.
    pub(super) fingerprint: String,
}

/// One shard to be.
pub(super) struct ShardPlan {
    /// `train-00000`.
    pub(super) name: String,
    pub(super) split: String,
    pub(super) pairs: Vec<Pair>,
    /// Digest of everything that decides the shard's bytes.
    pub(super) key: String,
}

impl ShardPlan {
    /// Where the finished shard lies, relative to the data set.
    pub(super) fn path(&self) -> String {
        format!("shards/{}.parquet", self.name)
    }
}

impl Plan {
    /// Lists the raw collections of `config` and deals their pairs out to shards.
    pub(super) fn make(config: &BuildConfig) -> Result<Self, BuildError> {
        let (mut pairs, mut refused) = (Vec::new(), Vec::new());
        for source in &config.source {
            let found = discover(source)?;
            tracing::info!(
                source = source.name,
                pairs = found.pairs.len(),
                refused = found.rejected.len(),
                "listed"
            );
            if found.pairs.is_empty() {
                let (name, root) = (source.name.clone(), source.root.clone());
                let first = found.rejected.first().map_or(String::new(), |rejected| {
                    format!(": {}: {}", rejected.sample_id, rejected.reason)
                });
                return Err(BuildError::NoPairs { name, root, first });
            }
            pairs.extend(found.pairs);
            let listed = found.rejected.iter().map(Refusal::listed);
            refused.extend(listed.map(|refusal| refusal.explained(source)));
        }
        let shards = deal(config, pairs);
        let fingerprint = fingerprint(config, &shards, &refused);
        Ok(Self { shards, refused, leaked: Vec::new(), fingerprint })
    }

    /// Takes leaked pairs out of the shards for training. A shard that loses some gets another
    /// key, so it is written again; the others stay as they are.
    pub(super) fn drop_leaks(&mut self, leaks: &BTreeMap<String, Leak>) {
        for shard in self.shards.iter_mut().filter(|shard| shard.split == TRAIN_SPLIT) {
            let mut key = Sha256::new();
            digest(&mut key, &[&shard.key]);
            let before = self.leaked.len();
            shard.pairs.retain(|pair| {
                let sample_id = pair.sample_id();
                let Some(leak) = leaks.get(&sample_id) else { return true };
                digest(&mut key, &[&sample_id]);
                let reason = RejectReason::Leak { of: leak.of.clone(), bits: leak.bits };
                self.leaked.push(Refusal::judged(pair, &reason));
                false
            });
            if self.leaked.len() > before {
                shard.key = hex(&key.finalize());
            }
        }
    }

    pub(super) fn num_pairs(&self) -> u64 {
        self.shards.iter().map(|shard| shard.pairs.len() as u64).sum()
    }
}

fn deal(config: &BuildConfig, pairs: Vec<Pair>) -> Vec<ShardPlan> {
    let mut splits: BTreeMap<String, Vec<Pair>> = BTreeMap::new();
    for pair in pairs {
        splits.entry(pair.split.clone()).or_default().push(pair);
    }
    let mut shards = Vec::new();
    for (split, mut pairs) in splits {
        pairs.sort_by_cached_key(Pair::sample_id);
        let mut open = OpenShard::new(config);
        let mut index = 0;
        let mut close = |open: OpenShard| {
            shards.push(open.close(&split, index));
            index += 1;
        };
        for pair in pairs {
            let files = [FileFacts::of(&pair.image), FileFacts::of(&pair.mask)];
            let bytes = files.iter().map(|file| file.bytes).sum::<u64>();
            if !open.pairs.is_empty() && open.bytes + bytes > config.shard_bytes {
                close(std::mem::replace(&mut open, OpenShard::new(config)));
            }
            open.push(pair, bytes, &files);
        }
        close(open);
    }
    shards
}

/// A shard being filled, and the running digest of what decides its bytes.
struct OpenShard {
    pairs: Vec<Pair>,
    bytes: u64,
    key: Sha256,
}

impl OpenShard {
    fn new(config: &BuildConfig) -> Self {
        let mut key = Sha256::new();
        digest(
            &mut key,
            &[
                env!("CARGO_PKG_VERSION"),
                &LAYOUT_VERSION.to_string(),
                &SCHEMA_VERSION.to_string(),
                &config.rows_per_group.to_string(),
            ],
        );
        digest_decoding(&mut key, config);
        Self { pairs: Vec::new(), bytes: 0, key }
    }

    fn push(&mut self, pair: Pair, bytes: u64, files: &[FileFacts; 2]) {
        let [class, license] =
            [&pair.class, &pair.license].map(|text| text.as_deref().unwrap_or(""));
        digest(&mut self.key, &[&pair.sample_id(), &pair.split, class, license]);
        for (path, file) in [&pair.image, &pair.mask].into_iter().zip(files) {
            let (bytes, modified) = (file.bytes.to_string(), file.modified_nanos.to_string());
            digest(&mut self.key, &[&path.to_string_lossy(), &bytes, &modified]);
        }
        self.bytes += bytes;
        self.pairs.push(pair);
    }

    fn close(self, split: &str, index: usize) -> ShardPlan {
        ShardPlan {
            name: format!("{split}-{index:05}"),
            split: split.to_owned(),
            pairs: self.pairs,
            key: hex(&self.key.finalize()),
        }
    }
}

/// What decides which pairs are taken and how their masks are read. Nothing where it is all at its
/// default, so that shards of earlier builds keep their keys.
fn digest_decoding(key: &mut Sha256, config: &BuildConfig) {
    let defaults = BuildConfig::new("", Vec::new());
    let settings = |config: &BuildConfig| {
        format!("{} {} {:?}", config.max_pixels, config.max_file_bytes, config.size_mismatch)
    };
    if settings(config) != settings(&defaults) {
        digest(key, &["decoding", &settings(config)]);
    }
    for source in config.source.iter().filter(|source| !source.mask_values.is_auto()) {
        digest(key, &["mask_values", &source.name, &format!("{:?}", source.mask_values)]);
    }
}

/// Size and time of a raw file; zero where it cannot be looked at, which decoding will report.
#[derive(Default)]
struct FileFacts {
    bytes: u64,
    modified_nanos: u128,
}

impl FileFacts {
    fn of(path: &Path) -> Self {
        let Ok(metadata) = std::fs::metadata(path) else { return Self::default() };
        let modified =
            metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        Self { bytes: metadata.len(), modified_nanos: modified.unwrap_or_default().as_nanos() }
    }
}

fn fingerprint(config: &BuildConfig, shards: &[ShardPlan], refused: &[Refusal]) -> String {
    let mut hash = Sha256::new();
    digest(&mut hash, &[&serde_json::to_string(config).expect("a configuration serialises")]);
    for shard in shards {
        digest(&mut hash, &[&shard.name, &shard.key]);
    }
    for refusal in refused {
        digest(&mut hash, &[&refusal.sample_id, &refusal.message]);
    }
    hex(&hash.finalize())
}

/// Adds texts to a digest with their lengths, so that no two lists of texts look the same.
fn digest(hash: &mut Sha256, texts: &[&str]) {
    for text in texts {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text.as_bytes());
    }
}
