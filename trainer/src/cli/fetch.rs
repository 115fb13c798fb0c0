//! `hqsam fetch`.

use std::io;

use anyhow::Result;
use pipeline::fetch::{Catalogue, FetchArguments, fetch};

pub(crate) fn run(arguments: &FetchArguments) -> Result<()> {
    Ok(fetch(Catalogue::weights()?, arguments, &mut io::stdout())?)
}
