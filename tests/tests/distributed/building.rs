//! A data set that ranks under the launcher build, one of which is killed.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use tests::{children, kill, program, succeed};

use crate::running::wait_for;
use crate::{ended, start};

/// Small shards, so that a build takes many.
const CONFIG: &str = r#"
output = "whole"
shard_bytes = 60000
threads = 1
[[source]]
name = "ECSSD"
layout = "ecssd"
root = "raw/ECSSD"
split = { holdout = 0.25 }
"#;

/// Every file below a folder, by its path there.
fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            let below = contents(&path).into_iter();
            files.extend(below.map(|(path, bytes)| (format!("{name}/{path}"), bytes)));
        } else {
            files.insert(name, std::fs::read(&path).unwrap());
        }
    }
    files
}

#[test]
fn a_rank_killed_under_the_launcher_costs_nothing_and_changes_no_byte() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let draw = ["draw", "raw/ECSSD", "--count", "120", "--seed", "7", "--layout", "ecssd"];
    let _ = succeed(folder, "hqseg", &draw);
    std::fs::write(folder.join("build.toml"), CONFIG).unwrap();
    let _ = succeed(folder, "hqseg", &["build", "build.toml"]);
    let whole = contents(&folder.join("whole"));
    for world in [2, 3] {
        let name = format!("ranks-{world}");
        let mut command = Command::new(program("launch"));
        command.args(["--procs", &world.to_string(), "--max-restarts", "2", "--"]);
        command.arg(program("hqseg")).args(["build", "build.toml", "--output", &name]);
        let launcher = start(command.current_dir(folder));
        let receipts = folder.join(&name).join("receipts");
        wait_for("the first shards", || std::fs::read_dir(&receipts).is_ok_and(|d| d.count() > 1));
        let ranks = children(launcher.id());
        assert!(!folder.join(&name).join("manifest.json").exists(), "it was over too soon");
        kill(*ranks.last().unwrap());
        let (output, stderr) = ended(launcher);
        assert!(output.status.success(), "{stderr}");
        assert!(stderr.contains("restart"), "{world} ranks: nobody was killed: {stderr}");
        assert!(contents(&folder.join(&name)) == whole, "{world} ranks: {stderr}");
    }
}
