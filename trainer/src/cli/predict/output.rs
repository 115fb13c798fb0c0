//! What `hqsam predict` writes, and under which names.

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
    records: Vec<Record>,
    images: usize,
    masks: usize,
    foreground: usize,
}

impl Outputs {
    /// Creates the folder of several images.
    pub(super) fn new(
        path: Option<PathBuf>,
        overlay: Option<PathBuf>,
        formats: &[Format],
        is_single: bool,
        is_coco: bool,
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
        let records = Vec::new();
        Ok(Self { is_single, path, overlay, formats, records, images: 0, masks: 0, foreground: 0 })
    }

    /// Writes the masks of one image.
    pub(super) fn write(&mut self, target: &Target<'_>, predictions: &[Prediction]) -> Result<()> {
        // `mask.png`, or `photo.jpg.png` below the folder: two images may differ in extension alone.
        let base = if self.is_single {
            self.path.clone()
        } else {
            let mut name: OsString = target.file.name.clone().into();
            name.push(".png");
            self.path.join(name)
        };
        if let Some(folder) = base.parent() {
            std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        }
        if self.formats.contains(&Format::Png) {
            write_masks(&base, target.image, predictions)?;
        }
        if self.formats.contains(&Format::Overlay) || self.overlay.is_some() {
            let path = self.overlay.clone().unwrap_or_else(|| base.with_extension("overlay.png"));
            let picture = overlay(target.image, predictions.iter().map(best_mask));
            write_png(&path, &picture.pixels, target.image, ColorType::Rgb8)?;
        }
        if self.formats.contains(&Format::Rle) {
            self.record(target, predictions);
        }
        self.images += 1;
        for mask in predictions.iter().flat_map(|prediction| &prediction.masks) {
            self.masks += 1;
            self.foreground += mask.foreground_pixels();
        }
        Ok(())
    }

    fn record(&mut self, target: &Target<'_>, predictions: &[Prediction]) {
        for (object, prediction) in predictions.iter().enumerate() {
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
            let path = match self.is_single {
                true => self.path.with_extension("json"),
                false => self.path.join("results.json"),
            };
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

/// One mask under `base` itself, several as `base-<object>.png`, of SAM's three
/// `base-<object>-<mask>.png`.
fn write_masks(base: &Path, image: &RgbRaster, predictions: &[Prediction]) -> Result<()> {
    let masks_each = predictions.first().map_or(1, |prediction| prediction.masks.len());
    for (object, prediction) in predictions.iter().enumerate() {
        for (index, mask) in prediction.masks.iter().enumerate() {
            let number = match (predictions.len(), masks_each) {
                (1, 1) => String::new(),
                (_, 1) => format!("-{object}"),
                _ => format!("-{object}-{index}"),
            };
            let mut name = base.file_stem().unwrap_or_default().to_owned();
            name.push(format!("{number}.png"));
            let path = if number.is_empty() { base.to_owned() } else { base.with_file_name(name) };
            write_png(&path, &mask.pixels, image, ColorType::L8)?;
        }
    }
    Ok(())
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
