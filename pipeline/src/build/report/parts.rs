//! What was found of each part of a published collection, against what its authors announce.

use dataset::source::FoundPart;
use serde::{Deserialize, Serialize};

/// One part of the published collection that a source is.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct PartReport {
    /// Its folder or list as the authors call it; empty where the collection has one part only.
    pub name: String,
    /// The splits that its pairs go to.
    pub splits: Vec<String>,
    /// Image and mask pairs found, whether kept, refused or left out by the split rule.
    pub found: u64,
    /// Pairs that the authors announce, where that is known for sure.
    pub expected: Option<u64>,
}

impl PartReport {
    pub(super) fn of(part: &FoundPart) -> Self {
        Self {
            name: part.name.clone(),
            splits: part.pairs.keys().cloned().collect(),
            found: part.found(),
            expected: part.published,
        }
    }

    /// False where another number of pairs is announced.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.expected.is_none_or(|expected| expected == self.found)
    }
}

/// What is announced of all parts together; `None` where something is not known, or the split rule
/// takes less than a whole part.
pub(super) fn expected(parts: &[FoundPart]) -> Option<u64> {
    let whole = !parts.is_empty() && parts.iter().all(|part| part.left_out == 0);
    whole.then(|| parts.iter().map(|part| part.published).sum()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_of_whole_parts_is_a_number_announced() {
        let part = |published, left_out| FoundPart { published, left_out, ..FoundPart::default() };
        assert_eq!(expected(&[part(Some(3), 0), part(Some(4), 0)]), Some(7));
        assert_eq!(expected(&[part(Some(3), 0), part(Some(4), 1)]), None);
        assert_eq!(expected(&[part(Some(3), 0), part(None, 0)]), None);
        assert_eq!(expected(&[]), None);
    }
}
