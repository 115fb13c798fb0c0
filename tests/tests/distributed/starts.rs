//! What a training does with how it was started: again, by whom, on which terminal, beside whom.

use std::fs::File;
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::{kill, lines, program};

use crate::running::{end, spawn, stderr, wait_for};
use crate::{checkpoints, ended, folder, signal, start};

#[test]
fn a_command_that_is_started_again_goes_on_from_the_last_checkpoint() {
    let folder = folder();
    let folder = folder.path();
    // The same command in every round, which knows nothing of restarts; rank 1 is killed in the first.
    let body = r#"
        set -- "$HQSAM" train tiny.toml --set train.epochs=5 --set train.checkpoint_every_steps=1
        if [ "$RANK $TORCHELASTIC_RESTART_COUNT" = "1 0" ]; then
            "$@" &
            until [ "$(cat run/steps.jsonl 2> /dev/null | wc -l)" -gt 3 ]; do sleep 0.05; done
            kill -9 $!; exit 1
        fi
        exec "$@""#;
    let mut command = Command::new(program("launch"));
    command.args(["--procs", "2", "--max-restarts", "1", "--", "sh", "-c", body]);
    command.env("HQSAM", program("hqsam")).current_dir(folder);
    let (output, stderr) = ended(start(&mut command));
    assert!(output.status.success(), "{stderr}");
    assert!(stderr.contains("restart 1 of 1"), "{stderr}");
    assert_eq!(checkpoints(&folder.join("run")).0.last(), Some(&20), "{stderr}");
    let events = std::fs::read_to_string(folder.join("run/steps.jsonl")).unwrap();
    assert_eq!(events.lines().count(), 20, "no step was lost or kept twice: {events}");
}

/// Whether this process is there, not as a zombie that nobody reaps.
fn runs(pid: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().starts_with(" Z"))
}

#[test]
#[expect(clippy::print_stdout, reason = "a skipped test says so in its output")]
fn a_training_without_a_launcher_goes_on_when_its_terminal_is_closed() {
    if Command::new("script").arg("--version").output().is_err() {
        println!("skipped: there is no script(1), which util-linux has");
        return;
    }
    let folder = folder();
    let folder = folder.path();
    // The shell becomes the training, which the kernel then tells of the hang-up.
    let command = r#"echo $$ > pid; exec "$HQSAM" train tiny.toml --set train.epochs=8"#;
    let mut terminal = Command::new("script")
        .args(["--quiet", "--flush", "--command", command, "/dev/null"])
        .env("HQSAM", program("hqsam"))
        .env("OMP_NUM_THREADS", "1")
        .env("SHELL", "/bin/sh")
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    wait_for("the first steps", || lines(&folder.join("run/steps.jsonl")).len() > 4);
    kill(terminal.id());
    let _ = terminal.wait();
    let reached = lines(&folder.join("run/steps.jsonl")).len();
    assert!(reached < 32, "it was in mid-run: {reached}");
    let pid = std::fs::read_to_string(folder.join("pid")).unwrap();
    wait_for("the end of the training", || !runs(pid.trim()));
    assert_eq!(checkpoints(&folder.join("run")).0.last(), Some(&32));
}

#[test]
fn ranks_of_a_starter_that_sets_no_threads_divide_the_cores() {
    let folder = folder();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let rank = |rank: &str| {
        let mut command = Command::new(program("hqsam"));
        command.args(["bench", "tiny.toml", "--batch", "2", "--steps", "1", "--json"]);
        command.env("RANK", rank).env("WORLD_SIZE", "2");
        command.env("LOCAL_RANK", rank).env("LOCAL_WORLD_SIZE", "2");
        command.env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", &port);
        command.env_remove("OMP_NUM_THREADS");
        spawn(command.current_dir(folder.path()))
    };
    let outputs = [rank("0"), rank("1")].map(end);
    assert!(outputs.iter().all(|output| output.status.success()), "{outputs:?}");
    let report: Value = serde_json::from_slice(&outputs[0].stdout).unwrap();
    let cores = std::thread::available_parallelism().unwrap().get();
    assert_eq!(report["threads"].as_u64(), Some((cores / 2).max(1) as u64), "{report}");
}

#[test]
fn a_rank_that_waits_for_a_lock_does_not_hang() {
    let folder = folder();
    std::fs::create_dir(folder.path().join("run")).unwrap();
    let lock = File::create(folder.path().join("run/lock")).unwrap();
    lock.lock().unwrap();
    let mut command = Command::new(program("launch"));
    command.args(["--procs", "1", "--heartbeat-timeout", "10", "tiny.toml"]);
    let launcher = start(command.current_dir(folder.path()));
    // Longer than the timeout.
    std::thread::sleep(Duration::from_secs(14));
    drop(lock);
    let output = end(launcher);
    assert!(output.status.success(), "{}", stderr(&output));
}

#[test]
fn a_request_to_stop_ends_a_start_that_waits() {
    let folder = folder();
    let folder = folder.path();
    let says_so = |output: &std::process::Output| {
        let said = stderr(output);
        assert!(output.status.success(), "{said}");
        assert!(said.contains("stopped before the first step"), "{said}");
    };
    // For another run.
    std::fs::create_dir(folder.join("run")).unwrap();
    let lock = File::create(folder.join("run/lock")).unwrap();
    lock.lock().unwrap();
    let (started, mut command) = (Instant::now(), Command::new(program("launch")));
    let launcher = start(command.args(["--procs", "2", "tiny.toml"]).current_dir(folder));
    std::thread::sleep(Duration::from_secs(4));
    signal("TERM", &[launcher.id()]);
    says_so(&end(launcher));
    // For another rank.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let mut command = Command::new(program("hqsam"));
    command.args(["train", "tiny.toml", "--set", "train.collective_timeout_secs=600"]);
    command.env("RANK", "0").env("WORLD_SIZE", "2").env("LOCAL_RANK", "0");
    command.env("LOCAL_WORLD_SIZE", "1").env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", &port);
    let rank = spawn(command.current_dir(folder));
    std::thread::sleep(Duration::from_secs(2));
    signal("TERM", &[rank.id()]);
    says_so(&end(rank));
    assert!(started.elapsed() < Duration::from_secs(50), "{:?}", started.elapsed());
    assert!(!folder.join("run/checkpoints").exists());
}
