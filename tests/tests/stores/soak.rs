//! Many steps under faults drawn from a seed: ranks killed with `kill -9`, a store that resets
//! connections, breaks answers off and is slow, a slow disk. Nothing may be lost, and memory must
//! stay flat: that of ranks while none is killed, that of the launcher while ranks are killed.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::{Dice, kill, lines, ranks, resident_bytes, tiny_of};
use trainer::sample_digest::SampleDigest;

use crate::bucket::{ended, launch_with, newest_in_bucket, newest_in_folder, succeed};
use crate::rough_proxy::{RoughProxy, Roughness};
use crate::servers::{Kind, Server};
use crate::slow_disk::{SlowDisk, Slowness};

/// Steps, as this variable says otherwise; `make soak` makes it 2,000.
const STEPS_VARIABLE: &str = "HQSAM_SOAK_STEPS";
const STEPS: u64 = 120;
/// Drawn pairs, 32 of them to train on: 16 steps an epoch.
const PAIRS: usize = 44;
const STEPS_PER_EPOCH: u64 = 16;
/// Kills follow each other after 5 and up to so many new steps more: without progress, a launcher
/// rightly sees a crash loop.
const LONGEST_PEACE: u64 = 30;
/// 64 pixels: what is tried here is not the arithmetic.
const ENCODER: &str = "[model]\nencoder = { kind = \"vit\", img_size = 64, patch_size = 16, \
    embed_dim = 32, depth = 2, num_heads = 2, window_size = 3, global_attn_indexes = [1] }\n";
/// Most that a process may hold in the last third of the steps, as a share of the middle third.
/// It fills up over the first 400 steps, so a short run shows some per cent of that.
const MEMORY: f64 = 1.1;
/// Bytes that the launcher may gain: a few pages, whatever the number of restarts.
const LAUNCHER_GROWTH: u64 = 1 << 20;
const ROUGHNESS: Roughness =
    Roughness { resets: 3, delays: 20, longest_delay: Duration::from_millis(300) };

/// Logs, the row cache and checkpoints before their upload lie on this disk.
const SLOWNESS: Slowness = Slowness { share: 20, longest_delay: Duration::from_millis(300) };
/// GiB of the row cache: about half of the rows find room, so the store is asked all the time.
const CACHE_GIB: &str = "0.0012";

/// Resident memory of one process at a step.
struct Held {
    pid: u32,
    step: u64,
    bytes: u64,
}

/// Steps of the two parts of a run.
#[derive(Clone, Copy)]
struct Parts {
    /// Ranks are killed in the first third. Their memory is compared between the other two, in
    /// processes that live on and so would show a leak.
    watched: u64,
    /// A quarter as many after them, with kills to the end.
    rough: u64,
}

impl Parts {
    /// Whole epochs of both.
    fn of(watched: u64) -> Self {
        let whole = |steps: u64| steps.div_ceil(STEPS_PER_EPOCH) * STEPS_PER_EPOCH;
        Self { watched: whole(watched), rough: whole(watched / 4) }
    }

    fn all(self) -> u64 {
        self.watched + self.rough
    }

    fn may_kill(self, step: u64) -> bool {
        step <= self.watched / 3 || step > self.watched
    }
}

/// What was done to a run, and what was seen of it.
#[derive(Default)]
struct Seen {
    killed: u64,
    memory: Vec<Held>,
    launcher: Vec<Held>,
}

/// Kills ranks, and looks at what they and the launcher hold.
fn disturb(launcher: u32, is_over: &mut dyn FnMut() -> bool, log: &Path, parts: Parts) -> Seen {
    let (mut dice, mut seen) = (Dice::new(0x5eed), Seen::default());
    let mut furthest = 0;
    let mut next_kill = 5 + dice.below(LONGEST_PEACE);
    while !is_over() {
        let step = last_step(log);
        let ranks = ranks(launcher);
        let held = |&pid: &u32| Some(Held { pid, step, bytes: resident_bytes(pid)? });
        // In the rough part, ranks make steps of the watched one again.
        if furthest.max(step) <= parts.watched {
            seen.memory.extend(ranks.iter().filter_map(held));
        }
        let mut launcher_held = held(&launcher);
        if let Some(held) = &mut launcher_held {
            held.step = furthest.max(step);
        }
        seen.launcher.extend(launcher_held);
        if step > furthest {
            furthest = step;
            if step >= next_kill && parts.may_kill(step) && !ranks.is_empty() {
                // One of them, or all.
                match dice.below(4) {
                    0 => ranks.into_iter().for_each(kill),
                    _ => kill(ranks[dice.below(ranks.len() as u64) as usize]),
                }
                seen.killed += 1;
                next_kill = step + 5 + dice.below(LONGEST_PEACE);
            }
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    seen
}

/// Reads the end of the log only: it grows long.
fn last_step(log: &Path) -> u64 {
    use std::io::{Read, Seek, SeekFrom};
    let Ok(mut file) = std::fs::File::open(log) else { return 0 };
    let length = file.metadata().map_or(0, |metadata| metadata.len());
    let mut end = String::new();
    let _ = file.seek(SeekFrom::Start(length.saturating_sub(4096)));
    let _ = file.read_to_string(&mut end);
    let step = |line: &str| serde_json::from_str::<Value>(line).ok()?["global_step"].as_u64();
    end.lines().filter_map(step).next_back().unwrap_or(0)
}

/// Median of what each process held from step `from` on and before step `to`, in bytes. Apart, since
/// rank 0 holds more than the others: of both together, the median falls on one or the other.
fn medians(memory: &[Held], from: u64, to: u64) -> BTreeMap<u32, u64> {
    let mut bytes: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
    for held in memory.iter().filter(|held| (from..to).contains(&held.step)) {
        bytes.entry(held.pid).or_default().push(held.bytes);
    }
    let middle = |mut bytes: Vec<u64>| {
        bytes.sort_unstable();
        bytes[bytes.len() / 2]
    };
    bytes.into_iter().map(|(pid, bytes)| (pid, middle(bytes))).collect()
}

/// What the processes that lived through the last two thirds of the steps held in each of them.
#[expect(clippy::print_stdout, reason = "the figures belong to the result")]
fn assert_memory_is_flat(memory: &[Held], steps: u64) {
    let third = steps / 3;
    let (middle, last) = (medians(memory, third, 2 * third), medians(memory, 2 * third, steps + 1));
    let lived: Vec<(u64, u64)> =
        last.iter().filter_map(|(pid, &last)| Some((*middle.get(pid)?, last))).collect();
    for &(middle, last) in &lived {
        println!(
            "a rank holds {:.1} MiB in the middle third, {:.1} MiB in the last",
            mib(middle),
            mib(last)
        );
    }
    for (pid, tenths) in by_tenth(memory, steps).into_iter().filter(|(_, tenths)| tenths.len() > 6)
    {
        println!("process {pid}, MiB by tenths of the steps: {}", tenths.join(" "));
    }
    assert_eq!(lived.len(), 2);
    for (middle, last) in lived {
        assert!(last as f64 <= MEMORY * middle as f64, "{last} bytes after {middle}");
    }
}

/// The launcher starts ranks again and again: in the rough part, which comes last, it holds as much as
/// it did while the first ranks were killed.
#[expect(clippy::print_stdout, reason = "the figures belong to the result")]
fn assert_launcher_stays_small(launcher: &[Held], parts: Parts) {
    let middle = |from, to| medians(launcher, from, to).into_values().next().unwrap();
    let first = middle(0, parts.watched / 3);
    let last = middle(parts.watched + 1, parts.all() + 1);
    println!("the launcher holds {:.2} MiB at first, {:.2} MiB at last", mib(first), mib(last));
    assert!(last <= first + LAUNCHER_GROWTH, "{last} bytes after {first}");
}

/// Medians in MiB by process.
fn by_tenth(memory: &[Held], steps: u64) -> BTreeMap<u32, Vec<String>> {
    let mut tenths: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    for tenth in 0..10 {
        for (pid, bytes) in medians(memory, steps * tenth / 10, steps * (tenth + 1) / 10) {
            tenths.entry(pid).or_default().push(format!("{:.0}", mib(bytes)));
        }
    }
    tenths
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// The digest of each step's samples, as `hqseg trace` names them.
fn traced(server: &Server, folder: &Path, steps: u64) -> Vec<String> {
    let count = steps.to_string();
    let trace =
        ["trace", "data", "--json", "--global-batch", "2", "--size", "16", "--steps", &count];
    let text = succeed(server, folder, "hqseg", &trace);
    let digest = |line: &str| {
        let step: Value = serde_json::from_str(line).unwrap();
        let samples = step["samples"].as_array().unwrap();
        let ids: Vec<&str> = samples.iter().map(|it| it["sample_id"].as_str().unwrap()).collect();
        assert_eq!(ids.len(), 2);
        SampleDigest::of_sums(&SampleDigest::lanes(&ids)).to_string()
    };
    text.lines().map(digest).collect()
}

/// Each step was made once in the log, with the samples, the loss and the gradient of the undisturbed
/// run, and the last weights and moments are its bits.
fn assert_nothing_is_lost(server: &Server, folder: &Path, steps: u64) {
    let (steps_made, expected) =
        (lines(&folder.join("slow/work/steps.jsonl")), lines(&folder.join("run/steps.jsonl")));
    let traced = traced(server, folder, steps);
    assert_eq!(
        (steps_made.len(), expected.len(), traced.len()),
        (steps as usize, steps as usize, steps as usize)
    );
    for ((made, expected), traced) in steps_made.iter().zip(&expected).zip(&traced) {
        for key in ["global_step", "epoch", "step", "samples", "loss", "grad_norm"] {
            assert_eq!(made[key], expected[key], "{made} {expected}");
        }
        assert_eq!(made["samples"], **traced, "{made}");
    }
    assert_eq!(newest_in_bucket(server, "run"), newest_in_folder(&folder.join("run")));
}

#[test]
#[expect(clippy::print_stdout, reason = "the figures belong to the result")]
fn a_long_training_under_faults_loses_nothing_and_its_memory_stays_flat() {
    let Some(server) = Server::start(Kind::S3) else { return };
    let asked = std::env::var(STEPS_VARIABLE).ok().and_then(|steps| steps.parse().ok());
    let parts = Parts::of(asked.unwrap_or(STEPS));
    let steps = parts.all();
    let epochs = steps / STEPS_PER_EPOCH;
    let changes = format!(
        "{ENCODER}[train]\nepochs = {epochs}\nlr_drop_epoch = 0\ncheckpoint_every_steps = 10\n\
         [eval]\nsplits = []\n"
    );
    let folder = tiny_of(PAIRS, &changes);
    let folder = folder.path();
    let started = Instant::now();
    let _ = succeed(&server, folder, "launch", &["--procs", "2", "tiny.toml"]);
    let undisturbed = started.elapsed();

    let build = ["build", "--auto", "raw", "--output", "s3://bucket/data", "--holdout", "0.25"];
    let _ = succeed(&server, folder, "hqseg", &build);
    let proxy = RoughProxy::start(&server.address, ROUGHNESS, 7);
    let arguments = "--procs 2 --max-restarts 100000 --grace 2 tiny.toml --set work_dir=slow/work \
                     --set data.path=s3://bucket/data --set output=s3://bucket/run";
    let arguments: Vec<&str> = arguments.split_whitespace().collect();
    let started = Instant::now();
    let disk = SlowDisk::new(folder, &folder.join("slow"), SLOWNESS);
    let mut environment = server.environment(&proxy.address);
    environment.extend(disk.environment());
    let cache = folder.join("slow/cache").to_str().unwrap().to_owned();
    environment.extend([("HQSEG_CACHE_DIR", cache), ("HQSEG_CACHE_GIB", CACHE_GIB.to_owned())]);
    let mut launcher = launch_with(&environment, folder, &arguments);
    let (pid, log) = (launcher.id(), folder.join("slow/work/steps.jsonl"));
    let seen = disturb(pid, &mut || launcher.try_wait().unwrap().is_some(), &log, parts);
    let disturbed = started.elapsed();
    let (succeeded, said) = ended(launcher, folder);
    assert!(succeeded, "{said}");

    assert_nothing_is_lost(&server, folder, steps);
    let (resets, delays, bytes) = proxy.counts();
    let resumed = said.matches("resuming from").count();
    let failed = said.matches("training goes on").count();
    let slow = disk.delays();
    println!(
        "{steps} steps: {} kills, {resumed} resumed rounds, {resets} connections reset, {delays} \
         pieces late, {:.0} MiB through the proxy, {failed} warnings of failed requests; {} calls to \
         the disk late by {:.0} s in all ({:?}); {:.0} s undisturbed, {:.0} s disturbed",
        seen.killed,
        mib(bytes),
        slow.count(),
        slow.total.as_secs_f64(),
        slow.calls,
        undisturbed.as_secs_f64(),
        disturbed.as_secs_f64(),
    );
    assert!(seen.killed > 0 && resets > 0 && delays > 0, "nothing was disturbed");
    for path in ["slow/work/steps.jsonl", "slow/work/staging/", "slow/cache/"] {
        assert!(slow.paths.iter().any(|slow| slow.contains(path)), "{path} was never late");
    }
    assert_memory_is_flat(&seen.memory, parts.watched);
    assert_launcher_stays_small(&seen.launcher, parts);
}
