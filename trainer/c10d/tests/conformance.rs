//! Every collective and every failure, among real processes over Gloo.
//!
//! The test starts itself once per rank: with `C10D_CASE` set it is a rank that plays that
//! case, otherwise it is the test that starts the ranks and judges them. (Without
//! the usual harness, because a rank must not run on one of its test threads.)

use std::process::{Child, Command, ExitCode, Output, Stdio};
use std::time::{Duration, Instant};

use c10d::{Backend, C10dError, Fault, ProcessGroup, ReduceOp, Rendezvous, StorePort, device};
use tch::{Device, Kind, Tensor};

mod ranks;

/// A case: its name and its test.
type Case = (&'static str, fn());

const CASES: &[Case] = &[
    ("values_of_every_collective", values_of_every_collective),
    ("unfit_tensors_are_refused", unfit_tensors_are_refused),
    ("ranks_that_disagree_are_named", ranks_that_disagree_are_named),
    ("a_killed_peer_is_named", a_killed_peer_is_named),
    ("a_killed_rank_0_is_named", a_killed_rank_0_is_named),
    ("a_late_peer_is_named", a_late_peer_is_named),
    ("a_stopped_peer_is_named", a_stopped_peer_is_named),
    ("a_missing_rank_is_named_at_start", a_missing_rank_is_named_at_start),
    ("a_missing_rank_0_is_named_at_start", a_missing_rank_0_is_named_at_start),
    ("a_taken_port_is_an_error", a_taken_port_is_an_error),
    ("ranks_meet_at_the_first_free_port", ranks_meet_at_the_first_free_port),
    ("a_missing_rank_0_is_named_at_free_ports", a_missing_rank_0_is_named_at_free_ports),
    ("ranks_meet_where_rank_0_published", ranks_meet_where_rank_0_published),
    ("word_of_a_rank_0_that_is_gone_is_told", word_of_a_rank_0_that_is_gone_is_told),
    ("another_store_that_is_missing_is_named", another_store_that_is_missing_is_named),
    ("nccl_without_gpu_is_an_error", nccl_without_gpu_is_an_error),
    ("streams_of_a_missing_gpu_are_errors", streams_of_a_missing_gpu_are_errors),
    ("streams_of_a_gpu_hand_over", streams_of_a_gpu_hand_over),
    ("fused_attention_is_chosen_for_a_gpu_only", fused_attention_is_chosen_for_a_gpu_only),
];

fn main() -> ExitCode {
    if let Ok(case) = std::env::var("C10D_CASE") {
        ranks::play(&case);
        return ExitCode::SUCCESS;
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let listing = arguments.iter().any(|argument| argument == "--list");
    let filters: Vec<_> = arguments.iter().filter(|a| !a.starts_with('-')).collect();
    let chosen = |name: &str| filters.is_empty() || filters.iter().any(|f| name.contains(*f));
    let mut failed = Vec::new();
    let mut passed = 0;
    let started = Instant::now();
    for (name, case) in CASES.iter().filter(|(name, _)| chosen(name)) {
        if listing {
            say(&format!("{name}: test"));
            continue;
        }
        let outcome = if std::panic::catch_unwind(case).is_ok() { "ok" } else { "FAILED" };
        say(&format!("test {name} ... {outcome}"));
        if outcome == "ok" {
            passed += 1;
        } else {
            failed.push(name);
        }
    }
    if !listing {
        let verdict = if failed.is_empty() { "ok" } else { "FAILED" };
        say(&format!(
            "\ntest result: {verdict}. {passed} passed; {} failed; 0 ignored; 0 measured; {} filtered out; finished in {:.2}s\n",
            failed.len(),
            CASES.len() - passed - failed.len(),
            started.elapsed().as_secs_f64()
        ));
    }
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[expect(clippy::print_stdout, reason = "a test harness reports on stdout")]
fn say(line: &str) {
    println!("{line}");
}

fn values_of_every_collective() {
    for world_size in 1..=4 {
        for (rank, output) in run("values", world_size, 0..world_size).into_iter().enumerate() {
            assert!(output.status.success(), "rank {rank} of {world_size}: {}", text(&output));
        }
    }
}

fn unfit_tensors_are_refused() {
    for world_size in 2..=4 {
        all_succeed("unfit", world_size);
    }
}

fn ranks_that_disagree_are_named() {
    for case in ["disagree_shape", "disagree_kind", "disagree_call"] {
        for world_size in 2..=4 {
            all_succeed(case, world_size);
        }
    }
}

fn a_killed_peer_is_named() {
    for world_size in 2..=4 {
        let started = Instant::now();
        let outputs = run("killed", world_size, 0..world_size);
        let victim = world_size - 1;
        for (rank, output) in outputs.iter().enumerate().take(victim) {
            contains(output, &format!("rank {victim} is gone or stopped"));
            contains(output, &format!("rank {rank}: all_reduce (collective 2) failed"));
        }
        within(started, ranks::TIMEOUT);
    }
}

fn a_killed_rank_0_is_named() {
    for world_size in 2..=4 {
        let started = Instant::now();
        for output in &run("killed_0", world_size, 0..world_size)[1..] {
            contains(output, "rank 0 is gone");
        }
        within(started, ranks::TIMEOUT);
    }
}

fn a_late_peer_is_named() {
    let outputs = run("late", 2, 0..2);
    contains(&outputs[0], "rank 1 is alive but did not come to it");
}

fn a_stopped_peer_is_named() {
    let (rendezvous, mut children) = (fixed(), Vec::new());
    for rank in 0..2 {
        children.push(spawn("stopped", 2, rank, &rendezvous));
    }
    let stopped = children.pop().unwrap();
    let output = children.pop().unwrap().wait_with_output().unwrap();
    Killed(stopped).finish();
    contains(&output, "rank 1 is gone or stopped");
}

fn a_missing_rank_is_named_at_start() {
    let started = Instant::now();
    let outputs = run("start", 4, 0..3);
    for (rank, output) in outputs.iter().enumerate() {
        contains(output, &format!("rank {rank}: 3 of 4 ranks joined within 3s; missing: [3]"));
    }
    within(started, ranks::TIMEOUT);
}

fn a_missing_rank_0_is_named_at_start() {
    let started = Instant::now();
    let outputs = run("start", 2, 1..2);
    contains(&outputs[0], "rank 1: rank 0 did not answer at 127.0.0.1:");
    within(started, ranks::TIMEOUT);
}

fn a_taken_port_is_an_error() {
    let taken = std::net::TcpListener::bind(("0.0.0.0", 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let rendezvous = Rendezvous::fixed("127.0.0.1", port);
    let error = ProcessGroup::new(Backend::Gloo, 0, 1, &rendezvous, ranks::TIMEOUT).unwrap_err();
    assert!(matches!(error, C10dError::Listen { port: found, .. } if found == port), "{error}");
}

/// A group of one, for the store that it hosts.
fn host(rendezvous: &Rendezvous) -> ProcessGroup {
    ProcessGroup::new(Backend::Gloo, 0, 1, rendezvous, ranks::TIMEOUT).unwrap()
}

fn ranks_meet_at_the_first_free_port() {
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

fn a_missing_rank_0_is_named_at_free_ports() {
    let ports = [ranks::free_port(), ranks::free_port()];
    let outputs = run_at(&format!("free job {} {}", ports[0], ports[1]), "start", 2, 1..2);
    let answer = format!("rank 1: rank 0 did not answer at 127.0.0.1:{}", ports[0]);
    contains(&outputs[0], &answer);
    contains(&outputs[0], "none of 2 ports is that of this job");
}

fn ranks_meet_where_rank_0_published() {
    // Stands for torchrun, which outlives the groups that it starts.
    let port = ranks::free_port();
    let _other = host(&Rendezvous::fixed("127.0.0.1", port));
    let published = format!("published {port}");
    // The second time there is word of a rank 0 that is gone, the third time of a larger group.
    for world_size in [2, 3, 2] {
        let ranks = (0..world_size).rev();
        for (rank, output) in run_at(&published, "values", world_size, ranks).iter().enumerate() {
            assert!(output.status.success(), "output {rank}: {}", text(output));
        }
    }
}

fn word_of_a_rank_0_that_is_gone_is_told() {
    let port = ranks::free_port();
    let _other = host(&Rendezvous::fixed("127.0.0.1", port));
    let published = format!("published {port}");
    contains(
        &run_at(&published, "start", 2, 1..2)[0],
        "it has not left word in the store of this port",
    );
    assert!(run_at(&published, "values", 1, 0..1)[0].status.success());
    contains(&run_at(&published, "start", 2, 1..2)[0], "it left word of this port and is gone");
}

fn another_store_that_is_missing_is_named() {
    let port = ranks::free_port();
    for rank in 0..2 {
        let outputs = run_at(&format!("published {port}"), "start", 2, rank..rank + 1);
        let expected =
            format!("rank {rank}: the store of torchrun does not answer at 127.0.0.1:{port}");
        contains(&outputs[0], &expected);
    }
}

fn nccl_without_gpu_is_an_error() {
    if tch::Cuda::device_count() > 0 {
        say("skipped: this machine has a GPU");
        return;
    }
    let port = ranks::free_port();
    let rendezvous = Rendezvous::fixed("127.0.0.1", port);
    let error = ProcessGroup::new(Backend::Nccl, 0, 1, &rendezvous, ranks::TIMEOUT).unwrap_err();
    let built = std::env::var_os("C10D_EXPECT_NCCL").is_some();
    match error {
        C10dError::NcclNotBuilt { rank: 0 } if !built => {}
        // libtorch's own constructor said so: nothing looks for a GPU before it.
        C10dError::NoGpu { rank: 0 } => {}
        other => panic!("{other}"),
    }
}

fn streams_of_a_missing_gpu_are_errors() {
    // On a CPU there is nothing to wait for and nothing to count.
    device::own_stream(Device::Cpu).unwrap();
    device::Event::now(Device::Cpu).unwrap().block().unwrap();
    device::used_here(&scalar(1.0)).unwrap();
    assert_eq!(device::device_memory(Device::Cpu).unwrap(), None);

    let missing = Device::Cuda(usize::try_from(tch::Cuda::device_count()).unwrap());
    let errors = [
        device::own_stream(missing).unwrap_err(),
        device::Event::now(missing).unwrap_err(),
        device::device_memory(missing).unwrap_err(),
    ];
    for error in errors {
        let text = error.to_string();
        assert!(text.starts_with(&format!("{missing:?}: ")) && text.lines().count() == 1, "{text}");
    }
}

/// libtorch takes the choice without a GPU as well; what a GPU then computes is not seen here.
fn fused_attention_is_chosen_for_a_gpu_only() {
    let before = device::attention_kernels().unwrap();
    assert!(before.math, "{before:?}");
    device::choose_attention(Device::Cpu).unwrap();
    assert_eq!(device::attention_kernels().unwrap(), before);
    device::choose_attention(Device::Cuda(0)).unwrap();
    let chosen =
        device::AttentionKernels { flash: true, memory_efficient: true, cudnn: false, math: false };
    assert_eq!(device::attention_kernels().unwrap(), chosen);
}

/// A product made on a thread with a stream of its own, read by this one without a wait of the host.
fn streams_of_a_gpu_hand_over() {
    if tch::Cuda::device_count() == 0 {
        say("skipped: this machine has no GPU");
        return;
    }
    let gpu = Device::Cuda(0);
    let left = Tensor::ones([2048, 2048], (Kind::Float, gpu));
    tch::Cuda::synchronize(0);
    for _ in 0..20 {
        let left = left.shallow_clone();
        let made = std::thread::spawn(move || {
            device::own_stream(gpu).unwrap();
            let product = left.matmul(&left).matmul(&left);
            (product, device::Event::now(gpu).unwrap())
        });
        let (product, event) = made.join().unwrap();
        event.block().unwrap();
        device::used_here(&product).unwrap();
        assert_eq!(product.mean(Kind::Double).double_value(&[]), 2048.0 * 2048.0);
    }
    let memory = device::device_memory(gpu).unwrap().unwrap();
    assert!(memory.peak_allocated >= 3 * 2048 * 2048 * 4, "{memory:?}");
    assert!(memory.peak_reserved >= memory.peak_allocated && memory.allocated > 0, "{memory:?}");
}

fn all_succeed(case: &str, world_size: usize) {
    for (rank, output) in run(case, world_size, 0..world_size).iter().enumerate() {
        assert!(output.status.success(), "{case}, rank {rank}: {}", text(output));
    }
}

/// Starts the given ranks of a world and waits for all.
fn run(case: &str, world_size: usize, ranks: std::ops::Range<usize>) -> Vec<Output> {
    run_at(&fixed(), case, world_size, ranks)
}

fn run_at(
    rendezvous: &str,
    case: &str,
    world_size: usize,
    ranks: impl Iterator<Item = usize>,
) -> Vec<Output> {
    let children: Vec<_> = ranks.map(|rank| spawn(case, world_size, rank, rendezvous)).collect();
    children.into_iter().map(|child| child.wait_with_output().unwrap()).collect()
}

fn fixed() -> String {
    format!("fixed {}", ranks::free_port())
}

fn spawn(case: &str, world_size: usize, rank: usize, rendezvous: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .env("C10D_CASE", case)
        .env("C10D_RANK", rank.to_string())
        .env("C10D_WORLD_SIZE", world_size.to_string())
        .env("C10D_RENDEZVOUS", rendezvous)
        .env("OMP_NUM_THREADS", "1")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// A rank that hangs for good and must not outlive its test.
struct Killed(Child);

impl Killed {
    fn finish(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

fn contains(output: &Output, expected: &str) {
    let found = text(output);
    assert!(found.contains(expected), "expected {expected:?} in: {found}");
}

fn within(started: Instant, timeout: Duration) {
    // Start of the processes and the roll call come on top of the timeout.
    let limit = timeout + Duration::from_secs(20);
    assert!(started.elapsed() < limit, "took {:?}", started.elapsed());
}

/// A 2 x 2 tensor of one value.
fn scalar(value: f32) -> Tensor {
    Tensor::full([2, 2], f64::from(value), (Kind::Float, Device::Cpu))
}
