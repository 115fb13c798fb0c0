//! A rank that hangs.

use std::path::Path;
use std::process::Command;

use tests::{lines, program};

use crate::running::wait_for;
use crate::{checkpoints, ended, folder, rank_1, signal, start, train};

const SETTINGS: [&str; 3] =
    ["train.epochs=40", "train.checkpoint_every_steps=1", "train.collective_timeout_secs=300"];
/// Far above what a step takes, and a start on a busy machine.
const HEARTBEAT_SECS: &str = "15";

fn is_gone(pid: u32) -> bool {
    !Path::new(&format!("/proc/{pid}")).exists()
}

#[test]
fn a_stopped_rank_is_named_and_ended_and_the_run_goes_on_to_the_same_bits() {
    let folder = folder();
    let folder = folder.path();
    train(folder, "whole", &SETTINGS);

    let mut command = Command::new(program("launch"));
    command.args(["--procs", "2", "--max-restarts", "1", "--heartbeat-timeout", HEARTBEAT_SECS]);
    command.args(["--grace", "2", "tiny.toml"]).current_dir(folder);
    command.args(SETTINGS.iter().flat_map(|setting| ["--set", *setting]));
    let launcher = start(&mut command);
    let reached = || lines(&folder.join("run/steps.jsonl")).len();
    let mut stopped = Vec::new();
    let mut from = 0;
    // Once, and once more after the restart.
    for _ in 0..2 {
        let mut next = None;
        wait_for("the round's first steps", || {
            next = rank_1(launcher.id()).filter(|pid| !stopped.contains(pid));
            next.is_some() && reached() > from + 3
        });
        from = reached();
        let pid = next.unwrap();
        signal("STOP", &[pid]);
        stopped.push(pid);
        if stopped.len() == 1 {
            wait_for("the end of the stopped rank", || is_gone(pid));
        }
    }
    let (output, stderr) = ended(launcher);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let named = "rank 1 of 2 hung: no heartbeat for";
    assert!(stderr.matches(named).count() >= 2, "{stderr}");
    let last = stderr.lines().last().unwrap_or_default();
    assert!(last.contains(named), "{stderr}");
    assert!(stopped.iter().all(|&pid| is_gone(pid)), "{stopped:?}");
    assert!(reached() < 160, "stopped before its end: {stderr}");

    let (output, stderr) = ended(start(command.arg("--resume")));
    assert!(output.status.success(), "{stderr}");
    assert_eq!(reached(), 160);
    assert_eq!(checkpoints(&folder.join("run")).1, checkpoints(&folder.join("whole")).1);
}
