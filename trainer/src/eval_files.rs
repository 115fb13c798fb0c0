//! The files of an evaluation: scores as JSON, Markdown and Parquet, and a page with pictures.

use std::path::Path;

use crate::evaluate::{EvalReport, Pictures, render, write_table};
use crate::train::TrainError;

/// A name for the files of `report` in `folder` under which no other evaluation is lost: that of its split,
/// unless the report of that name is of another data set, other prompts, other settings or another number
/// of images; then the split's with a hash of these. The same evaluation of other weights is replaced.
#[must_use]
pub fn free_name(folder: &Path, report: &EvalReport) -> String {
    let evaluation = report.evaluation_sha256();
    let there = std::fs::read(folder.join(format!("{}.json", report.split))).ok();
    let there = there.and_then(|json| serde_json::from_slice::<EvalReport>(&json).ok());
    match there {
        Some(there) if there.evaluation_sha256() != evaluation => {
            format!("{}-{}", report.split, &evaluation[..8])
        }
        _ => report.split.clone(),
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::{Protocol, test_report};

    #[test]
    fn only_the_same_evaluation_takes_the_same_name() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let full = test_report(&[Protocol::Box, Protocol::Points(5)], 3);
        assert_eq!(free_name(folder, &full), "val");
        write_report(folder, "val", &full).unwrap();
        assert_eq!(free_name(folder, &full), "val");
        let later = EvalReport { hq_sha256: "4444".into(), data: "moved".into(), ..full.clone() };
        assert_eq!(free_name(folder, &later), "val", "other weights, a data set that was moved");
        let mut names = vec!["val".to_owned()];
        for other in [
            EvalReport { data_sha256: "9999".into(), ..full.clone() },
            EvalReport { seed: 7, ..full.clone() },
            EvalReport { dilation_ratio: 0.1, ..full.clone() },
            EvalReport { conditions: "in bfloat16".into(), ..full.clone() },
            test_report(&[Protocol::Box], 3),
            test_report(&[Protocol::Box, Protocol::Points(5)], 1),
        ] {
            let name = free_name(folder, &other);
            assert_eq!((name.len(), &name[..4]), (12, "val-"), "{name}");
            assert!(!names.contains(&name), "{name}");
            write_report(folder, &name, &other).unwrap();
            assert_eq!(free_name(folder, &other), name, "the next time as well");
            names.push(name);
        }
        // Of a version that did not tell the data set.
        write_report(folder, "val", &EvalReport { data_sha256: String::new(), ..full.clone() })
            .unwrap();
        assert_ne!(free_name(folder, &full), "val");
        std::fs::write(folder.join("val.json"), "torn").unwrap();
        assert_eq!(free_name(folder, &full), "val");
    }
}
