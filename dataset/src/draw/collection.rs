//! Drawn collections on disk, each in the form in which the real one is shipped.

use std::fs;
use std::path::{Path, PathBuf};

use image::codecs::jpeg::JpegEncoder;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use thiserror::Error;

use super::{ObjectKind, draw_object, generator};
use crate::codec::encode_mask_png;
use crate::raster::RgbRaster;
use crate::source::Layout;

/// Visually lossless, and about the size of the collections' own files.
const JPEG_QUALITY: u8 = 92;
/// Sides of drawn pictures in pixels.
const SIDE_RANGE: std::ops::RangeInclusive<usize> = 300..=500;
/// Sides of FSS-1000 pictures, and pairs of each of its classes.
const FSS_SIDE: usize = 224;
const FSS_CLASS_PAIRS: u64 = 10;

/// A collection that cannot be drawn.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DrawError {
    /// The layout says nothing about where files lie.
    #[error("layout `{}` has no form of its own: draw another one", .layout.name())]
    NoNativeForm {
        /// The layout.
        layout: Layout,
    },
    /// The disk refuses.
    #[error("cannot write {}", .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The picture cannot be encoded.
    #[error("cannot encode {}", .path.display())]
    Encode {
        /// The file.
        path: PathBuf,
        /// Why.
        source: image::ImageError,
    },
}

/// Where the files of one pair go, relative to the root.
struct Place {
    image: String,
    mask: String,
    /// The object, where the layout has classes.
    kind: Option<ObjectKind>,
    /// The list and the line that name the pair, where the layout has lists.
    list: Option<(&'static str, String)>,
}

/// Draws `count` pairs below `root` in the native form of `layout`: JPEG images, PNG masks. Layouts
/// with several parts get one pair in four (and the second of two) in the part for validation.
/// Other layouts draw other pictures from the same seed. Files of the same name are overwritten.
///
/// # Errors
/// [`DrawError`] for `custom`, `csv`, `jsonl` and `coco`, and when a file cannot be written.
pub fn draw_collection(
    root: &Path,
    layout: Layout,
    count: u64,
    seed: u64,
) -> Result<(), DrawError> {
    let mut lists: Vec<(&str, String)> = Vec::new();
    for index in 0..count {
        let place = place(layout, index)?;
        let mut rng = generator(seed ^ layout_salt(layout), index);
        let kind = place
            .kind
            .unwrap_or_else(|| ObjectKind::ALL[rng.random_range(0..ObjectKind::ALL.len())]);
        let size = size(layout, &mut rng);
        let (image, mask) = draw_object(&mut rng, kind, size);
        write_image(&root.join(&place.image), &image)?;
        write(&root.join(&place.mask), &encode_mask_png(&mask))?;
        if let Some((list, line)) = place.list {
            match lists.iter_mut().find(|(name, _)| *name == list) {
                Some((_, text)) => text.push_str(&line),
                None => lists.push((list, line)),
            }
        }
    }
    lists.iter().try_for_each(|(list, text)| write(&root.join(list), text.as_bytes()))
}

/// High bits, where user seeds are 0.
fn layout_salt(layout: Layout) -> u64 {
    (layout as u64) << 48
}

fn size(layout: Layout, rng: &mut ChaCha8Rng) -> (usize, usize) {
    match layout {
        Layout::Fss1000 => (FSS_SIDE, FSS_SIDE),
        _ => (rng.random_range(SIDE_RANGE), rng.random_range(SIDE_RANGE)),
    }
}

fn place(layout: Layout, index: u64) -> Result<Place, DrawError> {
    let number = index + 1;
    let held_out = index % 4 == 1;
    let pair = |image: String, mask: String| Place { image, mask, kind: None, list: None };
    Ok(match layout {
        Layout::Ecssd => {
            pair(format!("images/{number:04}.jpg"), format!("ground_truth_mask/{number:04}.png"))
        }
        Layout::Duts => {
            let half = if held_out { "DUTS-TE" } else { "DUTS-TR" };
            pair(
                format!("{half}/{half}-Image/drawn_{number:08}.jpg"),
                format!("{half}/{half}-Mask/drawn_{number:08}.png"),
            )
        }
        Layout::Fss1000 => {
            let class = index / FSS_CLASS_PAIRS;
            let kind = ObjectKind::ALL[(class % ObjectKind::ALL.len() as u64) as usize];
            let round = class / ObjectKind::ALL.len() as u64;
            let suffix = if round == 0 { String::new() } else { format!("_{}", round + 1) };
            let stem = index % FSS_CLASS_PAIRS + 1;
            let folder = format!("fewshot_data/fewshot_data/{}{suffix}", kind.name());
            let files = pair(format!("{folder}/{stem}.jpg"), format!("{folder}/{stem}.png"));
            Place { kind: Some(kind), ..files }
        }
        Layout::Msra10k => pair(
            format!("MSRA10K_Imgs_GT/Imgs/{number}.jpg"),
            format!("MSRA10K_Imgs_GT/Imgs/{number}.png"),
        ),
        Layout::DutOmron => pair(
            format!("DUT-OMRON-image/drawn_{number:08}.jpg"),
            format!("pixelwiseGT-new-PNG/drawn_{number:08}.png"),
        ),
        Layout::Dis5k => {
            let part = if held_out { "DIS-VD" } else { "DIS-TR" };
            // The real names have a category and a running number in them.
            let stem = format!("1#Drawn#1#Thin object#{number:08}");
            pair(format!("{part}/im/{stem}.jpg"), format!("{part}/gt/{stem}.png"))
        }
        Layout::ThinObject5k => {
            let list = if held_out { "list/val.txt" } else { "list/train.txt" };
            let files =
                pair(format!("images/drawn_{number}.jpg"), format!("masks/drawn_{number}.png"));
            Place { list: Some((list, format!("drawn_{number}.png\n"))), ..files }
        }
        Layout::Big => {
            let part = if held_out { "val" } else { "test" };
            pair(format!("{part}/drawn{number}_im.jpg"), format!("{part}/drawn{number}_gt.png"))
        }
        Layout::Custom | Layout::Csv | Layout::Jsonl | Layout::Coco => {
            return Err(DrawError::NoNativeForm { layout });
        }
    })
}

fn write_image(path: &Path, image: &RgbRaster) -> Result<(), DrawError> {
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY)
        .encode(
            &image.pixels,
            image.width as u32,
            image.height as u32,
            image::ExtendedColorType::Rgb8,
        )
        .map_err(|source| DrawError::Encode { path: path.to_owned(), source })?;
    write(path, &bytes)
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), DrawError> {
    let problem = |source| DrawError::Io { path: path.to_owned(), source };
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(problem)?;
    }
    fs::write(path, bytes).map_err(problem)
}
