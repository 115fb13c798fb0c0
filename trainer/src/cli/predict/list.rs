//! Prompts of many images from a file: JSON or CSV of our own, or COCO.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use dataset::raster::RgbRaster;
use serde::Deserialize;
use trainer::predict::{ImagePrompt, MaskInput};

use super::images::{ImageFile, check_names};
use super::{Objects, Task};

/// The prompts of one object in pixels of its image.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListedObject {
    #[serde(rename = "box")]
    box_xyxy: Option<[f32; 4]>,
    /// x, y and, unless 1, label.
    #[serde(default)]
    points: Vec<Vec<f32>>,
    mask: Option<PathBuf>,
    /// Boxes of detectors may stick out of the image by a little.
    #[serde(skip)]
    is_clipped: bool,
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
        if let Some(corners) = prompt.box_xyxy.as_mut().filter(|_| self.is_clipped) {
            let sides = [image.width, image.height, image.width, image.height];
            for (value, side) in corners.iter_mut().zip(sides) {
                *value = value.clamp(0.0, side as f32);
            }
        }
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
                tasks.push(Task { image, objects, image_id: None });
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

#[derive(Deserialize)]
struct CocoImage {
    id: u64,
    file_name: String,
}

#[derive(Deserialize)]
struct CocoBox {
    image_id: u64,
    #[serde(default)]
    category_id: u64,
    bbox: [f32; 4],
    score: Option<f64>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum CocoFile {
    Instances { images: Vec<CocoImage>, annotations: Vec<CocoBox> },
    Detections(Vec<CocoBox>),
    Images { images: Vec<CocoImage> },
}

/// The images in `folder` that a COCO file has boxes for.
pub(super) fn coco(file: &Path, image_info: Option<&Path>, folder: &Path) -> Result<Vec<Task>> {
    ensure!(folder.is_dir(), "{}: no such folder of images", folder.display());
    let read = |file: &Path| {
        read_json::<CocoFile>(file).map_err(|error| {
            let is_shape = error.root_cause().to_string().contains("untagged");
            let problem = match is_shape {
                true => {
                    "neither COCO annotations with images and bbox nor a list of detections".into()
                }
                false => error.root_cause().to_string(),
            };
            anyhow!("{}: {problem}", file.display())
        })
    };
    let info = image_info.map(read).transpose()?;
    let (boxes, images) = match (read(file)?, info) {
        (CocoFile::Detections(_), None) => bail!(
            "{}: detections do not name their images; give the file that does with --image-info",
            file.display()
        ),
        (CocoFile::Images { .. }, _) => bail!("{}: holds no boxes", file.display()),
        (CocoFile::Instances { images, annotations }, None) => (annotations, images),
        (
            CocoFile::Detections(boxes) | CocoFile::Instances { annotations: boxes, .. },
            Some(CocoFile::Instances { images, .. } | CocoFile::Images { images }),
        ) => (boxes, images),
        (_, Some(CocoFile::Detections(_))) => bail!("--image-info: holds no images"),
    };
    ensure!(!boxes.is_empty(), "{}: no box in this file", file.display());
    let mut objects: BTreeMap<u64, Vec<ListedObject>> = BTreeMap::new();
    for CocoBox { image_id, category_id, bbox: [x, y, width, height], score } in boxes {
        let box_xyxy = Some([x, y, x + width, y + height]);
        let object =
            ListedObject { box_xyxy, is_clipped: true, category_id, score, ..Default::default() };
        objects.entry(image_id).or_default().push(object);
    }
    let mut tasks = Vec::new();
    for CocoImage { id, file_name } in images {
        if let Some(objects) = objects.remove(&id) {
            let image = ImageFile::named(folder, Path::new(&file_name));
            tasks.push(Task { image, objects: Objects::Listed(objects), image_id: Some(id) });
        }
    }
    if let Some(id) = objects.keys().next() {
        bail!("{}: a box is on image {id}, which is not among the images", file.display());
    }
    check_names(tasks.iter().map(|task| &task.image))?;
    Ok(tasks)
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

    #[test]
    fn detections_take_their_images_from_another_file() {
        let (folder, boxes) = file(
            "found.json",
            r#"[{"image_id": 7, "category_id": 3, "bbox": [1, 2, 3, 4], "score": 0.5}]"#,
        );
        let error = coco(&boxes, None, folder.path()).err().unwrap().to_string();
        assert!(error.contains("--image-info"), "{error}");
        let (_info, info) = file("images.json", r#"{"images": [{"id": 7, "file_name": "a.jpg"}]}"#);
        let tasks = coco(&boxes, Some(&info), folder.path()).unwrap();
        assert_eq!((tasks.len(), tasks[0].image_id), (1, Some(7)));
        let (_other, other) =
            file("other.json", r#"{"images": [{"id": 8, "file_name": "a.jpg"}]}"#);
        let error = coco(&boxes, Some(&other), folder.path()).err().unwrap().to_string();
        assert!(error.contains("image 7, which is not among"), "{error}");
        let (_text, text) = file("text.json", "{\"images\": 3}");
        assert!(
            coco(&text, None, folder.path()).err().unwrap().to_string().contains("neither COCO")
        );
    }
}
