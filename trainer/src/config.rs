//! What a training run is: the TOML of `configs/hqsam_*.toml`, with the published recipe as default.

use std::path::{Path, PathBuf};

use dataset::color_jitter::ColorJitter;
use dataset::prompt::{PromptKind, PromptRecipe};
use serde::{Deserialize, Serialize};

pub use self::eval::{EvalSection, HqOutput};
pub use self::train::{EncodeAhead, NonFinite, TrainSection};
use crate::model::EncoderConfig;
use crate::train::TrainError;

mod eval;
mod train;

/// A training run. `load` it with [`TrainConfig::load`]; every field has the published value as
/// its default where the published recipe has one.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Where the run lies: a folder for logs, checkpoints, evaluation tables and the resolved
    /// configuration. Or `s3://`, `gs://`, `az://`: the store gets the checkpoints and the
    /// configuration, which is all that another machine needs to go on, and `work_dir` the rest.
    pub output: String,
    /// Folder for logs and evaluation tables where `output` is in an object store. Default: `runs/`
    /// with the bucket and path of `output`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub work_dir: Option<PathBuf>,
    /// The frozen SAM.
    pub model: ModelSection,
    /// The data set built by `hqseg build`.
    pub data: DataSection,
    /// Flip and large-scale jitter.
    #[serde(default)]
    pub augment: AugmentSection,
    /// Prompt kinds.
    #[serde(default)]
    pub prompt: PromptSection,
    /// Optimisation.
    #[serde(default)]
    pub train: TrainSection,
    /// Evaluation during and after training.
    #[serde(default)]
    pub eval: EvalSection,
}

/// Which SAM, and where its weights lie.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSection {
    /// `vit_b`, `vit_l`, `vit_h`, `vit_tiny`, `lite_medsam`, or a table of explicit sizes.
    pub encoder: EncoderChoice,
    /// SAM checkpoint (`.pth` or `.safetensors`) with the published key names. Without it the
    /// frozen part is random, which only speed measurements and tests want: `random_sam` must
    /// say so.
    #[serde(default)]
    pub checkpoint: Option<PathBuf>,
    /// HQ values to start from instead of fresh ones: a mask decoder that the published trainer
    /// saved, or a merged HQ-SAM. Its frozen part must be that of `checkpoint`.
    #[serde(default)]
    pub hq_checkpoint: Option<PathBuf>,
    /// Start from random frozen weights on purpose.
    #[serde(default)]
    pub random_sam: bool,
}

/// A published encoder by name, or explicit sizes.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(untagged)]
pub enum EncoderChoice {
    /// One of [`EncoderConfig::names`].
    Named(String),
    /// Explicit sizes.
    Explicit(EncoderConfig),
}

impl EncoderChoice {
    /// The sizes behind the choice.
    ///
    /// # Errors
    /// A name that is not published; the message lists the valid ones. Sizes that do not fit together.
    pub fn resolve(&self) -> Result<EncoderConfig, TrainError> {
        match self {
            Self::Explicit(config) => match config.validate() {
                Ok(()) => Ok(config.clone()),
                Err(problem) => Err(TrainError::Config(format!("model.encoder: {problem}"))),
            },
            Self::Named(name) => EncoderConfig::named(name).ok_or_else(|| {
                TrainError::Config(format!(
                    "model.encoder = \"{name}\" is not known; valid: {}, or a table of sizes",
                    EncoderConfig::names().join(", ")
                ))
            }),
        }
    }
}

/// Where the samples come from.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct DataSection {
    /// Folder or URL of the data set, or the build configuration that made it.
    pub path: String,
    /// Split to train on.
    #[serde(default = "default_train_split")]
    pub split: String,
    /// Decoding and augmentation threads per rank.
    #[serde(default = "default_threads")]
    pub threads: usize,
    /// Batches prepared ahead of the training step.
    #[serde(default = "default_prefetch")]
    pub prefetch_batches: usize,
    /// How image files are decoded: `exact`, as published, or `scaled`, which is faster for large
    /// pictures that the jitter shrinks but changes their pixels.
    #[serde(default)]
    pub decode: pipeline::DecodeMode,
}

fn default_train_split() -> String {
    "train".into()
}
fn default_threads() -> usize {
    2
}
fn default_prefetch() -> usize {
    2
}

/// Augmentation; the defaults are the published ones.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct AugmentSection {
    /// Probability of a horizontal flip.
    pub flip_probability: f64,
    /// Range of the large-scale jitter; the longest side becomes `scale * img_size`. An empty
    /// list turns jitter off (the pair is stretched to the input size).
    pub scale_range: Vec<f64>,
    /// Redraw a crop (ten times at most) until it shows this many foreground pixels. Absent: the
    /// published behaviour, never redraw.
    pub min_foreground_pixels: Option<usize>,
    /// Distinct augmentations of each sample over all epochs; prompts and loss points stay new in
    /// every epoch. Absent: a new one each epoch, as published.
    pub copies: Option<u64>,
    /// Random brightness, contrast, saturation and hue, for instance
    /// `{ brightness = 0.4, contrast = 0.4, saturation = 0.4, hue = 0.1 }`. Absent: none, as
    /// published.
    pub color_jitter: Option<ColorJitter>,
}

impl Default for AugmentSection {
    fn default() -> Self {
        Self {
            flip_probability: 0.5,
            scale_range: vec![0.1, 2.0],
            min_foreground_pixels: None,
            copies: None,
            color_jitter: None,
        }
    }
}

/// Prompts; the defaults are the published ones.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct PromptSection {
    /// Kinds, one drawn uniformly per sample.
    pub kinds: Vec<PromptKind>,
    /// Positive points of a point prompt.
    pub num_points: usize,
    /// Background points of a point prompt besides; none as published.
    pub negative_points: usize,
    /// How far boxes are off, as a share of their sides, from 0 (as published) to below 1.
    pub box_noise: f32,
    /// Prompts drawn for each augmented sample, which is decoded and encoded once; 1 as published.
    pub prompts_per_image: usize,
}

impl Default for PromptSection {
    fn default() -> Self {
        let published = PromptRecipe::default();
        Self {
            kinds: published.kinds,
            num_points: published.num_points,
            negative_points: published.negative_points,
            box_noise: published.box_noise,
            prompts_per_image: published.prompts_per_image,
        }
    }
}

impl PromptSection {
    /// The same settings as the stream takes them.
    #[must_use]
    pub fn recipe(&self) -> PromptRecipe {
        PromptRecipe {
            kinds: self.kinds.clone(),
            num_points: self.num_points,
            negative_points: self.negative_points,
            box_noise: self.box_noise,
            prompts_per_image: self.prompts_per_image,
        }
    }
}

/// Largest factor of the large-scale jitter; the published one is 2. Far above it a crop shows a
/// single pixel.
const MAX_JITTER_SCALE: f64 = 100.0;

/// A month: clocks of operating systems end somewhere.
const MAX_TIMEOUT_SECS: usize = 30 * 24 * 3600;

impl TrainConfig {
    /// The URL of the object store in which the run lies, if it does not lie in a folder.
    #[must_use]
    pub fn store_url(&self) -> Option<&str> {
        pipeline::store::is_remote(&self.output).then_some(self.output.as_str())
    }

    /// The folder of logs and evaluation tables: the output itself, unless that is in a store.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        let Some(url) = self.store_url() else {
            return PathBuf::from(pipeline::store::without_file_scheme(&self.output));
        };
        let place = url.split_once("://").map_or(url, |(_, place)| place);
        let parts = place.split('/').filter(|part| !["", ".", ".."].contains(part));
        let default = || Path::new("runs").join(parts.collect::<PathBuf>());
        self.work_dir.clone().unwrap_or_else(default)
    }

    /// Reads a configuration and applies `--set a.b=c` overrides.
    ///
    /// # Errors
    /// An unreadable file, an unknown key (with the nearest valid name), a value out of range.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Self, TrainError> {
        let config: Self = pipeline::config::load_config(path, overrides)
            .map_err(|error| TrainError::Config(error.to_string()))?;
        config.checked(path)
    }

    /// [`load`](Self::load) on text that has been read already; `path` only names it in errors.
    ///
    /// # Errors
    /// As for [`load`](Self::load).
    pub fn parse(path: &Path, text: &str) -> Result<Self, TrainError> {
        let config: Self = pipeline::config::parse_config(path, text, &[])
            .map_err(|error| TrainError::Config(error.to_string()))?;
        config.checked(path)
    }

    fn checked(self, path: &Path) -> Result<Self, TrainError> {
        let problem = |problem| TrainError::Config(format!("{}: {problem}", path.display()));
        self.check().map_err(problem)?;
        Ok(self)
    }

    fn check(&self) -> Result<(), String> {
        if self.work_dir.is_some() && self.store_url().is_none() {
            return Err("work_dir is for an output in an object store; with a folder as output, \
                 everything is in that folder"
                .into());
        }
        self.check_counts()?;
        self.train.check()?;
        self.augment.check()?;
        if self.prompt.kinds.is_empty() {
            return Err("prompt.kinds must name at least one of box, points, noise_mask".into());
        }
        self.eval.check()?;
        self.prompt.recipe().check().map_err(|problem| format!("prompt.{problem}"))?;
        if self.model.checkpoint.is_none() && self.model.hq_checkpoint.is_some() {
            return Err("model.hq_checkpoint needs model.checkpoint, the SAM it belongs to".into());
        }
        if self.model.checkpoint.is_none() && !self.model.random_sam {
            return Err("model.checkpoint is missing: name a SAM checkpoint, or set \
                 model.random_sam = true to train on random frozen weights"
                .into());
        }
        Ok(())
    }

    fn check_counts(&self) -> Result<(), String> {
        let (t, data) = (&self.train, &self.data);
        for (key, value, most) in [
            ("train.epochs", t.epochs as usize, usize::MAX),
            ("train.global_batch", t.global_batch, usize::MAX),
            ("train.micro_batch", t.micro_batch, usize::MAX),
            ("train.collective_timeout_secs", t.collective_timeout_secs as usize, MAX_TIMEOUT_SECS),
            ("data.threads", data.threads, pipeline::MAX_THREADS),
            ("data.prefetch_batches", data.prefetch_batches, pipeline::MAX_PREFETCH_BATCHES),
        ] {
            if value == 0 {
                return Err(format!("{key} must be at least 1"));
            }
            if value > most {
                return Err(format!("{key} = {value} is more than {most}"));
            }
        }
        if t.keep_last == 1 {
            return Err(
                "train.keep_last = 1 keeps none to go back to if that one is damaged: 2 or \
                 more, or 0 for all"
                    .into(),
            );
        }
        Ok(())
    }
}

impl AugmentSection {
    /// Whether the pixels of a training sample come again within `epochs`. A run of one epoch with one
    /// copy counts, as other runs may find what it keeps.
    pub(crate) fn pixels_repeat(&self, epochs: u64) -> bool {
        let is_drawn_anew = match self.scale_range.as_slice() {
            // Up to the input's size there is nothing to crop.
            [low, high] => low < high || *high > 1.0,
            _ => false,
        } || self.color_jitter.is_some();
        !is_drawn_anew || self.copies.is_some_and(|copies| copies == 1 || copies < epochs)
    }

    fn check(&self) -> Result<(), String> {
        if let Some(jitter) = &self.color_jitter {
            jitter.check().map_err(|problem| format!("augment.{problem}"))?;
        }
        match self.scale_range.as_slice() {
            [] => {}
            [low, high] if 0.0 < *low && low <= high && *high <= MAX_JITTER_SCALE => {}
            other => {
                return Err(format!(
                    "augment.scale_range must be [low, high] with 0 < low <= high <= \
                     {MAX_JITTER_SCALE}, found {other:?}"
                ));
            }
        }
        if self.copies == Some(0) {
            return Err(
                "augment.copies must be at least 1; leave it out for new ones each epoch".into()
            );
        }
        if !(0.0..=1.0).contains(&self.flip_probability) {
            return Err("augment.flip_probability must lie in 0..1".into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
