//! Counts of accepted and refused pairs by source, and when they stop a build.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::BuildError;
use super::quarantine::Refusal;

/// A source whose first pairs are all refused is stopped without reading the rest.
const EARLY_STOP_PAIRS: u64 = 100;
/// Reasons shown when a build stops.
const REASONS_SHOWN: usize = 3;

/// Counts of one source.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) accepted: u64,
    pub(super) refused: u64,
    reasons: Vec<String>,
}

/// Counts of every source.
#[derive(Default)]
pub(super) struct Tally {
    sources: BTreeMap<String, Counts>,
}

impl Tally {
    pub(super) fn accept(&mut self, source: &str) {
        self.counts(source).accepted += 1;
    }

    pub(super) fn refuse(&mut self, refusal: &Refusal) {
        let counts = self.counts(&refusal.source);
        counts.refused += 1;
        if counts.reasons.len() < REASONS_SHOWN {
            counts.reasons.push(format!("{}: {}", refusal.sample_id, refusal.message));
        }
    }

    /// The source, if all of its many pairs so far were refused.
    pub(super) fn hopeless(&self, source: &str) -> bool {
        self.sources
            .get(source)
            .is_some_and(|counts| counts.accepted == 0 && counts.refused >= EARLY_STOP_PAIRS)
    }

    /// The first source of which more than `limit` (0..=1), or everything, was refused.
    pub(super) fn mostly_refused(&self, limit: f64) -> Option<&str> {
        self.sources
            .iter()
            .find(|(_, counts)| {
                let judged = (counts.accepted + counts.refused) as f64;
                counts.accepted == 0 || counts.refused as f64 > limit * judged
            })
            .map(|(name, _)| name.as_str())
    }

    /// The error that says why `source` stops the build.
    pub(super) fn stop(&self, source: &str, limit: f64, quarantine: PathBuf) -> BuildError {
        let counts = &self.sources[source];
        BuildError::MostlyRejected {
            name: source.to_owned(),
            rejected: counts.refused,
            judged: counts.accepted + counts.refused,
            limit,
            reasons: counts.reasons.join("; "),
            quarantine,
        }
    }

    fn counts(&mut self, source: &str) -> &mut Counts {
        if !self.sources.contains_key(source) {
            self.sources.insert(source.to_owned(), Counts::default());
        }
        self.sources.get_mut(source).expect("inserted above")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(source: &str) -> Refusal {
        Refusal {
            sample_id: format!("{source}/a"),
            source: source.to_owned(),
            image: None,
            mask: None,
            message: "empty".to_owned(),
            reason: serde_json::Value::Null,
        }
    }

    #[test]
    fn a_source_stops_the_build_beyond_the_limit_or_when_nothing_is_left() {
        let mut tally = Tally::default();
        (0..5).for_each(|_| tally.accept("half"));
        (0..5).for_each(|_| tally.refuse(&refusal("half")));
        assert_eq!(tally.mostly_refused(0.5), None);
        assert_eq!(tally.mostly_refused(0.49), Some("half"));
        tally.refuse(&refusal("none"));
        assert_eq!(tally.mostly_refused(1.0), Some("none"));
        assert!(!tally.hopeless("none"));
        (0..EARLY_STOP_PAIRS).for_each(|_| tally.refuse(&refusal("none")));
        assert!(tally.hopeless("none") && !tally.hopeless("half"));
    }
}
