//! What the end-to-end, parity and fault tests of `tests/tests` share: where things lie, and how
//! the real programs are run.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

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
