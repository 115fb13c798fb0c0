//! Ranks that others start, and others' ranks that `launch` starts. Each rank is the example
//! `exchange`, which only works when all ranks find each other under the right numbers.
//!
//! torchrun and torch come from HQSAM_PYTHON, mpirun from PATH; without them these tests are
//! skipped with a message. Slurm and Kubernetes are played by what they set.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::support::{end, exchange, launch, skip, spawn, stderr, stdout};

const STEPS: &str = "20";

fn python() -> Option<PathBuf> {
    let python = std::env::var_os("HQSAM_PYTHON").map(PathBuf::from).filter(|path| path.is_file());
    if python.is_none() {
        skip("HQSAM_PYTHON names no Python with torch");
    }
    python
}

/// A port that was free a moment ago, for starters that must be told one.
fn free_port() -> String {
    TcpListener::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port().to_string()
}

fn script(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    path
}

/// Stands for `hqsam`: `train FOLDER` exchanges numbers.
fn hqsam(folder: &Path) -> PathBuf {
    let text = format!("#!/bin/sh\nexec {} {STEPS} \"$2\"\n", exchange().display());
    script(folder, "hqsam", &text)
}

/// One of the documented examples, with stand-ins on its PATH.
fn example(name: &str, folder: &Path) -> Command {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut command = Command::new(root.join("docs/launching").join(name));
    let path = std::env::var("PATH").unwrap();
    command.env("PATH", format!("{}:{path}", folder.display())).env("HQSAM", hqsam(folder));
    command
}

fn assert_done(output: &Output, num_ranks: usize) {
    let text = stdout(output) + &stderr(output);
    assert!(output.status.success(), "{text}");
    for rank in 0..num_ranks {
        assert!(text.contains(&format!("rank {rank}: steps 0 to {STEPS} are done")), "{text}");
    }
}

#[test]
fn torchrun_starts_our_ranks() {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(python);
    command.args(["-m", "torch.distributed.run", "--nproc-per-node", "3", "--standalone"]);
    command.arg("--no-python").arg(exchange()).arg(STEPS).arg(folder.path());
    assert_done(&end(spawn(&mut command)), 3);
}

#[test]
fn launch_starts_ranks_of_torch_on_its_reserved_port() {
    let Some(python) = python() else { return };
    let program = "
import os, torch, torch.distributed as dist
dist.init_process_group('gloo')
value = torch.tensor([dist.get_rank() + 1.0])
dist.all_reduce(value)
assert dist.is_torchelastic_launched()
print('sum', value.item(), 'of', dist.get_world_size(), flush=True)
dist.destroy_process_group()
";
    let mut command = launch(&["--procs", "2", "--"]);
    let output = end(spawn(command.arg(python).args(["-c", program])));
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(stdout(&output).matches("sum 3.0 of 2").count(), 2, "{}", stdout(&output));
}

#[test]
fn mpirun_starts_our_ranks() {
    if Command::new("mpirun").arg("--version").output().is_err() {
        skip("there is no mpirun on PATH");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut command = example("mpirun.sh", folder.path());
    command.arg("2").arg(folder.path()).env("MASTER_PORT", free_port());
    // Tests may run as root, and on fewer cores than ranks.
    command.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
    command.env("PRTE_ALLOW_RUN_AS_ROOT", "1").env("PRTE_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
    command.env("PRTE_MCA_rmaps_default_mapping_policy", ":oversubscribe");
    assert_done(&end(spawn(&mut command)), 2);
}

/// What `srun` does on one machine: the tasks, with its variables.
const SRUN: &str = r#"#!/bin/bash
while [[ $1 == --* ]]; do shift; done
for task in 0 1 2; do
    SLURM_PROCID=$task SLURM_LOCALID=$task SLURM_NODEID=0 SLURM_STEP_NUM_TASKS=3 \
    SLURM_STEP_TASKS_PER_NODE=3 SLURM_STEP_ID=0 SLURM_STEP_NODELIST='localhost' "$@" &
    tasks+=($!)
done
for task in "${tasks[@]}"; do wait "$task" || code=$?; done
exit ${code:-0}
"#;

#[test]
fn the_batch_script_starts_our_ranks() {
    let folder = tempfile::tempdir().unwrap();
    script(folder.path(), "srun", SRUN);
    let mut command = example("sbatch.sh", folder.path());
    // The port follows from the job's number: another one for each run of the tests.
    let job = std::process::id().to_string();
    command.arg(folder.path()).env("SLURM_JOB_ID", job).env("SLURM_NTASKS", "3");
    assert_done(&end(spawn(&mut command)), 3);
}

/// What `srun` does with one task on each of two machines.
const SRUN_NODES: &str = r#"#!/bin/bash
while [[ $1 == --* ]]; do shift; done
for node in 0 1; do
    SLURM_PROCID=$node SLURM_LOCALID=0 SLURM_NODEID=$node SLURM_STEP_NUM_TASKS=2 "$@" &
    tasks+=($!)
done
for task in "${tasks[@]}"; do wait "$task" || code=$?; done
exit ${code:-0}
"#;

#[test]
fn the_batch_script_starts_launchers() {
    let folder = tempfile::tempdir().unwrap();
    script(folder.path(), "srun", SRUN_NODES);
    script(folder.path(), "scontrol", "#!/bin/sh\necho 127.0.81.20\necho 127.0.81.21\n");
    let mut command = example("sbatch_launch.sh", folder.path());
    let steps = [exchange().to_str().unwrap().to_owned(), STEPS.to_owned()];
    command.arg("--").args(steps).arg(folder.path());
    command.env("LAUNCH", env!("CARGO_BIN_EXE_launch")).env("LAUNCH_RANKS", "--procs 2");
    command.env("SLURM_JOB_NODELIST", "n[1-2]").env("SLURM_NNODES", "2").env("SLURM_JOB_ID", "7");
    assert_done(&end(spawn(&mut command)), 4);
}

/// Pods, which are told their place by `variables`.
fn pods(variables: impl Fn(usize) -> Vec<(&'static str, String)>) {
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let pod = |index: usize| {
        let mut command = Command::new(exchange());
        command.arg(STEPS).arg(folder.path()).envs(variables(index));
        command.env("KUBERNETES_SERVICE_HOST", "10.96.0.1").env("WORLD_SIZE", "2");
        spawn(command.env("MASTER_ADDR", "localhost").env("MASTER_PORT", &port))
    };
    let (first, second) = (pod(0), pod(1));
    let text = stderr(&end(first)) + &stderr(&end(second));
    for rank in 0..2 {
        assert!(text.contains(&format!("rank {rank}: steps 0 to {STEPS} are done")), "{text}");
    }
}

#[test]
fn an_indexed_job_starts_our_ranks() {
    pods(|index| vec![("JOB_COMPLETION_INDEX", index.to_string())]);
}

#[test]
fn a_pytorch_job_starts_our_ranks() {
    pods(|index| vec![("RANK", index.to_string()), ("PET_NODE_RANK", index.to_string())]);
}
