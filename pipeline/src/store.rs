//! Object stores: the store behind a URL is opened with credentials from the usual environment.

mod remote;
mod upload;

use std::sync::Arc;

use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreScheme};
use url::Url;

pub use self::remote::{RemoteFolder, StoreError, Version};
pub(crate) use self::upload::upload;

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
    // Whoever writes http:// means it; the library wants to be told.
    let plain = (url.scheme() == "http").then(|| ("allow_http".to_owned(), "true".to_owned()));
    let settings = settings.chain(plain);
    let (store, key) =
        object_store::parse_url_opts(&url, settings).map_err(|error| error.to_string())?;
    Ok((Arc::from(store), key))
}

/// Why nothing can be written to `url`; `None` where it can.
pub(crate) fn refuses_writes(url: &str) -> Option<String> {
    let parsed = match Url::parse(url) {
        Ok(url) => url,
        Err(error) => return Some(format!("not a URL: {error}")),
    };
    match ObjectStoreScheme::parse(&parsed) {
        Err(error) => Some(error.to_string()),
        Ok((ObjectStoreScheme::Http, _)) => {
            Some("http(s) can only be read from; write to a folder, s3://, gs:// or az://".into())
        }
        Ok((ObjectStoreScheme::Memory, _)) => {
            Some("what is in memory is gone when the program ends; name a folder".into())
        }
        Ok(_) => None,
    }
}

/// `file:///folder` as the folder; other URLs and plain folders as they are.
#[must_use]
pub fn without_file_scheme(location: &str) -> String {
    let folder =
        location.starts_with("file:").then(|| Url::parse(location).ok()?.to_file_path().ok());
    folder.flatten().map_or_else(|| location.to_owned(), |path| path.to_string_lossy().into_owned())
}

/// Whether a location is in an object store, and no folder of this machine.
#[must_use]
pub fn is_remote(location: &str) -> bool {
    location.contains("://") && !location.starts_with("file:")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_stores_that_keep_what_is_written_are_written_to() {
        for (url, expected) in [
            ("https://example.com/set", Some("can only be read from")),
            ("memory:///set", Some("in memory")),
            ("ftp://example.com/set", Some("ftp://example.com/set")),
            ("s3://bucket/set", None),
            ("az://container/set", None),
            ("gs://bucket/set", None),
        ] {
            let message = refuses_writes(url);
            assert_eq!(message.is_some(), expected.is_some(), "{url}: {message:?}");
            let message = message.unwrap_or_default();
            assert!(message.contains(expected.unwrap_or_default()), "{url}: {message}");
        }
        assert_eq!(without_file_scheme("file:///data/my%20set"), "/data/my set");
        assert_eq!(without_file_scheme("data/set"), "data/set");
        assert_eq!(without_file_scheme("s3://bucket/set"), "s3://bucket/set");
    }
}
