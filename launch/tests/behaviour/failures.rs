//! Ranks that fail, hang and are started again; launchers that are killed.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use crate::starters::python;
use crate::support::{
    end, launch, line, runs, script, send, skip, spawn, spawn_with_stderr, stderr, stdout, wait_for,
};

/// A rank that starts a child, and one that hides in a session of its own; all note their ids.
const FAMILY: &str = r#"
    trap '' TERM
    sleep 600 & echo $! > child$RANK
    setsid sh -c "trap '' TERM; echo \$\$ > hidden$RANK; while :; do sleep 1; done" &
    echo $$ > rank$RANK"#;

/// The ids that two ranks of [`FAMILY`] note.
fn family(folder: &Path) -> Option<Vec<String>> {
    let names = ["rank", "child", "hidden"];
    let files = names.iter().flat_map(|name| (0..2).map(move |rank| format!("{name}{rank}")));
    files.map(|file| line(&folder.join(file))).collect()
}

#[test]
fn nothing_survives_a_failure_not_even_what_hides() {
    let folder = tempfile::tempdir().unwrap();
    let body = format!(
        "{FAMILY}
         if [ $RANK = 1 ]; then
           until [ -s rank0 ] && [ -s hidden0 ] && [ -s hidden1 ]; do sleep 0.05; done; exit 4
         fi; wait; sleep 600"
    );
    let output = end(spawn(script("2", &body).current_dir(folder.path())));
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    // When the launcher has ended, they have: nobody waits here.
    for pid in family(folder.path()).unwrap() {
        assert!(!runs(&pid), "{pid}");
    }
}

#[test]
fn nothing_survives_a_failure_without_group_and_environment() {
    let folder = tempfile::tempdir().unwrap();
    let body = r#"env -i "$(command -v setsid)" sh -c 'echo $$ > hidden; sleep 600 & echo $! > child; wait' &
        until [ -s hidden ] && [ -s child ]; do sleep 0.05; done; exit 4"#;
    let output = end(spawn(script("1", body).current_dir(folder.path())));
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    for name in ["hidden", "child"] {
        let pid = line(&folder.path().join(name)).unwrap();
        assert!(!Path::new("/proc").join(&pid).exists(), "{name} {pid}");
    }
}

#[test]
fn orphans_that_end_by_themselves_are_no_zombies_while_the_round_runs() {
    let folder = tempfile::tempdir().unwrap();
    // The launcher is their parent, and the rank ends once they are waited for.
    let body = r#"(sh -c 'echo $$ > orphan; until [ -e go ]; do sleep 0.05; done; exit 3' &)
        until [ -s orphan ]; do sleep 0.05; done; orphan=$(cat orphan)
        grep -q "^PPid:.$PPID$" /proc/$orphan/status || exit 4; touch go
        while [ -e /proc/$orphan ]; do sleep 0.05; done"#;
    let output = end(spawn(script("1", body).current_dir(folder.path())));
    assert!(output.status.success(), "{}", stderr(&output));
}

#[test]
fn without_settings_everything_is_gone_ten_seconds_after_a_failure() {
    let folder = tempfile::tempdir().unwrap();
    let body = format!(
        "{FAMILY}
         if [ $RANK = 1 ]; then
           until [ -s rank0 ] && [ -s hidden0 ] && [ -s hidden1 ]; do sleep 0.05; done
           date +%s%N > failed; exit 4
         fi; wait; sleep 600"
    );
    let arguments = ["--procs", "2", "--", "sh", "-c", &body];
    let output = end(spawn(launch(&arguments).current_dir(folder.path())));
    let ended = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    for pid in family(folder.path()).unwrap() {
        assert!(!runs(&pid), "{pid}");
    }
    let failed: u64 = line(&folder.path().join("failed")).unwrap().parse().unwrap();
    let took = ended - Duration::from_nanos(failed);
    assert!(took < Duration::from_secs(10), "{took:?}");
    // They ignored SIGTERM, so they were not killed at once.
    assert!(took > Duration::from_secs(5), "{took:?}");
}

#[test]
fn the_number_of_an_ended_rank_means_nobody_else_while_the_round_runs() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let body = "echo $$ > rank$RANK; [ $RANK = 1 ] || until [ -e go ]; do sleep 0.02; done";
    let child = spawn(script("2", body).current_dir(folder.path()));
    wait_for("rank 1", || line(&at("rank1")).is_some_and(|pid| !runs(&pid)));
    // Its group is signalled when the round ends.
    let stat = format!("/proc/{}/stat", line(&at("rank1")).unwrap());
    std::thread::sleep(Duration::from_millis(200));
    assert!(Path::new(&stat).exists());
    std::fs::write(at("go"), "").unwrap();
    assert!(end(child).status.success());
    assert!(!Path::new(&stat).exists());
}

#[test]
fn nothing_survives_a_launcher_that_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let body = format!("{FAMILY}; wait; sleep 600");
    let child = spawn(script("2", &body).current_dir(folder.path()));
    wait_for("the ranks", || family(folder.path()).is_some());
    send(child.id(), "KILL");
    for pid in family(folder.path()).unwrap() {
        wait_for("the end of what the launcher started", || !runs(&pid));
    }
}

/// Attaches to a process as a debugger does: even killed, it does not end for its parent then.
const DEBUGGER: &str = "
import ctypes, signal, sys
SEIZE = 0x4206
if ctypes.CDLL(None, use_errno=True).ptrace(SEIZE, int(sys.argv[1]), None, None) < 0:
    sys.exit('not allowed')
print('attached', flush=True)
signal.alarm(30)
signal.pause()
";

#[test]
fn a_rank_that_cannot_be_ended_is_named() {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let body = "echo $$ > rank$RANK
        if [ $RANK = 1 ]; then until [ -e go ]; do sleep 0.02; done; exit 4; fi; exec sleep 600";
    let arguments = ["--procs", "2", "--grace", "1", "--max-restarts", "3", "--", "sh", "-c", body];
    let job = spawn(launch(&arguments).current_dir(folder.path()));
    wait_for("the ranks", || (0..2).all(|rank| line(&at(&format!("rank{rank}"))).is_some()));
    let pid = line(&at("rank0")).unwrap();
    let mut debugger = Command::new(python);
    debugger
        .args(["-c", DEBUGGER, &pid])
        .stderr(Stdio::null())
        .stdout(std::fs::File::create(at("debugger")).unwrap());
    let mut debugger = debugger.spawn().unwrap();
    wait_for("the debugger", || {
        line(&at("debugger")).is_some() || debugger.try_wait().unwrap().is_some()
    });
    let is_allowed = debugger.try_wait().unwrap().is_none();
    std::fs::write(at("go"), "").unwrap();
    let output = end(job);
    let _ = debugger.kill();
    let _ = debugger.wait();
    if !is_allowed {
        return skip("no process may be attached to here");
    }
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(4), "{text}");
    let named = format!("launch: rank 0 (process {pid}) cannot be ended: SIGKILL had no effect");
    assert!(text.contains(&named), "{text}");
}

#[test]
fn the_last_words_of_the_first_failure_come_last() {
    let output = script(
        "2",
        r#"if [ "$RANK" = 0 ]; then
             for line in 1 2 3; do echo "trace $line" >&2; done; echo "the disk is full" >&2; exit 3
           fi; exec sleep 60"#,
    )
    .output()
    .unwrap();
    assert_eq!(output.status.code(), Some(3));
    let text = stderr(&output);
    let lines: Vec<_> = text.lines().rev().take(6).collect();
    let expected = [
        "launch: rank 0 of 2 failed: exit code 3: the disk is full",
        "launch: | the disk is full",
        "launch: | trace 3",
        "launch: | trace 2",
        "launch: | trace 1",
        "launch: the last lines of the rank that failed first:",
    ];
    assert_eq!(lines, expected, "{text}");
}

#[test]
fn a_line_without_an_end_is_not_glued_to_the_launchers_words() {
    let output =
        script("1", "printf data; printf 'the disk is full' >&2; exit 3").output().unwrap();
    // What was asked for on standard output may go into a file, and stays as it is.
    assert_eq!(stdout(&output), "data");
    let text = stderr(&output);
    assert!(text.starts_with("the disk is full\nlaunch: "), "{text}");
}

#[test]
fn a_hung_rank_is_named_with_its_last_step() {
    let folder = tempfile::tempdir().unwrap();
    // Rank 1 stops at step 17; rank 0 goes on until it is ended.
    let body = r#"step=0
        while :; do
          step=$((step + 1)); echo $step > "$LAUNCH_HEARTBEAT_FILE"
          if [ $RANK = 1 ] && [ $step = 17 ]; then echo $$ > hung; trap '' TERM; kill -STOP $$; fi
          sleep 0.02
        done"#;
    let arguments = ["--procs", "2", "--grace", "1", "--heartbeat-timeout", "2", "--", "sh", "-c"];
    let output = end(spawn(launch(&arguments).arg(body).current_dir(folder.path())));
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let text = stderr(&output);
    let last = text.lines().last().unwrap();
    assert!(last.starts_with("launch: rank 1 of 2 hung: no heartbeat for "), "{text}");
    assert!(last.ends_with("its last step was 17"), "{text}");
    assert!(!runs(&line(&folder.path().join("hung")).unwrap()));
}

#[test]
fn ranks_without_heartbeats_are_judged_only_where_asked() {
    let output = script("1", "sleep 0.3").output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let arguments = ["--procs", "1", "--heartbeat-timeout", "1", "--", "sleep", "600"];
    let output = end(spawn(&mut launch(&arguments)));
    let text = stderr(&output);
    assert!(text.contains("rank 0 of 1 hung") && text.contains("it never beat"), "{text}");
    // It lives, loading for longer than the timeout, and then hangs.
    let body = r#"for beat in 1 2 3 4 5 6; do echo "- $beat" > "$LAUNCH_HEARTBEAT_FILE"; sleep 0.5; done
        echo loaded; exec sleep 600"#;
    let arguments = ["--procs", "1", "--heartbeat-timeout", "2", "--", "sh", "-c", body];
    let output = end(spawn(&mut launch(&arguments)));
    assert_eq!(stdout(&output), "loaded\n");
    assert!(stderr(&output).trim_end().ends_with("before its first step"), "{output:?}");
}

#[test]
fn a_restarted_job_knows_it_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let body = r#"echo "$RANK $TORCHELASTIC_RESTART_COUNT $TORCHELASTIC_MAX_RESTARTS $MASTER_PORT $TORCHELASTIC_RUN_ID" >> seen$RANK
        echo $((TORCHELASTIC_RESTART_COUNT * 10 + 5)) > "$LAUNCH_HEARTBEAT_FILE"
        if [ $TORCHELASTIC_RESTART_COUNT -lt 2 ]; then
          if [ $RANK = 1 ]; then until [ -s seen0 ]; do sleep 0.05; done; kill -9 $$; fi
          exec sleep 600
        fi"#;
    let arguments = ["--procs", "2", "--grace", "2", "--max-restarts", "2", "--", "sh", "-c"];
    let output = end(spawn(launch(&arguments).arg(body).current_dir(folder.path())));
    assert!(output.status.success(), "{}", stderr(&output));
    for rank in 0..2 {
        let text = std::fs::read_to_string(folder.path().join(format!("seen{rank}"))).unwrap();
        let rows: Vec<Vec<_>> = text.lines().map(|line| line.split(' ').collect()).collect();
        assert_eq!(rows.len(), 3, "{text}");
        for (round, row) in rows.iter().enumerate() {
            assert_eq!(row[..3], [rank.to_string(), round.to_string(), "2".to_owned()]);
            assert_eq!(row[4], rows[0][4], "the run keeps its name");
        }
    }
    assert!(stderr(&output).contains("restart 2 of 2"), "{}", stderr(&output));
}

#[test]
fn a_crash_loop_ends_with_its_history() {
    let arguments = ["--procs", "2", "--grace", "2", "--max-restarts", "9", "--", "sh", "-c"];
    let body = r#"if [ $RANK = 1 ]; then echo "no such table" >&2; exit 5; fi; exec sleep 60"#;
    let output = end(spawn(launch(&arguments).arg(body)));
    assert_eq!(output.status.code(), Some(5));
    let text = stderr(&output);
    for round in 0..2 {
        let past = text.lines().find(|line| line.starts_with(&format!("launch: round {round}, ")));
        assert!(
            past.unwrap().ends_with("rank 1 of 2 failed: exit code 5: no such table"),
            "{text}"
        );
    }
    assert!(text.contains("a crash loop, the last 3 rounds came no further"), "{text}");
    assert!(text.ends_with("launch: rank 1 of 2 failed: exit code 5: no such table\n"), "{text}");
}

#[test]
fn the_help_puts_only_machines_under_several_machines() {
    let help = stdout(&end(spawn(&mut launch(&["--help"]))));
    let (general, machines) = help.split_once("Several machines:").unwrap();
    for argument in ["[CONFIG]", "[COMMAND]", "--set", "--resume", "--procs"] {
        assert!(general.contains(&format!(" {argument}")), "{help}");
    }
    assert!(machines.contains("--nnodes") && machines.contains("Example:"), "{help}");
}

#[test]
fn wrong_usage_is_not_restarted() {
    let arguments = ["--procs", "1", "--max-restarts", "3", "--", "sh", "-c", "echo x; exit 2"];
    let output = end(spawn(&mut launch(&arguments)));
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(2), "x\n"));
    assert!(stderr(&output).contains("it would fail in the same way"), "{}", stderr(&output));
}

#[test]
fn a_signal_during_the_pause_before_a_restart_ends_the_job() {
    let arguments = ["--procs", "1", "--max-restarts", "3", "--", "sh", "-c", "exit 1"];
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let file = std::fs::File::create(&log).unwrap();
    let child = spawn_with_stderr(&mut launch(&arguments), file);
    wait_for("the pause", || std::fs::read_to_string(&log).unwrap().contains("restart 1 of 3"));
    send(child.id(), "TERM");
    let code = end(child).status.code();
    assert_eq!(code, Some(143), "{}", std::fs::read_to_string(&log).unwrap());
}
