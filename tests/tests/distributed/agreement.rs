//! Ranks, and a run and its checkpoint, that do not fit together: what differs is named, with both
//! values.

use std::path::{Path, PathBuf};
use std::process::Command;

use tests::{fail, program, save_tiny_sam, tiny_of};
use trainer::run::file_sha256;
use trainer::weights;

use crate::folder;

/// The same program as another build of the same version: its file has a byte more.
fn other_build(folder: &Path) -> PathBuf {
    let path = folder.join("hqsam");
    // By another process: a file that a child of this one has inherited open for writing cannot be run.
    let script = r#"cp "$0" "$1" && printf '\0' >> "$1""#;
    let copied = Command::new("sh").args(["-c", script]).args([&program("hqsam"), &path]).status();
    assert!(copied.unwrap().success());
    path
}

fn named(program: &Path) -> String {
    format!("{} {}", env!("CARGO_PKG_VERSION"), file_sha256(program).unwrap())
}

/// Each rank in a folder of its own, with a program of its own.
fn fail_in(folders: [&Path; 2], programs: [&Path; 2], settings: &str) -> String {
    let [zero, one] = folders.map(|folder| folder.display().to_string());
    let [zeros, ones] = programs.map(|program| program.display().to_string());
    let script = format!(
        "folders=({zero} {one}); programs=({zeros} {ones}); cd ${{folders[RANK]}} && \
         exec ${{programs[RANK]}} train tiny.toml --set output='\"{zero}/run\"' {settings}"
    );
    fail(folders[0], "launch", &["--procs", "2", "--", "bash", "-c", &script])
}

#[test]
fn ranks_that_differ_are_named_with_both_values() {
    let folder = folder();
    let folder = folder.path();
    let hqsam = program("hqsam");

    let error = fail_in([folder; 2], [&hqsam; 2], "--set train.lr=0.00$((RANK + 1))");
    assert!(error.contains("train.lr was 0.001 and is now 0.002"), "{error}");

    let differs = |what: &str, zero: &str, one: &str| {
        format!("the {what} is not the same on every rank (rank 0 has {zero}, rank 1 has {one})")
    };
    let other = other_build(folder);
    let error = fail_in([folder; 2], [&hqsam, &other], "");
    let due = differs("program", &named(&hqsam), &named(&other));
    assert!(error.contains(&due), "{due}: {error}");

    // The second machine has another data set under the same name, and another SAM.
    let second = tiny_of(13, "");
    let second = second.path();
    std::fs::copy(folder.join("tiny.toml"), second.join("tiny.toml")).unwrap();
    let digest = |folder: &Path, name: &str| file_sha256(&folder.join(name)).unwrap();
    let error = fail_in([folder, second], [&hqsam; 2], "");
    let [zero, one] = [folder, second].map(|folder| digest(folder, "data/manifest.json"));
    let due = differs("data manifest", &zero, &one);
    assert!(error.contains(&due), "{due}: {error}");

    let _ = save_tiny_sam(&folder.join("sam.pth"));
    let state = weights::load(&folder.join("sam.pth")).unwrap().state;
    let _ = state.values().next().unwrap().shallow_clone().fill_(0.5);
    weights::save_pth(&second.join("sam.pth"), &state).unwrap();
    let data = format!("--set 'data.path=\"{}/data\"'", folder.display());
    let sam = format!("{data} --set 'model.checkpoint=\"sam.pth\"'");
    let error = fail_in([folder, second], [&hqsam; 2], &sam);
    let [zero, one] = [folder, second].map(|folder| digest(folder, "sam.pth"));
    let due = differs("SAM checkpoint", &zero, &one);
    assert!(error.contains(&due), "{due}: {error}");
}

#[test]
fn a_run_that_another_build_goes_on_with_names_both() {
    let folder = folder();
    let folder = folder.path();
    let hqsam = program("hqsam");
    let train = |program: &Path, epochs: &str| {
        let arguments = ["train", "tiny.toml", "--resume", "--set", epochs];
        let output = tests::run(folder, program.to_str().unwrap(), &arguments);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{stderr}");
        stderr
    };
    let words = "was written by another program";
    let first = train(&hqsam, "train.epochs=1");
    let again = train(&hqsam, "train.epochs=2");
    assert!(!first.contains(words) && !again.contains(words), "{first} {again}");
    let other = other_build(folder);
    let told = train(&other, "train.epochs=3");
    let due = format!("it was {} and is now {}", named(&hqsam), named(&other));
    assert!(told.contains(words) && told.contains(&due), "{due}: {told}");
}
