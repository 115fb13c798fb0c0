//! Real photographs, where they are at hand (`HQSAM_RAW_DIR`, by default `../shared/raw` beside the
//! repository), against Pillow of `HQSAM_PYTHON`, by default `.venv/bin/python`.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use dataset::codec::decode_image;
use sha2::{Digest, Sha256};

use crate::support::limits;

/// The path of the environment, else the one relative to this crate; `None`, and said, where neither
/// is there.
#[expect(clippy::print_stdout, reason = "a skipped test says so")]
fn at_hand(variable: &str, relative: &str) -> Option<PathBuf> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join(relative);
    let path = std::env::var_os(variable).map_or_else(beside, PathBuf::from);
    if path.exists() {
        return Some(path);
    }
    println!("skipped: {} is not there (set {variable})", path.display());
    None
}

fn jpegs(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut paths: Vec<PathBuf> =
        paths.filter(|path| path.extension().is_some_and(|kind| kind == "jpg")).collect();
    paths.sort();
    paths
}

fn pillow(python: &Path, files: &[PathBuf]) -> Vec<String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/codec/pillow_pixels.py");
    let mut child = Command::new(python)
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let names: String = files.iter().map(|path| format!("{}\n", path.display())).collect();
    let mut input = child.stdin.take().unwrap();
    // Answers come while names are still written.
    let writer = std::thread::spawn(move || input.write_all(names.as_bytes()).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success(), "{}", output.status);
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn photographs_have_the_pixels_of_libjpeg_turbo() {
    let Some(raw) = at_hand("HQSAM_RAW_DIR", "../../shared/raw") else { return };
    let Some(python) = at_hand("HQSAM_PYTHON", "../.venv/bin/python") else { return };
    let (ecssd, large) = (jpegs(&raw.join("ECSSD/images")), jpegs(&raw.join("large/im")));
    assert!(ecssd.len() == 1000 && !large.is_empty(), "{} and {}", ecssd.len(), large.len());
    let files = [ecssd, large].concat();
    let expected = pillow(&python, &files);
    assert_eq!(expected.len(), files.len());
    for (path, expected) in files.iter().zip(expected) {
        let image = decode_image(&fs::read(path).unwrap(), &limits()).unwrap();
        let found: String =
            Sha256::digest(&image.pixels).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(found, expected, "{}", path.display());
    }
}
