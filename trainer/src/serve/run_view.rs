//! What the page shows of a run: its logs thinned out, and its pictures.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use axum::http::StatusCode;
use serde::Serialize;
use serde_json::Value;

use super::answer::{Answer, Refusal};

/// Steps that a curve has at most.
const MAX_STEPS: usize = 1000;
/// Pictures and folder levels that are looked at.
const MAX_PICTURES: usize = 1000;
const MAX_LEVELS: usize = 4;
/// Kinds of pictures by extension.
const KINDS: [(&str, &str); 4] =
    [("png", "image/png"), ("jpg", "image/jpeg"), ("jpeg", "image/jpeg"), ("svg", "image/svg+xml")];

/// A run as the page draws it.
#[derive(Debug, Serialize)]
pub(super) struct RunSummary {
    name: String,
    /// Steps that were taken.
    num_steps: usize,
    /// Lines of `steps.jsonl`, evenly thinned out.
    steps: Vec<Value>,
    /// Lines of `eval.jsonl`.
    evaluations: Vec<Value>,
    /// Paths below the run, by name.
    pictures: Vec<String>,
}

/// Reads the logs and finds the pictures of a run. What is not there yet is empty.
pub(super) fn summary(run: &Path) -> Answer<RunSummary> {
    let mut steps = lines(&run.join("steps.jsonl"))?;
    let num_steps = steps.len();
    let stride = num_steps.div_ceil(MAX_STEPS).max(1);
    let mut index = 0;
    // The last step is what people look for.
    steps.retain(|_| {
        index += 1;
        (num_steps - index).is_multiple_of(stride)
    });
    let pictures = pictures(run)?;
    let run = std::path::absolute(run).unwrap_or_else(|_| run.to_owned());
    Ok(RunSummary {
        name: run.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        num_steps,
        steps,
        evaluations: lines(&run.join("eval.jsonl"))?,
        pictures,
    })
}

/// Kind and bytes of a picture that [`summary`] lists; no other file can be named.
pub(super) fn picture(run: &Path, name: &str) -> Answer<(&'static str, Vec<u8>)> {
    let listed = pictures(run)?.into_iter().find(|picture| picture == name);
    let kind = listed.as_deref().and_then(|name| kind(Path::new(name)));
    let (Some(listed), Some(kind)) = (listed, kind) else {
        let problem = format!("the run has no picture `{name}`");
        return Err(Refusal::new(StatusCode::NOT_FOUND, problem));
    };
    let path = run.join(listed);
    let bytes = std::fs::read(&path).map_err(|error| unreadable(&path, &error))?;
    Ok((kind, bytes))
}

/// The lines of a log; a last one that is still being written is left out.
fn lines(path: &Path) -> Answer<Vec<Value>> {
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(path, &error)),
    };
    let mut lines = Vec::new();
    for line in BufReader::new(file).lines() {
        let line = line.map_err(|error| unreadable(path, &error))?;
        lines.extend(serde_json::from_str::<Value>(&line).ok());
    }
    Ok(lines)
}

/// Pictures below the run, sorted. Links are not followed: they may lead anywhere.
fn pictures(run: &Path) -> Answer<Vec<String>> {
    let mut found = Vec::new();
    let mut pending = vec![(run.to_owned(), 0)];
    while let Some((folder, level)) = pending.pop() {
        let entries = std::fs::read_dir(&folder).map_err(|error| unreadable(&folder, &error))?;
        let mut entries: Vec<_> = entries.flatten().collect();
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let path = entry.path();
            match entry.file_type() {
                Ok(kind) if kind.is_dir() && level < MAX_LEVELS => pending.push((path, level + 1)),
                Ok(file) if file.is_file() && kind(&path).is_some() => found.push(path),
                _ => {}
            }
        }
    }
    let name = |path: PathBuf| path.strip_prefix(run).ok()?.to_str().map(str::to_owned);
    let mut names: Vec<String> = found.into_iter().filter_map(name).collect();
    names.sort();
    names.truncate(MAX_PICTURES);
    Ok(names)
}

fn kind(path: &Path) -> Option<&'static str> {
    let extension = path.extension()?.to_str()?.to_ascii_lowercase();
    KINDS.iter().find(|(known, _)| *known == extension).map(|(_, kind)| *kind)
}

fn unreadable(path: &Path, error: &std::io::Error) -> Refusal {
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pictures_of_the_run_can_be_named() {
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path().join("run");
        std::fs::create_dir_all(run.join("eval/worst")).unwrap();
        std::fs::write(run.join("eval/worst/1.png"), "picture").unwrap();
        std::fs::write(run.join("config.toml"), "secret").unwrap();
        std::fs::write(folder.path().join("outside.png"), "secret").unwrap();
        std::os::unix::fs::symlink("../outside.png", run.join("link.png")).unwrap();
        assert_eq!(pictures(&run).unwrap(), ["eval/worst/1.png"]);
        assert_eq!(picture(&run, "eval/worst/1.png").unwrap(), ("image/png", b"picture".to_vec()));
        for name in
            ["../outside.png", "link.png", "config.toml", "/etc/passwd", "eval/../config.toml"]
        {
            assert!(picture(&run, name).is_err(), "{name}");
        }
    }

    #[test]
    fn long_logs_are_thinned_out_and_keep_their_last_step() {
        let folder = tempfile::tempdir().unwrap();
        let text: String = (1..=2500).map(|step| format!("{{\"global_step\":{step}}}\n")).collect();
        std::fs::write(folder.path().join("steps.jsonl"), text + "{\"global_st").unwrap();
        let summary = summary(folder.path()).unwrap();
        assert_eq!(summary.num_steps, 2500);
        assert!(summary.steps.len() <= MAX_STEPS);
        assert_eq!(summary.steps.last().unwrap()["global_step"], 2500);
    }
}
