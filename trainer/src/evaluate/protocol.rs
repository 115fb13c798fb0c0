//! Which prompt an evaluation gives first: made from the stretched mask, the same for the same sample
//! and seed whatever else is evaluated beside it.

use std::fmt;
use std::str::FromStr;

use dataset::prompt::{MAX_POINTS, Prompt, PromptKind, PromptRecipe, box_prompt};
use dataset::raster::Mask255;
use dataset::rng::{Draw, sample_rng};
use serde::{Deserialize, Serialize};

use super::clicks;

/// A kind of prompt to evaluate with.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[serde(try_from = "String", into = "String")]
pub enum Protocol {
    /// `box`: the tight box around the mask, the published evaluation during training.
    Box,
    /// `points:N`: N distinct random foreground points, as the published training draws its 10.
    Points(usize),
    /// `clicks:N`: one click at the centre-most foreground pixel, the field's one-point protocol, and
    /// then up to N - 1 more, each at the centre of the largest error that is left; SAM and HQ-SAM are
    /// each corrected by themselves. The previous mask is not given back to the model.
    Clicks(usize),
    /// `coarse_mask`: the mask at 256 x 256 with the noise of the published training.
    CoarseMask,
    /// `noisy_box:SHARE`: the box moved and resized at random by up to that share of its sides;
    /// the paper's tables have 0.2 and 0.4.
    NoisyBox(f32),
}

/// A prompt and whether it had to be another than the protocol's.
pub(super) struct EvalPrompt {
    pub(super) prompt: Prompt,
    /// The mask has no foreground left, so the whole image's box stands for it.
    pub(super) is_replaced: bool,
}

impl Protocol {
    /// The prompt for one stretched mask.
    pub(super) fn prompt(self, mask: &Mask255, seed: u64, sample_id: &str) -> EvalPrompt {
        let draw = |kind, num_points, box_noise| {
            let recipe = PromptRecipe {
                kinds: vec![kind],
                num_points,
                box_noise,
                ..PromptRecipe::default()
            };
            recipe.draw(&mut sample_rng(seed, 0, sample_id, Draw::Prompt), mask)
        };
        if self == Self::CoarseMask {
            return EvalPrompt { prompt: draw(PromptKind::NoiseMask, 1, 0.0), is_replaced: false };
        }
        let Some(corners) = box_prompt(mask) else {
            let right_bottom = [mask.width, mask.height].map(|side| (side.max(1) - 1) as f32);
            let whole = [0.0, 0.0, right_bottom[0], right_bottom[1]];
            return EvalPrompt { prompt: Prompt::Box(whole), is_replaced: true };
        };
        let prompt = match self {
            Self::Points(count) => draw(PromptKind::Points, count, 0.0),
            Self::Clicks(_) => clicks::first(mask).unwrap_or(Prompt::Box(corners)),
            Self::NoisyBox(share) => draw(PromptKind::Box, 1, share),
            Self::Box | Self::CoarseMask => Prompt::Box(corners),
        };
        EvalPrompt { prompt, is_replaced: false }
    }

    /// Clicks that follow the first prompt, each after a look at what it gave.
    pub(super) fn further_clicks(self) -> usize {
        match self {
            Self::Clicks(count) => count.saturating_sub(1),
            _ => 0,
        }
    }

    /// What the prompt is, in a sentence of a report.
    #[must_use]
    pub fn description(self) -> String {
        match self {
            Self::Box => "the tight box around the stretched mask".to_owned(),
            Self::Points(1) => "1 random foreground point".to_owned(),
            Self::Points(count) => format!("{count} random foreground points"),
            Self::Clicks(1) => "1 click at the centre-most foreground pixel".to_owned(),
            Self::Clicks(count) => format!(
                "up to {count} clicks, the first at the centre-most foreground pixel, each further \
                 one at the centre of the largest error left"
            ),
            Self::CoarseMask => "the mask at 256 x 256 with noise along its edges".to_owned(),
            Self::NoisyBox(share) => {
                format!("the box moved and resized at random by up to {share} of its sides")
            }
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Box => formatter.write_str("box"),
            Self::Points(count) => write!(formatter, "points:{count}"),
            Self::Clicks(count) => write!(formatter, "clicks:{count}"),
            Self::CoarseMask => formatter.write_str("coarse_mask"),
            Self::NoisyBox(share) => write!(formatter, "noisy_box:{share}"),
        }
    }
}

/// A name that stands for no protocol.
#[derive(Clone, Debug, thiserror::Error)]
#[error(
    "`{0}` is no protocol; there are box, points:N (such as points:5, from 1 to {most}), clicks:N \
     (such as clicks:1, as many), coarse_mask and noisy_box:SHARE (such as noisy_box:0.2, above 0 and \
     below 1)",
    most = MAX_POINTS
)]
pub struct UnknownProtocol(String);

impl FromStr for Protocol {
    type Err = UnknownProtocol;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let unknown = || UnknownProtocol(text.to_owned());
        let (name, argument) = match text.split_once(':') {
            Some((name, argument)) => (name, Some(argument)),
            None => (text, None),
        };
        match (name, argument) {
            ("box", None) => Ok(Self::Box),
            ("coarse_mask", None) => Ok(Self::CoarseMask),
            ("points" | "clicks", Some(count)) => match count.parse() {
                Ok(count) if !(1..=MAX_POINTS).contains(&count) => Err(unknown()),
                Ok(count) if name == "points" => Ok(Self::Points(count)),
                Ok(count) => Ok(Self::Clicks(count)),
                Err(_) => Err(unknown()),
            },
            ("noisy_box", Some(share)) => match share.parse() {
                Ok(share) if share > 0.0 && share < 1.0 => Ok(Self::NoisyBox(share)),
                _ => Err(unknown()),
            },
            _ => Err(unknown()),
        }
    }
}

impl TryFrom<String> for Protocol {
    type Error = UnknownProtocol;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Protocol> for String {
    fn from(protocol: Protocol) -> Self {
        protocol.to_string()
    }
}

#[cfg(test)]
mod tests {
    use dataset::raster::MASK_THRESHOLD;

    use super::*;

    fn square() -> Mask255 {
        let at =
            |index: usize| (10..30).contains(&(index / 64)) && (20..50).contains(&(index % 64));
        let pixels = (0..64 * 64).map(|index| if at(index) { 255 } else { 0 }).collect();
        Mask255 { height: 64, width: 64, pixels }
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        let names = ["box", "points:1", "points:10000", "clicks:1", "clicks:5", "coarse_mask"];
        for name in names.into_iter().chain(["noisy_box:0.2"]) {
            assert_eq!(name.parse::<Protocol>().unwrap().to_string(), name);
        }
        for name in [
            "",
            "boxes",
            "points",
            "points:0",
            "points:-1",
            "points:10001",
            "clicks",
            "clicks:0",
            "clicks:100000000",
            "noisy_box",
            "noisy_box:1",
            "noisy_box:0",
            "noisy_box:NaN",
            "coarse_mask:2",
            "box:1",
        ] {
            let problem = name.parse::<Protocol>().unwrap_err().to_string();
            assert!(problem.contains(&format!("`{name}`")) && problem.contains("points:5"));
        }
    }

    #[test]
    fn prompts_are_of_their_kind_and_drawn_from_the_sample_alone() {
        let mask = square();
        let prompt = |protocol: Protocol, seed, id| protocol.prompt(&mask, seed, id).prompt;
        assert_eq!(prompt(Protocol::Box, 1, "a"), Prompt::Box([20.0, 10.0, 49.0, 29.0]));
        for count in [1, 3, 5, 10] {
            let Prompt::Points { coords, labels } = prompt(Protocol::Points(count), 1, "a") else {
                panic!("points")
            };
            assert_eq!(labels, vec![1.0; count]);
            let foreground = |[x, y]: [f32; 2]| mask.pixels[y as usize * 64 + x as usize];
            assert!(coords.into_iter().all(|point| foreground(point) > MASK_THRESHOLD));
        }
        for (count, further) in [(1, 0), (3, 2)] {
            let click = Prompt::Points { coords: vec![[29.0, 19.0]], labels: vec![1.0] };
            assert_eq!(prompt(Protocol::Clicks(count), 1, "a"), click);
            assert_eq!(Protocol::Clicks(count).further_clicks(), further);
        }
        let Prompt::NoiseMask(values) = prompt(Protocol::CoarseMask, 1, "a") else {
            panic!("a mask")
        };
        assert!(values.contains(&255));
        for protocol in [Protocol::Points(3), Protocol::CoarseMask, Protocol::NoisyBox(0.4)] {
            assert_eq!(prompt(protocol, 1, "a"), prompt(protocol, 1, "a"));
            assert_ne!(prompt(protocol, 1, "a"), prompt(protocol, 2, "a"));
            assert_ne!(prompt(protocol, 1, "a"), prompt(protocol, 1, "b"));
        }
        let Prompt::Box(noisy) = prompt(Protocol::NoisyBox(0.4), 1, "a") else { panic!("a box") };
        let Prompt::Box(tight) = prompt(Protocol::Box, 1, "a") else { panic!("a box") };
        // The centre moves by at most half the share of the sides, a corner by as much again.
        let shifts = noisy.iter().zip(tight).map(|(noisy, tight)| (noisy - tight).abs());
        assert!(shifts.zip([12.0, 8.0, 12.0, 8.0]).all(|(shift, most)| shift <= most));
    }

    #[test]
    fn a_mask_without_foreground_gets_the_whole_image_and_says_so() {
        let empty = Mask255 { height: 8, width: 8, pixels: vec![0; 64] };
        for protocol in
            [Protocol::Box, Protocol::Points(5), Protocol::Clicks(3), Protocol::NoisyBox(0.2)]
        {
            let replaced = protocol.prompt(&empty, 1, "a");
            assert_eq!(replaced.prompt, Prompt::Box([0.0, 0.0, 7.0, 7.0]));
            assert!(replaced.is_replaced);
        }
        assert!(!Protocol::CoarseMask.prompt(&empty, 1, "a").is_replaced);
    }
}
