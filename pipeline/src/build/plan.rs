//! Which pair goes into which shard, decided before anything is decoded.
//!
//! The plan depends on the names, sizes and times of the raw files and on the configuration, so
//! it comes out the same in the next run, and a shard whose key is unchanged need not be rebuilt.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use dataset::schema::SCHEMA_VERSION;
use dataset::source::{
    FoundPart, MaskOrigin, Pair, RawFiles, Rejected, SourceError, SourceSpec, discover,
};
use dataset::verify::RejectReason;
use sha2::{Digest, Sha256};

use super::licence;
use super::quarantine::Refusal;
use super::report::{Leak, TRAIN_SPLIT};
use super::{BuildConfig, BuildError};
use crate::digest::hex;
use crate::input::{Input, InputError};
use crate::shard::LAYOUT_VERSION;

/// Everything a build will do.
pub(super) struct Plan {
    pub(super) shards: Vec<ShardPlan>,
    /// Refused while listing: an image without a mask or the reverse.
    pub(super) refused: Vec<Refusal>,
    /// Left out of training because another split has them; see [`Plan::drop_leaks`].
    pub(super) leaked: Vec<Refusal>,
    /// Left out because a setting of their source says so; in the quarantine, but no fault.
    pub(super) left_out: Vec<Refusal>,
    /// By source, what there is of each part of its collection.
    pub(super) parts: BTreeMap<String, Vec<FoundPart>>,
    /// Where the raw files of each source are read.
    pub(super) inputs: Inputs,
    /// Changes when the configuration or any raw file does.
    pub(super) fingerprint: String,
}

/// The opened roots by the names of their sources.
pub(super) type Inputs = HashMap<String, Arc<Input>>;

/// One shard to be.
pub(super) struct ShardPlan {
    /// `train-00000-ecssd`: the number counts within the source.
    pub(super) name: String,
    pub(super) split: String,
    pub(super) pairs: Vec<Pair>,
    /// Digest of everything that decides the shard's bytes.
    pub(super) key: String,
}

impl ShardPlan {
    /// Where the finished shard lies, relative to the data set. The name says what is in it, so
    /// that no build ever writes over a shard that differs.
    pub(super) fn path(&self, sha256: &str) -> String {
        format!("shards/{}-{:.12}.parquet", self.name, sha256)
    }

    /// Where its receipt lies. The name says which plan it is for.
    pub(super) fn receipt_path(&self) -> String {
        format!("receipts/{}-{:.16}.json", self.name, self.key)
    }
}

impl Plan {
    /// Lists the raw collections of `config` and deals their pairs out to shards.
    pub(super) fn make(config: &BuildConfig) -> Result<Self, BuildError> {
        let (mut pairs, mut rejected, mut parts) = (Vec::new(), Vec::new(), BTreeMap::new());
        let inputs = open_inputs(config)?;
        for source in licence::used(config) {
            let input = &inputs[&source.name];
            let found =
                discover(source, &**input).map_err(|error| explain(source, input, error))?;
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
            parts.insert(source.name.clone(), found.parts);
            pairs.extend(found.pairs);
            rejected.extend(found.rejected);
        }
        let (left_out, refused): (Vec<_>, Vec<_>) =
            rejected.iter().partition(|rejected| rejected.reason.is_by_setting());
        let by_name: BTreeMap<&str, &SourceSpec> =
            config.source.iter().map(|source| (source.name.as_str(), source)).collect();
        let refusal =
            |rejected: &Rejected| Refusal::listed(rejected).explained(by_name[&*rejected.source]);
        let [left_out, refused] =
            [left_out, refused].map(|list| list.into_iter().map(refusal).collect::<Vec<_>>());
        let shards = deal(config, &inputs, pairs);
        let fingerprint = fingerprint(config, &shards, [&refused, &left_out]);
        Ok(Self { shards, refused, leaked: Vec::new(), left_out, parts, inputs, fingerprint })
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
}

/// Sources with the same root share what it lists.
fn open_inputs(config: &BuildConfig) -> Result<Inputs, BuildError> {
    let (mut inputs, mut roots) = (Inputs::new(), HashMap::<PathBuf, Arc<Input>>::new());
    for source in licence::used(config) {
        let input = match roots.get(&source.root) {
            Some(input) => Arc::clone(input),
            None => {
                let opened = Input::open(&source.root).map_err(|error| BuildError::Input {
                    name: source.name.clone(),
                    source: error,
                })?;
                let input = Arc::new(opened);
                roots.insert(source.root.clone(), Arc::clone(&input));
                input
            }
        };
        inputs.insert(source.name.clone(), input);
    }
    Ok(inputs)
}

/// A layout that is not found beside a compressed archive probably lies inside it.
pub(super) fn explain(source: &SourceSpec, input: &Input, error: SourceError) -> BuildError {
    match (&error, input.compressed_archives()) {
        (SourceError::UnexpectedLayout { .. }, [archive, ..]) => BuildError::Input {
            name: source.name.clone(),
            source: InputError::Compressed {
                path: source.root.join(archive).to_string_lossy().into_owned(),
            },
        },
        _ => error.into(),
    }
}

/// A shard holds pairs of one source, so that a further source leaves the shards of the others,
/// their names included, as they are.
fn deal(config: &BuildConfig, inputs: &Inputs, pairs: Vec<Pair>) -> Vec<ShardPlan> {
    let mask_values: BTreeMap<&str, String> = config
        .source
        .iter()
        .map(|source| (source.name.as_str(), format!("{:?}", source.mask_values)))
        .collect();
    let mut parts: BTreeMap<(String, String), Vec<Pair>> = BTreeMap::new();
    for pair in pairs {
        parts.entry((pair.split.clone(), pair.source.clone())).or_default().push(pair);
    }
    let mut shards = Vec::new();
    for ((split, source), mut pairs) in parts {
        pairs.sort_by_cached_key(Pair::sample_id);
        let (input, mask_values) = (&inputs[&source], &mask_values[source.as_str()]);
        let mut open = OpenShard::new(config);
        let mut index = 0;
        let mut close = |open: OpenShard| {
            shards.push(open.close(&split, index, &source));
            index += 1;
        };
        for pair in pairs {
            let files = [FileFacts::of(input, &pair.image), FileFacts::of_mask(input, &pair.mask)];
            let bytes = files.iter().map(|file| file.bytes).sum::<u64>();
            if !open.pairs.is_empty() && open.bytes + bytes > config.shard_bytes {
                close(std::mem::replace(&mut open, OpenShard::new(config)));
            }
            open.push(pair, bytes, (&files, mask_values));
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
                &config.max_pixels.to_string(),
                &config.max_file_bytes.to_string(),
                &format!("{:?}", config.size_mismatch),
            ],
        );
        Self { pairs: Vec::new(), bytes: 0, key }
    }

    fn push(&mut self, pair: Pair, bytes: u64, (files, mask_values): (&[FileFacts; 2], &str)) {
        let [class, license] =
            [&pair.class, &pair.license].map(|text| text.as_deref().unwrap_or(""));
        digest(&mut self.key, &[&pair.sample_id(), &pair.split, class, license, mask_values]);
        for (path, file) in [pair.image.clone(), pair.mask.to_string()].iter().zip(files) {
            digest(&mut self.key, &[path, &file.bytes.to_string(), &file.version]);
        }
        self.bytes += bytes;
        self.pairs.push(pair);
    }

    /// The `index`-th shard of a source in a split.
    fn close(self, split: &str, index: usize, source: &str) -> ShardPlan {
        // Safe in a folder, a store and a URL.
        let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' };
        let source: String = source.chars().map(plain).collect();
        ShardPlan {
            name: format!("{split}-{index:05}-{source}"),
            split: split.to_owned(),
            pairs: self.pairs,
            key: hex(&self.key.finalize()),
        }
    }
}

/// What tells a raw file apart from a later one of its name. Where it lies is no part of it, so a
/// collection that moves as a whole is not built again.
struct FileFacts {
    bytes: u64,
    version: String,
}

impl FileFacts {
    fn of(input: &Input, path: &str) -> Self {
        let file = input.tree().get(path).expect("a pair's files are in the listing it came from");
        Self { bytes: file.bytes, version: file.version.clone() }
    }

    /// An annotation has no bytes of its own; its shape says which it is, so that the rest of its
    /// file may change.
    fn of_mask(input: &Input, mask: &MaskOrigin) -> Self {
        match mask {
            MaskOrigin::File(path) => Self::of(input, path),
            MaskOrigin::Annotation(annotation) => {
                let text = serde_json::to_string(&**annotation).expect("an annotation serialises");
                Self { bytes: 0, version: crate::digest::sha256(text.as_bytes()) }
            }
        }
    }
}

fn fingerprint(config: &BuildConfig, shards: &[ShardPlan], listed: [&Vec<Refusal>; 2]) -> String {
    let mut hash = Sha256::new();
    digest(&mut hash, &[&serde_json::to_string(config).expect("a configuration serialises")]);
    for shard in shards {
        digest(&mut hash, &[&shard.name, &shard.key]);
    }
    for refusal in listed.into_iter().flatten() {
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
