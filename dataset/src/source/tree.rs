//! The files of a collection as a listing, wherever they lie.

use std::io;

/// One raw file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawFile {
    /// Relative to the root, `/`-separated, without `.` and `..`.
    pub path: String,
    /// Size, uncompressed.
    pub bytes: u64,
    /// Differs when the content does: a time, an entity tag or a checksum.
    pub version: String,
}

/// The files below a root, sorted by path. Folders exist by the files in them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileTree {
    files: Vec<RawFile>,
}

impl FileTree {
    /// Sorts `files`. Of several with the same path the last one counts. Hidden files and folders,
    /// and the `__MACOSX` of archives, are left out.
    #[must_use]
    pub fn new(mut files: Vec<RawFile>) -> Self {
        files.retain(|file| !is_hidden(&file.path));
        files.sort_by(|a, b| a.path.cmp(&b.path));
        files.dedup_by(|later, kept| {
            let same = later.path == kept.path;
            if same {
                std::mem::swap(later, kept);
            }
            same
        });
        Self { files }
    }

    /// All files, sorted by path.
    #[must_use]
    pub fn files(&self) -> &[RawFile] {
        &self.files
    }

    /// The file of that path.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<&RawFile> {
        let index = self.files.binary_search_by(|file| file.path.as_str().cmp(path)).ok()?;
        Some(&self.files[index])
    }

    /// The files of a folder and of those inside it; the empty path is the root.
    #[must_use]
    pub fn below(&self, folder: &str) -> &[RawFile] {
        if folder.is_empty() {
            return &self.files;
        }
        let prefix = format!("{folder}/");
        let start = self.files.partition_point(|file| file.path < prefix);
        let inside = &self.files[start..];
        &inside[..inside.partition_point(|file| file.path.starts_with(&prefix))]
    }
}

/// Whether a part of the path is hidden or left behind by macOS.
pub fn is_hidden(path: &str) -> bool {
    path.split('/').any(|name| name.starts_with('.') || name == "__MACOSX")
}

/// A collection that can be listed and read: a folder, an archive, a place in a store.
pub trait RawFiles: Send + Sync {
    /// The listing, taken once.
    fn tree(&self) -> &FileTree;

    /// All bytes of a file of the listing.
    ///
    /// # Errors
    /// The error of the file system, archive or store; of kind `NotFound` for other paths.
    fn read(&self, path: &str) -> io::Result<Vec<u8>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, bytes: u64) -> RawFile {
        RawFile { path: path.to_owned(), bytes, version: String::new() }
    }

    #[test]
    fn folders_are_ranges_and_the_last_of_two_files_counts() {
        let paths = ["a/1", "a-b/1", "a/2", "ab", ".x/1", "__MACOSX/a/1", "a/.DS_Store"];
        let mut files: Vec<RawFile> = paths.iter().map(|path| file(path, 1)).collect();
        files.push(file("a/2", 7));
        let tree = FileTree::new(files);
        let names = |folder| tree.below(folder).iter().map(|file| &*file.path).collect::<Vec<_>>();
        assert_eq!(names("a"), ["a/1", "a/2"]);
        assert_eq!(names(""), ["a-b/1", "a/1", "a/2", "ab"]);
        assert_eq!(names("b"), [""; 0]);
        assert_eq!(tree.get("a/2").unwrap().bytes, 7);
        assert!(tree.get("a").is_none());
    }
}
