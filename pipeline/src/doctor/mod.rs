//! Looks at the machine, a build configuration or a data set, and says what to do about what is
//! wrong, before hours are spent on it.

mod configuration;
mod data_set;
mod machine;
mod store;

use std::fmt;
use std::path::Path;

use serde::Serialize;

use crate::config::{ConfigError, is_configuration, refuse_overrides};

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// As it should be.
    Ok,
    /// It works, but slower or less safely than it could.
    Warning,
    /// It will not work.
    Error,
}

impl fmt::Display for Status {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at, for instance `memory` or `source ECSSD`.
    pub name: String,
    /// How it ended.
    pub status: Status,
    /// What was found and, unless all is well, what to do; one line.
    pub message: String,
}

impl Check {
    fn ok(name: impl Into<String>, message: impl Into<String>) -> Self {
        Self { name: name.into(), status: Status::Ok, message: message.into() }
    }

    fn warning(name: impl Into<String>, message: impl Into<String>) -> Self {
        Self { name: name.into(), status: Status::Warning, message: message.into() }
    }

    fn error(name: impl Into<String>, message: impl Into<String>) -> Self {
        Self { name: name.into(), status: Status::Error, message: message.into() }
    }
}

/// Checks the machine and, where one is given, a build configuration (`.toml`) or a data set (a
/// folder or a URL). Nothing is changed, but for one small object that is put into an output
/// store and removed again. Blocks; not for async code.
///
/// `overrides` change settings of the configuration, see [`crate::load_config`].
///
/// # Errors
/// [`ConfigError`] for overrides where no configuration is given.
pub fn doctor(target: Option<&str>, overrides: &[String]) -> Result<Vec<Check>, ConfigError> {
    if !target.is_some_and(is_configuration) {
        refuse_overrides(target.unwrap_or("nothing"), overrides)?;
    }
    let mut checks = machine::checks();
    match target {
        Some(target) if is_configuration(target) => {
            checks.extend(configuration::checks(Path::new(target), overrides));
        }
        Some(target) => checks.extend(data_set::checks(target)),
        None => {}
    }
    Ok(checks)
}

/// Bytes as people say them.
fn size(bytes: u64) -> String {
    match bytes {
        0..0x10_0000 => format!("{} KiB", bytes.div_ceil(1 << 10)),
        0x10_0000..0x4000_0000 => format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20)),
        _ => format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30)),
    }
}
