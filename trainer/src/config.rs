//! What a training run is: the TOML of `configs/hqsam_*.toml`, with the published recipe as default.

use std::path::PathBuf;

use dataset::color_jitter::ColorJitter;
use dataset::prompt::{PromptKind, PromptRecipe};
use serde::{Deserialize, Serialize};

use crate::evaluate::Protocol;
use crate::metrics::DILATION_RATIO;
use crate::model::{EncoderConfig, Precision};
use crate::train::TrainError;

/// A training run. `load` it with [`TrainConfig::load`]; every field has the published value as
/// its default where the published recipe has one.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Folder of the run: logs, checkpoints, evaluation tables, the resolved configuration.
    pub output: PathBuf,
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
    /// A name that is not published; the message lists the valid ones.
    pub fn resolve(&self) -> Result<EncoderConfig, TrainError> {
        match self {
            Self::Explicit(config) => Ok(config.clone()),
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

/// Optimisation; the defaults are the published ones.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainSection {
    /// Passes over the split.
    pub epochs: u64,
    /// Samples per optimiser step over all ranks.
    pub global_batch: usize,
    /// Samples that go through the model at once on one rank; a rank whose part of the global
    /// batch is larger accumulates gradients.
    pub micro_batch: usize,
    /// The frozen image encoder computes in bfloat16. Everything trained, the decoder and the loss
    /// stay float32. Faster on GPUs and on CPUs with AMX or AVX-512 BF16; on others the products
    /// run in float32 on rounded values, which is not faster.
    pub bf16: bool,
    /// Learning rate of Adam.
    pub lr: f64,
    /// Epochs after which the learning rate is multiplied by `lr_drop_factor`; it drops again
    /// after each further such number of epochs, as a step schedule does.
    pub lr_drop_epoch: u64,
    /// Factor of the drop.
    pub lr_drop_factor: f64,
    /// Seed of everything random.
    pub seed: u64,
    /// Ranks of the run this configuration was written for; `launch` needs no more than the
    /// number it is given, any world size trains on the same global batches.
    pub world_size: usize,
    /// Seconds that a collective waits for the slowest rank.
    pub collective_timeout_secs: u64,
    /// Steps after which a checkpoint is written besides those at the end of each epoch; 0: none.
    pub checkpoint_every_steps: u64,
    /// The same in minutes; 0: none.
    pub checkpoint_every_minutes: f64,
    /// Newest checkpoints that are kept; 0 keeps all.
    pub keep_last: usize,
    /// Keep the checkpoint with the best mean IoU in evaluation as `checkpoints/best.safetensors`.
    pub keep_best: bool,
    /// Steps after which the ranks compare their parameters; 0: only with each checkpoint.
    pub check_parameters_every_steps: u64,
    /// What to do when a loss or gradient is not finite. Nothing is updated in either case, and the
    /// samples are saved for replay in `nonfinite/`.
    pub on_non_finite: NonFinite,
    /// Folder in which frozen features are kept, so that a sample whose pixels come again skips
    /// the encoder; pays where augmentation is off or `augment.copies` is small.
    pub cache_embeddings: Option<PathBuf>,
    /// Size limit of that folder in GiB.
    pub cache_limit_gib: f64,
}

impl Default for TrainSection {
    fn default() -> Self {
        Self {
            epochs: 12,
            global_batch: 32,
            micro_batch: 4,
            bf16: false,
            lr: 1e-3,
            lr_drop_epoch: 10,
            lr_drop_factor: 0.1,
            seed: 42,
            world_size: 8,
            collective_timeout_secs: 600,
            checkpoint_every_steps: 0,
            checkpoint_every_minutes: 0.0,
            keep_last: 0,
            keep_best: false,
            check_parameters_every_steps: 100,
            on_non_finite: NonFinite::Stop,
            cache_embeddings: None,
            cache_limit_gib: 16.0,
        }
    }
}

/// See [`TrainSection::on_non_finite`].
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NonFinite {
    /// End the run.
    Stop,
    /// Go on with the next step, up to ten times in a row.
    Skip,
}

impl TrainSection {
    /// The number type of the frozen encoder.
    #[must_use]
    pub fn encoder_precision(&self) -> Precision {
        if self.bf16 { Precision::BFloat16 } else { Precision::Float32 }
    }

    /// Learning rate of `epoch` (from 0): `lr * factor ^ floor(epoch / lr_drop_epoch)`, torch's
    /// `StepLR`; the published run has 1e-3 in epochs 0 to 9 and 1e-4 in 10 and 11.
    #[must_use]
    pub fn lr_at(&self, epoch: u64) -> f64 {
        let drops = epoch.checked_div(self.lr_drop_epoch).unwrap_or(0);
        self.lr * self.lr_drop_factor.powi(i32::try_from(drops).unwrap_or(i32::MAX))
    }
}

/// Evaluation.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct EvalSection {
    /// Splits evaluated; empty: none.
    pub splits: Vec<String>,
    /// Evaluate after every so many epochs (the last always); 0: only after the last.
    pub every_epochs: u64,
    /// Images of a split that are evaluated during training; absent: all.
    pub limit: Option<u64>,
    /// Prompts: `box`, `points:N`, `coarse_mask`, `noisy_box:SHARE`; boxes alone as published.
    pub protocols: Vec<Protocol>,
    /// Logits that HQ-SAM's masks are made of.
    pub hq_output: HqOutput,
    /// Dilation ratio of the boundary IoU (0.02 in the published evaluation).
    pub dilation_ratio: f64,
    /// Seed of drawn prompts.
    pub seed: u64,
    /// Images that go through the encoder at once.
    pub batch: usize,
}

impl Default for EvalSection {
    fn default() -> Self {
        Self {
            splits: vec!["val".into()],
            every_epochs: 1,
            limit: None,
            protocols: vec![Protocol::Box],
            hq_output: HqOutput::Hq,
            dilation_ratio: DILATION_RATIO,
            seed: 42,
            batch: 2,
        }
    }
}

impl EvalSection {
    /// Refuses settings that evaluate nothing or mean nothing.
    ///
    /// # Errors
    /// One line that names the setting.
    pub fn check(&self) -> Result<(), String> {
        if self.batch == 0 {
            return Err("eval.batch must be at least 1".into());
        }
        if self.protocols.is_empty() {
            return Err("eval.protocols is empty; [\"box\"] is the published evaluation".into());
        }
        let twice = |index: &usize| self.protocols[..*index].contains(&self.protocols[*index]);
        if let Some(index) = (0..self.protocols.len()).find(twice) {
            return Err(format!("eval.protocols names {} twice", self.protocols[index]));
        }
        if !(self.dilation_ratio > 0.0 && self.dilation_ratio <= 1.0) {
            return Err(format!(
                "eval.dilation_ratio = {} is not within 0..1",
                self.dilation_ratio
            ));
        }
        Ok(())
    }
}

/// Which logits HQ-SAM's mask is made of in an evaluation.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum HqOutput {
    /// The HQ token's alone (`hq_token_only`), as in the evaluation of the published trainer.
    #[default]
    Hq,
    /// Those and SAM's added up, as the published predictor does and the paper's other tables.
    Sum,
}

impl std::fmt::Display for HqOutput {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Hq => "hq",
            Self::Sum => "sum",
        })
    }
}

impl TrainConfig {
    /// Reads a configuration and applies `--set a.b=c` overrides.
    ///
    /// # Errors
    /// An unreadable file, an unknown key (with the nearest valid name), a value out of range.
    pub fn load(path: &std::path::Path, overrides: &[String]) -> Result<Self, TrainError> {
        let config: Self = pipeline::config::load_config(path, overrides)
            .map_err(|error| TrainError::Config(error.to_string()))?;
        config
            .check()
            .map_err(|problem| TrainError::Config(format!("{}: {problem}", path.display())))?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        let t = &self.train;
        let positive = [
            ("train.epochs", t.epochs as usize),
            ("train.global_batch", t.global_batch),
            ("train.micro_batch", t.micro_batch),
            ("data.threads", self.data.threads),
            ("data.prefetch_batches", self.data.prefetch_batches),
        ];
        if let Some((key, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(format!("{key} must be at least 1"));
        }
        if self.prompt.kinds.is_empty() {
            return Err("prompt.kinds must name at least one of box, points, noise_mask".into());
        }
        self.eval.check()?;
        self.prompt.recipe().check().map_err(|problem| format!("prompt.{problem}"))?;
        if let Some(jitter) = &self.augment.color_jitter {
            jitter.check().map_err(|problem| format!("augment.{problem}"))?;
        }
        if !(t.lr > 0.0 && t.lr.is_finite()) {
            return Err(format!("train.lr must be positive, found {}", t.lr));
        }
        match self.augment.scale_range.as_slice() {
            [] => {}
            [low, high] if 0.0 < *low && low <= high => {}
            other => {
                return Err(format!(
                    "augment.scale_range must be [low, high] with 0 < low <= high, found {other:?}"
                ));
            }
        }
        if !(t.checkpoint_every_minutes >= 0.0 && t.checkpoint_every_minutes.is_finite()) {
            return Err("train.checkpoint_every_minutes must not be negative".into());
        }
        if self.augment.copies == Some(0) {
            return Err(
                "augment.copies must be at least 1; leave it out for new ones each epoch".into()
            );
        }
        if !(0.0..=1.0).contains(&self.augment.flip_probability) {
            return Err("augment.flip_probability must lie in 0..1".into());
        }
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
}

#[cfg(test)]
mod tests;
