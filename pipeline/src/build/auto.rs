//! Recognises raw collections by their folders, for a build without a configuration.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use dataset::codec::MaskValues;
use dataset::source::{Layout, SourceSpec, SplitRule};

use super::BuildError;

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

/// The collections directly under `raw`, or `raw` itself: ECSSD, DUTS, FSS-1000, MSRA10K,
/// DUT-OMRON, DIS5K and ThinObject-5K as their authors ship them, and any folder with a pair of
/// folders `im` and `gt`, `images` and `masks`, or `image` and `mask`. The share `holdout` (0..=1)
/// of each goes to the split `val`, chosen by a hash of the names, the rest to `train`.
///
/// # Errors
/// [`BuildError::NothingRecognised`] or an error of the file system.
pub fn recognise(raw: &Path, holdout: f64) -> Result<Vec<SourceSpec>, BuildError> {
    let folders = child_folders(raw)?;
    let split = SplitRule::Holdout { fraction: holdout, seed: 0 };
    let mut sources = Vec::new();
    let mut used = BTreeSet::new();
    let here = names(&folders);
    if let Some((layout, name, wanted)) = signature(&here) {
        used.extend(wanted.iter().map(|name| (*name).to_owned()));
        used.extend(PARTS.iter().map(|name| (*name).to_owned()));
        sources.push(source(layout, name.to_owned(), raw, wanted, &split));
    }
    for folder in folders.iter().filter(|folder| !used.contains(&lower_name(folder))) {
        let inside = child_folders(folder)?;
        // An archive unpacked into a folder of its own name is one level further down.
        let deeper = inside.iter().find_map(|inner| {
            let inner_names = names(&child_folders(inner).ok()?);
            signature(&inner_names).map(|found| (inner.as_path(), found))
        });
        let found = signature(&names(&inside)).map(|found| (folder.as_path(), found)).or(deeper);
        let Some((root, (layout, _, wanted))) = found else {
            tracing::warn!(folder = %folder.display(), "no known layout, left out");
            continue;
        };
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        sources.push(source(layout, name, root, wanted, &split));
    }
    if sources.is_empty() {
        return Err(BuildError::NothingRecognised { raw: raw.to_owned() });
    }
    Ok(sources)
}

fn signature(names: &BTreeSet<String>) -> Option<(Layout, &'static str, &'static [&'static str])> {
    SIGNATURES.into_iter().find(|(_, _, wanted)| wanted.iter().all(|name| names.contains(*name)))
}

fn source(
    layout: Layout,
    name: String,
    root: &Path,
    wanted: &[&str],
    split: &SplitRule,
) -> SourceSpec {
    let custom = layout == Layout::Custom;
    SourceSpec {
        name,
        layout,
        root: root.to_owned(),
        images: custom.then(|| format!("{}/*", wanted[0])),
        masks: custom.then(|| format!("{}/{{stem}}.png", wanted[1])),
        split: split.clone(),
        license: None,
        expected: None,
        mask_values: MaskValues::Auto,
    }
}

/// Sorted; hidden folders and the leftovers of macOS archives are left out.
fn child_folders(folder: &Path) -> Result<Vec<PathBuf>, BuildError> {
    let list = || -> std::io::Result<Vec<PathBuf>> {
        let mut folders = Vec::new();
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let name = lower_name(&path);
            if path.is_dir() && !name.starts_with('.') && name != "__macosx" {
                folders.push(path);
            }
        }
        folders.sort();
        Ok(folders)
    };
    list().map_err(BuildError::io(folder, "cannot list the folder"))
}

fn names(folders: &[PathBuf]) -> BTreeSet<String> {
    folders.iter().map(|folder| lower_name(folder)).collect()
}

fn lower_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layouts(folders: &[&str]) -> Vec<(String, Layout)> {
        let raw = tempfile::tempdir().unwrap();
        for folder in folders {
            fs::create_dir_all(raw.path().join(folder)).unwrap();
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
    fn the_folder_itself_may_be_a_collection() {
        let found = layouts(&["DIS-TR/im", "DIS-TR/gt", "DIS-VD/im", "DIS-VD/gt"]);
        assert_eq!(found, [("DIS5K".to_owned(), Layout::Dis5k)]);
        let raw = tempfile::tempdir().unwrap();
        let error = recognise(raw.path(), 0.2).unwrap_err().to_string();
        assert!(error.contains("no collection recognised"), "{error}");
    }
}
