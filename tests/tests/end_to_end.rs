//! Raw folders in, exported model out, trained by two real processes, on tiny inputs.

use std::path::Path;

use tests::{fail, lines, succeed, tiny, write_tiny};

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
    assert_eq!(report[0]["split_images"], 3);

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
fn an_evaluation_tells_of_which_weights_it_is_and_how_many_images() {
    let folder = tiny(CHANGES);
    let folder = folder.path();
    let train = ["train", "tiny.toml", "--set", "eval.limit=2"];
    let _ = succeed(folder, "hqsam", &[&train[..], &["--set", "train.epochs=1"]].concat());
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    let part = "Only 2 of the 3 images of the split were evaluated.";
    assert!(read("run/eval/val-epoch-001.md").contains(part));
    let card = |model: &str, name: &str| {
        let _ = succeed(folder, "hqsam", &["export", model, "-o", name]);
        read(&name.replace(".pth", ".md"))
    };
    let of_epoch = card("run", "one.pth");
    assert!(of_epoch.contains("`val-epoch-001`") && of_epoch.contains(part), "{of_epoch}");

    // The limit is for evaluations between epochs; `hqsam eval` takes all unless told otherwise.
    let printed = succeed(folder, "hqsam", &["eval", "run"]);
    let all = "All 3 images of the split were evaluated.";
    assert!(printed.contains(all), "{printed}");
    assert!(read("run/eval/val.html").contains(all));
    let whole = card("run", "one.pth");
    assert!(whole.contains("`val`, in percent") && whole.contains(all), "{whole}");
    assert!(!whole.contains(part), "{whole}");
    // Fewer images or another data set do not take its place, in the folder or in the card.
    let build = ["build", "--auto", "raw", "--output", "other", "--holdout", "0.5"];
    let _ = succeed(folder, "hqseg", &build);
    for other in [["--limit", "1"], ["--data", "other"], ["--data", "other"]] {
        let _ = succeed(folder, "hqsam", &[&["eval", "run"], &other[..]].concat());
    }
    assert!(read("run/eval/val.html").contains(all));
    let files = std::fs::read_dir(folder.join("run/eval")).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    assert_eq!(names.filter(|name| name.ends_with(".parquet")).count(), 4);
    assert_eq!(card("run", "one.pth"), whole);
    let printed = succeed(folder, "hqsam", &["eval", "run", "--limit", "1", "--output", "one"]);
    assert!(printed.contains("Only 1 of the 3 images"), "{printed}");

    // A checkpoint in the run is of the run; without -o the export goes into its folder.
    let first = "run/checkpoints/step-0000000002.safetensors";
    let _ = succeed(folder, "hqsam", &["export", first]);
    assert!(read("run/hqsam.md").contains("`val`, in percent"), "{}", read("run/hqsam.md"));

    // Further training makes other weights, of which the table does not tell.
    let _ = succeed(folder, "hqsam", &[&train[..], &["--resume"]].concat());
    let later = card("run", "two.pth");
    assert!(later.contains("`val-epoch-002`, in percent") && !later.contains(all), "{later}");
    std::fs::remove_file(folder.join("run/eval/val-epoch-002.json")).unwrap();
    let later = card("run", "two.pth");
    assert!(later.contains("None was made of these weights"), "{later}");
    assert!(card(first, "one.pth").contains(all));
}

#[test]
fn the_bench_reports_every_part_as_json() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_tiny(folder, "data = { path = \"absent\" }");
    let bench = ["bench", "tiny.toml", "--batch", "2", "--steps", "1", "--warm-up", "0", "--json"];
    let printed = succeed(folder, "hqsam", &bench);
    let report: serde_json::Value = serde_json::from_str(&printed).unwrap();
    let seconds = report["seconds"].as_object().unwrap();
    for part in ["step", "encoder", "decoder", "loss_backward", "optimizer", "data"] {
        assert!(seconds[part].as_f64().unwrap() > 0.0, "{part}: {printed}");
    }
    for number in ["images_per_second", "peak_resident_mib"] {
        assert!(report[number].as_f64().unwrap() > 0.0, "{number}: {printed}");
    }
    assert_eq!((&report["batch"], &report["random_weights"]), (&2.into(), &true.into()));
    assert!(report["encoder"]["share_of_floor"].as_f64().unwrap() > 0.0, "{printed}");
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
