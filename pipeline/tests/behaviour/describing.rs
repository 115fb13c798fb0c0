//! `hqseg stats`, `doctor`, `verify` and `inspect`: what they say of good and of damaged data.

use std::process::Command;

use serde_json::Value;

use crate::support::Collection;

fn hqseg(arguments: &[&str]) -> (bool, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hqseg"));
    let output = command.args(arguments).env("HQSEG_LOG", "warn").output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.success(), text(output.stdout), text(output.stderr))
}

fn text(path: std::path::PathBuf) -> String {
    path.to_string_lossy().into_owned()
}

#[test]
fn stats_are_those_of_the_rows_and_of_the_report() {
    let collection = Collection::new(30);
    let report = collection.build("out");
    let output = text(collection.output("out"));
    // Shards behind a URL are read through the object store.
    for place in [output.clone(), format!("file://{output}")] {
        let (succeeded, stdout, stderr) = hqseg(&["stats", &place, "--json"]);
        assert!(succeeded, "{stderr}");
        let stats: Value = serde_json::from_str(&stdout).unwrap();
        let rows = |split: &str| stats["splits"][split]["all"]["rows"].as_u64().unwrap();
        assert_eq!(rows("train"), report.sources[0].rows["train"]);
        assert_eq!(rows("train") + rows("val"), 30);
        let longest = &stats["splits"]["train"]["sources"]["drawn"]["measures"]["longest_side_px"];
        assert!((60.0..=114.0).contains(&longest["median"].as_f64().unwrap()), "{longest}");
    }
    // By hand, of the raw files: widths are 60 to 114 and heights 50 to 94.
    let longest = report.sources[0].stats.measures["longest_side_px"];
    let mut sides: Vec<u32> =
        (0..30).map(|index| (60 + index % 7 * 9).max(50 + index % 5 * 11)).collect();
    sides.sort_unstable();
    assert_eq!((longest.min, longest.max), (f64::from(sides[0]), f64::from(sides[29])));
    assert_eq!(longest.median, f64::from(sides[14]));
    let (_, stdout, _) = hqseg(&["stats", &output]);
    assert!(stdout.contains("drawn, ") && stdout.contains('█'), "{stdout}");
}

fn write_config(collection: &Collection, root: &str, output: &str) -> String {
    let path = collection.output("build.toml");
    let config = format!(
        "output = {output:?}\n[[source]]\nname = 'drawn'\nlayout = 'ecssd'\nroot = {root:?}\n"
    );
    std::fs::write(&path, config).unwrap();
    text(path)
}

/// Status by name of check.
fn doctor(target: &str) -> (bool, Vec<(String, String, String)>) {
    let (succeeded, stdout, _) = hqseg(&["doctor", target, "--json"]);
    let checks: Vec<Value> = serde_json::from_str(&stdout).unwrap();
    let part = |check: &Value, name: &str| check[name].as_str().unwrap().to_owned();
    let checks = checks
        .iter()
        .map(|check| (part(check, "name"), part(check, "status"), part(check, "message")));
    (succeeded, checks.collect())
}

fn status<'a>(checks: &'a [(String, String, String)], name: &str) -> (&'a str, &'a str) {
    let check = checks.iter().find(|check| check.0 == name);
    let check = check.unwrap_or_else(|| panic!("no check {name} in {checks:?}"));
    (&check.1, &check.2)
}

#[test]
fn doctor_finds_what_is_wrong_with_a_configuration() {
    let collection = Collection::new(6);
    let (raw, output) = (text(collection.raw()), text(collection.output("out")));
    let config = write_config(&collection, &raw, &output);
    let (succeeded, checks) = doctor(&config);
    assert!(succeeded, "{checks:?}");
    assert_eq!(status(&checks, "source drawn").0, "ok");
    assert!(status(&checks, "source drawn").1.starts_with("6 pairs, "));
    assert_eq!(status(&checks, "free disk").0, "ok");
    for name in ["versions", "threads", "instructions", "memory", "open files"] {
        status(&checks, name);
    }

    // Masks of other pictures: the sizes give them away before anything is built.
    for index in 0..6 {
        crate::support::save_mask(&crate::support::disc(7, 7), &collection.mask(index));
    }
    let (succeeded, checks) = doctor(&config);
    assert!(!succeeded);
    let (found, message) = status(&checks, "source drawn");
    assert!(found == "error" && message.contains("the first 3 are all refused"), "{message}");

    let config = write_config(&collection, "no/such", &output);
    let (succeeded, checks) = doctor(&config);
    assert!(!succeeded && status(&checks, "source drawn").1.contains("no/such is not a folder"));
    let (succeeded, checks) = doctor("no/such.toml");
    assert!(!succeeded && status(&checks, "configuration").0 == "error");
    let (succeeded, stdout, stderr) = hqseg(&["doctor", "no/such.toml"]);
    assert!(!succeeded && stdout.contains("error    configuration: "), "{stdout}");
    assert!(stderr.ends_with("checks failed\n"), "{stderr}");
}

#[test]
fn doctor_tries_the_store_of_an_output_and_leaves_nothing_there() {
    let collection = Collection::new(3);
    let store = collection.output("store");
    std::fs::create_dir(&store).unwrap();
    let url = format!("file://{}", store.display());
    let config = write_config(&collection, &text(collection.raw()), &url);
    let (_, checks) = doctor(&config);
    assert_eq!(status(&checks, "store").0, "ok", "{checks:?}");
    assert!(status(&checks, "conditional put").1.starts_with("supported"), "{checks:?}");
    assert_eq!(std::fs::read_dir(store).unwrap().count(), 0);
    let (succeeded, checks) = doctor("gopher://host/set");
    assert!(!succeeded && status(&checks, "store").0 == "error", "{checks:?}");
}

#[test]
fn doctor_finds_missing_and_short_shards() {
    let collection = Collection::new(20);
    collection.build("out");
    let output = collection.output("out");
    let (succeeded, checks) = doctor(&text(output.clone()));
    assert!(succeeded && status(&checks, "shards").0 == "ok", "{checks:?}");
    let shard = collection.shard("out", "train", 0);
    let missing = collection.shard("out", "val", 0);
    let bytes = std::fs::read(&shard).unwrap();
    std::fs::write(&shard, &bytes[..bytes.len() - 1]).unwrap();
    std::fs::remove_file(&missing).unwrap();
    let (succeeded, checks) = doctor(&text(output));
    let message = status(&checks, "shards").1;
    assert!(!succeeded && message.starts_with("2 of "), "{message}");
    let name = missing.file_name().unwrap().to_string_lossy();
    assert!(message.contains(&format!("{name} is missing")), "{message}");
}

#[test]
fn verify_names_the_damaged_row_and_goes_on_where_it_stopped() {
    let collection = Collection::new(20);
    let report = collection.build("out");
    let output = text(collection.output("out"));
    let (succeeded, stdout, stderr) = hqseg(&["verify", &output, "--decode"]);
    assert!(succeeded, "{stdout}{stderr}");
    assert!(stdout.contains("every row decodes to what its columns say"), "{stdout}");

    // Breaks the third image of a shard and nothing else.
    let shard = collection.shard("out", "train", 0);
    let mut bytes = std::fs::read(&shard).unwrap();
    let starts: Vec<usize> =
        (0..bytes.len() - 4).filter(|at| bytes[*at..].starts_with(b"\xff\xd8\xff\xe0")).collect();
    bytes[starts[2] + 300] ^= 0xff;
    std::fs::write(&shard, &bytes).unwrap();
    let record = text(collection.output("verified.txt"));
    let arguments = ["verify", &output, "--resume", &record];
    let (succeeded, stdout, stderr) = hqseg(&arguments);
    assert!(!succeeded && stderr.contains("1 of "), "{stderr}");
    assert!(stdout.contains("sha256 is "), "{stdout}");
    let rows: Vec<&str> = stdout.lines().filter(|line| line.contains("(row ")).collect();
    assert_eq!(rows.len(), 1, "{stdout}");
    assert!(rows[0].contains("sample drawn/") && rows[0].contains("(row 2 of "), "{}", rows[0]);

    bytes[starts[2] + 300] ^= 0xff;
    std::fs::write(&shard, &bytes).unwrap();
    let (succeeded, stdout, stderr) = hqseg(&arguments);
    assert!(succeeded, "{stderr}");
    let before = report.shards - 1;
    assert!(
        stdout.starts_with(&format!("{before} shards found whole before\n1 shards")),
        "{stdout}"
    );
    let (succeeded, _, stderr) = hqseg(&["verify", &output, "--decode", "--resume", &record]);
    assert!(!succeeded && stderr.contains("with other options"), "{stderr}");
}

#[test]
fn inspect_shows_a_row_of_any_split() {
    let collection = Collection::new(12);
    collection.build("out");
    let output = text(collection.output("out"));
    let (succeeded, stdout, _) = hqseg(&["inspect", &output, "--split", "val", "--row", "1"]);
    assert!(succeeded && stdout.contains("row 1 of val: drawn/"), "{stdout}");
    let (succeeded, _, stderr) = hqseg(&["inspect", &output, "--split", "test"]);
    assert!(!succeeded && stderr.contains("no split `test`"), "{stderr}");
}
