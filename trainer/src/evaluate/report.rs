//! What an evaluation found: per image, per set, and as a table.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::protocol::Protocol;
use crate::checkpoint::hex;
use crate::config::HqOutput;

/// IoU and boundary IoU of one mask, 0..1.
///
/// Where neither the truth nor the prediction has foreground, both are 1, as in the evaluation of
/// DAVIS 2017 (J = 1 if the union is empty); the published HQ-SAM evaluation would divide 0 by 0.
/// Such images are counted, see [`BothEmpty`].
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Score {
    /// Intersection over union.
    pub mask_iou: f64,
    /// The same on the bands along the contours.
    pub boundary_iou: f64,
}

/// Both models on one image with one prompt.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct ImageScore {
    /// Row within the split.
    pub row: u64,
    /// Which image.
    pub sample_id: String,
    /// Its set.
    pub source: String,
    /// With which prompt.
    pub protocol: Protocol,
    /// Rows of the image's pixels.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Foreground pixels of the annotated mask.
    pub truth_pixels: u64,
    /// Foreground pixels of the frozen SAM's mask.
    pub sam_pixels: u64,
    /// Foreground pixels of HQ-SAM's mask.
    pub hq_pixels: u64,
    /// The mask vanished when stretched, so the box of the whole image was the prompt.
    pub prompt_replaced: bool,
    /// The frozen SAM.
    pub sam: Score,
    /// HQ-SAM.
    pub hq: Score,
}

impl ImageScore {
    /// Neither the truth nor SAM's mask has foreground.
    #[must_use]
    pub fn sam_both_empty(&self) -> bool {
        self.truth_pixels == 0 && self.sam_pixels == 0
    }

    /// Neither the truth nor HQ-SAM's mask has foreground.
    #[must_use]
    pub fn hq_both_empty(&self) -> bool {
        self.truth_pixels == 0 && self.hq_pixels == 0
    }
}

/// Images whose scores are 1 by convention, since neither mask has foreground.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct BothEmpty {
    /// Truth and SAM's mask.
    pub sam: usize,
    /// Truth and HQ-SAM's mask.
    pub hq: usize,
}

/// Means over one set with one protocol.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct SetScore {
    /// Which prompt.
    pub protocol: Protocol,
    /// Name of the set; `all` for the whole split.
    pub set: String,
    /// Images in it.
    pub images: usize,
    /// The frozen SAM.
    pub sam: Score,
    /// HQ-SAM.
    pub hq: Score,
    /// Images counted with 1 because nothing was there and nothing was found.
    pub both_empty: BothEmpty,
    /// Images whose prompt was the box of the whole image for want of foreground.
    pub prompts_replaced: usize,
}

/// What an evaluation found.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct EvalReport {
    /// Split of the data set.
    pub split: String,
    /// Images of the split, of which an evaluation may take the first ones alone.
    #[serde(default)]
    pub split_images: u64,
    /// Folder or URL of the data set.
    #[serde(default)]
    pub data: String,
    /// Digest of its manifest: which data set it was, wherever it lies.
    #[serde(default)]
    pub data_sha256: String,
    /// Which HQ values were evaluated, see [`digest`](crate::checkpoint::digest).
    #[serde(default)]
    pub hq_sha256: String,
    /// Resizing, thresholds and number type, the same for every protocol.
    pub conditions: String,
    /// Which logits HQ-SAM's masks are made of.
    pub hq_output: HqOutput,
    /// Dilation ratio of the boundary IoU.
    pub dilation_ratio: f64,
    /// Seed of the drawn prompts.
    pub seed: u64,
    /// For each protocol one entry per set, then `all`.
    pub sets: Vec<SetScore>,
    /// For each protocol one entry per image, in row order.
    pub images: Vec<ImageScore>,
}

/// Means per protocol and set, sets in the order of their names, then over all images.
pub(super) fn summarise(protocols: &[Protocol], images: &[ImageScore]) -> Vec<SetScore> {
    let mut names: Vec<&str> = images.iter().map(|image| image.source.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let mut sets = Vec::new();
    for &protocol in protocols {
        let images = || images.iter().filter(move |image| image.protocol == protocol);
        for name in &names {
            sets.push(mean(protocol, name, images().filter(|image| image.source == *name)));
        }
        sets.push(mean(protocol, "all", images()));
    }
    sets
}

fn mean<'a>(
    protocol: Protocol,
    set: &str,
    images: impl Iterator<Item = &'a ImageScore>,
) -> SetScore {
    let mut total = SetScore {
        protocol,
        set: set.to_owned(),
        images: 0,
        sam: Score::default(),
        hq: Score::default(),
        both_empty: BothEmpty::default(),
        prompts_replaced: 0,
    };
    for image in images {
        total.images += 1;
        total.both_empty.sam += usize::from(image.sam_both_empty());
        total.both_empty.hq += usize::from(image.hq_both_empty());
        total.prompts_replaced += usize::from(image.prompt_replaced);
        for (sum, score) in [(&mut total.sam, image.sam), (&mut total.hq, image.hq)] {
            sum.mask_iou += score.mask_iou;
            sum.boundary_iou += score.boundary_iou;
        }
    }
    let count = total.images.max(1) as f64;
    for sum in [&mut total.sam, &mut total.hq] {
        sum.mask_iou /= count;
        sum.boundary_iou /= count;
    }
    total
}

impl EvalReport {
    /// Everything but the weights that two reports must have in common to be compared, in hexadecimal:
    /// the data set, its images that were taken, the prompts and how masks are made and scored.
    #[must_use]
    pub fn evaluation_sha256(&self) -> String {
        let protocols: Vec<String> =
            self.whole_split().map(|set| set.protocol.to_string()).collect();
        let Self { split, data_sha256, conditions, hq_output, dilation_ratio, seed, .. } = self;
        let facts = format!(
            "{split}\n{data_sha256}\n{}\n{}\n{hq_output} {dilation_ratio} {seed}\n{conditions}",
            self.num_images(),
            protocols.join(",")
        );
        hex(&Sha256::digest(facts.as_bytes()))
    }

    /// The whole split, once for each protocol.
    pub fn whole_split(&self) -> impl Iterator<Item = &SetScore> {
        // A set may be called `all` too; the whole split comes last.
        self.sets
            .chunk_by(|left, right| left.protocol == right.protocol)
            .filter_map(|sets| sets.last())
    }

    /// Images that were evaluated, however many prompts each had.
    #[must_use]
    pub fn num_images(&self) -> usize {
        self.whole_split().map(|all| all.images).max().unwrap_or(0)
    }

    /// A Markdown table in points (percent), as published tables are, with [`notes`](Self::notes)
    /// below it.
    #[must_use]
    pub fn table(&self) -> String {
        let mut lines = vec![
            "| prompt | set | images | SAM mIoU | HQ-SAM mIoU | gain | SAM mBIoU | HQ-SAM mBIoU \
             | gain |"
                .to_owned(),
            "|---|---|---:|---:|---:|---:|---:|---:|---:|".to_owned(),
        ];
        for set in &self.sets {
            let points = |value: f64| 100.0 * value;
            lines.push(format!(
                "| {} | {} | {} | {:.2} | {:.2} | {:+.2} | {:.2} | {:.2} | {:+.2} |",
                set.protocol,
                set.set,
                set.images,
                points(set.sam.mask_iou),
                points(set.hq.mask_iou),
                points(set.hq.mask_iou - set.sam.mask_iou),
                points(set.sam.boundary_iou),
                points(set.hq.boundary_iou),
                points(set.hq.boundary_iou - set.sam.boundary_iou),
            ));
        }
        lines.push(String::new());
        lines.extend(self.notes());
        lines.join("\n")
    }

    /// What a reader of the means must know besides, one sentence each.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        let (taken, all) = (self.num_images(), self.split_images);
        let mut notes = vec![match taken as u64 == all {
            true => format!("All {all} images of the split were evaluated."),
            false => format!("Only {taken} of the {all} images of the split were evaluated."),
        }];
        for set in self.whole_split() {
            let BothEmpty { sam, hq } = set.both_empty;
            if sam + hq > 0 {
                notes.push(format!(
                    "{}: counted with IoU 1 because neither mask has foreground: {sam} images of \
                     SAM, {hq} of HQ-SAM.",
                    set.protocol
                ));
            }
            if set.prompts_replaced > 0 {
                notes.push(format!(
                    "{}: the mask of {} images vanished when stretched; the box of the whole image \
                     was their prompt.",
                    set.protocol, set.prompts_replaced
                ));
            }
        }
        notes
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::evaluate) fn image(row: u64, source: &str, hq: f64) -> ImageScore {
        ImageScore {
            row,
            sample_id: format!("{source}/{row}"),
            source: source.into(),
            protocol: Protocol::Box,
            height: 30,
            width: 40,
            truth_pixels: 300,
            sam_pixels: 310,
            hq_pixels: 290,
            prompt_replaced: false,
            sam: Score { mask_iou: 0.5, boundary_iou: 0.25 },
            hq: Score { mask_iou: hq, boundary_iou: hq / 2.0 },
        }
    }

    /// A report with so many images for each protocol.
    pub(crate) fn report_of(protocols: &[Protocol], count: u64) -> EvalReport {
        let of =
            |protocol| (0..count).map(move |row| ImageScore { protocol, ..image(row, "a", 0.5) });
        report(protocols.iter().flat_map(|&protocol| of(protocol)).collect())
    }

    pub(in crate::evaluate) fn report(images: Vec<ImageScore>) -> EvalReport {
        let mut protocols: Vec<Protocol> = images.iter().map(|image| image.protocol).collect();
        protocols.dedup();
        EvalReport {
            split: "val".into(),
            split_images: 3,
            data: "data/mine".into(),
            data_sha256: "4567".into(),
            hq_sha256: "0123".into(),
            conditions: "as published".into(),
            hq_output: HqOutput::Hq,
            dilation_ratio: 0.02,
            seed: 42,
            sets: summarise(&protocols, &images),
            images,
        }
    }

    #[test]
    fn means_are_per_protocol_and_set_and_over_images() {
        let mut images = vec![image(0, "b", 0.75), image(1, "a", 1.0), image(2, "b", 0.25)];
        let points = ImageScore { protocol: Protocol::Points(5), ..image(0, "b", 0.5) };
        images.push(points);
        let report = report(images);
        let sets: Vec<(String, &str)> =
            report.sets.iter().map(|set| (set.protocol.to_string(), set.set.as_str())).collect();
        let expected = [("box", "a"), ("box", "b"), ("box", "all")];
        assert!(
            sets.iter().zip(expected).all(|((p, s), (protocol, set))| p == protocol && *s == set)
        );
        assert_eq!(report.sets[1].hq.mask_iou, 0.5);
        let whole: Vec<usize> = report.whole_split().map(|set| set.images).collect();
        assert_eq!(whole, [3, 1]);
        assert!(report.table().contains("All 3 images of the split were evaluated."));
        assert!((report.sets[2].hq.mask_iou - 2.0 / 3.0).abs() < 1e-12);
    }

    #[test]
    fn special_images_are_counted_and_noted_and_nothing_is_nan() {
        let one = Score { mask_iou: 1.0, boundary_iou: 1.0 };
        let empty = ImageScore {
            truth_pixels: 0,
            sam_pixels: 0,
            sam: one,
            hq: Score::default(),
            prompt_replaced: true,
            ..image(0, "a", 0.0)
        };
        let report = report(vec![empty, image(1, "a", 0.5)]);
        let all = report.whole_split().next().unwrap();
        assert_eq!(all.both_empty, BothEmpty { sam: 1, hq: 0 });
        assert_eq!((all.prompts_replaced, all.sam.mask_iou, all.hq.mask_iou), (1, 0.75, 0.25));
        let table = report.table();
        assert!(table.contains("neither mask has foreground: 1 images of SAM, 0 of"), "{table}");
        assert!(
            table.contains("\n\nOnly 2 of the 3 images of the split were evaluated."),
            "{table}"
        );
        let none = super::summarise(&[Protocol::Box], &[]);
        assert_eq!((none[0].images, none[0].hq), (0, Score::default()));
    }
}
