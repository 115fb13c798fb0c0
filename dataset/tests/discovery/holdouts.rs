//! A share of the pictures that is held out.

use std::collections::BTreeMap;
use std::fs;

use dataset::source::{Layout, SplitRule};

use crate::{discover, folder, names, spec};

#[test]
fn a_holdout_is_exact_and_stable() {
    let files: Vec<String> =
        (1..=50).flat_map(|n| [format!("Imgs/{n}.jpg"), format!("Imgs/{n}.png")]).collect();
    let root = folder(&files.iter().map(String::as_str).collect::<Vec<_>>());
    let mut spec = spec(root.path(), Layout::Msra10k);
    let mut held_out = |seed| {
        spec.split = SplitRule::Holdout { fraction: 0.2, seed };
        let discovery = discover(&spec).unwrap();
        let val = discovery.pairs.into_iter().filter(|pair| pair.split == "val");
        val.map(|pair| pair.name).collect::<Vec<_>>()
    };
    let first = held_out(0);
    assert_eq!(first.len(), 10);
    assert_eq!(first, held_out(0));
    assert_ne!(first, held_out(1));
}

#[test]
fn objects_of_one_picture_are_held_out_together_and_evaluation_parts_stay() {
    let object = |id: u32| {
        let image = id % 10;
        format!(
            r#"{{"id": {id}, "image_id": {image}, "segmentation": [[1, 1, 8, 1, 8, 8]], "iscrowd": 0}}"#
        )
    };
    let image =
        |id: u32| format!(r#"{{"id": {id}, "file_name": "{id}.jpg", "height": 9, "width": 9}}"#);
    let list = |entry: &dyn Fn(u32) -> String, n| (0..n).map(entry).collect::<Vec<_>>().join(",");
    let images: Vec<String> = (0..10).map(|id| format!("im/{id}.jpg")).collect();
    let root = folder(&images.iter().map(String::as_str).collect::<Vec<_>>());
    let text =
        format!(r#"{{"images": [{}], "annotations": [{}]}}"#, list(&image, 10), list(&object, 70));
    fs::write(root.path().join("objects.json"), text).unwrap();
    let mut coco = spec(root.path(), Layout::Coco);
    (coco.images, coco.annotations) = (Some("im".into()), Some("objects.json".into()));
    let rows: String =
        (0..40).map(|row| format!("im/{0}.jpg,im/{0}.jpg,{row}\n", row % 10)).collect();
    fs::write(root.path().join("rows.csv"), format!("image,mask,name\n{rows}")).unwrap();
    let mut csv = spec(root.path(), Layout::Csv);
    csv.list = Some("rows.csv".into());
    for (mut spec, objects) in [(coco, 7), (csv, 4)] {
        spec.split = SplitRule::Holdout { fraction: 0.3, seed: 5 };
        let discovery = discover(&spec).unwrap();
        let mut splits: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for pair in &discovery.pairs {
            splits.entry(&pair.image).or_default().push(&pair.split);
        }
        assert_eq!(splits.len(), 10);
        assert!(splits.values().all(|it| it.len() == objects && it.iter().all(|s| *s == it[0])));
        assert_eq!(splits.values().filter(|it| it[0] == "val").count(), 3);
    }

    let parts = ["DIS-TR", "DIS-TR2", "DIS-VD", "DIS-TE1"];
    let files: Vec<String> = parts
        .iter()
        .flat_map(|part| {
            (0..10).flat_map(move |n| [format!("{part}/im/{n}.jpg"), format!("{part}/gt/{n}.png")])
        })
        .collect();
    let root = folder(&files.iter().map(String::as_str).collect::<Vec<_>>());
    let mut dis = spec(root.path(), Layout::Dis5k);
    dis.split = SplitRule::Holdout { fraction: 0.2, seed: 0 };
    let discovery = discover(&dis).unwrap();
    let mut counts: BTreeMap<(&str, &str), u32> = BTreeMap::new();
    for (name, split) in names(&discovery) {
        *counts.entry((name.split('/').next().unwrap(), split)).or_default() += 1;
    }
    let expected = [
        (("DIS-TE1", "test"), 10),
        (("DIS-TR", "train"), 8),
        (("DIS-TR", "val"), 2),
        (("DIS-VD", "val"), 10),
    ];
    assert_eq!(counts, expected.into());
}
