//! Ranks that others start and that no launcher of ours holds a port for: those of torchrun, which has
//! a store of its own, and of Slurm, played by what `srun` sets.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};

use launch::rank_env::{RankEnv, StorePort};
use tests::{lines, program, python, workspace_root};

use crate::running::{Running, end, spawn, stderr};
use crate::{checkpoints, ended, folder, start, train};

/// Long enough for ranks that start on a busy machine, one of them late.
const PATIENT: [&str; 2] = ["--set", "train.collective_timeout_secs=120"];

/// Checkpoints and digest of a training of two ranks that `launch` starts, to compare with.
fn expected(folder: &Path) -> (Vec<u64>, String) {
    train(folder, "whole", &[]);
    let expected = checkpoints(&folder.join("whole"));
    assert_eq!(expected.0, [4, 8]);
    expected
}

fn torchrun(python: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(python);
    command
        .args(["-m", "torch.distributed.run"])
        .args(arguments)
        .env("HQSAM", program("hqsam"))
        .env("OMP_NUM_THREADS", "1");
    command
}

fn assert_all_succeed(nodes: Vec<Running>) {
    for node in nodes {
        let (output, text) = ended(node);
        assert!(output.status.success(), "{text}");
    }
}

#[test]
fn ranks_of_torchrun_meet_over_its_store_again_after_a_restart_and_one_after_the_other() {
    let Some(python) = python() else { return };
    let folder = folder();
    let folder = folder.path();
    let expected = expected(folder);
    // Rank 1 fails in the first round after the ranks met. In the second, a training that is started
    // anew and one that finds all done follow each other under the same torchrun.
    let body = r#"
        set -- "$HQSAM" train tiny.toml --set train.checkpoint_every_steps=1 "$@"
        if [ "$RANK $TORCHELASTIC_RESTART_COUNT" = "1 0" ]; then
            "$@" &
            until [ -s run/steps.jsonl ]; do sleep 0.05; done
            kill -9 $!; exit 1
        fi
        # A shell that stays would take the signal of torchrun and leave the rank alive.
        [ $TORCHELASTIC_RESTART_COUNT = 1 ] || exec "$@"
        "$@" && exec "$@" --resume"#;
    let mut command = torchrun(&python, &["--standalone", "--nproc-per-node", "2"]);
    command.args(["--max-restarts", "1", "--no-python", "sh", "-c", body, "sh"]);
    command.args(PATIENT).current_dir(folder);
    let (output, text) = ended(start(&mut command));
    assert!(output.status.success(), "{text}");
    assert_eq!(checkpoints(&folder.join("run")).0.last(), Some(&8), "{text}");
    assert_eq!(checkpoints(&folder.join("run")).1, expected.1);
    assert_eq!(lines(&folder.join("run/steps.jsonl")).len(), 8, "no step was lost or kept twice");
}

#[test]
fn ranks_of_torchrun_on_two_nodes_need_no_port_beside_its_own() {
    let Some(python) = python() else { return };
    let folder = folder();
    let folder = folder.path();
    let expected = expected(folder);
    // A port with neighbours that are free now and then taken.
    let (port, _neighbours) = (0..100)
        .find_map(|_| {
            let first = TcpListener::bind("0.0.0.0:0").ok()?.local_addr().ok()?.port();
            let next =
                (1..=3).map(|step| TcpListener::bind(("0.0.0.0", first.checked_add(step)?)).ok());
            Some((first, next.collect::<Option<Vec<_>>>()?))
        })
        .unwrap();
    let port = port.to_string();
    let nodes: Vec<Running> = ["0", "1"]
        .into_iter()
        .map(|node| {
            let own = ["--nnodes", "2", "--node-rank", node, "--nproc-per-node", "1"];
            let mut command = torchrun(&python, &own);
            command.args(["--master-addr", "127.0.0.1", "--master-port", &port, "--no-python"]);
            command.arg(program("hqsam")).args(["train", "tiny.toml"]).args(PATIENT);
            command.current_dir(folder);
            start(&mut command)
        })
        .collect();
    assert_all_succeed(nodes);
    assert_eq!(checkpoints(&folder.join("run")).1, expected.1);
}

#[test]
fn the_documented_torchrun_starts_our_ranks_on_two_nodes() {
    let Some(python) = python() else { return };
    let folder = folder();
    let folder = folder.path();
    let expected = expected(folder);
    let text = format!("#!/bin/sh\nexec {} -m torch.distributed.run \"$@\"\n", python.display());
    std::fs::write(folder.join("plain"), text).unwrap();
    // A copy by another process: what this one has open for writing, its children could have open too.
    let mut install = Command::new("install");
    let made =
        install.args(["-m", "755", "plain", "torchrun"]).current_dir(folder).status().unwrap();
    assert!(made.success());
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
    let port = TcpListener::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port();
    let nodes: Vec<Running> = (0..2)
        .map(|_| {
            let mut command = Command::new(workspace_root().join("docs/launching/torchrun.sh"));
            command.arg("tiny.toml").args(PATIENT).current_dir(folder).env("PATH", &path);
            command.env("NNODES", "2").env("RDZV_ENDPOINT", format!("127.0.0.1:{port}"));
            command.env("NPROC_PER_NODE", "1").env("HQSAM", program("hqsam"));
            start(command.env("OMP_NUM_THREADS", "1"))
        })
        .collect();
    assert_all_succeed(nodes);
    assert_eq!(checkpoints(&folder.join("run")).1, expected.1);
}

/// What `srun` sets for one of two tasks of a job on this machine.
fn srun(rank: usize) -> Vec<(&'static str, String)> {
    let job = std::process::id().to_string();
    let rank = rank.to_string();
    [("SLURM_JOB_ID", job.as_str()), ("SLURM_STEP_ID", "0"), ("SLURM_PROCID", &rank)]
        .into_iter()
        .chain([("SLURM_LOCALID", rank.as_str()), ("SLURM_NODEID", "0")])
        .chain([("SLURM_STEP_NUM_TASKS", "2"), ("SLURM_STEP_TASKS_PER_NODE", "2")])
        .chain([("SLURM_STEP_NODELIST", "localhost")])
        .map(|(name, value)| (name, value.to_owned()))
        .collect()
}

#[test]
fn tasks_of_slurm_meet_beside_whoever_took_the_ports_of_their_job() {
    let folder = folder();
    let folder = folder.path();
    let expected = expected(folder);
    let lookup = |name| srun(0).into_iter().find(|(set, _)| *set == name).map(|(_, value)| value);
    let env = RankEnv::from_lookup(lookup).unwrap().unwrap();
    let StorePort::FirstFree { ports, .. } = env.store_port else { panic!("{env:?}") };
    // Some of them may be taken already, by somebody else.
    let _taken: Vec<_> =
        ports[..2].iter().map(|&port| TcpListener::bind(("0.0.0.0", port))).collect();
    let ranks: Vec<Running> = (0..2)
        .map(|rank| {
            let mut command = Command::new(program("hqsam"));
            command.args(["train", "tiny.toml"]).args(PATIENT).stdin(Stdio::null());
            command.current_dir(folder);
            spawn(command.envs(srun(rank)).env("OMP_NUM_THREADS", "1"))
        })
        .collect();
    for rank in ranks {
        let output = end(rank);
        assert!(output.status.success(), "{}", stderr(&output));
    }
    assert_eq!(checkpoints(&folder.join("run")).1, expected.1);
}
