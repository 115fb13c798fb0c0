//! Which sources a build uses, and what it says of the others.

use dataset::source::{Permission, SourceSpec};
use serde::{Deserialize, Serialize};

use super::{BuildConfig, BuildError};

/// A source that a commercial-only build does without.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct LeftOut {
    /// Its name.
    pub name: String,
    /// Its licence, where one is known.
    pub license: Option<String>,
    /// Why it is left out.
    pub reason: String,
}

/// The sources that are built: all of them, or those known to permit commercial use.
pub(crate) fn used(config: &BuildConfig) -> impl Iterator<Item = &SourceSpec> {
    config.source.iter().filter(|source| !config.commercial_only || permitted(source))
}

/// The sources that are not built, in the order of the configuration.
pub(super) fn left_out(config: &BuildConfig) -> Vec<LeftOut> {
    let left_out = config.source.iter().filter(|_| config.commercial_only);
    left_out
        .filter(|source| !permitted(source))
        .map(|source| {
            let terms = source.terms();
            let reason = match terms.commercial {
                Permission::No => "its terms forbid commercial use",
                _ => "it is not known to permit commercial use",
            };
            LeftOut { name: source.name.clone(), license: terms.license, reason: reason.to_owned() }
        })
        .collect()
}

/// Says which sources are left out.
///
/// # Errors
/// [`BuildError::NothingPermitted`] when no source remains.
pub(super) fn check(config: &BuildConfig) -> Result<(), BuildError> {
    let left_out = left_out(config);
    for source in &left_out {
        tracing::warn!(
            source = source.name,
            license = source.license.as_deref().unwrap_or("not stated"),
            "left out by commercial_only: {}",
            source.reason
        );
    }
    if left_out.is_empty() || used(config).next().is_some() {
        return Ok(());
    }
    let sources: Vec<String> = left_out
        .iter()
        .map(|source| {
            let license = source.license.as_deref().unwrap_or("licence not stated");
            format!("{} ({license})", source.name)
        })
        .collect();
    Err(BuildError::NothingPermitted { sources: sources.join(", ") })
}

fn permitted(source: &SourceSpec) -> bool {
    source.terms().commercial == Permission::Yes
}
