//! Every collective and every failure, among real processes over Gloo, or with `C10D_BACKEND=nccl` over
//! NCCL on a machine with GPUs.
//!
//! The test starts itself once per rank: with `C10D_CASE` set it is a rank that plays that
//! case, otherwise it is the test that starts the ranks and judges them. (Without
//! the usual harness, because a rank must not run on one of its test threads.)

use std::process::{Child, Command, ExitCode, Output, Stdio};
use std::time::{Duration, Instant};

use c10d::{Backend, C10dError, Fault, ProcessGroup, ReduceOp, Rendezvous, StorePort, device};
use tch::{Device, Kind, Tensor};

mod meetings;
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
    ("a_missing_rank_is_named_at_start", meetings::a_missing_rank_is_named_at_start),
    ("a_missing_rank_0_is_named_at_start", meetings::a_missing_rank_0_is_named_at_start),
    ("a_taken_port_is_an_error", meetings::a_taken_port_is_an_error),
    ("ranks_meet_at_the_first_free_port", meetings::ranks_meet_at_the_first_free_port),
    ("a_missing_rank_0_is_named_at_free_ports", meetings::a_missing_rank_0_is_named_at_free_ports),
    ("ranks_meet_where_rank_0_published", meetings::ranks_meet_where_rank_0_published),
    ("word_of_a_rank_0_that_is_gone_is_told", meetings::word_of_a_rank_0_that_is_gone_is_told),
    ("another_store_that_is_missing_is_named", meetings::another_store_that_is_missing_is_named),
    ("a_port_of_somebody_else_is_told_in_time", meetings::a_port_of_somebody_else_is_told_in_time),
    ("a_rank_0_that_stops_answering_is_named", meetings::a_rank_0_that_stops_answering_is_named),
    ("a_rank_that_cannot_connect_is_named", meetings::a_rank_that_cannot_connect_is_named),
    ("a_start_ends_when_it_is_asked_to", meetings::a_start_ends_when_it_is_asked_to),
    ("a_complete_group_takes_nobody", meetings::a_complete_group_takes_nobody),
    (
        "ranks_pass_by_a_rank_0_that_waits_in_vain",
        meetings::ranks_pass_by_a_rank_0_that_waits_in_vain,
    ),
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

/// What moves the tensors of the ranks: Gloo, or with `C10D_BACKEND=nccl` NCCL.
fn backend() -> Backend {
    match std::env::var("C10D_BACKEND").as_deref() {
        Ok("nccl") => Backend::Nccl,
        _ => Backend::Gloo,
    }
}

/// Numbers of ranks up to 4, or as many as there are GPUs for NCCL, of which it wants one a rank.
fn worlds(fewest: usize) -> std::ops::RangeInclusive<usize> {
    let gpus = usize::try_from(tch::Cuda::device_count()).unwrap();
    let most = if backend() == Backend::Nccl { gpus.min(4) } else { 4 };
    if most < fewest {
        say(&format!("skipped: this machine has {gpus} GPUs, and NCCL needs {fewest}"));
    }
    fewest..=most
}

fn values_of_every_collective() {
    for world_size in worlds(1) {
        for (rank, output) in run("values", world_size, 0..world_size).into_iter().enumerate() {
            assert!(output.status.success(), "rank {rank} of {world_size}: {}", text(&output));
        }
    }
}

fn unfit_tensors_are_refused() {
    for world_size in worlds(2) {
        all_succeed("unfit", world_size);
    }
}

fn ranks_that_disagree_are_named() {
    for case in ["disagree_shape", "disagree_kind", "disagree_call"] {
        for world_size in worlds(2) {
            all_succeed(case, world_size);
        }
    }
}

fn a_killed_peer_is_named() {
    for world_size in worlds(2) {
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
    for world_size in worlds(2) {
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

fn nccl_without_gpu_is_an_error() {
    if tch::Cuda::device_count() > 0 {
        say("skipped: this machine has a GPU");
        return;
    }
    let port = ranks::free_port();
    let rendezvous = Rendezvous::fixed("127.0.0.1", port);
    let error =
        ProcessGroup::new(Backend::Nccl, 0, 1, &rendezvous, ranks::TIMEOUT, &|| false).unwrap_err();
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
    device::used_here(&Tensor::zeros([2], (Kind::Float, Device::Cpu))).unwrap();
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
    command(case, world_size, rank, rendezvous).spawn().unwrap()
}

fn command(case: &str, world_size: usize, rank: usize, rendezvous: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .env("C10D_CASE", case)
        .env("C10D_RANK", rank.to_string())
        .env("C10D_WORLD_SIZE", world_size.to_string())
        .env("C10D_RENDEZVOUS", rendezvous)
        .env("OMP_NUM_THREADS", "1")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
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
