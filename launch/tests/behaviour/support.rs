//! What the tests share.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Long enough for a loaded machine, far below what a hang would take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn launch(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_launch"));
    command.args(arguments).env_remove("OMP_NUM_THREADS");
    command
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

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < until, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
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

/// A launcher that is killed where a test ends without it; its guard does the rest.
pub(crate) struct Running(Option<Child>);

impl Running {
    pub(crate) fn id(&self) -> u32 {
        self.0.as_ref().unwrap().id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

pub(crate) fn spawn(command: &mut Command) -> Running {
    spawn_with_stderr(command, Stdio::piped())
}

pub(crate) fn spawn_with_stderr(command: &mut Command, stderr: impl Into<Stdio>) -> Running {
    Running(Some(command.stdout(Stdio::piped()).stderr(stderr).spawn().unwrap()))
}

/// The output of a launcher that must end by itself.
pub(crate) fn end(mut running: Running) -> Output {
    let mut child = running.0.take().unwrap();
    let until = Instant::now() + PATIENCE;
    let mut in_time = true;
    while child.try_wait().unwrap().is_none() {
        if in_time && Instant::now() >= until {
            in_time = false;
            child.kill().unwrap();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let output = child.wait_with_output().unwrap();
    assert!(in_time, "did not end by itself: {}", stderr(&output));
    output
}
