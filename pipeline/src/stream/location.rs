//! Where a data set is: a folder, a URL, or the build configuration whose output it is.

use std::path::Path;
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;

use super::StreamError;
use crate::build::BuildConfig;
use crate::config::{is_configuration, load_config, refuse_overrides};

/// A store, and the key under which the data set lies in it.
pub(crate) struct Place {
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) base: Key,
    /// For messages: the folder or URL itself.
    pub(crate) name: String,
}

/// Resolves `location`, a configuration with `overrides`, without touching the data set.
pub(crate) fn resolve(location: &str, overrides: &[String]) -> Result<Place, StreamError> {
    if is_configuration(location) {
        let config: BuildConfig = load_config(Path::new(location), overrides)?;
        return resolve_output(&config.output);
    }
    refuse_overrides(location, overrides)?;
    resolve_output(location)
}

fn resolve_output(location: &str) -> Result<Place, StreamError> {
    let refuse = |message: String| StreamError::Location { location: location.to_owned(), message };
    let name = location.trim_end_matches('/').to_owned();
    if location.contains("://") {
        let (store, base) = crate::store::open(location).map_err(refuse)?;
        return Ok(Place { store, base, name });
    }
    let folder = Path::new(location);
    if !folder.is_dir() {
        return Err(refuse(
            "no such folder; give a built data set, its URL, or the build configuration (.toml)"
                .to_owned(),
        ));
    }
    // The prefix keeps odd characters of the folder's own path out of the keys.
    let store =
        LocalFileSystem::new_with_prefix(folder).map_err(|error| refuse(error.to_string()))?;
    Ok(Place { store: Arc::new(store), base: Key::default(), name })
}
