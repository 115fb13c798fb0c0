//! Training by several ranks that is stopped by schedulers or loses its cable, and what a run keeps
//! and starts from, with real processes.

use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::{fail, program, succeed};
use trainer::model::{EncoderConfig, HqInit, SamHq, StateDict, VitConfig};
use trainer::{checkpoint, weights};

use crate::cable::{Cable, ENDPOINT};

#[path = "../../launch/tests/behaviour/cable.rs"]
mod cable;

/// Far above what anything here takes, far below a hang.
const PATIENCE: Duration = Duration::from_secs(300);

const CONFIG: &str = r#"
output = "run"
[model]
random_sam = true
encoder = { kind = "vit", img_size = 128, patch_size = 16, embed_dim = 32, depth = 2, num_heads = 2, window_size = 3, global_attn_indexes = [1] }
[data]
path = "data"
threads = 1
[augment]
min_foreground_pixels = 16
[prompt]
kinds = ["box", "points"]
[train]
epochs = 2
global_batch = 2
micro_batch = 1
collective_timeout_secs = 5
[eval]
splits = []
"#;

/// Twelve drawn pairs, nine to train on: four steps an epoch.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let draw = ["draw", "raw/ECSSD", "--count", "12", "--seed", "7", "--layout", "ecssd"];
    let _ = succeed(folder.path(), "hqseg", &draw);
    let build = ["build", "--auto", "raw", "--output", "data", "--holdout", "0.25"];
    let _ = succeed(folder.path(), "hqseg", &build);
    std::fs::write(folder.path().join("config.toml"), CONFIG).unwrap();
    folder
}

/// Trains on two ranks to the end.
fn train(folder: &Path, output: &str, settings: &[&str]) {
    let output = format!("output=\"{output}\"");
    let settings = settings.iter().copied().chain([output.as_str()]);
    let settings = settings.flat_map(|setting| ["--set", setting]);
    let arguments: Vec<&str> =
        ["--procs", "2", "config.toml"].into_iter().chain(settings).collect();
    let _ = succeed(folder, "launch", &arguments);
}

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_default()).collect()
}

/// Steps of a run's checkpoints, and the digest of the last one's weights and moments.
fn checkpoints(run: &Path) -> (Vec<u64>, String) {
    let found: Vec<_> = checkpoint::list(run)
        .unwrap()
        .iter()
        .map(|path| checkpoint::load(path).unwrap().info)
        .collect();
    let last = found.last().map_or_else(String::new, |info| info.tensors_sha256.clone());
    (found.iter().map(|info| info.global_step).collect(), last)
}

fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < until, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A process and its children, ended with the value.
struct Running(Option<Child>);

impl Running {
    fn start(command: &mut Command) -> Self {
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self(Some(command.process_group(0).spawn().unwrap()))
    }

    fn id(&self) -> u32 {
        self.0.as_ref().unwrap().id()
    }

    /// Its output once it ended by itself, and its standard error as text.
    fn end(mut self) -> (Output, String) {
        let mut child = self.0.take().unwrap();
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
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(in_time, "did not end by itself: {stderr}");
        (output, stderr)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            // Its guard ends what it started.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Processes whose parent is `parent`.
fn children(parent: u32) -> Vec<String> {
    let stat = |pid: &str| std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let is_child = |pid: &String| {
        let stat = stat(pid);
        let after_name = stat.rsplit(')').next().unwrap_or_default();
        after_name.split_whitespace().nth(1) == Some(parent.to_string().as_str())
    };
    let names = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.file_name());
    let numbers = names.filter_map(|name| name.into_string().ok());
    numbers.filter(|name| name.parse::<u32>().is_ok()).filter(is_child).collect()
}

#[test]
fn one_request_that_reaches_launcher_and_ranks_several_times_saves_and_loses_nothing() {
    let folder = folder();
    let folder = folder.path();
    let settings = ["train.epochs=20", "data.prefetch_batches=1"];
    train(folder, "whole", &settings);
    let mut stopped = Command::new(program("launch"));
    stopped.args(["--procs", "2", "config.toml", "--set", settings[0], "--set", settings[1]]);
    stopped.current_dir(folder);
    let launcher = Running::start(&mut stopped);
    let steps = folder.join("run/steps.jsonl");
    wait_for("the first steps", || lines(&steps).len() > 4);
    // As a scheduler does that signals every process of a job, twice, while the launcher passes
    // what it got on.
    let mut everyone = children(launcher.id());
    everyone.push(launcher.id().to_string());
    assert!(everyone.len() >= 3, "two ranks: {everyone:?}");
    for _ in 0..2 {
        assert!(Command::new("kill").arg("-TERM").args(&everyone).status().unwrap().success());
    }
    let (output, stderr) = launcher.end();
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert!(stderr.contains("resume with the same command and --resume"), "{stderr}");
    let reached = lines(&steps).len();
    assert!(reached < 80, "it was stopped: {reached}");
    assert_eq!(checkpoints(&folder.join("run")).0.last(), Some(&(reached as u64)));

    let (output, stderr) = Running::start(stopped.arg("--resume")).end();
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
    let settings = ["train.keep_best=true", "train.keep_last=1", "train.epochs=6", "train.lr=0.03"];
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
    assert_eq!(checkpoints(&run).0, [24], "keep_last, beside the best");
}

/// The frozen SAM of the configuration, without the HQ part, as a file.
fn save_sam(path: &Path) -> (EncoderConfig, Vec<String>) {
    let encoder = EncoderConfig::Vit(VitConfig {
        img_size: 128,
        embed_dim: 32,
        depth: 2,
        num_heads: 2,
        window_size: 3,
        global_attn_indexes: vec![1],
        ..VitConfig::default()
    });
    let model = SamHq::random(&encoder, 3, tch::Device::Cpu);
    let hq: Vec<String> = model.hq_parameters().into_iter().map(|(name, _)| name).collect();
    let mut sam = model.state_dict();
    sam.retain(|name, _| !hq.contains(name));
    weights::save_pth(path, &sam).unwrap();
    (encoder, hq)
}

#[test]
fn training_starts_from_given_hq_weights() {
    let folder = folder();
    let folder = folder.path();
    let (encoder, hq) = save_sam(&folder.join("sam.pth"));
    let sam = "model.checkpoint=\"sam.pth\"";
    train(folder, "first", &[sam]);
    let _ = succeed(folder, "hqsam", &["export", "first"]);
    let merged = weights::load(&folder.join("first/hqsam.pth")).unwrap().state;
    // As the published trainer saves it: the mask decoder alone, without that prefix.
    let decoder = merged.iter().filter_map(|(name, tensor)| {
        Some((name.strip_prefix("mask_decoder.")?.to_owned(), tensor.shallow_clone()))
    });
    weights::save_pth(&folder.join("decoder.pth"), &decoder.collect()).unwrap();
    let hq_of = |state: &StateDict| -> StateDict {
        let kept = state.iter().filter(|(name, _)| hq.contains(name));
        kept.map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect()
    };
    let trained_digest = |run: &str| {
        let newest = checkpoint::list(&folder.join(run)).unwrap().pop().unwrap();
        checkpoint::digest(&checkpoint::load(&newest).unwrap().hq_parameters)
    };
    assert_eq!(trained_digest("first"), checkpoint::digest(&hq_of(&merged)));

    // Steps too small to change a float: what a run ends with is what it started from.
    let still = "train.lr=1e-30";
    for (name, file) in [("merged", "first/hqsam.pth"), ("decoder", "decoder.pth")] {
        train(folder, name, &[sam, still, &format!("model.hq_checkpoint=\"{file}\"")]);
        assert_eq!(trained_digest(name), trained_digest("first"), "{file}");
    }
    train(folder, "fresh", &[sam, still]);
    let sam_state = weights::load(&folder.join("sam.pth")).unwrap().state;
    let init = HqInit::Fresh { seed: 42 };
    let fresh = SamHq::from_state(&encoder, sam_state, init, tch::Device::Cpu).unwrap();
    let newest = checkpoint::list(&folder.join("fresh")).unwrap().pop().unwrap();
    let (found, fresh) = (checkpoint::load(&newest).unwrap().hq_parameters, fresh.state_dict());
    for (name, tensor) in &found {
        // What is exactly zero at first does change.
        let difference = (tensor - &fresh[name]).abs().max().double_value(&[]);
        assert!(difference < 1e-25, "{name}: {difference}");
    }
    assert_ne!(trained_digest("fresh"), trained_digest("first"));

    // And they are trained on from there.
    train(folder, "on", &[sam, "model.hq_checkpoint=\"decoder.pth\""]);
    assert_ne!(trained_digest("on"), trained_digest("first"));
    let losses = |run: &str| -> Vec<f64> {
        let steps = lines(&folder.join(run).join("steps.jsonl"));
        steps.iter().map(|step| step["loss"].as_f64().unwrap()).collect()
    };
    assert_eq!(losses("on")[0], losses("merged")[0], "the same samples, the same weights");
    assert_ne!(losses("on")[0], losses("fresh")[0]);
}

/// One machine's part in a training over the cable.
fn launch_over(cable: &Cable, folder: &Path, side: usize, extra: &[&str]) -> Running {
    let mut command = cable.command(side, &program("launch"));
    command
        .args(["--procs", "1", "--nnodes", "2", "--node-rank", &side.to_string()])
        .args(["--rdzv-endpoint", ENDPOINT, "--rdzv-timeout", "60"])
        .args(["--node-timeout", "2", "--grace", "2", "config.toml"])
        .args(["--set", "train.epochs=12", "--set", "train.checkpoint_every_steps=1"])
        .args(extra)
        // As many as the ranks of one machine have: the number of threads may change a bit.
        .env("OMP_NUM_THREADS", "1")
        .current_dir(folder);
    Running::start(&mut command)
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
    for (node, name) in nodes.into_iter().zip(["node 1 (10.177.0.2)", "node 0 (10.177.0.1:29400)"])
    {
        let (output, stderr) = node.end();
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        let last = stderr.lines().last().unwrap_or_default();
        assert!(last.starts_with(&format!("launch: {name} is lost: ")), "{stderr}");
    }
    assert!(!any_rank_trains(folder));
    let reached = lines(&steps).len();
    assert!(reached < 48, "the cut came too late to be seen: {reached}");

    cable.set("up");
    for node in [0, 1].map(|side| launch_over(&cable, folder, side, &["--resume"])) {
        let (output, stderr) = node.end();
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
        command.args(["train", "config.toml", "--set", "train.epochs=1000"]).current_dir(folder);
        command.env("RANK", side.to_string()).env("WORLD_SIZE", "2").env("LOCAL_RANK", "0");
        command.env("OMP_NUM_THREADS", "1");
        command.env("LOCAL_WORLD_SIZE", "1").env("MASTER_ADDR", address).env("MASTER_PORT", port);
        Running::start(&mut command)
    });
    let steps = folder.join("run/steps.jsonl");
    wait_for("the first steps", || lines(&steps).len() > 4);
    cable.set("down");
    for (rank, peer) in ranks.into_iter().zip(["rank 1", "rank 0"]) {
        let (output, stderr) = rank.end();
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        let last = stderr.lines().last().unwrap_or_default();
        assert!(last.contains(peer), "names {peer}: {stderr}");
    }
}

/// Flips a bit of the first value of `values` wherever the memory of `pid` holds them, as a bad memory
/// module might. Returns how often; `None`, saying so, where that is not allowed.
#[expect(clippy::print_stdout, reason = "a skipped test says so in its output")]
fn flip_a_bit(pid: &str, values: &[f32]) -> Option<usize> {
    let opened = std::fs::File::options().read(true).write(true).open(format!("/proc/{pid}/mem"));
    let Ok(memory) = opened else {
        println!("skipped: the memory of another process cannot be written here");
        return None;
    };
    let pattern: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let mut flipped = 0;
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    for line in maps.lines().filter(|line| line.contains(" rw-p ")) {
        let (from, to) = line.split(' ').next().unwrap().split_once('-').unwrap();
        let [from, to] = [from, to].map(|text| u64::from_str_radix(text, 16).unwrap());
        let mut bytes = vec![0; (to - from) as usize];
        // Guard pages cannot be read; parameters do not lie there.
        if memory.read_exact_at(&mut bytes, from).is_err() {
            continue;
        }
        // Tensors are aligned to 64 bytes.
        for at in (0..bytes.len().saturating_sub(pattern.len())).step_by(16) {
            if bytes[at..].starts_with(&pattern) {
                memory.write_all_at(&[pattern[0] ^ 1], from + at as u64).unwrap();
                flipped += 1;
            }
        }
    }
    Some(flipped)
}

#[test]
fn a_bit_that_flips_in_one_rank_stops_the_run_and_is_named() {
    let folder = folder();
    let folder = folder.path();
    // Steps too small to change a float, so that the values in memory are known.
    let settings = ["train.lr=1e-30", "train.check_parameters_every_steps=1"];
    train(folder, "known", &settings);
    let newest = checkpoint::list(&folder.join("known")).unwrap().pop().unwrap();
    let name = "mask_decoder.hf_token.weight";
    let token = &checkpoint::load(&newest).unwrap().hq_parameters[name];
    let values: Vec<f32> = Vec::try_from(token.reshape([-1])).unwrap();

    let mut command = Command::new(program("launch"));
    command.args(["--procs", "2", "config.toml", "--set", "train.epochs=100000"]);
    command.args(settings.iter().flat_map(|setting| ["--set", *setting])).current_dir(folder);
    let launcher = Running::start(&mut command);
    wait_for("the first steps", || lines(&folder.join("run/steps.jsonl")).len() > 2);
    let rank_1 = children(launcher.id()).into_iter().find(|pid| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|&byte| byte == 0).any(|variable| variable == b"RANK=1")
    });
    let Some(flipped) = flip_a_bit(&rank_1.unwrap(), &values) else { return };
    assert!(flipped > 0, "the parameter was not found in memory");
    let (output, stderr) = launcher.end();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let last = stderr.lines().last().unwrap_or_default();
    assert!(last.contains("the ranks diverged: after step "), "{stderr}");
    let expected = format!("rank 1 and rank 0 hold other values of {name} (1 of 25 tensors)");
    assert!(last.contains(&expected), "{stderr}");
}

#[test]
fn noise_masks_that_do_not_fit_the_encoder_are_refused_before_the_first_step() {
    let folder = folder();
    let kinds = "prompt.kinds=[\"box\", \"noise_mask\"]";
    let error = fail(folder.path(), "hqsam", &["train", "config.toml", "--set", kinds]);
    let expected = "prompt.kinds has noise_mask, which needs an image embedding of 64 x 64; this \
                    encoder's is 8 x 8: leave it out";
    assert!(error.trim_end().ends_with(expected), "{error}");
}
