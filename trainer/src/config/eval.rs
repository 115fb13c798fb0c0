//! How a run, or `hqsam eval`, evaluates.

use serde::{Deserialize, Serialize};

use crate::evaluate::Protocol;
use crate::metrics::DILATION_RATIO;

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
    /// Prompts: `box`, `points:N`, `clicks:N`, `coarse_mask`, `noisy_box:SHARE`; boxes alone as published.
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
        if self.limit == Some(0) {
            return Err("eval.limit must be at least 1; without it all images are taken".into());
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
