//! `hqsam`: train, evaluate, export, predict.

mod cli;

use std::io::IsTerminal;
use std::os::unix::process::CommandExt;
use std::process::ExitCode;

use clap::Parser;
use trainer::panic_line::panic_line;

fn main() -> ExitCode {
    if let Some(mut command) = trainer::allocator::restart_with_settings() {
        // Only returns when this process could not be replaced; then it goes on as it is.
        let _ = command.exec();
    }
    // One line per failure: what a panic says is told below, once.
    std::panic::set_hook(Box::new(|info| tracing::debug!("{info}")));
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        // It tells of lines that cannot be written on standard error, and panics where that is gone.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .without_time()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env()
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info")),
        )
        .init();
    let arguments = cli::Arguments::parse();
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| cli::run(arguments)));
    let (message, code) = match outcome {
        Ok(Ok(())) => return ExitCode::SUCCESS,
        Ok(Err(error)) => (cli::one_line(&error), cli::exit_code(&error)),
        Err(panic) => {
            (format!("internal error: {}", panic_line(panic.as_ref())), ExitCode::FAILURE)
        }
    };
    tracing::error!("{message}");
    code
}
