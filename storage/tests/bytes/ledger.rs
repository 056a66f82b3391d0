//! The smallest ledger that keeps the rules of an upload's rows, and one that fails on schedule.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use boxgate_storage::backend::faulty::Faults;
use boxgate_storage::blob::{BlobKey, BlobMeta, UploadId};
use boxgate_storage::clock::{Clock, UnixMillis};
use boxgate_storage::layer::verify::BlobTree;
use boxgate_storage::metadata::Ledger;
use boxgate_storage::metadata::catalog::FileId;
use boxgate_storage::metadata::uploads::{
    Advance, Completion, Fence, NewUpload, Published, Trash, UploadRow, UploadState,
};
use boxgate_storage::{Error, ErrorKind, Result};

/// Rows in memory. One name only: each publication replaces the last.
#[derive(Debug)]
pub struct TinyLedger {
    clock: Arc<dyn Clock>,
    rows: Mutex<Rows>,
}

#[derive(Debug, Default)]
struct Rows {
    uploads: BTreeMap<UploadId, Upload>,
    trash: BTreeMap<BlobKey, Trash>,
    blobs: BTreeMap<BlobKey, (BlobMeta, BlobTree)>,
    current: Option<BlobKey>,
}

#[derive(Debug, Clone)]
struct Upload {
    row: UploadRow,
    values: Vec<[u8; 32]>,
    published: Option<Published>,
}

impl TinyLedger {
    pub fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self {
            clock,
            rows: Mutex::default(),
        })
    }

    /// Every blob that can be read, with its tree.
    pub fn blobs(&self) -> Vec<(BlobMeta, BlobTree)> {
        self.rows().blobs.values().cloned().collect()
    }

    pub fn states(&self) -> Vec<UploadState> {
        let rows = self.rows();
        rows.uploads
            .values()
            .map(|upload| upload.row.state)
            .collect()
    }

    pub fn trash(&self) -> usize {
        self.rows().trash.len()
    }

    fn rows(&self) -> MutexGuard<'_, Rows> {
        self.rows.lock().unwrap()
    }

    /// The row that `fence` may change.
    fn fenced<T>(
        &self,
        fence: Fence,
        state: UploadState,
        change: impl FnOnce(&mut Upload) -> Result<T>,
    ) -> Result<T> {
        let now = self.clock.now();
        let mut rows = self.rows();
        match rows.uploads.get_mut(&fence.id) {
            Some(upload) if upload.row.epoch == fence.epoch && upload.row.state == state => {
                upload.row.updated = now;
                change(upload)
            }
            _ => Err(fenced()),
        }
    }
}

fn fenced() -> Error {
    Error::new(ErrorKind::Fenced, "ledger", "upload")
}

#[async_trait]
impl Ledger for TinyLedger {
    async fn create(&self, new: NewUpload) -> Result<UploadRow> {
        let now = self.clock.now();
        let row = UploadRow {
            id: new.id,
            account: new.account,
            organization: new.organization,
            key: new.key,
            store: new.store,
            epoch: 1,
            state: UploadState::Open,
            offset: 0,
            length: new.length,
            part_bytes: new.part_bytes,
            target: new.target,
            digests: None,
            created: now,
            updated: now,
        };
        let upload = Upload {
            row: row.clone(),
            values: Vec::new(),
            published: None,
        };
        self.rows().uploads.insert(new.id, upload);
        Ok(row)
    }

    async fn take_over(&self, id: UploadId) -> Result<Option<UploadRow>> {
        let mut rows = self.rows();
        let open = rows.uploads.get_mut(&id);
        Ok(open
            .filter(|u| u.row.state == UploadState::Open)
            .map(|upload| {
                upload.row.epoch += 1;
                upload.row.clone()
            }))
    }

    async fn upload(&self, id: UploadId) -> Result<Option<UploadRow>> {
        Ok(self.rows().uploads.get(&id).map(|u| u.row.clone()))
    }

    async fn advance(&self, fence: Fence, step: Advance) -> Result<()> {
        self.fenced(fence, UploadState::Open, |upload| {
            if upload.row.offset != step.from {
                return Err(fenced());
            }
            let part = u64::from(step.part);
            assert_eq!(part * upload.row.part_bytes, step.from);
            let blocks = (step.to - step.from).div_ceil(1 << 20);
            assert_eq!(step.values.len() as u64, blocks);
            assert!(!step.hash_states.is_empty());
            upload.row.offset = step.to;
            upload.values.extend(step.values);
            Ok(())
        })
    }

    async fn complete(&self, fence: Fence, completion: Completion) -> Result<()> {
        self.fenced(fence, UploadState::Open, |upload| {
            if upload.row.offset != completion.length {
                return Err(fenced());
            }
            upload.row.state = UploadState::Completing;
            upload.row.digests = Some((completion.blake3, completion.sha256));
            Ok(())
        })
    }

    async fn publish(&self, fence: Fence) -> Result<Published> {
        let mut rows = self.rows();
        let Some(upload) = rows.uploads.get(&fence.id).cloned() else {
            return Err(fenced());
        };
        if let Some(published) = upload.published {
            return Ok(published);
        }
        if upload.row.epoch != fence.epoch || upload.row.state != UploadState::Completing {
            return Err(fenced());
        }
        let (blake3, sha256) = upload.row.digests.expect("complete sets them");
        let mut blob = BlobMeta {
            key: upload.row.key,
            length: upload.row.offset,
            blake3,
            sha256,
        };
        let equal = rows.blobs.values().find(|(b, _)| b.blake3 == blake3);
        if let Some((equal, _)) = equal.cloned() {
            blob = equal;
            let trash = Trash {
                key: upload.row.key,
                store: upload.row.store.clone(),
            };
            rows.trash.insert(trash.key, trash);
        } else {
            let values = upload.values.into();
            rows.blobs.insert(blob.key, (blob, BlobTree { values }));
        }
        let published = Published {
            blob,
            file: FileId(1),
            replaced: rows.current.is_some_and(|key| key != blob.key),
            version: upload.row.target.version,
        };
        rows.current = Some(blob.key);
        let done = rows.uploads.get_mut(&fence.id).expect("found above");
        done.row.state = UploadState::Done;
        done.published = Some(published.clone());
        Ok(published)
    }

    async fn abort(&self, id: UploadId) -> Result<bool> {
        let mut rows = self.rows();
        let live = rows.uploads.get_mut(&id).filter(|upload| {
            matches!(
                upload.row.state,
                UploadState::Open | UploadState::Completing
            )
        });
        let Some(upload) = live else {
            return Ok(false);
        };
        upload.row.state = UploadState::Aborted;
        let trash = Trash {
            key: upload.row.key,
            store: upload.row.store.clone(),
        };
        rows.trash.insert(trash.key, trash);
        Ok(true)
    }

    async fn uploads_in(
        &self,
        state: UploadState,
        until: UnixMillis,
        limit: u32,
    ) -> Result<Vec<UploadRow>> {
        let rows = self.rows();
        let mut found: Vec<_> = rows
            .uploads
            .values()
            .map(|upload| upload.row.clone())
            .filter(|row| row.state == state && row.updated <= until)
            .collect();
        found.sort_by_key(|row| row.updated);
        found.truncate(limit as usize);
        Ok(found)
    }

    async fn due_trash(&self, limit: u32) -> Result<Vec<Trash>> {
        let rows = self.rows();
        Ok(rows.trash.values().take(limit as usize).cloned().collect())
    }

    async fn forget(&self, key: &BlobKey) -> Result<()> {
        self.rows().trash.remove(key);
        Ok(())
    }
}

/// A ledger that fails as its schedule has it.
#[derive(Debug)]
pub struct FaultyLedger {
    pub inner: Arc<dyn Ledger>,
    pub faults: Faults,
}

#[async_trait]
impl Ledger for FaultyLedger {
    async fn create(&self, new: NewUpload) -> Result<UploadRow> {
        let call = self.inner.create(new);
        self.faults.around("ledger.create", call).await
    }

    async fn take_over(&self, id: UploadId) -> Result<Option<UploadRow>> {
        let call = self.inner.take_over(id);
        self.faults.around("ledger.take_over", call).await
    }

    async fn upload(&self, id: UploadId) -> Result<Option<UploadRow>> {
        let call = self.inner.upload(id);
        self.faults.around("ledger.upload", call).await
    }

    async fn advance(&self, fence: Fence, step: Advance) -> Result<()> {
        let call = self.inner.advance(fence, step);
        self.faults.around("ledger.advance", call).await
    }

    async fn complete(&self, fence: Fence, completion: Completion) -> Result<()> {
        let call = self.inner.complete(fence, completion);
        self.faults.around("ledger.complete", call).await
    }

    async fn publish(&self, fence: Fence) -> Result<Published> {
        let call = self.inner.publish(fence);
        self.faults.around("ledger.publish", call).await
    }

    async fn abort(&self, id: UploadId) -> Result<bool> {
        let call = self.inner.abort(id);
        self.faults.around("ledger.abort", call).await
    }

    async fn uploads_in(
        &self,
        state: UploadState,
        until: UnixMillis,
        limit: u32,
    ) -> Result<Vec<UploadRow>> {
        let call = self.inner.uploads_in(state, until, limit);
        self.faults.around("ledger.uploads_in", call).await
    }

    async fn due_trash(&self, limit: u32) -> Result<Vec<Trash>> {
        let call = self.inner.due_trash(limit);
        self.faults.around("ledger.due_trash", call).await
    }

    async fn forget(&self, key: &BlobKey) -> Result<()> {
        let call = self.inner.forget(key);
        self.faults.around("ledger.forget", call).await
    }
}
