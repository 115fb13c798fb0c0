//! Checkpoints of every kind and oddity, as the published packages and `torch.save` write them.

use std::path::Path;
use std::process::Command;

use tch::Device;
use tests::{fail, python, succeed, workspace_root};
use trainer::model::{HqInit, SamHq};
use trainer::recognise::describe;
use trainer::run::open_model;
use trainer::weights::{CheckpointKind, load, save_pth};

/// Sizes of the ViT that the script saves.
const SMALL: &str = "a ViT of 3 blocks, 64 channels and 160 pixels";

/// The script is run once: most of its time goes into the imports.
#[test]
fn checkpoints_of_every_kind_and_oddity() {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let script = workspace_root().join("tests/python/make_checkpoints.py");
    let output = Command::new(python).arg(script).arg(folder).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    every_kind_is_recognised_named_and_read(folder);
    odd_files_get_one_clear_line(folder);
    what_does_not_fit_is_listed_by_module(folder);
    a_published_trainers_decoder_is_merged_into_its_sam_only(folder);
}

fn assert_same(folder: &Path, name: &str) {
    let whole = load(&folder.join("sam_hq.pth")).unwrap().state;
    let found = load(&folder.join(name)).unwrap().state;
    for (key, tensor) in &found {
        assert!(whole[key].equal(tensor), "{name}: {key}");
    }
}

fn every_kind_is_recognised_named_and_read(folder: &Path) {
    let (sam, hq) = (CheckpointKind::Sam, CheckpointKind::SamHq);
    let kinds = [
        ("sam.pth", sam),
        ("sam_hq.pth", hq),
        ("epoch_11.pth", CheckpointKind::HqMaskDecoder),
        ("sam_maskdecoder.pth", CheckpointKind::MaskDecoderOnly),
        ("sam_hq.safetensors", hq),
        ("transformers", hq),
        ("data_parallel.pth", hq),
        ("training.pth", hq),
        ("lightning.ckpt", hq),
        ("double.pth", hq),
        ("views.pth", hq),
    ];
    for (name, kind) in kinds {
        let loaded = load(&folder.join(name)).unwrap();
        assert_eq!(loaded.kind, kind, "{name}");
        assert_same(folder, name);
        let text = describe(&loaded);
        assert_eq!(text.contains(SMALL), kind == hq || kind == sam, "{name}: {text}");
        if kind == hq {
            let opened = open_model(&folder.join(name), None, Device::Cpu).unwrap();
            assert_eq!(opened.model.hq_parameters().len(), 25, "{name}");
        }
    }
    let mobile = load(&folder.join("mobile_sam.pth")).unwrap();
    let text = describe(&mobile);
    assert!(text.starts_with("a plain SAM checkpoint, vit_tiny, "), "{text}");
    let lite = workspace_root().join("weights/lite_medsam.pth");
    if lite.exists() {
        let text = describe(&load(&lite).unwrap());
        assert!(text.starts_with("a plain SAM checkpoint, lite_medsam, "), "{text}");
    }
}

fn odd_files_get_one_clear_line(folder: &Path) {
    let image = folder.join("image.png");
    image::GrayImage::from_pixel(32, 32, image::Luma([9])).save(image).unwrap();
    let expected = [
        ("truncated.pth", "its end is missing"),
        ("empty_file.pth", "it is empty"),
        ("page.pth", "it is a web page"),
        ("pointer.pth", "Git LFS pointer"),
        ("flipped.pth", "hecksum"),
        ("legacy.pth", "PyTorch before 1.6"),
        ("harm.pth", "nothing in it was run"),
        ("module.pth", "torch.nn.modules.linear.Linear"),
        ("nothing.pth", "it holds no dict of tensors"),
        ("tensor.pth", "it holds no dict of tensors"),
        ("list.pth", "it holds no dict of tensors"),
        ("other.pth", "no SAM checkpoint at all"),
        ("sam.pth", "a plain SAM checkpoint"),
        ("epoch_11.pth", "--sam SAM"),
        ("shape.pth", "iou_token.weight: of another shape (needs [1, 256], found [1, 128])"),
        ("integers.pth", "iou_token.weight: not of floating-point numbers (Int64)"),
    ];
    for (name, words) in expected {
        let arguments = ["predict", name, "image.png", "--box", "1,1,20,20"];
        let error = fail(folder, "hqsam", &arguments);
        assert!(error.contains(name) && error.contains(words), "{name}: {error}");
        // What does not fit is listed below the line, one module a line.
        let lines = if words.contains("iou_token") { 2 } else { 1 };
        assert_eq!(error.trim().lines().count(), lines, "{name}: {error}");
    }
    assert!(!folder.join("harmed").exists(), "the pickle was executed");
}

fn what_does_not_fit_is_listed_by_module(folder: &Path) {
    let refuse = |name: &str, reference: &str| {
        let encoder =
            trainer::recognise::recognise_encoder(&load(&folder.join(reference)).unwrap().state);
        let state = load(&folder.join(name)).unwrap().state;
        let model = SamHq::from_state(&encoder.unwrap(), state, HqInit::FromState, Device::Cpu);
        model.err().unwrap().to_string()
    };
    let error = refuse("block.pth", "sam_hq.pth");
    assert!(error.contains("\n  image_encoder.blocks.2.*: 14 missing"), "{error}");
    assert_eq!(error.lines().count(), 2, "{error}");
    let error = refuse("sam.pth", "sam_hq.pth");
    assert!(error.contains("\n  mask_decoder.hf_mlp.*: 6 missing"), "{error}");
    let error = refuse("sam_hq.pth", "mobile_sam.pth");
    assert!(error.contains("\n  image_encoder.layers.1.*: "), "{error}");
    assert!(error.contains("\n  image_encoder.blocks.0.*: 14 unexpected"), "{error}");
}

fn a_published_trainers_decoder_is_merged_into_its_sam_only(folder: &Path) {
    let merge = ["export", "epoch_11.pth", "--sam", "sam.pth", "-o", "merged.pth"];
    let _ = succeed(folder, "hqsam", &merge);
    assert_same(folder, "merged.pth");
    assert_eq!(load(&folder.join("merged.pth")).unwrap().kind, CheckpointKind::SamHq);

    let mut other = load(&folder.join("sam.pth")).unwrap().state;
    let token = other.get_mut("mask_decoder.iou_token.weight").unwrap();
    *token = &*token + 1.0;
    save_pth(&folder.join("other.pth"), &other).unwrap();
    let refused = ["export", "epoch_11.pth", "--sam", "other.pth", "-o", "wrong.pth"];
    let error = fail(folder, "hqsam", &refused);
    assert!(error.contains("trained on another SAM") && error.contains("iou_token"), "{error}");
    assert!(!folder.join("wrong.pth").exists());
}
