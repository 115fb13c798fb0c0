//! Builds that are killed again and again, at points drawn from a seed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::SystemTime;

use image::GrayImage;

use crate::process::{configuration, hqseg, run};
use crate::servers::{Kind, Server};
use crate::support::{Collection, contents, save_mask};

/// Kills after which a build may run to its end.
const MOST_KILLS: usize = 25;

/// Numbers from a seed (the multiplier is Knuth's).
pub(crate) struct Draws(pub(crate) u64);

impl Draws {
    /// A number from 1 to `most`.
    pub(crate) fn next(&mut self, most: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % most + 1
    }
}

/// What the folder holds now; a file that grows counts as a change.
fn seen(folder: &Path) -> BTreeMap<PathBuf, (u64, SystemTime)> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                folders.push(entry.path());
            }
            let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            files.insert(entry.path(), (metadata.len(), modified));
        }
    }
    files
}

/// Kills `child` when its `changes`th change of `folder` is seen; false where it ended before.
pub(crate) fn kill_at_change(child: &mut Child, folder: &Path, changes: u64) -> bool {
    let (mut last, mut left) = (seen(folder), changes);
    while child.try_wait().unwrap().is_none() {
        let now = seen(folder);
        if now != last {
            left -= 1;
            last = now;
        }
        if left == 0 {
            // SIGKILL: no handler runs.
            child.kill().unwrap();
            return !child.wait().unwrap().success();
        }
        std::thread::yield_now();
    }
    assert!(child.wait().unwrap().success());
    false
}

pub(crate) fn silent(mut command: Command) -> Child {
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Pairs of which some are refused and some leak from one split into the other.
pub(crate) fn mixed(count: u32) -> (Collection, String) {
    let collection = Collection::new(count);
    for index in [3, 17] {
        let (width, height) = image::image_dimensions(collection.mask(index)).unwrap();
        save_mask(&GrayImage::new(width, height), &collection.mask(index));
    }
    for index in count..count + 4 {
        std::fs::copy(collection.image(index - count + 5), collection.image(index)).unwrap();
        std::fs::copy(collection.mask(index - count + 5), collection.mask(index)).unwrap();
    }
    let config = configuration(&collection);
    let text = std::fs::read_to_string(&config).unwrap();
    let text = text.replace("threads = 1\n", "threads = 1\ndrop_leaks = true\n");
    std::fs::write(&config, format!("{text}split = {{ holdout = 0.4 }}\n")).unwrap();
    (collection, config)
}

#[test]
fn a_build_killed_again_and_again_ends_as_one_left_alone() {
    let (collection, config) = mixed(60);
    let undisturbed = collection.output("undisturbed").to_string_lossy().into_owned();
    let (succeeded, stdout, stderr) = run(&["build", &config, "--output", &undisturbed]);
    assert!(succeeded && stdout.contains("refused"), "{stdout}{stderr}");
    let whole = contents(&collection.output("undisturbed"));
    let text = |name: &str| {
        let (_, bytes) = whole.iter().find(|(path, _)| path == name).unwrap();
        String::from_utf8(bytes.clone()).unwrap()
    };
    assert!(text("quarantine.jsonl").contains("\"leak\""), "{}", text("quarantine.jsonl"));
    for seed in 0..2 {
        let output = collection.output(&format!("killed{seed}"));
        let name = output.to_string_lossy().into_owned();
        let (mut draws, mut kills, mut rounds) = (Draws(seed), 0, 0);
        while kills < MOST_KILLS {
            let mut child = silent(hqseg(&["build", &config, "--output", &name]));
            if !kill_at_change(&mut child, &output, draws.next(25)) {
                if kills > 3 {
                    break;
                }
                // Where this test gets little of the processor, it sees few changes in time.
                std::fs::remove_dir_all(&output).unwrap();
                (kills, rounds) = (0, rounds + 1);
                assert!(rounds < 20, "never more than 3 kills with seed {seed}");
                continue;
            }
            kills += 1;
            if !output.join("manifest.json").exists() {
                let command = ["inspect", "verify", "trace"][kills % 3];
                let (succeeded, _, stderr) = run(&[command, &name]);
                assert!(!succeeded && stderr.contains(&name), "{stderr}");
                assert!(stderr.contains("no manifest.json") || stderr.contains("no such folder"));
            }
        }
        let (succeeded, _, stderr) = run(&["build", &config, "--output", &name]);
        assert!(succeeded, "{stderr}");
        assert!(contents(&output) == whole, "seed {seed}, {kills} kills");
    }
}

#[test]
fn a_build_to_a_store_killed_again_and_again_ends_as_one_left_alone() {
    let Some(server) = Server::start(Kind::S3) else { return };
    let (collection, config) = mixed(40);
    assert!(run(&["build", &config]).0);
    let url = server.url("killed");
    let start = || {
        let mut command = hqseg(&["build", &config, "--output", &url]);
        command.envs(server.environment(&server.address));
        silent(command)
    };
    let (mut draws, mut kills) = (Draws(7), 0);
    while kills < MOST_KILLS {
        let mut child = start();
        let mut left = draws.next(60);
        // The server tells of each request that it has answered.
        while left > 0 && child.try_wait().unwrap().is_none() {
            match server.requests.try_recv() {
                Ok(()) => left -= 1,
                Err(_) => std::thread::yield_now(),
            }
        }
        child.kill().unwrap();
        if child.wait().unwrap().success() {
            break;
        }
        kills += 1;
        while server.requests.try_recv().is_ok() {}
    }
    assert!(kills > 3, "only {kills} kills");
    assert!(start().wait().unwrap().success());
    assert!(server.contents("killed") == contents(&collection.output("out")), "{kills} kills");
}
