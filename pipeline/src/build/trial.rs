//! Tries a few pairs without building anything.

use std::fs;

use dataset::source::Pair;

use super::judge::judge;

/// Why a pair would be refused, with its name; `None` for a good one.
pub(crate) fn refusal(pair: &Pair) -> Option<String> {
    let reason = judge(pair).err()?;
    Some(format!("{}: {reason}", pair.sample_id()))
}

/// Bytes of the raw files, those that cannot be looked at left out.
pub(crate) fn raw_bytes(pairs: &[Pair]) -> u64 {
    let files = pairs.iter().flat_map(|pair| [&pair.image, &pair.mask]);
    files.filter_map(|path| Some(fs::metadata(path).ok()?.len())).sum()
}
