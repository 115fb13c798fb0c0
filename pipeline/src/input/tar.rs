//! Tar archives: headers are read one after the other, the bytes of a file where they lie.

use std::collections::HashMap;
use std::sync::Arc;

use dataset::source::RawFile;
use tar::EntryType;

use super::read_at::{ReadAt, Window};
use super::{Entry, InputError, Place, archive};

/// Fetched at once while reading headers: a file lies between each and the next.
const HEADER_AHEAD: u64 = 4 << 10;

/// The files of an archive; `path` names it in errors and `version` tells its content apart from
/// that of a later archive, because entries have no checksum.
pub(super) fn entries(
    path: &str,
    version: &str,
    source: Arc<dyn ReadAt>,
) -> Result<Vec<Entry>, InputError> {
    let damaged = |detail: String| InputError::Archive { path: path.to_owned(), detail };
    let io = |error: std::io::Error| match error.kind() {
        // The words of the format itself; any other error is one of the disk or store.
        std::io::ErrorKind::Other
        | std::io::ErrorKind::InvalidData
        | std::io::ErrorKind::UnexpectedEof => damaged(error.to_string()),
        _ => InputError::io(path, error),
    };
    let mut tar = tar::Archive::new(Window::new(Arc::clone(&source), HEADER_AHEAD));
    let mut entries: Vec<Entry> = Vec::new();
    let mut by_name: HashMap<String, usize> = HashMap::new();
    for entry in tar.entries_with_seek().map_err(io)? {
        let entry = entry.map_err(io)?;
        let kind = entry.header().entry_type();
        if !(kind.is_file() || kind.is_contiguous() || kind.is_hard_link() || kind.is_gnu_sparse())
        {
            continue;
        }
        let name = archive::entry_path(path, &text(&entry.path_bytes()))?;
        let (offset, bytes) = (entry.raw_file_position(), entry.size());
        let (bytes, version, place) = match kind {
            EntryType::Link => {
                let target = entry.link_name_bytes().map(|name| text(&name)).unwrap_or_default();
                let target = archive::entry_path(path, &target)?;
                let Some(target) = by_name.get(&target).map(|index| &entries[*index]) else {
                    return Err(damaged(format!(
                        "`{name}` links to `{target}`, which is not there"
                    )));
                };
                let place = match &target.place {
                    Place::Part(source, offset) => Place::Part(Arc::clone(source), *offset),
                    _ => Place::Refused("a link to a file with holes"),
                };
                (target.file.bytes, target.file.version.clone(), place)
            }
            EntryType::GNUSparse => {
                let why = "stored with holes (tar --sparse): unpack the archive";
                (bytes, version.to_owned(), Place::Refused(why))
            }
            _ if offset.checked_add(bytes).is_none_or(|end| end > source.len()) => {
                return Err(damaged(format!("it ends within `{name}`")));
            }
            _ => (bytes, format!("{version}@{offset}"), Place::Part(Arc::clone(&source), offset)),
        };
        by_name.insert(name.clone(), entries.len());
        entries.push(Entry { file: RawFile { path: name, bytes, version }, place });
    }
    Ok(entries)
}

/// Names are UTF-8 by custom only; others stay apart from each other as Latin-1.
fn text(name: &[u8]) -> String {
    match std::str::from_utf8(name) {
        Ok(name) => name.to_owned(),
        Err(_) => name.iter().copied().map(char::from).collect(),
    }
}
