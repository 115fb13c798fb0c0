//! The step that makes collected files a data set: the manifest, last and on a condition.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::{
    Error, ObjectMeta, ObjectStoreExt, PutMode, PutOptions, PutPayload, UpdateVersion,
};

use super::super::ranks::announcement_path;
use super::super::{BuildError, CARD_FILE, QUARANTINE_FILE, REPORT_FILE};
use super::{Output, REQUESTS_IN_FLIGHT, STAGING};
use crate::manifest::{MANIFEST_FILE, Manifest};

/// The manifest that an output has now.
pub(in super::super) struct Published {
    pub(in super::super) bytes: Bytes,
    version: UpdateVersion,
}

impl Published {
    /// Its content; `None` where it is damaged or of another version.
    pub(in super::super) fn manifest(&self) -> Option<Manifest> {
        Manifest::parse(&self.bytes).ok()
    }
}

impl Output {
    /// The manifest that is there, whole or not.
    pub(in super::super) fn published(&self) -> Result<Option<Published>, BuildError> {
        let key = self.key(MANIFEST_FILE);
        let read = async {
            let found = self.store.get(&key).await?;
            let version = UpdateVersion {
                e_tag: found.meta.e_tag.clone(),
                version: found.meta.version.clone(),
            };
            Ok(Published { bytes: found.bytes().await?, version })
        };
        match self.wait(read) {
            Ok(published) => Ok(Some(published)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed(MANIFEST_FILE, "cannot read", error)),
        }
    }

    /// Waits until no other rank is publishing to the same folder. Ranks that publish to a store
    /// race, and the store decides.
    pub(in super::super) fn publishing(&self) -> Result<impl Sized, BuildError> {
        self.folder.as_ref().map(super::Folder::publishing).transpose()
    }

    /// Whether a build is under way, or was stopped before it had cleaned up.
    pub(in super::super) fn is_staging(&self) -> Result<bool, BuildError> {
        match &self.folder {
            Some(folder) => Ok(folder.root.join(STAGING).exists()),
            None => Ok(!self.list(STAGING)?.is_empty()),
        }
    }

    /// Refuses a place with files of another origin where a build writes and cleans up.
    pub(in super::super) fn refuse_foreign(&self) -> Result<(), BuildError> {
        if self.is_a_data_set()? {
            return Ok(());
        }
        let mut found = Vec::new();
        for name in [CARD_FILE, REPORT_FILE, QUARANTINE_FILE] {
            found.extend(self.get(name)?.map(|_| name.to_owned()));
        }
        for folder in ["shards", "receipts", "report"] {
            found.extend(self.list(folder)?.into_keys().next());
        }
        match found.into_iter().next() {
            // Another rank may have begun between the two questions, and what was found be its.
            Some(found) if !self.is_a_data_set()? => {
                Err(BuildError::Foreign { output: self.name.clone(), found })
            }
            _ => Ok(()),
        }
    }

    /// Whether a build was here: there is a manifest, a build under way, or a receipt.
    fn is_a_data_set(&self) -> Result<bool, BuildError> {
        let is_receipt = |path: &String| path.ends_with(".json");
        Ok(self.is_staging()?
            || self.published()?.is_some()
            || self.list("receipts")?.keys().any(is_receipt))
    }

    /// Puts the manifest in the place of `before`, the one that was there when this build started.
    /// To find these very bytes there already is success: another rank was faster.
    pub(in super::super) fn publish(
        &self,
        manifest: &[u8],
        before: Option<&Published>,
    ) -> Result<(), BuildError> {
        match &self.folder {
            // The publish lock is held, so nobody comes between the look and the rename.
            Some(folder) => {
                let now = self.published()?;
                let bytes = |published: Option<&Published>| published.map(|it| it.bytes.clone());
                let unchanged = bytes(now.as_ref()) == bytes(before);
                match now {
                    Some(now) if now.bytes == manifest => Ok(()),
                    _ if unchanged => folder.put(MANIFEST_FILE, manifest),
                    _ => Err(BuildError::Replaced { output: self.name.clone() }),
                }
            }
            None => self.put_manifest(manifest, before),
        }
    }

    fn put_manifest(&self, manifest: &[u8], before: Option<&Published>) -> Result<(), BuildError> {
        let mode = match before {
            Some(before) => PutMode::Update(before.version.clone()),
            None => PutMode::Create,
        };
        let payload = PutPayload::from(manifest.to_vec());
        let key = self.key(MANIFEST_FILE);
        match self.wait(self.store.put_opts(&key, payload, PutOptions::from(mode))) {
            Ok(_) => Ok(()),
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => {
                match self.published()? {
                    Some(now) if now.bytes == manifest => Ok(()),
                    _ => Err(BuildError::Replaced { output: self.name.clone() }),
                }
            }
            Err(error) => Err(self.failed(MANIFEST_FILE, "cannot publish", error)),
        }
    }

    /// Removes what earlier builds left and the data set does not name, and the staging folder last
    /// of all: as long as it is there, the next build cleans up again. What is newer than the
    /// manifest belongs to a build that started since.
    pub(in super::super) fn clean(&self, keep: &BTreeSet<String>) -> Result<(), BuildError> {
        let key = self.key(MANIFEST_FILE);
        let manifest: ObjectMeta = self
            .wait(self.store.head(&key))
            .map_err(|error| self.failed(MANIFEST_FILE, "cannot look at", error))?;
        let own = announcement_path(self.world.rank, self.world.world_size);
        let stale = |folder: &str| -> Result<Vec<String>, BuildError> {
            let files = self.list(folder)?.into_iter();
            let stale = files.filter(|(path, object)| {
                let older = object.last_modified <= manifest.last_modified;
                !keep.contains(path) && (older || *path == own)
            });
            Ok(stale.map(|(path, _)| path).collect())
        };
        for folder in ["shards", "receipts"] {
            self.remove(&stale(folder)?)?;
        }
        match &self.folder {
            Some(folder) => folder.remove_staging(),
            None => self.remove(&stale(STAGING)?),
        }
    }

    /// Removes files; those that are gone already are no error.
    pub(in super::super) fn remove(&self, paths: &[String]) -> Result<(), BuildError> {
        if let Some(folder) = &self.folder {
            return paths.iter().try_for_each(|path| folder.remove(path));
        }
        let removals = futures::stream::iter(paths)
            .map(|path| async move {
                match self.store.delete(&self.key(path)).await {
                    Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
                    Err(error) => Err(self.failed(path, "cannot remove", error)),
                }
            })
            .buffer_unordered(REQUESTS_IN_FLIGHT);
        self.wait(removals.try_collect::<Vec<()>>())?;
        Ok(())
    }
}
