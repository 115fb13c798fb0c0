//! Why a round of the job ended, in words that travel between launchers.

use std::process::ExitStatus;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use signal_hook::consts::{SIGINT, SIGKILL, SIGTERM};

use crate::output::KEPT_BYTES;

/// Exit codes after which running again cannot help: wrong usage (the shell's, clap's and
/// argparse's 2, and EX_USAGE and EX_CONFIG of sysexits.h), a program that cannot be run.
const HOPELESS_CODES: [u8; 5] = [2, 64, 78, 126, 127];

/// The first thing that went wrong in a round.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// One line that names the rank or the machine.
    pub line: String,
    /// Exit code of the launcher.
    pub code: u8,
    /// Last lines of the rank, oldest first.
    pub tail: Vec<String>,
    /// Time since the round began on the machine that reports it.
    pub after: Duration,
    /// Whether running again may help.
    pub retry: bool,
}

impl Failure {
    /// A failure that is not a rank's exit.
    pub(crate) fn new(line: String, after: Duration) -> Self {
        let line = short(line);
        Self { line, code: 1, tail: Vec::new(), after, retry: true }
    }

    /// A failure with a rank's exit code and last lines.
    pub(crate) fn of_rank(line: String, code: u8, tail: Vec<String>, after: Duration) -> Self {
        let line = short(line);
        Self { line, code, tail, after, retry: !HOPELESS_CODES.contains(&code) }
    }
}

/// A line that a message has room for: one of a rank's with what is said of it.
fn short(line: String) -> String {
    const LONGEST: usize = KEPT_BYTES + 500;
    let has_control = line.contains(|char: char| char.is_control());
    if line.len() <= LONGEST && !has_control {
        return line;
    }
    let end = line.floor_char_boundary(LONGEST);
    line[..end].replace(|char: char| char.is_control(), " ")
}

/// How a rank ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Exit code 0.
    Success,
    /// By the signal that the user sent, with the code that goes with it.
    Interrupted,
    /// Any other way.
    Failed {
        /// In words.
        reason: String,
        /// Exit code, or 128 and the signal.
        code: u8,
    },
}

/// How a rank ended, where `interrupted` is the signal that was passed on to it.
pub(crate) fn ending(status: &std::io::Result<ExitStatus>, interrupted: Option<i32>) -> Ending {
    use std::os::unix::process::ExitStatusExt;
    let failed = |reason, code| Ending::Failed { reason, code };
    let status = match status {
        Ok(status) => status,
        Err(error) => return failed(format!("it cannot be waited for: {error}"), 1),
    };
    match (status.code(), status.signal()) {
        (Some(0), _) => Ending::Success,
        (Some(code), _) if interrupted.is_some_and(|n| code == i32::from(signal_code(n))) => {
            Ending::Interrupted
        }
        (None, Some(SIGINT | SIGTERM | SIGKILL)) if interrupted.is_some() => Ending::Interrupted,
        (Some(code), _) => failed(format!("exit code {code}"), u8::try_from(code).unwrap_or(1)),
        (None, Some(signal)) => {
            let hint = if signal == SIGKILL { " (perhaps out of memory)" } else { "" };
            failed(format!("killed by {}{hint}", signal_name(signal)), signal_code(signal))
        }
        (None, None) => failed("it ended in an unknown way".to_owned(), 1),
    }
}

/// 128 and the signal, as shells report it.
pub(crate) fn signal_code(signal: i32) -> u8 {
    u8::try_from(128 + signal).unwrap_or(u8::MAX)
}

/// `SIGTERM` and so on.
pub(crate) fn signal_name(signal: i32) -> String {
    signal_hook::low_level::signal_name(signal)
        .map_or_else(|| format!("signal {signal}"), str::to_owned)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn an_exit_is_told_by_code_signal_and_request() {
        let of = |raw: i32, interrupted| ending(&Ok(ExitStatus::from_raw(raw)), interrupted);
        assert_eq!(of(0, None), Ending::Success);
        assert_eq!(of(0, Some(SIGTERM)), Ending::Success);
        let failed = |reason: &str, code| Ending::Failed { reason: reason.to_owned(), code };
        assert_eq!(of(3 << 8, None), failed("exit code 3", 3));
        assert_eq!(of(11, None), failed("killed by SIGSEGV", 139));
        assert_eq!(of(9, None), failed("killed by SIGKILL (perhaps out of memory)", 137));
        assert_eq!(of(143 << 8, Some(SIGTERM)), Ending::Interrupted);
        assert_eq!(of(15, Some(SIGTERM)), Ending::Interrupted);
        // What a signal cannot explain stays a failure after one.
        assert_eq!(of(3 << 8, Some(SIGTERM)), failed("exit code 3", 3));
        assert_eq!(of(11, Some(SIGTERM)), failed("killed by SIGSEGV", 139));
    }

    #[test]
    fn wrong_usage_is_not_tried_again() {
        let retry = |code| Failure::of_rank(String::new(), code, Vec::new(), Duration::ZERO).retry;
        assert!(retry(1) && retry(137));
        assert!(!retry(2) && !retry(127));
    }
}
