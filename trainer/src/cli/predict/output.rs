//! What `hqsam predict` writes, and under which names.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use dataset::raster::RgbRaster;
use image::{ColorType, save_buffer};
use serde::Serialize;
use trainer::predict::{Prediction, overlay};
use trainer::rle::{Rle, Segmentation};

use super::best_mask;
use super::images::ImageFile;

/// Kinds of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// A mask image an object (0 and 255).
    Png,
    /// One JSON list of run lengths; with `--boxes-from` in COCO's format of results.
    Rle,
    /// The image with its masks in colour.
    Overlay,
}

/// The image that was predicted on.
pub(super) struct Target<'a> {
    pub(super) image: &'a RgbRaster,
    pub(super) file: &'a ImageFile,
    pub(super) coco: Option<CocoIds>,
    /// Objects on the image, and the numbers of those that are predicted.
    pub(super) objects: usize,
    pub(super) numbers: &'a [usize],
}

/// `image_id` and, of each object, category and the detection's score.
pub(super) type CocoIds = (u64, Vec<(u64, Option<f64>)>);

/// One mask of the JSON list.
#[derive(Serialize)]
#[serde(untagged)]
enum Record {
    /// Without `bbox`: `pycocotools` would take the areas of the boxes for those of the masks.
    Coco { image_id: u64, category_id: u64, segmentation: Segmentation<String>, score: f64 },
    Named {
        image: String,
        object: usize,
        mask: usize,
        segmentation: Segmentation<String>,
        area: u64,
        score: f64,
    },
}

/// The files of a call.
pub(super) struct Outputs {
    /// Whether there is one image and `path` is its mask, not a folder.
    pub(super) is_single: bool,
    path: PathBuf,
    overlay: Option<PathBuf>,
    formats: Vec<Format>,
    /// Canonical paths of what is read.
    inputs: BTreeSet<PathBuf>,
    records: Vec<Record>,
    images: usize,
    masks: usize,
    foreground: usize,
}

impl Outputs {
    /// Creates the folder of several images. None of `inputs` is written over.
    pub(super) fn new<'a>(
        path: Option<PathBuf>,
        overlay: Option<PathBuf>,
        formats: &[Format],
        is_single: bool,
        is_coco: bool,
        inputs: impl Iterator<Item = &'a Path>,
    ) -> Result<Self> {
        let default = if is_single { "mask.png" } else { "predictions" };
        let path = path.unwrap_or_else(|| default.into());
        if is_single {
            // A lossy format would change the mask.
            let masks = formats.is_empty() || formats.contains(&Format::Png);
            let is_png = path.extension().is_some_and(|end| end.eq_ignore_ascii_case("png"));
            ensure!(
                !masks || (is_png && !path.is_dir()),
                "{}: the mask of one image is written as a file that ends in .png",
                path.display()
            );
        } else {
            std::fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
        }
        let formats = match (formats, is_coco) {
            ([], true) => vec![Format::Rle],
            ([], false) => vec![Format::Png, Format::Overlay],
            (formats, _) => formats.to_vec(),
        };
        let (inputs, records) = (inputs.filter_map(|path| path.canonicalize().ok()), Vec::new());
        let inputs = inputs.collect();
        let outputs = Self {
            is_single,
            path,
            overlay,
            formats,
            inputs,
            records,
            images: 0,
            masks: 0,
            foreground: 0,
        };
        if outputs.formats.contains(&Format::Rle) {
            outputs.check_path(&outputs.list_path())?;
        }
        Ok(outputs)
    }

    /// Refuses to write over a picture or a list that is read.
    pub(super) fn check_path(&self, path: &Path) -> Result<()> {
        let is_input = path.canonicalize().is_ok_and(|path| self.inputs.contains(&path));
        ensure!(!is_input, "{}: this file is read here; name another one to write", path.display());
        Ok(())
    }

    /// [`Outputs::check_path`] for what [`Outputs::write`] will write.
    pub(super) fn check(&self, target: &Target<'_>, masks_each: usize) -> Result<()> {
        let base = self.base(target.file);
        if self.formats.contains(&Format::Png) {
            mask_paths(&base, target, masks_each)
                .iter()
                .try_for_each(|path| self.check_path(path))?;
        }
        self.overlay_path(&base).map_or(Ok(()), |path| self.check_path(&path))
    }

    /// `mask.png`, or `photo.jpg.png` below the folder: two images may differ in extension alone.
    fn base(&self, file: &ImageFile) -> PathBuf {
        if self.is_single {
            return self.path.clone();
        }
        let mut name: OsString = file.name.clone().into();
        name.push(".png");
        self.path.join(name)
    }

    fn overlay_path(&self, base: &Path) -> Option<PathBuf> {
        let default =
            || self.formats.contains(&Format::Overlay).then(|| base.with_extension("overlay.png"));
        self.overlay.clone().or_else(default)
    }

    fn list_path(&self) -> PathBuf {
        match self.is_single {
            true => self.path.with_extension("json"),
            false => self.path.join("results.json"),
        }
    }

    /// Writes the masks of one image.
    pub(super) fn write(&mut self, target: &Target<'_>, predictions: &[Prediction]) -> Result<()> {
        let base = self.base(target.file);
        if let Some(folder) = base.parent() {
            std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        }
        let masks = predictions.iter().flat_map(|prediction| &prediction.masks);
        if self.formats.contains(&Format::Png) {
            let masks_each = predictions.first().map_or(1, |prediction| prediction.masks.len());
            for (path, mask) in mask_paths(&base, target, masks_each).iter().zip(masks.clone()) {
                write_png(path, &mask.pixels, target.image, ColorType::L8)?;
            }
        }
        if let Some(path) = self.overlay_path(&base) {
            let picture = overlay(target.image, predictions.iter().map(best_mask));
            write_png(&path, &picture.pixels, target.image, ColorType::Rgb8)?;
        }
        if self.formats.contains(&Format::Rle) {
            self.record(target, predictions);
        }
        self.images += 1;
        for mask in masks {
            self.masks += 1;
            self.foreground += mask.foreground_pixels();
        }
        Ok(())
    }

    fn record(&mut self, target: &Target<'_>, predictions: &[Prediction]) {
        for (&object, prediction) in target.numbers.iter().zip(predictions) {
            if let Some((image_id, ids)) = &target.coco {
                let (category_id, detection) = ids[object];
                let rle = Rle::from_mask(best_mask(prediction));
                self.records.push(Record::Coco {
                    image_id: *image_id,
                    category_id,
                    segmentation: rle.compressed(),
                    score: detection.unwrap_or(prediction.scores[prediction.best()].into()),
                });
                continue;
            }
            for (index, (mask, &score)) in
                prediction.masks.iter().zip(&prediction.scores).enumerate()
            {
                let rle = Rle::from_mask(mask);
                self.records.push(Record::Named {
                    image: target.file.name.to_string_lossy().into_owned(),
                    object,
                    mask: index,
                    segmentation: rle.compressed(),
                    area: rle.area(),
                    score: score.into(),
                });
            }
        }
    }

    /// Writes the list, if one was asked for; returns a line about the whole.
    pub(super) fn finish(self) -> Result<String> {
        let mut written = self.path.display().to_string();
        if self.formats.contains(&Format::Rle) {
            let path = self.list_path();
            write_json(&path, &self.records)?;
            written = path.display().to_string();
        }
        Ok(format!(
            "{written}: {} masks on {} images, {} pixels of foreground",
            self.masks, self.images, self.foreground
        ))
    }
}

/// Writes beside `path` and renames: a reader sees the old file or the whole new one.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let staged = path.with_extension("json.tmp");
    let json = serde_json::to_vec(value)?;
    std::fs::write(&staged, json).with_context(|| staged.display().to_string())?;
    std::fs::rename(&staged, path).with_context(|| path.display().to_string())
}

/// Where the masks go: one object's to `base` itself, those of several to `base-<object>.png`, SAM's
/// three to `base-<object>-<mask>.png`.
fn mask_paths(base: &Path, target: &Target<'_>, masks_each: usize) -> Vec<PathBuf> {
    let stem = base.file_stem().unwrap_or_default();
    let named = |number: String| {
        let mut name = stem.to_owned();
        name.push(number + ".png");
        base.with_file_name(name)
    };
    let of_object = |&object: &usize| -> Vec<PathBuf> {
        match (target.objects, masks_each) {
            (1, 1) => vec![base.to_owned()],
            (_, 1) => vec![named(format!("-{object}"))],
            _ => (0..masks_each).map(|mask| named(format!("-{object}-{mask}"))).collect(),
        }
    };
    target.numbers.iter().flat_map(of_object).collect()
}

/// Writes pixels of the size of `size`.
pub(crate) fn write_png(
    path: &Path,
    pixels: &[u8],
    size: &RgbRaster,
    color: ColorType,
) -> Result<()> {
    let (width, height) = (size.width as u32, size.height as u32);
    save_buffer(path, pixels, width, height, color).with_context(|| path.display().to_string())
}
