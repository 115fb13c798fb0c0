//! Boxes of a COCO file: its annotations, or detections.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, SeqAccess, Visitor};

use super::images::{ImageFile, check_names};
use super::list::ListedObject;
use super::{CocoImage, Objects, Task};

#[derive(Deserialize)]
struct ImageEntry {
    id: u64,
    file_name: String,
    width: Option<usize>,
    height: Option<usize>,
}

#[derive(Deserialize)]
struct BoxEntry {
    image_id: u64,
    #[serde(default)]
    category_id: u64,
    bbox: [f32; 4],
    score: Option<f64>,
}

/// A list whose entry at fault is numbered in the error, from 0.
struct Entries<T>(Vec<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Entries<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(EntriesVisitor(PhantomData)).map(Self)
    }
}

struct EntriesVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for EntriesVisitor<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
        let mut entries = Vec::new();
        loop {
            let number = entries.len();
            let entry = list.next_element();
            match entry.map_err(|error| A::Error::custom(format!("entry {number}: {error}")))? {
                Some(entry) => entries.push(entry),
                None => return Ok(entries),
            }
        }
    }
}

#[derive(Deserialize)]
#[serde(expecting = "COCO annotations with images and annotations, or a list of detections")]
struct Annotations {
    images: Option<Entries<ImageEntry>>,
    annotations: Option<Entries<BoxEntry>>,
}

#[derive(Deserialize)]
#[serde(expecting = "a COCO file with images")]
struct ImageInfo {
    images: Entries<ImageEntry>,
}

/// The boxes of a file, and the images where it names them.
fn read(file: &Path) -> Result<(Vec<BoxEntry>, Option<Vec<ImageEntry>>)> {
    let bytes = std::fs::read(file).with_context(|| file.display().to_string())?;
    if bytes.trim_ascii_start().starts_with(b"[") {
        return Ok((parse::<Entries<BoxEntry>>(file, &bytes)?.0, None));
    }
    let Annotations { images, annotations } = parse(file, &bytes)?;
    let boxes = annotations
        .ok_or_else(|| anyhow!("{}: holds no boxes, it has no `annotations`", file.display()))?;
    Ok((boxes.0, images.map(|images| images.0)))
}

fn parse<'a, T: Deserialize<'a>>(file: &Path, bytes: &'a [u8]) -> Result<T> {
    serde_json::from_slice(bytes).with_context(|| file.display().to_string())
}

/// The images in `folder` that a COCO file has boxes for.
pub(super) fn coco(file: &Path, image_info: Option<&Path>, folder: &Path) -> Result<Vec<Task>> {
    ensure!(folder.is_dir(), "{}: no such folder of images", folder.display());
    let (boxes, images) = read(file)?;
    let images = match (image_info, images) {
        (Some(info), _) => {
            let bytes = std::fs::read(info).with_context(|| info.display().to_string())?;
            parse::<ImageInfo>(info, &bytes).context("--image-info")?.images.0
        }
        (None, Some(images)) => images,
        (None, None) => bail!(
            "{}: its boxes do not name their images; give the file that does with --image-info",
            file.display()
        ),
    };
    ensure!(!boxes.is_empty(), "{}: no box in this file", file.display());
    let mut objects: BTreeMap<u64, Vec<ListedObject>> = BTreeMap::new();
    for BoxEntry { image_id, category_id, bbox: [x, y, width, height], score } in boxes {
        let box_xyxy = Some([x, y, x + width, y + height]);
        let object = ListedObject { box_xyxy, category_id, score, ..ListedObject::default() };
        objects.entry(image_id).or_default().push(object);
    }
    let mut tasks = Vec::new();
    for ImageEntry { id, file_name, width, height } in images {
        if let Some(objects) = objects.remove(&id) {
            let image = ImageFile::named(folder, Path::new(&file_name));
            let coco = Some(CocoImage { id, size_wh: width.zip(height) });
            tasks.push(Task { image, objects: Objects::Listed(objects), coco });
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

    struct Files(tempfile::TempDir);

    impl Files {
        fn read(&self, boxes: &str, info: Option<&str>) -> Result<Vec<Task>> {
            let folder = self.0.path();
            std::fs::write(folder.join("boxes.json"), boxes).unwrap();
            let path = folder.join("info.json");
            std::fs::write(&path, info.unwrap_or_default()).unwrap();
            coco(&folder.join("boxes.json"), info.map(|_| path.as_path()), folder)
        }

        fn problem(&self, boxes: &str, info: Option<&str>) -> String {
            format!("{:#}", self.read(boxes, info).err().unwrap())
        }
    }

    #[test]
    fn detections_take_their_images_from_another_file() {
        let files = Files(tempfile::tempdir().unwrap());
        let boxes = r#"[{"image_id": 7, "category_id": 3, "bbox": [1, 2, 3, 4], "score": 0.5}]"#;
        let error = files.problem(boxes, None);
        assert!(error.contains("--image-info"), "{error}");
        // What else the file of images holds does not matter.
        let info = r#"{"images": [{"id": 7, "file_name": "a.jpg", "width": 5, "height": 4}],
                       "annotations": [{"caption": "a cat"}]}"#;
        let tasks = files.read(boxes, Some(info)).unwrap();
        let coco = tasks[0].coco.as_ref().unwrap();
        assert_eq!((tasks.len(), coco.id, coco.size_wh), (1, 7, Some((5, 4))));
        let other = r#"{"images": [{"id": 8, "file_name": "a.jpg"}]}"#;
        let error = files.problem(boxes, Some(other));
        assert!(error.contains("image 7, which is not among"), "{error}");
        let error = files.problem(boxes, Some(boxes));
        assert!(error.contains("--image-info: ") && error.contains("info.json"), "{error}");
    }

    #[test]
    fn what_is_wrong_in_an_annotation_is_said_with_its_place() {
        let files = Files(tempfile::tempdir().unwrap());
        let with = |entry: &str| {
            let good = r#"{"image_id": 1, "bbox": [1, 2, 3, 4]}"#;
            let images = r#"[{"id": 1, "file_name": "a.jpg"}]"#;
            files.problem(
                &format!(r#"{{"images": {images}, "annotations": [{good}, {entry}]}}"#),
                None,
            )
        };
        for (entry, words) in [
            (
                r#"{"image_id": 1, "bbox": []}"#,
                "entry 1: invalid length 0, expected an array of length 4",
            ),
            (r#"{"image_id": 1}"#, "entry 1: missing field `bbox` at line 1 column "),
            (
                r#"{"image_id": 1, "bbox": [1, 2, 3, 4], "category_id": -1}"#,
                "entry 1: invalid value: integer `-1`",
            ),
            (r#"{"image_id": "a", "bbox": [1, 2, 3, 4]}"#, "entry 1: invalid type: string \"a\""),
        ] {
            let error = with(entry);
            assert!(error.contains("boxes.json: ") && error.contains(words), "{error}");
        }
        for (boxes, words) in [
            (r#"{"images": 3}"#, "invalid type: integer `3`, expected a list at line 1"),
            (r#"{"images": []}"#, "holds no boxes, it has no `annotations`"),
            (r#"{"annotations": []}"#, "do not name their images"),
            ("3", "expected COCO annotations"),
            (r#"[{"image_id": 1}]"#, "entry 0: missing field `bbox`"),
        ] {
            let error = files.problem(boxes, None);
            assert!(error.contains(words), "{boxes}: {error}");
        }
    }
}
