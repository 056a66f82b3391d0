//! The data directory, and the directories of stores: made, locked, and known by name.

use std::path::PathBuf;

use boxgate_storage::durable;

use super::StartError;
use crate::ballast::Ballast;

/// The data directory, held by this process alone until it ends.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    // Each holds its lock as long as it is open.
    locks: Vec<std::fs::File>,
}

impl DataDir {
    /// Makes the directory if missing and locks it.
    ///
    /// # Errors
    /// [`StartError::DataDir`]; [`StartError::InUse`] when another process holds it.
    pub fn open(path: &std::path::Path) -> Result<Self, StartError> {
        let lock = Self::make(path)?;
        // The kernel frees the lock with its holder, however it ends.
        lock.try_lock().map_err(|_held| StartError::InUse {
            path: path.to_owned(),
        })?;
        Ok(Self {
            path: path.to_owned(),
            locks: vec![lock],
        })
    }

    /// Makes the directory if missing, and the file that is to be locked.
    pub(super) fn make(path: &std::path::Path) -> Result<std::fs::File, StartError> {
        let failed = |reason: String| StartError::DataDir {
            path: path.to_owned(),
            reason,
        };
        durable::make_directory(path, 0o750).map_err(|e| failed(e.to_string()))?;
        std::fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.join("lock"))
            .map_err(|e| failed(e.to_string()))
    }

    /// Makes the directory of a store if missing, and opens it.
    pub(super) fn make_store(
        name: &str,
        path: &std::path::Path,
    ) -> Result<std::fs::File, StartError> {
        let failed = |reason: String| StartError::Store {
            name: name.to_owned(),
            path: path.to_owned(),
            reason,
        };
        durable::make_directory(path, 0o700).map_err(|e| failed(e.to_string()))?;
        std::fs::File::open(path).map_err(|e| failed(e.to_string()))
    }

    /// Locks the directory of a store, too: a writer that another process fenced off may still have a
    /// write under way, which only its own process waits for.
    pub(super) fn lock_store(
        &mut self,
        name: &str,
        path: &std::path::Path,
    ) -> Result<(), StartError> {
        let lock = Self::make_store(name, path)?;
        lock.try_lock().map_err(|_held| StartError::StoreInUse {
            name: name.to_owned(),
            path: path.to_owned(),
        })?;
        self.locks.push(lock);
        Ok(())
    }

    /// A name of this directory on this machine since it was booted: since its lock is ours, whoever had the name before is
    /// gone. Where the machine does not tell, nobody had it.
    pub(super) fn node(&self) -> String {
        use std::os::unix::fs::MetadataExt as _;
        let booted = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
        let held = self.locks.first().map(std::fs::File::metadata);
        let (Ok(booted), Some(Ok(held))) = (booted, held) else {
            return crate::auth::credential::fresh();
        };
        let all = format!("{booted}{} {}", held.dev(), held.ino());
        blake3::hash(all.as_bytes()).to_hex().to_string()
    }

    /// Where it is.
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }
}

/// Makes or gives up the ballast, before the database is opened: on a full volume it could not be.
pub(super) fn settle_ballast(data_dir: &DataDir) -> Result<Ballast, StartError> {
    let settled = Ballast::new(data_dir.path()).and_then(|b| b.settle().map(|()| b));
    settled.map_err(|e| StartError::DataDir {
        path: data_dir.path().to_owned(),
        reason: e.to_string(),
    })
}
