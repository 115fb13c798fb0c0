//! Split lists: any bytes in a list divide the pairs or are refused; no pair comes twice.
#![no_main]

use std::cell::LazyCell;
use std::collections::BTreeMap;
use std::fs;

use dataset::codec::MaskValues;
use dataset::source::{Layout, SourceSpec, SplitRule, discover};
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

thread_local! {
    /// Eight pairs with names that lists have trouble with.
    static ROOT: LazyCell<TempDir> = LazyCell::new(|| {
        let root = tempfile::tempdir().expect("a temporary folder can be made");
        for name in ["0001", "a b", "22#Tree#1", "abe's", "sun.jpg", "\u{e4}\u{f6}", "x/y", "z"] {
            for (folder, extension) in [("images", "jpg"), ("ground_truth_mask", "png")] {
                let path = root.path().join(folder).join(format!("{name}.{extension}"));
                fs::create_dir_all(path.parent().expect("it has one")).expect("writable");
                fs::write(path, b"").expect("writable");
            }
        }
        root
    });
}

fuzz_target!(|bytes: &[u8]| {
    ROOT.with(|root| {
        let root = root.path();
        let middle = bytes.len() / 2;
        fs::write(root.join("train.txt"), &bytes[..middle]).expect("writable");
        fs::write(root.join("val.txt"), &bytes[middle..]).expect("writable");
        let lists = ["train", "val"].map(|split| (split.to_owned(), format!("{split}.txt").into()));
        let spec = SourceSpec {
            name: "source".into(),
            layout: Layout::Ecssd,
            root: root.to_owned(),
            images: None,
            masks: None,
            split: SplitRule::Lists(BTreeMap::from(lists)),
            license: None,
            expected: None,
            mask_values: MaskValues::Auto,
        };
        if let Ok(found) = discover(&spec) {
            assert!(found.pairs.windows(2).all(|pair| pair[0].name < pair[1].name));
            assert!(found.pairs.len() <= 8);
        }
    });
});
