//! Two machines with a cable between them that is cut.

use std::path::Path;

use crate::cable::{Cable, ENDPOINT};
use crate::support::{Running, end, exchange, line, spawn, stderr, wait_for};

/// A launcher on one side, with two ranks.
fn launch(cable: &Cable, side: usize, extra: &[&str], steps: &str, folder: &Path) -> Running {
    let rank = side.to_string();
    let mut command = cable.command(side, Path::new(env!("CARGO_BIN_EXE_launch")));
    command
        .args(["--procs", "2", "--nnodes", "2", "--node-rank", &rank])
        .args(["--rdzv-endpoint", ENDPOINT, "--rdzv-timeout", "60"])
        .args(["--node-timeout", "2", "--grace", "2"])
        .args(extra)
        .arg("--")
        .arg(exchange())
        .args([steps, folder.to_str().unwrap()]);
    spawn(&mut command)
}

fn steps(folder: &Path) -> u64 {
    let of = |rank: usize| line(&folder.join(rank.to_string())).and_then(|text| text.parse().ok());
    (0..4).map(|rank| of(rank).unwrap_or(0)).min().unwrap_or(0)
}

/// Whether a rank with this folder runs anywhere.
fn any_rank_runs(folder: &Path) -> bool {
    let folder = folder.to_str().unwrap();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok()).any(|line| {
        let line = String::from_utf8_lossy(&line);
        line.split('\0').next().is_some_and(|program| program.ends_with("exchange"))
            && line.contains(folder)
    })
}

const FOREVER: &str = "1000000000";

#[test]
fn a_cut_cable_ends_both_machines_by_name_and_a_second_run_goes_on() {
    let Some(cable) = Cable::new() else { return };
    let folder = tempfile::tempdir().unwrap();
    let nodes = [0, 1].map(|side| launch(&cable, side, &[], FOREVER, folder.path()));
    wait_for("the first steps", || steps(folder.path()) > 20);
    cable.set("down");
    let [first, second] = nodes.map(end);
    for (output, name) in [
        (first, "launch: node 1 (10.177.0.2) is lost: "),
        (second, "launch: node 0 (10.177.0.1:29400) is lost: "),
    ] {
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        assert!(stderr(&output).lines().last().unwrap().starts_with(name), "{}", stderr(&output));
    }
    assert!(!any_rank_runs(folder.path()));

    cable.set("up");
    let reached = steps(folder.path());
    let goal = (reached + 30).to_string();
    for output in [1, 0].map(|side| launch(&cable, side, &[], &goal, folder.path())).map(end) {
        assert!(output.status.success(), "{}", stderr(&output));
        let text = stderr(&output);
        assert!(text.contains(&format!("steps {reached} to {goal} are done")), "{text}");
    }
}

#[test]
fn with_restarts_a_job_survives_a_cut_cable_by_itself() {
    let Some(cable) = Cable::new() else { return };
    let folder = tempfile::tempdir().unwrap();
    let goal = 600;
    let restarts = ["--max-restarts", "2"];
    let nodes =
        [0, 1].map(|side| launch(&cable, side, &restarts, &goal.to_string(), folder.path()));
    wait_for("the first steps", || steps(folder.path()) > 20);
    cable.set("down");
    wait_for("the end of all ranks", || !any_rank_runs(folder.path()));
    assert!(steps(folder.path()) < goal, "the cut came too late to be seen");
    cable.set("up");
    for output in nodes.map(end) {
        assert!(output.status.success(), "{}", stderr(&output));
        assert!(stderr(&output).contains("is lost: "), "{}", stderr(&output));
    }
    assert_eq!(steps(folder.path()), goal);
}
