//! Pairs that a list or an annotation file names.

use std::fs;

use dataset::source::{Crowd, Layout, MaskOrigin, SourceError};
use dataset::verify::RejectReason;

use crate::{discover, folder, names, reasons, spec};

#[test]
fn lists_in_both_forms_name_the_same_pairs() {
    let files = ["im/a#1 %3F.JPG", "im/b.jpg", "gt/a.png", "gt/b.png", "im/c.jpg", "im/é'.jpg"];
    let root = folder(&files);
    let csv = "\u{feff}image,mask,split,class,name,license,note\r\n\
        im/a#1 %3F.jpg,gt/a.png,,cat,,,\"x, y\"\r\n\
        ./im\\b.jpg,gt/b.png,val,,second,MIT,\r\n\
        im/é'.jpg,gt/b.png,,,,,\r\n\
        im/c.jpg,gt/c.png,,,,,\r\n";
    fs::write(root.path().join("pairs.csv"), csv).unwrap();
    let jsonl = r#"{"image": "im/a#1 %3F.jpg", "mask": "gt/a.png", "class": "cat", "note": 1}

        {"image": "im/b.jpg", "mask": "gt/b.png", "split": "val", "name": "second", "license": "MIT"}
        {"image": "im/é'.jpg", "mask": "gt/b.png", "split": null}
        {"image": "im/c.jpg", "mask": "gt/c.png"}"#;
    fs::write(root.path().join("pairs.jsonl"), jsonl).unwrap();
    let discoveries =
        [(Layout::Csv, "pairs.csv"), (Layout::Jsonl, "pairs.jsonl")].map(|(layout, list)| {
            let mut spec = spec(root.path(), layout);
            spec.list = Some(list.into());
            let error = discover(&spec).unwrap_err().to_string();
            assert!(error.contains(list) && error.contains("unknown column `note`"), "{error}");
            spec.ignore_columns = vec!["note".into()];
            discover(&spec).unwrap()
        });
    assert_eq!(discoveries[0], discoveries[1]);
    let [discovery, _] = discoveries;
    assert_eq!(names(&discovery), [("im/a#1 %3F", "train"), ("im/é'", "train"), ("second", "val")]);
    assert_eq!(reasons(&discovery), [("source/im/c", &RejectReason::MissingMask)]);
    let [first, other, second] = &discovery.pairs[..] else { panic!() };
    assert_eq!((first.class.as_deref(), first.license.as_deref()), (Some("cat"), Some("CC0-1.0")));
    assert_eq!((&*first.image, second.license.as_deref()), ("im/a#1 %3F.JPG", Some("MIT")));
    assert_eq!(other.mask, MaskOrigin::File("gt/b.png".into()));
}

#[test]
fn lists_say_what_is_wrong_with_them() {
    let root = folder(&["1.jpg", "1.png"]);
    let lists = [
        (Layout::Csv, "image,label\n1.jpg,1.png\n", "unknown column `label`"),
        (Layout::Csv, "image\n1.jpg\n", "no column `mask` in the header `image`"),
        (Layout::Csv, "image,mask\n1.jpg\n", "line: 2"),
        (Layout::Csv, "image,mask\n/1.jpg,1.png\n", ":2: `image` is `/1.jpg`: write it relative"),
        (Layout::Csv, "image,mask\n1.jpg,../1.png\n", ":2: `mask` is `../1.png`, which leads out"),
        (Layout::Csv, "image,mask\n1.jpg,s3://b/1.png\n", "relative to the root"),
        (Layout::Csv, "image,mask\n1.jpg,\n", "`mask` is empty"),
        (Layout::Csv, "image,mask\n", "no pair is listed"),
        (Layout::Jsonl, "{\"image\": \"1.jpg\"}", ":1: `mask` is empty"),
        (Layout::Jsonl, "\n[1]\n", ":2: no JSON object"),
        (Layout::Jsonl, "{\"image\": []}", "expected a string"),
    ];
    for (layout, text, expected) in lists {
        fs::write(root.path().join("list.x"), text).unwrap();
        let mut spec = spec(root.path(), layout);
        spec.list = Some("list.x".into());
        let error = discover(&spec).unwrap_err().to_string();
        assert!(error.contains("list.x") && error.contains(expected), "{text:?}: {error}");
    }
    let error = discover(&spec(root.path(), Layout::Csv)).unwrap_err().to_string();
    assert!(error.contains("needs `list`"), "{error}");
    fs::write(root.path().join("list.x"), b"image,mask\n\xff.jpg,1.png\n").unwrap();
    let mut latin = spec(root.path(), Layout::Csv);
    latin.list = Some("list.x".into());
    assert!(matches!(discover(&latin), Err(SourceError::Io { .. })));
}

/// Two images; objects of each form, a crowd, a small one, damaged ones.
fn coco() -> tempfile::TempDir {
    let root = folder(&["train2017/1 a.jpg", "train2017/2.jpg", "annotations/x.txt"]);
    let text = r#"{
        "info": {"year": 2017},
        "images": [
            {"id": 1, "file_name": "1 a.jpg", "height": 8, "width": 6, "coco_url": "http://x"},
            {"id": 2, "file_name": "train2017/2.jpg", "height": 4, "width": 4},
            {"id": 3, "file_name": "gone.jpg", "height": 4, "width": 4}
        ],
        "categories": [{"id": 7, "name": "thin object", "supercategory": "x"}],
        "annotations": [
            {"id": 10, "image_id": 1, "category_id": 7, "iscrowd": 0, "area": 12.5,
             "segmentation": [[1, 1, 5, 1, 5, 6, 1, 6]], "bbox": [1, 1, 4, 5]},
            {"id": 11, "image_id": 1, "category_id": 8, "iscrowd": 1, "area": 4.0,
             "segmentation": {"counts": [0, 4, 44], "size": [8, 6]}},
            {"id": 12, "image_id": 2, "category_id": 7,
             "segmentation": {"counts": [1, 2, 13], "size": [4, 4]}},
            {"id": 13, "image_id": 3, "category_id": 7, "iscrowd": 0,
             "segmentation": [[0, 0, 2, 0, 2, 2]]},
            {"id": 14, "image_id": 2, "category_id": 7, "iscrowd": 0, "segmentation": "?"},
            {"id": 15, "image_id": 9, "category_id": 7, "iscrowd": 0, "segmentation": []},
            {"id": 16, "image_id": 2, "category_id": 7, "iscrowd": 0,
             "segmentation": {"counts": [4], "size": [2, 2]}}
        ]
    }"#;
    fs::write(root.path().join("annotations/instances_train2017.json"), text).unwrap();
    root
}

#[test]
fn each_object_of_coco_annotations_is_a_pair() {
    let root = coco();
    let mut spec = spec(root.path(), Layout::Coco);
    assert!(discover(&spec).unwrap_err().to_string().contains("needs `annotations`"));
    spec.annotations = Some("annotations/instances_train2017.json".into());
    spec.images = Some("train2017".into());
    let discovery = discover(&spec).unwrap();
    assert_eq!(names(&discovery), [("1 a/10", "train"), ("train2017/2/12", "train")]);
    let kinds: Vec<String> = discovery
        .rejected
        .iter()
        .map(|entry| {
            let reason = serde_json::to_value(&entry.reason).unwrap();
            format!("{} {}", entry.sample_id, reason["kind"].as_str().unwrap())
        })
        .collect();
    assert_eq!(
        kinds,
        [
            "source/1 a/11 crowd",
            "source/9/15 missing_image",
            "source/gone/13 missing_image",
            "source/train2017/2/14 annotation",
            "source/train2017/2/16 annotation",
        ]
    );
    let pair = &discovery.pairs[0];
    assert_eq!((pair.class.as_deref(), &*pair.image), (Some("thin object"), "train2017/1 a.jpg"));
    assert_eq!(pair.mask.to_string(), "annotations/instances_train2017.json#10");
    let MaskOrigin::Annotation(annotation) = &pair.mask else { panic!() };
    assert_eq!(annotation.rasterise().unwrap().foreground_pixels(), 20);

    spec.crowd = Some(Crowd::Keep);
    spec.min_area = Some(4);
    let discovery = discover(&spec).unwrap();
    assert_eq!(names(&discovery), [("1 a/10", "train"), ("1 a/11", "train")]);
    let small = RejectReason::SmallObject { area: 2, min_area: 4 };
    assert!(reasons(&discovery).contains(&("source/train2017/2/12", &small)));

    fs::write(root.path().join("annotations/instances_train2017.json"), "{\"images\": 3}").unwrap();
    let error = discover(&spec).unwrap_err().to_string();
    assert!(error.contains("instances_train2017.json: not COCO annotations"), "{error}");
}
