//! Launchers that run while a test looks at them; the tests of other packages include this file too.

use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use super::PATIENCE;

pub(crate) fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < until, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
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
