//! Starting, ending and being interrupted on one machine.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::{
    PATIENCE, Running, end, install, launch, line, runs, script, send, spawn, stderr, stdout,
    wait_for,
};

#[test]
fn every_rank_has_its_environment() {
    let output = script("3", "echo $RANK $LOCAL_RANK $ROLE_RANK $WORLD_SIZE $LOCAL_WORLD_SIZE $ROLE_WORLD_SIZE $GROUP_RANK $GROUP_WORLD_SIZE $ROLE_NAME $MASTER_ADDR $HQSAM_DEVICE $TORCHELASTIC_RESTART_COUNT $TORCHELASTIC_MAX_RESTARTS $TORCHELASTIC_USE_AGENT_STORE $TORCHELASTIC_RUN_ID $MASTER_PORT $OMP_NUM_THREADS $MALLOC_ARENA_MAX").output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let text = stdout(&output);
    let mut lines: Vec<_> = text.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines.len(), 3, "{text}");
    let cores = std::thread::available_parallelism().unwrap().get();
    let same = "3 3 3 0 1 default 127.0.0.1 cpu 0 0 False";
    let rest = lines[0].strip_prefix(&format!("0 0 0 {same} ")).unwrap_or_else(|| panic!("{text}"));
    let words: Vec<_> = rest.split(' ').collect();
    let [run_id, port, threads, arenas] = words[..] else { panic!("{rest}") };
    assert!(!run_id.is_empty());
    assert!(port.parse::<u16>().unwrap() > 0);
    assert_eq!(threads.parse::<usize>().unwrap(), (cores / 3).max(1));
    assert_eq!(arenas.parse::<usize>().unwrap(), (cores / 3).max(2));
    for (rank, line) in lines.iter().enumerate().skip(1) {
        assert_eq!(*line, format!("[rank {rank}] {rank} {rank} {rank} {same} {rest}"));
    }
}

#[test]
fn threads_and_arenas_that_the_user_set_are_kept() {
    let output = script("1", "echo $OMP_NUM_THREADS $MALLOC_ARENA_MAX")
        .env("OMP_NUM_THREADS", "7")
        .env("MALLOC_ARENA_MAX", "5")
        .output()
        .unwrap();
    assert_eq!(stdout(&output), "7 5\n");
}

#[test]
fn the_first_failure_is_the_exit_code_and_the_last_line() {
    let started = Instant::now();
    let output = script(
        "3",
        r#"if [ "$RANK" = 1 ]; then echo "the disk is full" >&2; exit 3; fi; exec sleep 60"#,
    )
    .output()
    .unwrap();
    assert!(started.elapsed() < PATIENCE);
    assert_eq!(output.status.code(), Some(3));
    let text = stderr(&output);
    assert_eq!(
        text.lines().last(),
        Some("launch: rank 1 of 3 failed: exit code 3: the disk is full"),
        "{text}"
    );
}

#[test]
fn a_killed_rank_is_named_with_its_signal() {
    let output =
        script("2", r#"if [ "$RANK" = 1 ]; then kill -9 $$; fi; exec sleep 60"#).output().unwrap();
    assert_eq!(output.status.code(), Some(137));
    assert!(stderr(&output).contains("rank 1 of 2 failed: killed by SIGKILL"), "{output:?}");
}

#[test]
fn failure_ends_stubborn_ranks_and_what_they_started() {
    let folder = tempfile::tempdir().unwrap();
    let output = script(
        "2",
        r#"if [ "$RANK" = 0 ]; then
             trap '' TERM; sleep 60 & echo $! > grandchild; echo $$ > child; wait; sleep 60
           fi
           while [ ! -e child ]; do sleep 0.05; done; exit 4"#,
    )
    .current_dir(folder.path())
    .output()
    .unwrap();
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    for name in ["child", "grandchild"] {
        let pid = line(&folder.path().join(name)).unwrap();
        wait_for(name, || !runs(&pid));
    }
}

#[test]
fn success_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let output = script("1", "sleep 60 >/dev/null 2>&1 & echo $! > grandchild")
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let pid = line(&folder.path().join("grandchild")).unwrap();
    wait_for("the grandchild", || !runs(&pid));
}

/// Starts two ranks that note signals in files and waits until both are ready.
fn ranks_with_trap(folder: &Path, on_signal: &str) -> Running {
    let body = format!(
        r#"trap '{on_signal}' INT TERM; echo ready > ready$RANK; while :; do sleep 0.05; done"#
    );
    let child = spawn(script("2", &body).current_dir(folder));
    wait_for("the ranks", || {
        (0..2).all(|rank| line(&folder.join(format!("ready{rank}"))).is_some())
    });
    child
}

#[test]
fn the_first_signal_lets_ranks_save() {
    for signal in ["TERM", "INT"] {
        let folder = tempfile::tempdir().unwrap();
        let child = ranks_with_trap(folder.path(), "echo saved > saved$RANK; exit 0");
        send(child.id(), signal);
        let output = end(child);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        assert!(stderr(&output).contains("stopped as asked"), "{}", stderr(&output));
        for rank in 0..2 {
            assert!(folder.path().join(format!("saved{rank}")).exists());
        }
    }
}

#[test]
fn ranks_that_the_signal_ends_are_no_failure_and_no_success() {
    for (signal, code) in [("TERM", 143), ("INT", 130)] {
        let folder = tempfile::tempdir().unwrap();
        let child = ranks_with_trap(folder.path(), &format!("exit {code}"));
        send(child.id(), signal);
        let output = end(child);
        assert_eq!(output.status.code(), Some(code), "{}", stderr(&output));
        assert!(stderr(&output).contains(&format!("interrupted by SIG{signal}")));
    }
}

#[test]
fn the_second_signal_kills() {
    let folder = tempfile::tempdir().unwrap();
    let child = ranks_with_trap(folder.path(), "echo got > got$RANK");
    send(child.id(), "TERM");
    wait_for("the signal", || (0..2).all(|rank| folder.path().join(format!("got{rank}")).exists()));
    let started = Instant::now();
    // Later, it is no longer the same request that arrives twice.
    wait_for("two seconds", || started.elapsed() > Duration::from_millis(2100));
    send(child.id(), "TERM");
    let output = end(child);
    assert!(started.elapsed() < PATIENCE);
    assert_eq!(output.status.code(), Some(143), "{}", stderr(&output));
}

#[test]
fn one_request_that_arrives_several_times_lets_ranks_save() {
    let folder = tempfile::tempdir().unwrap();
    let on_signal = "echo got >> got$RANK; while [ ! -e go ]; do sleep 0.02; done; exit 0";
    let child = ranks_with_trap(folder.path(), on_signal);
    let got = |rank: u32| folder.path().join(format!("got{rank}"));
    // To the launcher from several processes, as by `timeout`, and by a scheduler.
    for _ in 0..3 {
        send(child.id(), "TERM");
    }
    wait_for("the signal", || (0..2).all(|rank| line(&got(rank)).is_some()));
    send(child.id(), "INT");
    std::fs::write(folder.path().join("go"), "").unwrap();
    let output = end(child);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    for rank in 0..2 {
        assert_eq!(line(&got(rank)).unwrap(), "got", "passed on once");
    }
}

#[test]
fn a_closed_terminal_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let child = ranks_with_trap(folder.path(), "exit 0");
    send(child.id(), "HUP");
    // Signals are taken in order of arrival, so a launcher that HUP ended could not pass this on.
    send(child.id(), "TERM");
    assert_eq!(end(child).status.code(), Some(0));
}

#[test]
fn too_few_gpus_end_at_once_with_one_line() {
    let output =
        launch(&["--gpus", "8", "c.toml"]).env("CUDA_VISIBLE_DEVICES", "").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        stderr(&output),
        "launch: 8 GPUs asked for, 0 found on this machine; to train on CPU: launch --procs 2 c.toml\n"
    );
    let output =
        launch(&["--gpus", "auto", "c.toml"]).env("CUDA_VISIBLE_DEVICES", "").output().unwrap();
    assert!(stderr(&output).contains("1 GPUs asked for, 0 found"), "{output:?}");
}

#[test]
fn wrong_arguments_are_refused() {
    let output = launch(&["--procs", "2", "absent.toml"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(stderr(&output), "launch: no configuration at absent.toml\n");
    for arguments in [
        &["c.toml"][..],
        &["--procs", "0", "c.toml"],
        &["--procs", "2"],
        &["--gpus", "some", "c.toml"],
        &["--procs", "2", "--nnodes", "2", "--node-rank", "0", "--", "true"],
        &["--procs", "2", "--nnodes", "2", "--rdzv-endpoint", "a:1", "--", "true"],
        &["--procs", "2", "--rdzv-endpoint", "a", "--", "true"],
        &[
            "--procs",
            "2",
            "--nnodes",
            "2",
            "--node-rank",
            "2",
            "--rdzv-endpoint",
            "a:1",
            "--",
            "true",
        ],
    ] {
        assert_eq!(launch(arguments).output().unwrap().status.code(), Some(2), "{arguments:?}");
    }
    // Each of these machines would train by itself.
    for option in [&["--node-rank", "1"][..], &["--rdzv-endpoint", "a:1"], &["--rdzv-id", "x"]] {
        let arguments = [&["--procs", "2"], option, &["--", "true"]].concat();
        let output = launch(&arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(stderr(&output).contains("--nnodes"), "{output:?}");
    }
    for option in ["--grace", "--heartbeat-timeout", "--rdzv-timeout", "--node-timeout"] {
        let arguments = ["--procs", "1", option, "18446744073709551615", "--", "false"];
        let output = launch(&arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let text = stderr(&output);
        assert!(text.contains(option) && text.contains("..=31622400"), "{text}");
    }
    let arguments = ["--procs", "1", "--nnodes", "1", "--node-rank", "1", "--", "true"];
    let output = launch(&arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("--node-rank 1 is outside of --nnodes 1"), "{output:?}");
    let output = launch(&["--procs", "2", "--", "no-such-program"]).output().unwrap();
    assert_eq!(output.status.code(), Some(127));
    assert!(stderr(&output).contains("rank 0: cannot start no-such-program"), "{output:?}");
}

#[test]
fn a_configuration_runs_the_trainer_beside_the_launcher() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    install(env!("CARGO_BIN_EXE_launch").as_ref(), &at("launch"));
    std::fs::write(at("hqsam"), "#!/bin/sh\necho \"$HQSAM_DEVICE $*\"\n").unwrap();
    std::fs::write(at("c.toml"), "").unwrap();
    assert!(
        Command::new("chmod")
            .args(["+x", "hqsam"])
            .current_dir(folder.path())
            .status()
            .unwrap()
            .success()
    );
    let output = Command::new(at("launch"))
        .args(["--procs", "1", "c.toml", "--set", "a.b=1", "--set", "c=2", "--resume"])
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert_eq!(stdout(&output), "cpu train c.toml --set a.b=1 --set c=2 --resume\n", "{output:?}");
}
