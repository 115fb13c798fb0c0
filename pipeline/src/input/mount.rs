//! Archives among the files become folders.

use std::collections::BTreeSet;
use std::sync::Arc;

use dataset::source::{RawFile, is_hidden};

use super::archive::{Kind, kind_of};
use super::read_at::{LocalFile, ReadAt, Slice};
use super::store::Object;
use super::{Entry, InputError, Place, ReadError, tar, zip};

/// Archives inside of archives inside of archives; deeper ones stay files.
const MAX_DEPTH: u32 = 3;
/// Most bytes of an archive that is compressed inside of another, and so is held in memory.
const MAX_INNER_BYTES: u64 = 1 << 30;

/// Replaces each archive by its files, in a folder of its name, unless a folder of that name is
/// there: then the archive has been unpacked already. `root` names the place in errors.
pub(super) fn expand(root: &str, entries: Vec<Entry>) -> Result<Vec<Entry>, InputError> {
    expand_to(root, entries, 0)
}

/// The files of the archive that `entry` is. Its own name as the only top folder goes without
/// saying, as when archives are unpacked into a folder of their name.
pub(super) fn archive(
    path: &str,
    kind: Kind,
    stem: &str,
    entry: &Entry,
) -> Result<Vec<Entry>, InputError> {
    archive_at(path, kind, stem, entry, 0)
}

/// Those of `entries` that lie in `folder`, by their path below it.
pub(super) fn inside(entries: Vec<Entry>, folder: &str) -> Vec<Entry> {
    let inner = |mut entry: Entry| {
        let below = entry.file.path.strip_prefix(folder)?.strip_prefix('/')?;
        entry.file.path = below.to_owned();
        Some(entry)
    };
    entries.into_iter().filter_map(inner).collect()
}

fn expand_to(root: &str, entries: Vec<Entry>, depth: u32) -> Result<Vec<Entry>, InputError> {
    let found = |entry: &Entry| {
        let visible = !is_hidden(&entry.file.path);
        visible.then(|| kind_of(&entry.file.path)).flatten().is_some()
    };
    if depth >= MAX_DEPTH || !entries.iter().any(found) {
        return Ok(entries);
    }
    let (mut archives, mut files): (Vec<Entry>, Vec<Entry>) = entries.into_iter().partition(found);
    archives.sort_by(|a, b| a.file.path.cmp(&b.file.path));
    let mut folders: BTreeSet<String> = BTreeSet::new();
    for entry in &files {
        let mut path = entry.file.path.as_str();
        while let Some((folder, _)) = path.rsplit_once('/') {
            if !folders.insert(folder.to_owned()) {
                break;
            }
            path = folder;
        }
    }
    for entry in archives {
        let Some((kind, stem)) = kind_of(&entry.file.path) else { continue };
        let path = format!("{}/{}", root.trim_end_matches('/'), entry.file.path);
        if !folders.insert(stem.to_owned()) {
            tracing::info!(archive = path, "left alone: a folder of its name lies beside it");
            files.push(entry);
            continue;
        }
        let name = stem.rsplit('/').next().unwrap_or(stem);
        for mut inner in archive_at(&path, kind, name, &entry, depth)? {
            inner.file.path = format!("{stem}/{}", inner.file.path);
            files.push(inner);
        }
    }
    Ok(files)
}

fn archive_at(
    path: &str,
    kind: Kind,
    stem: &str,
    entry: &Entry,
    depth: u32,
) -> Result<Vec<Entry>, InputError> {
    let source = open(entry).map_err(|error| match error {
        ReadError::Refused { detail } => InputError::Archive { path: path.to_owned(), detail },
        ReadError::Broken { source, .. } => InputError::io(path, source),
    })?;
    let entries = match kind {
        Kind::Zip => zip::entries(path, source)?,
        Kind::Tar => tar::entries(path, &entry.file.version, source)?,
    };
    expand_to(path, without_own_folder(entries, stem), depth + 1)
}

fn open(entry: &Entry) -> Result<Arc<dyn ReadAt>, ReadError> {
    let RawFile { bytes, .. } = entry.file;
    let slice = |source: &Arc<dyn ReadAt>, offset| -> Arc<dyn ReadAt> {
        Arc::new(Slice { source: Arc::clone(source), offset, length: bytes })
    };
    Ok(match &entry.place {
        Place::Disk(path) => Arc::new(LocalFile::open(path).map_err(ReadError::broken)?),
        Place::Object(store, key) => {
            Arc::new(Object::new(Arc::clone(store), key.clone(), &entry.file))
        }
        Place::Part(source, offset) => slice(source, *offset),
        Place::Zipped(zip, index) => match zip.stored_at(*index)? {
            Some(offset) => slice(zip.source(), offset),
            None if bytes > MAX_INNER_BYTES => {
                let why =
                    format!("{bytes} bytes, compressed inside of another archive: unpack that");
                return Err(ReadError::refused(why));
            }
            None => Arc::new(bytes::Bytes::from(zip.read(*index, MAX_INNER_BYTES)?)),
        },
        Place::Refused(why) => return Err(ReadError::refused((*why).to_owned())),
    })
}

fn without_own_folder(entries: Vec<Entry>, stem: &str) -> Vec<Entry> {
    let below = |path: &str| {
        let (top, rest) = path.split_once('/')?;
        top.eq_ignore_ascii_case(stem).then(|| rest.to_owned())
    };
    let visible = |entry: &&Entry| !is_hidden(&entry.file.path);
    if !entries.iter().filter(visible).all(|entry| below(&entry.file.path).is_some()) {
        return entries;
    }
    let moved = entries.into_iter().filter_map(|mut entry| {
        entry.file.path = below(&entry.file.path)?;
        Some(entry)
    });
    moved.collect()
}
