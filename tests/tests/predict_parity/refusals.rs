//! What `hqsam predict` and `hqsam amg` refuse, and in which words.

use std::path::Path;

use tch::Device;
use tests::fail;
use trainer::model::{EncoderConfig, SamHq};
use trainer::weights::save_pth;

use super::{save_image, vit};

/// A model and pictures of 120 x 90 pixels (width x height), one of another size, and lists.
fn prepared() -> tempfile::TempDir {
    let prepared = tempfile::tempdir().unwrap();
    let folder = prepared.path();
    save_image(&folder.join("a.png"), (90, 120));
    save_image(&folder.join("a-0.png"), (90, 120));
    save_image(&folder.join("other.png"), (80, 120));
    std::fs::create_dir(folder.join("empty")).unwrap();
    let model = SamHq::random(&EncoderConfig::Vit(vit(256)), 4, Device::Cpu);
    save_pth(&folder.join("model.pth"), &model.state_dict()).unwrap();
    std::fs::create_dir(folder.join("more")).unwrap();
    save_image(&folder.join("more/a.png"), (90, 120));
    std::fs::write(folder.join("none.json"), r#"{"a.png": []}"#).unwrap();
    prepared
}

/// Every call fails with one line that holds the words.
fn refused(folder: &Path, cases: &[(&[&str], &str)]) {
    for (arguments, expected) in cases {
        let error = fail(folder, "hqsam", &[&["predict", "model.pth"], *arguments].concat());
        assert!(error.contains(expected), "{arguments:?}: {error}");
        assert_eq!(error.trim().lines().count(), 1, "{error}");
    }
}

#[test]
fn what_cannot_be_predicted_is_said_in_one_line() {
    let folder = prepared();
    let folder = folder.path();
    let cases: [(&[&str], &str); 13] = [
        (
            &["a.png", "more/a.png", "--box", "1,1,9,9", "-o", "out"],
            "a.png and more/a.png would both be written as a.png",
        ),
        (
            &["a.png", "--prompts", "none.json", "--logits", "l.safetensors"],
            "a.png: --logits: the list has no prompt for this image",
        ),
        (
            &["a.png", "--box", "121,1,500,20"],
            "a.png: the box 121,1,500,20 is not within the image of 120 x 90",
        ),
        (&["a.png", "--box", "-9,1,-2,20"], "the box -9,1,-2,20 is not within the image"),
        (&["a.png", "--point", "121,1"], "not within the image of 120 x 90"),
        (&["a.png", "--point", "-1,5"], "the point -1,5 is not within the image of 120 x 90"),
        (&["a.png", "--box", "9,9,9,20"], "is empty"),
        (&["a.png"], "no prompt"),
        (&["a.png", "--box", "1,1,9,9", "-o", "mask.jpg"], "mask.jpg: the mask of one image"),
        (&["a.png", "--mask", "other.png"], "120 x 80 pixels, the image 120 x 90"),
        (&["a.png", "--box", "1,1,9,9", "--box", "2,2,9,9", "--point", "1,1"], "--object"),
        (&["empty", "--box", "1,1,9,9"], "no image in this folder"),
        (&["absent.png", "--box", "1,1,9,9"], "no such image or folder"),
    ];
    refused(folder, &cases);
    let error = fail(folder, "hqsam", &["amg", "model.pth", "a.png", "more", "-o", "out"]);
    assert!(error.contains("would both be written as a.png"), "{error}");
    let amg = ["amg", "model.pth", "a.png", "--points-per-side", "99999999999"];
    let error = fail(folder, "hqsam", &amg);
    assert!(error.contains("--points-per-side 99999999999: 1 to 1024 are possible"), "{error}");
}

#[test]
fn what_is_read_is_not_written_over() {
    let folder = prepared();
    let folder = folder.path();
    let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
    let names = ["a.png", "a-0.png", "none.json"];
    let before = names.map(read);
    let cases: [(&[&str], &str); 8] = [
        (&["a.png", "--box", "1,1,9,9", "-o", "a.png"], "a.png: this file is read here"),
        (&["a.png", "--box", "1,1,9,9", "-o", "more/../a.png"], "this file is read here"),
        (&["a.png", "--box", "1,1,9,9", "--overlay", "a.png"], "a.png: this file is read here"),
        (
            &["a-0.png", "--box", "1,1,9,9", "--box", "2,2,9,9", "-o", "a.png"],
            "a-0.png: this file is read here",
        ),
        (
            &["a.png", "--prompts", "none.json", "--format", "rle", "-o", "none.png"],
            "none.json: this file is read here",
        ),
        (
            &["a.png", "--box", "1,1,9,9", "--logits", "a.png"],
            "--logits a.png: logits are written as a file that ends in .safetensors",
        ),
        (
            &["more", "--box", "1,1,9,9", "--overlay", "o.png"],
            "--logits and --overlay name one file each",
        ),
        (
            &["a.png", "--box", "1,1,9,9", "--logits", "absent/l.safetensors"],
            "cannot write absent/l.safetensors: No such file",
        ),
    ];
    refused(folder, &cases);
    assert!(names.map(read) == before, "an input was written over");
    let twice =
        ["predict", "model.pth", "a.png", "--box", "1,1,9,9", "--logits", "absent/l.safetensors"];
    let error = fail(folder, "hqsam", &twice);
    assert_eq!(error.matches("No such file").count(), 1, "{error}");
}

#[test]
fn options_that_do_not_go_together_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (options, expected) in [
        (&["--box", "1,1,9,9", "--image-info", "info.json"][..], "cannot be used with"),
        (&["--box", "--point", "1,1"], "numbers are missing before --point"),
    ] {
        let arguments = [&["predict", "model.pth", "a.png"], options].concat();
        let error = fail(folder.path(), "hqsam", &arguments);
        assert!(error.contains(expected), "{options:?}: {error}");
    }
}
