//! Folders and archives of the disk.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use dataset::source::{RawFile, is_hidden};

use super::archive::{Kind, is_compressed_tar, kind_of};
use super::{Entry, InputError, Place, ReadError, mount};

/// Folders inside of folders; links that lead in a circle end here.
const MAX_DEPTH: usize = 24;

/// The files below a root.
pub(super) fn entries(root: &Path) -> Result<Vec<Entry>, InputError> {
    if root.is_dir() {
        let mut entries = Vec::new();
        walk(root, "", 0, &mut entries)?;
        return mount::expand(&root.to_string_lossy(), entries);
    }
    let text = root.to_string_lossy().into_owned();
    if is_compressed_tar(&text) && root.is_file() {
        return Err(InputError::Compressed { path: text });
    }
    for ancestor in root.ancestors().take_while(|path| !path.as_os_str().is_empty()) {
        if ancestor.is_dir() {
            break;
        }
        let Some((archive, kind, stem)) = archive_at(ancestor)? else { continue };
        let path = archive.to_string_lossy();
        let entry = entry(archive.clone(), path.clone().into_owned());
        let entries = mount::archive(&path, kind, &stem, &entry)?;
        let below = root.strip_prefix(ancestor).unwrap_or(Path::new(""));
        let below = below.to_string_lossy().replace('\\', "/");
        if below.is_empty() {
            return Ok(entries);
        }
        let entries = mount::inside(entries, &below);
        if entries.is_empty() {
            let inside = format!(", or a folder `{below}` in {path}");
            return Err(InputError::NotFound { root: text, inside });
        }
        return Ok(entries);
    }
    Err(InputError::NotFound { root: text, inside: String::new() })
}

/// The archive that stands for a path: the file itself, or the one of that name and an extension.
fn archive_at(path: &Path) -> Result<Option<(PathBuf, Kind, String)>, InputError> {
    let named = |file: PathBuf| {
        let name = file.file_name()?.to_string_lossy().into_owned();
        let (kind, stem) = kind_of(&name)?;
        let stem = stem.to_owned();
        Some((file, kind, stem))
    };
    if path.is_file() {
        return match named(path.to_owned()) {
            Some(archive) => Ok(Some(archive)),
            None => Err(InputError::NotAnArchive { path: path.to_string_lossy().into_owned() }),
        };
    }
    let with = |end: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(end);
        Some(PathBuf::from(name)).filter(|path| path.is_file())
    };
    if let Some(file) = [".zip", ".tar", ".ZIP", ".TAR"].into_iter().find_map(with) {
        return Ok(named(file));
    }
    match [".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst"].into_iter().find_map(with) {
        Some(file) => Err(InputError::Compressed { path: file.to_string_lossy().into_owned() }),
        None => Ok(None),
    }
}

fn walk(
    folder: &Path,
    prefix: &str,
    depth: usize,
    entries: &mut Vec<Entry>,
) -> Result<(), InputError> {
    let problem = |error| InputError::io(folder.to_string_lossy(), error);
    for listed in fs::read_dir(folder).map_err(problem)? {
        let listed = listed.map_err(problem)?;
        let name = listed.file_name().to_string_lossy().into_owned();
        if is_hidden(&name) {
            continue;
        }
        let (path, below) = (listed.path(), format!("{prefix}{name}"));
        // Through links, as the shell would.
        if path.is_dir() {
            if depth < MAX_DEPTH {
                walk(&path, &format!("{below}/"), depth + 1, entries)?;
            }
        } else {
            entries.push(entry(path, below));
        }
    }
    Ok(())
}

/// A file that cannot be looked at has no size and time; reading it will say why. A link that leads
/// nowhere is at fault itself.
fn entry(path: PathBuf, below: String) -> Entry {
    let looked_at = fs::metadata(&path);
    let nowhere = looked_at.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
    let metadata = looked_at.ok();
    let modified = metadata
        .as_ref()
        .and_then(|metadata| metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok())
        .unwrap_or_default();
    let bytes = metadata.as_ref().map_or(0, fs::Metadata::len);
    let special = metadata.is_some_and(|metadata| !metadata.is_file());
    let file = RawFile { path: below, bytes, version: modified.as_nanos().to_string() };
    let place = if special {
        Place::Refused("a pipe or device, not a file")
    } else if nowhere {
        Place::Refused("a link to a file that is not there")
    } else {
        Place::Disk(path)
    };
    Entry { file, place }
}

/// All bytes of a file. Whatever the system says of one that was listed, no permission or gone since,
/// is the place's fault: once that is mended the file may be a good one.
pub(super) fn read(path: &Path, max_bytes: u64) -> Result<Vec<u8>, ReadError> {
    let read = || -> io::Result<Vec<u8>> {
        let file = fs::File::open(path)?;
        let mut bytes = Vec::with_capacity(file.metadata()?.len().min(max_bytes) as usize);
        file.take(max_bytes + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    match read() {
        Ok(bytes) if bytes.len() as u64 > max_bytes => {
            Err(ReadError::refused(format!("above the limit of {max_bytes} bytes")))
        }
        Ok(bytes) => Ok(bytes),
        Err(error) => Err(ReadError::broken(error)),
    }
}
