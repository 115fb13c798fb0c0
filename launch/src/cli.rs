//! What the user types, and the job that it means.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser;

use crate::gpus;
use crate::job::Job;

/// Tells `hqsam` which device to use: `cuda` or `cpu`.
const DEVICE_VARIABLE: &str = "HQSAM_DEVICE";
/// The program that trains a CONFIG.
const TRAINER: &str = "hqsam";

/// Starts one process per GPU, or a number of processes, and watches them.
#[derive(Debug, Parser)]
#[command(
    version,
    about,
    override_usage = "launch <--gpus N | --procs N> CONFIG [--set A.B=C]... [--resume]\n       launch <--gpus N | --procs N> -- COMMAND [ARGUMENT]..."
)]
pub struct Arguments {
    /// One process for each of N GPUs of this machine
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..), required_unless_present = "procs", conflicts_with = "procs")]
    pub gpus: Option<u16>,
    /// N processes on the CPU
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub procs: Option<u16>,
    /// Seconds that the other processes get to end after one failed
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    pub grace: u64,
    /// What to train: runs `hqsam train CONFIG`
    #[arg(required_unless_present = "command")]
    pub config: Option<PathBuf>,
    /// Replaces one value of CONFIG
    #[arg(long = "set", value_name = "A.B=C")]
    pub set: Vec<String>,
    /// Continues the run from its last checkpoint
    #[arg(long)]
    pub resume: bool,
    /// Any command instead of CONFIG
    #[arg(last = true, conflicts_with_all = ["config", "set", "resume"])]
    pub command: Vec<OsString>,
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
    /// The configuration file is not there.
    #[error("no configuration at {0}")]
    NoConfig(PathBuf),
}

/// The job that the arguments mean.
///
/// # Errors
/// Where the machine has too few GPUs or the configuration is not there.
pub fn job(arguments: &Arguments) -> Result<Job, ArgumentError> {
    let (num_ranks, device) = match arguments.gpus {
        Some(wanted) => (usize::from(wanted), "cuda"),
        None => (usize::from(arguments.procs.unwrap_or(1)), "cpu"),
    };
    if arguments.gpus.is_some() {
        let found = gpus::visible(Path::new("/"), std::env::var("CUDA_VISIBLE_DEVICES").ok());
        if found < num_ranks {
            return Err(ArgumentError::TooFewGpus {
                wanted: num_ranks,
                found,
                what: what(arguments),
            });
        }
    }
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
            command.extend(arguments.resume.then(|| "--resume".into()));
            command
        }
    };
    Ok(Job {
        command,
        num_ranks,
        env: vec![(DEVICE_VARIABLE.to_owned(), device.to_owned())],
        grace: Duration::from_secs(arguments.grace),
    })
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
