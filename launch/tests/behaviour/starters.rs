//! Ranks that others start, and others' ranks that `launch` starts. Each rank is the example
//! `exchange`, which only works when all ranks find each other under the right numbers.
//!
//! torch comes from HQSAM_PYTHON, mpirun from PATH; without them these tests are skipped with a
//! message, that of mpirun unless LAUNCH_TEST_MPIRUN=required. Slurm is played by what it sets,
//! Kubernetes in `manifests`. torchrun starts `hqsam` in `tests/distributed`: its ranks meet over its
//! store.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::support::{end, exchange, install, launch, skip, spawn, stderr, stdout};

pub(crate) const STEPS: &str = "20";

pub(crate) fn python() -> Option<PathBuf> {
    let python = std::env::var_os("HQSAM_PYTHON").map(PathBuf::from).filter(|path| path.is_file());
    if python.is_none() {
        skip("HQSAM_PYTHON names no Python with torch");
    }
    python
}

/// A port that was free a moment ago, for starters that must be told one.
pub(crate) fn free_port() -> String {
    TcpListener::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port().to_string()
}

fn script(folder: &Path, name: &str, text: &str) -> PathBuf {
    let (path, plain) = (folder.join(name), folder.join(format!("{name}.text")));
    std::fs::write(&plain, text).unwrap();
    install(&plain, &path);
    path
}

/// Stands for `hqsam`: exchanges numbers in `folder` and adds its arguments to a file there.
pub(crate) fn hqsam(folder: &Path) -> PathBuf {
    let text = format!(
        "#!/bin/sh\necho \"$*\" >> {folder}/arguments\nexec {exchange} {STEPS} {folder}\n",
        folder = folder.display(),
        exchange = exchange().display()
    );
    script(folder, "hqsam", &text)
}

/// Every rank's `hqsam` was given these arguments.
pub(crate) fn assert_arguments(folder: &Path, num_ranks: usize, arguments: &str) {
    let text = std::fs::read_to_string(folder.join("arguments")).unwrap();
    assert_eq!(text, format!("{arguments}\n").repeat(num_ranks));
}

/// One of the documented examples, with stand-ins on its PATH.
fn example(name: &str, folder: &Path) -> Command {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut command = Command::new(root.join("docs/launching").join(name));
    let path = std::env::var("PATH").unwrap();
    command.env("PATH", format!("{}:{path}", folder.display())).env("HQSAM", hqsam(folder));
    command
}

pub(crate) fn assert_done(output: &Output, num_ranks: usize) {
    let text = stdout(output) + &stderr(output);
    assert!(output.status.success(), "{text}");
    assert_all_done(&text, num_ranks);
}

pub(crate) fn assert_all_done(text: &str, num_ranks: usize) {
    for rank in 0..num_ranks {
        assert!(text.contains(&format!("rank {rank}: steps 0 to {STEPS} are done")), "{text}");
    }
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
        let is_required = std::env::var("LAUNCH_TEST_MPIRUN").as_deref() == Ok("required");
        assert!(!is_required, "there is no mpirun on PATH");
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
    command.arg("c.toml").env("SLURM_JOB_ID", job).env("SLURM_NTASKS", "3");
    assert_done(&end(spawn(&mut command)), 3);
    // A job that Slurm queues again goes on.
    assert_arguments(folder.path(), 3, "train c.toml --resume");
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
    let at = |name: &str| folder.path().join(name);
    script(folder.path(), "srun", SRUN_NODES);
    script(folder.path(), "scontrol", "#!/bin/sh\necho 127.0.81.20\nsleep 0.1\necho 127.0.81.21\n");
    // The launcher starts the `hqsam` beside it.
    install(env!("CARGO_BIN_EXE_launch").as_ref(), &at("launch"));
    std::fs::write(at("c.toml"), "").unwrap();
    let exchange = exchange();
    let notes = tempfile::tempdir().unwrap();
    let other = ["--", exchange.to_str().unwrap(), STEPS, notes.path().to_str().unwrap()];
    for arguments in [&["c.toml"][..], &other] {
        let mut command = example("sbatch_launch.sh", folder.path());
        command.args(arguments).current_dir(folder.path());
        command.env("LAUNCH", at("launch")).env("LAUNCH_RANKS", "--procs 2");
        command.env("SLURM_JOB_NODELIST", "n[1-2]").env("SLURM_NNODES", "2");
        assert_done(&end(spawn(command.env("SLURM_JOB_ID", "7"))), 4);
    }
    assert_arguments(folder.path(), 4, "train c.toml --resume");
}
