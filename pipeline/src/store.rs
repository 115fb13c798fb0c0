//! Opens the store behind a URL, with credentials from the usual environment.

use std::sync::Arc;

use object_store::ObjectStore;
use object_store::path::Path as Key;
use url::Url;

/// Variables with these beginnings are settings of a store, for instance `AWS_ACCESS_KEY_ID`,
/// `AWS_ENDPOINT_URL`, `AZURE_STORAGE_ACCOUNT_NAME` or `GOOGLE_APPLICATION_CREDENTIALS`. Others
/// are not handed on: a plain `TOKEN` or `REGION` belongs to another program.
const SETTINGS: [&str; 3] = ["AWS_", "AZURE_", "GOOGLE_"];

/// The store that `url` names, and the key within it.
pub(crate) fn open(url: &str) -> Result<(Arc<dyn ObjectStore>, Key), String> {
    let url = Url::parse(url).map_err(|error| format!("not a URL: {error}"))?;
    let settings = std::env::vars_os().filter_map(|(name, value)| {
        let (name, value) = (name.into_string().ok()?, value.into_string().ok()?);
        SETTINGS.iter().any(|prefix| name.starts_with(prefix)).then_some((name, value))
    });
    let (store, key) =
        object_store::parse_url_opts(&url, settings).map_err(|error| error.to_string())?;
    Ok((Arc::from(store), key))
}
