//! A disk that is slow for real processes: `slow_disk.c`, loaded into them, lets their calls wait.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// How often and how long calls on files wait.
#[derive(Clone, Copy)]
pub(crate) struct Slowness {
    /// Of a thousand calls; of ten times as many that wait for the disk: fsync and rename.
    pub(crate) share: u64,
    pub(crate) longest_delay: Duration,
}

/// The disk below one folder.
pub(crate) struct SlowDisk {
    library: PathBuf,
    log: PathBuf,
    folder: PathBuf,
    slowness: Slowness,
}

/// What waited.
#[derive(Debug, Default)]
pub(crate) struct Delays {
    /// Number of waits by call: `open`, `read`, `write`, `fsync`, `rename`.
    pub(crate) calls: BTreeMap<String, u64>,
    /// Paths that were waited for.
    pub(crate) paths: Vec<String>,
    pub(crate) total: Duration,
}

impl SlowDisk {
    /// Compiles the library into `tools`; `folder`, which is made, becomes slow.
    pub(crate) fn new(tools: &Path, folder: &Path, slowness: Slowness) -> Self {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stores/slow_disk.c");
        let library = tools.join("slow_disk.so");
        let status = Command::new("cc")
            .args(["-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o"])
            .args([&library, &source])
            .arg("-ldl")
            .status()
            .unwrap();
        assert!(status.success(), "slow_disk.c does not compile");
        std::fs::create_dir_all(folder).unwrap();
        let folder = folder.canonicalize().unwrap();
        Self { library, log: tools.join("slow_disk.log"), folder, slowness }
    }

    /// What a process needs in its environment to find the disk slow.
    pub(crate) fn environment(&self) -> Vec<(&'static str, String)> {
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        vec![
            ("LD_PRELOAD", text(&self.library)),
            ("SLOW_DISK_FOLDER", text(&self.folder)),
            ("SLOW_DISK_LOG", text(&self.log)),
            ("SLOW_DISK_SEED", "11".to_owned()),
            ("SLOW_DISK_SHARE", self.slowness.share.to_string()),
            ("SLOW_DISK_MILLIS", self.slowness.longest_delay.as_millis().to_string()),
        ]
    }

    pub(crate) fn delays(&self) -> Delays {
        let mut delays = Delays::default();
        for line in std::fs::read_to_string(&self.log).unwrap_or_default().lines() {
            let mut words = line.splitn(3, ' ');
            let mut word = || words.next().unwrap();
            *delays.calls.entry(word().to_owned()).or_default() += 1;
            delays.total += Duration::from_millis(word().parse().unwrap());
            delays.paths.push(word().to_owned());
        }
        delays
    }
}

impl Delays {
    pub(crate) fn count(&self) -> u64 {
        self.calls.values().sum()
    }
}
