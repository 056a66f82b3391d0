//! Taking blobs from one store to another, one after the other, while everything else goes on.
//!
//! The bytes are read MiB by MiB against what was hashed when they came in, written under the same key in the other
//! store and read back there. Only then the row of the blob names the other store, and what the first one holds goes
//! to the trash, due when the last download that began there is over. A copy that is cut leaves bytes which no row
//! names; the next one removes them before it begins, and does not copy again what is done. What is not copied stays
//! where it is and is told: damage, blobs that nothing holds, uploads in progress.

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::{BoxFuture, FutureExt as _, ready, try_join};
use futures_util::stream::BoxStream;
use serde::{Deserialize, Serialize};

use super::scrub::{Pace, place_behind};
use super::{Finding, Problem, Stock};
use crate::blob::BlobKey;
use crate::buffer::{BUFFER_BYTES, Reservation};
use crate::digest::BLOCK_BYTES;
use crate::error::{Error, ErrorKind, Result};
use crate::layer::verify::{self, BlobTree};
use crate::metadata::scrub::ToScrub;
use crate::range::ByteRange;
use crate::store::{DeleteBlob, Intake, PartIndex, Receipt, Run, RunBytes, Store, UploadSink};
use crate::upload::part_bytes_for;

/// How much was copied, and what was not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copied {
    /// Blobs that are in the other store now.
    pub blobs: u64,
    /// Their bytes, and those of the one that is on its way.
    pub bytes: u64,
    /// Bytes that were to be copied when it began.
    pub total_bytes: u64,
    /// Blobs that could not be read as they were hashed, and stay.
    pub damaged: u64,
    /// Blobs that are in the first store still: damaged ones, those that nothing holds, those
    /// that wait, and what was published since.
    pub left: u64,
    /// Of those, the ones that were moved a short while ago: they may go on once what they left behind is gone.
    pub waiting: u64,
    /// Uploads in progress there.
    pub uploads: u64,
}

/// What [`Stock::copy`] tells on its way.
#[derive(Debug, Clone)]
pub enum CopyTold {
    /// A blob is not what was hashed.
    Finding(Finding),
    /// So far it is.
    Progress(Copied),
}

/// One store to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ways<'n> {
    /// The name of the store that holds the blobs.
    pub from: &'n str,
    /// The name of the one that is to hold them.
    pub to: &'n str,
}

const OP: &str = "blob.copy";
/// Progress is told after so many bytes, and after each blob.
const TOLD_EVERY: u64 = 16 * BLOCK_BYTES;

impl Stock {
    /// Copies all blobs of one store that something holds to another, at most `rate_bytes` in a second (0: as many
    /// as come), and has their rows name it. Tells how far it is; goes on when the future that told it is over.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a store that is not there or not another one; when rows or a store cannot be read
    /// or written. What was copied until then is done.
    /// # Cancel safety
    /// Dropping the future leaves the rest for another time.
    pub async fn copy<F>(
        &self,
        ways: Ways<'_>,
        rate_bytes: u64,
        mut tell: impl FnMut(CopyTold) -> F + Send,
    ) -> Result<Copied>
    where
        F: Future<Output = ()> + Send,
    {
        let lane = Lane::of(self, ways)?;
        let mut copied = Copied {
            total_bytes: self.metadata.bytes_to_copy(ways.from).await?,
            ..Copied::default()
        };
        let mut pace = Pace::of(rate_bytes);
        let mut after = Vec::new();
        while let Some(blob) = self.metadata.next_to_copy(ways.from, &after).await? {
            let before = copied.bytes;
            let problem = lane.copy(&blob, &mut copied, &mut pace, &mut tell).await?;
            copied.bytes = before + blob.meta.length;
            match problem {
                None => copied.blobs += 1,
                Some(problem) => {
                    copied.damaged += 1;
                    if let Some(finding) = self.settle(&blob, Some(problem)).await? {
                        tell(CopyTold::Finding(finding)).await;
                    }
                }
            }
            tell(CopyTold::Progress(copied)).await;
            after = place_behind(blob.meta.key);
        }
        let left = self.metadata.left_in(ways.from).await?;
        Ok(Copied {
            left: left.blobs,
            waiting: left.waiting,
            uploads: left.uploads,
            ..copied
        })
    }
}

/// Two stores, and what copying needs beside them.
struct Lane<'s> {
    stock: &'s Stock,
    ways: Ways<'s>,
    source: &'s Store,
    target: &'s Store,
    remove: &'s dyn DeleteBlob,
}

impl<'s> Lane<'s> {
    fn of(stock: &'s Stock, ways: Ways<'s>) -> Result<Self> {
        let invalid = |what: &str, why: &'static str| {
            Error::new(ErrorKind::Invalid, OP, what).with_source(why)
        };
        if ways.from == ways.to {
            return Err(invalid(ways.to, "it is one and the same store"));
        }
        let named = |name: &str| {
            let store = stock.engine.options().stores.get(name);
            store.ok_or_else(|| invalid(name, "no store has that name"))
        };
        let (source, target) = (named(ways.from)?, named(ways.to)?);
        let remove = target.delete.as_deref();
        let remove = remove.ok_or_else(|| invalid(ways.to, "nothing can be removed from it"))?;
        Ok(Self {
            stock,
            ways,
            source,
            target,
            remove,
        })
    }

    /// Copies one blob; what is wrong with its bytes is no error.
    async fn copy<F>(
        &self,
        blob: &ToScrub,
        copied: &mut Copied,
        pace: &mut Pace,
        tell: &mut (impl FnMut(CopyTold) -> F + Send),
    ) -> Result<Option<Problem>>
    where
        F: Future<Output = ()> + Send,
    {
        let meta = blob.meta;
        let tree = match self.stock.tree_of(&meta).await? {
            Ok(tree) => tree,
            Err(problem) => return Ok(Some(problem)),
        };
        let whole = ByteRange::whole(meta.length);
        let blocks = match verify::open(&self.source.read, &meta, &tree, whole).await {
            Ok(blocks) => blocks,
            Err(e) => return self.unread(blob, e, pace).await,
        };
        // What a copy that was cut left there.
        self.remove.delete(&meta.key).await?;
        let mut told_at = copied.bytes;
        let tell_of = |bytes: u64| {
            copied.bytes += bytes;
            let due = copied.bytes - told_at >= TOLD_EVERY;
            due.then(|| {
                told_at = copied.bytes;
                tell(CopyTold::Progress(*copied))
            })
        };
        let written = Writing::begin(self, blob, blocks)
            .await?
            .all(pace, tell_of)
            .await;
        if let Err(e) = written {
            self.remove.delete(&meta.key).await?;
            return match e {
                Failed::Source(e) => self.unread(blob, e, pace).await,
                Failed::Target(e) => Err(e),
            };
        }
        self.read_back(blob, &tree).await?;
        self.copy_sidecars(&meta.key).await?;
        let (metadata, Ways { from, to }) = (&self.stock.metadata, self.ways);
        if metadata.move_blob(&meta.key, from, to).await? {
            // An upload of equal bytes that was published meanwhile left its own in the first store.
            self.copy_sidecars(&meta.key).await?;
        } else {
            // Deleted, damaged or moved meanwhile: the bytes here are nobody's.
            self.remove.delete(&meta.key).await?;
        }
        Ok(None)
    }

    /// What stands beside the blob, as it is.
    async fn copy_sidecars(&self, key: &BlobKey) -> Result<()> {
        let (Some(from), Some(to)) = (&self.source.sidecars, &self.target.sidecars) else {
            return Ok(());
        };
        for (id, text) in from.beside(key).await? {
            // One that is cut is no text, and worth nothing.
            if let Ok(text) = std::str::from_utf8(&text) {
                to.put(key, id, text).await?;
            }
        }
        Ok(())
    }

    /// What is wrong with bytes that could not be read; a store that is away says nothing of them.
    async fn unread(
        &self,
        blob: &ToScrub,
        error: Error,
        pace: &mut Pace,
    ) -> Result<Option<Problem>> {
        if error.kind() == ErrorKind::Unavailable {
            return Err(error);
        }
        let found = self.stock.examine(blob, pace).await?;
        // It can be read now: another time it is copied.
        found.map_or(Err(error), |problem| Ok(Some(problem)))
    }

    async fn read_back(&self, blob: &ToScrub, tree: &BlobTree) -> Result<()> {
        let whole = ByteRange::whole(blob.meta.length);
        let found = self.target.read.stat(&blob.meta.key).await?;
        let mut blocks = verify::open(&self.target.read, &blob.meta, tree, whole).await?;
        while let Some(block) = blocks.next().await {
            block?;
        }
        if found == blob.meta.length {
            return Ok(());
        }
        let why = format!("{found} bytes are there of {}", blob.meta.length);
        Err(Error::new(ErrorKind::Damaged, OP, blob.meta.key.to_string()).with_source(why))
    }
}

/// Which side failed.
enum Failed {
    Source(Error),
    Target(Error),
}

/// One blob on its way.
struct Writing<'l> {
    lane: &'l Lane<'l>,
    blocks: BoxStream<'static, Result<Bytes>>,
    sink: Box<dyn UploadSink>,
    length: u64,
    part_bytes: u64,
    subject: String,
}

impl<'l> Writing<'l> {
    async fn begin(
        lane: &'l Lane<'l>,
        blob: &ToScrub,
        blocks: BoxStream<'static, Result<Bytes>>,
    ) -> Result<Self> {
        let (key, length) = (blob.meta.key, blob.meta.length);
        let part_bytes = part_bytes_for(Some(length));
        let pool = &lane.stock.engine.options().pool;
        if lane.target.intake == Intake::ByPart && part_bytes > pool.capacity_bytes() {
            let why = format!("a part of {part_bytes} bytes does not fit uploads.part_budget");
            return Err(Error::new(ErrorKind::Invalid, OP, key.to_string()).with_source(why));
        }
        Ok(Self {
            lane,
            blocks,
            sink: lane
                .target
                .write
                .begin(&key, part_bytes, Some(length))
                .await?,
            length,
            part_bytes,
            subject: key.to_string(),
        })
    }

    /// Writes all of it. A part is on its way to the store while the next one is read.
    async fn all<F>(
        mut self,
        pace: &mut Pace,
        mut tell: impl FnMut(u64) -> Option<F> + Send,
    ) -> Result<(), Failed>
    where
        F: Future<Output = ()> + Send,
    {
        let parts = self.length.div_ceil(self.part_bytes).max(1);
        let mut sealed: BoxFuture<'static, Result<Receipt>> = ready(Ok(Receipt::default())).boxed();
        for k in 0..parts {
            let start = k * self.part_bytes;
            let end = self.length.min(start + self.part_bytes);
            let filled = self.fill(start, end, pace, &mut tell);
            let before = async { sealed.await.map_err(Failed::Target) };
            try_join(filled, before).await?;
            let part = u32::try_from(k).map_err(|_too_many| {
                Failed::Target(Error::new(ErrorKind::Internal, OP, self.subject.clone()))
            })?;
            sealed = self.sink.seal(PartIndex(part));
        }
        sealed.await.map_err(Failed::Target)?;
        let stored = self.sink.commit().await.map_err(Failed::Target)?;
        if stored == self.length {
            return Ok(());
        }
        let error = Error::new(ErrorKind::Damaged, OP, self.subject);
        Err(Failed::Target(
            error.with_source(format!("{stored} bytes were stored")),
        ))
    }

    /// Hands the runs of one part over; none crosses a multiple of 1 MiB, as blocks do not.
    async fn fill<F>(
        &mut self,
        start: u64,
        end: u64,
        pace: &mut Pace,
        tell: &mut (impl FnMut(u64) -> Option<F> + Send),
    ) -> Result<(), Failed>
    where
        F: Future<Output = ()> + Send,
    {
        let pool = &self.lane.stock.engine.options().pool;
        // In place a buffer comes back once it is written; by part they all stay until the part is sent.
        let mut memory: Option<Reservation> = match self.lane.target.intake {
            Intake::InPlace => None,
            Intake::ByPart => {
                let buffers = (end - start).div_ceil(BUFFER_BYTES as u64);
                Some(
                    pool.reserve(usize::try_from(buffers).unwrap_or(usize::MAX))
                        .await,
                )
            }
        };
        let mut at = start;
        while at < end {
            let short = || {
                let error = Error::new(ErrorKind::Damaged, OP, self.subject.clone());
                Failed::Source(error.with_source("the store ended early"))
            };
            let block = self.blocks.next().await.ok_or_else(short)?;
            let block = block.map_err(Failed::Source)?;
            let mut buffer = match memory.as_mut().and_then(Reservation::take) {
                Some(buffer) => buffer,
                None => pool.take().await,
            };
            buffer.fill(&block);
            let bytes = block.len() as u64;
            let run = Run {
                offset: at,
                bytes: RunBytes::Buffer(buffer.into()),
            };
            self.sink.write(run).await.map_err(Failed::Target)?;
            at += bytes;
            pace.read(bytes).await;
            if let Some(telling) = tell(bytes) {
                telling.await;
            }
        }
        Ok(())
    }
}
