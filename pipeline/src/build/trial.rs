//! Tries a few pairs without building anything.

use std::collections::BTreeSet;

use dataset::source::{Discovery, MaskOrigin, Pair, RawFiles, SourceSpec, discover};

use super::judge::{Judge, Unfit};
use super::plan::explain;
use super::{BuildConfig, BuildError};
use crate::input::Input;

/// Opens and lists one source, as a build would.
///
/// # Errors
/// As a build's.
pub(crate) fn list(source: &SourceSpec) -> Result<(Input, Discovery), BuildError> {
    let input = Input::open(&source.root)
        .map_err(|error| BuildError::Input { name: source.name.clone(), source: error })?;
    let found = discover(source, &input).map_err(|error| explain(source, &input, error))?;
    Ok((input, found))
}

/// Why a pair would be refused, with its name; `None` for a good one.
pub(crate) fn refusal(config: &BuildConfig, pair: &Pair, input: &Input) -> Option<String> {
    let reason = match Judge::new(config).judge(pair, input).err()? {
        Unfit::Refused(reason) => reason.to_string(),
        Unfit::Broken(error) => error.to_string(),
    };
    Some(format!("{}: {reason}", pair.sample_id()))
}

/// Bytes of the raw files, each counted once however many objects it shows.
pub(crate) fn raw_bytes(pairs: &[Pair], input: &Input) -> u64 {
    let files: BTreeSet<&str> = pairs
        .iter()
        .flat_map(|pair| {
            let mask = match &pair.mask {
                MaskOrigin::File(path) => Some(path.as_str()),
                MaskOrigin::Annotation(_) => None,
            };
            [Some(pair.image.as_str()), mask]
        })
        .flatten()
        .collect();
    files.into_iter().filter_map(|path| Some(input.tree().get(path)?.bytes)).sum()
}
