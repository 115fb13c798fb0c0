//! A cable that is cut while two machines train over it.

use std::path::Path;
use std::time::{Duration, Instant};

use tests::{lines, program};

use crate::cable::{Cable, ENDPOINT};
use crate::running::{Running, wait_for};
use crate::{checkpoints, ended, folder, start, train};

/// Seconds after which a silent node is lost, and that its ranks then have; `folder` sets the time of a
/// collective to five.
const NODE_TIMEOUT: &str = "2";
const GRACE: &str = "2";
/// Of a side behind a cut cable: twice the collective's timeout and the grace.
const LAUNCHED_ENDS_WITHIN: Duration = Duration::from_secs(2 * (5 + 2));
/// The same without a launcher: a rank asks for eight seconds at most who is gone.
const RANK_ENDS_WITHIN: Duration = Duration::from_secs(2 * (5 + 8));

/// One machine's part in a training over the cable.
fn launch_over(cable: &Cable, folder: &Path, side: usize, extra: &[&str]) -> Running {
    let mut command = cable.command(side, &program("launch"));
    command
        .args(["--procs", "1", "--nnodes", "2", "--node-rank", &side.to_string()])
        .args(["--rdzv-endpoint", ENDPOINT, "--rdzv-timeout", "60"])
        .args(["--node-timeout", NODE_TIMEOUT, "--grace", GRACE, "tiny.toml"])
        .args(["--set", "train.epochs=12", "--set", "train.checkpoint_every_steps=1"])
        .args(extra)
        // As many as the ranks of one machine have: the number of threads may change a bit.
        .env("OMP_NUM_THREADS", "1")
        .current_dir(folder);
    start(&mut command)
}

/// Whether `hqsam` still trains in this folder, on either side.
fn any_rank_trains(folder: &Path) -> bool {
    let trains = |process: &Path| {
        let line = std::fs::read(process.join("cmdline")).unwrap_or_default();
        std::fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd == folder)
            && String::from_utf8_lossy(&line).contains("hqsam")
    };
    std::fs::read_dir("/proc").unwrap().flatten().any(|process| trains(&process.path()))
}

#[test]
fn training_over_a_cable_that_is_cut_goes_on_to_the_same_bits() {
    let Some(cable) = Cable::new() else { return };
    let folder = folder();
    let folder = folder.path();
    train(folder, "whole", &["train.epochs=12"]);

    let nodes = [0, 1].map(|side| launch_over(&cable, folder, side, &[]));
    let steps = folder.join("run/steps.jsonl");
    wait_for("the first steps", || lines(&steps).len() > 6);
    cable.set("down");
    let cut = Instant::now();
    for (node, name) in nodes.into_iter().zip(["node 1 (10.177.0.2)", "node 0 (10.177.0.1:29400)"])
    {
        let (output, stderr) = ended(node);
        let after = cut.elapsed();
        assert!(after < LAUNCHED_ENDS_WITHIN, "{after:?} to find {name} lost: {stderr}");
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        let last = stderr.lines().last().unwrap_or_default();
        assert!(last.starts_with(&format!("launch: {name} is lost: ")), "{stderr}");
    }
    assert!(!any_rank_trains(folder));
    let reached = lines(&steps).len();
    assert!(reached < 48, "the cut came too late to be seen: {reached}");

    cable.set("up");
    for node in [0, 1].map(|side| launch_over(&cable, folder, side, &["--resume"])) {
        let (output, stderr) = ended(node);
        assert!(output.status.success(), "{stderr}");
    }
    assert_eq!(lines(&steps).len(), 48);
    assert_eq!(checkpoints(&folder.join("run")).1, checkpoints(&folder.join("whole")).1);
}

#[test]
fn ranks_without_a_launcher_name_the_peer_behind_a_cut_cable() {
    let Some(cable) = Cable::new() else { return };
    let folder = folder();
    let folder = folder.path();
    let ranks = [0, 1].map(|side| {
        let (address, port) = ENDPOINT.split_once(':').unwrap();
        let mut command = cable.command(side, &program("hqsam"));
        command.args(["train", "tiny.toml", "--set", "train.epochs=1000"]).current_dir(folder);
        command.env("RANK", side.to_string()).env("WORLD_SIZE", "2").env("LOCAL_RANK", "0");
        command.env("OMP_NUM_THREADS", "1");
        command.env("LOCAL_WORLD_SIZE", "1").env("MASTER_ADDR", address).env("MASTER_PORT", port);
        start(&mut command)
    });
    let steps = folder.join("run/steps.jsonl");
    wait_for("the first steps", || lines(&steps).len() > 4);
    cable.set("down");
    let cut = Instant::now();
    for (rank, peer) in ranks.into_iter().zip(["rank 1", "rank 0"]) {
        let (output, stderr) = ended(rank);
        let after = cut.elapsed();
        assert!(after < RANK_ENDS_WITHIN, "{after:?} to find {peer} gone: {stderr}");
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        let last = stderr.lines().last().unwrap_or_default();
        assert!(last.contains(peer), "names {peer}: {stderr}");
    }
}
