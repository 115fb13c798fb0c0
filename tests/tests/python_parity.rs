//! Exported models opened by the published Python package.

use std::process::Command;

use tch::Device;
use tests::{python, succeed, workspace_root};
use trainer::model::{EncoderConfig, SamHq};
use trainer::weights::save_pth;

/// Logits of our `hqsam predict` against the package's own predictor.
const LOGITS_TOLERANCE: f64 = 1e-3;

#[test]
#[expect(clippy::print_stdout, reason = "the measured difference belongs to the result")]
fn exported_pth_predicts_the_same_in_segment_anything_hq() {
    let Some(python) = python() else { return };
    for (name, side) in [("vit_tiny", 1024), ("vit_b", 1024), ("vit_tiny", 400)] {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let encoder = EncoderConfig::named(name).unwrap();
        let state = SamHq::random(&encoder, 11, Device::Cpu).state_dict();
        save_pth(&folder.join("model.pth"), &state).unwrap();
        let (height, width) = (side * 3 / 4, side);
        let (image, _) = dataset::draw::draw_pair(3, 0, (height, width));
        image::save_buffer(
            folder.join("image.png"),
            &image.pixels,
            width as u32,
            height as u32,
            image::ColorType::Rgb8,
        )
        .unwrap();
        let box_ = format!("{},{},{},{}", side / 8, side / 8, side / 2, side / 2);
        let point = format!("{},{}", side / 4, side / 4);
        let _ = succeed(
            folder,
            "hqsam",
            &[
                "predict",
                "model.pth",
                "image.png",
                "--box",
                &box_,
                "--point",
                &point,
                "--logits",
                "logits.safetensors",
            ],
        );
        let output = Command::new(&python)
            .arg(workspace_root().join("tests/python/compare_predict.py"))
            .args([name, "model.pth", "image.png", "logits.safetensors", &box_, &point])
            .current_dir(folder)
            .output()
            .unwrap();
        let stdout = String::from_utf8_lossy(&output.stdout);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{stdout}{stderr}");
        let result: serde_json::Value = serde_json::from_str(stdout.trim()).unwrap();
        assert_eq!(result["missing"], serde_json::json!([]), "{name}");
        assert_eq!(result["unexpected"], serde_json::json!([]), "{name}");
        let difference = result["max_difference"].as_f64().unwrap();
        println!("{name}, {side} px: largest difference {difference:.2e}");
        assert!(difference < LOGITS_TOLERANCE, "{name}, {side} px: {difference}");
    }
}
