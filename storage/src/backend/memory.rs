//! A store in memory, for models and tests. Like a disk it forgets what was not sealed when it
//! [`loses power`](MemoryStore::lose_power), which a real disk does too seldom to test with.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt, StreamExt};

use crate::blob::{BlobKey, UploadId};
use crate::error::{Error, ErrorKind, Result};
use crate::range::ByteRange;
use crate::store::{
    DeleteBlob, FreeSpace, Intake, Kept, LOCK_WAIT, ListBlobs, PartIndex, ReadBlob, Receipt, Run,
    Sidecars, Space, Store, UploadSink, WriteBlob,
};

/// Bytes by key; clones share them.
#[derive(Debug, Clone)]
pub struct MemoryStore {
    shared: Arc<Mutex<Volume>>,
}

#[derive(Debug)]
struct Volume {
    blobs: BTreeMap<BlobKey, Content>,
    sidecars: BTreeMap<(BlobKey, UploadId), String>,
    capacity_bytes: u64,
}

#[derive(Debug, Default)]
struct Content {
    bytes: Vec<u8>,
    /// How much of it survives a loss of power.
    sealed: usize,
    /// Held by the one sink of the blob.
    lock: Arc<tokio::sync::Mutex<()>>,
}

impl MemoryStore {
    /// An empty store with room for `capacity_bytes`.
    pub fn new(capacity_bytes: u64) -> Self {
        Self {
            shared: Arc::new(Mutex::new(Volume {
                blobs: BTreeMap::new(),
                sidecars: BTreeMap::new(),
                capacity_bytes,
            })),
        }
    }

    /// This store as the engine takes it.
    pub fn store(&self) -> Store {
        let this = Arc::new(self.clone());
        Store {
            read: Arc::clone(&this) as _,
            write: Arc::clone(&this) as _,
            delete: Some(Arc::clone(&this) as _),
            list: Some(Arc::clone(&this) as _),
            shared: None,
            sidecars: Some(Arc::clone(&this) as _),
            space: Some(this),
            files: None,
            presign: None,
            redirect_for: None,
            intake: Intake::InPlace,
        }
    }

    /// Forgets every byte that was not sealed.
    pub fn lose_power(&self) {
        for content in self.volume().blobs.values_mut() {
            content.bytes.truncate(content.sealed);
        }
    }

    /// Changes one stored byte behind everybody's back; false when there is none at `offset`.
    pub fn damage(&self, key: &BlobKey, offset: usize) -> bool {
        let mut volume = self.volume();
        let byte = volume
            .blobs
            .get_mut(key)
            .and_then(|content| content.bytes.get_mut(offset));
        byte.map(|byte| *byte ^= 1).is_some()
    }

    /// Shortens stored bytes behind everybody's back.
    pub fn cut(&self, key: &BlobKey, length: usize) {
        if let Some(content) = self.volume().blobs.get_mut(key) {
            content.bytes.truncate(length);
        }
    }

    /// All keys, in order.
    pub fn keys(&self) -> Vec<BlobKey> {
        self.volume().blobs.keys().copied().collect()
    }

    fn volume(&self) -> MutexGuard<'_, Volume> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Content {
    /// Nothing is left from `offset` on.
    fn cut_off(&mut self, offset: u64) {
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        self.bytes.truncate(offset);
        self.sealed = self.sealed.min(offset);
    }
}

impl Volume {
    fn used_bytes(&self) -> u64 {
        self.blobs.values().map(|c| c.bytes.len() as u64).sum()
    }
}

#[async_trait]
impl ReadBlob for MemoryStore {
    async fn stat(&self, key: &BlobKey) -> Result<u64> {
        self.volume()
            .blobs
            .get(key)
            .map(|content| content.bytes.len() as u64)
            .ok_or_else(|| Error::new(ErrorKind::NotFound, "blob.stat", key.to_string()))
    }

    async fn open(
        &self,
        key: &BlobKey,
        range: ByteRange,
    ) -> Result<BoxStream<'static, Result<Bytes>>> {
        let subject = key.to_string();
        let bytes = {
            let volume = self.volume();
            let Some(content) = volume.blobs.get(key) else {
                return Err(Error::new(ErrorKind::NotFound, "blob.open", subject));
            };
            let end = usize::try_from(range.end()).unwrap_or(usize::MAX);
            let start = usize::try_from(range.start()).unwrap_or(usize::MAX);
            let Some(bytes) = content.bytes.get(start..end) else {
                return Err(Error::new(ErrorKind::Damaged, "blob.open", subject));
            };
            Bytes::copy_from_slice(bytes)
        };
        let chunks: Vec<_> = (0..bytes.len())
            .step_by(CHUNK_BYTES)
            .map(|at| Ok(bytes.slice(at..bytes.len().min(at + CHUNK_BYTES))))
            .collect();
        Ok(stream::iter(chunks).boxed())
    }
}

/// Small and odd, so that whoever reads must not count on how bytes are cut.
const CHUNK_BYTES: usize = 300_007;

#[async_trait]
impl WriteBlob for MemoryStore {
    async fn begin(
        &self,
        key: &BlobKey,
        part_bytes: u64,
        _length: Option<u64>,
    ) -> Result<Box<dyn UploadSink>> {
        let mut volume = self.volume();
        if volume.blobs.contains_key(key) {
            return Err(Error::new(
                ErrorKind::Conflict,
                "blob.begin",
                key.to_string(),
            ));
        }
        let content = Content::default();
        let lock = Arc::clone(&content.lock)
            .try_lock_owned()
            .expect("nobody else knows a new lock");
        volume.blobs.insert(*key, content);
        drop(volume);
        Ok(Box::new(MemorySink {
            store: self.clone(),
            key: *key,
            part_bytes,
            _lock: lock,
        }))
    }

    async fn resume(
        &self,
        key: &BlobKey,
        part_bytes: u64,
        offset: u64,
        _kept: Kept,
    ) -> Result<Box<dyn UploadSink>> {
        let failed = |kind| Error::new(kind, "blob.resume", key.to_string());
        let missing = || failed(ErrorKind::NotFound);
        let lock = self.volume().blobs.get(key).map(|c| Arc::clone(&c.lock));
        let locked = tokio::time::timeout(LOCK_WAIT, lock.ok_or_else(missing)?.lock_owned());
        let lock = locked
            .await
            .map_err(|_elapsed| failed(ErrorKind::Unavailable))?;
        let mut volume = self.volume();
        let content = volume.blobs.get_mut(key).ok_or_else(missing)?;
        if (content.bytes.len() as u64) < offset {
            return Err(failed(ErrorKind::Damaged));
        }
        content.cut_off(offset);
        drop(volume);
        Ok(Box::new(MemorySink {
            store: self.clone(),
            key: *key,
            part_bytes,
            _lock: lock,
        }))
    }
}

#[derive(Debug)]
struct MemorySink {
    store: MemoryStore,
    key: BlobKey,
    part_bytes: u64,
    _lock: tokio::sync::OwnedMutexGuard<()>,
}

impl MemorySink {
    fn take(&self, run: &Run) -> Result<()> {
        let failed = |kind| Error::new(kind, "upload.write", self.key.to_string());
        let bytes = run.bytes.as_ref();
        let start = usize::try_from(run.offset).map_err(|_too_far| failed(ErrorKind::Full))?;
        let end = start
            .checked_add(bytes.len())
            .ok_or_else(|| failed(ErrorKind::Full))?;
        let mut volume = self.store.volume();
        let room = volume.capacity_bytes.saturating_sub(volume.used_bytes());
        let Some(content) = volume.blobs.get_mut(&self.key) else {
            return Err(failed(ErrorKind::NotFound));
        };
        let more = end.saturating_sub(content.bytes.len());
        if more as u64 > room {
            return Err(failed(ErrorKind::Full));
        }
        if content.bytes.len() < end {
            content.bytes.resize(end, 0);
        }
        content.bytes[start..end].copy_from_slice(bytes);
        Ok(())
    }
}

#[async_trait]
impl UploadSink for MemorySink {
    fn write(&mut self, run: Run) -> BoxFuture<'static, Result<()>> {
        let taken = self.take(&run);
        drop(run);
        futures_util::future::ready(taken).boxed()
    }

    fn reread(&self, _range: ByteRange) -> Option<Vec<u8>> {
        None
    }

    fn seal(&mut self, part: PartIndex) -> BoxFuture<'static, Result<Receipt>> {
        let (store, key) = (self.store.clone(), self.key);
        let end = (u64::from(part.0) + 1) * self.part_bytes;
        async move {
            let mut volume = store.volume();
            let Some(content) = volume.blobs.get_mut(&key) else {
                return Err(Error::new(
                    ErrorKind::NotFound,
                    "upload.seal",
                    key.to_string(),
                ));
            };
            let end = usize::try_from(end).unwrap_or(usize::MAX);
            content.sealed = content.sealed.max(content.bytes.len().min(end));
            Ok(Receipt::default())
        }
        .boxed()
    }

    async fn commit(self: Box<Self>) -> Result<u64> {
        self.store.stat(&self.key).await
    }

    async fn pause(self: Box<Self>, offset: u64) -> Result<()> {
        if let Some(content) = self.store.volume().blobs.get_mut(&self.key) {
            content.cut_off(offset);
        }
        Ok(())
    }

    async fn abort(self: Box<Self>) -> Result<()> {
        self.store.delete(&self.key).await
    }
}

#[async_trait]
impl DeleteBlob for MemoryStore {
    async fn delete(&self, key: &BlobKey) -> Result<()> {
        let mut volume = self.volume();
        volume.blobs.remove(key);
        volume.sidecars.retain(|(beside, _), _| beside != key);
        Ok(())
    }
}

#[async_trait]
impl Sidecars for MemoryStore {
    async fn put(&self, key: &BlobKey, id: UploadId, text: &str) -> Result<()> {
        self.volume().sidecars.insert((*key, id), text.to_owned());
        Ok(())
    }

    async fn remove(&self, key: &BlobKey, id: UploadId) -> Result<()> {
        self.volume().sidecars.remove(&(*key, id));
        Ok(())
    }

    async fn beside(&self, key: &BlobKey) -> Result<Vec<(UploadId, Vec<u8>)>> {
        let volume = self.volume();
        let all = volume.sidecars.iter();
        let of_key = all.filter(|((beside, _), _)| beside == key);
        Ok(of_key
            .map(|((_, id), text)| (*id, text.clone().into_bytes()))
            .collect())
    }
}

#[async_trait]
impl ListBlobs for MemoryStore {
    async fn page(&self, after: Option<BlobKey>, limit: usize) -> Result<Vec<BlobKey>> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let volume = self.volume();
        let keys = volume.blobs.range((from, Bound::Unbounded));
        Ok(keys.map(|(key, _)| *key).take(limit).collect())
    }
}

#[async_trait]
impl FreeSpace for MemoryStore {
    async fn free_space(&self) -> Result<Space> {
        let volume = self.volume();
        Ok(Space {
            free_bytes: volume.capacity_bytes.saturating_sub(volume.used_bytes()),
            total_bytes: volume.capacity_bytes,
        })
    }
}
