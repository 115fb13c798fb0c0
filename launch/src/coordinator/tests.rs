//! The coordinator without processes and without a network.

use super::*;

fn coordinator(num_nodes: usize, max_restarts: u32, now: Instant) -> Coordinator {
    let join_timeout = Duration::from_secs(60);
    let settings = Settings { num_nodes, max_restarts, join_timeout, run_id: "a".into() };
    Coordinator::new(settings, now)
}

fn join(node: usize) -> Join {
    let (version, num_nodes, num_ranks, round) = (VERSION, 2, node + 2, 0);
    Join { version, node, num_nodes, num_ranks, run_id: None, round }
}

fn failed(line: &str, after: u64) -> Report {
    Report::Failed(Failure::new(line.to_owned(), Duration::from_millis(after)))
}

const ENDED: Report = Report::Ended { interrupted: false, step: Some(3), left: None };

/// Two machines whose ranks run.
fn running(max_restarts: u32, now: Instant) -> Coordinator {
    let mut job = coordinator(2, max_restarts, now);
    for node in [1, 0] {
        assert!(!job.may_start(now));
        job.join(&join(node)).unwrap();
    }
    assert!(job.may_start(now));
    let orders = job.start(4000, now);
    let Order::Start(plan) = &orders[1].1 else { panic!("{orders:?}") };
    assert_eq!((plan.first_rank, plan.world_size, plan.round), (2, 5, 0));
    job
}

#[test]
fn a_job_ends_when_every_machine_has() {
    let now = Instant::now();
    let mut job = running(0, now);
    assert_eq!(job.report(1, ENDED, now), []);
    let finish = Order::Finish(Verdict::Finished);
    assert_eq!(job.report(0, ENDED, now), [(0, finish.clone()), (1, finish)]);
    assert!(job.is_over());
}

#[test]
fn the_earliest_failure_counts_and_stops_all() {
    let now = Instant::now();
    let mut job = running(0, now);
    assert_eq!(job.report(0, failed("late", 70), now), [(0, Order::Stop), (1, Order::Stop)]);
    assert_eq!(job.report(1, failed("early", 50), now), []);
    assert_eq!(job.report(0, ENDED, now), []);
    let orders = job.report(1, ENDED, now);
    let Order::Finish(Verdict::Failed { failure, .. }) = &orders[0].1 else { panic!() };
    assert_eq!(failure.line, "early");
}

#[test]
fn a_lost_machine_is_waited_for_and_the_round_is_repeated() {
    let now = Instant::now();
    let mut job = running(1, now);
    assert_eq!(job.lost(1, "10.0.0.2", "silence", now), [(0, Order::Stop)]);
    assert_eq!(job.report(0, ENDED, now), []);
    let later = now + Duration::from_secs(5);
    assert!(!job.may_start(later));
    let again = Join { round: 1, ..join(1) };
    job.join(&again).unwrap();
    assert!(job.may_start(later));
    let orders = job.start(4001, later);
    assert!(matches!(&orders[0].1, Order::Start(plan) if plan.round == 1));
    // The second time there is no restart left.
    assert_eq!(job.lost(1, "10.0.0.2", "silence", later), [(0, Order::Stop)]);
    let orders = job.report(0, ENDED, later);
    let [(0, Order::Finish(Verdict::Failed { failure, history, why }))] = &orders[..] else {
        panic!("{orders:?}")
    };
    assert_eq!(failure.line, "node 1 (10.0.0.2) is lost: silence");
    assert_eq!(history.len(), 1);
    assert_eq!(why.as_deref(), Some("all 1 restarts are used"));
}

#[test]
fn a_machine_that_never_comes_is_named() {
    let now = Instant::now();
    let mut job = coordinator(2, 0, now);
    job.join(&join(0)).unwrap();
    assert_eq!(job.tick(now + Duration::from_secs(59)), []);
    let orders = job.tick(now + Duration::from_secs(60));
    let Order::Finish(Verdict::Failed { failure, .. }) = &orders[0].1 else { panic!() };
    assert!(failure.line.starts_with("node 1 did not come within 60 s"));
}

#[test]
fn machines_that_do_not_fit_are_refused() {
    let mut job = coordinator(2, 0, Instant::now());
    job.join(&join(1)).unwrap();
    let cases = [
        (Join { version: 99, ..join(0) }, "version 99", false),
        (Join { num_nodes: 3, ..join(0) }, "--nnodes 2, this machine 3", false),
        (Join { run_id: Some("b".into()), ..join(0) }, "--rdzv-id a", false),
        (join(7), "--node-rank 7", false),
        (Join { num_ranks: 0, ..join(0) }, "0 ranks on one machine", false),
        (Join { num_ranks: usize::MAX, ..join(0) }, "from 1 to 65535", false),
        (join(1), "--node-rank 1 is taken", true),
    ];
    for (join, expected, may_retry) in cases {
        let Err(Order::Refuse { reason, retry }) = job.join(&join) else { panic!("{join:?}") };
        let reason = reason.replace("this launcher ", "version ");
        assert!(reason.contains(expected) && retry == may_retry, "{reason}");
    }
}

#[test]
fn a_round_beyond_all_restarts_is_not_believed() {
    let now = Instant::now();
    let mut job = coordinator(2, 3, now);
    job.join(&join(0)).unwrap();
    job.join(&Join { round: u32::MAX, ..join(1) }).unwrap();
    let orders = job.start(4000, now);
    assert!(matches!(&orders[0].1, Order::Start(plan) if plan.round == 3));
}

#[test]
fn a_signal_reaches_the_other_machines_once_and_the_second_kills() {
    let now = Instant::now();
    let mut job = running(3, now);
    assert_eq!(job.report(1, Report::Signalled(15), now), [(0, Order::Signal(15))]);
    assert_eq!(job.report(0, Report::Signalled(15), now), []);
    assert_eq!(job.report(1, Report::Signalled(15), now), [(0, Order::Kill)]);
    assert_eq!(job.report(0, ENDED, now), []);
    let orders = job.report(1, Report::Ended { interrupted: true, step: None, left: None }, now);
    assert_eq!(orders[0].1, Order::Finish(Verdict::Interrupted(15)));
}

#[test]
fn the_verdict_of_many_rounds_of_long_lines_fits_into_a_message() {
    for byte in *b"\x01\xff\\" {
        let tail = crate::output::Tail::default();
        for _ in 0..30 {
            tail.push(&[[byte; 5000].as_slice(), b".\n"].concat());
        }
        let mut now = Instant::now();
        let mut job = running(150, now);
        let orders = (1..).find_map(|step| {
            let line = format!("rank 0 failed: {}", String::from_utf8_lossy(&[byte; 9000]));
            let failure = Failure::of_rank(line, 1, tail.lines(), Duration::ZERO);
            job.report(0, Report::Failed(failure), now);
            job.report(1, ENDED, now);
            let ended = Report::Ended { interrupted: false, step: Some(step + 3), left: None };
            let orders = job.report(0, ended, now);
            now += Duration::from_secs(60);
            if !job.is_over() {
                job.start(4000, now);
            }
            (!orders.is_empty()).then_some(orders)
        });
        let (_, order) = orders.unwrap().pop().unwrap();
        let Order::Finish(Verdict::Failed { failure, history, why }) = &order else { panic!() };
        assert_eq!(why.as_deref(), Some("all 150 restarts are used"));
        assert_eq!((failure.tail.len(), history.len()), (tail.lines().len(), TOLD_ROUNDS));
        assert_eq!(history.last().unwrap().round, 149);
        assert!(history.iter().all(|past| past.failure.tail.is_empty()));
        let bytes = serde_json::to_vec(&order).unwrap().len() as u64;
        assert!(bytes < crate::link::LONGEST_LINE, "{bytes} bytes of {byte:#x}");
    }
}

#[test]
fn what_cannot_be_ended_is_told_and_prevents_a_restart() {
    let now = Instant::now();
    let left = Report::Ended { interrupted: false, step: None, left: Some("rank 1 stays".into()) };
    for is_failed in [true, false] {
        let mut job = running(3, now);
        if is_failed {
            job.report(0, failed("exit code 4", 1), now);
        }
        job.report(0, left.clone(), now);
        let orders = job.report(1, ENDED, now);
        let Order::Finish(Verdict::Failed { failure, why, .. }) = &orders[0].1 else { panic!() };
        let told = (failure.line.as_str(), why.as_deref());
        let expected = ("exit code 4", Some("rank 1 stays"));
        assert_eq!(told, if is_failed { expected } else { ("rank 1 stays", None) });
    }
}
