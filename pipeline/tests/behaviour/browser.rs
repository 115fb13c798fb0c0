//! A page in a real browser.

use std::path::Path;
use std::process::Command;

use base64::Engine as _;
use serde::Deserialize;

/// Appended to the page: tells the page around it what became of it.
const PROBE: &str = include_str!("probe.html");

/// What the browser made of a page.
#[derive(Deserialize)]
pub(crate) struct Seen {
    pub(crate) images: usize,
    pub(crate) broken: usize,
    pub(crate) without_alt: usize,
    pub(crate) plots: usize,
    pub(crate) unnamed_plots: usize,
    pub(crate) skipped_levels: usize,
    pub(crate) dead_links: usize,
    pub(crate) fetched: usize,
    /// Tables that need scrolling although they are laid out to fit.
    pub(crate) hidden_tables: usize,
    pub(crate) width: u32,
    pub(crate) content_width: u32,
    pub(crate) numbers: Vec<(String, String)>,
}

/// Opens `page` in a frame of that width: a window itself is never narrower than 500 pixels.
pub(crate) fn open(browser: &Path, page: &str, width: u32) -> Seen {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("page.html"), format!("{page}{PROBE}")).unwrap();
    let frame = format!(
        "<!doctype html><link rel=icon href='data:,'><iframe src=page.html width={width} height=900 \
         style='border:0'></iframe><script>addEventListener('message', event => {{ \
         const result = document.createElement('pre'); result.id = 'result'; \
         result.textContent = event.data; document.body.append(result); }});</script>"
    );
    std::fs::write(folder.path().join("frame.html"), frame).unwrap();
    let output = Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .args(["--window-size=1400,1000", "--virtual-time-budget=20000"])
        .args(["--enable-logging=stderr", "--dump-dom"])
        .arg(format!("--user-data-dir={}", folder.path().join("profile").display()))
        .arg(format!("file://{}", folder.path().join("frame.html").display()))
        .output()
        .unwrap();
    let (dom, log) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let complaints: Vec<&str> = log.lines().filter(|line| line.contains(":CONSOLE")).collect();
    assert!(complaints.is_empty(), "{complaints:?}");
    let result = dom.split("<pre id=\"result\">").nth(1).and_then(|rest| rest.split('<').next());
    let result = result.unwrap_or_else(|| panic!("the page did not load: {log}"));
    let json = base64::engine::general_purpose::STANDARD.decode(result).unwrap();
    serde_json::from_slice(&json).unwrap()
}
