//! The kinds of objects, each with its own random proportions.

mod grown;
mod made;

use rand_chacha::ChaCha8Rng;

use super::outline::Outline;

/// What is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectKind {
    /// A roof antenna with cross-bars.
    Antenna,
    /// Two wheels with spokes and a frame.
    Bicycle,
    /// A chair with slats.
    Chair,
    /// A length of fence.
    Fence,
    /// A six-legged insect.
    Insect,
    /// A ladder.
    Ladder,
    /// A leaf eaten by insects.
    Leaf,
    /// A racket with strings.
    Racket,
    /// A spiral of wire.
    Spiral,
    /// A leafless tree.
    Tree,
    /// A wheel with spokes.
    Wheel,
    /// Tangled cable with plugs.
    Wires,
}

impl ObjectKind {
    /// Every kind, in alphabetical order.
    pub const ALL: [Self; 12] = [
        Self::Antenna,
        Self::Bicycle,
        Self::Chair,
        Self::Fence,
        Self::Insect,
        Self::Ladder,
        Self::Leaf,
        Self::Racket,
        Self::Spiral,
        Self::Tree,
        Self::Wheel,
        Self::Wires,
    ];

    /// Lower-case English name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Antenna => "antenna",
            Self::Bicycle => "bicycle",
            Self::Chair => "chair",
            Self::Fence => "fence",
            Self::Insect => "insect",
            Self::Ladder => "ladder",
            Self::Leaf => "leaf",
            Self::Racket => "racket",
            Self::Spiral => "spiral",
            Self::Tree => "tree",
            Self::Wheel => "wheel",
            Self::Wires => "wires",
        }
    }

    /// One specimen.
    pub(super) fn outline(self, rng: &mut ChaCha8Rng) -> Outline {
        match self {
            Self::Antenna => made::antenna(rng),
            Self::Bicycle => made::bicycle(rng),
            Self::Chair => made::chair(rng),
            Self::Fence => made::fence(rng),
            Self::Insect => grown::insect(rng),
            Self::Ladder => made::ladder(rng),
            Self::Leaf => grown::leaf(rng),
            Self::Racket => made::racket(rng),
            Self::Spiral => made::spiral(rng),
            Self::Tree => grown::tree(rng),
            Self::Wheel => made::wheel(rng),
            Self::Wires => made::wires(rng),
        }
    }
}
