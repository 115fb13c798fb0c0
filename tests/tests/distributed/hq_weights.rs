//! Training that starts from given HQ weights.

use tests::{lines, save_tiny_sam, succeed};
use trainer::model::{HqInit, SamHq, StateDict};
use trainer::{checkpoint, weights};

use crate::{folder, train};

#[test]
fn training_starts_from_given_hq_weights() {
    let folder = folder();
    let folder = folder.path();
    let (encoder, hq) = save_tiny_sam(&folder.join("sam.pth"));
    let sam = "model.checkpoint=\"sam.pth\"";
    train(folder, "first", &[sam]);
    let _ = succeed(folder, "hqsam", &["export", "first"]);
    let merged = weights::load(&folder.join("first/hqsam.pth")).unwrap().state;
    // As the published trainer saves it: the mask decoder alone, without that prefix.
    let decoder = merged.iter().filter_map(|(name, tensor)| {
        Some((name.strip_prefix("mask_decoder.")?.to_owned(), tensor.shallow_clone()))
    });
    weights::save_pth(&folder.join("decoder.pth"), &decoder.collect()).unwrap();
    let hq_of = |state: &StateDict| -> StateDict {
        let kept = state.iter().filter(|(name, _)| hq.contains(name));
        kept.map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect()
    };
    let trained_digest = |run: &str| {
        let newest = checkpoint::list(&folder.join(run)).unwrap().pop().unwrap();
        checkpoint::digest(&checkpoint::load(&newest).unwrap().hq_parameters)
    };
    assert_eq!(trained_digest("first"), checkpoint::digest(&hq_of(&merged)));

    // Steps too small to change a float: what a run ends with is what it started from.
    let still = "train.lr=1e-30";
    for (name, file) in [("merged", "first/hqsam.pth"), ("decoder", "decoder.pth")] {
        train(folder, name, &[sam, still, &format!("model.hq_checkpoint=\"{file}\"")]);
        assert_eq!(trained_digest(name), trained_digest("first"), "{file}");
    }
    train(folder, "fresh", &[sam, still]);
    let sam_state = weights::load(&folder.join("sam.pth")).unwrap().state;
    let init = HqInit::Fresh { seed: 42 };
    let fresh = SamHq::from_state(&encoder, sam_state, init, tch::Device::Cpu).unwrap();
    let newest = checkpoint::list(&folder.join("fresh")).unwrap().pop().unwrap();
    let (found, fresh) = (checkpoint::load(&newest).unwrap().hq_parameters, fresh.state_dict());
    for (name, tensor) in &found {
        // What is exactly zero at first does change.
        let difference = (tensor - &fresh[name]).abs().max().double_value(&[]);
        assert!(difference < 1e-25, "{name}: {difference}");
    }
    assert_ne!(trained_digest("fresh"), trained_digest("first"));

    // And they are trained on from there.
    train(folder, "on", &[sam, "model.hq_checkpoint=\"decoder.pth\""]);
    assert_ne!(trained_digest("on"), trained_digest("first"));
    let losses = |run: &str| -> Vec<f64> {
        let steps = lines(&folder.join(run).join("steps.jsonl"));
        steps.iter().map(|step| step["loss"].as_f64().unwrap()).collect()
    };
    assert_eq!(losses("on")[0], losses("merged")[0], "the same samples, the same weights");
    assert_ne!(losses("on")[0], losses("fresh")[0]);
}
