//! `hqsam eval`: every protocol, shared by processes, and its files as other tools open them.

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tch::Device;
use tests::{fail, program, python, succeed, workspace_root};
use trainer::model::{EncoderConfig, SamHq, VitConfig};
use trainer::weights::save_pth;

#[path = "../../pipeline/tests/behaviour/browser.rs"]
mod browser;
#[path = "../../pipeline/tests/behaviour/chromium.rs"]
mod chromium;

/// A random model in `model.pth`, drawn images in `data`; the masks that the model takes are four
/// times as large as its grid.
fn prepare(folder: &Path, patch_size: i64) {
    let encoder = EncoderConfig::Vit(VitConfig {
        img_size: 256,
        patch_size,
        embed_dim: 32,
        depth: 2,
        num_heads: 2,
        window_size: 7,
        global_attn_indexes: vec![1],
        ..VitConfig::default()
    });
    let state = SamHq::random(&encoder, 3, Device::Cpu).state_dict();
    save_pth(&folder.join("model.pth"), &state).unwrap();
    let draw = ["draw", "raw/ECSSD", "--count", "22", "--seed", "7", "--layout", "ecssd"];
    let _ = succeed(folder, "hqseg", &draw);
    let build = ["build", "--auto", "raw", "--output", "data", "--holdout", "0.5"];
    let _ = succeed(folder, "hqseg", &build);
}

fn report(folder: &Path, output: &str) -> Value {
    let text = std::fs::read(folder.join(output).join("val.json")).unwrap();
    serde_json::from_slice(&text).unwrap()
}

fn rows(report: &Value, protocol: &str) -> Vec<u64> {
    let images = report["images"].as_array().unwrap().iter();
    images
        .filter(|image| image["protocol"] == protocol)
        .map(|image| image["row"].as_u64().unwrap())
        .collect()
}

#[test]
fn three_processes_report_what_one_does_bit_by_bit() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    prepare(folder, 16);
    let protocols = ["box", "points:1", "clicks:3", "noisy_box:0.2"];
    let list = protocols.join(",");
    let eval = ["eval", "model.pth", "--data", "data", "--protocol", &list, "--output"];
    let _ = succeed(folder, "hqsam", &[&eval[..], &["one"]].concat());
    let hqsam = program("hqsam");
    let shared = ["--procs", "3", "--", hqsam.to_str().unwrap()];
    let printed = succeed(folder, "launch", &[&shared[..], &eval, &["three", "--json"]].concat());

    let (one, three) = (report(folder, "one"), report(folder, "three"));
    let dataset = pipeline::Dataset::open(folder.join("data").to_str().unwrap()).unwrap();
    let images = dataset.num_samples("val").unwrap();
    assert!(images > 6 && !images.is_multiple_of(3), "{images} images do not show uneven ranks");
    for protocol in protocols {
        assert!(rows(&three, protocol).into_iter().eq(0..images), "{protocol}");
    }
    assert_eq!(one, three);
    let table = |output: &str| std::fs::read(folder.join(output).join("val.parquet")).unwrap();
    assert_eq!(table("one"), table("three"));
    assert_eq!(
        (&one["data"], &one["data_sha256"]),
        (&"data".into(), &dataset.manifest_sha256().into())
    );
    // One process of the three prints, and prints what it wrote.
    assert_eq!(serde_json::from_str::<Value>(&printed).unwrap()[0], three);
    let markdown = std::fs::read_to_string(folder.join("three/val.md")).unwrap();
    assert_eq!(markdown.lines().filter(|line| line.contains("| all |")).count(), 4, "{markdown}");
}

#[test]
fn every_protocol_and_setting_is_evaluated_and_opens_in_duckdb() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    // A grid of 64, as published models have, for the sake of the coarse mask.
    prepare(folder, 4);
    let eval = ["eval", "model.pth", "--data", "data", "--limit", "2", "--output"];
    let _ = succeed(folder, "hqsam", &[&eval[..], &["plain"]].concat());
    let list = "box,points:3,clicks:1,clicks:3,coarse_mask,noisy_box:0.4";
    let _ = succeed(folder, "hqsam", &[&eval[..], &["all", "--protocol", list]].concat());
    let thin = ["thin", "--dilation-ratio", "0.002", "--mode", "sum"];
    let _ = succeed(folder, "hqsam", &[&eval[..], &thin].concat());

    let (plain, all, thin) =
        (report(folder, "plain"), report(folder, "all"), report(folder, "thin"));
    assert_eq!((&plain["hq_output"], &thin["hq_output"]), (&"hq".into(), &"sum".into()));
    assert_eq!(plain["dilation_ratio"], 0.02);
    let boxes: Vec<&Value> = all["sets"].as_array().unwrap().iter().take(2).collect();
    assert_eq!(plain["sets"].as_array().unwrap().iter().collect::<Vec<_>>(), boxes);
    let mean = |report: &Value, metric: &str| report["sets"][0]["sam"][metric].clone();
    assert_eq!(mean(&plain, "mask_iou"), mean(&thin, "mask_iou"));
    assert_ne!(mean(&plain, "boundary_iou"), mean(&thin, "boundary_iou"));
    for protocol in list.split(',') {
        assert_eq!(rows(&all, protocol), [0, 1], "{protocol}");
    }

    // A second and a third click see what the first gave.
    let scores = |protocol: &str| -> Vec<&Value> {
        let images = all["images"].as_array().unwrap().iter();
        images.filter(|image| image["protocol"] == protocol).map(|image| &image["hq"]).collect()
    };
    assert_ne!(scores("clicks:1"), scores("clicks:3"));

    let Some(python) = python() else { return };
    let output = Command::new(python)
        .arg(workspace_root().join("tests/python/open_eval_table.py"))
        .arg("all/val.parquet")
        .current_dir(folder)
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let seen: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(seen["rows"], 12);
    assert_eq!(seen["datasets_rows"], 12);
    for set in all["sets"].as_array().unwrap().iter().filter(|set| set["set"] == "all") {
        let found = &seen["means"][set["protocol"].as_str().unwrap()];
        for (index, (model, metric)) in [
            ("sam", "mask_iou"),
            ("sam", "boundary_iou"),
            ("hq", "mask_iou"),
            ("hq", "boundary_iou"),
        ]
        .into_iter()
        .enumerate()
        {
            let (found, expected) = (found[index].as_f64().unwrap(), set[model][metric].as_f64());
            assert!((found - expected.unwrap()).abs() < 1e-12, "{model} {metric}: {found}");
        }
    }
}

#[test]
fn the_page_is_whole_at_every_width_and_shows_the_worst_cases() {
    let Some(browser) = chromium::installed() else { return };
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    prepare(folder, 16);
    let eval = ["eval", "model.pth", "--data", "data", "--protocol", "box,points:1"];
    let shared = ["--output", "out", "--worst", "3"];
    let hqsam = program("hqsam");
    let launch = ["--procs", "2", "--", hqsam.to_str().unwrap()];
    let _ = succeed(folder, "launch", &[&launch[..], &eval, &shared].concat());
    let report = report(folder, "out");
    let page = std::fs::read_to_string(folder.join("out/val.html")).unwrap();
    for width in [1280, 390] {
        let seen = browser::open(&browser, &page, width);
        assert_eq!(seen.width, width);
        assert!(seen.content_width <= width, "{} px at {width}", seen.content_width);
        assert_eq!((seen.images, seen.plots), (2 * 3, 2 * 2));
        let problems = [
            seen.broken,
            seen.without_alt,
            seen.unnamed_plots,
            seen.skipped_levels,
            seen.dead_links,
            seen.hidden_tables,
            seen.fetched,
        ];
        assert_eq!(problems, [0; 7], "broken, alt, plots, headings, links, tables, fetched");
        assert!(seen.numbers.len() >= 2 * 2 * 5, "{:?}", seen.numbers);
        for (pointer, text) in &seen.numbers {
            let number = report.pointer(pointer).and_then(Value::as_f64).unwrap();
            let shown: f64 = text.parse().unwrap();
            let number = if pointer.ends_with("iou") { 100.0 * number } else { number };
            assert!((shown - number).abs() <= 0.005 + 1e-9, "{pointer}: {shown}, {number}");
        }
    }
    // The pictures are those of the lowest scores, the lowest first.
    let mut scores: Vec<(f64, &str)> = report["images"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|image| image["protocol"] == "points:1")
        .map(|image| {
            (image["hq"]["mask_iou"].as_f64().unwrap(), image["sample_id"].as_str().unwrap())
        })
        .collect();
    scores.sort_by(|left, right| left.0.total_cmp(&right.0));
    let of_points = page.split("id=\"prompt-1\"").nth(1).unwrap();
    let shown: Vec<&str> = of_points
        .match_indices("<figcaption>")
        .map(|(at, tag)| &of_points[at + tag.len()..])
        .collect();
    for (rank, (_, sample_id)) in scores.iter().take(3).enumerate() {
        let caption = shown[shown.len() - 3 + rank];
        let escaped = format!("{}, ", sample_id.replace('/', "&#x2f;"));
        assert!(caption.starts_with(&escaped), "{rank}: {sample_id}, {}", &caption[..60]);
    }
}

#[test]
fn settings_that_cannot_be_evaluated_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    prepare(folder, 16);
    let eval = ["eval", "model.pth", "--data", "data"];
    for (extra, words) in [
        (["--protocol", "points"], ["`points`", "points:5"]),
        (["--protocol", "clicks:0"], ["`clicks:0`", "clicks:1"]),
        (["--protocol", "box,noisy_box:2"], ["`noisy_box:2`", "noisy_box:0.2"]),
        (["--protocol", "box,box"], ["eval.protocols", "box twice"]),
        (["--protocol", "coarse_mask"], ["256 x 256", "64 x 64"]),
        (["--dilation-ratio", "0"], ["eval.dilation_ratio", "0"]),
        (["--limit", "0"], ["--limit", "1.."]),
        (["--threads", "0"], ["--threads", "1.."]),
    ] {
        let error = fail(folder, "hqsam", &[&eval[..], &extra].concat());
        assert!(words.iter().all(|word| error.contains(word)), "{extra:?}: {error}");
    }
}
