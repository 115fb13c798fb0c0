//! Prefixes and archives of an object store, and archives of a web server.

use std::io;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dataset::source::RawFile;
use futures::TryStreamExt;
use object_store::http::HttpBuilder;
use object_store::path::Path as Key;
use object_store::{
    ClientOptions, GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, ObjectStoreScheme,
};
use tokio::runtime::Runtime;
use url::Url;

use super::archive::{Kind, is_compressed_tar, kind_of};
use super::read_at::ReadAt;
use super::{Entry, InputError, Place, ReadError, local, mount};

/// Threads that wait for the store.
const IO_THREADS: usize = 2;
/// Tries of one read: the client itself repeats requests, but not a body that broke off.
const TRIES: u32 = 5;
/// Wait before the second try; doubled before each further one.
const FIRST_WAIT: Duration = Duration::from_millis(100);

/// An open store, with the threads that wait for it.
pub(super) struct Store {
    store: Arc<dyn ObjectStore>,
    runtime: Runtime,
}

/// The files below a URL.
pub(super) fn entries(root: &str) -> Result<Vec<Entry>, InputError> {
    let url = root.trim_end_matches('/');
    let refuse = |message: String| InputError::Location { url: root.to_owned(), message };
    let literal = literal(url).map_err(&refuse)?;
    let parsed = Url::parse(&literal).map_err(|error| refuse(format!("not a URL: {error}")))?;
    let (scheme, _) =
        ObjectStoreScheme::parse(&parsed).map_err(|error| refuse(error.to_string()))?;
    if scheme == ObjectStoreScheme::Local {
        let path = parsed.to_file_path().map_err(|()| refuse("names no local path".to_owned()))?;
        return local::entries(&path);
    }
    let is_http = scheme == ObjectStoreScheme::Http;
    let (store, key) = if is_http { web_server(&parsed) } else { crate::store::open(&literal) }
        .map_err(&refuse)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(IO_THREADS)
        .thread_name("hqseg-input")
        .enable_all()
        .build()
        .map_err(|error| InputError::io(root, error))?;
    let place = Root { url, store: Arc::new(Store { store, runtime }), is_http };
    place.entries(&key)
}

/// A URL in which `#` and `?`, which keys may hold, are not the beginnings of other parts.
fn literal(url: &str) -> Result<String, String> {
    if url.starts_with("http://") || url.starts_with("https://") {
        return match url.contains('?') {
            true => Err("URLs with a query are not supported: download the archive".to_owned()),
            false => Ok(url.to_owned()),
        };
    }
    Ok(url.replace('#', "%23").replace('?', "%3F"))
}

fn web_server(url: &Url) -> Result<(Arc<dyn ObjectStore>, Key), String> {
    let options = ClientOptions::new().with_allow_http(true);
    let server = &url[..url::Position::BeforePath];
    let store = HttpBuilder::new().with_url(server).with_client_options(options).build();
    let key = Key::from_url_path(url.path()).map_err(|error| error.to_string())?;
    Ok((Arc::new(store.map_err(|error| error.to_string())?), key))
}

struct Root<'a> {
    url: &'a str,
    store: Arc<Store>,
    is_http: bool,
}

impl Root<'_> {
    fn entries(&self, key: &Key) -> Result<Vec<Entry>, InputError> {
        if is_compressed_tar(key.as_ref()) {
            return Err(InputError::Compressed { path: self.url.to_owned() });
        }
        if let Some(entries) = self.within_archive(key)? {
            return Ok(entries);
        }
        if self.is_http {
            return Err(InputError::Location {
                url: self.url.to_owned(),
                message:
                    "HTTP has no listing of folders: give the URL of an archive (.zip, .tar), \
                          or of an object store (s3://, gs://, az://)"
                        .to_owned(),
            });
        }
        let listed = self.list(key)?;
        if !listed.is_empty() {
            return mount::expand(self.url, listed);
        }
        match self.beside(key)? {
            Some(entries) => Ok(entries),
            None => Err(InputError::NotFound { root: self.url.to_owned(), inside: String::new() }),
        }
    }

    fn list(&self, key: &Key) -> Result<Vec<Entry>, InputError> {
        let Store { store, runtime } = &*self.store;
        let objects: Vec<ObjectMeta> = runtime
            .block_on(store.list(Some(key)).try_collect())
            .map_err(|error| InputError::io(self.url, error.into()))?;
        let below = |object: ObjectMeta| {
            let path = object.location.as_ref().strip_prefix(key.as_ref())?;
            let path = path.strip_prefix('/').unwrap_or(path).to_owned();
            Some(self.entry(object, path)).filter(|entry| !entry.file.path.is_empty())
        };
        Ok(objects.into_iter().filter_map(below).collect())
    }

    /// The files of the first archive that the key leads to or into.
    fn within_archive(&self, key: &Key) -> Result<Option<Vec<Entry>>, InputError> {
        for (archive, below) in splits(key.as_ref()) {
            let name = archive.rsplit('/').next().unwrap_or(archive);
            let Some((kind, stem)) = kind_of(name) else { continue };
            if let Some(object) = self.head(archive)? {
                return self.archive(object, kind, stem, below).map(Some);
            }
        }
        Ok(None)
    }

    /// The files of the archive that stands for a folder which is not there.
    fn beside(&self, key: &Key) -> Result<Option<Vec<Entry>>, InputError> {
        for (folder, below) in splits(key.as_ref()) {
            for (end, kind) in [(".zip", Kind::Zip), (".tar", Kind::Tar)] {
                if let Some(object) = self.head(&format!("{folder}{end}"))? {
                    let stem = folder.rsplit('/').next().unwrap_or(folder);
                    return self.archive(object, kind, stem, below).map(Some);
                }
            }
        }
        Ok(None)
    }

    fn archive(
        &self,
        object: ObjectMeta,
        kind: Kind,
        stem: &str,
        below: &str,
    ) -> Result<Vec<Entry>, InputError> {
        let path = object.location.as_ref().to_owned();
        let entry = self.entry(object, path.clone());
        let entries = mount::archive(&path, kind, stem, &entry)?;
        if below.is_empty() {
            return Ok(entries);
        }
        let entries = mount::inside(entries, below);
        if entries.is_empty() {
            let inside = format!(", or a folder `{below}` in {path}");
            return Err(InputError::NotFound { root: self.url.to_owned(), inside });
        }
        Ok(entries)
    }

    fn head(&self, key: &str) -> Result<Option<ObjectMeta>, InputError> {
        let Store { store, runtime } = &*self.store;
        let wrong = |error: object_store::Error| InputError::io(self.url, error.into());
        let key = Key::parse(key).map_err(|error| wrong(error.into()))?;
        match runtime.block_on(store.head(&key)) {
            Ok(object) => Ok(Some(object)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(wrong(error)),
        }
    }

    fn entry(&self, object: ObjectMeta, path: String) -> Entry {
        let version = object.e_tag.unwrap_or_else(|| object.last_modified.to_rfc3339());
        let file = RawFile { path, bytes: object.size, version };
        Entry { file, place: Place::Object(Arc::clone(&self.store), object.location) }
    }
}

/// Each leading part of a key with the rest, the longest first.
fn splits(key: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut end = Some(key.len());
    std::iter::from_fn(move || {
        let at = end?;
        end = key[..at].rfind('/');
        Some((&key[..at], key[at..].trim_start_matches('/')))
    })
}

impl Store {
    /// All bytes of an object.
    pub(super) fn read(self: &Arc<Self>, key: &Key, file: &RawFile) -> Result<Vec<u8>, ReadError> {
        let object = Object::new(Arc::clone(self), key.clone(), file);
        super::read_at::read(&object, 0, file.bytes)
    }
}

/// An object that is read by ranges, as long as it is the one that was listed.
pub(super) struct Object {
    store: Arc<Store>,
    key: Key,
    length: u64,
    /// Absent where the store gives only a weak one, which conditions do not accept.
    e_tag: Option<String>,
}

impl Object {
    pub(super) fn new(store: Arc<Store>, key: Key, file: &RawFile) -> Self {
        let strong = file.version.starts_with('"');
        let e_tag = strong.then(|| file.version.clone());
        Self { store, key, length: file.bytes, e_tag }
    }

    async fn get(&self, offset: u64, length: usize) -> object_store::Result<Bytes> {
        let options = GetOptions {
            range: Some(GetRange::Bounded(offset..offset + length as u64)),
            if_match: self.e_tag.clone(),
            ..GetOptions::default()
        };
        self.store.store.get_opts(&self.key, options).await?.bytes().await
    }

    async fn get_with_retries(&self, offset: u64, length: usize) -> io::Result<Bytes> {
        let mut wait = FIRST_WAIT;
        let mut tries = 1;
        loop {
            let error = match self.get(offset, length).await {
                Ok(bytes) if bytes.len() == length => return Ok(bytes),
                Ok(bytes) => {
                    let message = format!("{} bytes instead of {length}", bytes.len());
                    io::Error::new(io::ErrorKind::UnexpectedEof, message)
                }
                Err(error @ object_store::Error::Precondition { .. }) => {
                    let message = format!("changed while it was read: {error}");
                    return Err(io::Error::other(message));
                }
                Err(error @ object_store::Error::NotFound { .. }) => return Err(error.into()),
                Err(error) => error.into(),
            };
            if tries == TRIES {
                return Err(error);
            }
            tracing::warn!(key = %self.key, offset, %error, tries, "reading again");
            tokio::time::sleep(wait).await;
            (wait, tries) = (wait * 2, tries + 1);
        }
    }
}

impl ReadAt for Object {
    fn len(&self) -> u64 {
        self.length
    }

    fn read_at(&self, offset: u64, length: usize) -> io::Result<Bytes> {
        if length == 0 {
            return Ok(Bytes::new());
        }
        self.store.runtime.block_on(self.get_with_retries(offset, length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_leads_through_its_folders() {
        let parts: Vec<_> = splits("a/b.zip/c").collect();
        assert_eq!(parts, [("a/b.zip/c", ""), ("a/b.zip", "c"), ("a", "b.zip/c")]);
        assert_eq!(literal("s3://b/1#a?b").unwrap(), "s3://b/1%23a%3Fb");
        assert!(literal("https://host/a.zip?sig=1").is_err());
    }
}
