//! Prompts written on the command line.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use dataset::raster::RgbRaster;
use trainer::predict::{ImagePrompt, MaskInput};

/// The prompts of one object, as written.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct ObjectText {
    box_xyxy: Option<String>,
    points: Vec<String>,
    mask: Option<PathBuf>,
}

/// The value of an option of prompts. Numbers may be below zero; an option in their place means that they
/// were forgotten.
pub(super) fn value(text: &str) -> Result<String, String> {
    match text.strip_prefix("--") {
        Some(option) => Err(format!("numbers are missing before --{option}")),
        None => Ok(text.to_owned()),
    }
}

/// The objects that `--box`, `--point`, `--mask` or `--object` describe.
pub(super) fn objects(
    boxes: &[String],
    points: &[String],
    mask: Option<&Path>,
    objects: &[String],
) -> Result<Vec<ObjectText>> {
    if !objects.is_empty() {
        return objects.iter().map(|text| object(text)).collect();
    }
    if boxes.len() > 1 {
        ensure!(
            points.is_empty() && mask.is_none(),
            "several boxes are several objects: say what belongs together, as in \
             --object \"box=1,2,30,40 point=5,6\""
        );
        let alone =
            |text: &String| ObjectText { box_xyxy: Some(text.clone()), ..ObjectText::default() };
        return Ok(boxes.iter().map(alone).collect());
    }
    let object = ObjectText {
        box_xyxy: boxes.first().cloned(),
        points: points.to_vec(),
        mask: mask.map(Path::to_owned),
    };
    ensure!(
        object != ObjectText::default(),
        "no prompt: give --box x0,y0,x1,y1, --point x,y[,label], --mask FILE, --prompts FILE or \
         --boxes-from FILE"
    );
    Ok(vec![object])
}

fn object(text: &str) -> Result<ObjectText> {
    let mut object = ObjectText::default();
    for part in text.split_whitespace() {
        match part.split_once('=') {
            Some(("box", corners)) if object.box_xyxy.is_none() => {
                object.box_xyxy = Some(corners.to_owned());
            }
            Some(("point", point)) => object.points.push(point.to_owned()),
            Some(("mask", path)) if object.mask.is_none() => object.mask = Some(path.into()),
            Some(("box" | "mask", _)) => {
                bail!("--object \"{text}\": one box and one mask at most; the second is `{part}`")
            }
            _ => bail!("--object \"{text}\": `{part}` is none of box=, point=, mask="),
        }
    }
    ensure!(object != ObjectText::default(), "--object \"{text}\": no prompt in it");
    Ok(object)
}

impl ObjectText {
    /// The prompt in pixels of `image`.
    pub(super) fn prompt(&self, image: &RgbRaster, logits_side: usize) -> Result<ImagePrompt> {
        let mut prompt = ImagePrompt::default();
        if let Some(text) = &self.box_xyxy {
            let corners: [f32; 4] = numbers(text, image)?
                .try_into()
                .map_err(|_| anyhow!("box {text}: four numbers x0,y0,x1,y1 are needed"))?;
            prompt.box_xyxy = Some(corners);
        }
        for text in &self.points {
            let values = numbers(text, image)?;
            ensure!(
                matches!(values.len(), 2 | 3) && [0.0, 1.0].contains(values.get(2).unwrap_or(&1.0)),
                "point {text}: x,y or x,y,label with label 0 or 1 is needed"
            );
            prompt.points.push([values[0], values[1]]);
            prompt.point_labels.push(values.get(2).copied().unwrap_or(1.0));
        }
        if let Some(path) = &self.mask {
            let size = (image.height, image.width);
            prompt.mask = Some(MaskInput::read(path, size, logits_side)?);
        }
        Ok(prompt)
    }
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

    fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn percent_is_of_the_side_it_stands_for() {
        let image = RgbRaster { height: 200, width: 400, pixels: Vec::new() };
        assert_eq!(numbers("10%, 10%,90,50%", &image).unwrap(), [40.0, 20.0, 90.0, 100.0]);
        assert!(numbers("1,x", &image).is_err());
        assert!(numbers("nan,1", &image).is_err());
    }

    #[test]
    fn several_boxes_are_several_objects_and_points_need_one() {
        let two = strings(&["1,2,3,4", "5,6,7,8"]);
        assert_eq!(objects(&two, &[], None, &[]).unwrap().len(), 2);
        let point = strings(&["1,1"]);
        let error = objects(&two, &point, None, &[]).unwrap_err().to_string();
        assert!(error.contains("--object"), "{error}");
        let one = objects(&two[..1], &point, Some(Path::new("m.png")), &[]).unwrap();
        let same =
            objects(&[], &[], None, &strings(&["box=1,2,3,4 point=1,1 mask=m.png"])).unwrap();
        assert_eq!(one, same);
        for wrong in ["box=1,2,3,4 box=1,2,3,4", "circle=1", "", "box"] {
            assert!(objects(&[], &[], None, &strings(&[wrong])).is_err(), "{wrong}");
        }
        assert!(objects(&[], &[], None, &[]).unwrap_err().to_string().contains("no prompt"));
    }
}
