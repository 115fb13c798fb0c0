//! A build configuration: does it parse, are its sources what they should be, is there room.

use std::path::Path;

use dataset::source::{Discovery, SourceSpec};

use super::{Check, Status, data_set, size, store};
use crate::build::{BuildConfig, trial, used_sources};
use crate::config::load_config;
use crate::input::Input;

/// Pairs of each source that are decoded.
const PAIRS_TRIED: usize = 3;

pub(super) fn checks(path: &Path, overrides: &[String]) -> Vec<Check> {
    let name = "configuration";
    let config: BuildConfig = match load_config(path, overrides) {
        Ok(config) => config,
        Err(error) => return vec![Check::error(name, error.to_string())],
    };
    let mut checks = Vec::new();
    match config.check() {
        Ok(()) => {
            let (path, sources) = (path.display(), config.source.len());
            checks.push(Check::ok(name, format!("{path} parses, {sources} sources")));
        }
        Err(error) => checks.push(Check::error(name, error.to_string())),
    }
    checks.push(licences(&config));
    let mut raw_bytes = Some(0);
    for source in used_sources(&config) {
        let (check, bytes) = check_source(&config, source);
        raw_bytes = raw_bytes.zip(bytes).map(|(sum, bytes)| sum + bytes);
        checks.push(check);
    }
    if config.output.contains("://") {
        checks.extend(store::checks(&config.output, true));
    } else {
        checks.push(free_space(Path::new(&config.output), raw_bytes));
        if Path::new(&config.output).join(crate::manifest::MANIFEST_FILE).exists() {
            checks.extend(data_set::checks(&config.output));
        }
    }
    checks
}

fn licences(config: &BuildConfig) -> Check {
    let mut unclear = Vec::new();
    for source in used_sources(config) {
        let terms = source.terms();
        if terms.commercial != dataset::source::Permission::Yes {
            unclear.push(source.name.as_str());
        }
    }
    match (config.commercial_only, used_sources(config).count(), unclear.len()) {
        (true, 0, _) => Check::error(
            "licences",
            "commercial_only leaves no source; `commercial = true` marks those whose owner permits \
             it",
        ),
        (true, used, _) => Check::ok("licences", format!("{used} sources permit commercial use")),
        (false, _, 0) => Check::ok("licences", "all sources permit commercial use"),
        (false, _, _) => Check::ok(
            "licences",
            format!("not known to permit commercial use: {}", unclear.join(", ")),
        ),
    }
}

/// The check, and the bytes of the raw files where they could be listed.
fn check_source(config: &BuildConfig, source: &SourceSpec) -> (Check, Option<u64>) {
    let name = format!("source {}", source.name);
    let (input, found) = match trial::list(source) {
        Ok(found) => found,
        Err(error) => return (Check::error(name, error.to_string()), None),
    };
    if found.pairs.is_empty() {
        let message = format!(
            "no image and mask pairs under {} with layout `{}`: look at `root` and `layout`",
            source.root.display(),
            source.layout.name()
        );
        return (Check::error(name, message), None);
    }
    let bytes = trial::raw_bytes(&found.pairs, &input);
    let counts = format!(
        "{} pairs, {}, {} without partner or known to be bad",
        found.pairs.len(),
        size(bytes),
        found.rejected.len()
    );
    let (status, message) = judge(config, (&found, &input), counts);
    (Check { name, status, message }, Some(bytes))
}

/// Decodes the first few pairs: a wrong mask folder shows in them already.
fn judge(
    config: &BuildConfig,
    (found, input): (&Discovery, &Input),
    counts: String,
) -> (Status, String) {
    let tried = &found.pairs[..found.pairs.len().min(PAIRS_TRIED)];
    let refused: Vec<String> =
        tried.iter().filter_map(|pair| trial::refusal(config, pair, input)).collect();
    match refused.first() {
        Some(first) if refused.len() == tried.len() => {
            let tried = tried.len();
            (Status::Error, format!("{counts}; the first {tried} are all refused, {first}"))
        }
        Some(first) => (
            Status::Warning,
            format!("{counts}; {} of {} refused, {first}", refused.len(), tried.len()),
        ),
        None => (Status::Ok, format!("{counts}; the first {} decode", tried.len())),
    }
}

/// Images pass through untouched and masks become small PNGs, so that the raw size is an upper
/// estimate in practice.
fn free_space(output: &Path, expected: Option<u64>) -> Check {
    let name = "free disk";
    let Some(there) = output.ancestors().find(|folder| folder.is_dir()) else {
        return free_space(Path::new("."), expected);
    };
    let free = match rustix::fs::statvfs(there) {
        Ok(stat) => stat.f_bavail.saturating_mul(stat.f_frsize),
        Err(error) => {
            return Check::error(name, format!("{}: {error}", there.display()));
        }
    };
    let (free_text, place) = (size(free), output.display());
    match expected {
        Some(expected) if free < expected => Check::error(
            name,
            format!(
                "{free_text} at {place}, about {} needed: free some or choose another `output`",
                size(expected)
            ),
        ),
        Some(expected) => {
            Check::ok(name, format!("{free_text} at {place}, about {} needed", size(expected)))
        }
        None => Check::warning(
            name,
            format!("{free_text} at {place}; what is needed is known once every source is found"),
        ),
    }
}
