//! Which files are meant by images and folders of the command line.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

/// What the codec reads.
const EXTENSIONS: [&str; 3] = ["jpg", "jpeg", "png"];

/// An image file.
pub(crate) struct ImageFile {
    /// Where it lies.
    pub(crate) path: PathBuf,
    /// Its path inside the folder that was named, or its own name: never one that leads out of the
    /// folder that it is joined to.
    pub(crate) name: PathBuf,
}

impl ImageFile {
    /// An image that another file names by a path in `folder`, or elsewhere.
    pub(crate) fn named(folder: &Path, file_name: &Path) -> Self {
        let is_name = |part: &Component<'_>| matches!(part, Component::Normal(_));
        let name = file_name.components().filter(is_name).collect();
        Self { path: folder.join(file_name), name }
    }
}

/// The images themselves and, by name, those in folders and folders below.
///
/// # Errors
/// A path that does not exist, a folder without an image, or two images of one name.
pub(crate) fn images(paths: &[PathBuf]) -> Result<Vec<ImageFile>> {
    let mut found = Vec::new();
    for path in paths {
        ensure!(path.exists(), "{}: no such image or folder", path.display());
        if path.is_dir() {
            let before = found.len();
            collect(path, path, &mut found)?;
            ensure!(
                found.len() > before,
                "{}: no image in this folder ({} are read)",
                path.display(),
                EXTENSIONS.map(|extension| format!(".{extension}")).join(", ")
            );
        } else {
            let name = path.file_name().unwrap_or(path.as_os_str()).into();
            found.push(ImageFile { path: path.clone(), name });
        }
    }
    check_names(found.iter())?;
    Ok(found)
}

/// Refuses two images of one name: what is written of the second would replace the first one's.
///
/// # Errors
/// Names both.
pub(super) fn check_names<'a>(images: impl Iterator<Item = &'a ImageFile>) -> Result<()> {
    let mut paths = BTreeMap::new();
    for ImageFile { path, name } in images {
        if let Some(first) = paths.insert(name, path) {
            bail!(
                "{} and {} would both be written as {}: name one of them in a call of its own, with \
                 another --output",
                first.display(),
                path.display(),
                name.display()
            );
        }
    }
    Ok(())
}

fn collect(root: &Path, folder: &Path, found: &mut Vec<ImageFile>) -> Result<()> {
    let entries = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut paths = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()
        .with_context(|| folder.display().to_string())?;
    paths.sort();
    for path in paths {
        let is_hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes()[0] == b'.');
        let is_image = path
            .extension()
            .and_then(|extension| extension.to_str())
            .is_some_and(|extension| EXTENSIONS.contains(&extension.to_ascii_lowercase().as_str()));
        if is_hidden {
            continue;
        }
        if path.is_dir() {
            collect(root, &path, found)?;
        } else if is_image {
            let name = path.strip_prefix(root).unwrap_or(&path).to_owned();
            found.push(ImageFile { path, name });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct_and_stay_within_the_output() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a/x.png", "b/x.png", "b/c/x.png"] {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        let named = |names: &[&str]| {
            images(&names.iter().map(|name| folder.path().join(name)).collect::<Vec<_>>())
        };
        for names in [["a/x.png", "b/x.png"], ["a", "b"], ["a/x.png", "a/x.png"]] {
            let error = named(&names).err().unwrap().to_string();
            assert!(error.contains("would both be written as x.png"), "{error}");
        }
        assert_eq!(named(&["b"]).unwrap().len(), 2);
        for (file_name, name) in [
            ("val/x.png", "val/x.png"),
            ("/etc/x.png", "etc/x.png"),
            ("../../x.png", "x.png"),
            ("./a/../x.png", "a/x.png"),
        ] {
            let image = ImageFile::named(Path::new("photos"), Path::new(file_name));
            assert_eq!(image.name, Path::new(name));
            assert_eq!(image.path, Path::new("photos").join(file_name));
        }
    }

    #[test]
    fn folders_are_walked_by_name_and_hidden_files_left_out() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b/2.JPG", "b/1.png", "a.jpeg", ".c.png", "notes.txt"] {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        let found = images(&[folder.path().to_owned()]).unwrap();
        let names: Vec<_> = found.iter().map(|image| image.name.to_str().unwrap()).collect();
        assert_eq!(names, ["a.jpeg", "b/1.png", "b/2.JPG"]);
        std::fs::create_dir(folder.path().join("empty")).unwrap();
        let error = images(&[folder.path().join("empty")]).err().unwrap().to_string();
        assert!(error.contains("empty: no image in this folder (.jpg, .jpeg, .png are read)"));
        assert!(
            images(&[folder.path().join("absent")]).err().unwrap().to_string().contains("no such")
        );
    }
}
