//! Raw files to pairs: which image belongs to which mask, in which split. Nothing is decoded, and
//! where the files lie does not matter: everything here works on a listing, see [`RawFiles`].
//!
//! Folder names below the root are found whatever their case and up to three levels down (archives
//! that were unpacked into a folder of their own name), `__MACOSX` and hidden entries are ignored,
//! extensions are compared without case. What each [`Layout`] expects:
//!
//! | layout | folders | names | native split |
//! |---|---|---|---|
//! | `ecssd` | `images`, `ground_truth_mask` | `0001` | `train` |
//! | `duts` | `DUTS-TR/{DUTS-TR-Image,DUTS-TR-Mask}`, `DUTS-TE/..` | `DUTS-TR/<stem>` | `train`, both |
//! | `fss_1000` | `fewshot_data/<class>/{1..10}.{jpg,png}`, or `support/<class>/{image,label}` | `<class>/1` | `train` |
//! | `msra_10k` | `Imgs/<n>.{jpg,png}` | `<n>` | `train` |
//! | `dut_omron` | `DUT-OMRON-image`, `pixelwiseGT-new-PNG` | `<stem>` | `train` |
//! | `dis5k` | `DIS-TR/{im,gt}`, `DIS-VD`, `DIS-TE1` .. `DIS-TE4` | `DIS-TR/<stem>` | `train`, `val`, `test` |
//! | `thin_object_5k` (also COIFT, HRSOD) | `images`, `masks`, `list/{train,val,test}.txt` | `<stem>` | by list |
//! | `big` | any, or `val` and `test` | `<stem>` of `<stem>_im.jpg`, `<stem>_gt.png` | by folder, else `test` |
//! | `custom` | `images = "<glob>"`, `masks = "<pattern>"` | see [`SourceSpec::masks`] | `train` |
//! | `csv`, `jsonl` | `list = "<file>"` with `image` and `mask` | column `name`, else the image | column `split`, else `train` |
//! | `coco` | `annotations = "<file>"`, `images = "<folder>"` | `<image>/<annotation id>` | `train` |
//!
//! The published HQSeg-44K trains on both halves of DUTS; a `split = { folders = .. }` rule keeps
//! them apart.

mod annotation;
mod folders;
mod known_bad;
mod layouts;
mod licence;
mod pairing;
mod published;
mod rle;
mod split;
mod tree;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use self::annotation::{Annotation, Shape};
pub use self::known_bad::known_mistake;
pub use self::licence::{Collection, Permission, Terms, collection};
pub use self::published::{FoundPart, PublishedPart, published_parts};
pub use self::split::SplitRule;
pub use self::tree::{FileTree, RawFile, RawFiles, is_hidden};
use crate::codec::MaskValues;
use crate::verify::RejectReason;

/// How a collection lies on disk as its authors ship it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
pub enum Layout {
    /// ECSSD, 1,000 pairs.
    #[serde(rename = "ecssd")]
    Ecssd,
    /// DUTS, training half (10,553 pairs) and test half (5,019).
    #[serde(rename = "duts")]
    Duts,
    /// FSS-1000, 1,000 classes of 10 pairs.
    #[serde(rename = "fss_1000")]
    Fss1000,
    /// MSRA10K, 10,000 pairs.
    #[serde(rename = "msra_10k")]
    Msra10k,
    /// DUT-OMRON, 5,168 pairs.
    #[serde(rename = "dut_omron")]
    DutOmron,
    /// DIS5K, 5,470 pairs in six folders.
    #[serde(rename = "dis5k")]
    Dis5k,
    /// ThinObject-5K; COIFT and HRSOD as bundled with it.
    #[serde(rename = "thin_object_5k")]
    ThinObject5k,
    /// BIG, 50 pairs for validation and 100 for testing, from 2048 x 1600 to 5000 x 3600 pixels.
    #[serde(rename = "big")]
    Big,
    /// Anything else, described by a glob and a pattern.
    #[serde(rename = "custom")]
    Custom,
    /// Pairs that a CSV file with a header lists.
    #[serde(rename = "csv")]
    Csv,
    /// Pairs that a file of JSON objects, one a line, lists.
    #[serde(rename = "jsonl")]
    Jsonl,
    /// COCO-style annotations: a row for each object.
    #[serde(rename = "coco")]
    Coco,
}

impl Layout {
    /// The name used in configurations.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ecssd => "ecssd",
            Self::Duts => "duts",
            Self::Fss1000 => "fss_1000",
            Self::Msra10k => "msra_10k",
            Self::DutOmron => "dut_omron",
            Self::Dis5k => "dis5k",
            Self::ThinObject5k => "thin_object_5k",
            Self::Big => "big",
            Self::Custom => "custom",
            Self::Csv => "csv",
            Self::Jsonl => "jsonl",
            Self::Coco => "coco",
        }
    }
}

/// One collection in a build configuration.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SourceSpec {
    /// First part of every sample id; unique in a build.
    pub name: String,
    /// How the folder is laid out.
    pub layout: Layout,
    /// A folder, a `.zip` or `.tar` archive, a folder inside one (`data/set.zip/train`, or
    /// `data/set/train` where only `data/set.zip` exists), or the URL of any of these.
    pub root: PathBuf,
    /// For `custom`: glob of the images relative to the root, such as `photos/**/*.jpg`, which takes
    /// `.JPG` and `.jpeg` too. For `coco`: their folder, such as `train2017`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images: Option<String>,
    /// Only for `custom`: path of the mask relative to the root. `{stem}` is the image's file name
    /// without extension, `{dir}` the folder that the wildcards of `images` matched, for instance
    /// `labels/{dir}/{stem}.png`. The sample is named `{dir}/{stem}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub masks: Option<String>,
    /// Only for `csv` and `jsonl`: the file that lists the pairs, relative to the root. Its columns
    /// (or keys) are `image` and `mask`, paths relative to the root, and, where wanted, `split`,
    /// `class`, `name` (unique; by default the image's path) and `license`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub list: Option<String>,
    /// Only for `csv` and `jsonl`: further columns that the list may have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignore_columns: Vec<String>,
    /// Only for `coco`: the annotation file relative to the root, such as
    /// `annotations/instances_train2017.json`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<String>,
    /// Only for `coco`: whether to take regions that hold a crowd; by default `skip`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crowd: Option<Crowd>,
    /// Only for `coco`: least area of an object in pixels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_area: Option<u64>,
    /// For layouts of one's own: the published collection that the files are a copy of, by the name
    /// of its layout, such as `msra_10k`. Its terms, counts and known mistakes then apply.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collection: Option<Layout>,
    /// With `collection`: the part of it, such as `DUTS-TR`; see [`published_parts`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<String>,
    /// Which split each pair belongs to.
    #[serde(default)]
    pub split: SplitRule,
    /// Licence, carried into every row; absent: what is known of the collection, see
    /// [`SourceSpec::terms`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub license: Option<String>,
    /// Whether commercial use is permitted; absent: what is known of the collection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commercial: Option<bool>,
    /// Pairs that the collection should have, for the report; absent: what is known of its layout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<u64>,
    /// What the values of its masks mean; told from each file unless given.
    #[serde(default, skip_serializing_if = "MaskValues::is_auto")]
    pub mask_values: MaskValues,
}

impl SourceSpec {
    /// A source with every other setting at its default.
    #[must_use]
    pub fn new(name: impl Into<String>, layout: Layout, root: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            layout,
            root: root.into(),
            images: None,
            masks: None,
            list: None,
            ignore_columns: Vec::new(),
            annotations: None,
            crowd: None,
            min_area: None,
            collection: None,
            part: None,
            split: SplitRule::Native,
            license: None,
            commercial: None,
            expected: None,
            mask_values: MaskValues::Auto,
        }
    }
}

/// What to do with COCO annotations of many objects at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Crowd {
    /// Leave them out, listed in the quarantine.
    #[default]
    Skip,
    /// Take each as one object.
    Keep,
}

/// Where the mask of a pair comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum MaskOrigin {
    /// A file, relative to the root.
    File(String),
    /// An object of an annotation file.
    Annotation(Arc<Annotation>),
}

/// The path, for annotations followed by `#` and their id.
impl fmt::Display for MaskOrigin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => formatter.write_str(path),
            Self::Annotation(annotation) => {
                write!(formatter, "{}#{}", annotation.file, annotation.id)
            }
        }
    }
}

/// An image file and its mask.
#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    /// Name of the source.
    pub source: String,
    /// For instance `train` or `val`.
    pub split: String,
    /// Class of the object where the collection has one.
    pub class: Option<String>,
    /// Unique within the source, `/`-separated, without extension.
    pub name: String,
    /// The image file, relative to the root.
    pub image: String,
    /// The mask.
    pub mask: MaskOrigin,
    /// Its own licence, else that of the source.
    pub license: Option<String>,
}

impl Pair {
    /// `{source}/{name}`.
    #[must_use]
    pub fn sample_id(&self) -> String {
        format!("{}/{}", self.source, self.name)
    }
}

/// A pair that is not used.
#[derive(Clone, Debug, PartialEq)]
pub struct Rejected {
    /// `{source}/{name}`.
    pub sample_id: String,
    /// Name of the source.
    pub source: String,
    /// The image file relative to the root, where one is known.
    pub image: Option<String>,
    /// The mask, where one is known.
    pub mask: Option<MaskOrigin>,
    /// The part of its collection, where a layout has several.
    pub part: Option<&'static str>,
    /// Why.
    pub reason: RejectReason,
}

/// What a folder holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Discovery {
    /// Sorted by sample id, whatever order the file system lists them in.
    pub pairs: Vec<Pair>,
    /// Sorted by sample id.
    pub rejected: Vec<Rejected>,
    /// Of a published collection, what there is of each part; in the authors' order.
    pub parts: Vec<FoundPart>,
}

/// A source that cannot be enumerated at all.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The root does not have the folders of its layout.
    #[error("source `{name}`: {} holds no {expected} (layout `{}`); found {found}", .root.display(), .layout.name())]
    UnexpectedLayout {
        /// Name of the source.
        name: String,
        /// Its root.
        root: PathBuf,
        /// Its layout.
        layout: Layout,
        /// Folders or files that were looked for.
        expected: String,
        /// What lies there instead.
        found: String,
    },
    /// A list cannot be read.
    #[error("source `{name}`: cannot read {}", .path.display())]
    Io {
        /// Name of the source.
        name: String,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The specification contradicts itself.
    #[error("source `{name}`: {problem}")]
    Spec {
        /// Name of the source.
        name: String,
        /// What to change.
        problem: String,
    },
}

/// Enumerates the pairs of a source in the files below its root.
///
/// An image without a mask, a mask without an image and a pair that is known to be wrong are
/// listed as rejected; they are no errors.
///
/// # Errors
/// [`SourceError`] when the files are not in the layout, or a list of them cannot be read.
pub fn discover(spec: &SourceSpec, files: &dyn RawFiles) -> Result<Discovery, SourceError> {
    let listing = folders::Listing::new(spec, files);
    let found = layouts::find(&listing)?;
    split::assign(&listing, found)
}
