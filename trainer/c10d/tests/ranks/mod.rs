//! What each rank does in each case of the conformance test.

use std::net::TcpListener;

use super::*;

/// Bounds the start and each collective of a case that succeeds or loses a peer.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(30);
/// Bounds a case that must run into the timeout.
const SHORT: Duration = Duration::from_secs(3);

pub(crate) fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

fn number(name: &str) -> usize {
    std::env::var(name).unwrap().parse().unwrap()
}

/// `fixed PORT`, `published PORT GROUP` or `free JOB PORT...`, as the test wrote it.
fn rendezvous() -> Rendezvous {
    let text = std::env::var("C10D_RENDEZVOUS").unwrap();
    let words: Vec<&str> = text.split(' ').collect();
    let port = |word: &str| word.parse::<u16>().unwrap();
    let port = match words[0] {
        "fixed" => StorePort::Fixed(port(words[1])),
        "published" => StorePort::Published { store: port(words[1]), group: words[2].to_owned() },
        _ => StorePort::FirstFree {
            job: words[1].to_owned(),
            ports: words[2..].iter().map(|word| port(word)).collect(),
        },
    };
    Rendezvous { address: "127.0.0.1".to_owned(), port }
}

/// Where this rank's tensors lie: with NCCL each rank has a GPU of its own.
fn device() -> Device {
    match backend() {
        Backend::Gloo => Device::Cpu,
        Backend::Nccl => Device::Cuda(number("C10D_RANK")),
    }
}

/// A 2 x 2 tensor of one value.
fn scalar(value: f32) -> Tensor {
    Tensor::full([2, 2], f64::from(value), (Kind::Float, device()))
}

fn start(timeout: Duration) -> Result<ProcessGroup, C10dError> {
    start_unless(timeout, &|| false)
}

fn start_unless(timeout: Duration, stop: &dyn Fn() -> bool) -> Result<ProcessGroup, C10dError> {
    let (rank, world_size) = (number("C10D_RANK"), number("C10D_WORLD_SIZE"));
    ProcessGroup::new(backend(), rank, world_size, &rendezvous(), timeout, stop)
}

pub(crate) fn play(case: &str) {
    match case {
        "start" => say(&start(SHORT).unwrap_err().to_string()),
        "start_patient" => say(&start(SHORT * 3).unwrap_err().to_string()),
        "start_cancelled" => {
            let started = Instant::now();
            let stop = || started.elapsed() > Duration::from_secs(1);
            let error = start_unless(TIMEOUT * 10, &stop).unwrap_err();
            assert!(matches!(error, C10dError::Cancelled { .. }), "{error}");
            assert!(started.elapsed() < TIMEOUT, "{:?}", started.elapsed());
        }
        "values" => values(&start(TIMEOUT).unwrap()),
        "unfit" => unfit(&start(TIMEOUT).unwrap()),
        "disagree_shape" | "disagree_kind" | "disagree_call" => {
            disagree(&start(TIMEOUT).unwrap(), case);
        }
        "killed" => killed(&start(TIMEOUT).unwrap(), number("C10D_WORLD_SIZE") - 1),
        "killed_0" => killed(&start(TIMEOUT).unwrap(), 0),
        "lingering" => lingering(&start(TIMEOUT).unwrap()),
        "late" => late(&start(SHORT).unwrap()),
        "stopped" => stopped(&start(SHORT).unwrap()),
        other => panic!("no case {other}"),
    }
}

fn values(group: &ProcessGroup) {
    let (rank, world) = (group.rank(), group.world_size());
    let mine = rank as f32 + 1.0;
    let all: Vec<f32> = (0..world).map(|rank| rank as f32 + 1.0).collect();
    for (op, expected) in [
        (ReduceOp::Sum, all.iter().sum::<f32>()),
        (ReduceOp::Product, all.iter().product()),
        (ReduceOp::Min, 1.0),
        (ReduceOp::Max, world as f32),
    ] {
        let mut tensor = scalar(mine);
        group.all_reduce(&mut tensor, op).unwrap();
        assert_eq!(tensor, scalar(expected), "{op:?}");
    }
    for kind in
        [Kind::Double, Kind::Half, Kind::BFloat16, Kind::Int8, Kind::Uint8, Kind::Int, Kind::Int64]
    {
        let mut tensor = scalar(mine).to_kind(kind);
        group.all_reduce(&mut tensor, ReduceOp::Sum).unwrap();
        assert_eq!(tensor, scalar(all.iter().sum()).to_kind(kind), "{kind:?}");
    }
    for (root, &value) in all.iter().enumerate() {
        let mut tensor = scalar(mine);
        group.broadcast(&mut tensor, root).unwrap();
        assert_eq!(tensor, scalar(value));
    }
    let gathered = group.all_gather(&scalar(mine)).unwrap();
    let expected: Vec<_> = all.iter().map(|&value| scalar(value)).collect();
    assert_eq!(gathered, expected);
    // A scalar and an empty tensor are tensors too.
    let mut flag = Tensor::from(i64::try_from(rank).unwrap()).to_device(device());
    group.all_reduce(&mut flag, ReduceOp::Max).unwrap();
    assert_eq!(flag.int64_value(&[]), i64::try_from(world).unwrap() - 1);
    group.barrier().unwrap();
    let error = group.broadcast(&mut flag, world).unwrap_err();
    assert!(matches!(error, C10dError::InvalidRank { .. }), "{error}");
}

/// Refusals are local: the group works on after them.
fn unfit(group: &ProcessGroup) {
    let mut strided = Tensor::zeros([4, 4], (Kind::Float, device())).transpose(0, 1);
    strided = strided.narrow(0, 0, 2);
    let error = group.all_reduce(&mut strided, ReduceOp::Sum).unwrap_err();
    assert!(matches!(error, C10dError::NotContiguous { .. }), "{error}");
    let error = group.all_gather(&Tensor::from_slice(&[true]).to_device(device())).unwrap_err();
    assert!(matches!(error, C10dError::UnsupportedKind { kind: Kind::Bool, .. }), "{error}");
    let mut sum = scalar(1.0);
    group.all_reduce(&mut sum, ReduceOp::Sum).unwrap();
    assert_eq!(sum, scalar(group.world_size() as f32));
}

/// Rank 1 differs from the rest; everyone learns it and is told by whom.
fn disagree(group: &ProcessGroup, case: &str) {
    let odd = group.rank() == 1;
    let mut tensor = match case {
        "disagree_shape" if odd => Tensor::zeros([3], (Kind::Float, device())),
        "disagree_kind" if odd => Tensor::zeros([2, 2], (Kind::Double, device())),
        _ => scalar(1.0),
    };
    let outcome = if case == "disagree_call" && odd {
        group.barrier()
    } else {
        group.all_reduce(&mut tensor, ReduceOp::Sum)
    };
    let error = outcome.unwrap_err();
    let peer = usize::from(!odd);
    assert!(matches!(error, C10dError::Mismatch { peer: found, .. } if found == peer), "{error}");
    let error = group.barrier().unwrap_err();
    assert!(matches!(error, C10dError::Poisoned { .. }), "{error}");
}

fn killed(group: &ProcessGroup, victim: usize) {
    let mut tensor = scalar(1.0);
    group.all_reduce(&mut tensor, ReduceOp::Sum).unwrap();
    if group.rank() == victim {
        signal("KILL");
    }
    let error = group.all_reduce(&mut tensor, ReduceOp::Sum).unwrap_err();
    // What a program can act on, besides the words.
    let C10dError::Collective { peers, fault, .. } = &error else { panic!("{error}") };
    let due = if victim == 0 { [Fault::NoStore, Fault::Gone] } else { [Fault::Gone; 2] };
    assert!(*peers == [victim] && due.contains(fault), "{error:?}");
    say(&error.to_string());
}

/// Rank 0 stays after the others left, until it is killed.
fn lingering(group: &ProcessGroup) {
    group.barrier().unwrap();
    if group.rank() == 0 {
        std::thread::sleep(TIMEOUT);
    }
}

fn late(group: &ProcessGroup) {
    group.barrier().unwrap();
    if group.rank() == 1 {
        std::thread::sleep(SHORT * 3);
    } else {
        say(&group.barrier().unwrap_err().to_string());
    }
}

fn stopped(group: &ProcessGroup) {
    group.barrier().unwrap();
    if group.rank() == 1 {
        signal("STOP");
    }
    say(&group.barrier().unwrap_err().to_string());
}

/// Sends a signal to this process and waits for it to arrive.
fn signal(name: &str) {
    let this = std::process::id().to_string();
    Command::new("kill").args(["-s", name, &this]).status().unwrap();
    std::thread::sleep(TIMEOUT);
}
