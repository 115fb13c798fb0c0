//! Several launchers on the loopback interface, each playing a machine.

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use crate::support::{
    Running, end, launch, line, runs, send, spawn, spawn_with_stderr, stderr, stdout, wait_for,
};

/// Node `node` of two. Each test has a loopback address of its own, so that none meets another's.
fn node(address: &str, node: usize, extra: &[&str], body: &str) -> Command {
    let endpoint = format!("{address}:29400");
    let rank = node.to_string();
    let mut arguments = vec!["--nnodes", "2", "--node-rank", &rank, "--rdzv-endpoint", &endpoint];
    arguments.extend(["--grace", "2", "--node-timeout", "5"]);
    if !extra.contains(&"--rdzv-timeout") {
        arguments.extend(["--rdzv-timeout", "50"]);
    }
    arguments.extend(extra);
    arguments.extend(["--", "sh", "-c", body]);
    launch(&arguments)
}

fn both(address: &str, extra: &[&str], body: &str, folder: &Path) -> [Running; 2] {
    [1, 0].map(|rank| spawn(node(address, rank, extra, body).current_dir(folder)))
}

#[test]
fn ranks_are_numbered_over_all_machines() {
    let folder = tempfile::tempdir().unwrap();
    let body = "echo $RANK $LOCAL_RANK $WORLD_SIZE $LOCAL_WORLD_SIZE $GROUP_RANK $GROUP_WORLD_SIZE $MASTER_ADDR $MASTER_PORT $TORCHELASTIC_RUN_ID";
    let second = spawn(node("127.0.81.1", 1, &["--procs", "3"], body).current_dir(&folder));
    let first = spawn(node("127.0.81.1", 0, &["--procs", "2"], body).current_dir(&folder));
    let (first, second) = (end(first), end(second));
    assert!(first.status.success(), "{}", stderr(&first));
    assert!(second.status.success(), "{}", stderr(&second));
    let text = stdout(&first) + &stdout(&second);
    let mut lines: Vec<_> =
        text.lines().map(|line| line.split_once("] ").map_or(line, |parts| parts.1)).collect();
    lines.sort_unstable();
    let rest = lines[0].split(' ').skip(6).collect::<Vec<_>>().join(" ");
    assert!(rest.starts_with("127.0.81.1 "), "{text}");
    let expected = ["0 0 5 2 0 2", "1 1 5 2 0 2", "2 0 5 3 1 2", "3 1 5 3 1 2", "4 2 5 3 1 2"];
    assert_eq!(lines, expected.map(|place| format!("{place} {rest}")));
}

#[test]
fn a_failure_on_one_machine_ends_and_is_told_on_both() {
    let folder = tempfile::tempdir().unwrap();
    let body = r#"echo $$ > rank$RANK
        if [ $RANK = 2 ]; then
          until [ -s rank0 ] && [ -s rank1 ] && [ -s rank3 ]; do sleep 0.05; done
          echo "the disk is full" >&2; exit 3
        fi; exec sleep 600"#;
    for output in both("127.0.81.2", &["--procs", "2"], body, folder.path()).map(end) {
        assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
        let text = stderr(&output);
        let last = text.lines().last().unwrap();
        assert_eq!(last, "launch: rank 2 of 4 failed: exit code 3: the disk is full");
    }
    for rank in 0..4 {
        assert!(!runs(&line(&folder.path().join(format!("rank{rank}"))).unwrap()));
    }
}

#[test]
fn a_signal_to_one_machine_lets_all_save() {
    let folder = tempfile::tempdir().unwrap();
    let body = "trap 'echo saved > saved$RANK; exit 0' TERM; echo > ready$RANK; while :; do sleep 0.05; done";
    let nodes = both("127.0.81.3", &["--procs", "1"], body, folder.path());
    wait_for("the ranks", || {
        (0..2).all(|rank| folder.path().join(format!("ready{rank}")).exists())
    });
    send(nodes[0].id(), "TERM");
    for output in nodes.map(end) {
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    }
    assert!((0..2).all(|rank| folder.path().join(format!("saved{rank}")).exists()));
}

/// Ends well in the round after a kill; before, ranks wait.
const ENDS_WHEN_RESTARTED: &str = r#"echo $$ > rank$RANK.$TORCHELASTIC_RESTART_COUNT
    [ $TORCHELASTIC_RESTART_COUNT = 0 ] && exec sleep 600
    exit 0"#;

#[test]
fn a_killed_machine_is_named_and_its_successor_is_let_in() {
    let folder = tempfile::tempdir().unwrap();
    let extra = ["--procs", "1", "--max-restarts", "1"];
    let at = |name: &str| line(&folder.path().join(name));
    let [second, first] = both("127.0.81.4", &extra, ENDS_WHEN_RESTARTED, folder.path());
    wait_for("the ranks", || at("rank0.0").is_some() && at("rank1.0").is_some());
    send(second.id(), "KILL");
    wait_for("the end of rank 1", || !runs(&at("rank1.0").unwrap()));
    let successor =
        spawn(node("127.0.81.4", 1, &extra, ENDS_WHEN_RESTARTED).current_dir(folder.path()));
    let (first, successor) = (end(first), end(successor));
    assert!(first.status.success(), "{}", stderr(&first));
    assert!(successor.status.success(), "{}", stderr(&successor));
    assert!(
        stderr(&first).contains("node 1 (127.0.0.1) is lost: it closed the connection"),
        "{first:?}"
    );
    assert!(at("rank0.1").is_some() && at("rank1.1").is_some());
}

#[test]
fn a_killed_node_0_is_named_and_its_ranks_end_everywhere() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| line(&folder.path().join(name));
    let [second, first] = both("127.0.81.5", &["--procs", "1"], ENDS_WHEN_RESTARTED, folder.path());
    wait_for("the ranks", || at("rank0.0").is_some() && at("rank1.0").is_some());
    send(first.id(), "KILL");
    let output = end(second);
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    assert!(text.contains("launch: node 0 (127.0.81.5:29400) is lost: it closed"), "{text}");
    assert!(!runs(&at("rank1.0").unwrap()));
    wait_for("the end of rank 0", || !runs(&at("rank0.0").unwrap()));
}

#[test]
fn an_endpoint_that_is_taken_is_named() {
    let _other = TcpListener::bind("127.0.81.7:29400").unwrap();
    let output = end(spawn(&mut node("127.0.81.7", 0, &["--procs", "1"], "exit 0")));
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    assert!(text.contains("launch: cannot listen on --rdzv-endpoint 127.0.81.7:29400: "), "{text}");
}

#[test]
fn machines_that_do_not_come_or_do_not_fit_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let extra = ["--procs", "1", "--rdzv-timeout", "1"];
    let output = end(spawn(&mut node("127.0.81.6", 0, &extra, "exit 0")));
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("node 1 did not come within 1 s"), "{}", stderr(&output));
    let output = end(spawn(&mut node("127.0.81.6", 1, &extra, "exit 0")));
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    assert!(text.contains("node 0 cannot be reached at 127.0.81.6:29400 within 1 s"), "{text}");

    let procs = ["--procs", "1", "--rdzv-id", "a"];
    let first = spawn(node("127.0.81.6", 0, &procs, "exit 0").current_dir(&folder));
    let wrong = ["--procs", "1", "--rdzv-id", "b"];
    let output = end(spawn(&mut node("127.0.81.6", 1, &wrong, "exit 0")));
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("refuses this machine: the job at this endpoint has --rdzv-id a")
    );
    let second = end(spawn(&mut node("127.0.81.6", 1, &procs, "exit 0")));
    assert!(second.status.success() && end(first).status.success(), "{}", stderr(&second));
}

#[test]
fn a_number_that_another_machine_has_is_refused_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let body = "echo > ready$RANK; until [ -e go ]; do sleep 0.05; done";
    let nodes = both("127.0.81.8", &["--procs", "1"], body, folder.path());
    wait_for("the ranks", || (0..2).all(|rank| at(&format!("ready{rank}")).exists()));
    let refused = "launch: node 0 refuses this machine";
    let reason = ": --node-rank 1 is taken by another machine";

    let extra = ["--procs", "1", "--rdzv-timeout", "1"];
    let output = end(spawn(&mut node("127.0.81.8", 1, &extra, body)));
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    assert!(text.starts_with(&format!("{refused}{reason}; asking again for ")), "{text}");
    assert!(text.ends_with(&format!("{refused}, after 1 s of asking{reason}\n")), "{text}");

    // Not only at the end.
    let log = std::fs::File::create(at("log")).unwrap();
    let asking = spawn_with_stderr(&mut node("127.0.81.8", 1, &["--procs", "1"], body), log);
    wait_for("the refusal", || std::fs::read_to_string(at("log")).unwrap().contains(refused));
    send(asking.id(), "TERM");
    assert_eq!(end(asking).status.code(), Some(143));

    std::fs::write(at("go"), "").unwrap();
    for output in nodes.map(end) {
        assert!(output.status.success(), "{}", stderr(&output));
    }
}
