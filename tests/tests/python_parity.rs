//! Exported models opened by the Python packages that people have.

use std::path::Path;
use std::process::{Command, Output};

use tch::Device;
use tests::{python, succeed, workspace_root};
use trainer::config::TrainConfig;
use trainer::export::{ExportFormat, export};
use trainer::model::{EncoderConfig, SamHq, VitConfig};
use trainer::weights::save_pth;

/// Logits of our `hqsam predict` against the package's own predictor.
const LOGITS_TOLERANCE: f64 = 1e-3;
/// Share of a mask's pixels that those logits may move over the threshold.
const MASK_PIXELS: f64 = 1e-3;

#[test]
#[expect(clippy::print_stdout, reason = "the measured difference belongs to the result")]
fn exported_files_predict_the_same_in_segment_anything_hq() {
    let Some(python) = python() else { return };
    let cases = [
        ("vit_tiny", 1024, "model.pth"),
        ("vit_b", 1024, "model.pth"),
        ("vit_tiny", 400, "model.safetensors"),
    ];
    for (name, side, file) in cases {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let encoder = EncoderConfig::named(name).unwrap();
        let state = SamHq::random(&encoder, 11, Device::Cpu).state_dict();
        let format = match file {
            "model.pth" => ExportFormat::Pth,
            _ => ExportFormat::Safetensors,
        };
        export(&state, &encoder, &folder.join(file), format).unwrap();
        let (box_, point) = predict_logits(folder, file, (side * 3 / 4, side));
        let output = run_script(
            &python,
            folder,
            "tests/python/compare_predict.py",
            &[name, file, "image.png", "logits.safetensors", &box_, &point],
        );
        let stdout = String::from_utf8_lossy(&output.stdout);
        let result: serde_json::Value = serde_json::from_str(stdout.trim()).unwrap();
        assert_eq!(result["missing"], serde_json::json!([]), "{name}");
        assert_eq!(result["unexpected"], serde_json::json!([]), "{name}");
        let difference = result["max_difference"].as_f64().unwrap();
        println!("{name}, {side} px: largest difference {difference:.2e}");
        assert!(difference < LOGITS_TOLERANCE, "{name}, {side} px: {difference}");
    }
}

/// A ViT of two blocks: transformers reads its sizes from the exported folder.
const SMALL_VIT: &str = r#"
output = "run"
[model]
random_sam = true
[model.encoder]
kind = "vit"
img_size = 512
embed_dim = 64
depth = 2
num_heads = 2
window_size = 7
global_attn_indexes = [1]
[data]
path = "data"
"#;

#[test]
#[expect(clippy::print_stdout, reason = "the measured difference belongs to the result")]
fn exported_folder_predicts_the_same_in_transformers() {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::write(folder.join("small.toml"), SMALL_VIT).unwrap();
    let config = TrainConfig::load(&folder.join("small.toml"), &[]).unwrap();
    let encoder = config.model.encoder.resolve().unwrap();
    let state = SamHq::random(&encoder, 5, Device::Cpu).state_dict();
    save_pth(&folder.join("model.pth"), &state).unwrap();
    let export = ["export", "model.pth", "--format", "transformers", "-o", "exported"];
    let _ = succeed(folder, "hqsam", &export);
    assert!(folder.join("exported/README.md").is_file(), "no model card");
    let cases = predict_cases(folder, "exported");
    std::fs::write(folder.join("cases.json"), cases.to_string()).unwrap();
    let script = "tests/python/compare_transformers.py";
    let output = run_script(&python, folder, script, &["exported", "cases.json"]);
    let result: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    for kind in ["missing", "unexpected", "mismatched"] {
        assert_eq!(result[kind], serde_json::json!([]), "{kind}");
    }
    println!(
        "transformers: without the correction {}, with it {}",
        result["as_it_is"], result["cases"]
    );
    assert!(
        result["as_it_is"].as_f64().unwrap() > LOGITS_TOLERANCE,
        "the card's correction is void"
    );
    for (name, case) in cases.as_object().unwrap() {
        let found = |what: &str| result["cases"][name][what].as_f64().unwrap();
        assert!(found("logits") < LOGITS_TOLERANCE, "{name}: {result}");
        assert!(found("pixels") < MASK_PIXELS, "{name}: {result}");
        if case["hq_only"] == false {
            assert!(found("iou") < LOGITS_TOLERANCE, "{name}: {result}");
        }
    }
}

/// Predicts with every prompt and output that transformers has: in pictures that the encoder takes as
/// they are, and one that both resize.
fn predict_cases(folder: &Path, model: &str) -> serde_json::Value {
    draw(folder, "padded.png", (400, 512));
    draw(folder, "resized.png", (300, 384));
    let mut cases = serde_json::json!({
        "hq": {"image": "padded.png", "box": [64, 50, 256, 300], "points": [[128, 100, 1]], "hq_only": true},
        "sum": {"image": "padded.png", "box": [64, 50, 256, 300], "hq_only": false},
        "best": {"image": "padded.png", "points": [[128, 100, 1]], "hq_only": false, "multimask": true},
        "points": {"image": "padded.png", "points": [[128, 100, 1], [300, 200, 0]], "hq_only": true},
        // Cases are made in the order of their names: `hq` is there.
        "mask": {"image": "padded.png", "mask": "hq.safetensors", "hq_only": false},
        "mask_box": {"image": "padded.png", "mask": "hq.safetensors", "box": [64, 50, 256, 300], "hq_only": true},
        "resized": {"image": "resized.png", "box": [48, 40, 200, 220], "points": [[96, 80, 1]], "hq_only": false},
    });
    for (name, case) in cases.as_object_mut().unwrap() {
        let (logits, png) = (format!("{name}.safetensors"), format!("{name}-mask.png"));
        let numbers = |list: &serde_json::Value| {
            let numbers: Vec<String> =
                list.as_array().unwrap().iter().map(ToString::to_string).collect();
            numbers.join(",")
        };
        let mode = if case["hq_only"] == true { "hq" } else { "sum" };
        let mut arguments = vec!["predict".to_owned(), model.to_owned()];
        arguments.push(case["image"].as_str().unwrap().to_owned());
        arguments.extend(["--mode", mode, "--logits", &logits, "-o", &png].map(String::from));
        if let Some(list) = case.get("box") {
            arguments.extend(["--box".to_owned(), numbers(list)]);
        }
        for point in case.get("points").and_then(|points| points.as_array()).into_iter().flatten() {
            arguments.extend(["--point".to_owned(), numbers(point)]);
        }
        if let Some(file) = case.get("mask") {
            arguments.extend(["--mask".to_owned(), file.as_str().unwrap().to_owned()]);
        }
        if case.get("multimask").is_some() {
            arguments.push("--multimask".into());
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let _ = succeed(folder, "hqsam", &arguments);
        case["multimask"] = case.get("multimask").is_some().into();
        case["logits"] = logits.into();
        case["png"] = png.into();
    }
    cases
}

fn draw(folder: &Path, name: &str, (height, width): (usize, usize)) {
    let (image, _) = dataset::draw::draw_pair(3, 0, (height, width));
    let (width, height) = (width as u32, height as u32);
    let rgb = image::ColorType::Rgb8;
    image::save_buffer(folder.join(name), &image.pixels, width, height, rgb).unwrap();
}

#[test]
fn onnx_graphs_are_made_and_checked_by_the_shipped_script() {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let encoder = EncoderConfig::named("vit_tiny").unwrap();
    let state = SamHq::random(&encoder, 7, Device::Cpu).state_dict();
    save_pth(&folder.join("random.pth"), &state).unwrap();
    let _ = succeed(folder, "hqsam", &["export", "random.pth", "-o", "model.pth"]);
    let arguments = ["model.pth", "--model-type", "vit_tiny", "--output", "onnx"];
    let output = run_script(&python, folder, "scripts/export_onnx.py", &arguments);
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert_eq!(stdout.matches("of torch").count(), 2, "{stdout}");
    for name in ["encoder.onnx", "decoder.onnx"] {
        assert!(folder.join("onnx").join(name).metadata().unwrap().len() > 1 << 20, "{name}");
    }
    let card = |folder: &Path| std::fs::read_to_string(folder.join("README.md")).unwrap();
    let text = card(&folder.join("onnx"));
    let of_model = std::fs::read_to_string(folder.join("model.md")).unwrap();
    assert!(text.starts_with(of_model.trim_end()) && text.contains("the HQ logits"), "{text}");
    // Another model type than the file's is refused by name, what is no model too, and nothing is written.
    std::fs::write(folder.join("text.pth"), "no model").unwrap();
    for (model, words) in [
        ("model.pth", "is no vit_b HQ-SAM"),
        ("absent.pth", "cannot read absent.pth: No such file"),
        ("text.pth", "text.pth is no model that torch can load"),
    ] {
        let refused = Command::new(&python)
            .arg(workspace_root().join("scripts/export_onnx.py"))
            .args([model, "--model-type", "vit_b", "--output", "wrong"])
            .current_dir(folder)
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && stderr.contains(words), "{stderr}");
        assert_eq!(stderr.trim().lines().count(), 1, "{stderr}");
    }
    assert!(!folder.join("wrong").exists());
}

#[test]
fn onnx_graphs_of_a_vit_take_every_prompt_and_size_or_are_refused() {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let sizes = VitConfig {
        img_size: 256,
        embed_dim: 64,
        depth: 2,
        num_heads: 2,
        window_size: 7,
        global_attn_indexes: vec![1],
        ..VitConfig::default()
    };
    std::fs::write(folder.join("sizes.json"), serde_json::to_string(&sizes).unwrap()).unwrap();
    let state = SamHq::random(&EncoderConfig::Vit(sizes), 7, Device::Cpu).state_dict();
    save_pth(&folder.join("model.pth"), &state).unwrap();
    let script = workspace_root().join("scripts/export_onnx.py");
    let arguments = [script.to_str().unwrap(), "model.pth", "sizes.json"];
    let output = run_script(&python, folder, "tests/python/export_small_onnx.py", &arguments);
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert_eq!(stdout.matches("of torch on 4 inputs").count(), 4, "{stdout}");
    let mut decoders = Vec::new();
    for (name, words) in [
        ("plain", "with the HQ logits, a single mask"),
        ("sum", "with SAM's logits and the HQ logits, a single mask"),
        ("multimask", "with the HQ logits, the best of SAM's three masks"),
        ("sum_multimask", "with SAM's logits and the HQ logits, the best of SAM's three masks"),
    ] {
        let folder = folder.join(name);
        decoders.push(std::fs::read(folder.join("decoder.onnx")).unwrap());
        assert!(folder.join("encoder.onnx").is_file());
        let card = std::fs::read_to_string(folder.join("README.md")).unwrap();
        assert!(card.contains(words) && card.contains("are not known here"), "{card}");
    }
    assert!(decoders[0] != decoders[1] && decoders[1] != decoders[3]);
    // A constant that the traced inputs do not show.
    let refusal = stdout.lines().find(|line| line.starts_with("refused: decoder"));
    assert!(refusal.is_some_and(|line| line.ends_with("nothing is left")), "{stdout}");
    assert_eq!(folder.join("constant").read_dir().unwrap().count(), 0);
}

/// Draws `image.png` and writes the model's logits of a box and a point, which are returned, to
/// `logits.safetensors`.
fn predict_logits(folder: &Path, model: &str, (height, width): (usize, usize)) -> (String, String) {
    draw(folder, "image.png", (height, width));
    let box_ = format!("{0},{0},{1},{1}", width / 8, width / 2);
    let point = format!("{0},{0}", width / 4);
    let _ = succeed(
        folder,
        "hqsam",
        &[
            "predict",
            model,
            "image.png",
            "--box",
            &box_,
            "--point",
            &point,
            "--logits",
            "logits.safetensors",
        ],
    );
    (box_, point)
}

fn run_script(python: &Path, folder: &Path, script: &str, arguments: &[&str]) -> Output {
    let output = Command::new(python)
        .arg(workspace_root().join(script))
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}{stderr}", String::from_utf8_lossy(&output.stdout));
    output
}
