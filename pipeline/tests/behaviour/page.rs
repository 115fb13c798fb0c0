//! The report page in a real browser.

use std::collections::BTreeMap;

use dataset::source::SplitRule;

use crate::browser::open;
use crate::chromium;
use crate::support::{Collection, save_mask};

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
    let Some(browser) = chromium::installed() else { return };
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
        let wanted = ["rows", "refused", "identical", "leaked", "across_sources", "within_sources"];
        for place in wanted.into_iter().chain(["found", "expected", "median", "train"]) {
            assert!(places.contains_key(place), "no number for {place}");
        }
    }
}
