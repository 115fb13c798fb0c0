//! `hqsam amg` against the published generator of masks.

use std::path::Path;

use serde_json::{Value, json};
use tch::Device;
use tests::{python, succeed};
use trainer::model::{EncoderConfig, SamHq};
use trainer::weights::save_pth;

use super::{compare, save_image, vit};

/// Runs `hqsam amg` with `options` (published names) and returns what it wrote.
fn amg(folder: &Path, name: &str, options: &Value) -> String {
    let mut arguments: Vec<String> =
        ["amg", "model.pth", "image.png", "--output-mode", "coco_rle", "-o", name]
            .map(String::from)
            .to_vec();
    for (option, value) in options.as_object().unwrap() {
        arguments.push(format!("--{}={value}", option.replace('_', "-")));
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let _ = succeed(folder, "hqsam", &arguments);
    format!("{name}/image.png.json")
}

/// Options of the published generator by run. Random weights predict a low IoU, logits near zero
/// and masks all over the image: thresholds are set to suit, and without suppression a mask of
/// every point is compared.
fn amg_runs() -> Value {
    let every = json!({"points_per_side": 8, "points_per_batch": 24, "pred_iou_thresh": 0.0,
                       "stability_score_thresh": 0.0, "box_nms_thresh": 1.0, "crop_nms_thresh": 1.0});
    let with = |options: Value| {
        let mut merged = every.clone();
        options.as_object().unwrap().iter().for_each(|(name, value)| merged[name] = value.clone());
        json!({"options": merged})
    };
    json!({
        "every": with(json!({})),
        "crops": with(json!({"crop_n_layers": 1, "crop_n_points_downscale_factor": 2})),
        "stable": with(json!({"stability_score_thresh": 0.5, "stability_score_offset": 0.01})),
        "suppressed": with(json!({"box_nms_thresh": 0.9})),
        "regions": with(json!({"min_mask_region_area": 40})),
    })
}

/// Overlapping boxes and scores without equals, and those that our NMS keeps of them.
fn nms_case() -> (Value, Vec<usize>) {
    let place = |index: usize| (index * 7919 % 97) as f32;
    let corners = |i: usize| {
        let (x, y) = (place(i), place(i + 1));
        [x, y, x + place(i + 2) / 2.0, y + place(i + 3) / 2.0]
    };
    let boxes: Vec<[f32; 4]> = (0..300).map(corners).collect();
    let scores: Vec<f32> = (0..300).map(|index| (index * 104_729 % 7907) as f32).collect();
    let kept = trainer::amg::nms(&boxes, &scores, 0.4);
    (json!({"boxes": boxes, "scores": scores, "threshold": 0.4}), kept)
}

#[test]
#[expect(clippy::print_stdout, reason = "the measured difference belongs to the result")]
fn everything_is_segmented_as_published() {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    save_image(&folder.join("image.png"), (150, 200));
    let config = vit(256);
    let model = SamHq::random(&EncoderConfig::Vit(config.clone()), 21, Device::Cpu);
    save_pth(&folder.join("model.pth"), &model.state_dict()).unwrap();
    let mut runs = amg_runs();
    for (name, run) in runs.as_object_mut().unwrap() {
        run["file"] = json!(amg(folder, name, &run["options"]));
    }
    let written =
        |name: &str| std::fs::read(folder.join(format!("{name}/image.png.json"))).unwrap();
    assert!(written("regions") != written("every"), "no region is smaller than what is asked for");
    let (nms, kept) = nms_case();
    let spec = json!({"image": "image.png", "model": "model.pth", "sizes": config, "runs": runs,
                      "nms": nms});
    std::fs::write(folder.join("spec.json"), spec.to_string()).unwrap();
    let mut result = compare(&python, folder, "compare_amg.py", &["spec.json"]);
    assert_eq!(result["nms"].take(), json!(kept), "NMS keeps other boxes than torchvision");
    let names: Vec<&String> = runs.as_object().unwrap().keys().collect();
    names.iter().for_each(|name| println!("{name}: {}", result[name.as_str()]));
    for name in names {
        let found = &result[name];
        let count = found["published"].as_u64().unwrap();
        assert!(count > if name == "suppressed" { 0 } else { 3 }, "{name}: {found}");
        let counts = (&found["ours"], &found["pairs"]);
        assert_eq!(counts, (&json!(count), &json!(count)), "{name}: {found}");
        assert!(found["smallest_iou"].as_f64().unwrap() > 0.99, "{name}: {found}");
        // A pixel whose logit lies near zero may fall on the other side.
        let tolerances =
            [("bbox", 1.0), ("area", 4.0), ("predicted_iou", 1e-4), ("stability_score", 1e-2)];
        for (key, tolerance) in tolerances {
            assert!(found[key].as_f64().unwrap() <= tolerance, "{name}, {key}: {found}");
        }
    }
}
