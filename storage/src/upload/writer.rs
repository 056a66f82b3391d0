//! The writing end of one upload: hash while hot, copy once, hand over as soon as a buffer is full.

use std::sync::Arc;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{MappedMutexGuard, MutexGuard, watch};

use super::active::{Active, ended};
use super::committer::Shared;
use super::registry::Cell;
use crate::blob::UploadId;
use crate::digest::{Algorithm, Digest};
use crate::error::{Error, ErrorKind, Result};
use crate::metadata::uploads::Published;
use crate::trace::carried;

/// The writing end of one upload. Dropping it gives the upload up in the background, or pauses it
/// there ([`Keep::UntilIdle`](super::Keep::UntilIdle)).
#[derive(Debug)]
pub struct UploadWriter {
    id: UploadId,
    cell: Arc<Cell>,
    state: Shared,
    progress: watch::Receiver<u64>,
    runtime: Handle,
}

impl UploadWriter {
    pub(super) fn new(
        id: UploadId,
        cell: Arc<Cell>,
        state: Shared,
        progress: watch::Receiver<u64>,
    ) -> Self {
        Self {
            id,
            cell,
            state,
            progress,
            runtime: Handle::current(),
        }
    }

    /// Which upload.
    pub fn id(&self) -> UploadId {
        self.id
    }

    /// Hashes by that algorithm, too, since a digest by it may become known behind the bytes.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] once bytes were written without it.
    pub fn want(&mut self, algorithm: Algorithm) -> Result<()> {
        self.enter("upload.want")?.want(algorithm)
    }

    /// Adds a digest of the whole to verify at the end that became known after the first byte (a form
    /// field behind the file part). Only BLAKE3, SHA-256 where it is not deferred, and what was [wanted](Self::want) can
    /// come late: others would need the bytes again.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] for another algorithm once bytes were written.
    pub fn expect(&mut self, digest: Digest) -> Result<()> {
        self.enter("upload.expect")?.expect(digest)
    }

    /// Lets the first bytes of this writer that are committed end what the same account left open under the
    /// same name before, and its publication what is left open by then: see
    /// [`UploadEngine::supersede`](super::UploadEngine::supersede). Until then nothing is replaced, whatever becomes of
    /// this one.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Fenced`] once a newer request took the upload over.
    pub fn supersede(&mut self) -> Result<()> {
        self.enter("upload.supersede")?.supersede();
        Ok(())
    }

    /// Holds back this writer's bytes until [`Self::release`] found that their digest is `digest`:
    /// none of them is committed before. Pausing and finishing release by themselves.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] after the first byte, or when a digest is held already.
    pub fn hold(&mut self, digest: Digest) -> Result<()> {
        let algorithm = digest.algorithm();
        self.enter("upload.hold")?.hold(&[algorithm], Some(digest))
    }

    /// Holds back this writer's bytes until [`Self::tell`] told their digest, by any of `algorithms`, and
    /// [`Self::release`] found it right. Each algorithm costs its own pass over the bytes while they are
    /// hot.
    ///
    /// # Errors
    /// As [`Self::hold`].
    pub fn hold_untold(&mut self, algorithms: &[Algorithm]) -> Result<()> {
        self.enter("upload.hold")?.hold(algorithms, None)
    }

    /// Tells the digest that [`Self::hold_untold`] waits for.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] for an algorithm that is not hashed, and when none is waited for.
    pub fn tell(&mut self, digest: Digest) -> Result<()> {
        self.enter("upload.tell")?.tell(digest)
    }

    /// Compares the digest of this writer's bytes with the one that was given to [`Self::hold`], and
    /// lets them be committed. Without one it does nothing.
    ///
    /// # Errors
    /// [`crate::ErrorKind::DigestMismatch`], also when the digest was never told: the bytes are
    /// discarded, the offset stays where it was, and the writer is fit only to be dropped.
    pub async fn release(&mut self) -> Result<()> {
        let mut active = self.enter("upload.release")?;
        tokio::select! {
            biased;
            () = self.cell.taken_over.cancelled() => Err(self.fenced("upload.release")),
            released = active.release() => released,
        }
    }

    /// Waits while no memory is to be had for what [`Self::write`] would take next, so that nobody holds a chunk
    /// meanwhile. Without waiting it does nothing.
    ///
    /// # Errors
    /// As [`Self::write`].
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn room(&mut self) -> Result<()> {
        let mut active = self.enter("upload.write")?;
        tokio::select! {
            biased;
            () = self.cell.taken_over.cancelled() => Err(self.fenced("upload.write")),
            ready = active.prepare() => ready,
        }
    }

    /// Takes one chunk of any size; waits while memory or the store has no room.
    ///
    /// # Errors
    /// [`crate::ErrorKind::TooLarge`] past the limit and [`crate::ErrorKind::LengthMismatch`] past the
    /// declared length: nothing of the chunk is taken. [`crate::ErrorKind::Fenced`] once a newer
    /// request took the upload over. Whatever the store answers: then only [`Self::pause`],
    /// [`Self::abort`] and drop are left.
    /// # Cancel safety
    /// Dropping the future leaves a beginning of the chunk taken, and the writer fit only for
    /// [`Self::pause`], [`Self::abort`] and drop.
    pub async fn write(&mut self, chunk: Bytes) -> Result<()> {
        let mut active = self.enter("upload.write")?;
        tokio::select! {
            biased;
            () = self.cell.taken_over.cancelled() => Err(self.fenced("upload.write")),
            written = active.write(chunk) => written,
        }
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
        let mut active = self.enter("upload.write")?;
        tokio::select! {
            biased;
            () = self.cell.taken_over.cancelled() => Err(self.fenced("upload.write")),
            given = active.give_memory_back() => given,
        }
    }

    /// Bytes taken so far from the blob's start, durable or not.
    pub fn received_bytes(&self) -> u64 {
        self.state.lock().received()
    }

    /// Bytes that are durable and committed; trails [`Self::received_bytes`] by some parts.
    pub fn committed_bytes(&self) -> u64 {
        self.state.lock().committed()
    }

    /// The declared length in bytes, if any.
    pub fn length(&self) -> Option<u64> {
        self.state.lock().length()
    }

    /// The committed offset as it moves; each value may be told at once.
    pub fn progress(&self) -> watch::Receiver<u64> {
        self.progress.clone()
    }

    /// Bytes until the part that is coming is whole: 0 between two. `None` where the upload ends before, or where what came is
    /// [held](Self::hold) and so would not count.
    pub fn to_part_end(&self) -> Option<u64> {
        let active = self.enter("upload.rest").ok()?;
        if active.holds() {
            return None;
        }
        drop(active);
        self.state.lock().to_part_end()
    }

    /// Resolves when a newer request took the upload over or ended it. Every call fails with
    /// [`crate::ErrorKind::Fenced`] from then on.
    pub fn taken_over(&self) -> impl Future<Output = ()> + Send + 'static {
        self.cell.taken_over.clone().cancelled_owned()
    }

    /// Makes durable what arrived, commits it, and leaves the upload open; returns the committed
    /// offset in bytes. Goes on in the background when the future is dropped.
    ///
    /// # Errors
    /// [`crate::ErrorKind::DigestMismatch`] when what is [held](Self::hold) has another digest;
    /// [`crate::ErrorKind::Fenced`]; what the store or the rows answer: then the offset is where the
    /// last commit left it.
    pub async fn pause(self) -> Result<u64> {
        let active = self.take("upload.pause")?;
        let background = active.engine.background.clone();
        let paused = background.spawn(active.pause());
        paused.await.unwrap_or_else(|panicked| {
            let error = Error::new(ErrorKind::Internal, "upload.pause", self.id.to_string());
            Err(error.with_source(panicked))
        })
    }

    /// Leaves the upload open where the last commit left it; returns that offset in bytes. What came since
    /// is gone, and counts no more than if it had not come.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Fenced`].
    pub async fn discard(self) -> Result<u64> {
        let active = self.take("upload.discard")?;
        let background = active.engine.background.clone();
        if let Err(panicked) = background.spawn(active.leave()).await {
            let error = Error::new(ErrorKind::Internal, "upload.discard", self.id.to_string());
            return Err(error.with_source(panicked));
        }
        Ok(self.committed_bytes())
    }

    /// Makes everything durable, compares length and digests, publishes in one transaction. Goes on in
    /// the background when the future is dropped: the outcome is one whole publication or none.
    ///
    /// # Errors
    /// [`crate::ErrorKind::DigestMismatch`]: nothing is published and the bytes are given up, unless
    /// it was the digest of what is [held](Self::hold).
    /// [`crate::ErrorKind::LengthMismatch`]: bytes are missing; a kept upload pauses, another is given
    /// up. [`crate::ErrorKind::Invalid`] for an upload without a byte, unless that was declared.
    /// [`crate::ErrorKind::Unavailable`] and [`crate::ErrorKind::Internal`] leave open whether
    /// recovery will publish it.
    pub async fn finish(self) -> Result<Published> {
        drop(self.enter("upload.finish")?);
        let active = self.take("upload.finish")?;
        let background = active.engine.background.clone();
        let finished = background.spawn(carried(active.finish()));
        finished.await.unwrap_or_else(|panicked| {
            let error = Error::new(ErrorKind::Internal, "upload.finish", self.id.to_string());
            Err(error.with_source(panicked))
        })
    }

    /// Gives the upload up and removes what it stored, unless a newer request owns it. Goes on in the
    /// background when the future is dropped.
    pub async fn abort(self) {
        if let Ok(active) = self.take("upload.abort") {
            let background = active.engine.background.clone();
            let aborted = background.spawn(active.abort());
            if let Err(panicked) = aborted.await {
                tracing::error!(upload = %self.id, error = %panicked, "abort panicked");
            }
        }
    }

    /// The upload, if it can go on: not ended, not taken over, not cut within a write.
    fn enter(&self, op: &'static str) -> Result<MappedMutexGuard<'_, Active>> {
        let active = self.locked(op)?;
        let active = MutexGuard::try_map(active, Option::as_deref_mut);
        let active = active.map_err(|_absent| ended(op, self.id))?;
        active.assert_whole(op)?;
        Ok(active)
    }

    /// Ends this writer: all that it holds.
    fn take(&self, op: &'static str) -> Result<Box<Active>> {
        let mut active = self.locked(op)?;
        // Told before anybody else can find it gone.
        self.cell.closing.cancel();
        active.take().ok_or_else(|| ended(op, self.id))
    }

    fn locked(&self, op: &'static str) -> Result<MutexGuard<'_, Option<Box<Active>>>> {
        // Only a newer request ever competes for the lock.
        let locked = self.cell.active.try_lock();
        match locked {
            Ok(active) if !self.cell.taken_over.is_cancelled() => Ok(active),
            _ => Err(self.fenced(op)),
        }
    }

    fn fenced(&self, op: &'static str) -> Error {
        Error::new(ErrorKind::Fenced, op, self.id.to_string())
    }
}

impl Drop for UploadWriter {
    fn drop(&mut self) {
        // Whoever took it over takes what is left, too.
        if let Ok(mut active) = self.cell.active.try_lock()
            && let Some(active) = active.take()
        {
            self.cell.closing.cancel();
            let background = active.engine.background.clone();
            background.spawn_on(active.close(), &self.runtime);
        }
    }
}
