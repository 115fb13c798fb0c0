//! Passes a rank's lines on behind its name and remembers the last ones.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Lines kept of each rank for the report of its failure.
const KEPT_LINES: usize = 20;

/// The last lines of a rank.
#[derive(Clone, Default)]
pub(crate) struct Tail(Arc<Mutex<VecDeque<String>>>);

impl Tail {
    fn push(&self, line: String) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == KEPT_LINES {
            lines.pop_front();
        }
        lines.push_back(line);
    }

    /// The lines, oldest first.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

/// Copies `from` to `to` line by line behind `[rank N] ` until it ends.
pub(crate) fn forward(
    rank: usize,
    from: impl Read + Send + 'static,
    mut to: impl Write + Send + 'static,
    tail: Tail,
) -> std::io::Result<JoinHandle<()>> {
    let copy = move || {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        while from.read_until(b'\n', &mut line).is_ok_and(|bytes| bytes > 0) {
            let text = String::from_utf8_lossy(&line);
            let text = text.trim_end_matches(['\n', '\r']);
            // One write a line, so that lines of ranks never mix. A closed terminal must
            // not end the job: keep reading so that the rank does not block.
            let _ = to.write_all(format!("[rank {rank}] {text}\n").as_bytes());
            let _ = to.flush();
            tail.push(text.to_owned());
            line.clear();
        }
    };
    std::thread::Builder::new().name(format!("output-{rank}")).spawn(copy)
}
