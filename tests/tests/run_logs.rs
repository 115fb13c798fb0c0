//! What a training leaves behind for people to watch, as their tools read it.

use std::process::Command;

use serde_json::Value;
use tests::{lines, python, succeed, tiny, workspace_root};

/// Two steps an epoch, evaluated after each.
const CHANGES: &str = r#"
[train]
epochs = 2
global_batch = 4
micro_batch = 2
checkpoint_every_steps = 0
[eval]
protocols = ["box", "points:3"]
every_epochs = 1
"#;

#[test]
fn tensorboard_shows_each_step_once_and_the_masks_of_the_same_images() {
    let Some(python) = python() else { return };
    let folder = tiny(CHANGES);
    let folder = folder.path();
    let _ = succeed(folder, "hqsam", &["train", "tiny.toml"]);
    // The second epoch is done again, so that each of its steps is in two files.
    std::fs::remove_file(folder.join("run/checkpoints/step-0000000004.safetensors")).unwrap();
    let _ = succeed(folder, "hqsam", &["train", "tiny.toml", "--resume"]);

    let steps = lines(&folder.join("run/steps.jsonl"));
    assert_eq!(steps.len(), 4);
    assert!(steps.iter().all(|step| step["resident_bytes"].as_u64().unwrap() > 50 << 20));
    let evaluations = lines(&folder.join("run/eval.jsonl"));
    let names: Vec<&Value> = evaluations.iter().map(|line| &line["protocol"]).collect();
    assert_eq!(names, ["box", "points:3", "box", "points:3"]);
    assert!(folder.join("run/eval/val-epoch-002.parquet").is_file());

    let output = Command::new(python)
        .arg(workspace_root().join("tests/python/read_events.py"))
        .arg("run/tensorboard")
        .current_dir(folder)
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "scripts/setup-python.sh installs tensorboard: {stderr}");
    let seen: Value = serde_json::from_slice(&output.stdout).unwrap();
    for (tag, key) in [
        ("train/loss", "loss"),
        ("train/loss_mask", "loss_mask"),
        ("train/loss_dice", "loss_dice"),
        ("train/lr", "lr"),
        ("train/grad_norm", "grad_norm"),
        ("speed/data_wait_secs", "data_wait_secs"),
        ("speed/images_per_second", "images_per_second"),
    ] {
        let found = seen["scalars"][tag].as_array().unwrap_or_else(|| panic!("{tag}: {seen}"));
        assert_eq!(found.len(), 4, "{tag}");
        for (point, line) in found.iter().zip(&steps) {
            assert_eq!(point[0], line["global_step"], "{tag}");
            let (value, logged) = (point[1].as_f64().unwrap(), line[key].as_f64().unwrap());
            assert!((value - logged).abs() <= 1e-6 * logged.abs(), "{tag}: {value}, {logged}");
        }
    }
    assert!(seen["scalars"]["memory/resident_gib"][0][1].as_f64().unwrap() > 0.05);
    let last = evaluations.last().unwrap()["hq"]["mask_iou"].as_f64().unwrap();
    let shown = &seen["scalars"]["eval/val/points:3/hq_mask_iou"][1];
    assert_eq!(shown[0], 4);
    assert!((shown[1].as_f64().unwrap() - last).abs() < 1e-6);
    // Three held-out images with two prompts, after both epochs; three views side by side.
    let pictures = seen["images"].as_object().unwrap();
    assert_eq!(pictures.len(), 6, "{pictures:?}");
    for (tag, shown) in pictures {
        assert!(tag.starts_with("eval/val/box/") || tag.starts_with("eval/val/points:3/"), "{tag}");
        let steps: Vec<&Value> =
            shown.as_array().unwrap().iter().map(|picture| &picture["step"]).collect();
        assert_eq!(steps, [2, 4], "{tag}");
        let side = |name: &str| shown[0][name].as_u64().unwrap();
        assert_eq!((side("width"), side("height")), (side("file_width"), side("file_height")));
        assert!(side("width") > 2 * side("height"), "{tag}");
    }
}
