//! Makes uploads, publishes them, and gives them up: the steps around the bytes.

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::task::TaskTracker;

use super::state::{MOST_PARTS, UploadState, part_bytes_for};
use super::stats::{Counters, EngineStats, Stage};
use super::writer::{Active, UploadWriter};
use super::{EngineOptions, Recovered, UploadIntent};
use crate::blob::{BlobKey, UploadId};
use crate::error::{Error, ErrorKind, Result};
use crate::metadata::uploads::{Fence, NewUpload};
use crate::store::Store;

/// Takes uploads in; one per process, cheap to clone.
#[derive(Debug, Clone)]
pub struct UploadEngine {
    inner: Arc<Inner>,
}

impl UploadEngine {
    /// An engine on these parts.
    pub fn new(options: EngineOptions) -> Self {
        let background = TaskTracker::new();
        // Closed from the start: then waiting ends whenever nothing runs.
        background.close();
        Self {
            inner: Arc::new(Inner {
                options,
                background,
                counters: Counters::default(),
                active: Mutex::default(),
                abandoned: Mutex::default(),
            }),
        }
    }

    /// Records the intent, then makes room in the store.
    ///
    /// # Errors
    /// [`crate::ErrorKind::TooLarge`] and [`crate::ErrorKind::Full`] from the declared length, before
    /// anything is recorded.
    /// # Cancel safety
    /// Dropping the future gives the upload up in the background.
    pub async fn begin(&self, intent: UploadIntent) -> Result<UploadWriter> {
        let inner = Arc::clone(&self.inner);
        inner.admit(intent.length).await?;
        // A task, so that a caller who leaves cannot cut between row and file.
        let begun = inner.background.spawn(Arc::clone(&inner).begin(intent));
        begun.await.unwrap_or_else(|panicked| {
            Err(Error::new(ErrorKind::Internal, "upload.begin", "upload").with_source(panicked))
        })
    }

    /// Finishes what a former process left `completing`, and aborts what it left open. Run before the
    /// first request is taken.
    ///
    /// # Errors
    /// When the rows cannot be read. What fails for one upload is logged and left for the next sweep.
    pub async fn recover(&self) -> Result<Recovered> {
        self.inner.recover().await
    }

    /// Removes what is due: bytes of aborted uploads and of blobs without a reference. Returns how
    /// many blobs and leftovers were removed. Also publishes again what was left half published, and
    /// gives up what nobody writes to any more.
    ///
    /// # Errors
    /// When the rows cannot be read. Bytes that a store does not remove stay due.
    pub async fn sweep(&self) -> Result<u64> {
        self.inner.sweep().await
    }

    /// Uploads in progress in this process.
    pub fn in_progress(&self) -> usize {
        self.inner.active().len()
    }

    /// Waits until aborts and finishes that go on in the background have ended.
    pub async fn settled(&self) {
        self.inner.background.wait().await;
    }

    /// What happened so far.
    pub fn stats(&self) -> EngineStats {
        self.inner.counters.snapshot(self.in_progress() as u64)
    }

    /// Calls `observe` with each commit of a part or an upload ([`Stage::Seal`], [`Stage::Advance`],
    /// [`Stage::Publish`]) and the time it took. The first observer stays.
    pub fn on_commit(&self, observe: Arc<dyn Fn(Stage, Duration) + Send + Sync>) {
        self.inner.counters.observe_with(observe);
    }
}

/// What all writers of an engine share.
pub(super) struct Inner {
    pub(super) options: EngineOptions,
    /// Aborts and finishes that outlive their request.
    pub(super) background: TaskTracker,
    pub(super) counters: Counters,
    /// Uploads with a writer or a background task; recovery leaves them alone.
    active: Mutex<HashSet<UploadId>>,
    /// Uploads whose abort did not reach the rows. Never more than were in progress at once while the
    /// rows could not be written.
    abandoned: Mutex<BTreeSet<UploadId>>,
}

/// An upload that is in progress until this is dropped.
#[derive(Debug)]
pub(super) struct InProgress {
    engine: Arc<Inner>,
    id: UploadId,
}

impl Drop for InProgress {
    fn drop(&mut self) {
        self.engine.active().remove(&self.id);
    }
}

/// What is needed to publish an upload or to give it up.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub(super) fence: Fence,
    pub(super) key: BlobKey,
    pub(super) store: Store,
}

impl Stored {
    pub(super) fn subject(&self) -> String {
        self.fence.id.to_string()
    }
}

impl Inner {
    /// Whether there is room, before anything is recorded.
    async fn admit(&self, length: Option<u64>) -> Result<()> {
        let refused = |kind| Error::new(kind, "upload.begin", "upload");
        let limit = self.options.max_length_bytes;
        if length.is_some_and(|length| length > limit) {
            return Err(refused(ErrorKind::TooLarge { limit }));
        }
        let (_, store) = self.store_for_new()?;
        if let Some(space) = &store.space {
            let needed = self
                .options
                .min_free_bytes
                .saturating_add(length.unwrap_or(0));
            if space.free_space().await?.free_bytes < needed {
                return Err(refused(ErrorKind::Full));
            }
        }
        Ok(())
    }

    fn store_for_new(&self) -> Result<(&str, &Store)> {
        let name = &self.options.default_store;
        Ok((name, self.store(name)?))
    }

    pub(super) fn store(&self, name: &str) -> Result<&Store> {
        self.options.stores.get(name).ok_or_else(|| {
            Error::new(ErrorKind::Internal, "store.find", name)
                .with_source("no store has that name")
        })
    }

    /// A1, then A2.
    async fn begin(self: Arc<Self>, intent: UploadIntent) -> Result<UploadWriter> {
        let UploadIntent {
            account,
            organization,
            target,
            length,
            expected,
        } = intent;
        let (store_name, store) = self.store_for_new()?;
        let store = store.clone();
        let part_bytes = part_bytes_for(length);
        let new = NewUpload {
            id: UploadId::random(),
            account,
            organization,
            key: BlobKey::random(),
            store: store_name.to_owned(),
            length,
            part_bytes,
            target,
        };
        let (id, key) = (new.id, new.key);
        let in_progress = self
            .try_enter(id)
            .expect("128 random bits are not drawn twice");
        let row = match self.options.ledger.create(new).await {
            Ok(row) => row,
            Err(e) => {
                // The row may be there all the same: only its answer may be lost.
                self.abort_row(id).await;
                return Err(e);
            }
        };
        let stored = Stored {
            fence: Fence {
                id,
                epoch: row.epoch,
            },
            key,
            store,
        };
        let sink = match stored.store.write.begin(&key, part_bytes, length).await {
            Ok(sink) => sink,
            Err(e) => {
                self.give_up(&stored, None).await;
                return Err(e);
            }
        };
        let limit = self
            .options
            .max_length_bytes
            .min(part_bytes.saturating_mul(MOST_PARTS));
        let state = UploadState::new(part_bytes, length, limit);
        Ok(UploadWriter::new(Active::new(
            self,
            stored,
            sink,
            state,
            expected,
            in_progress,
        )))
    }

    /// Marks the upload as in progress; `None` when it is already.
    pub(super) fn try_enter(self: &Arc<Self>, id: UploadId) -> Option<InProgress> {
        self.active().insert(id).then(|| InProgress {
            engine: Arc::clone(self),
            id,
        })
    }

    /// Uploads that a writer or a task of this process is busy with.
    fn active(&self) -> MutexGuard<'_, HashSet<UploadId>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Uploads whose abort must be tried again.
    pub(super) fn abandoned(&self) -> MutexGuard<'_, BTreeSet<UploadId>> {
        self.abandoned
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner")
            .field("options", &self.options)
            .field("counters", &self.counters)
            .finish_non_exhaustive()
    }
}
