//! What the user types, and the job that it means.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser;

use crate::gpus;
use crate::job::{Endpoint, Job, Nodes};
use crate::processes::KILLED;
use crate::ranks::DRAIN;

/// Tells `hqsam` which device to use: `cuda` or `cpu`.
const DEVICE_VARIABLE: &str = "HQSAM_DEVICE";
/// The program that trains a CONFIG.
const TRAINER: &str = "hqsam";
/// By default, nothing of a failed job is left after ten seconds.
const GRACE_SECS: u64 = 6;
const _: () = assert!(GRACE_SECS + KILLED.as_secs() + DRAIN.as_secs() <= 10);

/// A year: longer waits mean a mistake, and clocks end somewhere.
const LONGEST_SECS: u64 = 366 * 24 * 3600;

/// Starts one process per GPU, or a number of processes, and watches them.
#[derive(Debug, Parser)]
#[command(
    version,
    about,
    after_help = "Example:\n  launch --gpus 8 my_run.toml --max-restarts 3\n  launch --procs 2 -- hqsam eval runs/mine",
    override_usage = "launch <--gpus N | --gpus auto | --procs N> CONFIG [--set A.B=C]... [--resume]\n       launch <--gpus N | --gpus auto | --procs N> -- COMMAND [ARGUMENT]..."
)]
pub struct Arguments {
    /// One process for each of N GPUs of this machine, or of all with `auto`
    #[arg(long, value_name = "N|auto", value_parser = gpu_count, required_unless_present = "procs", conflicts_with = "procs")]
    pub gpus: Option<GpuCount>,
    /// N processes on the CPU
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub procs: Option<u16>,
    /// Seconds that the other processes get to end after one failed
    #[arg(long, value_name = "SECONDS", default_value_t = GRACE_SECS, value_parser = seconds(0))]
    pub grace: u64,
    /// Starts all processes again when one failed, up to R times, from the last checkpoint
    #[arg(long, value_name = "R", default_value_t = 0)]
    pub max_restarts: u32,
    /// Ends the job when a process gave no sign of life for this long. Without it, only processes
    /// that gave one are judged, after 30 minutes
    #[arg(long, value_name = "SECONDS", value_parser = seconds(1))]
    pub heartbeat_timeout: Option<u64>,
    /// What to train: runs `hqsam train CONFIG`
    #[arg(required_unless_present = "command")]
    pub config: Option<PathBuf>,
    /// Replaces one value of CONFIG
    #[arg(long = "set", value_name = "A.B=C")]
    pub set: Vec<String>,
    /// Continues the run from its last checkpoint, or begins it where there is none
    #[arg(long, overrides_with = "resume")]
    pub resume: bool,
    /// Any command instead of CONFIG
    #[arg(last = true, conflicts_with_all = ["config", "set", "resume"])]
    pub command: Vec<OsString>,
    /// The other machines
    // Last: its heading holds for all that follows.
    #[command(flatten)]
    pub network: NetworkArguments,
}

/// Several machines: the same command on each, with its own `--node-rank`.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Several machines")]
pub struct NetworkArguments {
    /// Number of machines
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub nnodes: Option<u16>,
    /// This machine, from 0
    // Without --nnodes every machine would train by itself.
    #[arg(long, value_name = "K", requires = "nnodes")]
    pub node_rank: Option<u16>,
    /// Where node 0 listens for the others, as they reach it
    #[arg(long, value_name = "HOST:PORT", value_parser = endpoint, requires = "nnodes")]
    pub rdzv_endpoint: Option<Endpoint>,
    /// Name of the job, so that two jobs at one endpoint do not mix
    #[arg(long, value_name = "ID", requires = "nnodes")]
    pub rdzv_id: Option<String>,
    /// How long machines wait for each other
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = seconds(0))]
    pub rdzv_timeout: u64,
    /// A machine that was silent for this long is lost
    #[arg(long, value_name = "SECONDS", default_value_t = 15, value_parser = seconds(1))]
    pub node_timeout: u64,
}

/// How many GPUs to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GpuCount {
    /// So many.
    Exactly(u16),
    /// All that are visible.
    Auto,
}

/// A time from `least` to a year.
fn seconds(least: u64) -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(least..=LONGEST_SECS)
}

fn gpu_count(text: &str) -> Result<GpuCount, String> {
    match text.parse() {
        _ if text == "auto" => Ok(GpuCount::Auto),
        Ok(number) if number > 0 => Ok(GpuCount::Exactly(number)),
        _ => Err("expected a number from 1, or `auto`".to_owned()),
    }
}

fn endpoint(text: &str) -> Result<Endpoint, String> {
    let parts = text.rsplit_once(':').and_then(|(host, port)| {
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        Some((host, port.parse().ok().filter(|&port: &u16| port > 0)?))
    });
    match parts {
        Some((host, port)) if !host.is_empty() => Ok(Endpoint { host: host.to_owned(), port }),
        _ => Err("expected HOST:PORT, such as node0:29400".to_owned()),
    }
}

/// Why the arguments make no job. Each text says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArgumentError {
    /// Fewer GPUs than asked for.
    #[error(
        "{wanted} GPUs asked for, {found} found on this machine; to train on CPU: launch --procs 2 {what}"
    )]
    TooFewGpus {
        /// GPUs asked for.
        wanted: usize,
        /// GPUs visible.
        found: usize,
        /// The rest of the command line.
        what: String,
    },
    /// The machines are only half described.
    #[error("--nnodes {nnodes} also needs {missing}")]
    HalfNetwork {
        /// Number of machines.
        nnodes: u16,
        /// What is missing.
        missing: &'static str,
    },
    /// This machine is none of those.
    #[error("--node-rank {node_rank} is outside of --nnodes {nnodes}: it must be smaller")]
    NodeRank {
        /// This machine.
        node_rank: u16,
        /// Number of machines.
        nnodes: u16,
    },
    /// The configuration file is not there.
    #[error("no configuration at {0}")]
    NoConfig(PathBuf),
}

/// The job that the arguments mean.
///
/// # Errors
/// Where the machine has too few GPUs or the configuration is not there.
pub fn job(arguments: &Arguments) -> Result<Job, ArgumentError> {
    let (num_ranks, device) = ranks(arguments)?;
    let mut restart_arguments = Vec::new();
    let command = match &arguments.config {
        None => arguments.command.clone(),
        Some(config) if !config.is_file() => {
            return Err(ArgumentError::NoConfig(config.clone()));
        }
        Some(config) => {
            let mut command = vec![trainer(), "train".into(), config.into()];
            for value in &arguments.set {
                command.extend(["--set".into(), value.into()]);
            }
            let resume = "--resume".into();
            if arguments.resume {
                command.push(resume);
            } else {
                restart_arguments.push(resume);
            }
            command
        }
    };
    Ok(Job {
        command,
        restart_arguments,
        num_ranks,
        env: vec![(DEVICE_VARIABLE.to_owned(), device.to_owned())],
        grace: Duration::from_secs(arguments.grace),
        max_restarts: arguments.max_restarts,
        heartbeat_timeout: arguments.heartbeat_timeout.map(Duration::from_secs),
        nodes: nodes(&arguments.network)?,
    })
}

/// Processes on this machine, and what they compute on.
fn ranks(arguments: &Arguments) -> Result<(usize, &'static str), ArgumentError> {
    let Some(wanted) = arguments.gpus else {
        return Ok((usize::from(arguments.procs.unwrap_or(1)), "cpu"));
    };
    let found = gpus::visible(Path::new("/"), std::env::var("CUDA_VISIBLE_DEVICES").ok());
    let wanted = match wanted {
        GpuCount::Exactly(number) => usize::from(number),
        GpuCount::Auto => found.max(1),
    };
    if found < wanted {
        return Err(ArgumentError::TooFewGpus { wanted, found, what: what(arguments) });
    }
    Ok((wanted, "cuda"))
}

/// The machines; `None` where this is the only one.
fn nodes(network: &NetworkArguments) -> Result<Option<Nodes>, ArgumentError> {
    let nnodes = network.nnodes.unwrap_or(1);
    if let Some(node_rank) = network.node_rank.filter(|&rank| rank >= nnodes) {
        return Err(ArgumentError::NodeRank { node_rank, nnodes });
    }
    if nnodes == 1 {
        return Ok(None);
    }
    let missing = |missing| ArgumentError::HalfNetwork { nnodes, missing };
    let node_rank = network.node_rank.ok_or_else(|| missing("--node-rank K"))?;
    let endpoint = network.rdzv_endpoint.clone();
    Ok(Some(Nodes {
        num_nodes: nnodes.into(),
        node_rank: node_rank.into(),
        endpoint: endpoint.ok_or_else(|| missing("--rdzv-endpoint HOST:PORT"))?,
        run_id: network.rdzv_id.clone(),
        join_timeout: Duration::from_secs(network.rdzv_timeout),
        silence: Duration::from_secs(network.node_timeout),
    }))
}

/// `hqsam` beside this program, or as PATH finds it.
fn trainer() -> OsString {
    let beside = std::env::current_exe().ok().map(|exe| exe.with_file_name(TRAINER));
    match beside {
        Some(path) if path.is_file() => path.into(),
        _ => TRAINER.into(),
    }
}

fn what(arguments: &Arguments) -> String {
    match &arguments.config {
        Some(config) => config.display().to_string(),
        None => {
            let words: Vec<_> =
                arguments.command.iter().map(|word| word.to_string_lossy()).collect();
            format!("-- {}", words.join(" "))
        }
    }
}
