//! `hqsam amg`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use dataset::raster::{Mask255, RgbRaster};
use image::ColorType;
use serde::Serialize;
use tch::Device;
use trainer::amg::{AmgOptions, GeneratedMask, generate};
use trainer::predict::{MaskMode, Predictor, overlay, read_image};
use trainer::rle::Segmentation;

use super::model_arguments::ModelArguments;
use super::predict::{ImageFile, image_bar, images, write_json, write_png};

#[derive(Args)]
pub(crate) struct AmgArguments {
    #[command(flatten)]
    model: ModelArguments,
    /// Images (JPEG, PNG), or folders of them.
    #[arg(required = true)]
    images: Vec<PathBuf>,
    /// Folder to write.
    #[arg(short, long, default_value = "masks")]
    output: PathBuf,
    #[command(flatten)]
    options: AmgOptions,
    /// The form of the masks: a folder of PNG files with metadata.csv, or one JSON list an image.
    #[arg(long, value_enum, default_value = "binary_mask")]
    output_mode: OutputMode,
    /// Also write each image with its masks in colour.
    #[arg(long)]
    overlay: bool,
    /// Which logits become the masks; `sam` judges all three masks of each point.
    #[arg(long, value_enum, default_value = "sum")]
    mode: MaskMode,
}

/// The published generator's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum OutputMode {
    #[value(name = "binary_mask")]
    BinaryMask,
    #[value(name = "uncompressed_rle")]
    UncompressedRle,
    #[value(name = "coco_rle")]
    CocoRle,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Counts {
    Numbers(Segmentation<Vec<u32>>),
    Text(Segmentation<String>),
}

/// The published record of a mask; boxes are x, y, width, height.
#[derive(Serialize)]
struct Record {
    segmentation: Counts,
    area: u64,
    bbox: [f32; 4],
    predicted_iou: f32,
    point_coords: [[f64; 2]; 1],
    stability_score: f32,
    crop_box: [usize; 4],
}

pub(crate) fn run(arguments: &AmgArguments, device: Device) -> Result<()> {
    arguments.options.check()?;
    let images = images(&arguments.images)?;
    let opened = arguments.model.open(device)?;
    let predictor = Predictor::new(&opened.model);
    let bar = image_bar(images.len(), images.len() == 1);
    let (mut masks, mut failed) = (0, 0);
    for file in &images {
        match segment(arguments, &predictor, file) {
            Ok(found) => masks += found,
            Err(error) if images.len() == 1 => return Err(error),
            Err(error) => {
                failed += 1;
                bar.suspend(|| tracing::warn!("{}", super::one_line(&error)));
            }
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    let output = arguments.output.display();
    super::print(&format!("{output}: {masks} masks on {} images", images.len() - failed))?;
    ensure!(failed == 0, "{failed} of {} images have no masks; they are named above", images.len());
    Ok(())
}

fn segment(arguments: &AmgArguments, predictor: &Predictor<'_>, file: &ImageFile) -> Result<usize> {
    let image = read_image(&file.path)?;
    let masks = generate(predictor, &image, &arguments.options, arguments.mode)?;
    let named = |suffix: &str| {
        let mut name: OsString = file.name.clone().into();
        name.push(suffix);
        arguments.output.join(name)
    };
    let base = named("");
    let folder = base.parent().unwrap_or(&base);
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    match arguments.output_mode {
        OutputMode::BinaryMask => write_folder(&named(".masks"), &image, &masks)?,
        mode => {
            let records: Vec<Record> = masks.iter().map(|mask| record(mask, mode)).collect();
            write_json(&named(".json"), &records)?;
        }
    }
    if arguments.overlay {
        // The largest first, so that small masks lie on top.
        let mut order: Vec<&GeneratedMask> = masks.iter().collect();
        order.sort_by_key(|mask| std::cmp::Reverse(mask.rle.area()));
        let picture = overlay(&image, order.iter().map(|mask| mask.rle.to_mask()));
        write_png(&named(".overlay.png"), &picture.pixels, &image, ColorType::Rgb8)?;
    }
    Ok(masks.len())
}

fn record(mask: &GeneratedMask, mode: OutputMode) -> Record {
    Record {
        segmentation: match mode {
            OutputMode::UncompressedRle => Counts::Numbers(mask.rle.uncompressed()),
            _ => Counts::Text(mask.rle.compressed()),
        },
        area: mask.rle.area(),
        bbox: xywh(mask.box_xyxy),
        predicted_iou: mask.predicted_iou,
        point_coords: [mask.point],
        stability_score: mask.stability_score,
        crop_box: xywh(mask.crop_box),
    }
}

fn xywh<T: Copy + std::ops::Sub<Output = T>>([x0, y0, x1, y1]: [T; 4]) -> [T; 4] {
    [x0, y0, x1 - x0, y1 - y0]
}

/// `0.png`, `1.png`, .. and `metadata.csv`, as the published script has them.
fn write_folder(folder: &Path, image: &RgbRaster, masks: &[GeneratedMask]) -> Result<()> {
    if folder.join("metadata.csv").exists() {
        // Masks of an earlier call would pass for some of this one.
        std::fs::remove_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let mut table = String::from(
        "id,area,bbox_x0,bbox_y0,bbox_w,bbox_h,point_input_x,point_input_y,predicted_iou,\
         stability_score,crop_box_x0,crop_box_y0,crop_box_w,crop_box_h\n",
    );
    for (id, mask) in masks.iter().enumerate() {
        let Mask255 { pixels, .. } = mask.rle.to_mask();
        write_png(&folder.join(format!("{id}.png")), &pixels, image, ColorType::L8)?;
        let [x, y, width, height] = xywh(mask.box_xyxy);
        let [crop_x, crop_y, crop_width, crop_height] = xywh(mask.crop_box);
        let ([point_x, point_y], area) = (mask.point, mask.rle.area());
        let (iou, stability) = (mask.predicted_iou, mask.stability_score);
        table += &format!(
            "{id},{area},{x},{y},{width},{height},{point_x},{point_y},{iou},{stability},\
             {crop_x},{crop_y},{crop_width},{crop_height}\n"
        );
    }
    let path = folder.join("metadata.csv");
    std::fs::write(&path, table).with_context(|| path.display().to_string())
}
