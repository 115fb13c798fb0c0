//! Pictures of an evaluation as files, those of the newest epochs.

use std::path::Path;

use super::gallery::{Case, Pictures};

/// Epochs of each split whose pictures are kept.
const EPOCHS_KEPT: usize = 5;
/// Most bytes of a sample's name in the name of its picture.
const NAME_BYTES: usize = 80;

/// Writes the fixed pictures into `<folder>/<split>-epoch-<n>/`, a JPEG file for each image and
/// prompt, and removes the folders of all but the newest epochs. Later epochs than `epochs_done` are
/// of steps that are done again.
///
/// # Errors
/// A folder that cannot be written.
pub fn write_overlays(
    folder: &Path,
    split: &str,
    epochs_done: u64,
    pictures: &Pictures,
) -> std::io::Result<()> {
    let start = format!("{split}-epoch-");
    let mut epochs = Vec::new();
    if folder.is_dir() {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let epoch = name.strip_prefix(&start).and_then(|epoch| epoch.parse::<u64>().ok());
            epochs.extend(epoch.filter(|_| path.is_dir()).map(|epoch| (epoch, path)));
        }
    }
    epochs.sort();
    let (earlier, again) =
        epochs.split_at(epochs.partition_point(|(epoch, _)| *epoch < epochs_done));
    let surplus = &earlier[..earlier.len().saturating_sub(EPOCHS_KEPT - 1)];
    for (_, path) in surplus.iter().chain(again) {
        std::fs::remove_dir_all(path)?;
    }
    let folder = folder.join(format!("{start}{epochs_done:03}"));
    if !pictures.fixed.is_empty() {
        std::fs::create_dir_all(&folder)?;
    }
    for case in &pictures.fixed {
        std::fs::write(folder.join(file_name(case)), case.jpeg())?;
    }
    Ok(())
}

/// Tells the prompt and the image, in the order of the rows; sample ids may hold any character.
fn file_name(case: &Case) -> String {
    let plain = |text: &str| -> String {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        text.chars().map(|c| if plain(c) { c } else { '_' }).take(NAME_BYTES).collect()
    };
    let score = &case.score;
    let protocol = plain(&score.protocol.to_string());
    format!("{:06}-{}-{protocol}.jpg", score.row, plain(&score.sample_id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::report::tests::image;

    #[test]
    fn the_pictures_of_the_newest_epochs_stay() {
        let folder = tempfile::tempdir().unwrap();
        let mut score = image(3, "../a b", 0.5);
        score.sample_id += &"x".repeat(300);
        let case = Case { score, height: 2, width: 6, jpeg_base64: "/9j/".into() };
        let pictures = Pictures { worst: vec![case.clone()], fixed: vec![case] };
        let write = |split: &str, epoch| {
            write_overlays(folder.path(), split, epoch, &pictures).unwrap();
        };
        write("val", 1);
        // No folder of ours.
        std::fs::create_dir(folder.path().join("val-epoch-old")).unwrap();
        std::fs::write(folder.path().join("val-epoch-001.json"), "{}").unwrap();
        (2..=9).for_each(|epoch| write("val", epoch));
        write("val-epoch-val", 1);
        let list = || {
            let entries = std::fs::read_dir(folder.path()).unwrap();
            let mut names: Vec<String> =
                entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.retain(|name| name.starts_with("val-epoch-0") && !name.ends_with("json"));
            names.sort();
            names
        };
        let epochs = |range: std::ops::RangeInclusive<u64>| -> Vec<String> {
            range.map(|epoch| format!("val-epoch-{epoch:03}")).collect()
        };
        assert_eq!(list(), epochs(5..=9));
        // Training went on from an earlier checkpoint.
        write("val", 7);
        assert_eq!(list(), epochs(5..=7));
        for name in ["val-epoch-old", "val-epoch-001.json", "val-epoch-val-epoch-001"] {
            assert!(folder.path().join(name).exists(), "{name}");
        }
        let mut files = std::fs::read_dir(folder.path().join("val-epoch-007")).unwrap();
        let file = files.next().unwrap().unwrap();
        let name = file.file_name().into_string().unwrap();
        assert!(name.starts_with("000003-.._a_b_3xxx") && name.ends_with("x-box.jpg"), "{name}");
        assert_eq!(std::fs::read(file.path()).unwrap(), [0xff, 0xd8, 0xff]);
        assert!(name.len() < 120 && files.next().is_none());
    }
}
