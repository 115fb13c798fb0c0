//! `launch`: starts the ranks of a job.

use std::process::ExitCode;

use clap::Parser;
use launch::job::{JobError, Success};
use launch::say;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    if arguments.next().is_some_and(|name| name == launch::guard::NAME) {
        return launch::guard::main(arguments);
    }
    let arguments = launch::cli::Arguments::parse();
    let job = match launch::cli::job(&arguments) {
        Ok(job) => job,
        Err(error) => {
            say(&error.to_string());
            return ExitCode::from(2);
        }
    };
    match launch::job::run(&job) {
        Ok(Success::Finished) => ExitCode::SUCCESS,
        Ok(Success::Saved(_)) => {
            say("stopped as asked; every rank has ended");
            ExitCode::SUCCESS
        }
        Err(error) => {
            report(&error);
            ExitCode::from(error.exit_code())
        }
    }
}

/// What happened before, the last words of the rank that failed first, and the reason last.
fn report(error: &JobError) {
    if let JobError::Failed { failure, history, why } = error {
        for past in history {
            say(&past.to_string());
        }
        if failure.tail.len() > 1 {
            say("the last lines of the rank that failed first:");
            for line in &failure.tail {
                say(&format!("| {line}"));
            }
        }
        if let Some(why) = why {
            say(why);
        }
    }
    say(&error.to_string());
}
