//! Writing objects: runs are gathered until their part is whole, then sent at once.
//!
//! An upload that fits one part becomes its object by one call; a longer one is a multipart upload, made
//! with its first whole part. Where an upload pauses within a part, the beginning of that part becomes
//! an object of its own under a key that was never used: the one before it stays until the rows name
//! this one, so that no crash loses what was told to be durable.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use tokio::sync::{OnceCell, OwnedMutexGuard};

use super::S3;
use super::body::Segments;
use super::checksum::{Sum, base64_of, combined, completed, crc64};
use super::read::Object;
use super::retry::Op;
use crate::blob::BlobKey;
use crate::buffer::Reservation;
use crate::error::{Error, ErrorKind, Result};
use crate::range::ByteRange;
use crate::store::{
    DeleteBlob, Kept, LOCK_WAIT, PartIndex, PartReceipt, ReadBlob, Receipt, Receipts, Run,
    ShareParts, Tail, UploadSink, WriteBlob,
};

#[async_trait]
impl WriteBlob for S3 {
    async fn begin(
        &self,
        key: &BlobKey,
        part_bytes: u64,
        length: Option<u64>,
    ) -> Result<Box<dyn UploadSink>> {
        if self.seems(key).await?.is_some() {
            let kind = ErrorKind::Conflict;
            return Err(Error::new(kind, "blob.begin", key.to_string()));
        }
        let alone = self.alone(key).await?;
        Ok(Box::new(S3Sink {
            s3: self.clone(),
            key: *key,
            part_bytes,
            length,
            multipart: Arc::default(),
            gathered: Arc::default(),
            reread: None,
            alone,
        }))
    }

    async fn resume(
        &self,
        key: &BlobKey,
        part_bytes: u64,
        offset: u64,
        kept: Kept,
    ) -> Result<Box<dyn UploadSink>> {
        let Kept {
            shared,
            length,
            receipts,
            memory,
        } = kept;
        let alone = self.alone(key).await?;
        assert_covered(key, &receipts, part_bytes, offset, length)?;
        let multipart = OnceCell::new();
        if let Some(id) = &receipts.upload {
            multipart.set(id.clone()).expect("it is new");
        } else if !shared {
            // Whoever made one and died before its row said so left it behind.
            self.abort_parts(key, None).await?;
        }
        let mut gathered = Gathered {
            receipts,
            ..Gathered::default()
        };
        let mut reread = None;
        if let Some(tail) = gathered.receipts.tail {
            let start = offset - tail.length;
            let bytes = self.tail(&tail, memory).await?;
            let mut at = start;
            for bytes in bytes.iter() {
                gathered.runs.insert(at, bytes.clone());
                at += bytes.len() as u64;
            }
            reread = Some((start, bytes));
        }
        Ok(Box::new(S3Sink {
            s3: self.clone(),
            key: *key,
            part_bytes,
            length,
            multipart: Arc::new(multipart),
            gathered: Arc::new(Mutex::new(gathered)),
            reread,
            alone,
        }))
    }
}

#[async_trait]
impl ShareParts for S3 {
    async fn begin_shared(&self, key: &BlobKey) -> Result<String> {
        self.begin_one(key, &AtomicU32::new(0)).await
    }

    async fn end_others(&self, key: &BlobKey, named: &str) -> Result<()> {
        self.abort_parts(key, Some(named)).await
    }
}

/// Refuses to go on when the receipts do not cover all bytes before the offset.
fn assert_covered(
    key: &BlobKey,
    receipts: &Receipts,
    part_bytes: u64,
    offset: u64,
    length: Option<u64>,
) -> Result<()> {
    let whole = offset / part_bytes;
    let rest = offset % part_bytes;
    let has = |k: u64| u32::try_from(k).is_ok_and(|k| receipts.parts.contains_key(&PartIndex(k)));
    let in_order = (0..whole).all(has);
    let tail = receipts.tail.map_or(0, |tail| tail.length);
    let ends = rest == tail || (tail == 0 && length == Some(offset) && has(whole));
    if in_order && ends {
        return Ok(());
    }
    Err(
        Error::new(ErrorKind::Damaged, "blob.resume", key.to_string())
            .with_source(format!("receipts do not cover {offset} bytes")),
    )
}

impl S3 {
    /// Waits until the writer before is gone, with all that it had on its way.
    async fn alone(&self, key: &BlobKey) -> Result<Arc<OwnedMutexGuard<()>>> {
        let lock = self.writer_of(key).lock_owned();
        let locked = tokio::time::timeout(LOCK_WAIT, lock).await;
        locked.map(Arc::new).map_err(|elapsed| {
            Error::new(ErrorKind::Unavailable, "blob.resume", key.to_string()).with_source(elapsed)
        })
    }

    /// The beginning of a part, as it was kept apart. Its memory is given back with its last byte.
    async fn tail(&self, tail: &Tail, memory: Option<Reservation>) -> Result<Segments> {
        const OP: &str = "blob.resume";
        let lost =
            |why: &str| Error::new(ErrorKind::Damaged, OP, tail.key.to_string()).with_source(why);
        let mut stream = match self.open(&tail.key, ByteRange::whole(tail.length)).await {
            Err(e) if e.kind() == ErrorKind::NotFound => return Err(lost("the tail is gone")),
            stream => stream?,
        };
        let memory = Arc::new(memory);
        let mut segments = Vec::new();
        while let Some(bytes) = stream.next().await {
            segments.push(Bytes::from_owner(Reread {
                bytes: bytes?,
                _memory: Arc::clone(&memory),
            }));
        }
        let segments = Segments::new(segments);
        if segments.len() != tail.length || crc64(&segments) != tail.crc64 {
            return Err(lost("the tail is not what was committed"));
        }
        Ok(segments)
    }

    /// One object by one call.
    pub(super) async fn put(
        &self,
        op: &'static str,
        key: &BlobKey,
        body: &Segments,
    ) -> Result<PartReceipt> {
        let (name, sum) = (self.name_of(key), Sum::of(self.checksum, body).await);
        let put = self
            .call(Op::new(op, key), body.len(), || {
                let put = self.client.put_object().bucket(&self.bucket).key(&name);
                let put = sum.clone().put(put.body(body.stream()));
                put.customize().disable_payload_signing().send()
            })
            .await?;
        receipt(op, key, put.e_tag(), sum.crc64)
    }

    /// For the one writer of that blob: what a try left behind whose answer was lost is given up.
    pub(super) async fn begin_parts(&self, key: &BlobKey) -> Result<String> {
        let tries = AtomicU32::new(0);
        let id = self.begin_one(key, &tries).await?;
        if tries.load(Ordering::Relaxed) > 1 {
            self.abort_parts(key, Some(&id)).await?;
        }
        Ok(id)
    }

    async fn begin_one(&self, key: &BlobKey, tries: &AtomicU32) -> Result<String> {
        const OP: &str = "upload.seal";
        let name = self.name_of(key);
        let begun = self
            .call(Op::new(OP, key), 0, || {
                tries.fetch_add(1, Ordering::Relaxed);
                self.client
                    .create_multipart_upload()
                    .bucket(&self.bucket)
                    .key(&name)
                    .set_checksum_algorithm(self.checksum.algorithm())
                    .set_checksum_type(self.checksum.of_parts())
                    .send()
            })
            .await?;
        let id = begun.upload_id().ok_or_else(|| {
            Error::new(ErrorKind::Unavailable, OP, key.to_string())
                .with_source("the store gave no upload id")
        })?;
        Ok(id.to_owned())
    }

    pub(super) async fn put_part(
        &self,
        key: &BlobKey,
        id: &str,
        part: PartIndex,
        body: &Segments,
    ) -> Result<PartReceipt> {
        const OP: &str = "upload.seal";
        let (name, sum) = (self.name_of(key), Sum::of(self.checksum, body).await);
        let number = number_of(part);
        let put = self
            .call(Op::new(OP, key), body.len(), || {
                let put = self.client.upload_part().bucket(&self.bucket).key(&name);
                let put = put.upload_id(id).part_number(number);
                let put = sum.clone().part(put.body(body.stream()));
                put.customize().disable_payload_signing().send()
            })
            .await
            .map_err(|e| match e.kind() {
                // The store gave the upload up: what was told to be durable is not.
                ErrorKind::NotFound => {
                    Error::new(ErrorKind::Gone, OP, key.to_string()).with_source(e)
                }
                _ => e,
            })?;
        receipt(OP, key, put.e_tag(), sum.crc64)
    }

    /// Makes one blob of the parts. An answer that is lost, and one that says that there is no such
    /// upload (any more), decide nothing: what is there afterwards does.
    pub(super) async fn complete(
        &self,
        key: &BlobKey,
        id: &str,
        part_bytes: u64,
        receipts: &Receipts,
    ) -> Result<u64> {
        let mut parts = receipts.parts.clone();
        let mut done = self.join_parts(key, id, &parts).await;
        // Another node may send a part once more at this moment, which changes its validator again.
        for _ in 0..RETAGS {
            let damaged = done.as_ref().is_err_and(|e| e.kind() == ErrorKind::Damaged);
            if !damaged || !self.retag(key, id, &mut parts).await? {
                break;
            }
            done = self.join_parts(key, id, &parts).await;
        }
        match (done, self.look_at(key).await) {
            (_, Ok(found)) => found.assert_joined(key, part_bytes, &parts).await,
            (Err(e), Err(unseen)) if unseen.kind() == ErrorKind::NotFound => Err(e),
            // It may have been made.
            (_, Err(unseen)) => Err(unseen),
        }
    }

    async fn join_parts(
        &self,
        key: &BlobKey,
        id: &str,
        parts: &BTreeMap<PartIndex, PartReceipt>,
    ) -> Result<()> {
        use aws_sdk_s3::types::CompletedMultipartUpload;

        let name = self.name_of(key);
        let listed = parts.iter().map(|(part, receipt)| {
            let number = number_of(*part);
            completed(self.checksum, number, &receipt.etag, receipt.crc64)
        });
        // The type of checksum was told at the beginning: here Garage takes it only beside a checksum of the whole.
        let listed = CompletedMultipartUpload::builder().set_parts(Some(listed.collect()));
        let listed = listed.build();
        self.call(Op::new("upload.commit", key), 0, || {
            self.client
                .complete_multipart_upload()
                .bucket(&self.bucket)
                .key(&name)
                .upload_id(id)
                .multipart_upload(listed.clone())
                .send()
        })
        .await
        .map(drop)
    }

    /// Takes the validators that the store has for the parts now: a part that was sent twice, since its
    /// answer was lost, may be held under either. False unless each has the bytes that it should have.
    async fn retag(
        &self,
        key: &BlobKey,
        id: &str,
        parts: &mut BTreeMap<PartIndex, PartReceipt>,
    ) -> Result<bool> {
        let (name, mut after) = (self.name_of(key), None);
        let mut held = BTreeMap::new();
        loop {
            let page = self
                .call(Op::new("upload.commit", key), 0, || {
                    self.client
                        .list_parts()
                        .bucket(&self.bucket)
                        .key(&name)
                        .upload_id(id)
                        .set_part_number_marker(after.clone())
                        .send()
                })
                .await?;
            for part in page.parts() {
                let sum = part.checksum_crc64_nvme().map(str::to_owned);
                let etag = part.e_tag().map(str::to_owned);
                held.insert(part.part_number(), sum.zip(etag));
            }
            let next = page.next_part_number_marker().map(str::to_owned);
            if page.is_truncated() != Some(true) || next.is_none() || next == after {
                break;
            }
            after = next;
        }
        for (part, receipt) in parts {
            match held.remove(&Some(number_of(*part))).flatten() {
                Some((sum, etag)) if sum == base64_of(receipt.crc64) => receipt.etag = etag,
                _ => return Ok(false),
            }
        }
        Ok(true)
    }
}

impl Object {
    /// Its length, if it is what the parts make.
    async fn assert_joined(
        self,
        key: &BlobKey,
        part_bytes: u64,
        parts: &BTreeMap<PartIndex, PartReceipt>,
    ) -> Result<u64> {
        let Some(found) = self.crc64 else {
            return Ok(self.length);
        };
        let sums: Vec<_> = parts.values().map(|receipt| receipt.crc64).collect();
        let before = part_bytes.saturating_mul((sums.len() as u64).saturating_sub(1));
        let last = self.length.saturating_sub(before);
        // Off the reactor: each of them takes a third of a millisecond, and there may be thousands.
        let combining = tokio::task::spawn_blocking(move || {
            let lengths = (1..sums.len()).map(|_| part_bytes).chain([last]);
            sums.iter().copied().zip(lengths).fold(0, combined)
        });
        let expected = combining.await.expect("a checksum does not panic");
        if found == base64_of(expected) {
            return Ok(self.length);
        }
        let why = "the object is not what its parts make";
        Err(Error::new(ErrorKind::Damaged, "upload.commit", key.to_string()).with_source(why))
    }
}

fn receipt(op: &'static str, key: &BlobKey, etag: Option<&str>, crc64: u64) -> Result<PartReceipt> {
    let etag = etag.map(str::to_owned).ok_or_else(|| {
        Error::new(ErrorKind::Unavailable, op, key.to_string())
            .with_source("the store gave no etag")
    })?;
    Ok(PartReceipt { etag, crc64 })
}

/// How often the validators of parts are looked up for one completion.
const RETAGS: u32 = 5;

/// S3 counts from 1.
fn number_of(part: PartIndex) -> i32 {
    i32::try_from(part.0).map_or(i32::MAX, |k| k.saturating_add(1))
}

#[derive(Debug)]
struct S3Sink {
    s3: S3,
    key: BlobKey,
    part_bytes: u64,
    length: Option<u64>,
    /// The store's id, once a part needed it.
    multipart: Arc<OnceCell<String>>,
    gathered: Arc<Mutex<Gathered>>,
    /// The tail that was read back, and where it begins.
    reread: Option<(u64, Segments)>,
    /// Shared with what is on its way: a part that lands late must not land on a successor's.
    alone: Arc<OwnedMutexGuard<()>>,
}

#[derive(Debug, Default)]
struct Gathered {
    /// What was not sent yet, by its offset.
    runs: BTreeMap<u64, Bytes>,
    receipts: Receipts,
    /// The bytes of the tail, for a blob that turns out to end there.
    tail: Option<(PartIndex, Segments)>,
}

impl S3Sink {
    fn gathered(&self) -> MutexGuard<'_, Gathered> {
        self.gathered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All that is there of a part, from its first byte on.
    fn body_of(&self, part: PartIndex) -> Result<Segments> {
        let start = u64::from(part.0) * self.part_bytes;
        let mut gathered = self.gathered();
        let mut runs = gathered.runs.split_off(&start);
        let mut behind = runs.split_off(&(start + self.part_bytes));
        gathered.runs.append(&mut behind);
        let mut segments = Vec::with_capacity(runs.len());
        let mut at = start;
        for (offset, bytes) in runs {
            if offset != at {
                return Err(self.failed(ErrorKind::Internal, format!("no bytes from {at} on")));
            }
            at += bytes.len() as u64;
            segments.push(bytes);
        }
        Ok(Segments::new(segments))
    }

    fn failed(&self, kind: ErrorKind, why: String) -> Error {
        Error::new(kind, "upload.seal", self.key.to_string()).with_source(why)
    }
}

#[async_trait]
impl UploadSink for S3Sink {
    fn write(&mut self, run: Run) -> BoxFuture<'static, Result<()>> {
        // What it counts for goes back to the pool with the last body that holds it.
        let bytes = Bytes::from_owner(run.bytes);
        self.gathered().runs.insert(run.offset, bytes);
        futures_util::future::ready(Ok(())).boxed()
    }

    fn seal(&mut self, part: PartIndex) -> BoxFuture<'static, Result<Receipt>> {
        let body = match self.body_of(part) {
            Ok(body) => body,
            Err(e) => return futures_util::future::ready(Err(e)).boxed(),
        };
        let start = u64::from(part.0) * self.part_bytes;
        let ends = self.length == Some(start + body.len());
        let whole = ends || body.len() == self.part_bytes;
        let (s3, key) = (self.s3.clone(), self.key);
        let (multipart, gathered) = (Arc::clone(&self.multipart), Arc::clone(&self.gathered));
        let alone = Arc::clone(&self.alone);
        async move {
            let receipt = if ends && start == 0 {
                let put = s3.put("upload.seal", &key, &body).await?;
                Receipt {
                    part: Some(put),
                    ..Receipt::default()
                }
            } else if whole {
                let id = multipart.get_or_try_init(|| s3.begin_parts(&key)).await?;
                Receipt {
                    upload: Some(id.clone()),
                    part: Some(s3.put_part(&key, id, part, &body).await?),
                    tail: None,
                }
            } else {
                let tail = BlobKey::random();
                let put = s3.put("upload.seal", &tail, &body).await?;
                Receipt {
                    upload: multipart.get().cloned(),
                    part: None,
                    tail: Some(Tail {
                        key: tail,
                        length: body.len(),
                        crc64: put.crc64,
                    }),
                }
            };
            let mut gathered = gathered.lock().unwrap_or_else(PoisonError::into_inner);
            // Seals end in any order: a part before the tail says nothing of it.
            let behind = gathered.tail.as_ref().is_some_and(|(tail, _)| *tail > part);
            let tail = if behind {
                gathered.receipts.tail
            } else {
                receipt.tail
            };
            gathered.receipts.add(
                part,
                Receipt {
                    tail,
                    ..receipt.clone()
                },
            );
            if !behind {
                gathered.tail = tail.map(|_| (part, body));
            }
            drop((gathered, alone));
            Ok(receipt)
        }
        .boxed()
    }

    fn ends_at(&mut self, length: u64) {
        self.length = Some(length);
    }

    fn reread(&self, range: ByteRange) -> Option<Vec<u8>> {
        let (start, segments) = self.reread.as_ref()?;
        let mut bytes = Vec::new();
        let mut at = *start;
        for segment in segments.iter() {
            let end = at + segment.len() as u64;
            let (from, to) = (range.start().clamp(at, end), range.end().clamp(at, end));
            let within = |offset: u64| usize::try_from(offset - at).unwrap_or(usize::MAX);
            bytes.extend_from_slice(segment.get(within(from)..within(to))?);
            at = end;
        }
        (bytes.len() as u64 == range.length()).then_some(bytes)
    }

    async fn commit(self: Box<Self>) -> Result<u64> {
        let (mut receipts, tail) = {
            let mut gathered = self.gathered();
            let tail = gathered.tail.take();
            (std::mem::take(&mut gathered.receipts), tail)
        };
        let tail = match (tail, &self.reread, receipts.tail) {
            (Some(tail), _, _) => Some(tail),
            // Nothing came since the tail was read back: the blob ends there.
            (None, Some((start, segments)), Some(_)) => {
                let part = u32::try_from(start / self.part_bytes).unwrap_or(u32::MAX);
                Some((PartIndex(part), segments.clone()))
            }
            _ => None,
        };
        let Some(id) = self.multipart.get() else {
            if let Some((_, body)) = tail {
                self.s3.put("upload.commit", &self.key, &body).await?;
            }
            return self.s3.stat(&self.key).await;
        };
        if let Some((part, body)) = tail {
            let put = self.s3.put_part(&self.key, id, part, &body).await;
            match put {
                Ok(put) => drop(receipts.parts.insert(part, put)),
                // Completed before, perhaps: what is there decides.
                Err(e) if e.kind() == ErrorKind::Gone => return self.s3.stat(&self.key).await,
                Err(e) => return Err(e),
            }
        }
        let (s3, part_bytes) = (&self.s3, self.part_bytes);
        s3.complete(&self.key, id, part_bytes, &receipts).await
    }

    async fn pause(self: Box<Self>, _offset: u64) -> Result<()> {
        // What lies behind the offset was never one with what is before it.
        Ok(())
    }

    async fn abort(self: Box<Self>) -> Result<()> {
        let tail = self.gathered().receipts.tail;
        if let Some(tail) = tail {
            self.s3.delete(&tail.key).await?;
        }
        self.s3.delete(&self.key).await
    }
}

/// Bytes that were read back, and the memory that is reserved for them.
struct Reread {
    bytes: Bytes,
    _memory: Arc<Option<Reservation>>,
}

impl AsRef<[u8]> for Reread {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}
