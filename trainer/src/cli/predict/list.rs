//! Prompts of many images from a file, JSON or CSV of our own.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use dataset::raster::RgbRaster;
use serde::Deserialize;
use trainer::predict::{ImagePrompt, MaskInput};

use super::images::ImageFile;
use super::{Objects, Task};

/// The prompts of one object in pixels of its image.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListedObject {
    #[serde(rename = "box")]
    pub(super) box_xyxy: Option<[f32; 4]>,
    /// x, y and, unless 1, label.
    #[serde(default)]
    pub(super) points: Vec<Vec<f32>>,
    pub(super) mask: Option<PathBuf>,
    /// COCO's class.
    #[serde(skip)]
    pub(super) category_id: u64,
    /// The detector's.
    #[serde(skip)]
    pub(super) score: Option<f64>,
}

impl ListedObject {
    /// The prompt as the model takes it.
    pub(super) fn prompt(&self, image: &RgbRaster, logits_side: usize) -> Result<ImagePrompt> {
        let mut prompt = ImagePrompt { box_xyxy: self.box_xyxy, ..ImagePrompt::default() };
        for point in &self.points {
            let (x, y, label) = match point.as_slice() {
                &[x, y] => (x, y, 1.0),
                &[x, y, label] if label == 0.0 || label == 1.0 => (x, y, label),
                other => {
                    bail!("point {other:?}: [x, y] or [x, y, label] with label 0 or 1 is needed")
                }
            };
            prompt.points.push([x, y]);
            prompt.point_labels.push(label);
        }
        if let Some(path) = &self.mask {
            let size = (image.height, image.width);
            prompt.mask = Some(MaskInput::read(path, size, logits_side)?);
        }
        Ok(prompt)
    }
}

type List = BTreeMap<String, Vec<ListedObject>>;

/// The images that a list has prompts for, each found by its path in the folder or its name.
pub(super) fn matched(file: &Path, images: Vec<ImageFile>) -> Result<Vec<Task>> {
    let is_csv = file.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("csv"));
    let mut list = if is_csv { read_csv(file)? } else { read_json(file)? };
    let folder = file.parent().unwrap_or(Path::new(""));
    for object in list.values_mut().flatten() {
        object.mask = object.mask.as_ref().map(|mask| folder.join(mask));
    }
    let mut used = BTreeSet::new();
    let mut tasks = Vec::new();
    let mut without = 0;
    for image in images {
        let file_name = image.name.file_name().unwrap_or_default();
        let key = [image.name.to_string_lossy(), file_name.to_string_lossy()]
            .into_iter()
            .find(|key| list.contains_key(key.as_ref()));
        match key {
            Some(key) => {
                let objects = Objects::Listed(list[key.as_ref()].clone());
                used.insert(key.into_owned());
                tasks.push(Task { image, objects, coco: None });
            }
            None => without += 1,
        }
    }
    if let Some(name) = list.keys().find(|name| !used.contains(*name)) {
        bail!("{}: `{name}` is none of the images", file.display());
    }
    ensure!(!tasks.is_empty(), "{}: no prompt in this list", file.display());
    if without > 0 {
        tracing::warn!("{}: no prompt for {without} images, left out", file.display());
    }
    Ok(tasks)
}

fn read_json<T: for<'a> Deserialize<'a>>(file: &Path) -> Result<T> {
    let reader = File::open(file).with_context(|| file.display().to_string())?;
    serde_json::from_reader(BufReader::new(reader)).with_context(|| file.display().to_string())
}

/// One line of a list in CSV: a box, a point, or both.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    image: String,
    x0: Option<f32>,
    y0: Option<f32>,
    x1: Option<f32>,
    y1: Option<f32>,
    x: Option<f32>,
    y: Option<f32>,
    label: Option<f32>,
    mask: Option<PathBuf>,
    /// Rows with the same one prompt the same object; a row without is an object of its own.
    object: Option<String>,
}

fn read_csv(file: &Path) -> Result<List> {
    let context = || file.display().to_string();
    let mut reader =
        csv::ReaderBuilder::new().trim(csv::Trim::All).from_path(file).with_context(context)?;
    let mut list = List::new();
    let mut places: BTreeMap<(String, String), usize> = BTreeMap::new();
    for (line, row) in (2..).zip(reader.deserialize::<Row>()) {
        let row = row.with_context(context)?;
        let objects = list.entry(row.image.clone()).or_default();
        let new = objects.len();
        let place = match &row.object {
            Some(name) => *places.entry((row.image.clone(), name.clone())).or_insert(new),
            None => new,
        };
        if place == new {
            objects.push(ListedObject::default());
        }
        add(&mut objects[place], row)
            .map_err(|problem| anyhow!("{}, line {line}: {problem}", file.display()))?;
    }
    Ok(list)
}

fn add(object: &mut ListedObject, row: Row) -> Result<()> {
    match [row.x0, row.y0, row.x1, row.y1] {
        [None, None, None, None] => {}
        [Some(x0), Some(y0), Some(x1), Some(y1)] => {
            ensure!(object.box_xyxy.is_none(), "a second box of the same object");
            object.box_xyxy = Some([x0, y0, x1, y1]);
        }
        _ => bail!("a box needs all of x0, y0, x1, y1"),
    }
    match (row.x, row.y) {
        (None, None) => ensure!(row.label.is_none(), "a label without x and y"),
        (Some(x), Some(y)) => object.points.push(vec![x, y, row.label.unwrap_or(1.0)]),
        _ => bail!("a point needs x and y"),
    }
    if let Some(mask) = row.mask {
        ensure!(object.mask.is_none(), "a second mask of the same object");
        object.mask = Some(mask);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, text: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        (folder, path)
    }

    fn image(name: &str) -> ImageFile {
        ImageFile { path: name.into(), name: name.into() }
    }

    #[test]
    fn csv_and_json_say_the_same() {
        let csv = "image, object, x0, y0, x1, y1, x, y, label\n\
                   a.jpg, cat, 1, 2, 3, 4, 5, 6, 0\n\
                   a.jpg, cat, , , , , 7, 8,\n\
                   a.jpg, , 9, 9, 10, 10, , ,\n";
        let json = r#"{"a.jpg": [{"box": [1, 2, 3, 4], "points": [[5, 6, 0], [7, 8, 1]]},
                                 {"box": [9, 9, 10, 10]}]}"#;
        let (_folder, csv) = file("list.csv", csv);
        let (_folder, json) = file("list.json", json);
        assert_eq!(read_csv(&csv).unwrap(), read_json::<List>(&json).unwrap());
    }

    #[test]
    fn what_is_wrong_in_a_list_is_named() {
        let (_folder, path) = file("list.csv", "image,x0,y0,x1,y1\na.jpg,1,2,3,\n");
        let error = read_csv(&path).unwrap_err().to_string();
        assert!(error.contains("line 2: a box needs all of"), "{error}");
        let (_folder, path) = file("list.json", r#"{"b.jpg": [{"box": [1, 2, 3, 4]}]}"#);
        let error = matched(&path, vec![image("a.jpg")]).err().unwrap().to_string();
        assert!(error.contains("`b.jpg` is none of the images"), "{error}");
    }

    #[test]
    fn an_image_is_found_by_its_path_or_name() {
        let (_folder, path) =
            file("list.json", r#"{"x/a.jpg": [{"box": [1, 2, 3, 4]}], "b.jpg": []}"#);
        let tasks = matched(&path, vec![image("x/a.jpg"), image("y/b.jpg"), image("c.jpg")]);
        assert_eq!(tasks.unwrap().len(), 2);
    }
}
