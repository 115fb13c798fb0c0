//! Ctrl-C typed into a terminal: `script` of util-linux holds a pseudo terminal whose line discipline
//! turns the key into SIGINT for the whole foreground process group.

use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use crate::support::{line, runs, skip, wait_for};

/// Ctrl-C, as a keyboard sends it.
const CTRL_C: &[u8] = b"\x03";
/// The launcher of two ranks that say that they are there and when they are asked to stop; then they
/// go on until there is a file `go`.
const LAUNCH: &str = r#"$LAUNCH --procs 2 --grace 2 -- sh -c 'trap "echo got >> got$RANK; until [ -e go ]; do sleep 0.02; done; echo saved > saved$RANK; exit 0" INT TERM; echo $$ > ready$RANK; while :; do sleep 0.05; done'"#;

/// A terminal that is closed where a test ends without its end.
struct Terminal(Option<Child>);

impl Terminal {
    /// Runs a shell command in a new terminal and in `folder`, and waits for its two ranks. `None`,
    /// saying so, without `script`.
    fn run(command: &str, folder: &Path) -> Option<Self> {
        let terminal = Self::start(command, folder)?;
        wait_for("the ranks", || (0..2).all(|rank| pid(folder, rank).is_some()));
        Some(terminal)
    }

    /// As [`run`](Self::run), without waiting.
    fn start(command: &str, folder: &Path) -> Option<Self> {
        let version = Command::new("script").arg("--version").output();
        if !version.is_ok_and(|output| output.status.success()) {
            skip("there is no script(1), which util-linux has");
            return None;
        }
        // Started in the background, a test ignores SIGINT, and a shell that begins like that has no trap.
        let child = Command::new("env")
            .args(["--default-signal=INT", "script"])
            .args(["--quiet", "--return", "--flush", "--command", command, "/dev/null"])
            .env("LAUNCH", env!("CARGO_BIN_EXE_launch"))
            .env("SHELL", "/bin/sh")
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Some(Self(Some(child)))
    }

    /// Closes the terminal under whatever runs in it.
    fn close(self) {
        drop(self);
    }

    fn type_ctrl_c(&mut self) {
        let stdin = self.0.as_mut().unwrap().stdin.as_mut().unwrap();
        stdin.write_all(CTRL_C).unwrap();
        stdin.flush().unwrap();
    }

    /// Waits for the command; its exit code is that of the output, and what it printed is there.
    fn end(mut self) -> (Output, String) {
        wait_for("the command", || self.0.as_mut().unwrap().try_wait().unwrap().is_some());
        let output = self.0.take().unwrap().wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (output, text)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn pid(folder: &Path, rank: u32) -> Option<String> {
    line(&folder.join(format!("ready{rank}")))
}

fn wait_until_asked(folder: &Path) {
    wait_for("the request", || {
        (0..2).all(|rank| line(&folder.join(format!("got{rank}"))).is_some())
    });
}

fn assert_asked_once_and_saved(folder: &Path, terminal: Terminal) {
    wait_until_asked(folder);
    std::fs::write(folder.join("go"), "").unwrap();
    let (output, text) = terminal.end();
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("stopped as asked"), "{text}");
    for rank in 0..2 {
        assert_eq!(line(&folder.join(format!("got{rank}"))).unwrap(), "got", "asked once");
        assert_eq!(line(&folder.join(format!("saved{rank}"))).unwrap(), "saved");
    }
}

#[test]
fn a_typed_ctrl_c_lets_ranks_save() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let Some(mut terminal) = Terminal::run(&format!("exec {LAUNCH}"), folder) else { return };
    terminal.type_ctrl_c();
    assert_asked_once_and_saved(folder, terminal);
}

#[test]
fn a_typed_ctrl_c_that_a_wrapper_passes_on_is_still_one() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    // The launcher gets it from the terminal and from the shell, as under `timeout` or a starter. The
    // trap comes first: ranks may be there before a busy machine lets the shell go on.
    let command = format!(
        r#"trap 'kill -INT $!; echo passed > passed' INT; {LAUNCH} & until wait $!; do [ -e go ] && break; done; wait $!"#
    );
    let Some(mut terminal) = Terminal::run(&command, folder) else { return };
    terminal.type_ctrl_c();
    wait_for("the shell", || line(&folder.join("passed")).is_some());
    assert_asked_once_and_saved(folder, terminal);
}

#[test]
fn a_second_typed_ctrl_c_ends_everything_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let Some(mut terminal) = Terminal::run(&format!("exec {LAUNCH}"), folder) else { return };
    terminal.type_ctrl_c();
    wait_until_asked(folder);
    // Within the time in which a signal that programs send would be the same request.
    terminal.type_ctrl_c();
    let (output, text) = terminal.end();
    assert_eq!(output.status.code(), Some(130), "{text}");
    for rank in 0..2 {
        assert!(!folder.join(format!("saved{rank}")).exists(), "{text}");
        let pid = pid(folder, rank).unwrap();
        wait_for("the rank's end", || !runs(&pid));
    }
}

#[test]
fn rank_0_has_a_terminal_of_the_same_size_and_its_last_words_come_last() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    // A progress bar is drawn over itself; what was asked for on standard output keeps its place.
    let command = r#"stty rows 33 cols 77; exec $LAUNCH --procs 2 --grace 2 -- sh -c '
        if [ $RANK = 1 ]; then exec sleep 60; fi
        [ -t 1 ] && [ -t 2 ] && stty size <&2 > size
        for step in 1 2 3; do printf "\rstep $step" >&2; done
        printf "\r\033[2K" >&2; echo "trace 1" >&2; echo "trace 2"; echo "the disk is full" >&2; exit 3'"#;
    let Some(terminal) = Terminal::start(command, folder) else { return };
    let (output, text) = terminal.end();
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert_eq!(line(&folder.join("size")).as_deref(), Some("33 77"), "{text}");
    assert!(text.contains("step 1\rstep 2\rstep 3"), "drawn as it came: {text}");
    let lines: Vec<_> = text.lines().rev().take(5).collect();
    let expected = [
        "launch: rank 0 of 2 failed: exit code 3: the disk is full",
        "launch: | the disk is full",
        "launch: | trace 2",
        "launch: | trace 1",
        "launch: the last lines of the rank that failed first:",
    ];
    assert_eq!(lines, expected, "{text}");
}

#[test]
fn ranks_go_on_when_their_terminal_is_closed() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    // The shell becomes the launcher, which the kernel then tells of the hang-up.
    let command = r#"exec $LAUNCH --procs 2 -- sh -c '
        [ $RANK = 0 ] && echo $PPID > launcher
        echo $$ > ready$RANK
        until [ -e closed ]; do sleep 0.02; done
        for line in 1 2 3; do echo "line $line" && echo "line $line" >&2 || echo $line > failed$RANK; done
        echo done > done$RANK'"#;
    let Some(terminal) = Terminal::run(command, folder) else { return };
    let launcher = line(&folder.join("launcher")).unwrap();
    assert!(runs(&launcher));
    terminal.close();
    std::fs::write(folder.join("closed"), "").unwrap();
    wait_for("the end of the launcher", || !runs(&launcher));
    for rank in 0..2 {
        assert!(line(&folder.join(format!("done{rank}"))).is_some(), "rank {rank} went on");
        assert!(!folder.join(format!("failed{rank}")).exists(), "rank {rank} could write");
    }
}
