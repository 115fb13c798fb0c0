//! TOML configuration files: one loader for every command.
//!
//! A key that nobody reads is refused with the nearest valid name, a value of the wrong type is
//! refused with its key, and `--set a.b=c` overrides are applied before either check. Relative
//! paths inside a configuration are relative to the current directory, not to the file.

mod located;
mod overrides;

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use toml::{Table, Value};

/// Why a configuration could not be used. Every message names the file and the key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file could not be read.
    #[error("{path}: cannot read the configuration: {source}")]
    Read {
        /// The configuration file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{path}:{line}: not valid TOML: {message}")]
    Syntax {
        /// The configuration file.
        path: PathBuf,
        /// Line of the mistake, from 1.
        line: usize,
        /// What the TOML parser said.
        message: String,
    },
    /// A key that no field has.
    #[error("{path}: unknown key `{key}`{suggestion}")]
    UnknownKey {
        /// The configuration file.
        path: PathBuf,
        /// Dotted path of the key.
        key: String,
        /// `; did you mean ...?` or `; valid keys are ...`.
        suggestion: String,
    },
    /// A value that its field cannot hold, or a required key that is absent.
    #[error("{path}: {message}{}", if key.is_empty() { String::new() } else { format!(" (at `{key}`)") })]
    Value {
        /// The configuration file.
        path: PathBuf,
        /// Dotted path of the value; empty at the top of the file.
        key: String,
        /// What was expected and what was found.
        message: String,
    },
    /// An override that is not `key=value`, or whose key runs through a value that has no keys.
    #[error("--set {argument}: {message}")]
    Override {
        /// The argument as typed.
        argument: String,
        /// What is wrong with it.
        message: String,
    },
}

/// Reads the TOML file at `path`, applies `overrides` in order and deserialises the result.
///
/// An override is `dotted.key=value`; the value is read as TOML and, where it is not TOML, as a
/// string (`--set output=data/b` needs no quotes). A number in the key is an index into a list
/// and any other word selects the list's entry of that `name`, so `source.ECSSD.root=raw/ECSSD`
/// works.
///
/// # Errors
/// [`ConfigError`], one line that names the file and the key.
pub fn load_config<T: DeserializeOwned>(
    path: &Path,
    overrides: &[String],
) -> Result<T, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    parse_config(path, &text, overrides)
}

/// [`load_config`] on text that has been read already; `path` only names it in errors.
///
/// # Errors
/// As [`load_config`].
pub fn parse_config<T: DeserializeOwned>(
    path: &Path,
    text: &str,
    overrides: &[String],
) -> Result<T, ConfigError> {
    let mut table: Table = toml::from_str(text).map_err(|error| syntax(path, text, &error))?;
    for argument in overrides {
        overrides::apply(&mut table, argument)?;
    }
    located::deserialize(&Value::Table(table)).map_err(|error| error.in_file(path))
}

/// Whether a location names a configuration rather than a data set.
pub(crate) fn is_configuration(location: &str) -> bool {
    location.ends_with(".toml")
}

/// Overrides need a configuration to change; `location` is what was given instead.
pub(crate) fn refuse_overrides(location: &str, overrides: &[String]) -> Result<(), ConfigError> {
    let Some(argument) = overrides.first() else { return Ok(()) };
    Err(ConfigError::Override {
        argument: argument.clone(),
        message: format!("changes a configuration (.toml), but {location} was given"),
    })
}

fn syntax(path: &Path, text: &str, error: &toml::de::Error) -> ConfigError {
    let offset = error.span().map_or(0, |span| span.start.min(text.len()));
    ConfigError::Syntax {
        path: path.to_owned(),
        line: text.as_bytes()[..offset].iter().filter(|byte| **byte == b'\n').count() + 1,
        message: error.message().replace('\n', " "),
    }
}

/// `; did you mean ...?` for a near miss, the list of valid names otherwise.
pub(crate) fn suggest(given: &str, valid: &[&str]) -> String {
    let nearest = valid
        .iter()
        .map(|name| (strsim::jaro_winkler(given, name), *name))
        .max_by(|left, right| left.0.total_cmp(&right.0));
    match nearest {
        // Below 0.7 the nearest name has little to do with what was typed.
        Some((score, name)) if score >= 0.7 => format!("; did you mean `{name}`?"),
        Some(_) => format!("; valid keys are {}", quoted(valid)),
        None => String::new(),
    }
}

fn quoted(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
