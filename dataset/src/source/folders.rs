//! Listing folders: sorted, without what archives leave behind, and names without regard to case.

use std::fs;
use std::path::{Path, PathBuf};

use super::{SourceError, SourceSpec};

/// Archives unpacked into a folder of their own name nest this deep at most.
const MAX_NESTING: usize = 3;
/// Names shown of a folder that is not what was expected.
const NAMES_SHOWN: usize = 6;

/// The entries of one folder, sorted by name.
pub(super) struct Folder {
    pub(super) path: PathBuf,
    pub(super) folders: Vec<PathBuf>,
    pub(super) files: Vec<PathBuf>,
}

impl Folder {
    pub(super) fn read(spec: &SourceSpec, path: &Path) -> Result<Self, SourceError> {
        let problem =
            |source| SourceError::Io { name: spec.name.clone(), path: path.to_owned(), source };
        let mut folder = Self { path: path.to_owned(), folders: Vec::new(), files: Vec::new() };
        for entry in fs::read_dir(path).map_err(problem)? {
            let path = entry.map_err(problem)?.path();
            let name = name_of(&path);
            if name.starts_with('.') || name == "__MACOSX" {
                continue;
            }
            if path.is_dir() { &mut folder.folders } else { &mut folder.files }.push(path);
        }
        folder.folders.sort();
        folder.files.sort();
        Ok(folder)
    }

    /// The subfolder of that name, whatever its case.
    pub(super) fn child(&self, name: &str) -> Option<&Path> {
        let same = |path: &&PathBuf| name_of(path).eq_ignore_ascii_case(name);
        self.folders.iter().find(same).map(PathBuf::as_path)
    }

    /// The first names, for an error message.
    fn describe(&self) -> String {
        let names: Vec<String> = self
            .folders
            .iter()
            .map(|path| format!("{}/", name_of(path)))
            .chain(self.files.iter().map(|path| name_of(path)))
            .collect();
        match names.len() {
            0 => "an empty folder".to_owned(),
            count if count > NAMES_SHOWN => {
                format!("{} and {} more", names[..NAMES_SHOWN].join(", "), count - NAMES_SHOWN)
            }
            _ => names.join(", "),
        }
    }
}

/// Breadth first from the root: the first folder that `wanted` accepts.
pub(super) fn find<T>(
    spec: &SourceSpec,
    wanted: impl Fn(&Folder) -> Result<Option<T>, SourceError>,
) -> Result<Option<T>, SourceError> {
    let mut level = vec![spec.root.clone()];
    for _ in 0..=MAX_NESTING {
        let mut next = Vec::new();
        for path in level {
            let folder = Folder::read(spec, &path)?;
            if let Some(found) = wanted(&folder)? {
                return Ok(Some(found));
            }
            next.extend(folder.folders);
        }
        level = next;
    }
    Ok(None)
}

/// The error for a root in which [`find`] found nothing.
pub(super) fn unexpected(spec: &SourceSpec, expected: &str) -> SourceError {
    match Folder::read(spec, &spec.root) {
        Ok(folder) => SourceError::UnexpectedLayout {
            name: spec.name.clone(),
            root: spec.root.clone(),
            layout: spec.layout,
            expected: expected.to_owned(),
            found: folder.describe(),
        },
        Err(error) => error,
    }
}

/// The file name, with what is not UTF-8 replaced.
pub(super) fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The name without an image extension; other dots belong to the name.
pub(super) fn without_extension(name: &str) -> &str {
    match name.rsplit_once('.') {
        Some((stem, extension)) if is_picture_extension(extension) && !stem.is_empty() => stem,
        _ => name,
    }
}

/// Lower-case extension, when it is one of a picture.
pub(super) fn picture_extension(name: &str) -> Option<String> {
    let (_, extension) = name.rsplit_once('.')?;
    is_picture_extension(extension).then(|| extension.to_ascii_lowercase())
}

/// Includes formats that the codec refuses: such a file is then reported, not overlooked.
fn is_picture_extension(extension: &str) -> bool {
    ["jpg", "jpeg", "png", "bmp", "tif", "tiff", "webp", "gif"]
        .iter()
        .any(|known| extension.eq_ignore_ascii_case(known))
}
