//! Training by several ranks that is stopped by schedulers, hangs, loses its cable or its disk or is
//! given what does not fit, and what a run keeps and starts from, with real processes.

mod agreement;
mod building;
#[path = "../../../launch/tests/behaviour/cable.rs"]
mod cable;
mod cut;
mod flipped_bit;
mod full_disk;
mod hq_weights;
mod hung;
mod meetings;
mod poisoned;
#[path = "../../../launch/tests/behaviour/running.rs"]
mod running;
mod starts;
mod stop_in_evaluation;

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tests::{children, fail, lines, program, ranks, succeed, tiny};
use trainer::checkpoint;

use crate::running::{Running, end, spawn, stderr, wait_for};

/// Far above what anything here takes, far below a hang.
const PATIENCE: Duration = Duration::from_secs(300);

/// Four steps an epoch, all checkpoints kept, one at the end of each epoch.
pub(crate) fn folder() -> TempDir {
    tiny(
        r#"
        train = { epochs = 2, collective_timeout_secs = 5, checkpoint_every_steps = 0, keep_last = 0 }
        eval = { splits = [] }
        "#,
    )
}

/// Trains on two ranks to the end.
pub(crate) fn train(folder: &Path, output: &str, settings: &[&str]) {
    let output = format!("output=\"{output}\"");
    let settings = settings.iter().copied().chain([output.as_str()]);
    let settings = settings.flat_map(|setting| ["--set", setting]);
    let arguments: Vec<&str> = ["--procs", "2", "tiny.toml"].into_iter().chain(settings).collect();
    let _ = succeed(folder, "launch", &arguments);
}

/// Steps of a run's checkpoints, and the digest of the last one's weights and moments.
pub(crate) fn checkpoints(run: &Path) -> (Vec<u64>, String) {
    let found: Vec<_> = checkpoint::list(run)
        .unwrap()
        .iter()
        .map(|path| checkpoint::load(path).unwrap().info)
        .collect();
    let last = found.last().map_or_else(String::new, |info| info.tensors_sha256.clone());
    (found.iter().map(|info| info.global_step).collect(), last)
}

/// Starts a command whose children end with it.
pub(crate) fn start(command: &mut Command) -> Running {
    spawn(command.stdin(Stdio::null()).process_group(0))
}

/// The second rank of a launcher, while it lives.
pub(crate) fn rank_1(launcher: u32) -> Option<u32> {
    ranks(launcher).into_iter().find(|pid| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|&byte| byte == 0).any(|variable| variable == b"RANK=1")
    })
}

/// Sends a signal to processes that live.
pub(crate) fn signal(name: &str, pids: &[u32]) {
    let pids = pids.iter().map(u32::to_string);
    let status = Command::new("kill").args(["-s", name]).args(pids).status().unwrap();
    assert!(status.success());
}

/// The output of a process that must end by itself, and its standard error as text.
pub(crate) fn ended(running: Running) -> (Output, String) {
    let output = end(running);
    let stderr = stderr(&output);
    (output, stderr)
}

#[test]
fn one_request_that_reaches_launcher_and_ranks_several_times_saves_and_loses_nothing() {
    let folder = folder();
    let folder = folder.path();
    let settings = ["train.epochs=20", "data.prefetch_batches=1"];
    train(folder, "whole", &settings);
    let mut stopped = Command::new(program("launch"));
    stopped.args(["--procs", "2", "tiny.toml", "--set", settings[0], "--set", settings[1]]);
    stopped.current_dir(folder);
    let launcher = start(&mut stopped);
    let steps = folder.join("run/steps.jsonl");
    wait_for("the first steps", || lines(&steps).len() > 4);
    // As a scheduler does that signals every process of a job, twice, while the launcher passes
    // what it got on.
    let mut everyone = children(launcher.id());
    everyone.push(launcher.id());
    assert!(everyone.len() >= 3, "two ranks: {everyone:?}");
    for _ in 0..2 {
        signal("TERM", &everyone);
    }
    let (output, stderr) = ended(launcher);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert!(stderr.contains("resume with the same command and --resume"), "{stderr}");
    let reached = lines(&steps).len();
    assert!(reached < 80, "it was stopped: {reached}");
    assert_eq!(checkpoints(&folder.join("run")).0.last(), Some(&(reached as u64)));

    let (output, stderr) = ended(start(stopped.arg("--resume")));
    assert!(output.status.success(), "{stderr}");
    assert_eq!(checkpoints(&folder.join("run")).1, checkpoints(&folder.join("whole")).1);
}

#[test]
fn checkpoints_come_by_the_minute_and_the_best_one_is_kept() {
    let folder = folder();
    let folder = folder.path();
    // Every step takes longer than six microseconds, and no training here an hour.
    train(folder, "often", &["train.checkpoint_every_minutes=1e-7"]);
    assert_eq!(checkpoints(&folder.join("often")).0, (1..=8).collect::<Vec<_>>());
    train(folder, "seldom", &["train.checkpoint_every_minutes=60"]);
    assert_eq!(checkpoints(&folder.join("seldom")).0, [4, 8], "the ends of epochs");

    // A rate at which an epoch may well be worse than the one before.
    let settings = ["train.keep_best=true", "train.keep_last=2", "train.epochs=6", "train.lr=0.03"];
    train(
        folder,
        "best",
        &[&settings[..], &["eval.splits=[\"val\"]", "eval.every_epochs=1"]].concat(),
    );
    let run = folder.join("best");
    let evaluations = lines(&run.join("eval.jsonl"));
    assert_eq!(evaluations.len(), 6, "{evaluations:?}");
    let score = |line: &Value| line["hq"]["mask_iou"].as_f64().unwrap();
    // The first of equals.
    let best = evaluations.iter().rev().max_by(|a, b| score(a).total_cmp(&score(b))).unwrap();
    let note: Value =
        serde_json::from_slice(&std::fs::read(run.join("checkpoints/best.json")).unwrap()).unwrap();
    assert_eq!(note["mask_iou"].as_f64().unwrap(), score(best), "{note} {evaluations:?}");
    let kept = checkpoint::load(&run.join("checkpoints/best.safetensors")).unwrap().info;
    assert_eq!(Some(kept.global_step), best["global_step"].as_u64(), "{evaluations:?}");
    assert_eq!(checkpoints(&run).0, [20, 24], "keep_last, beside the best");
}

#[test]
fn noise_masks_that_do_not_fit_the_encoder_are_refused_before_the_first_step() {
    let folder = folder();
    let kinds = "prompt.kinds=[\"box\", \"noise_mask\"]";
    let error = fail(folder.path(), "hqsam", &["train", "tiny.toml", "--set", kinds]);
    let expected = "prompt.kinds has noise_mask, which needs an image embedding of 64 x 64; this \
                    encoder's is 8 x 8: leave it out";
    assert!(error.trim_end().ends_with(expected), "{error}");
}
