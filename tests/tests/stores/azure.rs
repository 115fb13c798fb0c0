//! Training from and into Azure's store: lost with its machine, gone on with elsewhere, and taken over.

use serde_json::Value;
use tests::{lines, tiny, write_tiny};

use crate::bucket::{
    ended, entries, get, kill_all, launch, newest_in_bucket, newest_in_folder, put, succeed,
    wait_until,
};
use crate::servers::{Kind, Server};

#[test]
fn a_training_in_azure_goes_on_after_a_kill_to_the_same_bits() {
    let Some(server) = Server::start(Kind::Azure) else { return };
    let first = tiny("");
    let first = first.path();
    let arguments = ["--procs", "2", "tiny.toml"];
    let _ = succeed(&server, first, "launch", &arguments);
    let whole = first.join("run");
    let data = server.url("data");
    let build = ["build", "--auto", "raw", "--output", &data, "--holdout", "0.25"];
    let _ = succeed(&server, first, "hqseg", &build);
    let in_store =
        format!("output = '{}'\nwork_dir = 'work'\n[data]\npath = '{data}'\n", server.url("run"));
    write_tiny(first, &in_store);
    let mut launcher = launch(&server, &server.address, first, &arguments);
    wait_until(&mut launcher, first, || {
        lines(&first.join("work/steps.jsonl")).len() >= 10 && entries(&server, "run").len() >= 3
    });
    kill_all(&mut launcher);

    let second = tempfile::tempdir().unwrap();
    let second = second.path();
    write_tiny(second, &in_store);
    let resumed = ["--procs", "2", "tiny.toml", "--resume"];
    let (succeeded, said) = ended(launch(&server, &server.address, second, &resumed), second);
    assert!(succeeded && said.contains("resuming from az://bucket/run/checkpoints/"), "{said}");
    assert_eq!(newest_in_bucket(&server, "run"), newest_in_folder(&whole));
    assert_eq!(entries(&server, "run").len(), 3);
    let made = lines(&second.join("work/steps.jsonl")).len();
    assert!((1..24).contains(&made), "only what was not done before: {made}");
    let (succeeded, said) = ended(launch(&server, &server.address, second, &arguments), second);
    assert!(!succeeded && said.contains("az://bucket/run already holds a run"), "{said}");
}

#[test]
fn a_run_in_azure_that_was_replaced_stops() {
    let Some(server) = Server::start(Kind::Azure) else { return };
    let folder = tiny(&format!(
        "output = '{}'\nwork_dir = 'work'\n[train]\nepochs = 100000\nlr_drop_epoch = 0\n[eval]\n\
         splits = []\n",
        server.url("run")
    ));
    let folder = folder.path();
    let mut launcher = launch(&server, &server.address, folder, &["--procs", "2", "tiny.toml"]);
    wait_until(&mut launcher, folder, || !entries(&server, "run").is_empty());
    // Only a put on the condition that nobody else has changed it notices this.
    let mut lock: Value = serde_json::from_slice(&get(&server, "run/lock.json")).unwrap();
    lock["owner"] = "another".into();
    lock["host"] = "elsewhere".into();
    put(&server, "run/lock.json", lock.to_string().as_bytes());
    let (succeeded, said) = ended(launcher, folder);
    assert!(!succeeded && said.contains("on elsewhere has taken this run over"), "{said}");
    let now: Value = serde_json::from_slice(&get(&server, "run/lock.json")).unwrap();
    assert_eq!(now, lock, "the lock of another is left alone");
}
