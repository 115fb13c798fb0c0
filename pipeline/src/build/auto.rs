//! Recognises raw collections by their folders and files, for a build without a configuration.

use std::collections::BTreeSet;
use std::path::Path;

use dataset::source::{FileTree, Layout, RawFiles, SourceSpec, SplitRule};

use super::BuildError;
use crate::input::Input;

/// What a folder is recognised by: the layout, the name for a source that has none of its own,
/// and the folders (in lower case) that must all be there.
const SIGNATURES: [(Layout, &str, &[&str]); 16] = [
    (Layout::Ecssd, "ECSSD", &["images", "ground_truth_mask"]),
    (Layout::DutOmron, "DUT-OMRON", &["dut-omron-image", "pixelwisegt-new-png"]),
    (Layout::Duts, "DUTS", &["duts-tr"]),
    (Layout::Duts, "DUTS", &["duts-te"]),
    (Layout::Duts, "DUTS-TR", &["duts-tr-image", "duts-tr-mask"]),
    (Layout::Duts, "DUTS-TE", &["duts-te-image", "duts-te-mask"]),
    (Layout::Dis5k, "DIS5K", &["dis-tr"]),
    (Layout::Dis5k, "DIS5K", &["dis-vd"]),
    (Layout::ThinObject5k, "ThinObject5K", &["images", "masks", "list"]),
    (Layout::Fss1000, "FSS-1000", &["fewshot_data"]),
    (Layout::Fss1000, "FSS-1000", &["abacus", "ab_wheel"]),
    (Layout::Msra10k, "MSRA10K", &["msra10k_imgs_gt"]),
    (Layout::Msra10k, "MSRA10K", &["imgs"]),
    (Layout::Custom, "im", &["im", "gt"]),
    (Layout::Custom, "images", &["images", "masks"]),
    (Layout::Custom, "images", &["image", "mask"]),
];

/// Folders that belong to a multi-part collection, in lower case.
const PARTS: [&str; 8] =
    ["duts-tr", "duts-te", "dis-tr", "dis-vd", "dis-te1", "dis-te2", "dis-te3", "dis-te4"];

/// Bytes of a list that are read to look at its first line.
const LIST_BYTES: u64 = 64 << 20;

/// The collections directly under `raw`, or `raw` itself: ECSSD, DUTS, FSS-1000, MSRA10K,
/// DUT-OMRON, DIS5K, ThinObject-5K and BIG as their authors ship them, COCO annotations
/// (`annotations/instances_X.json` beside the folder `X`), lists (`.csv` or `.jsonl` with `image`
/// and `mask`), and any folder with a pair of folders `im` and `gt`, `images` and `masks`, or
/// `image` and `mask`; unpacked or as archives. `raw` is anything that a source's root may be.
///
/// The share `holdout` (0..=1) of what each trains on goes to the split `val`, chosen by a hash of the
/// names, the rest to `train`. What a collection is evaluated on stays so: DIS-VD and DIS-TE1 to 4,
/// the lists of ThinObject-5K, BIG, COCO's own parts, the column `split` of a list.
///
/// # Errors
/// [`BuildError::NothingRecognised`], or why `raw` cannot be listed.
pub fn recognise(raw: &Path, holdout: f64) -> Result<Vec<SourceSpec>, BuildError> {
    let input = Input::open(raw)
        .map_err(|source| BuildError::Input { name: raw.display().to_string(), source })?;
    let split = SplitRule::Holdout { fraction: holdout, seed: 0 };
    let scene = Scene { raw, input: &input, split };
    let mut sources = Vec::new();
    let mut used = BTreeSet::new();
    let here = folders(input.tree(), "");
    let found = signature(&lower(&here));
    // What files say outweighs a pair of folders of common names, but not those of a collection.
    let generic = found.is_none_or(|(layout, ..)| layout == Layout::Custom);
    let own = if generic { scene.by_files("", &own_name(raw)) } else { Vec::new() };
    if !own.is_empty() {
        return Ok(own);
    }
    if let Some((layout, name, wanted)) = found {
        used.extend(wanted.iter().map(|name| (*name).to_owned()));
        used.extend(PARTS.iter().map(|name| (*name).to_owned()));
        sources.push(scene.source(layout, name.to_owned(), "", wanted));
    }
    for folder in here.iter().filter(|folder| !used.contains(&folder.to_lowercase())) {
        let found = scene.below(folder);
        if found.is_empty() {
            tracing::warn!(folder, "no known layout, left out");
        }
        sources.extend(found);
    }
    if sources.is_empty() {
        return Err(BuildError::NothingRecognised { raw: raw.to_owned() });
    }
    Ok(sources)
}

/// What is being looked at.
struct Scene<'a> {
    raw: &'a Path,
    input: &'a Input,
    split: SplitRule,
}

impl Scene<'_> {
    /// The sources of one folder.
    fn below(&self, folder: &str) -> Vec<SourceSpec> {
        let tree = self.input.tree();
        let inside = folders(tree, folder);
        // An archive unpacked into a folder of its own name is one level further down.
        let deeper = inside.iter().map(|inner| format!("{folder}/{inner}"));
        for place in std::iter::once(folder.to_owned()).chain(deeper) {
            let signed = signature(&lower(&folders(tree, &place)));
            let generic = signed.is_none_or(|(layout, ..)| layout == Layout::Custom);
            let found = if generic { self.by_files(&place, folder) } else { Vec::new() };
            if !found.is_empty() {
                return found;
            }
            if let Some((layout, _, wanted)) = signed {
                return vec![self.source(layout, folder.to_owned(), &place, wanted)];
            }
        }
        // Halves of a collection, each an archive of its own.
        let below: BTreeSet<String> = inside
            .iter()
            .flat_map(|inner| folders(tree, &format!("{folder}/{inner}")))
            .chain(inside.iter().cloned())
            .map(|name| name.to_lowercase())
            .collect();
        let apart = signature(&below).filter(|(layout, ..)| *layout == Layout::DutOmron);
        let found =
            apart.map(|(layout, _, wanted)| self.source(layout, folder.to_owned(), folder, wanted));
        found.into_iter().collect()
    }

    /// The sources that only the files of a folder tell.
    fn by_files(&self, place: &str, name: &str) -> Vec<SourceSpec> {
        let tree = self.input.tree();
        let coco = self.coco(place, name);
        if !coco.is_empty() {
            return coco;
        }
        let parts = ["", "val", "valid", "test"].map(|part| join(place, part));
        let is_big = parts.iter().any(|part| {
            let names: Vec<&str> = files(tree, part);
            let image = |name: &&&str| name.to_lowercase().ends_with("_im.jpg");
            names.iter().find(image).is_some_and(|image| {
                let mask = format!("{}_gt.png", &image[..image.len() - "_im.jpg".len()]);
                names.iter().any(|name| name.eq_ignore_ascii_case(&mask))
            })
        });
        if is_big {
            let mut source = self.source(Layout::Big, name.to_owned(), place, &[]);
            source.split = SplitRule::Native;
            return vec![source];
        }
        self.lists(place, name)
    }

    fn coco(&self, place: &str, name: &str) -> Vec<SourceSpec> {
        let tree = self.input.tree();
        let annotations = join(place, "annotations");
        let mut sources = Vec::new();
        for file in files(tree, &annotations) {
            let part = file.strip_prefix("instances_").and_then(|rest| rest.strip_suffix(".json"));
            let Some(part) = part else { continue };
            let images = [part.to_owned(), format!("images/{part}")];
            let Some(images) =
                images.into_iter().find(|images| !tree.below(&join(place, images)).is_empty())
            else {
                continue;
            };
            let mut source = self.source(Layout::Coco, format!("{name}-{part}"), place, &[]);
            source.annotations = Some(format!("annotations/{file}"));
            source.images = Some(images);
            let part = part.to_lowercase();
            let split = ["val", "test"].into_iter().find(|split| part.starts_with(split));
            source.split = SplitRule::Fixed(split.unwrap_or("train").to_owned());
            sources.push(source);
        }
        sources
    }

    fn lists(&self, place: &str, name: &str) -> Vec<SourceSpec> {
        let mut sources = Vec::new();
        for file in files(self.input.tree(), place) {
            let layout = match file.rsplit_once('.') {
                Some((_, "csv")) => Layout::Csv,
                Some((_, "jsonl")) => Layout::Jsonl,
                _ => continue,
            };
            let bytes = self.input.read_file(&join(place, file), LIST_BYTES).unwrap_or_default();
            let text = String::from_utf8_lossy(&bytes);
            let first = text.trim_start_matches('\u{feff}').lines().next().unwrap_or("");
            let has = |column: &str| match layout {
                Layout::Csv => {
                    first.split(',').any(|found| found.trim().trim_matches('"') == column)
                }
                _ => first.contains(&format!("\"{column}\"")),
            };
            if has("image") && has("mask") {
                let stem = file.rsplit_once('.').map_or(file, |(stem, _)| stem);
                let mut source = self.source(layout, format!("{name}-{stem}"), place, &[]);
                source.list = Some(file.to_owned());
                if has("split") {
                    source.split = SplitRule::Native;
                }
                sources.push(source);
            }
        }
        sources
    }

    fn source(&self, layout: Layout, name: String, place: &str, wanted: &[&str]) -> SourceSpec {
        let root = match place {
            "" => self.raw.to_owned(),
            place => self.raw.join(place),
        };
        let mut source = SourceSpec::new(name, layout, root);
        if layout == Layout::Custom {
            source.images = Some(format!("{}/*", wanted[0]));
            source.masks = Some(format!("{}/{{stem}}.png", wanted[1]));
        }
        source.split = self.split.clone();
        source
    }
}

fn signature(names: &BTreeSet<String>) -> Option<(Layout, &'static str, &'static [&'static str])> {
    SIGNATURES.into_iter().find(|(_, _, wanted)| wanted.iter().all(|name| names.contains(*name)))
}

/// The name of a source that is the whole root.
fn own_name(raw: &Path) -> String {
    let name = raw.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    if name.is_empty() { "raw".to_owned() } else { name }
}

fn join(place: &str, name: &str) -> String {
    match (place, name) {
        ("", name) => name.to_owned(),
        (place, "") => place.to_owned(),
        (place, name) => format!("{place}/{name}"),
    }
}

/// Names of the folders in a folder, sorted.
fn folders(tree: &FileTree, place: &str) -> BTreeSet<String> {
    let start = if place.is_empty() { 0 } else { place.len() + 1 };
    let below = tree.below(place).iter();
    below.filter_map(|file| Some(file.path[start..].split_once('/')?.0.to_owned())).collect()
}

/// Names of the files in a folder, sorted.
fn files<'a>(tree: &'a FileTree, place: &str) -> Vec<&'a str> {
    let start = if place.is_empty() { 0 } else { place.len() + 1 };
    let below = tree.below(place).iter().map(|file| &file.path[start..]);
    below.filter(|name| !name.contains('/')).collect()
}

fn lower(names: &BTreeSet<String>) -> BTreeSet<String> {
    names.iter().map(|name| name.to_lowercase()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layouts(folders: &[&str]) -> Vec<(String, Layout)> {
        let raw = tempfile::tempdir().unwrap();
        for folder in folders {
            let folder = raw.path().join(folder);
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("1.jpg"), b"").unwrap();
        }
        let found = recognise(raw.path(), 0.2).unwrap();
        found.into_iter().map(|source| (source.name, source.layout)).collect()
    }

    #[test]
    fn collections_are_found_beside_and_inside_each_other() {
        let found = layouts(&[
            "ECSSD/images",
            "ECSSD/ground_truth_mask",
            "FSS-1000/fewshot_data/fewshot_data/abacus",
            "DIS5K/DIS5K/DIS-TR/im",
            "large/im",
            "large/gt",
            "notes",
            ".cache/im",
        ]);
        let expected = [
            ("DIS5K", Layout::Dis5k),
            ("ECSSD", Layout::Ecssd),
            ("FSS-1000", Layout::Fss1000),
            ("large", Layout::Custom),
        ];
        assert_eq!(found, expected.map(|(name, layout)| (name.to_owned(), layout)));
    }

    #[test]
    fn parts_for_evaluation_keep_their_split() {
        let raw = tempfile::tempdir().unwrap();
        let file = |path: String, text: &str| {
            let path = raw.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        for (part, number) in
            ["TR", "VD", "TE3"].iter().flat_map(|it| (0..10).map(move |n| (it, n)))
        {
            file(format!("DIS5K/DIS-{part}/im/{number}.jpg"), "");
            file(format!("DIS5K/DIS-{part}/gt/{number}.png"), "");
        }
        for (number, list) in ["train", "val", "test"].iter().enumerate() {
            file(format!("thin/images/{number}.jpg"), "");
            file(format!("thin/masks/{number}.png"), "");
            file(format!("thin/list/{list}.txt"), &format!("{number}.png\n"));
        }
        for part in ["test2017", "train2017", "val2017"] {
            file(format!("coco/{part}/1.jpg"), "");
            file(format!("coco/annotations/instances_{part}.json"), "{}");
        }
        let sources = recognise(raw.path(), 0.5).unwrap();
        let splits = sources.iter().filter(|source| source.layout == Layout::Coco);
        let splits: Vec<&SplitRule> = splits.map(|source| &source.split).collect();
        let fixed = ["test", "train", "val"].map(|split| SplitRule::Fixed(split.to_owned()));
        assert_eq!(splits, fixed.iter().collect::<Vec<_>>());
        let mut counts = std::collections::BTreeMap::new();
        for source in sources.iter().filter(|source| source.layout != Layout::Coco) {
            for pair in crate::build::trial::list(source).unwrap().1.pairs {
                let part = pair.name.split_once('/').map_or(pair.name.as_str(), |(part, _)| part);
                *counts.entry((part.to_owned(), pair.split)).or_insert(0) += 1;
            }
        }
        let expected = [
            ("2", "test", 1),
            ("1", "val", 1),
            ("DIS-TE3", "test", 10),
            ("DIS-VD", "val", 10),
            ("DIS-TR", "train", 5),
            ("DIS-TR", "val", 5),
        ];
        for (part, split, pairs) in expected {
            assert_eq!(counts.get(&(part.to_owned(), split.to_owned())), Some(&pairs), "{part}");
        }
    }

    #[test]
    fn the_folder_itself_may_be_a_collection() {
        let found = layouts(&["DIS-TR/im", "DIS-TR/gt", "DIS-VD/im", "DIS-VD/gt"]);
        assert_eq!(found, [("DIS5K".to_owned(), Layout::Dis5k)]);
        let raw = tempfile::tempdir().unwrap();
        let error = recognise(raw.path(), 0.2).unwrap_err().to_string();
        assert!(error.contains("no collection recognised"), "{error}");
    }
}
