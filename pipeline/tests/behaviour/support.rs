//! A raw collection on disk, and the data set built from it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use dataset::codec::MaskValues;
use dataset::source::{Layout, SourceSpec, SplitRule};
use image::{GrayImage, ImageFormat, Luma, Rgb, RgbImage};
use pipeline::{BuildConfig, BuildReport, Dataset, build};
use tempfile::TempDir;

/// A folder of `images/N.jpg` and `ground_truth_mask/N.png`, removed when dropped.
pub(crate) struct Collection {
    pub(crate) folder: TempDir,
}

impl Collection {
    /// `count` pairs of different sizes, textures and shapes.
    pub(crate) fn new(count: u32) -> Self {
        let collection = Self { folder: tempfile::tempdir().unwrap() };
        std::fs::create_dir_all(collection.raw().join("images")).unwrap();
        std::fs::create_dir_all(collection.raw().join("ground_truth_mask")).unwrap();
        for index in 0..count {
            let (width, height) = (60 + index % 7 * 9, 50 + index % 5 * 11);
            texture(index, width, height).save(collection.image(index)).unwrap();
            disc(width, height).save(collection.mask(index)).unwrap();
        }
        collection
    }

    pub(crate) fn raw(&self) -> PathBuf {
        self.folder.path().join("raw")
    }

    pub(crate) fn image(&self, index: u32) -> PathBuf {
        self.raw().join(format!("images/{index:04}.jpg"))
    }

    pub(crate) fn mask(&self, index: u32) -> PathBuf {
        self.raw().join(format!("ground_truth_mask/{index:04}.png"))
    }

    pub(crate) fn output(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Small shards and row groups, so that a few pairs make several of both.
    pub(crate) fn config(&self, output: &str) -> BuildConfig {
        let source = SourceSpec {
            name: "drawn".into(),
            layout: Layout::Ecssd,
            root: self.raw(),
            images: None,
            masks: None,
            split: SplitRule::Holdout { fraction: 0.25, seed: 0 },
            license: Some("none".into()),
            expected: None,
            mask_values: MaskValues::Auto,
        };
        let mut config = BuildConfig::new(self.output(output).to_string_lossy(), vec![source]);
        config.rows_per_group = 4;
        config.shard_bytes = 30_000;
        config.threads = Some(2);
        config
    }

    pub(crate) fn build(&self, output: &str) -> BuildReport {
        build(&self.config(output)).unwrap()
    }

    pub(crate) fn open(&self, output: &str) -> Arc<Dataset> {
        Arc::new(Dataset::open(&self.output(output).to_string_lossy()).unwrap())
    }
}

/// Different for each index and not flat, so that no two pictures look alike.
pub(crate) fn texture(index: u32, width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let wave = |step: u32| ((x * (index % 11 + 1) + y * step + index * 37) % 256) as u8;
        Rgb([wave(3), wave(index % 13 + 1), wave(7)])
    })
}

pub(crate) fn disc(width: u32, height: u32) -> GrayImage {
    let (middle_x, middle_y, radius) = (width / 2, height / 2, height / 3);
    GrayImage::from_fn(width, height, |x, y| {
        let (dx, dy) = (x.abs_diff(middle_x), y.abs_diff(middle_y));
        Luma([if dx * dx + dy * dy <= radius * radius { 255 } else { 0 }])
    })
}

pub(crate) fn save_mask(mask: &GrayImage, path: &Path) {
    mask.save_with_format(path, ImageFormat::Png).unwrap();
}

/// Every file below `folder` with its bytes, by relative path.
pub(crate) fn contents(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().to_string_lossy().into_owned();
                files.push((name, std::fs::read(&path).unwrap()));
            }
        }
    }
    files.sort();
    files
}
