//! A request to stop that comes while a run evaluates.

use std::path::Path;
use std::process::Command;

use tests::{lines, program, tiny_of};

use crate::running::wait_for;
use crate::{checkpoints, ended, signal, start, train};

/// 16 steps, then 11 and 33 images with two prompts each, of which one takes its time.
const CHANGES: &str = "[train]\nepochs = 1\ncheckpoint_every_steps = 0\n\
    [eval]\nsplits = [\"val\", \"train\"]\nprotocols = [\"box\", \"clicks:10\"]\nbatch = 1\n";

/// Stops a training where `is_reached` says, and lets it go on.
fn stop_and_resume(
    folder: &Path,
    name: &str,
    is_reached: fn(steps: usize, evaluated: usize) -> bool,
) {
    let run = folder.join(name);
    let output = format!("output=\"{name}\"");
    let mut command = Command::new(program("launch"));
    command.args(["--procs", "2", "tiny.toml", "--set", &output]).current_dir(folder);
    let launcher = start(&mut command);
    let made = |log: &str| lines(&run.join(log)).len();
    wait_for("the evaluation", || is_reached(made("steps.jsonl"), made("eval.jsonl")));
    signal("TERM", &[launcher.id()]);
    let (output, stderr) = ended(launcher);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert!(stderr.contains("resume with the same command and --resume"), "{stderr}");
    assert!(made("eval.jsonl") < 4, "the evaluation was ended before its end: {stderr}");

    let (output, stderr) = ended(start(command.arg("--resume")));
    assert!(output.status.success(), "{stderr}");
    let whole = folder.join("whole");
    assert_eq!(lines(&run.join("eval.jsonl")), lines(&whole.join("eval.jsonl")));
    assert_eq!(made("steps.jsonl"), 16);
    assert_eq!(checkpoints(&run).1, checkpoints(&whole).1);
}

#[test]
fn an_evaluation_ends_when_asked_to_and_is_made_again_by_the_run_that_goes_on() {
    let folder = tiny_of(44, CHANGES);
    let folder = folder.path();
    train(folder, "whole", &[]);
    assert_eq!(lines(&folder.join("whole/eval.jsonl")).len(), 4);
    stop_and_resume(folder, "in_first_split", |steps, _| steps == 16);
    // One split is in the log with both prompts; it is not logged twice, and the other not left out.
    stop_and_resume(folder, "in_second_split", |_, evaluated| evaluated == 2);
}
