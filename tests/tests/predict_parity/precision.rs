//! The number type in which a run and its export compute.

use serde_json::Value;
use tests::{run, succeed, tiny};

use super::save_image;

const CHANGES: &str = r#"
[train]
bf16 = true
epochs = 1
checkpoint_every_steps = 0
[eval]
splits = []
"#;

#[test]
fn a_run_in_bfloat16_says_so_and_predicts_as_its_export_when_asked() {
    let folder = tiny(CHANGES);
    let folder = folder.path();
    let _ = succeed(folder, "hqsam", &["train", "tiny.toml"]);
    let _ = succeed(folder, "hqsam", &["export", "run", "-o", "model.pth"]);
    save_image(&folder.join("a.png"), (90, 120));
    let predict = |model: &str, precision: &[&str]| {
        let call = ["predict", model, "a.png", "--box", "10,10,80,70", "--logits", "l.safetensors"];
        let output = run(folder, "hqsam", &[&call[..], precision].concat());
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{stderr}");
        let says = stderr.contains("the encoder computes in bfloat16, as in training");
        (says, std::fs::read(folder.join("l.safetensors")).unwrap())
    };
    let (float32, bfloat16) = (&["--precision", "float32"][..], &["--precision", "bfloat16"][..]);
    let (says, rounded) = predict("run", &[]);
    assert!(says);
    let (says, exported) = predict("model.pth", &[]);
    assert!(!says && exported != rounded);
    assert!(predict("run", float32) == (false, exported.clone()));
    assert!(predict("model.pth", float32) == (false, exported));
    assert!(predict("model.pth", bfloat16) == (false, rounded));
    let evaluated = |more: &[&str]| {
        let call = ["eval", "model.pth", "--data", "data", "--split", "val", "--json"];
        let report = succeed(folder, "hqsam", &[&call[..], more].concat());
        let report: Value = serde_json::from_str(&report).unwrap();
        report[0]["conditions"].as_str().unwrap().contains("the encoder in bfloat16")
    };
    assert!(!evaluated(&["--batch", "3"]) && evaluated(bfloat16));
    for command in ["amg", "serve"] {
        assert!(
            succeed(folder, "hqsam", &[command, "--help"]).contains("--precision"),
            "{command}"
        );
    }
}
