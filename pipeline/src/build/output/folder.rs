//! Durable writes to a local folder, and the locks that keep builds apart.

use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use dataset::order::World;

use super::super::BuildError;
use super::STAGING;

/// A folder on this machine, or one that several machines share.
pub(super) struct Folder {
    pub(super) root: PathBuf,
    /// Part of the names of unfinished files: ranks never write to the same one.
    rank: usize,
    /// Unlocked when the process ends, however it ends.
    locks: Vec<File>,
}

impl Folder {
    /// Makes the folder.
    pub(super) fn open(root: &Path, rank: usize) -> Result<Self, BuildError> {
        fs::create_dir_all(root).map_err(BuildError::io(root, "cannot make the folder"))?;
        Ok(Self { root: root.to_owned(), rank, locks: Vec::new() })
    }

    /// Keeps other builds out: any other than the ranks of the same job, and a second process of
    /// the same rank.
    pub(super) fn lock(&mut self, world: World) -> Result<(), BuildError> {
        let alone = world.world_size == 1;
        self.locks.push(self.locked("lock", if alone { Kind::Exclusive } else { Kind::Shared })?);
        if !alone {
            let name = format!("rank-{}-of-{}.lock", world.rank, world.world_size);
            self.locks.push(self.locked(&name, Kind::Exclusive)?);
        }
        Ok(())
    }

    /// Waits for the ranks that publish already; holds them up until the file is dropped.
    pub(super) fn publishing(&self) -> Result<File, BuildError> {
        self.locked("publish.lock", Kind::Waiting)
    }

    fn locked(&self, name: &str, kind: Kind) -> Result<File, BuildError> {
        let path = self.root.join(STAGING).join(name);
        loop {
            self.make_parent(&path)?;
            let file =
                File::create(&path).map_err(BuildError::io(&path, "cannot make the lock file"))?;
            let locked = match kind {
                Kind::Exclusive => file.try_lock(),
                Kind::Shared => file.try_lock_shared(),
                Kind::Waiting => file.lock().map_err(TryLockError::Error),
            };
            match locked {
                Err(TryLockError::WouldBlock) => {
                    return Err(BuildError::Locked { output: self.root.clone() });
                }
                Err(TryLockError::Error(source)) => {
                    return Err(BuildError::Io { path, action: "cannot lock", source });
                }
                // A build that publishes removes its lock file: the one locked here may be gone.
                Ok(()) if same_file(&file, &path) => return Ok(file),
                Ok(()) => {}
            }
        }
    }

    /// Where a file is written before it is whole.
    pub(super) fn partial(&self, name: &str) -> Result<PathBuf, BuildError> {
        let path = self.root.join(STAGING).join(format!("{name}.{}.partial", self.rank));
        self.make_parent(&path)?;
        Ok(path)
    }

    /// Moves a whole and durable file to where it belongs.
    pub(super) fn place(&self, from: &Path, to: &str) -> Result<(), BuildError> {
        let to = self.root.join(to);
        let folder = self.make_parent(&to)?;
        fs::rename(from, &to).map_err(BuildError::io(&to, "cannot rename"))?;
        sync_folder(folder)
    }

    /// Writes a whole file: staged, durable, then renamed into place.
    pub(super) fn put(&self, path: &str, bytes: &[u8]) -> Result<(), BuildError> {
        let partial = self.partial(&path.replace('/', "-"))?;
        let write = || -> std::io::Result<()> {
            let mut file = File::create(&partial)?;
            file.write_all(bytes)?;
            file.sync_all()
        };
        write().map_err(BuildError::io(self.root.join(path), "cannot write"))?;
        self.place(&partial, path)
    }

    /// Removes one file; one that is gone already is no error.
    pub(super) fn remove(&self, path: &str) -> Result<(), BuildError> {
        let path = self.root.join(path);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(BuildError::Io { path, action: "cannot remove", source })
            }
            _ => Ok(()),
        }
    }

    /// Removes the staging folder, the mark of a build that is not over.
    pub(super) fn remove_staging(&self) -> Result<(), BuildError> {
        let path = self.root.join(STAGING);
        match fs::remove_dir_all(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(BuildError::Io { path, action: "cannot remove the staging folder", source })
            }
            _ => Ok(()),
        }
    }

    fn make_parent<'a>(&self, path: &'a Path) -> Result<&'a Path, BuildError> {
        let folder = path.parent().expect("every path here lies below the root");
        fs::create_dir_all(folder).map_err(BuildError::io(folder, "cannot make the folder"))?;
        Ok(folder)
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Exclusive,
    Shared,
    Waiting,
}

fn same_file(file: &File, path: &Path) -> bool {
    let (Ok(held), Ok(there)) = (file.metadata(), fs::metadata(path)) else { return false };
    (held.dev(), held.ino()) == (there.dev(), there.ino())
}

/// Makes renames and removals in a folder durable.
fn sync_folder(path: &Path) -> Result<(), BuildError> {
    File::open(path)
        .and_then(|folder| folder.sync_all())
        .map_err(BuildError::io(path, "cannot sync"))
}
