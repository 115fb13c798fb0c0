//! `quarantine.jsonl`: one line for each pair that was refused, and why; `adjusted.jsonl`: one for
//! each that was taken after a change.

use dataset::source::{Pair, Rejected, SourceSpec, known_mistake};
use dataset::verify::{RejectReason, Resized};
use serde::{Deserialize, Serialize};

/// One refused pair.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Refusal {
    /// `source/name`.
    pub sample_id: String,
    /// Name of the source.
    pub source: String,
    /// The image file relative to the root of its source, where there is one.
    pub image: Option<String>,
    /// The mask file, or annotation file, `#` and id, where there is one.
    pub mask: Option<String>,
    /// The reason as one line.
    pub message: String,
    /// The reason with its numbers; its `kind` says which it is.
    pub reason: serde_json::Value,
}

/// A pair whose mask was resized to its image.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Adjustment {
    /// `source/name`.
    pub sample_id: String,
    /// The mask file.
    pub mask: String,
    /// Its size, and the one it got.
    pub resized: Resized,
}

impl Adjustment {
    pub(super) fn new(pair: &Pair, resized: Resized) -> Self {
        Self { sample_id: pair.sample_id(), mask: pair.mask.to_string(), resized }
    }
}

impl Refusal {
    /// A pair that could not be formed while listing.
    pub(super) fn listed(rejected: &Rejected) -> Self {
        Self::new(
            rejected.sample_id.clone(),
            rejected.source.clone(),
            [rejected.image.clone(), rejected.mask.as_ref().map(ToString::to_string)],
            &rejected.reason,
        )
    }

    /// A pair whose files were refused.
    pub(super) fn judged(pair: &Pair, reason: &RejectReason) -> Self {
        let files = [Some(pair.image.clone()), Some(pair.mask.to_string())];
        Self::new(pair.sample_id(), pair.source.clone(), files, reason)
    }

    /// Adds what users of the collection know of the pair.
    #[must_use]
    pub(super) fn explained(mut self, source: &SourceSpec) -> Self {
        let name = self.sample_id.split_once('/').map_or("", |(_, name)| name);
        if let Some(note) = known_mistake(source, name) {
            self.message = format!("{} (known of this collection: {note})", self.message);
        }
        self
    }

    fn new(
        sample_id: String,
        source: String,
        [image, mask]: [Option<String>; 2],
        reason: &RejectReason,
    ) -> Self {
        Self {
            sample_id,
            source,
            image,
            mask,
            message: reason.to_string(),
            reason: serde_json::to_value(reason).expect("a reason serialises"),
        }
    }

    /// The reason's kind, as the report counts it.
    pub(super) fn kind(&self) -> &str {
        self.reason.get("kind").and_then(serde_json::Value::as_str).unwrap_or("other")
    }
}

/// One JSON object a line.
pub(super) fn to_jsonl<T: Serialize>(entries: &[T]) -> Vec<u8> {
    let mut lines = Vec::new();
    for entry in entries {
        serde_json::to_writer(&mut lines, entry).expect("plain structs serialise");
        lines.push(b'\n');
    }
    lines
}
