//! The few calls of a state dict's pickle: storages, tensors as views of them, and what is nothing.

use super::{Global, Handle, Object, PickleError, Reader, TensorView};

/// Most dimensions of a tensor; weights have four.
const MAX_DIMS: usize = 8;
/// Most bytes of shapes, strides and storage keys that are copied into tensors. Both may be named again
/// and again by two bytes each, so that their own length bounds nothing.
const MAX_COPIED_BYTES: usize = 64 << 20;
const UNEXPECTED_ARGUMENTS: &str = "call with unexpected arguments";

impl Reader<'_> {
    /// `("storage", class, key, device, elements)`
    pub(super) fn persistent_id(&mut self) -> Result<(), PickleError> {
        let handle = self.pop()?;
        let Object::Tuple(items) = &self.objects[handle] else {
            return Err(self.malformed("persistent id that is not a tuple"));
        };
        let &[tag, class, key, device, numel] = items.as_slice() else {
            return Err(self.malformed("persistent id that is not a storage"));
        };
        let storage = match [tag, class, key, device, numel].map(|item| &self.objects[item]) {
            [
                Object::Str(tag),
                Object::Global(Global::Storage(kind)),
                Object::Str(key),
                Object::Str(_),
                Object::Int(numel),
            ] if tag == "storage" => {
                Object::Storage { kind: *kind, key: key.clone(), numel: *numel }
            }
            _ => return Err(self.malformed("persistent id that is not a storage")),
        };
        self.push_copy(storage)
    }

    pub(super) fn reduce(&mut self) -> Result<(), PickleError> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let (Object::Global(function), Object::Tuple(arguments)) =
            (&self.objects[function], &self.objects[arguments])
        else {
            return Err(self.malformed("call of something that is not a known name"));
        };
        let made = match (function, arguments.first().map(|&first| &self.objects[first])) {
            (Global::OrderedDict, None) => Ok(Object::Dict(Vec::new())),
            (Global::RebuildTensor, _) => self.tensor(arguments),
            (Global::RebuildParameter, Some(tensor @ Object::Tensor(_))) => Ok(tensor.clone()),
            (Global::Inert, _) => Ok(Object::None),
            _ => Err(UNEXPECTED_ARGUMENTS),
        };
        let made = made.map_err(|reason| self.malformed(reason))?;
        self.push_copy(made)
    }

    /// [`Reader::push`] of an object that holds copies of what others hold.
    fn push_copy(&mut self, object: Object) -> Result<(), PickleError> {
        self.copied_bytes += match &object {
            Object::Storage { key, .. } => key.len(),
            Object::Tensor(TensorView { key, size, stride, .. }) => {
                key.len() + size_of::<i64>() * (size.len() + stride.len())
            }
            _ => 0,
        };
        if self.copied_bytes > MAX_COPIED_BYTES {
            return Err(self.malformed("more shapes and storages than any state dict has"));
        }
        self.push(object)
    }

    /// An instance of a class: only of those that nothing is made of.
    pub(super) fn new_object(&mut self) -> Result<(), PickleError> {
        let (_arguments, class) = (self.pop()?, self.pop()?);
        match self.objects[class] {
            Object::Global(Global::Inert) => self.push(Object::None),
            _ => Err(self.malformed("instance of something that is not a known class")),
        }
    }

    /// Storage, offset, shape, strides, and what only training needs.
    fn tensor(&self, arguments: &[Handle]) -> Result<Object, &'static str> {
        let &[storage, offset, size, stride, ..] = arguments else {
            return Err(UNEXPECTED_ARGUMENTS);
        };
        match [storage, offset, size, stride].map(|argument| &self.objects[argument]) {
            [
                Object::Storage { kind, key, numel },
                Object::Int(offset),
                Object::Tuple(size),
                Object::Tuple(stride),
            ] => Ok(Object::Tensor(TensorView {
                key: key.clone(),
                kind: *kind,
                storage_numel: *numel,
                offset: *offset,
                size: self.dims(size)?,
                stride: self.dims(stride)?,
            })),
            _ => Err(UNEXPECTED_ARGUMENTS),
        }
    }

    /// A value for each dimension of a tensor.
    fn dims(&self, items: &[Handle]) -> Result<Vec<i64>, &'static str> {
        if items.len() > MAX_DIMS {
            return Err("a tensor of more than 8 dimensions");
        }
        let value = |&item: &Handle| match self.objects[item] {
            Object::Int(value) => Ok(value),
            _ => Err(UNEXPECTED_ARGUMENTS),
        };
        items.iter().map(value).collect()
    }
}
