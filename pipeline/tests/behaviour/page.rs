//! The report page in a real browser: `chromium` on the path. Without one the tests say that they
//! were skipped, unless `HQSAM_TEST_BROWSER=required`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine as _;
use dataset::source::SplitRule;
use serde::Deserialize;

use crate::support::{Collection, save_mask};

/// Appended to the page: tells the page around it what became of it.
const PROBE: &str = include_str!("probe.html");

#[derive(Deserialize)]
struct Seen {
    images: usize,
    broken: usize,
    without_alt: usize,
    plots: usize,
    unnamed_plots: usize,
    skipped_levels: usize,
    dead_links: usize,
    fetched: usize,
    /// Tables that need scrolling although they are laid out to fit.
    hidden_tables: usize,
    width: u32,
    content_width: u32,
    numbers: Vec<(String, String)>,
}

#[expect(clippy::print_stdout, reason = "a skipped test says so")]
fn browser() -> Option<PathBuf> {
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

/// Opens `page` in a frame of that width: a window itself is never narrower than 500 pixels.
fn open(browser: &Path, page: &str, width: u32) -> Seen {
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

/// Two sources with a leak, a repeated image, several kinds of refusal and a name like a tag.
fn built() -> (Collection, String, serde_json::Value) {
    let collection = Collection::new(40);
    std::fs::copy(collection.image(0), collection.image(40)).unwrap();
    std::fs::copy(collection.mask(0), collection.mask(40)).unwrap();
    std::fs::write(collection.image(2), b"not an image").unwrap();
    std::fs::remove_file(collection.mask(3)).unwrap();
    save_mask(&image::GrayImage::new(60, 50), &collection.mask(7));
    let mut config = collection.config("out");
    let mut second = config.source[0].clone();
    second.name =
        "<b>bold & long name without any place to break it in two lines".replace(' ', "_");
    second.split = SplitRule::Fixed("val".to_owned());
    config.source.push(second);
    pipeline::build(&config).unwrap();
    let output = collection.output("out");
    let page = std::fs::read_to_string(output.join(pipeline::build::PAGE_FILE)).unwrap();
    let report = std::fs::read(output.join(pipeline::build::REPORT_FILE)).unwrap();
    (collection, page, serde_json::from_slice(&report).unwrap())
}

#[test]
fn the_page_is_whole_at_every_width_and_its_numbers_are_those_of_the_report() {
    let Some(browser) = browser() else { return };
    let (_collection, page, report) = built();
    for width in [1280, 390] {
        let seen = open(&browser, &page, width);
        assert_eq!(seen.width, width);
        assert!(seen.content_width <= width, "{} px at {width}", seen.content_width);
        assert!(seen.images >= 24, "{} images", seen.images);
        assert!(seen.plots >= 8, "{} plots", seen.plots);
        let problems = [
            seen.broken,
            seen.without_alt,
            seen.unnamed_plots,
            seen.skipped_levels,
            seen.dead_links,
        ];
        assert_eq!(problems, [0; 5], "broken, without alt, unnamed plots, headings, links");
        assert_eq!(seen.hidden_tables, 0, "tables that do not fit {width} px");
        assert_eq!(seen.fetched, 0, "the page needs something outside itself");
        let mut places: BTreeMap<&str, usize> = BTreeMap::new();
        for (pointer, text) in &seen.numbers {
            let number = report.pointer(pointer).and_then(serde_json::Value::as_f64);
            assert_eq!(text.replace(',', "").parse::<f64>().ok(), number, "{pointer}");
            *places.entry(pointer.split('/').next_back().unwrap()).or_default() += 1;
        }
        for place in ["rows", "refused", "identical", "found", "expected", "median", "train"] {
            assert!(places.contains_key(place), "no number for {place}");
        }
    }
}
