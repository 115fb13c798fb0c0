//! Checkpoints in a store: what is there after a kill, on another machine, beside another run, and
//! while the store refuses.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
use tests::{lines, program, tiny, write_tiny};
use trainer::weights;

use crate::bucket::{
    ended, entries, get, kill_all, launch, newest_in_bucket, newest_in_folder, part, paths, put,
    succeed, wait_until,
};
use crate::rough_proxy::{RoughProxy, SMOOTH};
use crate::servers::{Kind, Server};

/// The run's output in the bucket; logs in `work`.
const IN_STORE: &str = "output = 's3://bucket/run'\nwork_dir = 'work'\n";

fn samples_and_losses(step: &Value) -> [&Value; 4] {
    ["global_step", "samples", "loss", "grad_norm"].map(|key| &step[key])
}

/// The lock names a process of a machine that nothing is known of. The newest checkpoint is damaged,
/// and a newer one was being uploaded: the path of that.
fn damage(server: &Server) -> String {
    let mut lock: Value = serde_json::from_slice(&get(server, "run/lock.json")).unwrap();
    assert_eq!(lock["is_released"], false);
    lock["machine"] = "another".into();
    put(server, "run/lock.json", lock.to_string().as_bytes());
    let newest = entries(server, "run").pop().unwrap();
    let damaged = part(server, "run", &newest);
    let bytes = get(server, &damaged);
    put(server, &damaged, &bytes[..bytes.len() - 100]);
    let interrupted = "run/checkpoints/step-0000000023-0123456789abcdef.safetensors";
    put(server, interrupted, &bytes[..1000]);
    interrupted.to_owned()
}

#[test]
fn a_machine_that_is_lost_costs_no_bit_and_another_one_goes_on_with_nothing_but_the_store() {
    let Some(server) = Server::start(Kind::S3) else { return };
    let changes = "[train]\nkeep_best = true\n";
    let first = tiny(changes);
    let first = first.path();
    let _ = succeed(&server, first, "launch", &["--procs", "2", "tiny.toml"]);
    let whole = first.join("run");

    let _ = succeed(
        &server,
        first,
        "hqseg",
        &["build", "--auto", "raw", "--output", "s3://bucket/data", "--holdout", "0.25"],
    );
    let in_store = format!("{IN_STORE}{changes}[data]\npath = 's3://bucket/data'\n");
    write_tiny(first, &in_store);
    let mut launcher = launch(&server, &server.address, first, &["--procs", "2", "tiny.toml"]);
    wait_until(&mut launcher, first, || {
        // Three are kept, and the best of the evaluation after step 8.
        lines(&first.join("work/steps.jsonl")).len() >= 12 && entries(&server, "run").len() >= 3
    });
    kill_all(&mut launcher);
    assert!(paths(&server, "run").contains(&"run/checkpoints/best.json".to_owned()));

    let interrupted = damage(&server);

    let second = tempfile::tempdir().unwrap();
    let second = second.path();
    write_tiny(second, &in_store);
    let resumed = ["--procs", "2", "tiny.toml", "--resume"];
    let (succeeded, said) = ended(launch(&server, &server.address, second, &resumed), second);
    assert!(succeeded, "{said}");
    for text in [
        "0123456789abcdef.safetensors: its upload was interrupted; the checkpoint before it is used",
        "does not match the hash written with it; the checkpoint before it is used",
        "waiting for s3://bucket/run/lock.json: process",
    ] {
        assert!(said.contains(text), "{text}: {said}");
    }
    assert_eq!(newest_in_bucket(&server, "run"), newest_in_folder(&whole));
    let steps = lines(&second.join("work/steps.jsonl"));
    let expected = lines(&whole.join("steps.jsonl"));
    assert!((1..24).contains(&steps.len()), "only what was not done before: {}", steps.len());
    for (step, expected) in steps.iter().rev().zip(expected.iter().rev()) {
        assert_eq!(samples_and_losses(step), samples_and_losses(expected));
    }

    // Three are kept with their files, and the best one, which may be one of them.
    let (paths, entries) = (paths(&server, "run"), entries(&server, "run"));
    assert_eq!(entries.len(), 3, "{paths:?}");
    let files = paths.iter().filter(|path| path.ends_with(".safetensors")).count();
    assert!((3..=4).contains(&files) && !paths.contains(&interrupted), "{paths:?}");
    let lock: Value = serde_json::from_slice(&get(&server, "run/lock.json")).unwrap();
    assert_eq!(lock["is_released"], true);
    assert!(
        !second.join("work/staging").exists()
            || second.join("work/staging").read_dir().unwrap().next().is_none()
    );

    a_stored_run_is_opened_by_its_url(&server, second, &whole);
    let (succeeded, said) = ended(launch(&server, &server.address, second, &resumed[..3]), second);
    assert!(!succeeded && said.contains("s3://bucket/run already holds a run"), "{said}");
}

fn a_stored_run_is_opened_by_its_url(server: &Server, folder: &Path, whole: &Path) {
    let model = |name: &str, run: &str| {
        let _ = succeed(server, folder, "hqsam", &["export", run, "-o", name]);
        trainer::checkpoint::digest(&weights::load(&folder.join(name)).unwrap().state)
    };
    let whole_run = whole.to_str().unwrap();
    let of_whole = model("whole.pth", whole_run);
    assert_eq!(model("stored.pth", "s3://bucket/run"), of_whole);
    let best = whole.join("checkpoints/best.safetensors");
    let of_best = model("best.pth", best.to_str().unwrap());
    assert_eq!(model("stored_best.pth", "s3://bucket/run/checkpoints/best.json"), of_best);
    let evaluate = |run: &str| {
        let report = succeed(
            server,
            folder,
            "hqsam",
            &["eval", run, "--data", "s3://bucket/data", "--json"],
        );
        let report: Value = serde_json::from_str(&report).unwrap();
        report[0]["sets"].clone()
    };
    assert_eq!(evaluate("s3://bucket/run"), evaluate(whole_run));
    // Its last evaluation is in the logs of this machine; of the best weights there is none.
    let card = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    assert!(card("stored.md").contains("`val-epoch-006`, in percent"), "{}", card("stored.md"));

    let mut serve = Command::new(program("hqsam"))
        .args(["serve", "s3://bucket/run", "--port", "0"])
        .current_dir(folder)
        .envs(server.environment(&server.address))
        .env_remove("RUST_LOG")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = Vec::new();
    for line in BufReader::new(serve.stderr.take().unwrap()).lines().map_while(Result::ok) {
        let is_ready = line.contains("open http://");
        said.push(line);
        if is_ready {
            break;
        }
    }
    serve.kill().unwrap();
    serve.wait().unwrap();
    let said = said.join("\n");
    assert!(said.contains("of runs in folders only") && said.contains("open http://"), "{said}");
}

#[test]
fn two_runs_do_not_share_a_place_and_one_that_was_replaced_stops() {
    let Some(server) = Server::start(Kind::S3) else { return };
    let folder = tiny(&format!(
        "{IN_STORE}[train]\nepochs = 100000\nlr_drop_epoch = 0\n[eval]\nsplits = []\n"
    ));
    let folder = folder.path();
    let one = ["--procs", "2", "tiny.toml"];
    let mut launcher = launch(&server, &server.address, folder, &one);
    wait_until(&mut launcher, folder, || !entries(&server, "run").is_empty());

    let output = Command::new(program("hqsam"))
        .args(["train", "tiny.toml", "--resume", "--set", "work_dir=other"])
        .current_dir(folder)
        .envs(server.environment(&server.address))
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{error}");
    assert!(error.contains("s3://bucket/run/lock.json: process"), "{error}");
    assert!(error.contains("trains there: end it, or choose another output"), "{error}");

    // As a machine does that was cut off for so long that another one went on.
    let mut lock: Value = serde_json::from_slice(&get(&server, "run/lock.json")).unwrap();
    lock["owner"] = "another".into();
    lock["host"] = "elsewhere".into();
    put(&server, "run/lock.json", lock.to_string().as_bytes());
    let (succeeded, said) = ended(launcher, folder);
    assert!(!succeeded, "{said}");
    assert!(said.contains("on elsewhere has taken this run over"), "{said}");
    let now: Value = serde_json::from_slice(&get(&server, "run/lock.json")).unwrap();
    assert_eq!(now, lock, "the lock of another is left alone");
}

#[test]
fn a_store_that_refuses_for_a_while_costs_checkpoints_and_not_the_training() {
    let Some(server) = Server::start(Kind::S3) else { return };
    let changes = "[train]\nepochs = 12\n[eval]\nsplits = []\n";
    let folder = tiny(changes);
    let folder = folder.path();
    let arguments = ["--procs", "2", "tiny.toml"];
    let _ = succeed(&server, folder, "launch", &arguments);
    let whole = folder.join("run");
    write_tiny(folder, &format!("{IN_STORE}{changes}"));
    let proxy = RoughProxy::start(&server.address, SMOOTH, 1);
    let mut launcher = launch(&server, &proxy.address, folder, &arguments);
    let steps = || lines(&folder.join("work/steps.jsonl")).len();
    wait_until(&mut launcher, folder, || steps() >= 4 && !entries(&server, "run").is_empty());
    proxy.refuse(true);
    // The store's client tries again for a while before it gives a checkpoint up.
    let given_up = || {
        let said = std::fs::read_to_string(folder.join("stderr.txt")).unwrap();
        said.contains("training goes on, and the checkpoints before are kept")
    };
    let from = steps();
    wait_until(&mut launcher, folder, || steps() >= from + 8 && given_up());
    proxy.refuse(false);
    let (succeeded, said) = ended(launcher, folder);
    assert!(succeeded, "{said}");
    assert!(said.contains("training goes on, and the checkpoints before are kept"), "{said}");
    assert_eq!(newest_in_bucket(&server, "run"), newest_in_folder(&whole));
}
