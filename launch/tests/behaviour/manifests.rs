//! What the manifests say, run as Kubernetes and Kubeflow's operator would: PyYAML of HQSAM_PYTHON reads
//! them; without it these tests are skipped with a message.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::starters::{STEPS, assert_all_done, assert_arguments, free_port, hqsam, python};
use crate::support::{end, exchange, install, spawn, stderr};

/// The repository, where the manifests' paths begin.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// The object of this kind in a manifest.
fn read(name: &str, kind: &str) -> Option<Value> {
    let program =
        "import json, sys, yaml; print(json.dumps(list(yaml.safe_load_all(open(sys.argv[1])))))";
    let path = root().join("docs/launching").join(name);
    let output = Command::new(python()?).args(["-c", program]).arg(path).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let objects: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let found = objects.into_iter().find(|object| object["kind"] == kind);
    Some(found.unwrap_or_else(|| panic!("{name} has no {kind}")))
}

fn strings(list: &Value) -> Vec<String> {
    let words = list.as_array().map(Vec::as_slice).unwrap_or_default();
    words.iter().map(|word| word.as_str().unwrap().to_owned()).collect()
}

/// A container that has nothing but `hqsam` and, if it is there, `launch` in `folder` on its PATH.
fn container(container: &Value, folder: &Path, change: impl Fn(&str) -> String) -> Command {
    let mut words = strings(&container["command"]);
    words.extend(strings(&container["args"]));
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
    let mut command = Command::new("env");
    command.args(words.iter().map(|word| change(word))).current_dir(root());
    command.env("PATH", path).env("KUBERNETES_SERVICE_HOST", "10.96.0.1");
    command
}

#[test]
fn the_pytorch_job_starts_our_ranks() {
    let Some(job) = read("pytorchjob.yaml", "PyTorchJob") else { return };
    let (spec, folder) = (&job["spec"], tempfile::tempdir().unwrap());
    let _ = hqsam(folder.path());
    let roles = ["Master", "Worker"].map(|role| &spec["pytorchReplicaSpecs"][role]);
    let replicas = |role: &Value| usize::try_from(role["replicas"].as_u64().unwrap()).unwrap();
    // As the operator counts: by nprocPerNode where it is a number.
    let processes = spec["nprocPerNode"].as_str().unwrap_or("auto");
    let pods: usize = roles.iter().map(|role| replicas(role)).sum();
    let world_size = pods * processes.parse::<usize>().unwrap_or(1);
    let port = free_port();
    let mut ranks = Vec::new();
    for role in roles {
        for _ in 0..replicas(role) {
            let pod = &role["template"]["spec"]["containers"][0];
            let mut command = container(pod, folder.path(), str::to_owned);
            let rank = ranks.len().to_string();
            command.env("RANK", &rank).env("WORLD_SIZE", world_size.to_string());
            command.env("PET_NODE_RANK", &rank).env("PET_NNODES", pods.to_string());
            command.env("PET_NPROC_PER_NODE", processes);
            command.env("MASTER_ADDR", "localhost").env("MASTER_PORT", &port);
            ranks.push(spawn(&mut command));
        }
    }
    let text: String = ranks.into_iter().map(|rank| stderr(&end(rank))).collect();
    assert_all_done(&text, pods);
    assert_arguments(folder.path(), pods, "train configs/hqsam_l.toml --resume");
}

#[test]
fn the_indexed_job_starts_our_launchers() {
    let Some(job) = read("indexed-job.yaml", "Job") else { return };
    let (spec, folder) = (&job["spec"], tempfile::tempdir().unwrap());
    let _ = hqsam(folder.path());
    // The launcher starts the `hqsam` beside it.
    install(env!("CARGO_BIN_EXE_launch").as_ref(), &folder.path().join("launch"));
    assert_eq!(spec["completions"], spec["parallelism"], "all pods at once");
    let pods = spec["completions"].as_u64().unwrap();
    let start = |index: u64| {
        // One CPU process for the GPUs of a pod, and a loopback address for the service's name.
        let change = |word: &str| {
            word.replace("$(JOB_COMPLETION_INDEX)", &index.to_string())
                .replace("--gpus=auto", "--procs=1")
                .replace("hqsam-0.hqsam:", "127.0.81.30:")
        };
        let pod = &spec["template"]["spec"]["containers"][0];
        let mut command = container(pod, folder.path(), change);
        spawn(command.env("JOB_COMPLETION_INDEX", index.to_string()))
    };
    let launchers: Vec<_> = (0..pods).map(start).collect();
    let mut text = String::new();
    for output in launchers.into_iter().map(end) {
        assert!(output.status.success(), "{}", stderr(&output));
        text += &stderr(&output);
    }
    let pods = usize::try_from(pods).unwrap();
    assert_all_done(&text, pods);
    assert_arguments(folder.path(), pods, "train configs/hqsam_l.toml --resume");
}

/// Pods of one rank without a launcher, which are told their place by `variables`.
fn pods(variables: impl Fn(usize) -> Vec<(&'static str, String)>) {
    let folder = tempfile::tempdir().unwrap();
    let (exchange, port) = (exchange(), free_port());
    let pod = |index: usize| {
        let mut command = Command::new(&exchange);
        command.arg(STEPS).arg(folder.path()).envs(variables(index));
        command.env("KUBERNETES_SERVICE_HOST", "10.96.0.1").env("WORLD_SIZE", "2");
        spawn(command.env("MASTER_ADDR", "localhost").env("MASTER_PORT", &port))
    };
    let (first, second) = (pod(0), pod(1));
    assert_all_done(&(stderr(&end(first)) + &stderr(&end(second))), 2);
}

#[test]
fn an_indexed_job_without_launchers_starts_our_ranks() {
    pods(|index| vec![("JOB_COMPLETION_INDEX", index.to_string())]);
}

#[test]
fn a_pytorch_job_without_settings_starts_our_ranks() {
    pods(|index| {
        let place = index.to_string();
        let auto = ("PET_NPROC_PER_NODE", "auto".to_owned());
        vec![("RANK", place.clone()), ("PET_NODE_RANK", place), auto]
    });
}
