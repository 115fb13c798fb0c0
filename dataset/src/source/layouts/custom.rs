//! Any other folder: a glob for the images, a pattern for the masks.

use std::path::{Component, Path};

use super::super::folders::{name_of, unexpected, without_extension};
use super::super::pairing::reject;
use super::super::{SourceError, SourceSpec};
use super::{Candidate, Found, TRAIN};
use crate::verify::RejectReason;

pub(super) fn find(spec: &SourceSpec) -> Result<Found, SourceError> {
    let problem = |problem: String| SourceError::Spec { name: spec.name.clone(), problem };
    let (Some(images), Some(masks)) = (&spec.images, &spec.masks) else {
        return Err(problem(
            "layout `custom` needs `images` (a glob) and `masks` (a path with {stem})".to_owned(),
        ));
    };
    if !masks.contains("{stem}") {
        return Err(problem(format!(
            "`masks = \"{masks}\"` has no {{stem}}: every image would get the same mask"
        )));
    }
    let base = spec.root.join(fixed_folders(images));
    // The root is a path, not a pattern: its brackets and stars are literal.
    let root = glob::Pattern::escape(&spec.root.to_string_lossy());
    let pattern = format!("{root}/{images}");
    let options = glob::MatchOptions { case_sensitive: false, ..Default::default() };
    let matches = glob::glob_with(&pattern, options)
        .map_err(|error| problem(format!("`images = \"{images}\"` is no glob: {error}")))?;

    let mut found = Found::default();
    let mut any = false;
    for entry in matches {
        let image = entry.map_err(|error| SourceError::Io {
            name: spec.name.clone(),
            path: error.path().to_owned(),
            source: error.into(),
        })?;
        let below = image.strip_prefix(&spec.root).unwrap_or(&image);
        if image.is_dir() || is_hidden(below) {
            continue;
        }
        any = true;
        let folder = image.parent().unwrap_or(Path::new(""));
        let dir = slashed(folder.strip_prefix(&base).unwrap_or(Path::new("")));
        let file_name = name_of(&image);
        let stem = without_extension(&file_name);
        let name = if dir.is_empty() { stem.to_owned() } else { format!("{dir}/{stem}") };
        let mask = spec.root.join(
            masks
                .replace("{stem}", stem)
                .replace("{dir}", &dir)
                .replace("//", "/")
                .trim_start_matches('/'),
        );
        if mask == image {
            continue;
        }
        if mask.is_file() {
            let native_split = TRAIN.to_owned();
            found.add(spec, Candidate { name, native_split, class: None, image, mask });
        } else {
            found.rejected.push(reject(spec, &name, Some(image), None, RejectReason::MissingMask));
        }
    }
    if any { Ok(found) } else { Err(unexpected(spec, &format!("file that matches `{images}`"))) }
}

/// The leading folders of a glob that hold no wildcard.
fn fixed_folders(images: &str) -> String {
    let folders: Vec<&str> = images.split('/').collect();
    let (_, folders) = folders.split_last().unwrap_or((&"", &[]));
    let fixed = folders.iter().take_while(|folder| !folder.contains(['*', '?', '[']));
    fixed.copied().collect::<Vec<_>>().join("/")
}

fn is_hidden(path: &Path) -> bool {
    path.components().any(|part| match part {
        Component::Normal(name) => {
            let name = name.to_string_lossy();
            name.starts_with('.') || name == "__MACOSX"
        }
        _ => false,
    })
}

fn slashed(path: &Path) -> String {
    let parts = path.components().map(|part| part.as_os_str().to_string_lossy().into_owned());
    parts.collect::<Vec<_>>().join("/")
}
