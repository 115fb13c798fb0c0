//! Which files are meant by images and folders of the command line.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// What the codec reads.
const EXTENSIONS: [&str; 3] = ["jpg", "jpeg", "png"];

/// An image file.
pub(crate) struct ImageFile {
    /// Where it lies.
    pub(crate) path: PathBuf,
    /// Its path inside the folder that was named, or its own name.
    pub(crate) name: PathBuf,
}

/// The images themselves and, by name, those in folders and folders below.
///
/// # Errors
/// A path that does not exist, or a folder without an image.
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
    Ok(found)
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
