//! The names that the pickle of a state dict may refer to; every other name is refused.

use tch::Kind;

/// Element types of a storage, by the name of PyTorch's class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StorageType(pub(crate) Kind);

/// The names that a pickle may refer to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Storage(StorageType),
    /// Something that training checkpoints keep beside the tensors. Nothing is made of it.
    Inert,
}

/// The meaning of a name, if it has one here.
pub(crate) fn known_global(module: &str, name: &str) -> Option<Global> {
    let storage = |kind| Some(Global::Storage(StorageType(kind)));
    match (module, name) {
        ("collections", "OrderedDict") => Some(Global::OrderedDict),
        ("torch._utils", "_rebuild_tensor_v2") => Some(Global::RebuildTensor),
        ("torch._utils", "_rebuild_parameter") => Some(Global::RebuildParameter),
        ("torch", "FloatStorage") => storage(Kind::Float),
        ("torch", "HalfStorage") => storage(Kind::Half),
        ("torch", "BFloat16Storage") => storage(Kind::BFloat16),
        ("torch", "DoubleStorage") => storage(Kind::Double),
        ("torch", "LongStorage") => storage(Kind::Int64),
        ("torch", "IntStorage") => storage(Kind::Int),
        ("torch", "ShortStorage") => storage(Kind::Int16),
        ("torch", "CharStorage") => storage(Kind::Int8),
        ("torch", "ByteStorage") => storage(Kind::Uint8),
        ("torch", "BoolStorage") => storage(Kind::Bool),
        ("argparse", "Namespace")
        | ("_codecs", "encode")
        | ("numpy", "dtype" | "ndarray")
        | ("numpy.core.multiarray" | "numpy._core.multiarray", "scalar" | "_reconstruct")
        | ("pathlib", "PosixPath" | "WindowsPath")
        | ("torch", "Size" | "device" | "float32" | "float16" | "bfloat16") => Some(Global::Inert),
        _ => None,
    }
}
