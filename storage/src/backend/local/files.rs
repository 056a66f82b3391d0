//! Blobs as open files: one for all who read a blob, and no more of them than were allowed.

use std::fmt;
use std::fs::File;
use std::sync::Arc;

use async_trait::async_trait;
use moka::policy::EvictionPolicy;
use tokio::sync::Semaphore;

use super::{Local, blocking, failure};
use crate::blob::BlobKey;
use crate::error::Result;
use crate::store::{BlobFiles, OpenFile};

/// Files that are open. Half of the places are kept for files that nobody reads at the moment: opening one costs a
/// hop to another thread, which a short range would feel.
pub(super) struct OpenFiles {
    kept: moka::sync::Cache<BlobKey, Arc<OpenFile>>,
    places: Arc<Semaphore>,
}

impl OpenFiles {
    pub(super) fn new(most: usize) -> Self {
        Self {
            kept: moka::sync::Cache::builder()
                .max_capacity(most as u64 / 2)
                .eviction_policy(EvictionPolicy::lru())
                .build(),
            places: Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS))),
        }
    }

    /// Keeps a file for whoever reads the blob next, unless it was removed while it was opened.
    fn keep(&self, key: &BlobKey, file: &Arc<OpenFile>) {
        self.kept.insert(*key, Arc::clone(file));
        // Whoever removes it forgets it behind that: before or after this it is seen by one of the two.
        if rustix::fs::fstat(&**file).is_ok_and(|found| found.st_nlink == 0) {
            self.kept.invalidate(key);
        }
        // At once, or what has to give way would keep its place until someone comes by.
        self.kept.run_pending_tasks();
    }

    /// Keeps a file no longer: as long as it is open its bytes take room.
    pub(super) fn forget(&self, key: &BlobKey) {
        self.kept.invalidate(key);
        // moka lets go of what was removed when it comes to it; the room is wanted now.
        self.kept.run_pending_tasks();
    }
}

impl fmt::Debug for OpenFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenFiles")
            .field("kept", &self.kept.entry_count())
            .field("free_places", &self.places.available_permits())
            .finish()
    }
}

#[async_trait]
impl BlobFiles for Local {
    async fn open_file(&self, key: &BlobKey) -> Result<Option<Arc<OpenFile>>> {
        let files = &self.files;
        if let Some(file) = files.kept.get(key) {
            return Ok(Some(file));
        }
        let Ok(place) = Arc::clone(&files.places).try_acquire_owned() else {
            return Ok(None);
        };
        let path = self.path_of(key);
        let subject = key.to_string();
        let file = blocking("blob.open", subject.clone(), move || {
            File::open(&path).map_err(|e| failure("blob.open", &path, &subject, e))
        })
        .await?;
        let file = Arc::new(OpenFile::new(file, place));
        files.keep(key, &file);
        Ok(Some(file))
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;
    use std::time::Duration;

    use super::super::{LocalOptions, open_with};
    use super::*;

    async fn store_of(
        blobs: usize,
        most: usize,
    ) -> (tempfile::TempDir, Arc<dyn BlobFiles>, Vec<BlobKey>) {
        let home = tempfile::tempdir().unwrap();
        let options = LocalOptions { open_files: most };
        let store = open_with(home.path(), options).await.unwrap();
        let keys: Vec<_> = (0..blobs).map(|_| BlobKey::random()).collect();
        for key in &keys {
            let name = key.to_string();
            std::fs::write(home.path().join(&name[..2]).join(&name), b"bytes").unwrap();
        }
        (home, store.files.unwrap(), keys)
    }

    #[tokio::test]
    async fn no_more_files_are_open_than_were_allowed() {
        let (_home, files, keys) = store_of(5, 4).await;
        let mut held = Vec::new();
        for key in &keys[..4] {
            held.push(files.open_file(key).await.unwrap().unwrap());
        }
        assert!(files.open_file(&keys[4]).await.unwrap().is_none());
        let again = files.open_file(&keys[3]).await.unwrap().unwrap();
        assert!(Arc::ptr_eq(&again, &held[3]), "one for all who read a blob");
        held.clear();
        drop(again);
        let opened = files.open_file(&keys[4]).await.unwrap();
        assert!(opened.is_some(), "what nobody reads gave way");
    }

    #[tokio::test]
    async fn a_file_that_is_deleted_is_closed() {
        let home = tempfile::tempdir().unwrap();
        let store = open_with(home.path(), LocalOptions { open_files: 4 })
            .await
            .unwrap();
        let key = BlobKey::random();
        let name = key.to_string();
        std::fs::write(home.path().join(&name[..2]).join(&name), b"bytes").unwrap();
        let file = store.files.unwrap().open_file(&key).await.unwrap().unwrap();
        let delete = store.delete.unwrap();
        delete.delete(&key).await.unwrap();
        let stat = rustix::fs::fstat(file.as_fd()).unwrap();
        assert_eq!(stat.st_nlink, 0);
        let alone = async {
            while Arc::strong_count(&file) > 1 {
                // What moka removed is dropped once no thread of the process that uses any such map may still see it.
                delete.delete(&key).await.unwrap();
            }
        };
        let alone = tokio::time::timeout(Duration::from_mins(1), alone).await;
        alone.expect("nobody but its reader holds it");
    }

    #[test]
    fn a_file_that_was_removed_while_it_was_opened_is_not_kept() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("blob");
        std::fs::write(&path, b"bytes").unwrap();
        let (files, key) = (OpenFiles::new(4), BlobKey::random());
        let open = || {
            let place = Arc::clone(&files.places).try_acquire_owned().unwrap();
            Arc::new(OpenFile::new(File::open(&path).unwrap(), place))
        };
        files.keep(&key, &open());
        assert!(files.kept.get(&key).is_some());
        files.forget(&key);
        let late = open();
        std::fs::remove_file(&path).unwrap();
        files.keep(&key, &late);
        assert!(files.kept.get(&key).is_none());
    }
}
