//! `hqseg fetch`.

use std::io;

use pipeline::fetch::{Catalogue, FetchArguments, fetch};

use super::CliResult;

pub(super) fn run(arguments: &FetchArguments) -> CliResult {
    Ok(fetch(Catalogue::data()?, arguments, &mut io::stdout())?)
}
