//! `hqsam predict` and `hqsam amg` against the published package, on a ViT of two blocks.

mod amg;
mod precision;
mod refusals;
mod rough_boxes;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use dataset::raster::RgbRaster;
use serde_json::{Value, json};
use tch::{Device, Tensor};
use tests::{fail, python, succeed, workspace_root};
use trainer::model::{EncoderConfig, SamHq, StateDict, VitConfig};
use trainer::predict::{ImagePrompt, MaskInput, MaskMode, Predictor};
use trainer::weights::{save_pth, save_safetensors};

/// Largest difference of logits, and share of mask pixels that differ because their logit lies near
/// zero: sums of floats in another order.
const LOGITS_TOLERANCE: f64 = 1e-3;
const PIXEL_TOLERANCE: f64 = 1e-3;
const SCORE_TOLERANCE: f64 = 1e-3;

fn vit(img_size: i64) -> VitConfig {
    VitConfig {
        img_size,
        embed_dim: 64,
        depth: 2,
        num_heads: 2,
        window_size: 7,
        global_attn_indexes: vec![1],
        ..VitConfig::default()
    }
}

fn save_image(path: &Path, (height, width): (usize, usize)) -> RgbRaster {
    let (image, _) = dataset::draw::draw_pair(3, 0, (height, width));
    let (columns, rows) = (width as u32, height as u32);
    image::save_buffer(path, &image.pixels, columns, rows, image::ColorType::Rgb8).unwrap();
    image
}

fn compare(python: &Path, folder: &Path, script: &str, arguments: &[&str]) -> Value {
    let output = Command::new(python)
        .arg(workspace_root().join("tests/python").join(script))
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}{stderr}", String::from_utf8_lossy(&output.stdout));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Every kind of prompt and mixture: name, box, points with labels, mask.
fn cases() -> Value {
    let corners = [60.0, 50.0, 420.0, 300.0];
    let points = [[200.0, 150.0, 1.0], [90.0, 80.0, 0.0], [300.5, 240.25, 1.0]];
    json!({
        "box": {"box": corners},
        "point": {"points": points[..1]},
        "negative": {"points": points[1..2]},
        "points": {"points": points},
        "mask": {"mask": "mask_input"},
        "box_points": {"box": corners, "points": points},
        "box_mask": {"box": corners, "mask": "mask_input"},
        "points_mask": {"points": points, "mask": "mask_input"},
        "all": {"box": corners, "points": points, "mask": "mask_input"},
    })
}

fn prompt(case: &Value, mask: &MaskInput) -> ImagePrompt {
    let number = |value: &Value| value.as_f64().unwrap() as f32;
    let corners = case["box"].as_array().map(|corners| [0, 1, 2, 3].map(|i| number(&corners[i])));
    let points = case["points"].as_array().cloned().unwrap_or_default();
    ImagePrompt {
        box_xyxy: corners,
        points: points.iter().map(|point| [number(&point[0]), number(&point[1])]).collect(),
        point_labels: points.iter().map(|point| number(&point[2])).collect(),
        mask: case["mask"].is_string().then(|| mask.clone()),
    }
}

#[test]
#[expect(clippy::print_stdout, reason = "the measured difference belongs to the result")]
fn every_prompt_gives_the_published_masks_scores_and_logits() {
    let Some(python) = python() else { return };
    let config = vit(1024);
    let model = SamHq::random(&EncoderConfig::Vit(config.clone()), 11, Device::Cpu);
    let values: Vec<f32> = (0..256 * 256).map(|i| 8.0 * (i as f32 / 700.0).sin()).collect();
    let mask = MaskInput { side: 256, values };
    // As it is, enlarged and shrunk.
    for size in [(768, 1024), (375, 500), (1100, 1500)] {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        save_pth(&folder.join("model.pth"), &model.state_dict()).unwrap();
        let tensors = predictions(&model, &save_image(&folder.join("image.png"), size), &mask);
        save_safetensors(&folder.join("ours.safetensors"), &tensors, &BTreeMap::new()).unwrap();
        let spec =
            json!({"image": "image.png", "model": "model.pth", "sizes": config, "cases": cases()});
        std::fs::write(folder.join("cases.json"), spec.to_string()).unwrap();
        let arguments = ["cases.json", "ours.safetensors"];
        let result = compare(&python, folder, "compare_prompts.py", &arguments);
        let result = result.as_object().unwrap();
        assert_eq!(result.len(), 9 * 3 * 2);
        let mut worst = [0.0_f64; 3];
        for differences in result.values() {
            let found = [0, 1, 2].map(|index| differences[index].as_f64().unwrap());
            worst = [0, 1, 2].map(|index| worst[index].max(found[index]));
        }
        let [logits, scores, pixels] = worst;
        println!(
            "{size:?}: 54 predictions, logits {logits:.1e}, scores {scores:.1e}, pixels {pixels:.1e}"
        );
        assert!(logits < LOGITS_TOLERANCE, "{result:?}");
        assert!(scores < SCORE_TOLERANCE && pixels < PIXEL_TOLERANCE, "{result:?}");
    }
}

/// Logits, scores and masks of every case in every mode, under the names that the script reads.
fn predictions(model: &SamHq, image: &RgbRaster, mask: &MaskInput) -> StateDict {
    let values = Tensor::from_slice(&mask.values).view([256, 256]);
    let mut tensors = StateDict::from([("mask_input".into(), values)]);
    let predictor = Predictor::new(model);
    let encoded = predictor.encode(image).unwrap();
    let cases = cases();
    // All in one call: each comes back as if it were alone.
    let prompts: Vec<ImagePrompt> =
        cases.as_object().unwrap().values().map(|case| prompt(case, mask)).collect();
    let modes = [(MaskMode::Hq, "hq"), (MaskMode::Sum, "sum"), (MaskMode::Sam, "sam")];
    for ((mode, mode_name), (multimask, kind)) in
        modes.into_iter().flat_map(|mode| [(mode, (false, "single")), (mode, (true, "multi"))])
    {
        let found = predictor.predict(&encoded, &prompts, mode, multimask).unwrap();
        for (name, found) in cases.as_object().unwrap().keys().zip(found) {
            let size = [image.height as i64, image.width as i64];
            let masks: Vec<Tensor> = found
                .masks
                .iter()
                .map(|mask| Tensor::from_slice(&mask.pixels).view(size))
                .collect();
            let group = format!("{name}.{mode_name}.{kind}");
            tensors.insert(format!("{group}.masks"), Tensor::stack(&masks, 0));
            tensors.insert(format!("{group}.scores"), Tensor::from_slice(&found.scores));
            tensors.insert(format!("{group}.logits"), found.low_res_logits);
        }
    }
    tensors
}

/// Checks a result list of COCO with `pycocotools`: scores by image and the pixels of each mask.
const READ_COCO: &str = r#"
import contextlib, io, json, sys
from pycocotools.coco import COCO
with contextlib.redirect_stdout(io.StringIO()):
    truth = COCO(sys.argv[1])
    found = truth.loadRes(sys.argv[2])
print(json.dumps([[a["image_id"], a["category_id"], a["score"], int(found.annToMask(a).sum()),
    list(found.annToMask(a).shape), int(a["area"])] for a in found.anns.values()]))
"#;

#[test]
fn coco_boxes_become_results_that_pycocotools_reads() {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::create_dir(folder.join("images")).unwrap();
    save_image(&folder.join("images/a.png"), (90, 120));
    save_image(&folder.join("images/b.png"), (100, 80));
    std::fs::write(folder.join("images/c.jpg"), "no picture").unwrap();
    let model = SamHq::random(&EncoderConfig::Vit(vit(256)), 4, Device::Cpu);
    save_pth(&folder.join("model.pth"), &model.state_dict()).unwrap();
    let boxed = |id: u64, image_id: u64, category_id: u64, bbox: [f64; 4]| {
        let (area, iscrowd) = (bbox[2] * bbox[3], 0);
        json!({"id": id, "image_id": image_id, "category_id": category_id, "bbox": bbox,
               "area": area, "iscrowd": iscrowd})
    };
    let mut coco = json!({
        "info": {}, "categories": [{"id": 1, "name": "x"}, {"id": 9, "name": "y"}],
        "images": [{"id": 5, "file_name": "a.png", "height": 90, "width": 120},
                   {"id": 6, "file_name": "b.png", "height": 100, "width": 80},
                   {"id": 7, "file_name": "unused.png", "height": 1, "width": 1}],
        "annotations": [boxed(1, 5, 1, [10.0, 10.0, 50.5, 60.0]), boxed(2, 5, 9, [30.0, 5.0, 200.0, 40.0]),
                        boxed(3, 6, 1, [0.0, 0.0, 80.0, 100.0])],
    });
    std::fs::write(folder.join("coco.json"), coco.to_string()).unwrap();
    let arguments = ["predict", "model.pth", "images", "--boxes-from", "coco.json", "-o", "out"];
    let _ = succeed(folder, "hqsam", &arguments);
    let output = Command::new(&python)
        .args(["-c", READ_COCO, "coco.json", "out/results.json"])
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found: Vec<(u64, u64, f64, u64, [u64; 2], u64)> =
        serde_json::from_slice(&output.stdout).unwrap();
    let ids: Vec<_> = found.iter().map(|found| (found.0, found.1, found.4)).collect();
    assert_eq!(ids, [(5, 1, [90, 120]), (5, 9, [90, 120]), (6, 1, [100, 80])]);
    assert!(found.iter().all(|found| found.3 == found.5), "the area is that of the mask");

    // One image that cannot be read does not cost the others.
    coco["images"][2]["file_name"] = json!("c.jpg");
    coco["annotations"].as_array_mut().unwrap().push(boxed(4, 7, 1, [0.0, 0.0, 1.0, 1.0]));
    std::fs::write(folder.join("coco.json"), coco.to_string()).unwrap();
    let before = std::fs::read(folder.join("out/results.json")).unwrap();
    let error = fail(folder, "hqsam", &arguments);
    assert!(error.contains("c.jpg") && error.contains("1 of 3 images"), "{error}");
    assert_eq!(std::fs::read(folder.join("out/results.json")).unwrap(), before);
}

#[test]
fn folders_lists_and_objects_write_a_mask_each() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::create_dir_all(folder.join("photos/more")).unwrap();
    save_image(&folder.join("photos/a.png"), (90, 120));
    save_image(&folder.join("photos/more/b.png"), (100, 80));
    let model = SamHq::random(&EncoderConfig::Vit(vit(256)), 4, Device::Cpu);
    save_pth(&folder.join("model.pth"), &model.state_dict()).unwrap();
    let predict =
        |rest: &[&str]| succeed(folder, "hqsam", &[&["predict", "model.pth"], rest].concat());

    let _ = predict(&[
        "photos",
        "--box",
        "10%,10%,90%,90%",
        "-o",
        "all",
        "--format",
        "png,rle,overlay",
    ]);
    for name in ["a.png.png", "a.png.overlay.png", "more/b.png.png", "results.json"] {
        assert!(folder.join("all").join(name).is_file(), "{name}");
    }
    // Logits of one call prompt the next; three objects share one encoder pass.
    let _ = predict(&[
        "photos/a.png",
        "--box",
        "10,10,90,60",
        "--logits",
        "l.safetensors",
        "-o",
        "one.png",
    ]);
    let objects = [
        "--object",
        "box=10,10,90,60 point=20,20,0",
        "--object",
        "mask=l.safetensors",
        "--object",
        "mask=one.png",
    ];
    let _ = predict(&[&["photos/a.png", "-o", "three.png"], &objects[..]].concat());
    for name in ["three-0.png", "three-1.png", "three-2.png", "three.overlay.png"] {
        assert!(folder.join(name).is_file(), "{name}");
    }
    let _ = predict(&[
        "photos/a.png",
        "--point",
        "30,30",
        "--mode",
        "sam",
        "--multimask",
        "-o",
        "sam.png",
    ]);
    assert!(folder.join("sam-0-2.png").is_file(), "SAM's third mask");
    std::fs::write(folder.join("list.csv"), "image,x0,y0,x1,y1\nmore/b.png,1,1,70,90\n").unwrap();
    let _ = predict(&["photos", "--prompts", "list.csv", "-o", "listed"]);
    assert!(
        folder.join("listed/more/b.png.png").is_file() && !folder.join("listed/a.png.png").exists()
    );
}

#[test]
fn what_a_coco_file_names_elsewhere_is_written_into_the_output() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::create_dir(folder.join("images")).unwrap();
    save_image(&folder.join("a.png"), (90, 120));
    let absolute = folder.join("b.png");
    save_image(&absolute, (90, 120));
    let model = SamHq::random(&EncoderConfig::Vit(vit(256)), 4, Device::Cpu);
    save_pth(&folder.join("model.pth"), &model.state_dict()).unwrap();
    let coco = json!({
        "images": [{"id": 1, "file_name": "../a.png"}, {"id": 2, "file_name": absolute}],
        "annotations": [{"image_id": 1, "bbox": [1, 1, 50, 60]}, {"image_id": 2, "bbox": [1, 1, 50, 60]}],
    });
    std::fs::write(folder.join("coco.json"), coco.to_string()).unwrap();
    let predict = ["predict", "model.pth", "images", "--boxes-from", "coco.json", "-o", "out/deep"];
    let _ = succeed(folder, "hqsam", &[&predict[..], &["--format", "png"]].concat());
    assert!(folder.join("out/deep/a.png.png").is_file());
    let inside = absolute.strip_prefix("/").unwrap().display().to_string() + ".png";
    assert!(folder.join("out/deep").join(inside).is_file());
    for outside in ["out/a.png.png", "b.png.png"] {
        assert!(!folder.join(outside).exists(), "{outside}");
    }
}
