//! Which browser the tests of pages use; those of other packages include this file too.

use std::path::PathBuf;

/// `chromium` on the path. Without one the tests say that they were skipped, unless
/// `HQSAM_TEST_BROWSER=required`.
#[expect(clippy::print_stdout, reason = "a skipped test says so")]
pub(crate) fn installed() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = ["chromium", "chromium-browser", "google-chrome"]
        .into_iter()
        .flat_map(|name| std::env::split_paths(&path).map(move |folder| folder.join(name)))
        .find(|program| program.is_file());
    if found.is_none() {
        let required = std::env::var("HQSAM_TEST_BROWSER").is_ok_and(|value| value == "required");
        assert!(!required, "no chromium on the path; scripts/setup-browser.sh installs it");
        println!("skipped: no chromium on the path (scripts/setup-browser.sh installs it)");
    }
    found
}
