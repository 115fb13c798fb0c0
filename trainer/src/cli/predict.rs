//! `hqsam predict`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use clap::Args;
use dataset::raster::RgbRaster;
use image::{ColorType, save_buffer};
use tch::Device;
use trainer::model::StateDict;
use trainer::predict::{ImagePrompt, MaskMode, overlay, predict, read_image};
use trainer::run;

#[derive(Args)]
pub(crate) struct PredictArguments {
    /// Folder of a run, or a merged HQ-SAM file.
    model: PathBuf,
    /// Image.
    image: PathBuf,
    /// Box in pixels of the image, or in percent of its sides (`10%,10%,90%,90%`): x0,y0,x1,y1.
    #[arg(long = "box", value_name = "X0,Y0,X1,Y1")]
    box_xyxy: Option<String>,
    /// Point in pixels (or percent) of the image, label 1 (foreground, default) or 0; may be repeated.
    #[arg(long = "point", value_name = "X,Y[,LABEL]")]
    points: Vec<String>,
    /// Which logits become the mask.
    #[arg(long, value_enum, default_value = "hq")]
    mode: MaskMode,
    /// Let SAM choose the best of its three masks.
    #[arg(long)]
    multimask: bool,
    /// Mask to write (PNG, 0 and 255).
    #[arg(short, long, default_value = "mask.png")]
    output: PathBuf,
    /// Picture with the mask over the image. Default: the mask's name with `.overlay.png`.
    #[arg(long)]
    overlay: Option<PathBuf>,
    /// Also write the 256 x 256 logits (safetensors, tensor `low_res_logits`).
    #[arg(long)]
    logits: Option<PathBuf>,
    /// Encoder of a model file whose sizes are not published ones.
    #[arg(long)]
    encoder: Option<String>,
}

pub(crate) fn run(arguments: &PredictArguments, device: Device) -> Result<()> {
    let image = read_image(&arguments.image)?;
    let prompt = prompt(arguments, &image)?;
    let opened = run::open_model(&arguments.model, arguments.encoder.as_deref(), device)?;
    let img_size = opened.encoder.img_size() as usize;
    let prediction = predict(
        &opened.model,
        img_size,
        &image,
        &prompt,
        arguments.mode,
        arguments.multimask,
        device,
    )?;
    write_png(&arguments.output, &prediction.mask.pixels, &image, ColorType::L8)?;
    let picture_path =
        arguments.overlay.clone().unwrap_or_else(|| arguments.output.with_extension("overlay.png"));
    let picture = overlay(&image, &prediction.mask);
    write_png(&picture_path, &picture.pixels, &image, ColorType::Rgb8)?;
    if let Some(path) = &arguments.logits {
        let tensors = StateDict::from([("low_res_logits".to_owned(), prediction.low_res_logits)]);
        trainer::weights::save_safetensors(path, &tensors, &BTreeMap::new())?;
    }
    let foreground = prediction.mask.foreground_pixels();
    super::print(&format!(
        "{}: {foreground} of {} pixels; picture {}",
        arguments.output.display(),
        image.height * image.width,
        picture_path.display()
    ))
}

fn write_png(path: &Path, pixels: &[u8], size: &RgbRaster, color: ColorType) -> Result<()> {
    let (width, height) = (size.width as u32, size.height as u32);
    save_buffer(path, pixels, width, height, color).with_context(|| path.display().to_string())
}

fn prompt(arguments: &PredictArguments, image: &RgbRaster) -> Result<ImagePrompt> {
    let mut prompt = ImagePrompt::default();
    if let Some(text) = &arguments.box_xyxy {
        let values = numbers(text, image)?;
        let corners: [f32; 4] = values
            .try_into()
            .map_err(|_| anyhow!("--box {text}: four numbers x0,y0,x1,y1 are needed"))?;
        prompt.box_xyxy = Some(corners);
    }
    for text in &arguments.points {
        let values = numbers(text, image)?;
        ensure!(
            matches!(values.len(), 2 | 3) && [0.0, 1.0].contains(values.get(2).unwrap_or(&1.0)),
            "--point {text}: x,y or x,y,label with label 0 or 1 is needed"
        );
        prompt.points.push([values[0], values[1]]);
        prompt.point_labels.push(values.get(2).copied().unwrap_or(1.0));
    }
    Ok(prompt)
}

/// Numbers of a prompt; `%` is relative to the width at even places and to the height at odd ones.
fn numbers(text: &str, image: &RgbRaster) -> Result<Vec<f32>> {
    text.split(',')
        .enumerate()
        .map(|(place, part)| {
            let part = part.trim();
            let side = if place % 2 == 0 { image.width } else { image.height };
            let (digits, unit) = match part.strip_suffix('%') {
                Some(digits) => (digits, side as f32 / 100.0),
                None => (part, 1.0),
            };
            let value: f32 = digits.parse().with_context(|| format!("`{part}` in `{text}`"))?;
            ensure!(value.is_finite(), "`{part}` in `{text}` is not a finite number");
            Ok(value * unit)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_is_of_the_side_it_stands_for() {
        let image = RgbRaster { height: 200, width: 400, pixels: Vec::new() };
        assert_eq!(numbers("10%, 10%,90,50%", &image).unwrap(), [40.0, 20.0, 90.0, 100.0]);
        assert!(numbers("1,x", &image).is_err());
        assert!(numbers("nan,1", &image).is_err());
    }
}
