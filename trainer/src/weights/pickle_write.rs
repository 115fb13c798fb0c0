//! Writes the pickle of a state dict: an OrderedDict of tensors, each a whole storage of its own.

use tch::Kind;

use super::pickle_op as op;

/// One tensor of the dict; its storage is the file `data/<position>`.
pub(crate) struct Entry<'a> {
    pub(crate) name: &'a str,
    pub(crate) kind: Kind,
    pub(crate) size: Vec<i64>,
}

/// PyTorch's class of storages of this type, if a state dict can hold it.
pub(crate) fn storage_class(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::Float => Some("FloatStorage"),
        Kind::Half => Some("HalfStorage"),
        Kind::BFloat16 => Some("BFloat16Storage"),
        Kind::Double => Some("DoubleStorage"),
        Kind::Int64 => Some("LongStorage"),
        Kind::Int => Some("IntStorage"),
        Kind::Int16 => Some("ShortStorage"),
        Kind::Int8 => Some("CharStorage"),
        Kind::Uint8 => Some("ByteStorage"),
        Kind::Bool => Some("BoolStorage"),
        _ => None,
    }
}

/// The pickle, protocol 2 as `torch.save` writes it. Entries must have a [`storage_class`].
pub(crate) fn write(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut out = vec![op::PROTO, 2];
    ordered_dict(&mut out);
    out.push(op::MARK);
    for (position, entry) in entries.iter().enumerate() {
        text(&mut out, entry.name);
        tensor(&mut out, position, entry);
    }
    out.extend([op::SETITEMS, op::STOP]);
    out
}

fn tensor(out: &mut Vec<u8>, position: usize, entry: &Entry<'_>) {
    let class = storage_class(entry.kind).expect("the caller checked every type");
    global(out, "torch._utils", "_rebuild_tensor_v2");
    out.extend([op::MARK, op::MARK]);
    text(out, "storage");
    global(out, "torch", class);
    text(out, &position.to_string());
    text(out, "cpu");
    integer(out, entry.size.iter().product());
    out.extend([op::TUPLE, op::BINPERSID]);
    integer(out, 0);
    integers(out, &entry.size);
    let mut stride = vec![1; entry.size.len()];
    for dim in (1..stride.len()).rev() {
        stride[dim - 1] = stride[dim] * entry.size[dim].max(1);
    }
    integers(out, &stride);
    out.push(op::NEWFALSE);
    ordered_dict(out);
    out.extend([op::TUPLE, op::REDUCE]);
}

fn ordered_dict(out: &mut Vec<u8>) {
    global(out, "collections", "OrderedDict");
    out.extend([op::EMPTY_TUPLE, op::REDUCE]);
}

fn global(out: &mut Vec<u8>, module: &str, name: &str) {
    out.push(op::GLOBAL);
    out.extend(format!("{module}\n{name}\n").into_bytes());
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.push(op::BINUNICODE);
    out.extend((text.len() as u32).to_le_bytes());
    out.extend(text.as_bytes());
}

fn integers(out: &mut Vec<u8>, values: &[i64]) {
    out.push(op::MARK);
    values.iter().for_each(|&value| integer(out, value));
    out.push(op::TUPLE);
}

fn integer(out: &mut Vec<u8>, value: i64) {
    match i32::try_from(value) {
        Ok(value) => {
            out.push(op::BININT);
            out.extend(value.to_le_bytes());
        }
        Err(_) => {
            out.extend([op::LONG1, 8]);
            out.extend(value.to_le_bytes());
        }
    }
}
