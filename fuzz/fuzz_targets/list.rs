//! Lists: any bytes as a split list, a CSV or JSONL list of pairs or a COCO annotation file divide
//! the pairs or are refused; no pair comes twice, and every outline can be drawn or is refused.
#![no_main]

use std::collections::BTreeMap;
use std::io;

use dataset::source::{
    FileTree, Layout, MaskOrigin, RawFile, RawFiles, SourceSpec, SplitRule, discover,
};
use libfuzzer_sys::fuzz_target;

/// Names that lists have trouble with.
const NAMES: [&str; 8] =
    ["0001", "a b", "22#Tree#1", "abe's", "sun.jpg", "\u{e4}\u{f6}", "x/y", "z"];
/// What the first byte chooses from.
const LAYOUTS: [Layout; 4] = [Layout::Ecssd, Layout::Csv, Layout::Jsonl, Layout::Coco];

/// Eight empty pairs and two files of any bytes, in memory.
struct Collection<'a> {
    tree: FileTree,
    lists: [(&'a str, &'a [u8]); 2],
}

impl<'a> Collection<'a> {
    fn new(lists: [(&'a str, &'a [u8]); 2]) -> Self {
        let images = NAMES.iter().map(|name| format!("images/{name}.jpg"));
        let masks = NAMES.iter().map(|name| format!("ground_truth_mask/{name}.png"));
        let lists_of = lists.iter().map(|(name, _)| (*name).to_owned());
        let files = images
            .chain(masks)
            .chain(lists_of)
            .map(|path| RawFile { path, bytes: 1, version: String::new() })
            .collect();
        Self { tree: FileTree::new(files), lists }
    }
}

impl RawFiles for Collection<'_> {
    fn tree(&self) -> &FileTree {
        &self.tree
    }

    fn read(&self, path: &str) -> io::Result<Vec<u8>> {
        let list = self.lists.iter().find(|(name, _)| *name == path);
        Ok(list.map_or_else(Vec::new, |(_, bytes)| bytes.to_vec()))
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((&choice, bytes)) = bytes.split_first() else { return };
    let layout = LAYOUTS[choice as usize % LAYOUTS.len()];
    let middle = if layout == Layout::Ecssd { bytes.len() / 2 } else { bytes.len() };
    let files = Collection::new([("train.txt", &bytes[..middle]), ("val.txt", &bytes[middle..])]);
    let mut spec = SourceSpec::new("source", layout, "raw");
    match layout {
        Layout::Csv | Layout::Jsonl => spec.list = Some("train.txt".into()),
        Layout::Coco => {
            (spec.images, spec.annotations) = (Some("images".into()), Some("train.txt".into()));
        }
        _ => {
            let list = |split: &str| (split.to_owned(), format!("{split}.txt").into());
            spec.split = SplitRule::Lists(BTreeMap::from(["train", "val"].map(list)));
        }
    }
    let Ok(found) = discover(&spec, &files) else { return };
    assert!(found.pairs.windows(2).all(|pair| pair[0].name < pair[1].name));
    if layout == Layout::Ecssd {
        assert!(found.pairs.len() <= NAMES.len());
    }
    for pair in &found.pairs {
        let MaskOrigin::Annotation(annotation) = &pair.mask else { continue };
        // Small, so that a shape that claims much is told from one that takes long.
        if u64::from(annotation.size.0) * u64::from(annotation.size.1) <= 1 << 16
            && let Ok(mask) = annotation.rasterise()
        {
            assert_eq!(mask.pixels.len(), mask.height * mask.width);
        }
    }
});
