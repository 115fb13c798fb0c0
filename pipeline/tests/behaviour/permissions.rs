//! Files that may not be read: the place's fault, which costs no pair.

use std::fs::{Permissions, set_permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};

use crate::process::configuration;
use crate::support::Collection;

/// Any user but root, who may read everything.
const NOBODY: u32 = 65534;

fn allow(path: &Path, mode: u32) {
    set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// A collection whose owner may be another user, and the program where that user reaches it.
fn shared() -> (Collection, Command) {
    let collection = Collection::new(12);
    let folder = collection.folder.path();
    allow(folder, 0o777);
    let program = folder.join("hqseg");
    // By another process: a file that a child of this one has inherited open for writing cannot be run.
    let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_hqseg")).arg(&program).status();
    assert!(copied.unwrap().success());
    let mut command = Command::new(program);
    if rustix::process::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command.env("HQSEG_LOG", "warn").current_dir("/");
    (collection, command)
}

fn output_of(command: &mut Command) -> (bool, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.success(), text(stdout), text(stderr))
}

#[test]
fn an_image_that_may_not_be_read_stops_the_build_and_is_there_once_it_may() {
    for hide in [Collection::image, Collection::mask] {
        let (collection, mut command) = shared();
        let hidden = hide(&collection, 3);
        command.args(["build", &configuration(&collection)]);
        allow(&hidden, 0o000);
        let (succeeded, stdout, stderr) = output_of(&mut command);
        assert!(!succeeded, "{stdout}");
        let name = hidden.file_name().unwrap().to_string_lossy();
        assert!(
            stderr.starts_with("error: source `drawn`: ") && stderr.contains(&*name),
            "{stderr}"
        );
        assert!(stderr.contains("Permission denied"), "{stderr}");
        assert!(!collection.output("out/manifest.json").exists());
        allow(&hidden, 0o644);
        let (succeeded, stdout, stderr) = output_of(&mut command);
        assert!(succeeded && stdout.contains("12 rows"), "{stdout}{stderr}");
    }
}

#[test]
fn a_link_that_leads_nowhere_is_refused_and_taken_once_it_leads_somewhere() {
    let (collection, mut command) = shared();
    let (image, target) = (collection.image(3), collection.output("elsewhere.jpg"));
    std::fs::rename(&image, collection.output("kept.jpg")).unwrap();
    symlink(&target, &image).unwrap();
    command.args(["build", &configuration(&collection)]);
    let (succeeded, stdout, stderr) = output_of(&mut command);
    assert!(succeeded && stdout.contains("11 rows"), "{stdout}{stderr}");
    let quarantine = std::fs::read_to_string(collection.output("out/quarantine.jsonl")).unwrap();
    assert!(quarantine.contains("a link to a file that is not there"), "{quarantine}");
    std::fs::rename(collection.output("kept.jpg"), &target).unwrap();
    let (succeeded, stdout, stderr) = output_of(&mut command);
    assert!(succeeded && stdout.contains("12 rows"), "{stdout}{stderr}");
}

#[test]
fn a_shard_that_may_not_be_read_is_not_called_damaged() {
    let (collection, mut command) = shared();
    collection.build("out");
    allow(&collection.shard("out", "train", 0), 0o000);
    let (succeeded, stdout, stderr) =
        output_of(command.arg("verify").arg(collection.output("out")));
    assert!(!succeeded, "{stdout}");
    assert!(stderr.contains("cannot be read, nothing is known of it"), "{stderr}");
    assert!(!stderr.contains("damaged"), "{stderr}");
}
