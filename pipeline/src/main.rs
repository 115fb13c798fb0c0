//! `hqseg`: builds, inspects and verifies data sets. Errors become one line and an exit code.

mod cli;

use std::error::Error;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use clap::Parser;
use pipeline::fetch::FetchError;
use pipeline::shard::panic_becomes_an_error;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let arguments = cli::Arguments::parse();
    std::panic::set_hook(Box::new(|panic| {
        if !panic_becomes_an_error() {
            complain(&format!("internal error: {}", one_line(&panic.to_string())));
        }
    }));
    let filter = EnvFilter::try_from_env("HQSEG_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr)
        // It tells of lines that cannot be written on standard error, and panics where that is gone.
        .log_internal_errors(false)
        .init();
    match cli::run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("error: {}", with_causes(&*error)));
            error
                .downcast_ref::<FetchError>()
                .map_or(ExitCode::FAILURE, |error| error.exit_code().into())
        }
    }
}

/// The error and those of its causes that its own message does not tell yet.
fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if !text.contains(&message) {
            text = format!("{text}: {message}");
        }
        cause = error.source();
    }
    one_line(&text)
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn complain(message: &str) {
    // Standard error may be closed; there is nobody left to tell.
    let _unheard = writeln!(io::stderr(), "{message}");
}
