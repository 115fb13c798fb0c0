//! What a run has left in the bucket, and trainings that use it.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use object_store::ObjectStoreExt;
use object_store::path::Path as Key;
use tests::{kill, program, ranks};

use crate::servers::Server;

/// `launch` with `arguments` in `folder`, which reaches the store at `address`; its messages go to
/// `stderr.txt`.
pub(crate) fn launch(server: &Server, address: &str, folder: &Path, arguments: &[&str]) -> Child {
    launch_with(&server.environment(address), folder, arguments)
}

/// The same with these variables in its environment.
pub(crate) fn launch_with(
    environment: &[(&str, String)],
    folder: &Path,
    arguments: &[&str],
) -> Child {
    Command::new(program("launch"))
        .args(arguments)
        .current_dir(folder)
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(folder.join("stderr.txt")).unwrap())
        .process_group(0)
        .spawn()
        .unwrap()
}

/// Waits for the launcher; whether it succeeded, and what it and its ranks said.
pub(crate) fn ended(mut launcher: Child, folder: &Path) -> (bool, String) {
    let status = launcher.wait().unwrap();
    (status.success(), std::fs::read_to_string(folder.join("stderr.txt")).unwrap())
}

/// Waits until the launched run meets `condition`.
pub(crate) fn wait_until(launcher: &mut Child, folder: &Path, condition: impl Fn() -> bool) {
    while !condition() {
        let status = launcher.try_wait().unwrap();
        let said = std::fs::read_to_string(folder.join("stderr.txt")).unwrap();
        assert!(status.is_none(), "ended before: {said}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// All ranks and the launcher at once, as when a machine is lost.
pub(crate) fn kill_all(launcher: &mut Child) {
    let ranks = ranks(launcher.id());
    assert_eq!(ranks.len(), 2);
    ranks.into_iter().for_each(kill);
    launcher.kill().unwrap();
    launcher.wait().unwrap();
}

/// A program that must succeed, with access to the store.
pub(crate) fn succeed(server: &Server, folder: &Path, name: &str, arguments: &[&str]) -> String {
    let output = Command::new(program(name))
        .args(arguments)
        .current_dir(folder)
        .envs(server.environment(&server.address))
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name} {arguments:?}: {stderr}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn wait<F: Future>(work: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

pub(crate) fn put(server: &Server, path: &str, bytes: &[u8]) {
    let store = server.store();
    wait(store.put(&Key::from(path), bytes.to_vec().into())).unwrap();
}

pub(crate) fn get(server: &Server, path: &str) -> Vec<u8> {
    let store = server.store();
    wait(async { store.get(&Key::from(path)).await.unwrap().bytes().await }).unwrap().to_vec()
}

/// Paths below `name`, without the bytes.
pub(crate) fn paths(server: &Server, name: &str) -> Vec<String> {
    let store = server.store();
    let folder = Key::from(format!("{name}/checkpoints"));
    let list = store.list_with_delimiter(Some(&folder));
    let mut paths: Vec<String> =
        wait(list).unwrap().objects.into_iter().map(|object| object.location.into()).collect();
    paths.sort();
    paths
}

/// Paths of the small objects of a run's checkpoints, oldest first.
pub(crate) fn entries(server: &Server, name: &str) -> Vec<String> {
    let mut paths = paths(server, name);
    paths.retain(|path| path.contains("/step-") && path.ends_with(".json"));
    paths
}

/// Path of the file that a small object names.
pub(crate) fn part(server: &Server, name: &str, entry: &str) -> String {
    let entry: serde_json::Value = serde_json::from_slice(&get(server, entry)).unwrap();
    format!("{name}/{}", entry["parts"][0]["path"].as_str().unwrap())
}

/// Step, and the hash of weights and moments, of the newest checkpoint in the bucket.
pub(crate) fn newest_in_bucket(server: &Server, name: &str) -> (u64, String) {
    let entry = entries(server, name).pop().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("newest.safetensors");
    std::fs::write(&path, get(server, &part(server, name, &entry))).unwrap();
    let info = trainer::checkpoint::load(&path).unwrap().info;
    (info.global_step, info.tensors_sha256)
}

/// The same of a run's folder.
pub(crate) fn newest_in_folder(run: &Path) -> (u64, String) {
    let newest = trainer::checkpoint::list(run).unwrap().pop().unwrap();
    let info = trainer::checkpoint::load(&newest).unwrap().info;
    (info.global_step, info.tensors_sha256)
}
