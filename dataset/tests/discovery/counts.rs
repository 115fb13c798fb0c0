//! What is found of the parts of published collections, against what their authors announce.

use std::fs;

use dataset::source::{FoundPart, Layout, SourceSpec, SplitRule, published_parts};

use crate::{discover, folder, spec};

/// Name, announced, found and splits of each part.
fn parts(spec: &SourceSpec) -> Vec<(String, Option<u64>, u64, String)> {
    let parts = discover(spec).unwrap().parts;
    let splits = |part: &FoundPart| part.pairs.keys().cloned().collect::<Vec<_>>().join("+");
    parts
        .iter()
        .map(|part| (part.name.clone(), part.published, part.found(), splits(part)))
        .collect()
}

fn row(name: &str, published: u64, found: u64, splits: &str) -> (String, Option<u64>, u64, String) {
    (name.to_owned(), Some(published), found, splits.to_owned())
}

#[test]
fn the_catalogue_is_what_the_authors_announce() {
    let sum = |layout: Layout| -> Option<u64> {
        published_parts(layout).iter().map(|part| part.pairs).sum()
    };
    assert_eq!(sum(Layout::Duts), Some(15_572));
    assert_eq!(sum(Layout::Dis5k), Some(5470));
    assert_eq!(sum(Layout::Big), Some(150));
    assert_eq!(sum(Layout::DutOmron), Some(5168));
    // Two of its lists are not known for sure.
    assert_eq!(sum(Layout::ThinObject5k), None);
    let of = |layout: Layout, name: &str| {
        published_parts(layout).iter().find(|part| part.name == name).unwrap().pairs.unwrap()
    };
    let hqseg44k = of(Layout::Dis5k, "DIS-TR")
        + of(Layout::ThinObject5k, "train")
        + [Layout::Fss1000, Layout::Duts, Layout::Ecssd, Layout::Msra10k]
            .map(sum)
            .map(Option::unwrap)
            .iter()
            .sum::<u64>();
    assert_eq!(hqseg44k, 44_320);
}

#[test]
fn every_split_rule_counts_the_parts_it_takes() {
    let root = folder(&[
        "DIS5K/DIS-TR/im/1.jpg",
        "DIS5K/DIS-TR/gt/1.png",
        "DIS5K/DIS-TR/im/2.jpg",
        "DIS5K/DIS-VD/im/1.jpg",
        "DIS5K/DIS-VD/gt/1.png",
        "DIS5K/DIS-TE1/im/1.jpg",
        "DIS5K/DIS-TE1/gt/1.png",
    ]);
    let mut spec = spec(root.path(), Layout::Dis5k);
    let (train, val) = (row("DIS-TR", 3000, 2, "train"), row("DIS-VD", 470, 1, "val"));
    let test = |n: u32, found, splits| row(&format!("DIS-TE{n}"), 500, found, splits);
    let missing = [2, 3, 4].map(|n| test(n, 0, ""));
    let all = [vec![train.clone(), val.clone(), test(1, 1, "test")], missing.to_vec()].concat();
    assert_eq!(parts(&spec), all);
    let rule = |parts: &[(&str, &str)]| {
        let parts = parts.iter().map(|(part, split)| ((*part).to_owned(), (*split).to_owned()));
        SplitRule::Folders(parts.collect())
    };
    spec.split = rule(&[("DIS-TR", "train"), ("DIS-VD", "val")]);
    assert_eq!(parts(&spec), [train.clone(), val]);
    // Asked for and not there.
    spec.split = rule(&[("DIS-TR", "train"), ("DIS-TE2", "val")]);
    assert_eq!(parts(&spec), [train, test(2, 0, "")]);
    // One part alone.
    spec.root = root.path().join("DIS5K/DIS-TE1");
    spec.split = SplitRule::Native;
    assert_eq!(parts(&spec), [test(1, 1, "test")]);
}

#[test]
fn lists_count_their_own_and_what_a_rule_leaves_is_counted_too() {
    let root = folder(&["images/a.jpg", "masks/a.png", "images/b.jpg", "masks/b.png"]);
    fs::create_dir(root.path().join("list")).unwrap();
    fs::write(root.path().join("list/train.txt"), "a.png\n").unwrap();
    fs::write(root.path().join("list/test.txt"), "b.png\ngone.png\n").unwrap();
    let mut spec = spec(root.path(), Layout::ThinObject5k);
    let lists = [("train", "list/train.txt"), ("val", "list/test.txt")];
    spec.split = SplitRule::Lists(lists.map(|(split, list)| (split.into(), list.into())).into());
    let test = ("test".to_owned(), None, 2, "val".to_owned());
    assert_eq!(parts(&spec), [row("train", 4748, 1, "train"), test]);

    let root = folder(&["Imgs/1.jpg", "Imgs/1.png", "Imgs/2.jpg", "Imgs/2.png"]);
    fs::write(root.path().join("some.txt"), "1\n").unwrap();
    spec.layout = Layout::Msra10k;
    spec.root = root.path().to_owned();
    spec.split = SplitRule::Lists([("train".into(), "some.txt".into())].into());
    assert_eq!(parts(&spec), [row("", 10_000, 2, "train")]);
    let discovery = discover(&spec).unwrap();
    assert_eq!((discovery.pairs.len(), discovery.parts[0].left_out), (1, 1));
}

#[test]
fn a_copy_says_what_it_is() {
    let root = folder(&["a.jpg", "a.png", "b.jpg"]);
    let mut spec = spec(root.path(), Layout::Custom);
    (spec.images, spec.masks) = (Some("*.jpg".into()), Some("{stem}.png".into()));
    assert_eq!(parts(&spec), []);
    (spec.collection, spec.part) = (Some(Layout::Duts), Some("DUTS-TE".into()));
    assert_eq!(parts(&spec), [row("DUTS-TE", 5019, 2, "train")]);
    assert!(spec.terms().license.unwrap() != "none stated");

    let message = |spec: &SourceSpec| discover(spec).unwrap_err().to_string();
    spec.part = Some("DUTS-VD".into());
    assert!(message(&spec).contains("its collection has DUTS-TR, DUTS-TE"), "{}", message(&spec));
    (spec.collection, spec.part) = (Some(Layout::Ecssd), Some("train".into()));
    assert!(message(&spec).contains("no parts"), "{}", message(&spec));
    spec.collection = None;
    assert!(message(&spec).contains("`part` needs `collection`"), "{}", message(&spec));
    (spec.collection, spec.part) = (Some(Layout::Coco), None);
    assert!(message(&spec).contains("no published collection"), "{}", message(&spec));
    spec = SourceSpec::new("source", Layout::Ecssd, root.path());
    spec.collection = Some(Layout::Ecssd);
    assert!(message(&spec).contains("files in another layout"), "{}", message(&spec));
}
