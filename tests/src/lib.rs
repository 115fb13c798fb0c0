//! What the end-to-end, parity and fault tests of `tests/tests` share: where things lie, and how
//! the real programs are run.

mod processes;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use serde_json::Value;
use tch::Device;
use tempfile::TempDir;
use toml::Table;
use trainer::config::TrainConfig;
use trainer::model::{EncoderConfig, SamHq};
use trainer::weights;

pub use self::processes::{Dice, children, kill, ranks, resident_bytes};

/// A training small enough for seconds, with every part of the real one: windowed and global blocks.
const TINY: &str = r#"
output = "run"
[model]
random_sam = true
encoder = { kind = "vit", img_size = 128, patch_size = 16, embed_dim = 32, depth = 2, num_heads = 2, window_size = 3, global_attn_indexes = [1] }
[data]
path = "data"
threads = 1
[augment]
scale_range = [0.5, 1.5]
min_foreground_pixels = 16
[prompt]
kinds = ["box", "points"]
[train]
epochs = 6
global_batch = 2
micro_batch = 1
lr_drop_epoch = 3
checkpoint_every_steps = 1
keep_last = 3
[eval]
splits = ["val"]
every_epochs = 2
"#;

/// A folder with `tiny.toml`, changed by the TOML text `changes`, and a data set of twelve drawn pairs
/// in `raw` and `data`, nine to train on: four steps an epoch.
///
/// # Panics
/// The data set is not built.
#[must_use]
pub fn tiny(changes: &str) -> TempDir {
    tiny_of(12, changes)
}

/// [`tiny`] with another number of pairs, three quarters of them to train on.
///
/// # Panics
/// The data set is not built.
#[must_use]
pub fn tiny_of(pairs: usize, changes: &str) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder for the test");
    let pairs = pairs.to_string();
    let draw = ["draw", "raw/ECSSD", "--count", &pairs, "--seed", "7", "--layout", "ecssd"];
    let _ = succeed(folder.path(), "hqseg", &draw);
    let build = ["build", "--auto", "raw", "--output", "data", "--holdout", "0.25"];
    let _ = succeed(folder.path(), "hqseg", &build);
    write_tiny(folder.path(), changes);
    folder
}

/// `tiny.toml`, changed by the TOML text `changes`.
///
/// # Panics
/// It cannot be written.
pub fn write_tiny(folder: &Path, changes: &str) {
    let mut config: Table = TINY.parse().expect("TOML");
    let changes: Table = changes.parse().expect("the changes are TOML");
    for (key, change) in changes {
        match (config.get_mut(&key), change) {
            (Some(toml::Value::Table(section)), toml::Value::Table(change)) => {
                section.extend(change);
            }
            (_, change) => {
                config.insert(key, change);
            }
        }
    }
    let text = toml::to_string(&config).expect("TOML");
    std::fs::write(folder.join("tiny.toml"), text).expect("a folder for the test");
}

/// Saves a random SAM of the encoder of [`tiny`] without its HQ part. Returns the encoder and the
/// names of what is missing.
///
/// # Panics
/// It cannot be written.
#[must_use]
pub fn save_tiny_sam(path: &Path) -> (EncoderConfig, Vec<String>) {
    let config = TrainConfig::parse(Path::new("tiny.toml"), TINY).expect("a configuration");
    let encoder = config.model.encoder.resolve().expect("an encoder");
    let model = SamHq::random(&encoder, 3, Device::Cpu);
    let hq: Vec<String> = model.hq_parameters().into_iter().map(|(name, _)| name).collect();
    let mut sam = model.state_dict();
    sam.retain(|name, _| !hq.contains(name));
    weights::save_pth(path, &sam).expect("a folder for the test");
    (encoder, hq)
}

/// The lines of a JSON log; empty where there is none yet.
#[must_use]
pub fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_default()).collect()
}

/// Root of the workspace.
///
/// # Panics
/// Never: this package lies one folder below it.
#[must_use]
pub fn workspace_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace").into()
}

/// Recorded values of the reference: `$HQSAM_GOLDEN_DIR`, by default `../shared/golden`.
/// `None`, saying so, where there are none.
#[must_use]
pub fn golden_dir() -> Option<PathBuf> {
    data_dir("HQSAM_GOLDEN_DIR", "../shared/golden")
}

/// Real images with masks: `$HQSAM_RAW_DIR`, by default `../shared/raw`. `None`, saying so, where
/// there are none.
#[must_use]
pub fn raw_dir() -> Option<PathBuf> {
    data_dir("HQSAM_RAW_DIR", "../shared/raw")
}

/// Python with the published packages: `$HQSAM_PYTHON`, by default `.venv/bin/python`. `None`,
/// saying so, where there is none.
#[must_use]
pub fn python() -> Option<PathBuf> {
    data_dir("HQSAM_PYTHON", ".venv/bin/python")
}

/// The published LiteMedSAM weights: `$HQSAM_LITE_MEDSAM`, by default `weights/lite_medsam.pth`, which
/// `scripts/setup-weights.sh` fetches. `None`, saying so, where there are none.
///
/// # Panics
/// The variable names a file that does not exist: a test that was asked for must not be skipped.
#[must_use]
pub fn lite_medsam() -> Option<PathBuf> {
    let variable = "HQSAM_LITE_MEDSAM";
    let found = data_dir(variable, "weights/lite_medsam.pth");
    assert!(found.is_some() || std::env::var_os(variable).is_none(), "{variable} names no file");
    found
}

#[expect(clippy::print_stdout, reason = "a skipped test says so in its output")]
fn data_dir(variable: &str, default: &str) -> Option<PathBuf> {
    let path =
        std::env::var_os(variable).map_or_else(|| workspace_root().join(default), PathBuf::from);
    if path.exists() {
        return Some(path);
    }
    println!("skipped: {} does not exist (set {variable})", path.display());
    None
}

/// The program `name` of this workspace, built with the profile of this test.
///
/// # Panics
/// The program does not build.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let folder = BUILT.get_or_init(|| {
        let exe = std::env::current_exe().expect("a running test has a path");
        let folder = exe.parent().and_then(Path::parent).expect("target/<profile>/deps/<test>");
        let profile = match folder.file_name().and_then(|name| name.to_str()) {
            Some("debug") | None => "dev",
            Some(other) => other,
        };
        // The same packages as `make build`, so that nothing is built twice.
        let status = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--profile", profile])
            .current_dir(workspace_root())
            .status()
            .expect("cargo runs");
        assert!(status.success(), "the programs under test do not build");
        folder.to_owned()
    });
    folder.join(name)
}

/// Runs a program of the workspace in `folder` and returns what it printed.
///
/// # Panics
/// The program cannot be started.
#[must_use]
pub fn run(folder: &Path, name: &str, arguments: &[&str]) -> Output {
    Command::new(program(name))
        .args(arguments)
        .current_dir(folder)
        .env_remove("RUST_LOG")
        .output()
        .expect("the program starts")
}

/// Runs a program that must succeed; returns its standard output.
///
/// # Panics
/// It failed; the message holds everything it printed.
#[must_use]
pub fn succeed(folder: &Path, name: &str, arguments: &[&str]) -> String {
    let output = run(folder, name, arguments);
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name} {arguments:?} failed\n{stdout}\n{stderr}");
    stdout
}

/// Runs a program that must fail with an ordinary error; returns its standard error.
///
/// # Panics
/// It succeeded, was killed, or showed a panic or a backtrace.
#[must_use]
pub fn fail(folder: &Path, name: &str, arguments: &[&str]) -> String {
    let output = run(folder, name, arguments);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{name} {arguments:?} succeeded");
    assert!(output.status.code().is_some(), "{name} was killed: {stderr}");
    for word in ["panicked", "stack backtrace", "internal error"] {
        assert!(!stderr.contains(word), "{name} shows `{word}`:\n{stderr}");
    }
    stderr
}
