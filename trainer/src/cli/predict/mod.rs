//! `hqsam predict`.

mod coco;
mod images;
mod list;
mod output;
mod prompt_text;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};
use clap::Args;
use dataset::raster::RgbRaster;
use indicatif::{ProgressBar, ProgressStyle};
use tch::{Device, Tensor};
use trainer::model::StateDict;
use trainer::predict::{
    BoxFit, ImagePrompt, MaskMode, Prediction, Predictor, read_image, read_listed_image,
};

use super::model_arguments::ModelArguments;
pub(crate) use images::{ImageFile, images};
use list::ListedObject;
use output::{CocoIds, Format, Outputs, Target};
pub(crate) use output::{write_json, write_png};
use prompt_text::ObjectText;

#[derive(Args)]
pub(crate) struct PredictArguments {
    #[command(flatten)]
    model: ModelArguments,
    /// Images (JPEG, PNG), or folders of them.
    #[arg(required = true)]
    images: Vec<PathBuf>,
    /// Box in pixels of the image, or in percent of its sides (`10%,10%,90%,90%`): x0,y0,x1,y1.
    /// Several boxes are several objects. What sticks out of the image is cut off.
    #[arg(long = "box", value_name = "X0,Y0,X1,Y1", allow_hyphen_values = true, value_parser = prompt_text::value)]
    boxes: Vec<String>,
    /// Point in pixels (or percent) of the image, label 1 (foreground, default) or 0; may be
    /// repeated. All points, the box and the mask prompt one object.
    #[arg(long = "point", value_name = "X,Y[,LABEL]", allow_hyphen_values = true, value_parser = prompt_text::value)]
    points: Vec<String>,
    /// Mask prompt: an image of the same size, or logits that --logits wrote.
    #[arg(long = "mask", value_name = "FILE")]
    mask: Option<PathBuf>,
    /// Prompts of one of several objects: `--object "box=1,2,30,40 point=5,6 point=7,8,0 mask=FILE"`.
    #[arg(long = "object", value_name = "PROMPTS", conflicts_with_all = ["boxes", "points", "mask"])]
    objects: Vec<String>,
    /// Prompts of each image: JSON `{"a.jpg": [{"box": [..], "points": [[x, y, label]], "mask":
    /// "m.png"}]}`, or CSV with columns image, x0, y0, x1, y1 and/or x, y, label, and object.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["boxes", "points", "mask", "objects"])]
    prompts: Option<PathBuf>,
    /// Boxes of a COCO file: its annotations, or detections together with --image-info.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["boxes", "points", "mask", "objects", "prompts"])]
    boxes_from: Option<PathBuf>,
    /// COCO file that names the images of the detections in --boxes-from.
    // `requires` alone does not count beside what excludes --boxes-from.
    #[arg(long, value_name = "FILE", requires = "boxes_from", conflicts_with_all = ["boxes", "points", "mask", "objects", "prompts"])]
    image_info: Option<PathBuf>,
    /// Which logits become the mask.
    #[arg(long, value_enum, default_value = "hq")]
    mode: MaskMode,
    /// For ambiguous prompts: `hq` and `sum` take the best of SAM's three masks, `sam` writes all.
    #[arg(long)]
    multimask: bool,
    /// What to write. Default: png,overlay; with --boxes-from: rle.
    #[arg(long, value_enum, value_delimiter = ',')]
    format: Vec<Format>,
    /// Mask to write (PNG, 0 and 255); of several images, the folder. Default: mask.png, or
    /// predictions.
    #[arg(short, long)]
    output: Option<PathBuf>,
    /// Picture with the masks over the image. Default: the mask's name with `.overlay.png`.
    #[arg(long)]
    overlay: Option<PathBuf>,
    /// Also write the low-resolution logits (safetensors: `low_res_logits` of objects x masks x
    /// 256 x 256, `iou_predictions`). For one image.
    #[arg(long)]
    logits: Option<PathBuf>,
}

/// One image and what is prompted on it.
struct Task {
    image: ImageFile,
    objects: Objects,
    /// What a COCO file says of the image, where one names it.
    coco: Option<CocoImage>,
}

struct CocoImage {
    id: u64,
    /// Width and height, where they are given.
    size_wh: Option<(usize, usize)>,
}

/// What became of boxes that do not lie on their images.
#[derive(Default)]
struct BoxTally {
    cut: usize,
    left_out: usize,
}

enum Objects {
    /// As written on the command line; percents need the image.
    Text(Vec<ObjectText>),
    Listed(Vec<ListedObject>),
}

pub(crate) fn run(arguments: &PredictArguments, device: Device) -> Result<()> {
    if let Some(path) = &arguments.logits {
        ensure!(
            path.extension().is_some_and(|extension| extension == "safetensors"),
            "--logits {}: logits are written as a file that ends in .safetensors",
            path.display()
        );
    }
    let tasks = tasks(arguments)?;
    let is_single = tasks.len() == 1
        && arguments.boxes_from.is_none()
        && arguments.images.iter().all(|path| path.is_file());
    ensure!(
        is_single || (arguments.logits.is_none() && arguments.overlay.is_none()),
        "--logits and --overlay name one file each: they go with one image, not with folders, several \
         images or --boxes-from"
    );
    let lists = [&arguments.prompts, &arguments.boxes_from, &arguments.image_info];
    let inputs = tasks.iter().map(|task| task.image.path.as_path());
    let mut outputs = Outputs::new(
        arguments.output.clone(),
        arguments.overlay.clone(),
        &arguments.format,
        is_single,
        arguments.boxes_from.is_some(),
        inputs.chain(lists.into_iter().flatten().map(PathBuf::as_path)),
    )?;
    let opened = arguments.model.open(device)?;
    let predictor = Predictor::new(&opened.model);
    let bar = image_bar(tasks.len(), is_single);
    let (mut failed, mut tally) = (0, BoxTally::default());
    for task in &tasks {
        let done = predict(arguments, &predictor, task, &mut outputs, &mut tally);
        bar.inc(1);
        match done {
            Ok(()) => {}
            Err(error) if is_single => {
                return Err(error.context(task.image.path.display().to_string()));
            }
            Err(error) => {
                failed += 1;
                let line = super::one_line(&error);
                bar.suspend(|| tracing::warn!("{}: {line}", task.image.path.display()));
            }
        }
    }
    bar.finish_and_clear();
    tally.warn();
    super::print(&outputs.finish()?)?;
    ensure!(failed == 0, "{failed} of {} images have no masks; they are named above", tasks.len());
    Ok(())
}

impl BoxTally {
    fn warn(&self) {
        if self.cut > 0 {
            tracing::warn!(
                "boxes that stuck out of their image and were cut at its edges: {}",
                self.cut
            );
        }
        if self.left_out > 0 {
            tracing::warn!(
                "objects left out, since their boxes have no width or height on their image: {}",
                self.left_out
            );
        }
    }
}

/// A bar over images; hidden for a single one.
pub(crate) fn image_bar(images: usize, is_single: bool) -> ProgressBar {
    if is_single {
        return ProgressBar::hidden();
    }
    ProgressBar::new(images as u64).with_style(
        ProgressStyle::with_template("{bar:30} {pos}/{len} images, eta {eta}")
            .unwrap_or_else(|_| ProgressStyle::default_bar()),
    )
}

fn tasks(arguments: &PredictArguments) -> Result<Vec<Task>> {
    if let Some(file) = &arguments.boxes_from {
        let [folder] = arguments.images.as_slice() else {
            bail!("--boxes-from names the images itself: give the one folder that they lie in");
        };
        return coco::coco(file, arguments.image_info.as_deref(), folder);
    }
    let images = images(&arguments.images)?;
    if let Some(file) = &arguments.prompts {
        return list::matched(file, images);
    }
    let objects = prompt_text::objects(
        &arguments.boxes,
        &arguments.points,
        arguments.mask.as_deref(),
        &arguments.objects,
    )?;
    let task = |image| Task { image, objects: Objects::Text(objects.clone()), coco: None };
    Ok(images.into_iter().map(task).collect())
}

fn predict(
    arguments: &PredictArguments,
    predictor: &Predictor<'_>,
    task: &Task,
    outputs: &mut Outputs,
    tally: &mut BoxTally,
) -> Result<()> {
    let path = &task.image.path;
    let image = match task.coco.as_ref().and_then(|coco| coco.size_wh) {
        Some(size_wh) => read_listed_image(path, size_wh),
        None => read_image(path),
    };
    let image = image.map_err(|error| match error {
        // The caller names the file.
        trainer::predict::PredictError::Image { problem, .. } => anyhow::anyhow!(problem),
        error => error.into(),
    })?;
    let all = prompts(&task.objects, &image, predictor.logits_side())?;
    let objects = all.len();
    let (numbers, prompts) = fitted(all, task, &image, tally);
    ensure!(
        arguments.logits.is_none() || !prompts.is_empty(),
        "--logits: the list has no prompt for this image, so there are no logits to write"
    );
    let target = Target {
        image: &image,
        file: &task.image,
        coco: coco_ids(task),
        objects,
        numbers: &numbers,
    };
    // Before the encoder runs: it is the long part.
    for prompt in &prompts {
        prompt.check((image.height, image.width), predictor.logits_side())?;
    }
    let masks_each = match (arguments.mode, arguments.multimask) {
        (MaskMode::Sam, true) => 3,
        _ => 1,
    };
    outputs.check(&target, masks_each)?;
    arguments.logits.iter().try_for_each(|path| outputs.check_path(path))?;
    let encoded = predictor.encode(&image)?;
    let predictions = predictor.predict(&encoded, &prompts, arguments.mode, arguments.multimask)?;
    if let Some(path) = &arguments.logits {
        write_logits(path, &predictions)?;
    }
    outputs.write(&target, &predictions)
}

fn write_logits(path: &Path, predictions: &[Prediction]) -> Result<()> {
    let logits: Vec<&Tensor> = predictions.iter().map(|found| &found.low_res_logits).collect();
    let scores: Vec<Tensor> =
        predictions.iter().map(|found| Tensor::from_slice(&found.scores)).collect();
    let tensors = StateDict::from([
        ("low_res_logits".to_owned(), Tensor::stack(&logits, 0)),
        ("iou_predictions".to_owned(), Tensor::stack(&scores, 0)),
    ]);
    Ok(trainer::weights::save_safetensors(path, &tensors, &BTreeMap::new())?)
}

/// The prompts with their boxes cut at the edges of the image, and the numbers of their objects.
fn fitted(
    prompts: Vec<ImagePrompt>,
    task: &Task,
    image: &RgbRaster,
    tally: &mut BoxTally,
) -> (Vec<usize>, Vec<ImagePrompt>) {
    let mut kept = (Vec::new(), Vec::new());
    for (number, mut prompt) in prompts.into_iter().enumerate() {
        match prompt.fit_box((image.height, image.width)) {
            BoxFit::Cut => tally.cut += 1,
            // Published annotations have such boxes: one must not cost the others their masks.
            BoxFit::Empty if task.coco.is_some() => {
                tally.left_out += 1;
                continue;
            }
            // An empty box that somebody wrote is refused with the other mistakes.
            BoxFit::Inside | BoxFit::Empty => {}
        }
        kept.0.push(number);
        kept.1.push(prompt);
    }
    kept
}

fn prompts(objects: &Objects, image: &RgbRaster, side: usize) -> Result<Vec<ImagePrompt>> {
    match objects {
        Objects::Text(objects) => objects.iter().map(|object| object.prompt(image, side)).collect(),
        Objects::Listed(objects) => {
            objects.iter().map(|object| object.prompt(image, side)).collect()
        }
    }
}

/// Of an image that a COCO file names.
fn coco_ids(task: &Task) -> Option<CocoIds> {
    let Objects::Listed(objects) = &task.objects else { return None };
    let ids = objects.iter().map(|object| (object.category_id, object.score)).collect();
    task.coco.as_ref().map(|coco| (coco.id, ids))
}

/// The mask that stands for an object where only one can.
fn best_mask(prediction: &Prediction) -> &dataset::raster::Mask255 {
    &prediction.masks[prediction.best()]
}
