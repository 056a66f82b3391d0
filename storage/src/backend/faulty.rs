//! A store that fails on schedule: before an operation, after it (done, but the answer lost), or from
//! some call on for good, as a process does that dies.
//!
//! [`Faults`] counts every call that asks it, so one schedule can cover several parts of a test at
//! once: a run without faults tells which calls there are, then each can be failed in turn.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;

use crate::blob::{BlobKey, UploadId};
use crate::error::{Error, ErrorKind, Result};
use crate::range::ByteRange;
use crate::store::{
    DeleteBlob, FreeSpace, Kept, ListBlobs, PartIndex, ReadBlob, Receipt, Run, Sidecars, Space,
    Store, UploadSink, WriteBlob,
};

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It fails and does nothing.
    Before(ErrorKind),
    /// It is done, then its answer is lost.
    After(ErrorKind),
    /// It fails, does nothing, and so does every call after it.
    Halt,
}

/// A schedule of failures, shared by all that ask it; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    shared: Arc<Mutex<Schedule>>,
}

#[derive(Debug, Default)]
struct Schedule {
    calls: Vec<&'static str>,
    planned: Vec<(&'static str, usize, Fault)>,
    halt_at: Option<usize>,
    halted: bool,
}

impl Faults {
    /// No failure at all, until one is planned.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets the `nth` call of `op`, counted from 0, fail. Counting by operation keeps a schedule
    /// repeatable where operations overlap.
    pub fn plan(&self, op: &'static str, nth: usize, fault: Fault) {
        self.schedule().planned.push((op, nth, fault));
    }

    /// Lets every call fail from here on, once `calls` more were made.
    pub fn halt_after(&self, calls: usize) {
        let mut schedule = self.schedule();
        schedule.halt_at = Some(schedule.calls.len() + calls);
    }

    /// Whether every call fails by now.
    pub fn is_halted(&self) -> bool {
        self.schedule().halted
    }

    /// The operations called so far, in order.
    pub fn calls(&self) -> Vec<&'static str> {
        self.schedule().calls.clone()
    }

    /// Every operation called so far, with how often it was.
    pub fn times(&self) -> BTreeMap<&'static str, usize> {
        let mut times = BTreeMap::new();
        for call in &self.schedule().calls {
            *times.entry(*call).or_default() += 1;
        }
        times
    }

    /// Counts one call of `op` and runs `call` as the schedule has it.
    ///
    /// # Errors
    /// That of `call`, or the planned one.
    pub async fn around<T: Send>(
        &self,
        op: &'static str,
        call: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        match self.next(op) {
            None => call.await,
            Some(Fault::Before(kind)) => Err(Error::new(kind, op, "planned fault before")),
            Some(Fault::Halt) => Err(halted(op)),
            Some(Fault::After(kind)) => {
                call.await?;
                Err(Error::new(kind, op, "planned fault after"))
            }
        }
    }

    fn next(&self, op: &'static str) -> Option<Fault> {
        let mut schedule = self.schedule();
        schedule.halted |= schedule
            .halt_at
            .is_some_and(|at| schedule.calls.len() >= at);
        if schedule.halted {
            return Some(Fault::Halt);
        }
        let nth = schedule.calls.iter().filter(|call| **call == op).count();
        schedule.calls.push(op);
        let planned = schedule.planned.iter();
        let fault = planned
            .filter(|(planned, at, _)| *planned == op && *at == nth)
            .map(|(_, _, fault)| *fault)
            .next();
        schedule.halted = fault == Some(Fault::Halt);
        fault
    }

    fn schedule(&self) -> MutexGuard<'_, Schedule> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn halted(op: &'static str) -> Error {
    Error::new(ErrorKind::Unavailable, op, "halted")
}

/// `inner`, failing as `faults` has it.
pub fn wrap(inner: Store, faults: &Faults) -> Store {
    let Store {
        read,
        write,
        delete,
        list,
        // As the store does by itself.
        shared,
        sidecars,
        space,
        // As files they would pass by the schedule, and so would who reads past us.
        files: _,
        presign: _,
        redirect_for: _,
        intake,
    } = inner;
    let faults = faults.clone();
    Store {
        read: Arc::new(Faulty(read, faults.clone())),
        write: Arc::new(Faulty(write, faults.clone())),
        delete: delete.map(|d| Arc::new(Faulty(d, faults.clone())) as _),
        list: list.map(|l| Arc::new(Faulty(l, faults.clone())) as _),
        shared,
        sidecars: sidecars.map(|s| Arc::new(Faulty(s, faults.clone())) as _),
        space: space.map(|s| Arc::new(Faulty(s, faults)) as _),
        files: None,
        presign: None,
        redirect_for: None,
        intake,
    }
}

/// One capability and the schedule it fails by.
#[derive(Debug)]
struct Faulty<C>(C, Faults);

#[async_trait]
impl ReadBlob for Faulty<Arc<dyn ReadBlob>> {
    async fn stat(&self, key: &BlobKey) -> Result<u64> {
        self.1.around("store.stat", self.0.stat(key)).await
    }

    async fn open(
        &self,
        key: &BlobKey,
        range: ByteRange,
    ) -> Result<BoxStream<'static, Result<Bytes>>> {
        self.1.around("store.open", self.0.open(key, range)).await
    }
}

#[async_trait]
impl WriteBlob for Faulty<Arc<dyn WriteBlob>> {
    async fn begin(
        &self,
        key: &BlobKey,
        part_bytes: u64,
        length: Option<u64>,
    ) -> Result<Box<dyn UploadSink>> {
        let begin = self.0.begin(key, part_bytes, length);
        let inner = self.1.around("store.begin", begin).await?;
        Ok(Box::new(FaultySink(inner, self.1.clone())))
    }

    async fn resume(
        &self,
        key: &BlobKey,
        part_bytes: u64,
        offset: u64,
        kept: Kept,
    ) -> Result<Box<dyn UploadSink>> {
        let resume = self.0.resume(key, part_bytes, offset, kept);
        let inner = self.1.around("store.resume", resume).await?;
        Ok(Box::new(FaultySink(inner, self.1.clone())))
    }
}

#[derive(Debug)]
struct FaultySink(Box<dyn UploadSink>, Faults);

#[async_trait]
impl UploadSink for FaultySink {
    fn write(&mut self, run: Run) -> BoxFuture<'static, Result<()>> {
        // Decided now, not at the first poll: the work must start without being polled.
        let op = "sink.write";
        match self.1.next(op) {
            None => self.0.write(run),
            Some(Fault::Before(kind)) => fails(Error::new(kind, op, "planned fault before")),
            Some(Fault::Halt) => fails(halted(op)),
            Some(Fault::After(kind)) => {
                let done = self.0.write(run);
                async move {
                    done.await?;
                    Err(Error::new(kind, op, "planned fault after"))
                }
                .boxed()
            }
        }
    }

    fn ends_at(&mut self, length: u64) {
        self.0.ends_at(length);
    }

    fn reread(&self, range: ByteRange) -> Option<Vec<u8>> {
        self.0.reread(range)
    }

    fn seal(&mut self, part: PartIndex) -> BoxFuture<'static, Result<Receipt>> {
        let sealed = self.0.seal(part);
        let faults = self.1.clone();
        async move { faults.around("sink.seal", sealed).await }.boxed()
    }

    async fn commit(self: Box<Self>) -> Result<u64> {
        self.1.around("sink.commit", self.0.commit()).await
    }

    async fn pause(self: Box<Self>, offset: u64) -> Result<()> {
        self.1.around("sink.pause", self.0.pause(offset)).await
    }

    async fn abort(self: Box<Self>) -> Result<()> {
        self.1.around("sink.abort", self.0.abort()).await
    }
}

fn fails(error: Error) -> BoxFuture<'static, Result<()>> {
    futures_util::future::ready(Err(error)).boxed()
}

#[async_trait]
impl DeleteBlob for Faulty<Arc<dyn DeleteBlob>> {
    async fn delete(&self, key: &BlobKey) -> Result<()> {
        self.1.around("store.delete", self.0.delete(key)).await
    }
}

#[async_trait]
impl ListBlobs for Faulty<Arc<dyn ListBlobs>> {
    async fn page(&self, after: Option<BlobKey>, limit: usize) -> Result<Vec<BlobKey>> {
        self.1.around("store.page", self.0.page(after, limit)).await
    }
}

#[async_trait]
impl Sidecars for Faulty<Arc<dyn Sidecars>> {
    async fn put(&self, key: &BlobKey, id: UploadId, text: &str) -> Result<()> {
        let put = self.0.put(key, id, text);
        self.1.around("store.put_sidecar", put).await
    }

    async fn remove(&self, key: &BlobKey, id: UploadId) -> Result<()> {
        let removed = self.0.remove(key, id);
        self.1.around("store.remove_sidecar", removed).await
    }

    async fn beside(&self, key: &BlobKey) -> Result<Vec<(UploadId, Vec<u8>)>> {
        self.1.around("store.sidecars", self.0.beside(key)).await
    }
}

#[async_trait]
impl FreeSpace for Faulty<Arc<dyn FreeSpace>> {
    async fn free_space(&self) -> Result<Space> {
        self.1.around("store.free_space", self.0.free_space()).await
    }
}
