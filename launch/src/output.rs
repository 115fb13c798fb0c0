//! Passes a rank's output on and remembers the last lines.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Lines kept of each rank for the report of its failure.
const KEPT_LINES: usize = 20;
/// Longer lines are cut there in the report.
pub(crate) const KEPT_BYTES: usize = 2000;

/// Longer lines behind a prefix are shown in parts: one that never ends must not fill the memory.
const SHOWN_BYTES: usize = 64 << 10;

/// The last lines of a rank.
#[derive(Clone, Default)]
pub(crate) struct Tail(Arc<Mutex<Lines>>);

#[derive(Default)]
struct Lines {
    whole: VecDeque<String>,
    partial: Vec<u8>,
    /// A carriage return came last: what follows, but for a line's end, is written over the line.
    is_returned: bool,
}

impl Tail {
    pub(crate) fn push(&self, bytes: &[u8]) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for &byte in bytes {
            lines.push(byte);
        }
    }

    /// The lines, oldest first, without empty ones.
    pub(crate) fn lines(&self) -> Vec<String> {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let last = shown(&lines.partial);
        let all = lines.whole.iter().cloned().chain([last]);
        all.filter(|line| !line.trim().is_empty()).collect()
    }
}

impl Lines {
    fn push(&mut self, byte: u8) {
        let is_returned = std::mem::replace(&mut self.is_returned, byte == b'\r');
        match byte {
            b'\r' => {}
            b'\n' => {
                let line = shown(&std::mem::take(&mut self.partial));
                if self.whole.len() == KEPT_LINES {
                    self.whole.pop_front();
                }
                self.whole.push_back(line);
            }
            _ => {
                if is_returned {
                    self.partial.clear();
                }
                if self.partial.len() < KEPT_BYTES {
                    self.partial.push(byte);
                }
            }
        }
    }
}

/// What a terminal would show of a line: without colours. Its length is bounded, in a message too, where
/// a control character would take six bytes.
fn shown(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let mut plain = String::with_capacity(text.len().min(KEPT_BYTES));
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        if char == '\u{1b}' {
            if chars.next() == Some('[') {
                // A control sequence ends with its first character from @ to ~.
                let _ = chars.find(|char| ('@'..='~').contains(char));
            }
        } else if plain.len() + char.len_utf8() > KEPT_BYTES {
            break;
        } else if !char.is_control() || char == '\t' {
            plain.push(char);
        }
    }
    plain
}

/// Copies `from` to `to` until it ends: line by line behind `[rank N] `, or unchanged and at once
/// where there is no `prefix`; then a line that was begun is ended where `ends_line` says so.
pub(crate) fn forward(
    prefix: Option<usize>,
    from: impl Read + Send + 'static,
    mut to: impl Write + Send + 'static,
    tail: Tail,
    ends_line: bool,
) -> std::io::Result<JoinHandle<()>> {
    let copy = move || {
        let mut from = BufReader::new(from);
        let mut bytes = Vec::new();
        let (mut is_returned, mut is_begun) = (false, false);
        while next(&mut from, prefix.is_some(), &mut bytes) {
            tail.push(&bytes);
            if let Some(rank) = prefix {
                let text = String::from_utf8_lossy(&bytes);
                let text = text.trim_end_matches(['\n', '\r']);
                let was_returned = std::mem::replace(&mut is_returned, bytes.ends_with(b"\r"));
                if text.is_empty() && (was_returned || is_returned) {
                    // The rest of "\r\n", or the return before a progress bar.
                    continue;
                }
                bytes = format!("[rank {rank}] {text}\n").into_bytes();
            }
            is_begun = begins_line(&bytes, is_begun);
            // One write, so that lines of ranks never mix. A closed terminal must not end the
            // job: keep reading so that the rank does not block.
            let _ = to.write_all(&bytes);
            let _ = to.flush();
        }
        if ends_line && is_begun {
            // The launcher's words come next.
            let _ = to.write_all(b"\n");
        }
        tail.push(b"\n");
    };
    std::thread::Builder::new().name("output".to_owned()).spawn(copy)
}

/// Whether a line is begun and not ended by these bytes, after which the next would be glued to it.
fn begins_line(bytes: &[u8], was_begun: bool) -> bool {
    let is_end = |&byte: &u8| byte == b'\n' || byte == b'\r';
    let rest = bytes.rsplit(is_end).next().unwrap_or_default();
    (was_begun && rest.len() == bytes.len()) || !shown(rest).trim().is_empty()
}

/// The next line, which a carriage return ends as well, or whatever is there; false at the end.
fn next(from: &mut impl BufRead, whole_line: bool, bytes: &mut Vec<u8>) -> bool {
    bytes.clear();
    loop {
        let found = match from.fill_buf() {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            found => found.unwrap_or_default(),
        };
        let room = SHOWN_BYTES - bytes.len();
        let is_end = |&byte: &u8| whole_line && matches!(byte, b'\n' | b'\r');
        let end = found.iter().take(room).position(is_end);
        let count = end.map_or(found.len().min(room), |end| end + 1);
        bytes.extend_from_slice(&found[..count]);
        from.consume(count);
        if count == 0 || end.is_some() || !whole_line || bytes.len() == SHOWN_BYTES {
            return !bytes.is_empty();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_what_a_terminal_would_show() {
        let tail = Tail::default();
        tail.push(b"one\n\n\x1b[31mtwo\x1b[0m\r\n10 %\r20 %\r");
        assert_eq!(tail.lines(), ["one", "two", "20 %"]);
        tail.push(b"30 %\nhalf");
        assert_eq!(tail.lines(), ["one", "two", "30 %", "half"]);
        // A progress bar that is drawn for hours, in pieces, before the last words.
        for percent in 0..1000 {
            tail.push(format!("\r\x1b[2K{percent} steps").as_bytes());
        }
        tail.push(b"\r");
        tail.push(b"\x1b[2Kthe disk is full\r");
        tail.push(b"\n");
        assert_eq!(tail.lines().last().map(String::as_str), Some("the disk is full"));
        for line in 0..50 {
            tail.push(format!("{line}\n").as_bytes());
        }
        let lines = tail.lines();
        assert_eq!((lines.len(), lines[0].as_str()), (KEPT_LINES, "30"));
        // Bytes that are no text are shown by three each.
        tail.push(&[0xff; 5000]);
        assert_eq!(tail.lines().last().unwrap().len(), KEPT_BYTES / 3 * 3);
        tail.push(b"\na\x01\x08\tb");
        assert_eq!(tail.lines().last().unwrap(), "a\tb");
    }

    /// What is written, in one string for each write.
    #[derive(Clone, Default)]
    struct Writes(Arc<Mutex<Vec<String>>>);

    impl Write for Writes {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().push(String::from_utf8(bytes.to_vec()).unwrap());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn forwarded(
        prefix: Option<usize>,
        from: impl Read + Send + 'static,
        ends: bool,
    ) -> Vec<String> {
        let to = Writes::default();
        forward(prefix, from, to.clone(), Tail::default(), ends).unwrap().join().unwrap();
        std::mem::take(&mut *to.0.lock().unwrap())
    }

    #[test]
    fn a_line_without_an_end_is_shown_in_parts() {
        let writes = forwarded(Some(1), std::io::repeat(b'x').take(300_000), true);
        assert!(writes.iter().all(|write| write.len() <= SHOWN_BYTES + "[rank 1] \n".len()));
        let count: usize = writes.iter().map(|write| write.matches('x').count()).sum();
        assert_eq!((writes.len(), count), (5, 300_000));
    }

    #[test]
    fn each_state_of_a_progress_bar_is_a_line() {
        let writes = forwarded(Some(1), &b"a\r\n\n\r10 %\r20 %\r\nb"[..], true);
        let lines = ["a", "", "10 %", "20 %", "b"].map(|line| format!("[rank 1] {line}\n"));
        assert_eq!(writes, lines);
    }

    #[test]
    fn a_line_that_was_begun_is_ended_where_asked() {
        let last = |text: &'static [u8], ends| forwarded(None, text, ends).concat();
        assert_eq!(last(b"a\nb", true), "a\nb\n");
        assert_eq!(last(b"a\nb", false), "a\nb");
        assert_eq!(last(b"a\nb\n", true), "a\nb\n");
        // A progress bar that was wiped away.
        assert_eq!(last(b"\r10 %\r\x1b[2K", true), "\r10 %\r\x1b[2K");
    }
}
