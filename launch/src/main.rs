//! `launch`: starts the ranks of a job on this machine.

use std::process::ExitCode;

use clap::Parser;

#[expect(clippy::print_stderr, reason = "the one place that reports to the user")]
fn main() -> ExitCode {
    let arguments = launch::cli::Arguments::parse();
    let job = match launch::cli::job(&arguments) {
        Ok(job) => job,
        Err(error) => {
            eprintln!("launch: {error}");
            return ExitCode::from(2);
        }
    };
    match launch::job::run(&job) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("launch: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
