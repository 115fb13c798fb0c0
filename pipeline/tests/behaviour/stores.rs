//! Data sets on real object store servers.

use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;

use image::ImageFormat;

use crate::process::{configuration, hqseg, run, trace_in};
use crate::servers::{CuttingProxy, Kind, Server};
use crate::support::{Collection, contents, disc, noise, save_mask};

/// Eight pairs with shards of about 10 MB, which are uploaded in parts.
fn large() -> (Collection, String) {
    let collection = Collection::new(8);
    for index in 0..8 {
        let image = noise(index, 1000, 900);
        // Noise does not compress: 2.7 MB. The reader goes by the content, not by the name.
        let path = collection.image(index);
        image.save_with_format(&path, ImageFormat::Png).unwrap();
        let mask = disc(1000, 900);
        save_mask(&mask, &collection.mask(index));
    }
    let config = configuration(&collection);
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("shard_bytes = 20000", "shard_bytes = 12_000_000"))
        .unwrap();
    (collection, config)
}

fn in_store(server: &Server, address: &str, arguments: &[&str]) -> Command {
    let mut command = hqseg(arguments);
    command.envs(server.environment(address));
    command
}

fn output_of(mut command: Command) -> (bool, String, String) {
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.success(), text(output.stdout), text(output.stderr))
}

fn a_data_set_in_a_store_is_the_local_one(kind: Kind) {
    let Some(server) = Server::start(kind) else { return };
    let (collection, config) = large();
    assert!(run(&["build", &config]).0);
    let url = server.url("sets/one");
    let in_store = |arguments: &[&str]| output_of(in_store(&server, &server.address, arguments));
    // A half-built one first: nothing but its shards and receipts.
    let (succeeded, _, stderr) =
        in_store(&["build", &config, "--output", &url, "--world", "2", "--rank", "0"]);
    assert!(succeeded, "{stderr}");
    for command in ["inspect", "verify", "trace"] {
        let (succeeded, _, stderr) = in_store(&[command, &url]);
        assert!(!succeeded && stderr.contains(&format!("{url}: no manifest.json")), "{stderr}");
    }
    let (succeeded, stdout, stderr) = in_store(&["build", &config, "--output", &url]);
    assert!(succeeded && stdout.contains(" 1 shards reused"), "{stdout}{stderr}");
    let local = contents(&collection.output("out"));
    assert_eq!(names(&server.contents("sets/one")), names(&local));
    assert!(server.contents("sets/one") == local);
    assert!(local.iter().any(|(name, bytes)| name.starts_with("shards/") && bytes.len() > 9 << 20));

    let (succeeded, stdout, stderr) = in_store(&["build", &config, "--output", &url]);
    assert!(succeeded && stdout.ends_with("up to date\n"), "{stdout}{stderr}");
    let (succeeded, stdout, stderr) = in_store(&["verify", &url]);
    assert!(succeeded && stdout.contains("2 shards as the manifest says"), "{stdout}{stderr}");
    let environment = server.environment(&server.address);
    let steps = ["--steps", "3"];
    let folder = collection.output("out").to_string_lossy().into_owned();
    assert_eq!(trace_in(&environment, &url, 2, &steps), trace_in(&[], &folder, 2, &steps));

    // What changed replaces the earlier data set; what it no longer needs is removed.
    let fresh = collection.output("fresh").to_string_lossy().into_owned();
    let setting = ["--set", "rows_per_group=1"];
    for output in [&url, &fresh] {
        let build = [&["build", &config, "--output", output][..], &setting].concat();
        let (succeeded, _, stderr) = in_store(&build);
        assert!(succeeded, "{stderr}");
    }
    assert!(server.contents("sets/one") == contents(&collection.output("fresh")));
}

fn names(files: &[(String, Vec<u8>)]) -> Vec<&str> {
    files.iter().map(|(name, _)| name.as_str()).collect()
}

#[test]
fn a_data_set_on_s3_is_the_local_one() {
    a_data_set_in_a_store_is_the_local_one(Kind::S3);
}

#[test]
fn a_data_set_on_azure_is_the_local_one() {
    a_data_set_in_a_store_is_the_local_one(Kind::Azure);
}

fn an_upload_that_is_cut_off_is_taken_up_again(kind: Kind) {
    let Some(server) = Server::start(kind) else { return };
    let (collection, config) = large();
    assert!(run(&["build", &config]).0);
    let proxy = CuttingProxy::start(&server, 5, 3 << 20);
    let url = server.url("cut");
    let command = in_store(&server, &proxy.address, &["build", &config, "--output", &url]);
    let (succeeded, _, stderr) = output_of(command);
    assert!(succeeded, "{stderr}");
    assert_eq!(proxy.cuts_left.load(Ordering::SeqCst), 0);
    assert!(server.contents("cut") == contents(&collection.output("out")));
}

#[test]
fn an_upload_to_s3_that_is_cut_off_is_taken_up_again() {
    an_upload_that_is_cut_off_is_taken_up_again(Kind::S3);
}

#[test]
fn an_upload_to_azure_that_is_cut_off_is_taken_up_again() {
    an_upload_that_is_cut_off_is_taken_up_again(Kind::Azure);
}

fn of_two_builds_one_publishes_and_both_succeed(kind: Kind) {
    let Some(server) = Server::start(kind) else { return };
    let collection = Collection::new(6);
    let config = configuration(&collection);
    assert!(run(&["build", &config]).0);
    // Until the two have met at the manifest: the server's log tells.
    for round in 0..30 {
        let name = format!("race{round}");
        let url = server.url(&name);
        let start = || {
            in_store(&server, &server.address, &["build", &config, "--output", &url])
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        };
        for child in [start(), start()] {
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        assert!(server.contents(&name) == contents(&collection.output("out")), "round {round}");
        let manifest = format!("{name}/manifest.json");
        let (won, lost) = match kind {
            Kind::S3 => ("\" 200", "\" 412"),
            Kind::Azure => ("\" 201", "\" 409"),
        };
        assert_eq!(server.logged(&["PUT ", &manifest, won]), 1, "round {round}");
        if server.logged(&["PUT ", &manifest, lost]) > 0 {
            return;
        }
    }
    panic!("30 rounds without a meeting: nothing was shown");
}

#[test]
fn of_two_builds_to_s3_one_publishes_and_both_succeed() {
    of_two_builds_one_publishes_and_both_succeed(Kind::S3);
}

#[test]
fn of_two_builds_to_azure_one_publishes_and_both_succeed() {
    of_two_builds_one_publishes_and_both_succeed(Kind::Azure);
}
