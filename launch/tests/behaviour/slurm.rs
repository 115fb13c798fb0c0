//! The batch scripts, with Slurm played: `srun` and `scontrol` are stand-ins on their PATH, and the
//! signal before the time limit goes where the script's `--signal` says.

use std::path::Path;
use std::process::Command;

use crate::starters::{STEPS, assert_arguments, assert_done, example, script};
use crate::support::{Running, end, exchange, install, line, send, spawn, stderr, wait_for};

/// `srun` with tasks as TASKS lists them, each a line of Slurm's variables. As Slurm does, it kills
/// every process of its tasks when it gets TERM itself. USR1 stands for Slurm, which sends TERM to
/// every process of the tasks. It notes how many cores it gives a task: like the newer ones, it does not
/// look at what the job asked for.
const SRUN: &str = r#"#!/bin/bash
echo $$ > srun.pid
echo ${SRUN_CPUS_PER_TASK:-1} > cores
while [[ $1 == --* ]]; do shift; done
tree() { for child in $(cat /proc/$1/task/*/children 2> gone); do tree $child; done; echo $1; }
to_tasks() { kill -s $1 $(for task in "${tasks[@]}"; do tree $task; done) 2> gone; }
trap 'to_tasks KILL; echo "srun: forcing job termination" >&2; exit 137' TERM
trap 'told=1; to_tasks TERM' USR1
while read -r variables; do
    env $variables "$@" < /dev/null &
    tasks+=($!)
done <<< "$TASKS"
for task in "${tasks[@]}"; do
    told=1
    # A trap ends `wait` early.
    while [ $told = 1 ]; do told=0; wait "$task"; ended=$?; done
    [ $ended = 0 ] || code=$ended
done
exit ${code:-0}
"#;

/// Three tasks on one machine, each a rank.
fn ranks(folder: &Path) -> Command {
    script(folder, "srun", SRUN);
    let mut command = example("sbatch.sh", folder);
    let task = |task: u32| {
        format!(
            "SLURM_PROCID={task} SLURM_LOCALID={task} SLURM_NODEID=0 SLURM_STEP_NUM_TASKS=3 \
             SLURM_STEP_TASKS_PER_NODE=3 SLURM_STEP_ID=0 SLURM_STEP_NODELIST=localhost"
        )
    };
    command.env("TASKS", [0, 1, 2].map(task).join("\n")).env("SLURM_NTASKS", "3");
    // The port follows from the job's number: another one for each run of the tests.
    command.env("SLURM_JOB_ID", std::process::id().to_string()).env("SLURM_CPUS_PER_TASK", "8");
    command.arg("c.toml").current_dir(folder);
    command
}

/// One task on each of two machines, each a launcher of two ranks; node 0 has this address.
fn launchers(folder: &Path, address: &str) -> Command {
    let at = |name: &str| folder.join(name);
    script(folder, "srun", SRUN);
    let scontrol = format!("#!/bin/sh\necho {address}\nsleep 0.1\necho 127.0.81.21\n");
    script(folder, "scontrol", &scontrol);
    // The launcher starts the `hqsam` beside it.
    install(env!("CARGO_BIN_EXE_launch").as_ref(), &at("launch"));
    std::fs::write(at("c.toml"), "").unwrap();
    let mut command = example("sbatch_launch.sh", folder);
    let task = |node: u32| {
        format!("SLURM_PROCID={node} SLURM_LOCALID=0 SLURM_NODEID={node} SLURM_STEP_NUM_TASKS=2")
    };
    command.env("TASKS", [0, 1].map(task).join("\n")).current_dir(folder);
    command.env("SLURM_CPUS_PER_TASK", "64");
    command.env("LAUNCH", at("launch")).env("LAUNCH_RANKS", "--procs 2");
    command.env("SLURM_JOB_NODELIST", "n[1-2]").env("SLURM_NNODES", "2").env("SLURM_JOB_ID", "7");
    command
}

#[test]
fn the_batch_script_starts_our_ranks() {
    let folder = tempfile::tempdir().unwrap();
    assert_done(&end(spawn(&mut ranks(folder.path()))), 3);
    // A job that Slurm queues again goes on.
    assert_arguments(folder.path(), 3, "train c.toml --resume");
    assert_eq!(line(&folder.path().join("cores")).as_deref(), Some("8"));
}

#[test]
fn the_batch_script_starts_launchers() {
    let folder = tempfile::tempdir().unwrap();
    let exchange = exchange();
    let notes = tempfile::tempdir().unwrap();
    let other = ["--", exchange.to_str().unwrap(), STEPS, notes.path().to_str().unwrap()];
    for arguments in [&["c.toml"][..], &other] {
        let mut command = launchers(folder.path(), "127.0.81.20");
        assert_done(&end(spawn(command.args(arguments))), 4);
    }
    assert_arguments(folder.path(), 4, "train c.toml --resume");
    assert_eq!(line(&folder.path().join("cores")).as_deref(), Some("64"));
}

/// In `hqsam`'s place: saves when it gets TERM.
const SAVES: &str = r#"#!/bin/sh
rank=${RANK:-$SLURM_PROCID}
trap 'echo saved > saved$rank; exit 0' TERM
echo ready > ready$rank
for pause in $(seq 1200); do sleep 0.05; done
"#;

/// The time limit comes near: Slurm signals as the example asks, the tasks or (`B:`) the script.
fn come_near_the_limit(example: &str, job: &Running, folder: &Path) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let text = std::fs::read_to_string(root.join("docs/launching").join(example)).unwrap();
    let signal = text.lines().find_map(|line| line.strip_prefix("#SBATCH --signal=")).unwrap();
    match signal.split_once('@').unwrap().0 {
        "B:TERM" => send(job.id(), "TERM"),
        "TERM" => send(line(&folder.join("srun.pid")).unwrap().parse().unwrap(), "USR1"),
        other => panic!("{example}: {other}"),
    }
}

#[test]
fn before_the_time_limit_the_batch_scripts_let_ranks_save() {
    for (example, num_ranks) in [("sbatch.sh", 3), ("sbatch_launch.sh", 4)] {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let at = |name: &str, rank: usize| folder.join(format!("{name}{rank}"));
        let mut command = match example {
            "sbatch.sh" => ranks(folder),
            _ => launchers(folder, "127.0.81.22"),
        };
        if example == "sbatch_launch.sh" {
            command.arg("c.toml");
        }
        script(folder, "hqsam", SAVES);
        let job = spawn(&mut command);
        wait_for("the ranks", || (0..num_ranks).all(|rank| line(&at("ready", rank)).is_some()));
        come_near_the_limit(example, &job, folder);
        let output = end(job);
        assert_eq!(output.status.code(), Some(0), "{example}: {}", stderr(&output));
        for rank in 0..num_ranks {
            assert!(at("saved", rank).exists(), "{example}, rank {rank}: {}", stderr(&output));
        }
    }
}
