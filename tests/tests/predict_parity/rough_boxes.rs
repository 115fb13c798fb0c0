//! Boxes as they are found: without a side, over the edge, of pictures that EXIF data turn.

use std::path::Path;

use serde_json::{Value, json};
use tch::Device;
use tests::{fail, run, succeed};
use trainer::model::{EncoderConfig, SamHq};
use trainer::weights::save_pth;

use super::{save_image, vit};

/// A folder with `model.pth` and `images/a.png` of 120 x 90 pixels (width x height).
fn prepared() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("images")).unwrap();
    save_image(&folder.path().join("images/a.png"), (90, 120));
    let model = SamHq::random(&EncoderConfig::Vit(vit(256)), 4, Device::Cpu);
    save_pth(&folder.path().join("model.pth"), &model.state_dict()).unwrap();
    folder
}

const COCO: [&str; 7] =
    ["predict", "model.pth", "images", "--boxes-from", "coco.json", "-o", "out"];

fn results(folder: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(folder.join("out/results.json")).unwrap()).unwrap()
}

#[test]
fn a_box_without_a_side_costs_its_own_mask_only() {
    let folder = prepared();
    let folder = folder.path();
    let boxed = |category: u64, bbox: [f64; 4]| json!({"image_id": 1, "category_id": category, "bbox": bbox});
    let coco = json!({
        "images": [{"id": 1, "file_name": "a.png", "width": 120, "height": 90}],
        "annotations": [boxed(1, [5.0, 5.0, 0.0, 30.0]), boxed(2, [10.0, 10.0, 50.0, 60.0]),
                        boxed(3, [120.0, 0.0, 9.0, 9.0]), boxed(4, [60.0, 20.0, 99.0, 40.0])],
    });
    std::fs::write(folder.join("coco.json"), coco.to_string()).unwrap();
    let output = run(folder, "hqsam", &[&COCO[..], &["--format", "rle,png"]].concat());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    assert!(stderr.contains("left out") && stderr.contains("on their image: 2"), "{stderr}");
    assert!(stderr.contains("cut at its edges: 1"), "{stderr}");
    let found = results(folder);
    let categories: Vec<&Value> =
        found.as_array().unwrap().iter().map(|result| &result["category_id"]).collect();
    assert_eq!(categories, [2, 4]);
    // Each mask is that of its box alone, and its file has the number of its object.
    for (name, corners) in [("1", "10,10,60,70"), ("3", "60,20,120,60")] {
        let alone = ["predict", "model.pth", "images/a.png", "--box", corners, "-o", "alone.png"];
        let _ = succeed(folder, "hqsam", &alone);
        let read = |path: &str| std::fs::read(folder.join(path)).unwrap();
        assert!(read(&format!("out/a.png-{name}.png")) == read("alone.png"), "{corners}");
    }
    assert!(!folder.join("out/a.png-0.png").exists());
}

#[test]
fn a_box_over_the_edge_is_cut_wherever_it_comes_from() {
    let folder = prepared();
    let folder = folder.path();
    let mask = |rest: &[&str], name: &str| {
        let predict = ["predict", "model.pth", "images/a.png", "-o", name];
        let output = run(folder, "hqsam", &[&predict[..], rest].concat());
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{stderr}");
        (stderr, std::fs::read(folder.join(name)).unwrap())
    };
    let (stderr, inside) = mask(&["--box", "0,0,100,90"], "inside.png");
    assert!(!stderr.contains("cut"), "{stderr}");
    std::fs::write(folder.join("list.json"), r#"{"a.png": [{"box": [-5, 0, 100, 95]}]}"#).unwrap();
    for rest in [
        &["--box", "-5,0,100,95"][..],
        &["--object", "box=-5,-1,100,95"],
        &["--prompts", "list.json"],
    ] {
        let (stderr, cut) = mask(rest, "cut.png");
        assert_eq!(stderr.matches("cut at its edges: 1").count(), 1, "{rest:?}: {stderr}");
        assert!(cut == inside, "{rest:?}");
    }
}

/// The JPEG file with EXIF data by which it is turned by a quarter.
fn turned(jpeg: &[u8]) -> Vec<u8> {
    let tiff = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
    let length = (2 + 6 + tiff.len()) as u16;
    [&jpeg[..2], &[0xFF, 0xE1], &length.to_be_bytes(), b"Exif\0\0", tiff, &jpeg[2..]].concat()
}

#[test]
fn boxes_belong_to_a_picture_of_the_size_that_their_file_tells() {
    let folder = prepared();
    let folder = folder.path();
    let (picture, _) = dataset::draw::draw_pair(3, 0, (90, 120));
    let mut jpeg = Vec::new();
    image::codecs::jpeg::JpegEncoder::new(&mut jpeg)
        .encode(&picture.pixels, 120, 90, image::ExtendedColorType::Rgb8)
        .unwrap();
    std::fs::write(folder.join("images/plain.jpg"), &jpeg).unwrap();
    std::fs::write(folder.join("images/turned.jpg"), turned(&jpeg)).unwrap();
    let write = |name: &str, size: Option<(u64, u64)>| {
        let mut image = json!({"id": 1, "file_name": name});
        if let Some((width, height)) = size {
            image["width"] = json!(width);
            image["height"] = json!(height);
        }
        let boxes = json!([{"image_id": 1, "category_id": 1, "bbox": [10, 20, 60, 50]}]);
        let coco = json!({"images": [image], "annotations": boxes});
        std::fs::write(folder.join("coco.json"), coco.to_string()).unwrap();
    };
    let predicted = |name: &str, size| {
        write(name, size);
        let _ = succeed(folder, "hqsam", &COCO);
        results(folder)
    };
    let plain = predicted("plain.jpg", Some((120, 90)));
    assert_eq!(plain[0]["segmentation"]["size"], json!([90, 120]));
    assert_eq!(predicted("plain.jpg", None), plain);
    // Made by a program that reads EXIF data, or that tells no size: the upright picture.
    let upright = predicted("turned.jpg", Some((90, 120)));
    assert_eq!(upright[0]["segmentation"]["size"], json!([120, 90]));
    assert_eq!(predicted("turned.jpg", None), upright);
    // Made by one that does not: the picture as it is stored.
    assert_eq!(predicted("turned.jpg", Some((120, 90))), plain);
    for (name, size) in [("plain.jpg", (10, 10)), ("plain.jpg", (90, 120)), ("turned.jpg", (12, 9))]
    {
        write(name, Some(size));
        let error = fail(folder, "hqsam", &COCO);
        let words = format!("{} x {} pixels (width x height), and it has", size.0, size.1);
        assert!(error.contains(name) && error.contains(&words), "{error}");
    }
}
