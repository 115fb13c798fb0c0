//! How ranks find each other, and what they say when they do not.

use super::*;

pub(crate) fn a_missing_rank_is_named_at_start() {
    let started = Instant::now();
    let outputs = run("start", 4, 0..3);
    for (rank, output) in outputs.iter().enumerate() {
        contains(output, &format!("rank {rank}: 3 of 4 ranks joined within 3s; missing: [3]"));
    }
    within(started, ranks::TIMEOUT);
}

pub(crate) fn a_missing_rank_0_is_named_at_start() {
    let started = Instant::now();
    let outputs = run("start", 2, 1..2);
    contains(&outputs[0], "rank 1: rank 0 did not answer at 127.0.0.1:");
    within(started, ranks::TIMEOUT);
}

pub(crate) fn a_taken_port_is_an_error() {
    let taken = std::net::TcpListener::bind(("0.0.0.0", 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let rendezvous = Rendezvous::fixed("127.0.0.1", port);
    let error =
        ProcessGroup::new(Backend::Gloo, 0, 1, &rendezvous, ranks::TIMEOUT, &|| false).unwrap_err();
    assert!(matches!(error, C10dError::Listen { port: found, .. } if found == port), "{error}");
}

/// A group of one, for the store that it hosts.
fn host(rendezvous: &Rendezvous) -> ProcessGroup {
    ProcessGroup::new(Backend::Gloo, 0, 1, rendezvous, ranks::TIMEOUT, &|| false).unwrap()
}

pub(crate) fn ranks_meet_at_the_first_free_port() {
    // A stranger that takes connections and says nothing, and the store of another job.
    let stranger = std::net::TcpListener::bind(("0.0.0.0", 0)).unwrap();
    let silent = stranger.local_addr().unwrap().port();
    let (other, free) = (ranks::free_port(), ranks::free_port());
    let port = StorePort::FirstFree { ports: vec![other], job: "other".to_owned() };
    let _other = host(&Rendezvous { address: "127.0.0.1".to_owned(), port });
    let free = format!("free job {silent} {other} {free}");
    // Rank 0 last: the others look for it before it is there.
    for (rank, output) in run_at(&free, "values", 3, [2, 1, 0].into_iter()).iter().enumerate() {
        assert!(output.status.success(), "output {rank}: {}", text(output));
    }
    let taken = format!("free job {silent} {other}");
    contains(
        &run_at(&taken, "start", 1, 0..1)[0],
        &format!("rank 0: cannot listen on port {other}"),
    );
}

pub(crate) fn a_missing_rank_0_is_named_at_free_ports() {
    let ports = [ranks::free_port(), ranks::free_port()];
    let outputs = run_at(&format!("free job {} {}", ports[0], ports[1]), "start", 2, 1..2);
    let answer = format!("rank 1: rank 0 did not answer at 127.0.0.1:{}", ports[0]);
    contains(&outputs[0], &answer);
    contains(&outputs[0], "none of 2 ports is that of this job");
}

pub(crate) fn ranks_meet_where_rank_0_published() {
    // Stands for torchrun, which outlives the groups that it starts.
    let port = ranks::free_port();
    let _other = host(&Rendezvous::fixed("127.0.0.1", port));
    let published = format!("published {port} a");
    // The second time there is word of a rank 0 that is gone, the third time of a larger group.
    for world_size in [2, 3, 2] {
        let ranks = (0..world_size).rev();
        for (rank, output) in run_at(&published, "values", world_size, ranks).iter().enumerate() {
            assert!(output.status.success(), "output {rank}: {}", text(output));
        }
    }
}

pub(crate) fn word_of_a_rank_0_that_is_gone_is_told() {
    let port = ranks::free_port();
    let _other = host(&Rendezvous::fixed("127.0.0.1", port));
    let published = format!("published {port} a");
    contains(
        &run_at(&published, "start", 2, 1..2)[0],
        "it has not left word in the store of this port",
    );
    assert!(run_at(&published, "values", 1, 0..1)[0].status.success());
    let gone = "it left word of this port: nobody listens there";
    contains(&run_at(&published, "start", 2, 1..2)[0], gone);
}

pub(crate) fn another_store_that_is_missing_is_named() {
    let port = ranks::free_port();
    for rank in 0..2 {
        let outputs = run_at(&format!("published {port} a"), "start", 2, rank..rank + 1);
        let expected =
            format!("rank {rank}: the store of torchrun does not answer at 127.0.0.1:{port}");
        contains(&outputs[0], &expected);
    }
}

/// libtorch itself would wait for such a port without end.
pub(crate) fn a_port_of_somebody_else_is_told_in_time() {
    let started = Instant::now();
    let silent = std::net::TcpListener::bind(("0.0.0.0", 0)).unwrap();
    let fixed = format!("fixed {}", silent.local_addr().unwrap().port());
    let reason = "what listens there takes connections and does not answer";
    contains(&run_at(&fixed, "start", 2, 1..2)[0], reason);
    // The store of another job.
    let port = ranks::free_port();
    let other = StorePort::FirstFree { ports: vec![port], job: "other".to_owned() };
    let _other = host(&Rendezvous { address: "127.0.0.1".to_owned(), port: other });
    let reason = "what listens there is not the store of this job";
    contains(&run_at(&format!("fixed {port}"), "start_patient", 2, 1..2)[0], reason);
    within(started, ranks::TIMEOUT);
}

/// A rank 1 that a restart brings while rank 0 of the group before still ends.
pub(crate) fn a_complete_group_takes_nobody() {
    let board = ranks::free_port();
    let _other = host(&Rendezvous::fixed("127.0.0.1", board));
    for rendezvous in [fixed(), format!("published {board} a")] {
        let [zero, one] = [0, 1].map(|rank| spawn("lingering", 2, rank, &rendezvous));
        assert!(one.wait_with_output().unwrap().status.success());
        let early = spawn("values", 2, 1, &rendezvous);
        std::thread::sleep(Duration::from_secs(1));
        let mut zero = Some(Killed(zero));
        if rendezvous.starts_with("fixed") {
            // Its port is free only then.
            zero.take().into_iter().for_each(Killed::finish);
        }
        let late = spawn("values", 2, 0, &rendezvous);
        for rank in [early, late].map(|rank| rank.wait_with_output().unwrap()) {
            assert!(rank.status.success(), "{rendezvous}: {}", text(&rank));
        }
        zero.into_iter().for_each(Killed::finish);
    }
}

/// A rank 0 that waits in vain, which is still there when its group is started again.
pub(crate) fn ranks_pass_by_a_rank_0_that_waits_in_vain() {
    let board = ranks::free_port();
    let _other = host(&Rendezvous::fixed("127.0.0.1", board));
    let [a, b] = ["a", "b"].map(|group| format!("published {board} {group}"));
    let before = Killed(spawn("values", 2, 0, &a));
    std::thread::sleep(Duration::from_secs(1));
    // The next group is known by its name.
    let early = spawn("values", 2, 1, &b);
    std::thread::sleep(Duration::from_secs(1));
    let late = spawn("values", 2, 0, &b);
    for rank in [early, late].map(|rank| rank.wait_with_output().unwrap()) {
        assert!(rank.status.success(), "{}", text(&rank));
    }
    // It is not, but of another size.
    let reason = "the group there has another WORLD_SIZE";
    contains(&run_at(&a, "start_patient", 3, 1..2)[0], reason);
    before.finish();
    // It is not: rank 1 goes to the earlier rank 0, and on when there is newer word.
    let before = Killed(spawn("values", 3, 0, &a));
    std::thread::sleep(Duration::from_secs(1));
    let misled = spawn("start_patient", 3, 1, &a);
    std::thread::sleep(Duration::from_secs(1));
    let after = spawn("start_patient", 3, 0, &a);
    for rank in [misled, after].map(|rank| rank.wait_with_output().unwrap()) {
        contains(&rank, "2 of 3 ranks joined within 9s; missing: [2]");
    }
    before.finish();
}

/// libtorch itself would wait for its answer without end.
pub(crate) fn a_rank_0_that_stops_answering_is_named() {
    let started = Instant::now();
    let fixed = fixed();
    let zero = Killed(spawn("start_patient", 3, 0, &fixed));
    let one = spawn("start_patient", 3, 1, &fixed);
    std::thread::sleep(Duration::from_secs(2));
    let stopped = Command::new("kill").args(["-s", "STOP", &zero.0.id().to_string()]).status();
    assert!(stopped.unwrap().success());
    let output = one.wait_with_output().unwrap();
    zero.finish();
    let port = fixed.split_once(' ').unwrap().1;
    contains(&output, &format!("rank 1: rank 0 did not answer at 127.0.0.1:{port} within 9s: "));
    contains(&output, "it takes connections and does not answer");
    within(started, ranks::TIMEOUT);
}

pub(crate) fn a_rank_that_cannot_connect_is_named() {
    let started = Instant::now();
    let rendezvous = fixed();
    let mut children: Vec<Child> = Vec::new();
    for rank in 0..3 {
        let mut command = command("start_patient", 3, rank, &rendezvous);
        if rank == 1 {
            command.env("GLOO_SOCKET_IFNAME", "missing0");
        }
        children.push(command.spawn().unwrap());
    }
    for (rank, child) in children.into_iter().enumerate() {
        let output = child.wait_with_output().unwrap();
        contains(&output, &format!("rank {rank}: cannot start the Gloo group: "));
        contains(&output, "missing0");
        assert_eq!(text(&output).contains("rank 1 is unable to join it"), rank != 1, "{output:?}");
    }
    within(started, ranks::TIMEOUT);
}

pub(crate) fn a_start_ends_when_it_is_asked_to() {
    let board = ranks::free_port();
    let _other = host(&Rendezvous::fixed("127.0.0.1", board));
    let free = format!("free job {} {}", ranks::free_port(), ranks::free_port());
    for rendezvous in [fixed(), format!("published {board} a"), free] {
        for rank in 0..2 {
            let output = &run_at(&rendezvous, "start_cancelled", 2, rank..rank + 1)[0];
            assert!(output.status.success(), "{rendezvous}, rank {rank}: {}", text(output));
        }
    }
}
