//! Threads, instructions, memory, open files and the versions of what is linked.

use std::fs;

use rustix::process::{Resource, getrlimit};

use super::{Check, size};
use crate::workers::default_threads;

/// Below this a build or a stream of large photographs may be killed.
const ENOUGH_MEMORY: u64 = 2 << 30;
/// Shards and sockets that may be open at once, with room for everything else.
const ENOUGH_FILES: u64 = 1024;
/// Libraries whose behaviour a data set depends on.
const LIBRARIES: [&str; 5] = ["arrow-array", "parquet", "object_store", "image", "tokio"];
/// The versions that this program was built from.
const LOCK_FILE: &str = include_str!("../../../Cargo.lock");

pub(super) fn checks() -> Vec<Check> {
    vec![versions(), threads(), instructions(), memory(), open_files()]
}

fn versions() -> Check {
    let lock: toml::Table = toml::from_str(LOCK_FILE).unwrap_or_default();
    let packages = lock.get("package").and_then(toml::Value::as_array);
    let version = |name: &str| {
        let mut packages = packages.into_iter().flatten();
        let package = packages
            .find(|package| package.get("name").and_then(toml::Value::as_str) == Some(name))?;
        package.get("version").and_then(toml::Value::as_str)
    };
    let libraries: Vec<String> =
        LIBRARIES.iter().filter_map(|name| Some(format!("{name} {}", version(name)?))).collect();
    Check::ok(
        "versions",
        format!(
            "hqseg {}, shard schema {}; {}",
            env!("CARGO_PKG_VERSION"),
            dataset::schema::SCHEMA_VERSION,
            libraries.join(", ")
        ),
    )
}

fn threads() -> Check {
    match default_threads() {
        1 => Check::warning(
            "threads",
            "1: decoding has one core; give this job more where there are more",
        ),
        threads => Check::ok("threads", format!("{threads}")),
    }
}

#[cfg(target_arch = "x86_64")]
fn instructions() -> Check {
    if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
        Check::ok("instructions", "AVX2 and FMA")
    } else {
        Check::warning(
            "instructions",
            "no AVX2 or no FMA: resampling takes its slow path; on a virtual machine, pass the \
             host's processor type through",
        )
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn instructions() -> Check {
    Check::warning("instructions", "not x86-64: resampling takes its slow path")
}

fn memory() -> Check {
    let Some(available) = available_memory() else {
        return Check::warning("memory", "cannot be told: /proc/meminfo is not readable");
    };
    if available < ENOUGH_MEMORY {
        Check::warning(
            "memory",
            format!(
                "{} available: use fewer threads (`--threads 1`) for pictures of many megapixels",
                size(available)
            ),
        )
    } else {
        Check::ok("memory", format!("{} available", size(available)))
    }
}

/// What the system can still give, or the control group's rest where that is less.
fn available_memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let system = line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? << 10;
    let number = |name: &str| {
        let text = fs::read_to_string(format!("/sys/fs/cgroup/{name}")).ok()?;
        text.trim().parse::<u64>().ok()
    };
    let group = number("memory.max")
        .zip(number("memory.current"))
        .map(|(limit, used)| limit.saturating_sub(used));
    Some(group.map_or(system, |group| group.min(system)))
}

fn open_files() -> Check {
    match getrlimit(Resource::Nofile).current {
        Some(limit) if limit < ENOUGH_FILES => Check::warning(
            "open files",
            format!("at most {limit}: raise it with `ulimit -n {ENOUGH_FILES}` before a long run"),
        ),
        Some(limit) => Check::ok("open files", format!("at most {limit}")),
        None => Check::ok("open files", "no limit"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_library_has_a_version() {
        let message = versions().message;
        for name in LIBRARIES {
            assert!(message.contains(&format!("{name} ")), "{name}: {message}");
        }
    }
}
