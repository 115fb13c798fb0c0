//! Logs of one JSON object a line, each with its `global_step`, in ascending order: what a full disk or
//! a kill leaves of a line is no line.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::Path;

/// Appends a line, or nothing: of one that a full disk has no room for, no part stays that the next
/// one would be glued to.
///
/// # Errors
/// A file that cannot be written.
pub(crate) fn append_line(file: &mut File, line: &str) -> std::io::Result<()> {
    let length = file.metadata()?.len();
    file.write_all(format!("{line}\n").as_bytes()).inspect_err(|_| {
        // Gives room back, so a full disk does not keep it from succeeding.
        let _ = file.set_len(length);
    })
}

/// Cuts off the lines after `global_step` and a torn last line, in place: a full disk has room for that.
///
/// # Errors
/// A file that is there and cannot be read or cut.
pub(crate) fn keep_lines_until(path: &Path, global_step: u64) -> std::io::Result<()> {
    let text = read(path)?;
    let (mut kept, mut end) = (0, 0);
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        end += line.len();
        match step_of(line) {
            Some(step) if step <= global_step => kept = end,
            Some(_) => break,
            // Not the last line: damaged by something else, and kept for whoever looks into it.
            None => {}
        }
    }
    if kept < text.len() {
        OpenOptions::new().write(true).open(path)?.set_len(kept as u64)?;
    }
    Ok(())
}

/// Number of whole lines of this step; 0 where there is no file.
///
/// # Errors
/// A file that is there and cannot be read.
pub(crate) fn count_lines_of(path: &Path, global_step: u64) -> std::io::Result<usize> {
    let text = read(path)?;
    let lines = text.split_inclusive(|byte| *byte == b'\n');
    Ok(lines.filter(|line| step_of(line) == Some(global_step)).count())
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    match std::fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        found => found,
    }
}

/// `None` for what is no whole line of a log.
fn step_of(line: &[u8]) -> Option<u64> {
    let line = line.strip_suffix(b"\n")?;
    serde_json::from_slice::<serde_json::Value>(line).ok()?["global_step"].as_u64()
}

/// Whether something was not written because there is no room.
pub(crate) fn is_full(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(step: u64) -> String {
        format!("{{\"global_step\":{step}}}\n")
    }

    fn kept(text: &str, until: u64) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("steps.jsonl");
        std::fs::write(&path, text).unwrap();
        keep_lines_until(&path, until).unwrap();
        std::fs::read_to_string(&path).unwrap()
    }

    #[test]
    fn steps_done_again_are_not_logged_twice() {
        let all: String = (1..=4).map(line).collect();
        let first_two = line(1) + &line(2);
        assert_eq!(kept(&(all.clone() + "{\"global_st"), 2), first_two);
        assert_eq!(kept(&(all.clone() + "{\"global_st"), 4), all);
        assert_eq!(kept(&all, 9), all);
        assert_eq!(kept(&all, 0), "");
    }

    #[test]
    fn a_line_without_its_end_is_torn_though_it_reads_whole() {
        assert_eq!(kept(&(line(1) + line(2).trim_end()), 2), line(1));
    }

    #[test]
    fn a_damaged_line_costs_no_other() {
        let text = line(1) + "\u{0}\u{0}\n" + &line(2) + &line(3);
        assert_eq!(kept(&text, 2), line(1) + "\u{0}\u{0}\n" + &line(2));
    }

    #[test]
    fn no_file_has_no_lines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("eval.jsonl");
        keep_lines_until(&path, 2).unwrap();
        assert_eq!(count_lines_of(&path, 2).unwrap(), 0);
        std::fs::write(&path, line(2) + &line(2) + &line(3)).unwrap();
        assert_eq!(count_lines_of(&path, 2).unwrap(), 2);
    }
}
