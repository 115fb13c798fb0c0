//! Files below one URL, for programs without an asynchronous runtime of their own.

use std::collections::BTreeMap;
use std::fs::File;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path as Key;
use object_store::{
    Error, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, UpdateVersion,
};
use tokio::runtime::Runtime;

use super::upload::{self, worth_another};

/// Attempts at what the store's client, which repeats requests by itself, gave up on.
const ATTEMPTS: u32 = 3;
/// Wait before the second attempt; it triples with each further one.
const FIRST_BACKOFF: Duration = Duration::from_millis(500);

/// A place in an object store. Calls block; any thread may make them.
pub struct RemoteFolder {
    name: String,
    store: Arc<dyn ObjectStore>,
    base: Key,
    runtime: Runtime,
}

/// A state of a file, to replace this one and no other.
#[derive(Clone, Debug)]
pub struct Version(UpdateVersion);

/// What a store cannot do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The URL names no store that can be written to.
    #[error("{location}: {message}")]
    Location {
        /// As given.
        location: String,
        /// What is wrong with it.
        message: String,
    },
    /// A request failed, also when it was repeated.
    #[error("{url}: cannot {action}: {source}")]
    Request {
        /// The object.
        url: String,
        /// What was asked for.
        action: &'static str,
        /// The last answer.
        source: Error,
    },
}

impl RemoteFolder {
    /// Opens the place that `url` names, without touching it.
    ///
    /// # Errors
    /// A URL of no kind that can be written to, or settings of the store that are missing.
    pub fn open(url: &str) -> Result<Self, StoreError> {
        let refuse = |message| StoreError::Location { location: url.to_owned(), message };
        if let Some(message) = super::refuses_writes(url) {
            return Err(refuse(message));
        }
        let (store, base) = super::open(url).map_err(refuse)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("store-io")
            .enable_all()
            .build()
            .map_err(|error| refuse(format!("cannot start a thread: {error}")))?;
        Ok(Self { name: url.trim_end_matches('/').to_owned(), store, base, runtime })
    }

    /// URL of the file `path`.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("{}/{path}", self.name)
    }

    /// Every file below `folder` by its path, with its size in bytes.
    ///
    /// # Errors
    /// A store that does not answer or refuses.
    pub fn list(&self, folder: &str) -> Result<BTreeMap<String, u64>, StoreError> {
        let prefix = self.key(folder);
        let list = || self.store.list(Some(&prefix)).try_collect();
        let objects: Vec<ObjectMeta> = self.insist(folder, "list", list)?;
        let path = |object: &ObjectMeta| {
            let parts = object.location.prefix_match(&self.base)?;
            let parts: Vec<String> = parts.map(|part| part.as_ref().to_owned()).collect();
            Some(parts.join("/"))
        };
        Ok(objects.into_iter().filter_map(|object| Some((path(&object)?, object.size))).collect())
    }

    /// The whole of a file; `None` where there is none.
    ///
    /// # Errors
    /// A store that does not answer or refuses.
    pub fn get(&self, path: &str) -> Result<Option<(Bytes, Version)>, StoreError> {
        let key = self.key(path);
        let get = || async {
            let found = match self.store.get(&key).await {
                Err(Error::NotFound { .. }) => return Ok(None),
                found => found?,
            };
            let (e_tag, version) = (found.meta.e_tag.clone(), found.meta.version.clone());
            Ok(Some((found.bytes().await?, Version(UpdateVersion { e_tag, version }))))
        };
        self.insist(path, "read", get)
    }

    /// Writes a small file, replacing an earlier one.
    ///
    /// # Errors
    /// A store that does not answer or refuses.
    pub fn put(&self, path: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let (key, payload) = (self.key(path), PutPayload::from(bytes.to_vec()));
        self.insist(path, "write", || self.store.put(&key, payload.clone())).map(|_| ())
    }

    /// Writes the first `bytes` bytes of `file`, in parts where they are many, replacing an earlier
    /// file. Readers see it when it is whole.
    ///
    /// # Errors
    /// A store that does not answer, refuses, or received another number of bytes.
    pub fn upload(&self, path: &str, file: File, bytes: u64) -> Result<(), StoreError> {
        let key = self.key(path);
        let uploaded = self.runtime.block_on(upload::upload(&*self.store, &key, file, bytes));
        uploaded.map_err(|source| self.failed(path, "upload", source))
    }

    /// Writes a small file if there is none of its name: `None` where there is one with another
    /// content. A store that knows no conditions gets it in any case.
    ///
    /// # Errors
    /// A store that does not answer or refuses.
    pub fn create(&self, path: &str, bytes: &[u8]) -> Result<Option<Version>, StoreError> {
        self.put_if(path, bytes, PutMode::Create)
    }

    /// Replaces a small file if it is still the one of `version`: `None` where it is not.
    ///
    /// # Errors
    /// As for [`create`](Self::create).
    pub fn replace(
        &self,
        path: &str,
        bytes: &[u8],
        version: &Version,
    ) -> Result<Option<Version>, StoreError> {
        let is_known = version.0.e_tag.is_some() || version.0.version.is_some();
        let update = PutMode::Update(version.0.clone());
        self.put_if(path, bytes, if is_known { update } else { PutMode::Overwrite })
    }

    /// Removes a file; one that is gone already is no error.
    ///
    /// # Errors
    /// A store that does not answer or refuses.
    pub fn remove(&self, path: &str) -> Result<(), StoreError> {
        let key = self.key(path);
        let remove = || async {
            match self.store.delete(&key).await {
                Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
                Err(error) => Err(error),
            }
        };
        self.insist(path, "remove", remove)
    }

    fn put_if(
        &self,
        path: &str,
        bytes: &[u8],
        mode: PutMode,
    ) -> Result<Option<Version>, StoreError> {
        let (key, payload) = (self.key(path), PutPayload::from(bytes.to_vec()));
        let put = || async {
            let options = PutOptions::from(mode.clone());
            let put = match self.store.put_opts(&key, payload.clone(), options).await {
                Err(Error::NotImplemented { .. }) => self.store.put(&key, payload.clone()).await,
                put => put,
            };
            match put {
                Ok(put) => Ok(Some(Version(put.into()))),
                Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Ok(None),
                Err(error) => Err(error),
            }
        };
        match self.insist(path, "write", put)? {
            Some(version) => Ok(Some(version)),
            // It may be our own, from a request whose answer was lost.
            None => {
                let now = self.get(path)?;
                Ok(now.filter(|(now, _)| now == bytes).map(|(_, version)| version))
            }
        }
    }

    /// Does `work`, again where that may help.
    fn insist<T, F: Future<Output = object_store::Result<T>>>(
        &self,
        path: &str,
        action: &'static str,
        work: impl Fn() -> F,
    ) -> Result<T, StoreError> {
        let done = self.runtime.block_on(async {
            let mut wait = FIRST_BACKOFF;
            for _ in 1..ATTEMPTS {
                match work().await {
                    Err(error) if worth_another(&error) => {
                        tracing::debug!(path, %error, "a request to the store failed, trying again");
                    }
                    done => return done,
                }
                tokio::time::sleep(wait).await;
                wait *= 3;
            }
            work().await
        });
        done.map_err(|source| self.failed(path, action, source))
    }

    fn key(&self, path: &str) -> Key {
        Key::from_iter(self.base.parts().chain(Key::from(path).parts()))
    }

    fn failed(&self, path: &str, action: &'static str, source: Error) -> StoreError {
        StoreError::Request { url: self.url(path), action, source }
    }
}
