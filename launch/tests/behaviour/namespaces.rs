//! Two machines with a cable between them that is cut: two network namespaces and a veth pair.
//!
//! Takes root and `ip`. Skipped with a message otherwise, unless LAUNCH_TEST_NAMESPACES=required.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::support::{Running, end, exchange, line, skip, spawn, stderr, wait_for};

const ENDPOINT: &str = "10.177.0.1:29400";

/// Two namespaces, joined; removed with the value.
struct Cable {
    name: String,
}

impl Cable {
    /// `None` where the machine does not allow it.
    fn new() -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        // The names of interfaces are at most 15 bytes.
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let cable = Self { name: format!("hl{}-{number}", std::process::id()) };
        let made = (0..2).all(|side| ip(&["netns", "add", &cable.side(side)]))
            && ip(&[
                "link",
                "add",
                "eth",
                "netns",
                &cable.side(0),
                "type",
                "veth",
                "peer",
                "name",
                "eth",
                "netns",
                &cable.side(1),
            ])
            && (0..2).all(|side| {
                let name = cable.side(side);
                let address = format!("10.177.0.{}/24", side + 1);
                ip(&["-n", &name, "addr", "add", &address, "dev", "eth"])
                    && ip(&["-n", &name, "link", "set", "lo", "up"])
                    && ip(&["-n", &name, "link", "set", "eth", "up"])
            });
        if made {
            return Some(cable);
        }
        assert!(
            std::env::var("LAUNCH_TEST_NAMESPACES").as_deref() != Ok("required"),
            "network namespaces cannot be made here"
        );
        skip("network namespaces take root and the program `ip`");
        None
    }

    fn side(&self, side: usize) -> String {
        format!("{}{}", self.name, ["a", "b"][side])
    }

    /// Down: both sides stay up and hear nothing.
    fn set(&self, state: &str) {
        assert!(ip(&["-n", &self.side(1), "link", "set", "eth", state]));
    }

    /// A launcher on one side, with two ranks.
    fn launch(&self, side: usize, extra: &[&str], steps: &str, folder: &Path) -> Running {
        let rank = side.to_string();
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.side(side), env!("CARGO_BIN_EXE_launch")])
            .args(["--procs", "2", "--nnodes", "2", "--node-rank", &rank])
            .args(["--rdzv-endpoint", ENDPOINT, "--rdzv-timeout", "60"])
            .args(["--node-timeout", "2", "--grace", "2"])
            .args(extra)
            .arg("--")
            .arg(exchange())
            .args([steps, folder.to_str().unwrap()]);
        spawn(&mut command)
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        for side in 0..2 {
            let _ = ip(&["netns", "del", &self.side(side)]);
        }
    }
}

fn ip(arguments: &[&str]) -> bool {
    let output = Command::new("ip").args(arguments).output();
    output.is_ok_and(|output| output.status.success())
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
    let nodes = [0, 1].map(|side| cable.launch(side, &[], FOREVER, folder.path()));
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
    for output in [1, 0].map(|side| cable.launch(side, &[], &goal, folder.path())).map(end) {
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
    let nodes = [0, 1].map(|side| cable.launch(side, &restarts, &goal.to_string(), folder.path()));
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
