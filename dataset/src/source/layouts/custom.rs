//! Any other folder: a glob for the images, a pattern for the masks.

use std::collections::HashSet;

use super::super::folders::{Listing, composed, name_of, picture_extension, without_extension};
use super::super::{MaskOrigin, SourceError};
use super::{Candidate, Found, TRAIN};
use crate::verify::RejectReason;

pub(super) fn find(listing: &Listing<'_>) -> Result<Found, SourceError> {
    let (Some(images), Some(masks)) = (&listing.spec.images, &listing.spec.masks) else {
        return Err(listing.problem(
            "layout `custom` needs `images` (a glob) and `masks` (a path with {stem})".to_owned(),
        ));
    };
    if !masks.contains("{stem}") {
        return Err(listing.problem(format!(
            "`masks = \"{masks}\"` has no {{stem}}: every image would get the same mask"
        )));
    }
    let images = Images::new(images)
        .map_err(|error| listing.problem(format!("`images = \"{images}\"` is no glob: {error}")))?;
    let files = images.files(listing);
    if files.is_empty() {
        return Err(listing.unexpected(&format!("file that matches `{}`", images.glob)));
    }
    let masks = Masks(masks.trim_start_matches("./").trim_start_matches('/'));
    let mut found = Found::default();
    let (mut alone, mut used, mut names) = (Vec::new(), HashSet::new(), HashSet::new());
    for image in files {
        let dir = images.dir(&image).to_owned();
        let stem = without_extension(name_of(&image)).to_owned();
        let name = sample_name(&dir, &stem);
        names.insert(composed(&name));
        match listing.locate(&masks.path(&dir, &stem)) {
            Some(mask) if mask == image => {}
            Some(mask) => {
                used.insert(mask.clone());
                let (native_split, class, license) = (TRAIN.to_owned(), None, None);
                let (mask, part) = (MaskOrigin::File(mask), None);
                let pair = Candidate { name, native_split, class, license, image, mask, part };
                found.add(listing, pair);
            }
            None => alone.push((name, image)),
        }
    }
    // A glob of all files takes the masks for images too.
    for (name, image) in alone.into_iter().filter(|(_, image)| !used.contains(image)) {
        let rejected = listing.reject(&name, Some(image), None, RejectReason::MissingMask);
        found.rejected.push(rejected);
    }
    for file in listing.tree().files().iter().filter(|file| !used.contains(&file.path)) {
        // Masks of images that the glob leaves out are none of this source's.
        let image = masks.image_of(&file.path).filter(|(dir, stem)| images.would_take(dir, stem));
        let name = image.map(|(dir, stem)| sample_name(dir, stem));
        if let Some(name) = name.filter(|name| !names.contains(&composed(name))) {
            let mask = Some(MaskOrigin::File(file.path.clone()));
            let reason = RejectReason::MissingImage;
            found.rejected.push(listing.reject(&name, None, mask, reason));
        }
    }
    Ok(found)
}

fn sample_name(dir: &str, stem: &str) -> String {
    if dir.is_empty() { stem.to_owned() } else { format!("{dir}/{stem}") }
}

/// The glob of the images.
struct Images<'a> {
    glob: &'a str,
    /// As it is written, then with the other extension of JPEG files where it has one of the two.
    patterns: Vec<glob::Pattern>,
    /// Its leading folders that hold no wildcard.
    base: String,
}

impl<'a> Images<'a> {
    fn new(glob: &'a str) -> Result<Self, glob::PatternError> {
        let glob = glob.trim_start_matches("./").trim_start_matches('/');
        let mut patterns = vec![glob::Pattern::new(glob)?];
        for (extension, other) in [("jpg", "jpeg"), ("jpeg", "jpg")] {
            if let Some((stem, end)) = glob.rsplit_once('.')
                && end.eq_ignore_ascii_case(extension)
            {
                patterns.push(glob::Pattern::new(&format!("{stem}.{other}"))?);
            }
        }
        Ok(Self { glob, patterns, base: fixed_folders(glob) })
    }

    fn matches(pattern: &glob::Pattern, path: &str) -> bool {
        let options = glob::MatchOptions {
            case_sensitive: false,
            require_literal_separator: true,
            require_literal_leading_dot: false,
        };
        pattern.matches_with(path, options)
    }

    /// Those with the extension of the glob first: of two files of one name the first is taken.
    fn files(&self, listing: &Listing<'_>) -> Vec<String> {
        let mut paths = Vec::new();
        for pattern in &self.patterns {
            let files = listing.tree().files().iter().map(|file| &file.path);
            paths.extend(files.filter(|path| Self::matches(pattern, path)).cloned());
        }
        paths
    }

    /// The folder that the wildcards matched.
    fn dir<'p>(&self, path: &'p str) -> &'p str {
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        // The glob disregards case, so the folders it starts with may differ in case.
        folder.get(self.base.len()..).unwrap_or("").trim_start_matches('/')
    }

    /// Whether an image of that name would be one of the source's.
    fn would_take(&self, dir: &str, stem: &str) -> bool {
        let extension = picture_extension(self.glob).unwrap_or_else(|| "jpg".to_owned());
        let parts = [self.base.as_str(), dir].into_iter().filter(|part| !part.is_empty());
        let folders: String = parts.map(|part| format!("{part}/")).collect();
        let path = format!("{folders}{stem}.{extension}");
        self.patterns.iter().any(|pattern| Self::matches(pattern, &path))
    }
}

/// The leading folders of a glob that hold no wildcard.
fn fixed_folders(images: &str) -> String {
    let folders: Vec<&str> = images.split('/').collect();
    let (_, folders) = folders.split_last().unwrap_or((&"", &[]));
    let fixed = folders.iter().take_while(|folder| !folder.contains(['*', '?', '[']));
    fixed.copied().collect::<Vec<_>>().join("/")
}

/// The pattern of the masks.
struct Masks<'a>(&'a str);

impl Masks<'_> {
    fn path(&self, dir: &str, stem: &str) -> String {
        let path = self.0.replace("{stem}", stem).replace("{dir}", dir).replace("//", "/");
        path.trim_start_matches('/').to_owned()
    }

    /// Folder and stem of the image that a mask is of; `None` for what is no mask by this pattern, or
    /// where the pattern names either more than once.
    fn image_of<'p>(&self, path: &'p str) -> Option<(&'p str, &'p str)> {
        picture_extension(path)?;
        let (folders, name) = self.0.rsplit_once('/').unwrap_or(("", self.0));
        let (folder, file) = path.rsplit_once('/').unwrap_or(("", path));
        let stem = between(name, "{stem}", file)?;
        let dir = match folders.contains("{dir}") {
            // Without the folder that wildcards match, one slash goes too.
            true => between(folders, "{dir}", folder).or_else(|| {
                let without = folders.replace("/{dir}", "").replace("{dir}", "");
                without.eq_ignore_ascii_case(folder).then_some("")
            })?,
            false => folders.eq_ignore_ascii_case(folder).then_some("")?,
        };
        Some((dir, stem)).filter(|(_, stem)| !stem.is_empty())
    }
}

/// What stands in `text` where `pattern` has the `key`, which it must have once.
fn between<'t>(pattern: &str, key: &str, text: &'t str) -> Option<&'t str> {
    let (before, after) = pattern.split_once(key).filter(|(_, after)| !after.contains(key))?;
    let end = text.len().checked_sub(after.len()).filter(|end| *end >= before.len())?;
    let same = |range: std::ops::Range<usize>, part: &str| {
        text.get(range).is_some_and(|found| found.eq_ignore_ascii_case(part))
    };
    (same(0..before.len(), before) && same(end..text.len(), after))
        .then(|| &text[before.len()..end])
}
