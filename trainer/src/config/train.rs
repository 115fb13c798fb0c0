//! How a run optimises, saves and guards itself.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tch::Device;

use crate::model::Precision;

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
    /// Whether a thread encodes the next batch while this one is decoded; changes no bit. `"auto"`:
    /// on a GPU, whose streams work side by side; a CPU has no cores to spare.
    pub encode_ahead: EncodeAhead,
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
    /// the encoder; pays where augmentation is off or `augment.copies` is small. Where the augmentation
    /// draws new pixels each epoch, only those of evaluated images are kept.
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
            encode_ahead: EncodeAhead::Auto,
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

/// See [`TrainSection::encode_ahead`].
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "Switch", into = "Switch")]
pub enum EncodeAhead {
    /// On a GPU.
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

impl EncodeAhead {
    /// Whether it is done on `device`.
    #[must_use]
    pub fn is_on(self, device: Device) -> bool {
        match self {
            Self::Auto => device.is_cuda(),
            Self::On => true,
            Self::Off => false,
        }
    }
}

/// `true`, `false` or `"auto"`, as in a configuration.
#[derive(Deserialize, Serialize)]
#[serde(untagged)]
enum Switch {
    Set(bool),
    Word(String),
}

impl TryFrom<Switch> for EncodeAhead {
    type Error = String;

    fn try_from(switch: Switch) -> Result<Self, String> {
        match switch {
            Switch::Set(true) => Ok(Self::On),
            Switch::Set(false) => Ok(Self::Off),
            Switch::Word(word) if word == "auto" => Ok(Self::Auto),
            Switch::Word(word) => {
                Err(format!("train.encode_ahead = \"{word}\": valid are \"auto\", true and false"))
            }
        }
    }
}

impl From<EncodeAhead> for Switch {
    fn from(choice: EncodeAhead) -> Self {
        match choice {
            EncodeAhead::Auto => Self::Word("auto".into()),
            EncodeAhead::On => Self::Set(true),
            EncodeAhead::Off => Self::Set(false),
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

    pub(super) fn check(&self) -> Result<(), String> {
        for (key, value) in [
            ("lr", self.lr),
            ("lr_drop_factor", self.lr_drop_factor),
            ("cache_limit_gib", self.cache_limit_gib),
        ] {
            if !(value > 0.0 && value.is_finite()) {
                return Err(format!("train.{key} must be positive, found {value}"));
            }
        }
        if !(self.checkpoint_every_minutes >= 0.0 && self.checkpoint_every_minutes.is_finite()) {
            return Err("train.checkpoint_every_minutes must not be negative".into());
        }
        Ok(())
    }
}
