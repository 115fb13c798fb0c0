//! Training that is killed, starved of disk or given other ranks, with real processes: what it
//! computes stays the same to the bit.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tch::Device;
use tests::{Dice, fail, kill, lines, program, ranks, run, save_tiny_sam, succeed, tiny};
use trainer::model::{HqInit, SamHq};
use trainer::weights;

/// Kills of the kill test, as the name of this variable says otherwise.
const KILLS_VARIABLE: &str = "HQSAM_TEST_KILLS";
const KILLS: u64 = 20;
/// Losses of other numbers of ranks: sums of floats in another order.
const LOSS: f64 = 1e-4;

fn arguments<'a>(procs: &'a str, settings: &[&'a str]) -> Vec<&'a str> {
    let settings = settings.iter().flat_map(|setting| ["--set", *setting]);
    ["--procs", procs, "tiny.toml"].into_iter().chain(settings).collect()
}

/// What must not depend on interruptions: weights and moments, losses, evaluation.
fn outcome(run: &Path) -> (String, Vec<Value>, Vec<Value>) {
    let newest = trainer::checkpoint::list(run).unwrap().pop().unwrap();
    let info = trainer::checkpoint::load(&newest).unwrap().info;
    let mut steps = lines(&run.join("steps.jsonl"));
    for step in &mut steps {
        let fields = step.as_object_mut().unwrap();
        fields.retain(|name, _| !name.ends_with("_secs") && !name.contains("per_second"));
    }
    let evaluations = lines(&run.join("eval.jsonl"));
    (format!("step {}: {}", info.global_step, info.tensors_sha256), steps, evaluations)
}

fn assert_same_outcome(run: &Path, expected: &Path) {
    let (found, expected) = (outcome(run), outcome(expected));
    assert_eq!(found.1.len(), expected.1.len(), "{}: steps", run.display());
    let keys = [
        "epoch",
        "step",
        "global_step",
        "lr",
        "samples",
        "loss",
        "loss_mask",
        "loss_dice",
        "grad_norm",
    ];
    for (found, expected) in found.1.iter().zip(&expected.1) {
        for key in keys {
            assert_eq!(found[key], expected[key], "{}: {found} {expected}", run.display());
        }
    }
    assert_eq!(found.2, expected.2, "{}: evaluation", run.display());
    assert_eq!(found.0, expected.0, "{}: weights and moments", run.display());
}

/// Kills a rank, all ranks or the launcher at a random time. Returns whom, or `None` if the run had
/// ended before.
fn disturb(launcher: &mut Child, run: &Path, dice: &mut Dice) -> Option<&'static str> {
    let log = run.join("steps.jsonl");
    let steps = |log: &Path| lines(log).len() as u64;
    let from = steps(&log);
    // Often in mid-step, sometimes while the processes only start.
    let after_steps = dice.below(4);
    let delay =
        Duration::from_millis(if after_steps == 0 { dice.below(2500) } else { dice.below(150) });
    let started = Instant::now();
    let mut reached = None;
    loop {
        if launcher.try_wait().unwrap().is_some() {
            return None;
        }
        // A resumed log is cut back before it grows.
        if reached.is_none()
            && (after_steps == 0 || steps(&log) >= from.saturating_sub(1) + after_steps)
        {
            reached = Some(if after_steps == 0 { started } else { Instant::now() });
        }
        if reached.is_some_and(|since: Instant| since.elapsed() >= delay) {
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let ranks = ranks(launcher.id());
    match dice.below(3) {
        0 if !ranks.is_empty() => {
            kill(ranks[dice.below(ranks.len() as u64) as usize]);
            Some("a rank")
        }
        1 if !ranks.is_empty() => {
            ranks.into_iter().for_each(kill);
            Some("all ranks")
        }
        _ => {
            kill(launcher.id());
            Some("the launcher")
        }
    }
}

#[test]
#[expect(clippy::print_stdout, reason = "what was killed belongs to the result")]
fn training_killed_at_random_times_ends_with_the_same_bits() {
    // Twelve epochs of two steps.
    let folder = tiny("[train]\nepochs = 12\nglobal_batch = 4\nlr_drop_epoch = 6\n");
    let folder = folder.path();
    let _ = succeed(folder, "launch", &arguments("2", &["output=\"whole\""]));
    let whole = folder.join("whole");
    assert_eq!(lines(&whole.join("steps.jsonl")).len(), 24);
    assert_eq!(lines(&whole.join("eval.jsonl")).len(), 6);

    let kills = std::env::var(KILLS_VARIABLE).ok().and_then(|n| n.parse().ok()).unwrap_or(KILLS);
    let mut dice = Dice::new(0x9e37_79b9_7f4a_7c15);
    let (mut killed, mut runs, mut told) = (0, 0, Vec::new());
    while killed < kills {
        let name = format!("killed-{runs}");
        let output = format!("output=\"{name}\"");
        let mut resumed = arguments("2", &[&output]);
        resumed.extend(["--resume", "--grace", "2"]);
        let run: PathBuf = folder.join(&name);
        runs += 1;
        loop {
            let mut launcher = Command::new(program("launch"))
                .args(&resumed)
                .current_dir(folder)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(std::fs::File::create(folder.join("stderr.txt")).unwrap())
                .process_group(0)
                .spawn()
                .unwrap();
            let whom = if killed < kills { disturb(&mut launcher, &run, &mut dice) } else { None };
            let status = launcher.wait().unwrap();
            match whom {
                Some(whom) => {
                    killed += 1;
                    told.push(format!("{whom} at {}", lines(&run.join("steps.jsonl")).len()));
                }
                None => {
                    let stderr = std::fs::read_to_string(folder.join("stderr.txt")).unwrap();
                    assert!(status.success(), "{}: {stderr}", told.join(", "));
                    break;
                }
            }
        }
        assert_same_outcome(&run, &whole);
    }
    println!("{killed} kills over {runs} runs: {}", told.join(", "));
}

#[test]
fn a_damaged_newest_checkpoint_costs_a_step_and_no_bit() {
    let folder = tiny("");
    let folder = folder.path();
    let _ = succeed(folder, "launch", &arguments("1", &["output=\"whole\"", "train.epochs=2"]));
    let _ = succeed(folder, "launch", &arguments("1", &["train.epochs=1"]));
    let newest = trainer::checkpoint::list(&folder.join("run")).unwrap().pop().unwrap();
    let bytes = std::fs::read(&newest).unwrap();
    std::fs::write(&newest, &bytes[..bytes.len() - 100]).unwrap();
    let mut resumed = arguments("1", &["train.epochs=2"]);
    resumed.push("--resume");
    let output = run(folder, "launch", &resumed);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    assert!(stderr.contains("the checkpoint before it is used"), "{stderr}");
    assert_same_outcome(&folder.join("run"), &folder.join("whole"));

    // What the checkpoint was written with is compared, by name.
    let mut other = arguments("1", &["train.epochs=3", "augment.flip_probability=0.25"]);
    other.push("--resume");
    let error = fail(folder, "launch", &other);
    assert!(error.contains("augment.flip_probability was 0.5 and is now 0.25"), "{error}");
}

#[test]
fn the_number_of_ranks_may_change_between_restarts() {
    let folder = tiny("");
    let folder = folder.path();
    let batch = "train.global_batch=3";
    let _ =
        succeed(folder, "launch", &arguments("1", &[batch, "train.epochs=3", "output=\"one\""]));
    for (procs, epochs) in
        [("1", "train.epochs=1"), ("2", "train.epochs=2"), ("3", "train.epochs=3")]
    {
        let mut part = arguments(procs, &[batch, epochs]);
        part.push("--resume");
        let _ = succeed(folder, "launch", &part);
        if procs != "3" {
            // The next ranks go on within the epoch.
            let newest = trainer::checkpoint::list(&folder.join("run")).unwrap().pop().unwrap();
            std::fs::remove_file(newest).unwrap();
        }
    }
    let (one, mixed) =
        (lines(&folder.join("one/steps.jsonl")), lines(&folder.join("run/steps.jsonl")));
    assert_eq!((one.len(), mixed.len()), (9, 9));
    for (one, mixed) in one.iter().zip(&mixed) {
        assert_eq!(one["samples"], mixed["samples"], "{one} {mixed}");
        let difference = one["loss"].as_f64().unwrap() - mixed["loss"].as_f64().unwrap();
        assert!(difference.abs() < LOSS, "{one} {mixed}");
    }
}

#[test]
fn a_loss_that_is_not_finite_names_its_samples_and_can_be_replayed() {
    let folder = tiny("");
    let folder = folder.path();
    let huge = ["train.lr=1e30", "eval.splits=[]"];
    let error = fail(folder, "launch", &arguments("2", &huge));
    assert!(error.contains("not finite in epoch 0, step 1"), "{error}");
    let record = lines_of_file(&folder.join("run/nonfinite/step-0000000001.json"));
    let ids: Vec<&str> =
        record["sample_ids"].as_array().unwrap().iter().map(|id| id.as_str().unwrap()).collect();
    assert_eq!(ids.len(), 2, "both ranks' samples: {record}");
    assert!(ids.iter().all(|id| error.contains(id)), "{error}");

    // From what was saved, the same step fails again, on one rank as well.
    let mut replay = arguments("1", &[huge[0], huge[1], "output=\"run/nonfinite\""]);
    replay.push("--resume");
    let error = fail(folder, "launch", &replay);
    assert!(error.contains("not finite in epoch 0, step 1"), "{error}");
    assert!(ids.iter().all(|id| error.contains(id)), "{error}");

    // Skipped, but not for ever: ten times.
    let skip = ["train.on_non_finite=\"skip\"", "output=\"skip\""];
    let error = fail(folder, "launch", &arguments("2", &[huge[0], huge[1], skip[0], skip[1]]));
    // Where the other rank spoke last, the launcher repeats them at the end.
    let said = error.lines().filter(|line| !line.starts_with("launch: |"));
    assert_eq!(said.filter(|line| line.contains("skipped, not finite")).count(), 10, "{error}");
}

fn lines_of_file(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn a_full_disk_is_survived_until_the_end_and_said() {
    let folder = tiny("");
    let folder = folder.path();
    // With the best one kept, its evaluation is the first to ask what became of the checkpoint.
    let kinds = ["eval.splits=[]", "train.keep_best=true --set output=\\\"best\\\""];
    for (run, settings) in ["run", "best"].iter().zip(kinds) {
        // A limit on the size of files, which a checkpoint of 3.8 MB exceeds and a log does not.
        let command = format!(
            "trap '' XFSZ; ulimit -f 1000; exec {} train tiny.toml --set train.epochs=2 --set {settings}",
            program("hqsam").display()
        );
        let output =
            Command::new("bash").args(["-c", &command]).current_dir(folder).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{stderr}");
        assert!(stderr.matches("training goes on").count() >= 7, "{stderr}");
        assert!(stderr.trim().lines().last().unwrap().contains("cannot write"), "{stderr}");
        assert_eq!(lines(&folder.join(run).join("steps.jsonl")).len(), 8, "{stderr}");
        let left = std::fs::read_dir(folder.join(run).join("checkpoints")).unwrap().count();
        assert_eq!(left, 0, "no half-written file is left");
    }
}

#[test]
fn training_changes_the_25_hq_tensors_and_nothing_else() {
    let folder = tiny("");
    let folder = folder.path();
    let (encoder, hq) = save_tiny_sam(&folder.join("sam.pth"));
    let settings = ["model.checkpoint=\"sam.pth\"", "train.epochs=2", "eval.splits=[]"];
    let _ = succeed(folder, "launch", &arguments("2", &settings));
    let _ = succeed(folder, "hqsam", &["export", "run"]);
    let trained = weights::load(&folder.join("run/hqsam.pth")).unwrap().state;

    let read = weights::load(&folder.join("sam.pth")).unwrap().state;
    let digest = trainer::checkpoint::digest;
    let frozen = trained.iter().filter(|(name, _)| !hq.contains(name));
    let frozen = frozen.map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect();
    assert_eq!(digest(&frozen), digest(&read), "a frozen tensor changed");
    let fresh = SamHq::from_state(&encoder, read, HqInit::Fresh { seed: 42 }, Device::Cpu).unwrap();
    let fresh = fresh.state_dict();
    assert_eq!(hq.len(), 25);
    assert!(
        hq.iter().all(|name| !trained[name].equal(&fresh[name])),
        "an HQ tensor did not change"
    );
}

#[test]
fn a_rank_beats_at_each_step_and_a_mistake_is_not_started_again() {
    let folder = tiny("");
    let folder = folder.path();
    let beat = folder.join("beat");
    let output = Command::new(tests::program("hqsam"))
        .args(["train", "tiny.toml", "--set", "train.epochs=1"])
        .current_dir(folder)
        .env("LAUNCH_HEARTBEAT_FILE", &beat)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let beat = std::fs::read_to_string(&beat).unwrap();
    assert_eq!(beat.split_whitespace().next(), Some("4"), "{beat}");
    // A second round would resume, and succeed.
    let again = tests::run(folder, "launch", &["--procs", "2", "--max-restarts", "3", "tiny.toml"]);
    let stderr = String::from_utf8_lossy(&again.stderr);
    assert_eq!(again.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("add --resume to go on"), "{stderr}");
}
