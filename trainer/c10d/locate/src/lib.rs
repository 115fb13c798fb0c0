//! Where libtorch lies and whether it fits, for build scripts.

use std::fmt;
use std::path::{Path, PathBuf};

/// The one libtorch that this workspace is built against: `tch` binds its C++
/// interface and `c10d` relies on the layout of its classes.
pub const VERSION: &str = "2.13.0";

/// Headers beside libtorch, relative to the folder that holds it, without which
/// ProcessGroupNCCL does not compile, and the folder of each to include.
const NCCL_HEADERS: [(&str, &str); 4] = [
    ("nvidia/nccl/include", "nccl.h"),
    ("nvidia/cu13/include", "cuda_runtime.h"),
    ("nvidia/cu13/include", "crt/host_config.h"),
    ("nvidia/cu13/include", "nv/target"),
];

/// A libtorch that fits.
#[derive(Clone, Debug)]
pub struct Libtorch {
    root: PathBuf,
}

/// Why libtorch cannot be used. Its text is one line and says what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocateError {
    /// No libtorch at the path.
    Missing(PathBuf),
    /// Its version cannot be read.
    Unversioned(PathBuf),
    /// It is another version.
    WrongVersion {
        /// Where it lies.
        root: PathBuf,
        /// What it says it is.
        found: String,
    },
}

impl fmt::Display for LocateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(root) => {
                write!(f, "no libtorch at {}: run `make setup` first", root.display())
            }
            Self::Unversioned(root) => write!(
                f,
                "libtorch at {} does not say its version: {VERSION} is needed; unset LIBTORCH or run `make setup`",
                root.display()
            ),
            Self::WrongVersion { root, found } => write!(
                f,
                "libtorch {found} at {} does not fit: {VERSION} is needed; unset LIBTORCH or run `make setup`",
                root.display()
            ),
        }
    }
}

impl std::error::Error for LocateError {}

impl Libtorch {
    /// The libtorch that `LIBTORCH` names; `.cargo/config.toml` sets it to
    /// `.libtorch/torch` where the user does not.
    pub fn from_env() -> Result<Self, LocateError> {
        let root = std::env::var_os("LIBTORCH").unwrap_or_else(|| ".libtorch/torch".into());
        Self::at(Path::new(&root))
    }

    /// The libtorch at `root`, a folder with `include` and `lib`.
    pub fn at(root: &Path) -> Result<Self, LocateError> {
        if !root.join("include").is_dir() || !root.join("lib").is_dir() {
            return Err(LocateError::Missing(root.to_path_buf()));
        }
        let libtorch = Self { root: root.to_path_buf() };
        let found =
            libtorch.version().ok_or_else(|| LocateError::Unversioned(root.to_path_buf()))?;
        // "2.13.0+cu130" and "2.13.0+cpu" are builds of 2.13.0.
        if found.split('+').next() != Some(VERSION) {
            return Err(LocateError::WrongVersion { root: root.to_path_buf(), found });
        }
        Ok(libtorch)
    }

    /// The files that hold the version, for `rerun-if-changed`: to cargo a file that is not there
    /// has always changed, so those are left out.
    pub fn watched_files(&self) -> impl Iterator<Item = PathBuf> {
        self.version_files().into_iter().filter(|file| file.exists())
    }

    /// The files that may hold the version.
    fn version_files(&self) -> [PathBuf; 3] {
        ["version.py", "build-version", "include/torch/headeronly/version.h"]
            .map(|file| self.root.join(file))
    }

    /// The folder with libtorch's shared libraries.
    pub fn lib(&self) -> PathBuf {
        self.root.join("lib")
    }

    /// The include folders that C++ against libtorch needs.
    pub fn includes(&self) -> Vec<PathBuf> {
        vec![self.root.join("include"), self.root.join("include/torch/csrc/api/include")]
    }

    /// The further include folders with which ProcessGroupNCCL compiles, or
    /// `None` where a part of the CUDA set is absent.
    pub fn nccl_includes(&self) -> Option<Vec<PathBuf>> {
        let beside = self.root.join("..");
        let complete = self.lib().join("libtorch_cuda.so").is_file()
            && NCCL_HEADERS.iter().all(|(folder, file)| beside.join(folder).join(file).is_file());
        complete.then(|| {
            let mut folders: Vec<_> = NCCL_HEADERS.iter().map(|(f, _)| beside.join(f)).collect();
            folders.dedup();
            folders
        })
    }

    fn version(&self) -> Option<String> {
        let [python, archive, header] =
            self.version_files().map(|file| std::fs::read_to_string(file).ok());
        let quoted = |line: &str, quote: char| line.split(quote).nth(1).map(str::to_owned);
        python
            .and_then(|text| {
                quoted(text.lines().find(|line| line.starts_with("__version__ ="))?, '\'')
            })
            .or_else(|| archive.map(|text| text.trim().to_owned()))
            .or_else(|| {
                let text = header?;
                let part = |name: &str| {
                    let define = format!("#define TORCH_VERSION_{name} ");
                    text.lines().find_map(|line| Some(line.strip_prefix(&define)?.trim()))
                };
                Some(format!("{}.{}.{}", part("MAJOR")?, part("MINOR")?, part("PATCH")?))
            })
    }
}
