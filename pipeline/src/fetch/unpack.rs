//! A zip archive becomes a folder: whole or not at all.

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Component, Path, PathBuf};

use zip::ZipArchive;
use zip::read::ZipFile;

use super::FetchError;
use super::disk::require;
use super::progress::Progress;
use super::record::{beside, sync_folder};

/// Whether something lies where an archive would be unpacked to.
pub(super) fn is_filled(folder: &Path) -> bool {
    fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some())
}

/// Unpacks `archive` as `folder`, which must not hold anything yet. Where everything in the archive
/// lies in one folder of the same name, that one is left out. Checksums are verified on the way.
/// Returns the number of files.
pub(super) fn unpack(
    archive: &Path,
    folder: &Path,
    progress: &Progress,
) -> Result<u64, FetchError> {
    let wrong = |message: String| FetchError::Archive { path: archive.to_owned(), message };
    let file = File::open(archive).map_err(FetchError::io(archive, "cannot open"))?;
    let mut zip =
        ZipArchive::new(BufReader::new(file)).map_err(|error| wrong(error.to_string()))?;
    let plan = Plan::new(&mut zip, folder).map_err(wrong)?;
    let staged = beside(folder, "unpacking");
    match fs::remove_dir_all(&staged) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(FetchError::io(&staged, "cannot remove")(error));
        }
        _ => {}
    }
    fs::create_dir_all(&staged).map_err(FetchError::io(&staged, "cannot make the folder"))?;
    require(&staged, plan.bytes)?;
    progress.start(0, Some(plan.bytes));
    for (index, path) in &plan.files {
        let target = staged.join(path);
        let parent = target.parent().unwrap_or(&staged);
        fs::create_dir_all(parent).map_err(FetchError::io(parent, "cannot make the folder"))?;
        let mut entry = zip.by_index(*index).map_err(|error| wrong(error.to_string()))?;
        let mut file =
            File::create(&target).map_err(FetchError::io(&target, "cannot make the file"))?;
        // One byte more than announced shows an entry that lies about its size.
        let limit = entry.size().saturating_add(1);
        let copied = io::copy(&mut entry.by_ref().take(limit), &mut file)
            .map_err(|error| wrong(format!("{}: {error}", path.display())))?;
        if copied != entry.size() {
            return Err(wrong(format!("{}: another size than announced", path.display())));
        }
        progress.inc(copied);
    }
    // Everything on the disk before the name that says so; one call instead of one a file.
    let sync = File::open(&staged).map_err(FetchError::io(&staged, "cannot open"))?;
    rustix::fs::syncfs(&sync)
        .map_err(|error| FetchError::io(&staged, "cannot sync")(error.into()))?;
    fs::rename(&staged, folder).map_err(FetchError::io(folder, "cannot rename"))?;
    sync_folder(folder)?;
    Ok(plan.files.len() as u64)
}

/// Which entries become which files.
struct Plan {
    files: Vec<(usize, PathBuf)>,
    bytes: u64,
}

impl Plan {
    fn new(zip: &mut ZipArchive<BufReader<File>>, folder: &Path) -> Result<Self, String> {
        let mut plan = Self { files: Vec::new(), bytes: 0 };
        for index in 0..zip.len() {
            let entry = zip.by_index(index).map_err(|error| error.to_string())?;
            if entry.is_dir() {
                continue;
            }
            let path = target(&entry)?;
            if path.starts_with("__MACOSX") {
                continue;
            }
            plan.bytes = plan.bytes.saturating_add(entry.size());
            plan.files.push((index, path));
        }
        let name = folder.file_name().unwrap_or_default();
        let top = |path: &PathBuf| path.components().next() == Some(Component::Normal(name));
        if plan.files.iter().all(|(_, path)| top(path) && path.components().count() > 1) {
            for (_, path) in &mut plan.files {
                *path = path.components().skip(1).collect();
            }
        }
        Ok(plan)
    }
}

/// The relative path of an entry; names that leave the folder, and links, are refused.
fn target<R: Read>(entry: &ZipFile<'_, R>) -> Result<PathBuf, String> {
    match entry.enclosed_name() {
        Some(path) if !entry.is_symlink() => Ok(path),
        _ => {
            let name = String::from_utf8_lossy(entry.name_raw());
            Err(format!("`{}` is a link or leaves the folder", name.escape_default()))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use indicatif::MultiProgress;
    use zip::ZipWriter;
    use zip::write::SimpleFileOptions;

    fn archive(path: &Path, names: &[&str]) {
        let mut zip = ZipWriter::new(File::create(path).unwrap());
        for name in names {
            zip.start_file(*name, SimpleFileOptions::default()).unwrap();
            zip.write_all(name.as_bytes()).unwrap();
        }
        zip.finish().unwrap();
    }

    fn unpacked(names: &[&str], folder: &str) -> Result<Vec<String>, FetchError> {
        let place = tempfile::tempdir().unwrap();
        let zip = place.path().join("a.zip");
        archive(&zip, names);
        let folder = place.path().join(folder);
        unpack(&zip, &folder, &Progress::new(&MultiProgress::new(), "x"))?;
        let mut found = Vec::new();
        let mut folders = vec![folder.clone()];
        while let Some(next) = folders.pop() {
            for entry in fs::read_dir(next).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    found.push(path.strip_prefix(&folder).unwrap().display().to_string());
                }
            }
        }
        found.sort();
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 2, "no staging is left");
        Ok(found)
    }

    #[test]
    fn a_top_folder_of_the_same_name_is_left_out() {
        let nested = ["set/im/1.jpg", "set/gt/1.png", "__MACOSX/set/._x"];
        assert_eq!(unpacked(&nested, "set").unwrap(), ["gt/1.png", "im/1.jpg"]);
        assert_eq!(unpacked(&["im/1.jpg", "gt/1.png"], "set").unwrap(), ["gt/1.png", "im/1.jpg"]);
        assert_eq!(
            unpacked(&["set/1.jpg", "terms.pdf"], "set").unwrap(),
            ["set/1.jpg", "terms.pdf"]
        );
    }

    #[test]
    fn names_that_leave_the_folder_are_refused() {
        for name in ["../x", "a/../../x"] {
            let message = unpacked(&["ok", name], "set").unwrap_err().to_string();
            assert!(message.contains("leaves the folder"), "{message}");
        }
    }

    #[test]
    fn a_damaged_archive_leaves_no_folder() {
        let place = tempfile::tempdir().unwrap();
        let zip = place.path().join("a.zip");
        archive(&zip, &["first", "second"]);
        let mut bytes = fs::read(&zip).unwrap();
        let content = bytes.windows(12).position(|window| window.ends_with(b"secondsecond"));
        assert!(content.is_none(), "the content is compressed or split from its name");
        let name = bytes.windows(6).position(|window| window == b"second").unwrap();
        bytes[name + 6] ^= 0xff;
        fs::write(&zip, bytes).unwrap();
        let folder = place.path().join("set");
        assert!(unpack(&zip, &folder, &Progress::new(&MultiProgress::new(), "x")).is_err());
        assert!(!folder.exists());
    }
}
