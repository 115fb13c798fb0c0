//! Ranks that others start, and others' ranks that `launch` starts. Each rank is the example
//! `exchange`, which only works when all ranks find each other under the right numbers.
//!
//! torch comes from HQSAM_PYTHON, mpirun from PATH; without them these tests are skipped with a
//! message, that of mpirun unless LAUNCH_TEST_MPIRUN=required. Slurm is played in `slurm`,
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

/// A program in `folder`.
pub(crate) fn script(folder: &Path, name: &str, text: &str) -> PathBuf {
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
pub(crate) fn example(name: &str, folder: &Path) -> Command {
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
import sys, torch, torch.distributed as dist
dist.init_process_group('gloo')
value = torch.tensor([dist.get_rank() + 1.0])
dist.all_reduce(value)
assert dist.is_torchelastic_launched()
# In one write, so that the other rank's line cannot come between its words.
sys.stdout.write(f'sum {value.item()} of {dist.get_world_size()}\\n')
sys.stdout.flush()
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
