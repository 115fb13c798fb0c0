//! Reads the pickle inside a `.pth` as data.
//!
//! A pickle is a program. This reader knows the few instructions and names that a saved state dict
//! uses, builds plain objects in one flat list, and runs nothing: any other
//! name or instruction ends the reading with an error.

mod calls;

use std::collections::BTreeMap;

use super::pickle_names::{Global, StorageType, known_global};
use super::pickle_op as op;

/// Largest pickle that is read; a state dict's holds names and shapes only.
pub(crate) const MAX_PICKLE_BYTES: u64 = 32 << 20;
/// Most objects that a pickle may make.
const MAX_OBJECTS: usize = 4 << 20;
/// Position of an object in [`Pickle::objects`].
pub(crate) type Handle = usize;

/// A tensor as a view of a storage that lies elsewhere in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TensorView {
    /// File of the storage below `data/`.
    pub(crate) key: String,
    /// Element type.
    pub(crate) kind: StorageType,
    /// Elements of the storage.
    pub(crate) storage_numel: i64,
    /// First element.
    pub(crate) offset: i64,
    /// Shape.
    pub(crate) size: Vec<i64>,
    /// Stride of each dimension in elements.
    pub(crate) stride: Vec<i64>,
}

/// What a pickle describes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Object {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(String),
    Tuple(Vec<Handle>),
    List(Vec<Handle>),
    Dict(Vec<(Handle, Handle)>),
    Global(Global),
    Storage { kind: StorageType, key: String, numel: i64 },
    Tensor(TensorView),
}

/// Why a pickle is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum PickleError {
    #[error("{name}")]
    UnknownGlobal { name: String },
    #[error("the pickle ends too early")]
    Truncated,
    #[error("the pickle has the instruction {code:#04x} at byte {at}, which no state dict uses")]
    UnknownInstruction { code: u8, at: usize },
    #[error("the pickle is malformed at byte {at}: {reason}")]
    Malformed { at: usize, reason: &'static str },
}

/// A read pickle.
#[derive(Debug)]
pub(crate) struct Pickle {
    objects: Vec<Object>,
    root: Handle,
}

impl Pickle {
    /// Reads a whole pickle.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, PickleError> {
        let mut reader = Reader { bytes, ..Reader::default() };
        let root = reader.run()?;
        Ok(Self { objects: reader.objects, root })
    }

    /// The outermost object.
    pub(crate) fn root(&self) -> &Object {
        &self.objects[self.root]
    }

    /// The object behind a handle.
    pub(crate) fn get(&self, handle: Handle) -> &Object {
        &self.objects[handle]
    }
}

#[derive(Default)]
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    objects: Vec<Object>,
    stack: Vec<Handle>,
    marks: Vec<usize>,
    memo: BTreeMap<u32, Handle>,
    /// Of shapes, strides and storage keys.
    copied_bytes: usize,
}

impl Reader<'_> {
    fn run(&mut self) -> Result<Handle, PickleError> {
        loop {
            let code = self.byte()?;
            if code == op::STOP {
                return self.pop();
            }
            self.execute(code)?;
        }
    }

    fn execute(&mut self, code: u8) -> Result<(), PickleError> {
        match code {
            op::PROTO => self.take(1).map(|_| ()),
            op::FRAME => self.take(8).map(|_| ()),
            op::MARK => {
                self.marks.push(self.stack.len());
                Ok(())
            }
            op::POP => self.pop().map(|_| ()),
            op::NONE => self.push(Object::None),
            op::NEWTRUE => self.push(Object::Bool(true)),
            op::NEWFALSE => self.push(Object::Bool(false)),
            op::BININT => {
                let bytes = self.array()?;
                self.push(Object::Int(i64::from(i32::from_le_bytes(bytes))))
            }
            op::BININT1 => {
                let value = i64::from(self.byte()?);
                self.push(Object::Int(value))
            }
            op::BININT2 => {
                let bytes = self.array()?;
                self.push(Object::Int(i64::from(u16::from_le_bytes(bytes))))
            }
            op::LONG1 => self.long(),
            op::BINFLOAT => {
                let bytes = self.array()?;
                self.push(Object::Float(f64::from_be_bytes(bytes)))
            }
            op::BINUNICODE | op::SHORT_BINUNICODE => self.unicode(code == op::SHORT_BINUNICODE),
            op::BINPUT | op::LONG_BINPUT | op::MEMOIZE | op::BINGET | op::LONG_BINGET => {
                self.memo(code)
            }
            op::GLOBAL | op::STACK_GLOBAL => self.global(code),
            _ => self.container(code),
        }
    }

    fn container(&mut self, code: u8) -> Result<(), PickleError> {
        match code {
            op::EMPTY_TUPLE => self.push(Object::Tuple(Vec::new())),
            op::EMPTY_LIST => self.push(Object::List(Vec::new())),
            op::EMPTY_DICT => self.push(Object::Dict(Vec::new())),
            op::TUPLE => {
                let items = self.pop_mark()?;
                self.push(Object::Tuple(items))
            }
            op::TUPLE1 | op::TUPLE2 | op::TUPLE3 => {
                let count = usize::from(code - op::TUPLE1) + 1;
                let first =
                    self.stack.len().checked_sub(count).ok_or(self.malformed("empty stack"))?;
                let items = self.stack.split_off(first);
                self.push(Object::Tuple(items))
            }
            op::APPEND => {
                let item = self.pop()?;
                self.append(vec![item])
            }
            op::APPENDS => {
                let items = self.pop_mark()?;
                self.append(items)
            }
            op::SETITEM => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set_items(&[key, value])
            }
            op::SETITEMS => {
                let items = self.pop_mark()?;
                self.set_items(&items)
            }
            op::BINPERSID => self.persistent_id(),
            op::REDUCE => self.reduce(),
            op::NEWOBJ => self.new_object(),
            // The attributes of an OrderedDict (its `_metadata`) carry no tensors.
            op::BUILD => self.pop().map(|_| ()),
            _ => Err(PickleError::UnknownInstruction { code, at: self.at - 1 }),
        }
    }

    fn malformed(&self, reason: &'static str) -> PickleError {
        PickleError::Malformed { at: self.at, reason }
    }

    fn take(&mut self, count: usize) -> Result<&[u8], PickleError> {
        let end = self.at.checked_add(count).ok_or(PickleError::Truncated)?;
        let bytes = self.bytes.get(self.at..end).ok_or(PickleError::Truncated)?;
        self.at = end;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], PickleError> {
        self.take(N)?.try_into().map_err(|_| PickleError::Truncated)
    }

    fn byte(&mut self) -> Result<u8, PickleError> {
        Ok(self.take(1)?[0])
    }

    fn line(&mut self) -> Result<String, PickleError> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let length = rest.iter().position(|&byte| byte == b'\n').ok_or(PickleError::Truncated)?;
        let line = String::from_utf8_lossy(&rest[..length]).into_owned();
        self.at += length + 1;
        Ok(line)
    }

    fn push(&mut self, object: Object) -> Result<(), PickleError> {
        if self.objects.len() >= MAX_OBJECTS {
            return Err(self.malformed("more objects than any state dict has"));
        }
        self.stack.push(self.objects.len());
        self.objects.push(object);
        Ok(())
    }

    fn pop(&mut self) -> Result<Handle, PickleError> {
        self.stack.pop().ok_or(self.malformed("empty stack"))
    }

    fn pop_mark(&mut self) -> Result<Vec<Handle>, PickleError> {
        let mark = self.marks.pop().ok_or(self.malformed("no mark"))?;
        if mark > self.stack.len() {
            return Err(self.malformed("mark above the stack"));
        }
        Ok(self.stack.split_off(mark))
    }

    fn long(&mut self) -> Result<(), PickleError> {
        let count = usize::from(self.byte()?);
        let mut bytes = self.take(count)?.to_vec();
        if count > 8 {
            return Err(self.malformed("integer of more than 64 bits"));
        }
        let is_negative = bytes.last().is_some_and(|&byte| byte & 0x80 != 0);
        bytes.resize(8, if is_negative { 0xff } else { 0 });
        let value = bytes.iter().rev().fold(0_u64, |value, &byte| (value << 8) | u64::from(byte));
        self.push(Object::Int(value as i64))
    }

    fn unicode(&mut self, is_short: bool) -> Result<(), PickleError> {
        let length = if is_short {
            usize::from(self.byte()?)
        } else {
            u32::from_le_bytes(self.array()?) as usize
        };
        let text = std::str::from_utf8(self.take(length)?).map(String::from);
        let text = text.map_err(|_| self.malformed("text that is not UTF-8"))?;
        self.push(Object::Str(text))
    }

    fn memo(&mut self, code: u8) -> Result<(), PickleError> {
        let index = match code {
            op::MEMOIZE => self.memo.len() as u32,
            op::BINPUT | op::BINGET => u32::from(self.byte()?),
            _ => u32::from_le_bytes(self.array()?),
        };
        if matches!(code, op::BINGET | op::LONG_BINGET) {
            let handle = *self.memo.get(&index).ok_or(self.malformed("unknown memo"))?;
            self.stack.push(handle);
        } else {
            let top = *self.stack.last().ok_or(self.malformed("empty stack"))?;
            self.memo.insert(index, top);
        }
        Ok(())
    }

    fn global(&mut self, code: u8) -> Result<(), PickleError> {
        let (module, name) = if code == op::GLOBAL {
            (self.line()?, self.line()?)
        } else {
            let (name, module) = (self.pop()?, self.pop()?);
            match (&self.objects[module], &self.objects[name]) {
                (Object::Str(module), Object::Str(name)) => (module.clone(), name.clone()),
                _ => return Err(self.malformed("name that is not text")),
            }
        };
        let global = known_global(&module, &name)
            .ok_or_else(|| PickleError::UnknownGlobal { name: format!("{module}.{name}") })?;
        self.push(Object::Global(global))
    }

    fn append(&mut self, items: Vec<Handle>) -> Result<(), PickleError> {
        let list = *self.stack.last().ok_or(self.malformed("empty stack"))?;
        match &mut self.objects[list] {
            Object::List(list) => {
                list.extend(items);
                Ok(())
            }
            _ => Err(self.malformed("append to something that is not a list")),
        }
    }

    fn set_items(&mut self, items: &[Handle]) -> Result<(), PickleError> {
        let dict = *self.stack.last().ok_or(self.malformed("empty stack"))?;
        match &mut self.objects[dict] {
            Object::Dict(dict) if items.len().is_multiple_of(2) => {
                dict.extend(items.chunks_exact(2).map(|pair| (pair[0], pair[1])));
                Ok(())
            }
            _ => Err(self.malformed("items for something that is not a dict")),
        }
    }
}
