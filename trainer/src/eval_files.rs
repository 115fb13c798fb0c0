//! The files of an evaluation: scores as JSON, Markdown and Parquet, and a page with pictures.

use std::path::Path;

use crate::evaluate::{EvalReport, Pictures, render, write_table};
use crate::train::TrainError;

/// Writes `<name>.json`, `<name>.md` and `<name>.parquet` into `folder`.
///
/// # Errors
/// A folder that cannot be written.
pub fn write_report(folder: &Path, name: &str, report: &EvalReport) -> Result<(), TrainError> {
    let io = |source| TrainError::Io { path: folder.to_owned(), source };
    std::fs::create_dir_all(folder).map_err(io)?;
    let json = serde_json::to_string_pretty(report)
        .map_err(|error| TrainError::Internal(error.to_string()))?;
    std::fs::write(folder.join(format!("{name}.json")), json).map_err(io)?;
    std::fs::write(folder.join(format!("{name}.md")), report.table() + "\n").map_err(io)?;
    write_table(&folder.join(format!("{name}.parquet")), report)
}

/// Writes `<name>.html` into `folder`, which exists. `about` says which model was evaluated on what.
///
/// # Errors
/// A folder that cannot be written.
pub fn write_page(
    folder: &Path,
    name: &str,
    report: &EvalReport,
    pictures: &Pictures,
    about: &str,
) -> Result<(), TrainError> {
    let page = render(report, pictures, about)
        .map_err(|error| TrainError::Internal(format!("the page of {name}: {error:#}")))?;
    let path = folder.join(format!("{name}.html"));
    std::fs::write(&path, page).map_err(|source| TrainError::Io { path, source })
}
