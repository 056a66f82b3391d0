//! The writing end of one upload: hash while hot, copy once, hand over as soon as a buffer is full.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::committer::{Committer, PartHashes, Shared};
use super::engine::{InProgress, Inner, Stored};
use super::part::PartAssembler;
use super::state::{Refusal, Step};
use super::stats::{Stage, count};
use crate::blob::UploadId;
use crate::digest::{ContentHasher, Digest, Digests};
use crate::error::{Error, ErrorKind, Result};
use crate::metadata::uploads::{Completion, Published};
use crate::store::{Run, UploadSink};

/// The writing end of one upload. Dropping it gives the upload up in the background.
#[derive(Debug)]
pub struct UploadWriter {
    /// Absent once the upload is finished or given up.
    active: Option<Box<Active>>,
    id: UploadId,
}

impl UploadWriter {
    pub(super) fn new(active: Active) -> Self {
        Self {
            id: active.stored.fence.id,
            active: Some(Box::new(active)),
        }
    }

    /// Which upload.
    pub fn id(&self) -> UploadId {
        self.id
    }

    /// Adds a digest to verify at the end that became known after the first byte (a form field behind
    /// the file part). Only BLAKE3 and SHA-256 can come late: others would need the bytes again.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] for another algorithm once bytes were written.
    pub fn expect(&mut self, digest: Digest) -> Result<()> {
        let active = self.active_mut("upload.expect")?;
        // Asked of what was received: hashing may trail it by less than a buffer.
        let late = active.state.lock().received() > 0 && !active.hasher.has(digest.algorithm());
        if late || !active.hasher.want(digest.algorithm()) {
            let error = Error::new(
                ErrorKind::Invalid,
                "upload.expect",
                digest.algorithm().name(),
            );
            return Err(error.with_source("this digest must be declared before the first byte"));
        }
        active.expected.push(digest);
        Ok(())
    }

    /// Takes one chunk of any size; waits while memory or the store has no room.
    ///
    /// # Errors
    /// [`crate::ErrorKind::TooLarge`] past the limit, [`crate::ErrorKind::LengthMismatch`] past the
    /// declared length, and whatever the store answers. After an error only [`Self::abort`] is left.
    /// # Cancel safety
    /// Not cancel safe: dropping the future leaves the writer fit only for [`Self::abort`] or drop.
    pub async fn write(&mut self, chunk: Bytes) -> Result<()> {
        let active = self.active_mut("upload.write")?;
        active.whole = false;
        active.write(chunk).await?;
        if active.is_slow_while_others_wait() {
            active.give_memory_back().await?;
        }
        active.whole = true;
        Ok(())
    }

    /// Hands a buffer that is not full yet to the store, so that this upload holds no memory while its
    /// client is slow. [`Self::write`] does so by itself when others wait for a buffer; call this when
    /// no chunk came for about a second.
    ///
    /// # Errors
    /// As [`Self::write`].
    /// # Cancel safety
    /// As [`Self::write`].
    pub async fn give_memory_back(&mut self) -> Result<()> {
        let active = self.active_mut("upload.write")?;
        active.whole = false;
        active.give_memory_back().await?;
        active.whole = true;
        Ok(())
    }

    /// Bytes taken so far, durable or not.
    pub fn received_bytes(&self) -> u64 {
        self.active
            .as_ref()
            .map_or(0, |active| active.state.lock().received())
    }

    /// Bytes that are durable and committed; trails [`Self::received_bytes`] by some parts.
    pub fn committed_bytes(&self) -> u64 {
        self.active
            .as_ref()
            .map_or(0, |active| active.state.lock().committed())
    }

    /// Makes everything durable, compares length and digests, publishes in one transaction. Goes on in
    /// the background when the future is dropped: the outcome is one whole publication or none.
    ///
    /// # Errors
    /// [`crate::ErrorKind::LengthMismatch`], [`crate::ErrorKind::DigestMismatch`]: nothing is
    /// published and the bytes are given up. [`crate::ErrorKind::Invalid`] for an upload without a
    /// byte. [`crate::ErrorKind::Unavailable`] and [`crate::ErrorKind::Internal`] leave open whether
    /// recovery will publish it.
    pub async fn finish(mut self) -> Result<Published> {
        self.active_mut("upload.finish")?;
        let id = self.id;
        let Some(active) = self.active.take() else {
            return Err(ended("upload.finish", id));
        };
        let background = active.engine.background.clone();
        let finished = background.spawn(active.finish());
        finished.await.unwrap_or_else(|panicked| {
            let error = Error::new(ErrorKind::Internal, "upload.finish", id.to_string());
            Err(error.with_source(panicked))
        })
    }

    /// Gives the upload up and removes what it stored. Goes on in the background when the future is
    /// dropped.
    pub async fn abort(mut self) {
        if let Some(active) = self.active.take() {
            let background = active.engine.background.clone();
            let aborted = background.spawn(active.abort());
            if let Err(panicked) = aborted.await {
                tracing::error!(upload = %self.id, error = %panicked, "abort panicked");
            }
        }
    }

    /// The upload, if it can go on: neither ended, nor cut within a write.
    fn active_mut(&mut self, op: &'static str) -> Result<&mut Active> {
        match &mut self.active {
            Some(active) if active.whole => Ok(active),
            _ => Err(ended(op, self.id)),
        }
    }
}

impl Drop for UploadWriter {
    fn drop(&mut self) {
        if let Some(active) = self.active.take() {
            let (background, runtime) = (active.engine.background.clone(), active.runtime.clone());
            background.spawn_on(active.abort(), &runtime);
        }
    }
}

fn ended(op: &'static str, id: UploadId) -> Error {
    Refusal::Ended.into_error(op, id.to_string())
}

/// Everything that an unfinished upload holds.
#[derive(Debug)]
pub(super) struct Active {
    engine: Arc<Inner>,
    stored: Stored,
    state: Shared,
    assembler: PartAssembler,
    hasher: ContentHasher,
    expected: Vec<Digest>,
    sink: Box<dyn UploadSink>,
    /// When the current buffer was taken.
    held_since: Instant,
    /// Runs of the current part on their way to the store.
    runs: FuturesUnordered<BoxFuture<'static, Result<()>>>,
    committer: Committer,
    /// False while a write is under way and after one failed: then bytes may be missing.
    whole: bool,
    runtime: Handle,
    _in_progress: InProgress,
}

impl Active {
    /// Called within a runtime, which also runs what happens in the background.
    pub(super) fn new(
        engine: Arc<Inner>,
        stored: Stored,
        sink: Box<dyn UploadSink>,
        state: Shared,
        expected: Vec<Digest>,
        in_progress: InProgress,
    ) -> Self {
        let runtime = Handle::current();
        Self {
            committer: Committer::start(&engine, stored.fence, state.clone(), &runtime),
            hasher: ContentHasher::new(expected.iter().map(Digest::algorithm)),
            engine,
            stored,
            state,
            assembler: PartAssembler::new(),
            expected,
            sink,
            held_since: Instant::now(),
            runs: FuturesUnordered::new(),
            whole: true,
            runtime,
            _in_progress: in_progress,
        }
    }

    async fn write(&mut self, mut chunk: Bytes) -> Result<()> {
        let received = self.state.lock().receive(chunk.len() as u64);
        received.map_err(|refusal| refusal.into_error("upload.write", self.stored.subject()))?;
        count(&self.engine.counters.bytes_received, chunk.len() as u64);
        while !chunk.is_empty() {
            if self.assembler.wants_buffer() {
                self.room().await?;
            }
            self.push(&mut chunk);
            if let Some(run) = self.assembler.full() {
                self.hand_over(run).await?;
                // A MiB took a millisecond of hashing; others want this thread, too.
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }

    /// One that needs longer than this for a MiB may not keep it from others.
    fn is_slow_while_others_wait(&self) -> bool {
        self.assembler.holds_bytes()
            && self.engine.options.pool.waiting() > 0
            && self.held_since.elapsed() >= SLOW
    }

    async fn give_memory_back(&mut self) -> Result<()> {
        self.hash(0);
        match self.assembler.rest() {
            Some(run) => self.hand_over(run).await,
            None => Ok(()),
        }
    }

    /// Gets a buffer, watching meanwhile whether the runs that hold others fare well.
    async fn room(&mut self) -> Result<()> {
        let started = Instant::now();
        let pool = self.engine.options.pool.clone();
        // Pinned outside the loop: a new future would go to the end of the queue.
        let mut taken = std::pin::pin!(pool.take());
        loop {
            tokio::select! {
                biased;
                buffer = &mut taken => {
                    self.assembler.give(buffer);
                    self.held_since = Instant::now();
                    self.engine.counters.spent(Stage::Room, started);
                    return Ok(());
                }
                Some(written) = self.runs.next(), if !self.runs.is_empty() => written?,
            }
        }
    }

    /// Copies what fits of the chunk into the current buffer, and hashes it while it is hot.
    fn push(&mut self, chunk: &mut Bytes) {
        let counters = &self.engine.counters;
        let started = Instant::now();
        let copied = self.assembler.push(chunk);
        counters.spent(Stage::Copy, started);
        count(&counters.bytes_copied, copied as u64);
        chunk.advance(copied);
        self.hash(HASH_AT_LEAST);
    }

    fn hash(&mut self, at_least: usize) {
        if let Some(bytes) = self.assembler.unhashed(at_least) {
            let started = Instant::now();
            self.hasher.update_tree(bytes);
            self.engine.counters.spent(Stage::Blake3, started);
            let started = Instant::now();
            self.hasher.update_in_order(bytes);
            self.engine.counters.spent(Stage::InOrder, started);
        }
    }

    /// Gives a run to the store, and its part to the committer when that was the part's last.
    async fn hand_over(&mut self, run: Run) -> Result<()> {
        let started = Instant::now();
        while self.runs.len() >= RUNS_IN_FLIGHT {
            if let Some(written) = self.runs.next().await {
                written?;
            }
        }
        self.engine.counters.spent(Stage::Room, started);
        let to = run.offset + run.buffer.len() as u64;
        self.runs.push(self.sink.write(run));
        let step = self.state.lock().hand_over(to);
        match step {
            Some(step) => self.seal(step).await,
            None if self.committer.failed() => Err(self.failure().await),
            None => Ok(()),
        }
    }

    /// Lets a part become durable and be committed, in the background.
    async fn seal(&mut self, step: Step) -> Result<()> {
        let started = Instant::now();
        let mut runs = std::mem::take(&mut self.runs);
        let sealed = self.sink.seal(crate::store::PartIndex(step.part));
        let engine = Arc::clone(&self.engine);
        let durable = Box::pin(async move {
            while let Some(written) = runs.next().await {
                written?;
            }
            sealed.await?;
            engine.counters.spent(Stage::Seal, started);
            Ok(())
        });
        let hashes = PartHashes {
            values: self.hasher.take_values(),
            states: self.hasher.states(),
        };
        let taken = self.committer.take(step, hashes, durable).await;
        self.engine.counters.spent(Stage::Room, started);
        match taken {
            Ok(()) => Ok(()),
            Err(_failed) => Err(self.failure().await),
        }
    }

    /// Everything up to C0: the last part is handed over, the digests are as declared, and all parts
    /// are durable and committed.
    async fn make_durable(&mut self) -> Result<Completion> {
        let ended = self.state.lock().end();
        let length =
            ended.map_err(|refusal| refusal.into_error("upload.finish", self.stored.subject()))?;
        self.hash(0);
        let found = self.hasher.finish();
        self.compare(&found)?;
        if let Some(run) = self.assembler.rest() {
            self.hand_over(run).await?;
        } else {
            // The last buffer was full, and perhaps its part was not.
            let step = self.state.lock().hand_over(length);
            if let Some(step) = step {
                self.seal(step).await?;
            }
        }
        self.committer.end().await?;
        Ok(Completion {
            length,
            blake3: found.blake3,
            sha256: found.sha256,
        })
    }

    fn compare(&self, found: &Digests) -> Result<()> {
        for declared in &self.expected {
            let algorithm = declared.algorithm();
            if found.by(algorithm).as_ref() != Some(declared) {
                let found = found.by(algorithm).map_or_else(String::new, |d| d.to_hex());
                let why = format!("{} is {found}, not {}", algorithm.name(), declared.to_hex());
                let kind = ErrorKind::DigestMismatch;
                return Err(
                    Error::new(kind, "upload.finish", self.stored.subject()).with_source(why)
                );
            }
        }
        Ok(())
    }

    /// Ends the upload without a trace, once nothing of it is on its way to the store any more.
    async fn abort(self: Box<Self>) {
        let Self {
            engine,
            stored,
            assembler,
            sink,
            mut runs,
            mut committer,
            _in_progress,
            ..
        } = *self;
        drop(assembler);
        while let Some(_given_up) = runs.next().await {}
        committer.give_up().await;
        engine.give_up(&stored, Some(sink)).await;
    }

    /// Why the committer stopped.
    async fn failure(&mut self) -> Error {
        let stopped = self.committer.failure().await;
        stopped.unwrap_or_else(|| ended("upload.write", self.stored.fence.id))
    }

    async fn finish(mut self: Box<Self>) -> Result<Published> {
        match self.make_durable().await {
            Ok(completion) => {
                let Self {
                    engine,
                    stored,
                    sink,
                    _in_progress,
                    ..
                } = *self;
                engine.complete_and_publish(&stored, sink, completion).await
            }
            Err(e) => {
                self.abort().await;
                Err(e)
            }
        }
    }
}

/// Runs of one upload on their way to the store at once: enough that the disk never waits for a thread
/// to wake. More gained nothing on one disk (writes that extend a file take turns).
const RUNS_IN_FLIGHT: usize = 4;
/// A buffer that is held for longer and not full goes to the store early when others wait: it costs one
/// small write through the page cache, where a hundred slow clients would otherwise hold the whole pool.
const SLOW: Duration = Duration::from_secs(1);
/// Bytes hashed at once, if that many came: BLAKE3 does 3.1 GB/s by 8 KiB, 5 GB/s from here on, and
/// what was just copied is still in the second-level cache.
const HASH_AT_LEAST: usize = 64 << 10;
