//! A mask that is refined: it goes back to its model as a prompt, beside the clicks.

use serde_json::{Value, json};
use tch::Device;
use trainer::predict::{ImagePrompt, MaskMode, Prediction, Predictor, read_image};

use super::browser::Browser;
use super::{Server, ask, start};

fn masks(server: &Server, prompt: &Value) -> Value {
    let head = "POST /api/images/1/masks\nContent-Type: application/json";
    let (status, _, answer) = ask(server, head, prompt.to_string().as_bytes());
    assert_eq!(status, 200, "{answer}");
    serde_json::from_str(&answer).unwrap()
}

/// A first mask of the prompt below, and the one with the first as a further prompt.
fn expected(server: &Server, mode: MaskMode) -> [Prediction; 2] {
    let path = server.folder.path();
    let model = trainer::run::open_model(&path.join("model.pth"), None, Device::Cpu).unwrap().model;
    let predictor = Predictor::new(&model);
    let image = predictor.encode(&read_image(&path.join("photo.png")).unwrap()).unwrap();
    let predict = |mask| {
        let prompt = ImagePrompt {
            box_xyxy: Some([20.0, 20.0, 200.0, 180.0]),
            points: vec![[60.0, 60.0], [10.0, 10.0]],
            point_labels: vec![1.0, 0.0],
            mask,
        };
        predictor.predict(&image, &[prompt], mode, false).unwrap().remove(0)
    };
    let first = predict(None);
    let second = predict(Some(first.best_mask_input()));
    [first, second]
}

#[test]
fn each_model_refines_its_own_mask_as_the_library_does() {
    let server = start();
    let photo = std::fs::read(server.folder.path().join("photo.png")).unwrap();
    assert_eq!(ask(&server, "POST /api/images\nContent-Type: image/png", &photo).0, 200);
    let mut prompt =
        json!({"box": [20, 20, 200, 180], "points": [[60, 60, 1], [10, 10, 0]], "sum": true});
    let (first, again) = (masks(&server, &prompt), masks(&server, &prompt));
    prompt["refine"] = first["id"].clone();
    let refined = masks(&server, &prompt);
    for (name, mode) in [("sam", MaskMode::Sam), ("hq", MaskMode::Sum)] {
        assert_eq!(again[name]["png"], first[name]["png"], "{name}: the same prompt");
        assert_ne!(refined[name]["png"], first[name]["png"], "{name}: with its mask as a prompt");
        for (answer, expected) in [&first, &refined].into_iter().zip(expected(&server, mode)) {
            let area = expected.masks[0].foreground_pixels();
            assert_eq!(answer[name]["area"], json!(area), "{name}");
        }
    }
}

/// With three prompts given: each mask goes back as a prompt, a click corrects it, undo takes both
/// back.
pub(crate) fn on_the_page(browser: &mut Browser) {
    let masks = "masks.sam.src + masks.hq.src";
    let before = browser.evaluate(masks);
    let _ = browser.evaluate("document.getElementById('refine').click()");
    browser.wait("prompts.length === 4 && shown !== null && shown !== prompts[3].refine");
    assert_eq!(browser.evaluate("prompt().refine === prompts[3].refine"), true);
    let refined = browser.evaluate(masks);
    assert_ne!(refined, before, "a mask as a prompt changes the masks");
    let _ = browser.evaluate("document.querySelector('[name=label][value=\"1\"]').click()");
    browser.drag("hq", [0.5, 0.5], [0.5, 0.5]);
    browser.wait(&format!("prompts.length === 5 && {masks} !== {refined}"));
    for _ in 0..2 {
        let _ = browser.evaluate("document.getElementById('undo').click()");
    }
    browser.wait(&format!("prompts.length === 3 && {masks} === {before}"));
}
