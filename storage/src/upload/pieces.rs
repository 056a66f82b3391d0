//! Sending one piece of an upload, in any order and beside others: written in its place, hashed by itself,
//! counted once it is whole and durable.
//!
//! The follower brings SHA-256 and the offset behind, in order. A piece that is held already is only
//! compared: equal bytes are fine, others are refused.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{StreamExt, TryStreamExt};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::Instant;

use super::active::{HASHED_BY, RUNS_IN_FLIGHT, SLOW, ended};
use super::apart::Apart;
use super::assembly::{Assembly, Kept, Sealed, Seat};
use super::engine::Inner;
use super::part::PartAssembler;
use super::pressure::Holding;
use super::state::buffers_for;
use super::stats::{Stage, count};
use crate::blob::{BlobKey, UploadId};
use crate::buffer::Reservation;
use crate::digest::{BLOCK_BYTES, Digest, DigestHasher, PieceHasher};
use crate::error::{Error, ErrorKind, Result, Retry};
use crate::metadata::uploads::{Fence, Piece, Pieces, Published, UploadState};
use crate::store::Run;
use crate::trace::carried;

const OP: &str = "upload.piece";
/// The operation in the error of a piece that came so slowly that its memory went to others.
pub const GIVES_WAY: &str = "upload.give_way";

impl Inner {
    pub(super) async fn piece(
        self: Arc<Self>,
        id: UploadId,
        k: u32,
        length: Option<u64>,
    ) -> Result<PieceWriter> {
        let seat = self.seat(id).await?;
        let (start, length) = self.placed(&seat.assembly, k, length).await?;
        self.writer_of_piece(seat, k, start, length).await
    }

    pub(super) async fn follow_pieces(
        self: Arc<Self>,
        id: UploadId,
    ) -> Result<watch::Receiver<u64>> {
        // The follower does not need it, and ends when nothing is left to follow.
        let seat = self.seat(id).await?;
        Ok(seat.assembly.progress())
    }

    /// A seat at the assembly of an open upload that is cut into pieces.
    async fn seat(self: &Arc<Self>, id: UploadId) -> Result<Seat> {
        let failed = |kind| Error::new(kind, OP, id.to_string());
        let in_progress = self.enter(id);
        let _turn = self.turn(id).await?;
        self.let_close(id).await;
        if let Some(present) = self.registry.writer(id)
            && !present.has_ended()
        {
            if let Some(seat) = present.assembly().and_then(|assembly| assembly.join()) {
                return Ok(seat);
            }
            if !present.is_in_pieces() {
                return Err(failed(ErrorKind::Conflict)
                    .with_source("a request sends it from its offset on"));
            }
            self.gone(id, &present).await?;
        }
        let row = self.options.ledger.upload(id).await?;
        let row = row.ok_or_else(|| failed(ErrorKind::NotFound))?;
        match (row.state, row.pieces) {
            (UploadState::Open, Some(cut)) => Assembly::open(self, &row, cut, in_progress).await,
            (UploadState::Aborted | UploadState::Lost, _) => Err(failed(ErrorKind::Gone)),
            _ => Err(failed(ErrorKind::Conflict).with_source("it does not take pieces")),
        }
    }

    /// Where the piece begins, and its length where that is known. What this piece is the first to tell
    /// is written into the row.
    async fn placed(
        &self,
        assembly: &Assembly,
        k: u32,
        length: Option<u64>,
    ) -> Result<(u64, Option<u64>)> {
        let ledger = &self.options.ledger;
        let id = assembly.stored.fence.id;
        let invalid =
            |why: &'static str| Error::new(ErrorKind::Invalid, OP, id.to_string()).with_source(why);
        let count = assembly.count();
        if k >= count {
            return Err(invalid("there is no piece of that number"));
        }
        if length == Some(0) {
            return Err(invalid("a piece has at least one byte"));
        }
        let mut known = assembly.piece_bytes();
        if k + 1 < count && known.borrow().is_none() {
            let bytes = length.ok_or_else(|| invalid("the first piece must tell its length"))?;
            let limit = self.longest(assembly.part_bytes);
            // The last piece has a byte at least.
            if bytes.saturating_mul(u64::from(count - 1)) >= limit {
                return Err(Error::new(
                    ErrorKind::TooLarge { limit },
                    OP,
                    id.to_string(),
                ));
            }
            let row = ledger.set_piece_bytes(id, bytes).await;
            let cut = row.map_err(|e| other_size(e, assembly, bytes))?.pieces;
            if let Some(bytes) = cut.and_then(|cut| cut.bytes) {
                assembly.set_piece_bytes(bytes);
            }
        }
        if k + 1 == count && count > 1 {
            // A last piece that comes first waits until another told where it belongs.
            let told = known.wait_for(Option::is_some);
            let told = tokio::select! {
                biased;
                () = assembly.taken_over.cancelled() => {
                    return Err(Error::new(ErrorKind::Fenced, OP, id.to_string()));
                }
                told = tokio::time::timeout(LAST_WAIT, told) => told.is_ok(),
            };
            if !told {
                return Err(Error::new(ErrorKind::Unavailable, OP, id.to_string())
                    .with_source("the last piece has its place once another piece came"));
            }
        }
        let placed = assembly.place(k);
        let (start, end) = placed.ok_or_else(|| invalid("its place is not known"))?;
        let end = match (end, length) {
            (None, Some(length)) => {
                let end = start.saturating_add(length);
                let bytes = *known.borrow();
                if let Some(expected) = bytes.filter(|bytes| length > *bytes) {
                    return Err(longer(id, expected, length));
                }
                self.fix_length(assembly, end).await?;
                Some(end)
            }
            (end, _) => end,
        };
        let expected = end.map(|end| end.saturating_sub(start));
        match (expected, length) {
            (Some(expected), Some(given)) if expected != given => Err(longer(id, expected, given)),
            _ => Ok((start, expected)),
        }
    }

    async fn fix_length(&self, assembly: &Assembly, end: u64) -> Result<()> {
        self.set_length(assembly.stored.fence.id, end).await?;
        assembly.set_length(end);
        Ok(())
    }

    /// Memory for all of a piece, where the store holds whole parts.
    async fn memory_of_piece(
        &self,
        seat: &Seat,
        start: u64,
        length: Option<u64>,
    ) -> Result<Option<Reservation>> {
        if !seat.assembly.is_by_part() {
            return Ok(None);
        }
        let end = start.saturating_add(length.unwrap_or(seat.assembly.part_bytes));
        let pool = &self.options.pool;
        tokio::select! {
            biased;
            () = seat.replaced() => {
                Err(Error::new(ErrorKind::Fenced, OP, seat.assembly.stored.subject()))
            }
            memory = self.memory(pool.reserve(buffers_for(start, end))) => Ok(Some(memory)),
        }
    }

    /// Counts a piece; the row decides when the answer is lost.
    pub(super) async fn record(&self, fence: Fence, piece: Piece) -> Result<u32> {
        let ledger = &self.options.ledger;
        match ledger.hold_piece(fence, piece.clone()).await {
            Err(lost) if lost.kind().retry() == Retry::Later => {
                ledger.hold_piece(fence, piece).await
            }
            held => held,
        }
    }

    async fn writer_of_piece(
        &self,
        mut seat: Seat,
        k: u32,
        start: u64,
        length: Option<u64>,
    ) -> Result<PieceWriter> {
        seat.claim(k).await?;
        let assembly = Arc::clone(&seat.assembly);
        let id = assembly.stored.fence.id;
        let way = if assembly.holds(k) {
            let piece = self.options.ledger.piece(id, k).await?;
            Way::Compare(piece.ok_or_else(|| Error::new(ErrorKind::Fenced, OP, id.to_string()))?)
        } else if assembly.is_apart() {
            Way::Apart(Box::new(Apart::begin(&assembly, length).await?))
        } else {
            let memory = self.memory_of_piece(&seat, start, length).await?;
            let bytes = length.unwrap_or(assembly.part_bytes);
            Way::Store(Box::new(Storing {
                assembler: PartAssembler::at(start),
                runs: FuturesUnordered::new(),
                held_since: Instant::now(),
                holding: memory.is_some().then(|| self.holders.enter_piece(bytes)),
                memory,
                gathered: Vec::new(),
            }))
        };
        if matches!(way, Way::Store(_)) {
            assembly.begin_track(k);
        }
        let most = length.or_else(|| *assembly.piece_bytes().borrow());
        Ok(PieceWriter {
            id,
            work: Some(Box::new(Work {
                k,
                start,
                length,
                most: most.unwrap_or(u64::MAX),
                received: 0,
                hasher: PieceHasher::new(start),
                held: None,
                way,
                whole: true,
                seat,
            })),
            runtime: Handle::current(),
        })
    }
}

/// Two first pieces at once: the size that came first is the one.
fn other_size(error: Error, assembly: &Assembly, given: u64) -> Error {
    match *assembly.piece_bytes().borrow() {
        Some(expected) if error.kind() == ErrorKind::Conflict => {
            longer(assembly.stored.fence.id, expected, given)
        }
        _ => error,
    }
}

fn longer(id: UploadId, expected: u64, given: u64) -> Error {
    let kind = ErrorKind::LengthMismatch { expected, given };
    Error::new(kind, OP, id.to_string())
}

/// The writing end of one piece. Dropping it leaves the piece as if it had not been sent.
#[derive(Debug)]
pub struct PieceWriter {
    id: UploadId,
    /// Absent once it ended.
    work: Option<Box<Work>>,
    runtime: Handle,
}

/// What became of a piece.
#[derive(Debug)]
pub struct Placed {
    /// Committed bytes of the upload from its start on.
    pub committed: u64,
    /// Pieces that are held by now.
    pub held: u32,
    /// Whether the same bytes were held before.
    pub again: bool,
    /// What the upload became, if this was the last piece that was missing.
    pub published: Option<Published>,
}

impl PieceWriter {
    /// Bytes that this piece may have at most.
    pub fn most_bytes(&self) -> u64 {
        self.work.as_ref().map_or(0, |work| work.most)
    }

    /// The piece counts only if its bytes have this digest.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] after the first byte, or when there is one already.
    pub fn hold(&mut self, digest: Digest) -> Result<()> {
        let work = self.work("upload.hold")?;
        if work.received > 0 || work.held.is_some() {
            let error = Error::new(ErrorKind::Invalid, "upload.hold", work.subject());
            return Err(error.with_source("one digest, before the first byte"));
        }
        let hasher = DigestHasher::new(digest.algorithm());
        work.held = Some((digest, hasher));
        Ok(())
    }

    /// Takes one chunk of any size; waits while memory or the store has no room.
    ///
    /// # Errors
    /// [`crate::ErrorKind::LengthMismatch`] past the piece's end; [`crate::ErrorKind::Fenced`] once a
    /// newer request sends the piece or took the upload over; what the store answers.
    /// # Cancel safety
    /// Dropping the future leaves the writer fit only to be dropped.
    pub async fn write(&mut self, chunk: Bytes) -> Result<()> {
        let work = self.work("upload.write")?;
        let mut replaced = std::pin::pin!(work.seat.replaced());
        work.whole = false;
        tokio::select! {
            biased;
            () = &mut replaced => Err(work.fenced()),
            taken = work.take(chunk) => {
                work.whole = taken.is_ok();
                taken
            }
        }
    }

    /// Hands a buffer that is not full yet to the store; as
    /// [`UploadWriter::give_memory_back`](super::UploadWriter::give_memory_back).
    ///
    /// # Errors
    /// As [`Self::write`].
    /// # Cancel safety
    /// As [`Self::write`].
    pub async fn give_memory_back(&mut self) -> Result<()> {
        let work = self.work("upload.write")?;
        if matches!(work.way, Way::Apart(_)) {
            // It would be held all the same, until its part is whole.
            return Ok(());
        }
        work.whole = false;
        let given = if work.seat.assembly.is_by_part() {
            work.goes_on()
        } else {
            work.hand_over().await
        };
        work.whole = given.is_ok();
        given
    }

    /// Resolves when a newer request sends this piece, or took the upload over or ended it.
    pub fn taken_over(&self) -> impl Future<Output = ()> + Send + 'static {
        let replaced = self.work.as_ref().map(|work| work.seat.replaced());
        async move {
            if let Some(replaced) = replaced {
                replaced.await;
            }
        }
    }

    /// Compares the digest of the piece with the one that was given to [`Self::hold`]; without one it does
    /// nothing. Finishing does so by itself, and then cannot be told from a mismatch of the whole.
    ///
    /// # Errors
    /// [`crate::ErrorKind::DigestMismatch`]: the piece is as if it had not been sent, and the writer is fit
    /// only to be dropped.
    pub fn release(&mut self) -> Result<()> {
        self.work("upload.release")?.release()
    }

    /// Makes the piece durable and counts it; with the last one that was missing the upload is
    /// published. Goes on in the background when the future is dropped.
    ///
    /// # Errors
    /// [`crate::ErrorKind::LengthMismatch`] when bytes are missing;
    /// [`crate::ErrorKind::DigestMismatch`] as [`Self::release`], and when the whole has another digest than
    /// was declared: then nothing is published and the upload is given up.
    /// [`crate::ErrorKind::Conflict`] when other bytes are held in this place.
    pub async fn finish(mut self) -> Result<Placed> {
        self.work("upload.finish")?;
        let Some(work) = self.work.take() else {
            return Err(ended("upload.finish", self.id));
        };
        let background = work.seat.assembly.engine.background.clone();
        let finished = background.spawn(carried(work.finish()));
        finished.await.unwrap_or_else(|panicked| {
            let error = Error::new(ErrorKind::Internal, "upload.finish", self.id.to_string());
            Err(error.with_source(panicked))
        })
    }

    /// The piece, if it can go on.
    fn work(&mut self, op: &'static str) -> Result<&mut Work> {
        let id = self.id;
        let work = self.work.as_mut().filter(|work| work.whole);
        let work = work.ok_or_else(|| ended(op, id))?;
        if work.seat.is_replaced() {
            return Err(work.fenced());
        }
        Ok(work)
    }
}

impl Drop for PieceWriter {
    fn drop(&mut self) {
        if let Some(work) = self.work.take() {
            let background = work.seat.assembly.engine.background.clone();
            background.spawn_on(work.leave(), &self.runtime);
        }
    }
}

/// What a piece that is being sent holds.
#[derive(Debug)]
struct Work {
    k: u32,
    start: u64,
    length: Option<u64>,
    most: u64,
    received: u64,
    hasher: PieceHasher,
    /// A digest of the piece alone, to be compared before it counts.
    held: Option<(Digest, DigestHasher)>,
    way: Way,
    /// False once a call failed or was cut.
    whole: bool,
    /// Given back last: then nothing of this piece is on its way any more.
    seat: Seat,
}

#[derive(Debug)]
enum Way {
    Store(Box<Storing>),
    /// As bytes of its own.
    Apart(Box<Apart>),
    /// The piece that is held already.
    Compare(Piece),
}

impl Way {
    /// What cuts the bytes into buffers, where they are stored.
    fn assembler(&mut self) -> Option<&mut PartAssembler> {
        match self {
            Self::Store(storing) => Some(&mut storing.assembler),
            Self::Apart(apart) => Some(apart.assembler()),
            Self::Compare(_) => None,
        }
    }
}

#[derive(Debug)]
struct Storing {
    assembler: PartAssembler,
    /// Runs on their way to the store.
    runs: FuturesUnordered<BoxFuture<'static, Result<()>>>,
    /// When the current buffer was taken.
    held_since: Instant,
    /// What is reserved for the rest of the piece, where the store holds whole parts.
    memory: Option<Reservation>,
    /// This one among all that hold such memory.
    holding: Option<Holding>,
    /// The runs so far, which such a store gets at once: what is cut leaves it nothing.
    gathered: Vec<Run>,
}

impl Work {
    fn subject(&self) -> String {
        self.seat.assembly.stored.subject()
    }

    fn fenced(&self) -> Error {
        Error::new(ErrorKind::Fenced, OP, self.subject())
    }

    async fn take(&mut self, mut chunk: Bytes) -> Result<()> {
        let bytes = chunk.len() as u64;
        let given = self.received.saturating_add(bytes);
        if given > self.most {
            return Err(longer(self.seat.assembly.stored.fence.id, self.most, given));
        }
        self.received = given;
        self.goes_on()?;
        let engine = Arc::clone(&self.seat.assembly.engine);
        count(&engine.counters.bytes_received, bytes);
        if matches!(self.way, Way::Compare(_)) {
            self.hash(&chunk);
            return Ok(());
        }
        self.seat.assembly.received(bytes);
        while !chunk.is_empty() {
            self.room().await?;
            let Some(assembler) = self.way.assembler() else {
                return Ok(());
            };
            let started = Instant::now();
            let copied = assembler.push(&chunk);
            let full = assembler.is_full();
            engine.counters.spent(Stage::Copy, started);
            count(&self.seat.assembly.stored.copied, copied as u64);
            chunk.advance(copied);
            if let Way::Store(storing) = &self.way
                && let Some(holding) = &storing.holding
            {
                holding.received(copied);
            }
            self.hash_pushed(HASHED_BY);
            if full {
                self.hand_over().await?;
                tokio::task::yield_now().await;
            }
        }
        if self.is_slow_while_others_wait() {
            self.hand_over().await?;
        }
        Ok(())
    }

    /// Ends a piece that was asked to give the memory of its part to others who wait for it.
    fn goes_on(&self) -> Result<()> {
        let Way::Store(storing) = &self.way else {
            return Ok(());
        };
        let engine = &self.seat.assembly.engine;
        let asked = storing.holding.as_ref().is_some_and(Holding::is_asked);
        if !asked || engine.options.pool.waiting() == 0 {
            return Ok(());
        }
        count(&engine.counters.uploads_gave_way, 1);
        Err(Error::new(
            ErrorKind::Unavailable,
            GIVES_WAY,
            self.subject(),
        ))
    }

    fn is_slow_while_others_wait(&self) -> bool {
        let Way::Store(storing) = &self.way else {
            return false;
        };
        !self.seat.assembly.is_by_part()
            && storing.assembler.holds_bytes()
            && self.seat.assembly.engine.options.pool.waiting() > 0
            && storing.held_since.elapsed() >= SLOW
    }

    /// Sees to it that there is a buffer to fill.
    async fn room(&mut self) -> Result<()> {
        let assembly = Arc::clone(&self.seat.assembly);
        let storing = match &mut self.way {
            Way::Store(storing) => storing,
            Way::Apart(apart) => {
                let started = Instant::now();
                apart.room().await?;
                assembly.engine.counters.spent(Stage::Room, started);
                return Ok(());
            }
            Way::Compare(_) => return Ok(()),
        };
        if !storing.assembler.wants_buffer() {
            return Ok(());
        }
        if let Some(memory) = &mut storing.memory {
            let buffer = memory.take().ok_or_else(|| {
                let subject = assembly.stored.subject();
                Error::new(ErrorKind::Internal, OP, subject).with_source("no memory was reserved")
            })?;
            storing.assembler.give(buffer);
            return Ok(());
        }
        let started = Instant::now();
        // What this upload keeps must not be what it waits for.
        assembly.yield_memory();
        let pool = assembly.engine.options.pool.clone();
        let mut taken = std::pin::pin!(pool.take());
        loop {
            tokio::select! {
                biased;
                buffer = &mut taken => {
                    storing.assembler.give(buffer);
                    storing.held_since = Instant::now();
                    assembly.engine.counters.spent(Stage::Room, started);
                    return Ok(());
                }
                Some(written) = storing.runs.next(), if !storing.runs.is_empty() => written?,
            }
        }
    }

    fn hash_pushed(&mut self, at_least: usize) {
        let assembler = self.way.assembler();
        if let Some(bytes) = assembler.and_then(|assembler| assembler.unhashed(at_least)) {
            let started = Instant::now();
            self.hasher.update(bytes);
            if let Some((_, held)) = &mut self.held {
                held.update(bytes);
            }
            let counters = &self.seat.assembly.engine.counters;
            counters.spent(Stage::Blake3, started);
        }
    }

    fn hash(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        if let Some((_, held)) = &mut self.held {
            held.update(bytes);
        }
    }

    /// Holds the piece against its own digest, if it has one.
    fn release(&mut self) -> Result<()> {
        self.hash_pushed(0);
        let Some((declared, hasher)) = self.held.take() else {
            return Ok(());
        };
        let found = hasher.finish();
        if found == declared {
            return Ok(());
        }
        self.whole = false;
        let name = declared.algorithm().name();
        let why = format!("{name} is {}, not {}", found.to_hex(), declared.to_hex());
        let kind = ErrorKind::DigestMismatch;
        Err(Error::new(kind, "upload.release", self.subject()).with_source(why))
    }

    /// Gives the current buffer to the store, and keeps it for the follower if there is memory.
    async fn hand_over(&mut self) -> Result<()> {
        self.hash_pushed(0);
        let assembly = Arc::clone(&self.seat.assembly);
        let storing = match &mut self.way {
            Way::Store(storing) => storing,
            Way::Apart(apart) => return apart.hand_over().await,
            Way::Compare(_) => return Ok(()),
        };
        let started = Instant::now();
        while storing.runs.len() >= RUNS_IN_FLIGHT {
            if let Some(written) = storing.runs.next().await {
                written?;
            }
        }
        assembly.engine.counters.spent(Stage::Room, started);
        if let Some(run) = storing.assembler.rest() {
            let kept = Kept {
                offset: run.offset,
                bytes: run.bytes.clone(),
                value: self.value_of(&run),
            };
            match &mut self.way {
                Way::Store(storing) if assembly.is_by_part() => storing.gathered.push(run),
                Way::Store(storing) => storing.runs.push(assembly.write(run)),
                Way::Apart(_) | Way::Compare(_) => {}
            }
            assembly.keep(self.k, kept);
        }
        Ok(())
    }

    /// The value of a run that is one whole block of the blob's tree; the run was just hashed.
    fn value_of(&self, run: &Run) -> Option<[u8; 32]> {
        let block = run.offset.is_multiple_of(BLOCK_BYTES)
            && run.end() - run.offset == BLOCK_BYTES
            && self.start.is_multiple_of(BLOCK_BYTES);
        block.then(|| self.hasher.last_value()).flatten()
    }

    async fn finish(mut self: Box<Self>) -> Result<Placed> {
        match self.place().await {
            Ok(again) => {
                let assembly = Arc::clone(&self.seat.assembly);
                let published = if assembly.holds_all() {
                    Some(assembly.decided().await?)
                } else {
                    None
                };
                Ok(Placed {
                    committed: assembly.committed(),
                    held: u32::try_from(assembly.held()).unwrap_or(u32::MAX),
                    again,
                    published,
                })
            }
            Err(e) => {
                self.leave().await;
                Err(e)
            }
        }
    }

    /// True when the piece was held before.
    async fn place(&mut self) -> Result<bool> {
        let assembly = Arc::clone(&self.seat.assembly);
        let id = assembly.stored.fence.id;
        let expected = self.length.unwrap_or(self.received);
        if self.received != expected {
            return Err(longer(id, expected, self.received));
        }
        if self.received == 0 {
            let error = Error::new(ErrorKind::Invalid, "upload.finish", self.subject());
            return Err(error.with_source("a piece has at least one byte"));
        }
        self.release()?;
        self.hand_over().await?;
        let values = self.hasher.clone().finish();
        let storing = match &mut self.way {
            Way::Compare(held) if held.length == self.received && held.values == values => {
                // Again, so that the row tells that somebody still sends; nothing depends on it.
                let _noted = assembly
                    .engine
                    .record(assembly.stored.fence, held.clone())
                    .await;
                return Ok(true);
            }
            Way::Compare(_) => {
                return Err(Error::new(ErrorKind::Conflict, OP, self.subject())
                    .with_source("other bytes are held in this place"));
            }
            Way::Store(storing) => storing,
            Way::Apart(apart) => {
                let started = Instant::now();
                let key = apart.finish().await?;
                assembly.engine.counters.spent(Stage::Seal, started);
                self.hold(&assembly, values, Some(key)).await?;
                return Ok(false);
            }
        };
        let started = Instant::now();
        while let Some(written) = storing.runs.next().await {
            written?;
        }
        let end = self.start + self.received;
        let gathered = std::mem::take(&mut storing.gathered);
        let written = gathered.into_iter().map(|run| assembly.write(run));
        let written: FuturesUnordered<_> = written.collect();
        let sealed = assembly.seal(end);
        written.try_collect::<()>().await?;
        let receipt = sealed.await?;
        assembly.engine.counters.spent(Stage::Seal, started);
        if assembly.is_by_part() {
            let piece = self.piece(&assembly, values, None).await?;
            assembly.sealed(Sealed { piece, receipt });
            assembly.followed(self.k, end).await?;
        } else {
            self.hold(&assembly, values, None).await?;
        }
        Ok(false)
    }

    /// What is to be recorded of the piece, which tells the upload's length where nothing told it before.
    async fn piece(
        &mut self,
        assembly: &Assembly,
        values: Vec<[u8; 32]>,
        apart: Option<BlobKey>,
    ) -> Result<Piece> {
        if self.length.is_none() {
            let end = self.start + self.received;
            assembly.engine.fix_length(assembly, end).await?;
        }
        Ok(Piece {
            k: self.k,
            start: self.start,
            length: self.received,
            values,
            apart,
        })
    }

    /// Counts the piece, whose bytes are durable.
    async fn hold(
        &mut self,
        assembly: &Assembly,
        values: Vec<[u8; 32]>,
        apart: Option<BlobKey>,
    ) -> Result<()> {
        let piece = self.piece(assembly, values, apart).await?;
        let engine = &assembly.engine;
        let held = engine.record(assembly.stored.fence, piece).await?;
        assembly.counted(held);
        assembly.arrived(self.k);
        if held as usize > assembly.held() {
            assembly.look_again().await?;
        }
        Ok(())
    }

    /// Lets go of the piece, once nothing of it is on its way to the store any more.
    async fn leave(self: Box<Self>) {
        match self.way {
            Way::Store(storing) => {
                let Storing {
                    assembler,
                    mut runs,
                    held_since: _,
                    memory,
                    holding,
                    gathered,
                } = *storing;
                drop((assembler, memory, holding, gathered));
                while let Some(_given_up) = runs.next().await {}
            }
            Way::Apart(apart) => apart.leave().await,
            Way::Compare(_) => {}
        }
    }
}

/// What is told of how an upload is cut, when it is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Into parts: [`UploadRow::part_bytes`](super::UploadRow::part_bytes) each, for an upload of known length.
    Parts,
    /// Into so many chunks of one size, which the first of them tells.
    Chunks {
        /// How many.
        count: u32,
        /// Bytes of each but the last, if known already.
        bytes: Option<u64>,
    },
}

impl Cut {
    /// The length that the parts should suit, where one can be told.
    pub(super) fn length(self, length: Option<u64>) -> Option<u64> {
        match self {
            Self::Parts => length,
            Self::Chunks { count, bytes } => {
                length.or_else(|| bytes?.checked_mul(u64::from(count)))
            }
        }
    }

    /// The shortest upload that is cut like this.
    pub(super) fn least(self, length: Option<u64>) -> Option<u64> {
        match self {
            Self::Parts => length,
            Self::Chunks { count, bytes } => {
                // The last chunk has a byte at least.
                let before = bytes?.saturating_mul(u64::from(count.saturating_sub(1)));
                Some(length.unwrap_or(0).max(before.saturating_add(1)))
            }
        }
    }

    /// The pieces of an upload in parts of that size; `None` when there are none or too many.
    pub(super) fn pieces(self, length: Option<u64>, part_bytes: u64) -> Option<Pieces> {
        let (count, bytes) = match self {
            Self::Parts => (
                u32::try_from(length?.div_ceil(part_bytes)).ok()?,
                Some(part_bytes),
            ),
            Self::Chunks { count, bytes } => (count, bytes),
        };
        (1..=MOST_PIECES).contains(&count).then_some(Pieces {
            count,
            bytes,
            held: 0,
            apart: false,
        })
    }
}

/// Pieces of one upload: 128 GiB in 2 MiB, and 20 bytes each while they come.
pub const MOST_PIECES: u32 = 65_536;
/// How long a last piece waits for another to tell the size.
const LAST_WAIT: Duration = Duration::from_secs(30);
