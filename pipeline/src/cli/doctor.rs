//! `hqseg doctor`.

use std::io::{self, Write};

use clap::Args;
use pipeline::doctor::{Status, doctor};

use super::CliResult;

#[derive(Args)]
pub(super) struct DoctorArguments {
    /// Build configuration (.toml), or folder or URL of a data set. Without: the machine alone.
    target: Option<String>,
    /// Override a setting of the build configuration, for instance `output=data/b`. May be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// Print one JSON array.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &DoctorArguments) -> CliResult {
    let checks = doctor(arguments.target.as_deref(), &arguments.overrides)?;
    let mut out = io::stdout().lock();
    if arguments.json {
        serde_json::to_writer_pretty(&mut out, &checks)?;
        writeln!(out)?;
    } else {
        for check in &checks {
            // An error's causes may come on several lines.
            let message = check.message.split_whitespace().collect::<Vec<_>>().join(" ");
            writeln!(out, "{:<8} {}: {message}", check.status, check.name)?;
        }
    }
    match checks.iter().filter(|check| check.status == Status::Error).count() {
        0 => Ok(()),
        errors => Err(format!("{errors} of {} checks failed", checks.len()).into()),
    }
}
