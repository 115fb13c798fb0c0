//! Annotations become the pixels that `pycocotools` gives: `golden/coco`, and the program itself
//! where `HQSAM_PYTHON` names a Python that has it.

use std::path::Path;
use std::process::Command;

use dataset::codec::DecodeLimits;
use dataset::source::{Annotation, Shape};
use dataset::verify::RejectReason;
use serde_json::Value;

fn golden() -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/coco");
    std::fs::read_to_string(folder.join("masks.json")).unwrap()
}

fn annotation(size: (u32, u32), shape: Shape) -> Annotation {
    Annotation { file: "instances.json".into(), id: 1, size, shape }
}

fn shape(segmentation: &Value) -> Shape {
    let read = |value: &Value| serde_json::from_value(value.clone());
    match segmentation {
        Value::Array(_) => Shape::Polygons(read(segmentation).unwrap()),
        object => match &object["counts"] {
            Value::String(text) => Shape::Compressed(text.clone()),
            counts => Shape::Counts(serde_json::from_value(counts.clone()).unwrap()),
        },
    }
}

#[test]
fn masks_are_those_of_pycocotools() {
    let cases: Vec<Value> = serde_json::from_str(&golden()).unwrap();
    assert!(cases.len() > 40);
    for case in &cases {
        let size: (u32, u32) = serde_json::from_value(case["size"].clone()).unwrap();
        let runs: Vec<usize> = serde_json::from_value(case["runs"].clone()).unwrap();
        let mask = annotation(size, shape(&case["segmentation"])).rasterise().unwrap();
        let mut expected = vec![0; mask.pixels.len()];
        let mut at = 0;
        for (index, run) in runs.into_iter().enumerate() {
            for index in (at..at + run).filter(|_| index % 2 == 1) {
                expected[index % mask.height * mask.width + index / mask.height] = 255;
            }
            at += run;
        }
        assert_eq!((mask.height, mask.width), (size.0 as usize, size.1 as usize));
        assert!(mask.pixels == expected, "{case}");
    }
}

#[test]
#[expect(clippy::print_stdout, reason = "a skipped test says so")]
fn the_committed_masks_are_what_pycocotools_gives_now() {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.venv/bin/python");
    let given = std::env::var_os("HQSAM_PYTHON");
    let python = given.clone().map_or(beside, Into::into);
    if given.is_none() && !python.exists() {
        println!("skipped: no Python at {} (HQSAM_PYTHON)", python.display());
        return;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/coco/generate.py");
    let output = Command::new(&python).arg(script).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    assert!(String::from_utf8(output.stdout).unwrap() == golden());
}

#[test]
fn shapes_that_make_no_sense_are_refused() {
    let shapes = [
        (Shape::Polygons(vec![]), "no polygon"),
        (Shape::Polygons(vec![vec![1.0, 1.0, 2.0, 2.0]]), "3 or more points"),
        (Shape::Polygons(vec![vec![1.0; 7]]), "3 or more points"),
        (Shape::Polygons(vec![vec![1e9, 1.0, 2.0, 2.0, 3.0, 3.0]]), "far outside"),
        (Shape::Polygons(vec![vec![f64::NAN, 1.0, 2.0, 2.0, 3.0, 3.0]]), "far outside"),
        (Shape::Counts(vec![1, 2]), "3 pixels"),
        (Shape::Counts(vec![u32::MAX, u32::MAX]), "8589934590 pixels"),
        (Shape::Compressed("\u{7f}".into()), "no valid text"),
        (Shape::Compressed("ooooooooooooooooo".into()), "no valid text"),
        (Shape::Compressed("@".into()), "no valid text"),
        (Shape::Compressed("\u{e9}".into()), "no valid text"),
    ];
    for (shape, expected) in shapes {
        let reason = annotation((8, 6), shape.clone()).rasterise().unwrap_err();
        assert!(matches!(reason, RejectReason::Annotation { .. }), "{shape:?}");
        assert!(reason.to_string().contains(expected), "{shape:?}: {reason}");
    }
    let huge = annotation((u32::MAX, u32::MAX), Shape::Counts(vec![])).rasterise().unwrap_err();
    assert!(matches!(huge, RejectReason::TooLarge { .. }));
}

#[test]
fn the_limit_of_pixels_is_the_callers() {
    let square = annotation((8, 6), Shape::Counts(vec![4, 4, 40]));
    let limits = |max_pixels| DecodeLimits { max_pixels, ..DecodeLimits::default() };
    assert_eq!(square.rasterise_within(&limits(48)).unwrap().foreground_pixels(), 4);
    let reason = square.rasterise_within(&limits(47)).unwrap_err();
    assert!(matches!(reason, RejectReason::TooLarge { height: 8, width: 6, max_pixels: 47 }));
}
