//! The program itself: exit codes, messages, and what a kill leaves behind.

use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use pipeline::Dataset;

use crate::support::{Collection, contents};

pub(crate) fn hqseg(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hqseg"));
    command.args(arguments).env("HQSEG_LOG", "warn");
    command
}

pub(crate) fn run(arguments: &[&str]) -> (bool, String, String) {
    let Output { status, stdout, stderr } = hqseg(arguments).output().unwrap();
    (status.success(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

/// Writes `build.toml` for a collection, with shards so small that a build takes many.
pub(crate) fn configuration(collection: &Collection) -> String {
    let path = collection.output("build.toml");
    let text = format!(
        "output = {:?}\nshard_bytes = 20000\nthreads = 1\n\
         [[source]]\nname = 'drawn'\nlayout = 'ecssd'\nroot = {:?}\n",
        collection.output("out"),
        collection.raw()
    );
    std::fs::write(&path, text).unwrap();
    path.to_string_lossy().into_owned()
}

/// Starts a build and waits until it has finished its first shards.
fn started(collection: &Collection, config: &str) -> Child {
    let child =
        hqseg(&["build", config]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let receipts = collection.output("out").join("receipts");
    let deadline = Instant::now() + Duration::from_secs(120);
    while std::fs::read_dir(&receipts).map_or(0, Iterator::count) < 2 {
        assert!(Instant::now() < deadline, "the build wrote no shard");
        std::thread::sleep(Duration::from_millis(2));
    }
    child
}

#[test]
fn a_killed_build_leaves_no_data_set_and_the_next_one_goes_on() {
    let collection = Collection::new(160);
    let config = configuration(&collection);
    let mut child = started(&collection, &config);
    // A second build of the same folder waits for nobody: it says why it cannot start.
    let (succeeded, _, stderr) = run(&["build", &config]);
    assert!(!succeeded && stderr.contains("another hqseg build is writing there"), "{stderr}");
    // SIGKILL: no handler runs.
    child.kill().unwrap();
    child.wait().unwrap();
    let output = collection.output("out");
    assert!(!output.join("manifest.json").exists(), "the build was over before it was killed");
    let message = Dataset::open(&output.to_string_lossy()).err().unwrap().to_string();
    assert!(message.contains("no manifest.json"), "{message}");

    let (succeeded, stdout, stderr) = run(&["build", &config]);
    assert!(succeeded && stdout.contains("160 rows"), "{stdout}{stderr}");
    assert!(!stdout.contains(" 0 shards reused"), "{stdout}");
    let fresh = collection.output("fresh").to_string_lossy().into_owned();
    assert!(run(&["build", &config, "--output", &fresh]).0);
    assert!(contents(&output) == contents(&collection.output("fresh")));
    assert!(run(&["build", &config]).1.ends_with("up to date\n"));
    let (succeeded, stdout, _) = run(&["verify", &config]);
    assert!(succeeded && stdout.ends_with("shards as the manifest says\n"), "{stdout}");
}

#[test]
fn a_mistake_is_one_line_and_exit_code_one() {
    let collection = Collection::new(2);
    let config = configuration(&collection);
    for (arguments, expected) in [
        (
            vec!["build", &config, "--set", "outptu=x"],
            "unknown key `outptu`; did you mean `output`?",
        ),
        (vec!["build", &config, "--set", "source.drawn.root=no/such"], "no/such is not a folder"),
        (vec!["build", &config, "--world", "2"], "--world needs --rank"),
        (vec!["build", &config, "--world", "2", "--rank", "2"], "rank 2 of 2: "),
        (vec!["inspect", "no/such/set"], "no such folder"),
        (vec!["build", "--auto", "raw", "--output", "o", "--set", "a=1"], "--auto has none"),
        (vec!["verify", &config], "no such folder"),
    ] {
        let output = hqseg(&arguments).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.starts_with("error: ") && stderr.contains(expected), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    }
    assert_eq!(hqseg(&["build"]).output().unwrap().status.code(), Some(2));
}

#[test]
fn raw_folders_build_without_a_configuration() {
    let collection = Collection::new(10);
    let (raw, output) = (collection.raw(), collection.output("auto"));
    let (raw, output) = (raw.to_string_lossy(), output.to_string_lossy());
    let (succeeded, stdout, stderr) = run(&["build", "--auto", &raw, "--output", &output]);
    assert!(succeeded && stdout.contains("train 8, val 2"), "{stdout}{stderr}");
    let (_, stdout, _) = run(&["inspect", &output, "--row", "1"]);
    assert!(stdout.contains("row 1 of train: ECSSD/"), "{stdout}");
}

/// Every sample of every step, as `hqseg trace --json` prints them.
fn trace(dataset: &str, world: usize, arguments: &[&str]) -> Vec<Vec<String>> {
    trace_in(&[], dataset, world, arguments)
}

/// As [`trace`], with further environment variables.
pub(crate) fn trace_in(
    environment: &[(&'static str, String)],
    dataset: &str,
    world: usize,
    arguments: &[&str],
) -> Vec<Vec<String>> {
    let mut steps: Vec<Vec<String>> = Vec::new();
    for rank in 0..world {
        let (world, rank) = (world.to_string(), rank.to_string());
        let fixed = ["trace", dataset, "--json", "--size", "48", "--global-batch", "8"];
        let ranks = ["--world", &world, "--rank", &rank];
        let mut command = hqseg(&[&fixed[..], &ranks, arguments].concat());
        let Output { status, stdout, stderr } =
            command.envs(environment.iter().cloned()).output().unwrap();
        assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
        let stdout = String::from_utf8(stdout).unwrap();
        for (index, line) in stdout.lines().enumerate() {
            let step: serde_json::Value = serde_json::from_str(line).unwrap();
            let samples = step["samples"].as_array().unwrap().iter().map(|sample| {
                let place = format!("{} {}", step["epoch"], step["step"]);
                format!("{place} {} {} {}", sample["sample_id"], sample["prompt"], sample["sha256"])
            });
            if steps.len() == index {
                steps.push(Vec::new());
            }
            steps[index].extend(samples);
        }
    }
    steps
}

#[test]
fn a_trace_does_not_depend_on_ranks_threads_or_where_it_starts() {
    let collection = Collection::new(36);
    collection.build("out");
    let dataset = collection.output("out").to_string_lossy().into_owned();
    // 27 rows to train on: three whole batches of eight an epoch.
    let whole = trace(&dataset, 1, &["--steps", "6"]);
    assert_eq!(whole.iter().map(Vec::len).collect::<Vec<_>>(), [8; 6]);
    assert!(whole[3][0].starts_with("1 0 "), "{}", whole[3][0]);
    for kind in ["box", "points", "noise_mask"] {
        assert!(whole.iter().flatten().any(|sample| sample.contains(kind)), "no {kind}");
    }
    for world in [2, 3, 8] {
        assert_eq!(trace(&dataset, world, &["--steps", "6"]), whole, "{world} ranks");
    }
    assert_eq!(trace(&dataset, 1, &["--steps", "6", "--threads", "1"]), whole);
    let later = trace(&dataset, 2, &["--epoch", "1", "--from-step", "1", "--steps", "2"]);
    assert_eq!(later, whole[4..]);
    assert_eq!(trace(&dataset, 1, &[]), whole[..3], "one epoch unless told otherwise");
    let other = trace(&dataset, 1, &["--steps", "6", "--seed", "7"]);
    assert_ne!(other, whole);
}

#[test]
fn an_epoch_that_cannot_be_counted_is_refused() {
    let collection = Collection::new(12);
    collection.build("out");
    let dataset = collection.output("out").to_string_lossy().into_owned();
    let last = u64::MAX.to_string();
    for steps in [&[][..], &["--steps", "1"]] {
        let batch = ["--global-batch", "2", "--size", "48"];
        let arguments = [&["trace", &dataset, "--epoch", &last], &batch[..], steps].concat();
        let (succeeded, stdout, stderr) = run(&arguments);
        assert!(!succeeded && stdout.is_empty(), "{stdout}");
        assert!(stderr.contains(&format!("epoch {last}: ")), "{stderr}");
    }
}

#[test]
fn numbers_of_threads_that_no_process_can_have_are_refused() {
    let collection = Collection::new(6);
    let config = configuration(&collection);
    collection.build("out");
    let dataset = collection.output("out").to_string_lossy().into_owned();
    for command in [
        vec!["build", &config],
        vec!["verify", &dataset, "--decode"],
        vec!["trace", &dataset],
        vec!["bench", "stream", &dataset],
    ] {
        let output = hqseg(&[&command[..], &["--threads", "200000"]].concat()).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{command:?}: {stderr}");
        assert!(stderr.contains("more than 1024 threads"), "{command:?}: {stderr}");
    }
    let world = dataset::order::World::new(0, 1).unwrap();
    let stream = pipeline::EvalStream::new(collection.open("out"), "train", world, 200_000, None);
    assert!(matches!(stream.err(), Some(pipeline::StreamError::Threads { threads: 200_000, .. })));
}

#[test]
fn every_command_that_takes_a_configuration_takes_changes_to_it() {
    let collection = Collection::new(12);
    let config = configuration(&collection);
    let elsewhere = collection.output("elsewhere").to_string_lossy().into_owned();
    let change = format!("output={elsewhere}");
    assert!(run(&["build", &config, "--set", &change]).0);
    assert!(!collection.output("out").exists());
    let commands: [&[&str]; 6] = [
        &["inspect"],
        &["stats"],
        &["verify"],
        &["trace", "--steps", "1", "--global-batch", "2", "--size", "48"],
        &["bench", "stream", "--samples", "1", "--threads", "1"],
        &["doctor"],
    ];
    for command in commands {
        let with = |target: &str| run(&[command, &[target, "--set", &change]].concat());
        let (succeeded, stdout, stderr) = with(&config);
        assert!(succeeded && !stdout.is_empty(), "{command:?}: {stderr}");
        let (succeeded, stdout, stderr) = with(&elsewhere);
        let expected = format!("error: --set {change}: changes a configuration (.toml), but ");
        assert!(!succeeded && stderr.starts_with(&expected), "{command:?}: {stdout}{stderr}");
    }
    let (succeeded, stdout, _) = run(&["doctor", &config, "--set", &change]);
    assert!(succeeded && stdout.contains("ok       manifest: 12 rows"), "{stdout}");
}
