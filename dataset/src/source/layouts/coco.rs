//! COCO-style annotations: one JSON file that holds the objects of all images.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Deserialize;

use super::super::folders::{Listing, name_of, without_extension};
use super::super::{Annotation, Crowd, MaskOrigin, Shape, SourceError};
use super::{Candidate, Found, TRAIN};
use crate::verify::RejectReason;

/// The parts of an annotation file that are read; everything else is skipped.
#[derive(Deserialize)]
struct Instances {
    images: Vec<ImageEntry>,
    annotations: Vec<AnnotationEntry>,
    #[serde(default)]
    categories: Vec<Category>,
}

#[derive(Deserialize)]
struct ImageEntry {
    id: u64,
    file_name: String,
    height: u32,
    width: u32,
}

#[derive(Deserialize)]
struct Category {
    id: u64,
    name: String,
}

#[derive(Deserialize)]
struct AnnotationEntry {
    id: u64,
    image_id: u64,
    category_id: Option<u64>,
    segmentation: Option<Segmentation>,
    area: Option<f64>,
    #[serde(default)]
    iscrowd: u8,
}

/// The forms that `segmentation` has in files, and whatever else stands there.
#[derive(Deserialize)]
#[serde(untagged)]
enum Segmentation {
    Polygons(Vec<Vec<f64>>),
    Counts { counts: Vec<u32>, size: [u32; 2] },
    Compressed { counts: String, size: [u32; 2] },
    Other(serde::de::IgnoredAny),
}

/// One pair for each annotation, named `<image>/<annotation id>`.
pub(super) fn find(listing: &Listing<'_>) -> Result<Found, SourceError> {
    let (Some(path), Some(folder)) = (&listing.spec.annotations, &listing.spec.images) else {
        return Err(listing.problem(
            "layout `coco` needs `annotations`, such as \"annotations/instances_train2017.json\", \
             and `images`, the folder of the pictures, such as \"train2017\""
                .to_owned(),
        ));
    };
    let path = listing.locate(path).unwrap_or_else(|| path.clone());
    let text = listing.read_text(&path)?;
    let instances: Instances = serde_json::from_str(&text)
        .map_err(|error| listing.problem(format!("{path}: not COCO annotations: {error}")))?;
    drop(text);
    let images: HashMap<u64, PlacedImage> = instances
        .images
        .into_iter()
        .map(|entry| (entry.id, PlacedImage::new(listing, folder, entry)))
        .collect();
    let classes: HashMap<u64, String> =
        instances.categories.into_iter().map(|category| (category.id, category.name)).collect();
    let mut found = Found::default();
    for entry in instances.annotations {
        let class = entry.category_id.and_then(|id| classes.get(&id).cloned());
        match images.get(&entry.image_id) {
            Some(image) => add(listing, &path, image, class, entry, &mut found),
            None => {
                let name = format!("{}/{}", entry.image_id, entry.id);
                let reason = RejectReason::MissingImage;
                found.rejected.push(listing.reject(&name, None, None, reason));
            }
        }
    }
    if found.candidates.is_empty() && found.rejected.is_empty() {
        return Err(listing.problem(format!("{path}: holds no annotation")));
    }
    Ok(found)
}

/// An image of the file and where it lies.
struct PlacedImage {
    stem: String,
    wanted: String,
    path: Option<String>,
    size: (u32, u32),
}

impl PlacedImage {
    fn new(listing: &Listing<'_>, folder: &str, entry: ImageEntry) -> Self {
        let folder = folder.trim_start_matches("./").trim_matches('/');
        let place = |name: &str| match folder {
            "" | "." => name.to_owned(),
            folder => format!("{folder}/{name}"),
        };
        let wanted = place(&entry.file_name);
        // Some tools write the folder into the file name as well.
        let path = listing
            .locate(&wanted)
            .or_else(|| listing.locate(&entry.file_name))
            .or_else(|| listing.locate(&place(name_of(&entry.file_name))));
        let stem = without_extension(&entry.file_name).to_owned();
        Self { stem, wanted, path, size: (entry.height, entry.width) }
    }
}

fn add(
    listing: &Listing<'_>,
    file: &str,
    image: &PlacedImage,
    class: Option<String>,
    entry: AnnotationEntry,
    found: &mut Found,
) {
    let name = format!("{}/{}", image.stem, entry.id);
    let crowd = entry.iscrowd != 0;
    let (area, min_area) = (entry.area, listing.spec.min_area.unwrap_or(0));
    let judged = annotation(file, image.size, entry).and_then(|annotation| {
        if crowd && listing.spec.crowd.unwrap_or_default() == Crowd::Skip {
            return Err(RejectReason::Crowd);
        }
        if min_area == 0 {
            return Ok(annotation);
        }
        let area = match area {
            Some(area) => area.max(0.0) as u64,
            None => annotation.rasterise()?.foreground_pixels() as u64,
        };
        match area < min_area {
            true => Err(RejectReason::SmallObject { area, min_area }),
            false => Ok(annotation),
        }
    });
    let rejected = match (judged, image.path.clone()) {
        (Ok(annotation), Some(path)) => {
            let mask = MaskOrigin::Annotation(Arc::new(annotation));
            let (native_split, license) = (TRAIN.to_owned(), None);
            let (image, part) = (path, None);
            let pair = Candidate { name, native_split, class, license, image, mask, part };
            found.add(listing, pair);
            return;
        }
        (Err(reason), path) => listing.reject(&name, path, None, reason),
        (Ok(_), None) => {
            listing.reject(&name, Some(image.wanted.clone()), None, RejectReason::MissingImage)
        }
    };
    found.rejected.push(rejected);
}

fn annotation(
    file: &str,
    image_size: (u32, u32),
    entry: AnnotationEntry,
) -> Result<Annotation, RejectReason> {
    let damaged = |problem: &str| RejectReason::Annotation { problem: problem.to_owned() };
    let (size, shape) = match entry.segmentation {
        Some(Segmentation::Polygons(polygons)) => (image_size, Shape::Polygons(polygons)),
        Some(Segmentation::Counts { counts, size }) => (size.into(), Shape::Counts(counts)),
        Some(Segmentation::Compressed { counts, size }) => (size.into(), Shape::Compressed(counts)),
        Some(Segmentation::Other(_)) => {
            return Err(damaged("its segmentation is neither polygons nor run lengths"));
        }
        None => return Err(damaged("it has no segmentation")),
    };
    if size != image_size {
        return Err(damaged(&format!(
            "its run lengths are for {} x {} pixels, its image has {} x {} (height x width)",
            size.0, size.1, image_size.0, image_size.1
        )));
    }
    Ok(Annotation { file: file.to_owned(), id: entry.id, size, shape })
}
