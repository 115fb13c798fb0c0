//! PyTorch's zip format: `<name>/data.pkl` describes the tensors, `<name>/data/<key>` holds them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, Write};
use std::path::Path;

use tch::Tensor;
use zip::read::ZipArchive;
use zip::write::{SimpleFileOptions, ZipWriter};
use zip::{CompressionMethod, result::ZipError};

use super::pickle::{Handle, MAX_PICKLE_BYTES, Object, Pickle, PickleError, TensorView};
use super::pickle_write::{Entry, storage_class};
use super::{WeightsError, bytes_of, pickle_write, widened};
use crate::model::StateDict;

/// Folder of all entries of a written file.
const ROOT: &str = "archive";
/// Version of the layout that is written.
const VERSION: &[u8] = b"3\n";
/// Alignment of stored tensors in the file, so that they can be memory-mapped.
const ALIGNMENT: u16 = 64;
/// Keys below which training checkpoints keep the state dict.
const WRAPPERS: [&str; 3] = ["model", "state_dict", "model_state_dict"];

/// Most tensors of a state dict; ViT-H has about 600. A pickle names one again with a few bytes.
const MAX_TENSORS: usize = 1 << 16;
/// Longest name of a tensor.
const MAX_NAME_BYTES: usize = 1 << 12;
/// Tensors may share a storage, as tied weights do, but not hold more than this many times the bytes of
/// the file: each becomes a copy.
const MAX_SHARING: u64 = 8;

type Archive = ZipArchive<BufReader<File>>;

/// One file being read.
struct Reader<'a> {
    path: &'a Path,
    archive: Archive,
    root: String,
    storages: BTreeMap<String, Tensor>,
    /// Bytes that further tensors may have.
    bytes_left: u64,
}

/// Reads every tensor, widening half precision.
pub(super) fn read(path: &Path) -> Result<StateDict, WeightsError> {
    let file =
        File::open(path).map_err(|source| WeightsError::Read { path: path.into(), source })?;
    let length = file.metadata().map_or(0, |metadata| metadata.len());
    let archive = ZipArchive::new(BufReader::new(file)).map_err(|error| match error {
        ZipError::Io(source) if source.kind() != io::ErrorKind::UnexpectedEof => {
            WeightsError::Read { path: path.into(), source }
        }
        _ => format_error(path, no_archive(path)),
    })?;
    let mut names = archive.file_names().filter_map(|name| name.ok().map(|name| name.into_owned()));
    let root = names.find_map(|name| name.strip_suffix("data.pkl").map(String::from));
    let root = root.ok_or_else(|| format_error(path, "it has no data.pkl"))?;
    drop(names);
    let bytes_left = length.saturating_mul(MAX_SHARING);
    let mut reader = Reader { path, archive, root, storages: BTreeMap::new(), bytes_left };
    let pickle =
        Pickle::read(&reader.entry("data.pkl", MAX_PICKLE_BYTES)?).map_err(
            |error| match error {
                PickleError::UnknownGlobal { name } => {
                    WeightsError::UnknownGlobal { path: path.into(), name }
                }
                other => format_error(path, other),
            },
        )?;
    let views = state_dict_views(&pickle)
        .ok_or_else(|| format_error(path, "it holds no dict of tensors"))?;
    if views.len() > MAX_TENSORS || views.iter().any(|(name, _)| name.len() > MAX_NAME_BYTES) {
        let reason = format!(
            "it holds more than {MAX_TENSORS} tensors or a name of more than {MAX_NAME_BYTES} bytes"
        );
        return Err(format_error(path, reason));
    }
    let mut state = StateDict::new();
    for (name, view) in views {
        let tensor = reader.tensor(name, view)?;
        state.insert(name.to_owned(), tensor);
    }
    Ok(state)
}

fn format_error(path: &Path, reason: impl ToString) -> WeightsError {
    WeightsError::Format { path: path.into(), reason: reason.to_string() }
}

/// What a file without a readable zip directory is, told from its first bytes.
fn no_archive(path: &Path) -> String {
    let mut head = Vec::new();
    // Whatever cannot be read now was read a moment ago; the rest then says nothing special.
    let _ = File::open(path).and_then(|file| file.take(32).read_to_end(&mut head));
    let length = path.metadata().map_or(0, |metadata| metadata.len());
    match head.as_slice() {
        [] => "it is empty".into(),
        [b'P', b'K', ..] => {
            format!("its end is missing ({length} bytes are there): copy or download it again")
        }
        [0x80, 2..=5, ..] => "it has the format of PyTorch before 1.6: load it there with \
                              weights_only=True and torch.save it again"
            .into(),
        [b'<', ..] => "it is a web page, not a checkpoint: the download went wrong".into(),
        head if head.starts_with(b"version https://git-lfs") => {
            "it is a Git LFS pointer: fetch the file itself with `git lfs pull`".into()
        }
        _ => "it is no file of torch.save (a zip with a data.pkl)".into(),
    }
}

/// The tensors of the outermost dict, or of the one below a usual key.
fn state_dict_views(pickle: &Pickle) -> Option<Vec<(&str, &TensorView)>> {
    let Object::Dict(root) = pickle.root() else { return None };
    let wrapped = WRAPPERS.iter().find_map(|&wrapper| {
        // The first of that name: looking into each of many would take as long as the file has pairs.
        let inner =
            root.iter().find_map(|&(name, value)| match (pickle.get(name), pickle.get(value)) {
                (Object::Str(name), Object::Dict(inner)) if name == wrapper => Some(inner),
                _ => None,
            });
        inner.map(|inner| tensors(pickle, inner)).filter(|inner| !inner.is_empty())
    });
    Some(wrapped.unwrap_or_else(|| tensors(pickle, root))).filter(|views| !views.is_empty())
}

fn tensors<'a>(pickle: &'a Pickle, items: &[(Handle, Handle)]) -> Vec<(&'a str, &'a TensorView)> {
    let pairs = items.iter().map(|&(name, value)| (pickle.get(name), pickle.get(value)));
    pairs
        .filter_map(|pair| match pair {
            (Object::Str(name), Object::Tensor(view)) => Some((name.as_str(), view)),
            _ => None,
        })
        .collect()
}

impl Reader<'_> {
    /// A stored entry below the root, of at most `limit` bytes.
    fn entry(&mut self, name: &str, limit: u64) -> Result<Vec<u8>, WeightsError> {
        let full = format!("{}{name}", self.root);
        let path = self.path;
        let mut entry = self
            .archive
            .by_name(&full)
            .map_err(|error| format_error(path, format!("{full}: {error}")))?;
        if entry.compression() != CompressionMethod::Stored || entry.size() > limit {
            let size = entry.size();
            let reason =
                format!("{full} is compressed or has {size} bytes where at most {limit} are due");
            return Err(format_error(path, reason));
        }
        let mut bytes = Vec::new();
        // One byte more than there is: only at the end is the checksum compared.
        let read = entry.by_ref().take(limit.saturating_add(1)).read_to_end(&mut bytes);
        read.map_err(|source| WeightsError::Read { path: path.into(), source })?;
        Ok(bytes)
    }

    fn tensor(&mut self, name: &str, view: &TensorView) -> Result<Tensor, WeightsError> {
        if !is_inside(view) {
            let TensorView { size, stride, offset, storage_numel, .. } = view;
            let reason = format!(
                "{name} of shape {size:?}, strides {stride:?} and offset {offset} does not fit its \
                 storage of {storage_numel} values"
            );
            return Err(format_error(self.path, reason));
        }
        let values = view.size.iter().product::<i64>() as u64;
        let bytes = values.saturating_mul(view.kind.0.elt_size_in_bytes() as u64);
        self.bytes_left = self.bytes_left.checked_sub(bytes).ok_or_else(|| {
            let reason = format!(
                "{name}, with the tensors before it, has more than {MAX_SHARING} times the bytes of \
                 the file"
            );
            format_error(self.path, reason)
        })?;
        if !self.storages.contains_key(&view.key) {
            let storage = self.storage(name, view)?;
            self.storages.insert(view.key.clone(), storage);
        }
        let storage = &self.storages[&view.key];
        if storage.numel() as i64 != view.storage_numel || storage.kind() != view.kind.0 {
            return Err(format_error(
                self.path,
                format!("{name} describes its storage in another way"),
            ));
        }
        let tensor = storage.as_strided(&view.size[..], &view.stride[..], view.offset);
        Ok(widened(tensor).contiguous())
    }

    fn storage(&mut self, name: &str, view: &TensorView) -> Result<Tensor, WeightsError> {
        let due = view.storage_numel.checked_mul(view.kind.0.elt_size_in_bytes() as i64);
        let due = due.and_then(|due| u64::try_from(due).ok());
        let due =
            due.ok_or_else(|| format_error(self.path, format!("{name} has an absurd size")))?;
        let bytes = self.entry(&format!("data/{}", view.key), due)?;
        if bytes.len() as u64 != due {
            let found = bytes.len();
            return Err(format_error(
                self.path,
                format!("{name} has {found} bytes where {due} are due"),
            ));
        }
        Tensor::f_from_data_size(&bytes, &[view.storage_numel], view.kind.0)
            .map_err(|source| WeightsError::Tensor { name: name.into(), source })
    }
}

/// Whether every element of a view lies in its storage, and there are no more of them than there.
fn is_inside(view: &TensorView) -> bool {
    let TensorView { size, stride, offset, storage_numel, .. } = view;
    let all_positive =
        size.iter().chain(stride).chain([offset, storage_numel]).all(|&value| value >= 0);
    if !all_positive || size.len() != stride.len() {
        return false;
    }
    let numel = size.iter().try_fold(1_i64, |numel, &size| numel.checked_mul(size));
    let last = size.iter().zip(stride).try_fold(*offset, |last, (&size, &stride)| {
        last.checked_add((size - 1).max(0).checked_mul(stride)?)
    });
    match (numel, last) {
        (Some(0), _) => true,
        (Some(numel), Some(last)) => numel <= *storage_numel && last < *storage_numel,
        _ => false,
    }
}

/// Writes `state` in the layout of `torch.save`.
pub(super) fn write(
    path: &Path,
    file: &mut (impl Write + Seek),
    state: &StateDict,
) -> Result<(), WeightsError> {
    let mut entries = Vec::new();
    for (name, tensor) in state {
        if storage_class(tensor.kind()).is_none() {
            let reason = format!("{name} has the unsupported type {:?}", tensor.kind());
            return Err(format_error(path, reason));
        }
        entries.push(Entry { name, kind: tensor.kind(), size: tensor.size() });
    }
    let failed = |source: io::Error| WeightsError::Write { path: path.into(), source };
    let mut zip = ZipWriter::new(file);
    let mut put = |name: &str, bytes: &[u8]| -> io::Result<()> {
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .with_alignment(ALIGNMENT)
            .large_file(u32::try_from(bytes.len()).is_err());
        zip.start_file(format!("{ROOT}/{name}"), options)?;
        zip.write_all(bytes)
    };
    put("data.pkl", &pickle_write::write(&entries)).map_err(failed)?;
    put("byteorder", b"little").map_err(failed)?;
    for (position, (name, tensor)) in state.iter().enumerate() {
        put(&format!("data/{position}"), &bytes_of(name, tensor)?).map_err(failed)?;
    }
    put("version", VERSION).map_err(failed)?;
    zip.finish().map_err(|error| failed(error.into()))?;
    Ok(())
}
