//! `train.encode_ahead`: a thread that encodes the next batch changes no bit, whatever interrupts it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde_json::Value;
use tch::Device;
use tests::{fail, lines, succeed, tiny};
use trainer::config::TrainConfig;
use trainer::train::{Outcome, TrainOptions, train};

/// Nine pairs to train on: three steps an epoch, each of two parts.
const CHANGES: &str = r#"
prompt = { prompts_per_image = 2 }
train = { epochs = 2, global_batch = 3, micro_batch = 2, checkpoint_every_steps = 0 }
eval = { every_epochs = 1 }
"#;

/// Trains into `name`; with `stop` it is asked to after the first step of each start.
fn run(folder: &Path, name: &str, settings: &[&str], stop: bool) {
    let output = format!("output={:?}", folder.join(name).to_str().unwrap());
    let data = format!("data.path={:?}", folder.join("data").to_str().unwrap());
    let mut overrides: Vec<String> = settings.iter().map(|&setting| setting.to_owned()).collect();
    overrides.extend([output, data]);
    let config = TrainConfig::load(&folder.join("tiny.toml"), &overrides).unwrap();
    let mut starts = 0;
    loop {
        let options = TrainOptions {
            resume: stop,
            device: Device::Cpu,
            rank_env: None,
            stop: Arc::new(AtomicBool::new(stop)),
        };
        starts += 1;
        if let Outcome::Finished { .. } = train(&config, &options).unwrap() {
            break;
        }
    }
    assert_eq!(starts, if stop { 7 } else { 1 }, "a start a step, one for the last evaluation");
}

/// Weights and moments, losses, evaluation.
fn outcome(run: &Path) -> (String, Vec<Value>, Vec<Value>) {
    let newest = trainer::checkpoint::list(run).unwrap().pop().unwrap();
    let info = trainer::checkpoint::load(&newest).unwrap().info;
    assert_eq!(info.global_step, 6);
    let mut steps = lines(&run.join("steps.jsonl"));
    assert!(steps.iter().all(|step| step["device_peak_bytes"].is_null()), "no GPU, no count");
    for step in &mut steps {
        step.as_object_mut().unwrap().retain(|name, _| {
            ["epoch", "step", "lr", "loss", "loss_mask", "loss_dice", "grad_norm"]
                .contains(&name.as_str())
        });
    }
    (info.tensors_sha256, steps, lines(&run.join("eval.jsonl")))
}

#[test]
fn encoding_ahead_changes_no_bit_over_stops_and_resumes() {
    let folder = tiny(CHANGES);
    let folder = folder.path();
    let (on, off) = ("train.encode_ahead=true", "train.encode_ahead=false");
    run(folder, "off", &[off], false);
    run(folder, "on", &[on], false);
    run(folder, "stopped", &[on], true);
    let expected = outcome(&folder.join("off"));
    assert_eq!((expected.1.len(), expected.2.len()), (6, 2));
    assert_eq!(outcome(&folder.join("on")), expected);
    assert_eq!(outcome(&folder.join("stopped")), expected);

    // The cache rounds, so its runs are compared with each other: cold and warm.
    let cache = format!("train.cache_embeddings={:?}", folder.join("cache").to_str().unwrap());
    let copies = "augment.copies=1";
    run(folder, "off-cached", &[off, &cache, copies], false);
    let sets = [on, &cache, copies, "output=\"on-cached\""].map(|change| ["--set", change]);
    let train = [&["train", "tiny.toml"], sets.as_flattened()].concat();
    let warm = tests::run(folder, "hqsam", &train);
    let said = String::from_utf8_lossy(&warm.stderr);
    assert!(warm.status.success(), "{said}");
    // Nine samples, and the three that are evaluated after each epoch.
    let hits: Vec<&str> = said.lines().filter(|line| line.contains("hits=")).collect();
    assert!(hits.len() == 2 && hits[0].contains("hits=9 misses=0 "), "{said}");
    assert!(hits[1].contains("hits=12 misses=0 "), "{said}");
    assert_eq!(outcome(&folder.join("on-cached")), outcome(&folder.join("off-cached")));

    // With new pixels in each epoch the three evaluated images alone are kept, and found again.
    let cache = format!("train.cache_embeddings={:?}", folder.join("other").to_str().unwrap());
    let sets = [on, &cache, "output=\"jittered\""].map(|change| ["--set", change]);
    let jittered =
        tests::run(folder, "hqsam", &[&["train", "tiny.toml"], sets.as_flattened()].concat());
    let said = String::from_utf8_lossy(&jittered.stderr);
    assert!(said.contains("only the images that are evaluated are kept"), "{said}");
    let hits: Vec<&str> = said.lines().filter(|line| line.contains("hits=")).collect();
    assert!(hits.len() == 2 && hits[1].contains("hits=0 misses=3 "), "{said}");
    let files = std::fs::read_dir(folder.join("other")).unwrap();
    let kept = files.filter(|file| file.as_ref().unwrap().path().extension().is_some()).count();
    assert_eq!(kept, 3);
    assert_eq!(outcome(&folder.join("jittered")).1, expected.1);
}

#[test]
fn two_ranks_encode_ahead_and_a_wrong_word_is_refused() {
    let folder = tiny(CHANGES);
    let folder = folder.path();
    for (name, setting) in [("off", "train.encode_ahead=false"), ("on", "train.encode_ahead=true")]
    {
        let output = format!("output=\"{name}\"");
        let launch = ["--procs", "2", "tiny.toml", "--set", &output, "--set", setting];
        let _ = succeed(folder, "launch", &launch);
    }
    assert_eq!(outcome(&folder.join("on")), outcome(&folder.join("off")));

    let word = ["train", "tiny.toml", "--set", "train.encode_ahead=\"always\""];
    let error = fail(folder, "hqsam", &word);
    assert!(error.contains("encode_ahead") && error.contains("auto"), "{error}");
}
