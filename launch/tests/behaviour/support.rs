//! What the tests share.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

pub(crate) use crate::PATIENCE;
pub(crate) use crate::running::{Running, end, spawn, spawn_with_stderr, stderr, wait_for};

pub(crate) fn launch(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_launch"));
    command.args(arguments).env_remove("OMP_NUM_THREADS").env_remove("MALLOC_ARENA_MAX");
    command
}

/// Copies a program, in another process: this one has threads that start processes, and what a child
/// has just inherited open for writing cannot be run ("Text file busy").
pub(crate) fn install(from: &Path, to: &Path) {
    let status = Command::new("install").args(["-m", "755"]).args([from, to]).status();
    assert!(status.unwrap().success(), "{} to {}", from.display(), to.display());
}

/// Ranks of a shell script.
pub(crate) fn script(procs: &str, script: &str) -> Command {
    launch(&["--procs", procs, "--grace", "2", "--", "sh", "-c", script])
}

/// Says why a test does nothing.
#[expect(clippy::print_stdout, reason = "a skipped test says so in its output")]
pub(crate) fn skip(reason: &str) {
    println!("skipped: {reason}");
}

/// The example that exchanges numbers between ranks.
pub(crate) fn exchange() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let path = own.ancestors().nth(2).unwrap().join("examples/exchange");
    assert!(path.is_file(), "cargo builds it together with the tests: {}", path.display());
    path
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What a process wrote to a file, once the line is complete.
pub(crate) fn line(path: &Path) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    text.ends_with('\n').then(|| text.trim().to_owned())
}

/// A process that has ended may remain as a zombie where nobody reaps orphans.
pub(crate) fn runs(pid: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap().starts_with(" Z"))
}

pub(crate) fn send(pid: u32, signal: &str) {
    let status = Command::new("kill").args(["-s", signal, &pid.to_string()]).status();
    assert!(status.unwrap().success());
}
