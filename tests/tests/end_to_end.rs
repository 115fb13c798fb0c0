//! Raw folders in, exported model out, trained by two real processes, on tiny inputs.

use std::path::Path;

use tests::{fail, lines, succeed, tiny};

/// Two steps an epoch.
const CHANGES: &str = r#"
[train]
epochs = 2
global_batch = 4
lr_drop_epoch = 1
checkpoint_every_steps = 0
[eval]
every_epochs = 1
"#;

fn steps(folder: &Path, run: &str) -> Vec<serde_json::Value> {
    lines(&folder.join(run).join("steps.jsonl"))
}

#[test]
fn raw_folders_become_an_exported_model() {
    let folder = tiny(CHANGES);
    let folder = folder.path();
    let _ = succeed(folder, "launch", &["--procs", "2", "tiny.toml"]);

    let steps = steps(folder, "run");
    assert_eq!(steps.len(), 2 * (9 / 4), "two epochs of two full batches");
    assert!(steps.iter().all(|step| step["loss"].as_f64().unwrap().is_finite()));
    assert_eq!(steps[0]["lr"], 1e-3);
    assert_eq!(steps[3]["lr"], 1e-4);

    let report: serde_json::Value =
        serde_json::from_str(&succeed(folder, "hqsam", &["eval", "run", "--json"])).unwrap();
    let sets = report[0]["sets"].as_array().unwrap();
    assert_eq!(sets.last().unwrap()["set"], "all");
    assert_eq!(sets.last().unwrap()["images"], 3);

    for format in ["pth", "safetensors"] {
        let _ = succeed(folder, "hqsam", &["export", "run", "--format", format]);
    }
    let image = first_image(&folder.join("raw"));
    let box_ = ["--box", "20,20,200,200"];
    let mut masks = Vec::new();
    for model in ["run", "run/hqsam.pth", "run/hqsam.safetensors"] {
        let mut arguments = vec!["predict", model, image.as_str()];
        arguments.extend(box_);
        let _ = succeed(folder, "hqsam", &arguments);
        masks.push(std::fs::read(folder.join("mask.png")).unwrap());
        assert!(folder.join("mask.overlay.png").exists());
    }
    assert!(masks.iter().all(|mask| *mask == masks[0]), "the exports predict as the run does");
}

#[test]
fn stopping_after_an_epoch_and_resuming_changes_no_bit() {
    let folder = tiny(CHANGES);
    let folder = folder.path();
    let whole =
        ["--procs", "2", "tiny.toml", "--set", "output=\"whole\"", "--set", "eval.splits=[]"];
    let _ = succeed(folder, "launch", &whole);
    // The learning rate of an epoch does not depend on the number of epochs, so a run of one
    // epoch is the first half of a run of two.
    let half = ["--procs", "2", "tiny.toml", "--set", "output=\"half\"", "--set", "eval.splits=[]"];
    let _ = succeed(folder, "launch", &[&half[..], &["--set", "train.epochs=1"]].concat());
    let refusal = fail(folder, "launch", &half);
    assert!(refusal.contains("--resume"), "{refusal}");
    let _ = succeed(folder, "launch", &[&half[..], &["--resume"]].concat());

    let last = "checkpoints/step-0000000004.safetensors";
    let tensors = |run: &str| {
        let checkpoint = trainer::checkpoint::load(&folder.join(run).join(last)).unwrap();
        checkpoint.info.tensors_sha256
    };
    assert_eq!(tensors("whole"), tensors("half"));
}

#[test]
fn one_and_two_processes_train_alike() {
    let folder = tiny(CHANGES);
    let folder = folder.path();
    for (procs, output) in [("1", "one"), ("2", "two")] {
        let output = format!("output=\"{output}\"");
        let arguments =
            ["--procs", procs, "tiny.toml", "--set", &output, "--set", "eval.splits=[]"];
        let _ = succeed(folder, "launch", &arguments);
    }
    for (one, two) in steps(folder, "one").iter().zip(steps(folder, "two")) {
        let (one, two) = (one["loss"].as_f64().unwrap(), two["loss"].as_f64().unwrap());
        // Sums of floats in another order.
        assert!((one - two).abs() < 1e-4, "loss {one} against {two}");
    }
}

fn first_image(folder: &Path) -> String {
    let mut pending = vec![folder.to_owned()];
    while let Some(path) = pending.pop() {
        if path.is_dir() {
            let mut entries: Vec<_> =
                std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
            entries.sort();
            pending.extend(entries.into_iter().rev());
        } else if path.extension().is_some_and(|extension| extension == "jpg") {
            return path.to_str().unwrap().to_owned();
        }
    }
    panic!("no image under {}", folder.display());
}
