//! Follows the committed prefix of an upload that arrives in pieces: SHA-256 runs in order unless it is deferred, and so
//! does the offset, whatever the order in which pieces come.
//!
//! Bytes of the piece in front are hashed while they come, from the buffers that their writer kept for
//! this; what was not kept is read from the store, once, and held against the values that it was
//! received with. The BLAKE3 values of a piece that begins at a MiB are those of the blob's tree and are
//! taken as they are; where nothing else is hashed, nothing is read for them.
//!
//! Pieces that are held apart go to the upload's own bytes here, too: a part at a time, once all of it is held, so that
//! no memory is held while a client is waited for.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use futures_util::stream::{BoxStream, FuturesUnordered};
use futures_util::{StreamExt, TryStreamExt};
use tokio::time::Instant;

use super::assembly::{Assembly, Front, Kept};
use super::committer::advance_row;
use super::part::PartAssembler;
use super::state::buffers_for;
use super::stats::{Stage, count};
use crate::digest::{BLOCK_BYTES, ContentHasher, PieceHasher};
use crate::error::{Error, ErrorKind, Result, chain};
use crate::metadata::uploads::{Advance, Completion, Piece, Published, UploadState};
use crate::range::ByteRange;
use crate::store::{PartIndex, Receipt};

/// The one that follows an assembly's pieces.
#[derive(Debug)]
pub(super) struct Follower {
    assembly: Arc<Assembly>,
    place: Place,
    /// The place at which the piece in front begins, to go back to.
    at_piece: Place,
    /// Which attempt to send the piece in front was followed.
    attempt: Option<u64>,
    /// Steps within the piece in front that wait until it is whole.
    pending: Vec<Advance>,
    /// Another node moved the row on: what its store gave for that is in the rows alone.
    caught_up: bool,
    /// What the upload became, where another node published it.
    published: Option<Published>,
    /// When the row was last asked whether another node did.
    looked: Instant,
    /// The piece that was read last, if there is more of it.
    reading: Option<Reading>,
}

/// A piece that is being read.
struct Reading {
    check: Check,
    /// Where what is `left` begins in the upload.
    at: u64,
    /// Where what is still in the stream begins; first before `at`, for the block that this lies in.
    read: u64,
    /// What was read and not used yet.
    left: Bytes,
    stream: BoxStream<'static, Result<Bytes>>,
}

/// What other nodes did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Other {
    /// Nothing that counts here.
    Nothing,
    /// They moved the offset on.
    MovedOn,
    /// One has all of it, and is publishing.
    Ends,
}

/// How far the follower is.
#[derive(Debug, Clone)]
struct Place {
    at: u64,
    /// End of the last step.
    stepped: u64,
    hasher: ContentHasher,
    /// Values of the finished blocks of the part that holds `at`.
    values: Vec<[u8; 32]>,
}

impl Follower {
    pub(super) fn new(
        assembly: Arc<Assembly>,
        offset: u64,
        hasher: ContentHasher,
        values: Vec<[u8; 32]>,
    ) -> Self {
        let place = Place {
            at: offset,
            stepped: offset,
            hasher,
            values,
        };
        Self {
            assembly,
            at_piece: place.clone(),
            place,
            attempt: None,
            pending: Vec::new(),
            caught_up: false,
            published: None,
            looked: Instant::now(),
            reading: None,
        }
    }

    /// Runs until the upload is published, or nobody sends anything and the next piece is missing.
    pub(super) async fn run(mut self) {
        let taken_over = self.assembly.taken_over.clone();
        let followed = tokio::select! {
            biased;
            () = taken_over.cancelled() => return,
            followed = self.follow() => followed,
        };
        let outcome = match followed {
            Ok(false) => return,
            // To its end, whoever takes the upload over: the row decides which of them comes first.
            Ok(true) => self.finish().await,
            // Held bytes that are gone cannot be sent again: the upload can never be whole.
            Err(e) => {
                let assembly = &self.assembly;
                Err(assembly.engine.lost_if_so(&assembly.stored, e).await)
            }
        };
        if let Err(e) = &outcome {
            let upload = self.assembly.stored.fence.id;
            tracing::debug!(%upload, error = chain(e), "pieces are not published");
        }
        self.assembly.end(outcome.map_err(Arc::new));
    }

    /// True once all bytes are followed and committed; false when there is nothing to wait for.
    async fn follow(&mut self) -> Result<bool> {
        if self.assembly.is_apart() {
            return self.follow_apart().await;
        }
        while self.assembly.length() != Some(self.at_piece.at) {
            let k = self.assembly.piece_at(self.at_piece.at);
            let end = self.assembly.place(k).and_then(|(_, end)| end);
            match self
                .assembly
                .front(k, self.place.at, end, &mut self.attempt)
            {
                Front::Kept(run) => self.take(&run).await,
                // Another node holds it there, and has moved the row on.
                Front::Stored(_) if self.assembly.is_by_part() => {
                    let subject = self.assembly.stored.subject();
                    let fenced = Error::new(ErrorKind::Fenced, "upload.follow", subject);
                    self.catch_up(self.at_piece.at, fenced).await?;
                }
                Front::Stored(end) => self.read(end).await?,
                Front::Passed => {
                    self.step();
                    if self.commit(k).await? {
                        self.at_piece = self.place.clone();
                        self.attempt = None;
                    }
                }
                Front::Withdrawn => {
                    self.pending.clear();
                    self.place = self.at_piece.clone();
                }
                Front::Nothing => {
                    if self.assembly.close_if_idle() {
                        return Ok(false);
                    }
                    self.wait().await?;
                }
            }
        }
        Ok(true)
    }

    /// The same where pieces are held apart.
    async fn follow_apart(&mut self) -> Result<bool> {
        let assembly = Arc::clone(&self.assembly);
        while assembly.length() != Some(self.place.at) {
            let whole = assembly.whole_part(self.place.at);
            if let Some(end) = whole
                && self.may_bring().await?
            {
                if let Err(e) = self.bring(end).await {
                    self.brought(e).await?;
                }
                continue;
            }
            self.reading = None;
            if assembly.close_if_idle() {
                return Ok(false);
            }
            if assembly.holds_all() {
                // Another node brings it, and publishes.
                tokio::time::sleep(LOOK_EVERY).await;
                self.look(self.at_piece.at).await?;
            } else {
                assembly.news.notified().await;
            }
        }
        Ok(true)
    }

    /// Whether this process is the one to write. Of several nodes that is the one that was told that all pieces are held,
    /// so that no two send the same part under two validators; and any, once that one did nothing for long.
    async fn may_bring(&mut self) -> Result<bool> {
        let engine = &self.assembly.engine;
        if !engine.options.shared || self.assembly.is_completed_here() {
            return Ok(true);
        }
        if !self.assembly.holds_all() {
            return Ok(false);
        }
        let row = engine.options.ledger.upload(self.assembly.stored.fence.id);
        let row = row.await?;
        let stalled = engine.options.clock.now().minus(STALLED);
        Ok(row.is_none_or(|row| row.updated <= stalled))
    }

    /// Brings all up to `end`, which is held apart, to the upload's own bytes: one part, or the rest of the upload.
    async fn bring(&mut self, end: u64) -> Result<()> {
        let assembly = Arc::clone(&self.assembly);
        let (engine, stored) = (&assembly.engine, &assembly.stored);
        let ledger = &engine.options.ledger;
        let from = self.place.at;
        let fenced = || Error::new(ErrorKind::Fenced, "upload.follow", stored.subject());
        let memory = engine.options.pool.reserve(buffers_for(from, end));
        let mut memory = engine.memory(memory).await;
        let row = ledger.upload(stored.fence.id).await?.ok_or_else(fenced)?;
        if row.epoch != stored.fence.epoch || row.offset != from {
            return self.catch_up(from, fenced()).await;
        }
        let mut sink = engine.reopened_for_pieces(&row, stored, from).await?;
        let mut assembler = PartAssembler::at(from);
        let mut runs = FuturesUnordered::new();
        while self.place.at < end {
            let bytes = self.stored_bytes(end).await?;
            self.hash_pieces(&bytes);
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                if assembler.wants_buffer() {
                    let buffer = memory.take();
                    assembler.give(buffer.ok_or_else(|| self.damaged("it is longer than a part"))?);
                }
                rest = &rest[assembler.push(rest)..];
                runs.extend(assembler.full().map(|run| sink.write(run)));
            }
            tokio::task::yield_now().await;
        }
        runs.extend(assembler.rest().map(|run| sink.write(run)));
        runs.try_collect::<()>().await?;
        let part = u32::try_from((end - 1) / assembly.part_bytes).unwrap_or(u32::MAX);
        let started = Instant::now();
        let receipt = sink.seal(PartIndex(part)).await?;
        engine.counters.spent(Stage::Seal, started);
        drop(sink);
        self.step();
        if let Some(step) = self.pending.last_mut() {
            step.receipt = receipt;
        }
        if self.commit(assembly.piece_at(end - 1)).await? {
            self.at_piece = self.place.clone();
            ledger.pass_pieces(stored.fence.id).await?;
        }
        Ok(())
    }

    /// Goes on from the row where another node brought it meanwhile: what it was made of goes then, even while it is read
    /// here, and so does the store's own upload in the end. Else what failed is told.
    async fn brought(&mut self, failed: Error) -> Result<()> {
        self.pending.clear();
        self.reading = None;
        let from = self.at_piece.at;
        match self.look(from).await? {
            Other::MovedOn => Ok(()),
            Other::Ends => self.catch_up(from, failed).await,
            Other::Nothing if failed.kind() == ErrorKind::NotFound => Err(self
                .damaged("a piece that was held is gone")
                .with_source(failed)),
            Other::Nothing => Err(failed),
        }
    }

    /// The next bytes from where the follower is, which the store has; none behind `end`. Each block is found to be what
    /// was received by the end of its piece.
    async fn stored_bytes(&mut self, end: u64) -> Result<Bytes> {
        const UNLIKE: &str = "its bytes are not those that were received";
        let at = self.place.at;
        let mut reading = match self.reading.take() {
            Some(reading) if reading.at == at => reading,
            _ => self.opened(at).await?,
        };
        while reading.left.is_empty() {
            let chunk = reading.stream.next().await.transpose()?;
            let Some(mut chunk) = chunk.filter(|chunk| reading.check.update(chunk)) else {
                return Err(self.damaged(UNLIKE));
            };
            let known = usize::try_from(at.saturating_sub(reading.read)).unwrap_or(usize::MAX);
            reading.read += chunk.len() as u64;
            chunk.advance(known.min(chunk.len()));
            reading.left = chunk;
        }
        let most = usize::try_from(end - at).unwrap_or(usize::MAX);
        let bytes = reading.left.split_to(most.min(reading.left.len()));
        reading.at += bytes.len() as u64;
        if reading.at < reading.check.end() {
            self.reading = Some(reading);
        } else if !reading.check.ends_well() {
            return Err(self.damaged(UNLIKE));
        }
        Ok(bytes)
    }

    /// Begins to read the piece that holds `at`.
    async fn opened(&mut self, at: u64) -> Result<Reading> {
        let assembly = &self.assembly;
        let stored = &assembly.stored;
        let k = assembly.piece_at(at);
        let piece = assembly.engine.options.ledger.piece(stored.fence.id, k);
        let piece = piece.await?;
        let piece = piece.ok_or_else(|| self.damaged("its row is gone"))?;
        let (key, before) = match piece.apart {
            Some(key) => (key, piece.start),
            None if assembly.is_apart() => {
                let kind = ErrorKind::NotFound;
                return Err(Error::new(kind, "upload.follow", stored.subject()));
            }
            None => (stored.key, 0),
        };
        let check = Check::new(piece, at);
        // From the block's start on, so that its value can be compared.
        let read = check.start();
        let range = ByteRange::try_new(read - before, check.end() - before);
        let range = range.ok_or_else(|| self.damaged("it ends early"))?;
        Ok(Reading {
            stream: stored.store.read.open(&key, range).await?,
            check,
            at,
            read,
            left: Bytes::new(),
        })
    }

    /// Waits for news; meanwhile what is kept is given up when others want its memory.
    /// Where pieces wait for one that may be at another node, the row is asked as well.
    async fn wait(&mut self) -> Result<()> {
        let assembly = Arc::clone(&self.assembly);
        let mut news = std::pin::pin!(assembly.news.notified());
        while assembly.yield_memory() {
            if tokio::time::timeout(LOOK_EVERY, &mut news).await.is_ok() {
                return Ok(());
            }
            if assembly.waits_for_others() && self.looked.elapsed() >= ROW_EVERY {
                self.looked = Instant::now();
                if let Other::MovedOn = self.look(self.at_piece.at).await? {
                    return Ok(());
                }
            }
        }
        news.await;
        Ok(())
    }

    /// Hashes bytes that are in memory.
    async fn take(&mut self, run: &Kept) {
        self.hash(run.bytes.as_ref(), run.value);
        // A MiB took most of a millisecond; others want this thread, too.
        tokio::task::yield_now().await;
    }

    /// Reads the rest of the piece in front, up to `end`, and finds it to be what was received.
    async fn read(&mut self, end: u64) -> Result<()> {
        while self.place.at < end {
            if self.take_received(end).await? {
                continue;
            }
            let bytes = self.stored_bytes(end).await?;
            self.hash_pieces(&bytes);
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Takes the values that the next whole blocks of the piece in front were received with, up to `end`; false where their
    /// bytes are needed.
    async fn take_received(&mut self, end: u64) -> Result<bool> {
        let from = self.place.at;
        let assembly = Arc::clone(&self.assembly);
        let k = assembly.piece_at(from);
        let start = assembly.place(k).map(|(start, _)| start);
        let fits = |at: u64| at.is_multiple_of(BLOCK_BYTES) && at > 0 && at + BLOCK_BYTES <= end;
        if self.place.hasher.needs_order()
            || !fits(from)
            || !start.is_some_and(|start| start.is_multiple_of(BLOCK_BYTES))
        {
            return Ok(false);
        }
        let piece = assembly
            .engine
            .options
            .ledger
            .piece(assembly.stored.fence.id, k);
        let piece = piece.await?;
        let piece = piece.ok_or_else(|| self.damaged("its row is gone"))?;
        while fits(self.place.at) {
            let block = (self.place.at - piece.start) / BLOCK_BYTES;
            let value = usize::try_from(block)
                .ok()
                .and_then(|block| piece.values.get(block));
            let Some(value) = value else { break };
            if !self.place.hasher.push_block(*value) {
                break;
            }
            self.passed(BLOCK_BYTES);
        }
        Ok(self.place.at > from)
    }

    fn damaged(&self, why: &'static str) -> Error {
        let subject = self.assembly.stored.subject();
        Error::new(ErrorKind::Damaged, "upload.follow", subject).with_source(why)
    }

    /// Hashes bytes that may lie across the edges of blocks and parts.
    fn hash_pieces(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = BLOCK_BYTES - self.place.at % BLOCK_BYTES;
            let take = usize::try_from(room).map_or(bytes.len(), |room| room.min(bytes.len()));
            let (now, later) = bytes.split_at(take);
            self.hash(now, None);
            bytes = later;
        }
    }

    /// Hashes bytes within one block; `value` is that of the block, if they are all of it.
    fn hash(&mut self, bytes: &[u8], value: Option<[u8; 32]>) {
        let counters = &self.assembly.engine.counters;
        let place = &mut self.place;
        let started = Instant::now();
        let known = value.is_some_and(|value| place.hasher.push_block(value));
        if !known {
            place.hasher.update_tree(bytes);
        }
        counters.spent(Stage::Blake3, started);
        let started = Instant::now();
        place.hasher.update_in_order(bytes);
        counters.spent(Stage::InOrder, started);
        self.passed(bytes.len() as u64);
    }

    /// Stands behind so many bytes more, which are hashed.
    fn passed(&mut self, bytes: u64) {
        let place = &mut self.place;
        place.at += bytes;
        place.values.extend(place.hasher.take_values());
        if place.at.is_multiple_of(self.assembly.part_bytes) {
            self.step();
        }
    }

    /// Notes the step to where the follower is.
    fn step(&mut self) {
        let place = &mut self.place;
        let (from, to) = (place.stepped, place.at);
        if from == to {
            return;
        }
        place.stepped = to;
        let part_bytes = self.assembly.part_bytes;
        let values = if to.is_multiple_of(part_bytes) {
            std::mem::take(&mut place.values)
        } else {
            let open = place.hasher.open_value();
            place.values.iter().copied().chain(open).collect()
        };
        self.pending.push(Advance {
            from,
            to,
            part: u32::try_from(from / part_bytes).unwrap_or(u32::MAX),
            values,
            hash_states: place.hasher.states(),
            // That of a whole part comes with the piece that fills it; any other store gives none.
            receipt: Receipt::default(),
        });
    }

    /// Commits the steps so far: their bytes are durable, for the piece `k` is whole. False when another
    /// node had done so; then the follower stands where that one is.
    async fn commit(&mut self, k: u32) -> Result<bool> {
        let assembly = Arc::clone(&self.assembly);
        let sealed = assembly.take_sealed(k);
        if let (Some(step), Some(sealed)) = (self.pending.last_mut(), &sealed) {
            step.receipt = sealed.receipt.clone();
        }
        let mut sealed = sealed.map(|sealed| sealed.piece);
        for step in std::mem::take(&mut self.pending) {
            let (from, to) = (step.from, step.to);
            match advance_row(&assembly.engine, assembly.stored.fence, vec![step]).await {
                Err(e) if e.kind() == ErrorKind::Fenced => {
                    self.catch_up(from, e).await?;
                    return Ok(false);
                }
                advanced => advanced?,
            }
            count(&assembly.engine.counters.part_commits, 1);
            if let Some(piece) = sealed.take() {
                // Of a piece that is held, others' bytes are refused; a crash before leaves that to the next.
                assembly.engine.record(assembly.stored.fence, piece).await?;
                assembly.arrived(k);
            }
            assembly.set_committed(to);
        }
        Ok(true)
    }

    /// Goes on from the row, if another node moved it on beyond `from` in the same epoch.
    async fn catch_up(&mut self, from: u64, fenced: Error) -> Result<()> {
        for _ in 0..ENDING_LOOKS {
            match self.look(from).await? {
                Other::MovedOn => return Ok(()),
                Other::Ends => tokio::time::sleep(LOOK_EVERY).await,
                Other::Nothing => break,
            }
        }
        Err(fenced)
    }

    /// Asks the row what other nodes did beyond `from`; where one moved it on, this stands there from now on.
    async fn look(&mut self, from: u64) -> Result<Other> {
        let stored = &self.assembly.stored;
        let engine = &self.assembly.engine;
        let row = engine.options.ledger.upload(stored.fence.id).await?;
        let row = row.filter(|row| row.epoch == stored.fence.epoch && row.offset > from);
        let Some(row) = row else {
            return Ok(Other::Nothing);
        };
        let (hasher, values) = match row.state {
            UploadState::Open => engine.restored(&row, stored, None).await?,
            UploadState::Completing => return Ok(Other::Ends),
            // What it became is told by the row.
            UploadState::Done => (ContentHasher::new([]), Vec::new()),
            UploadState::Aborted | UploadState::Lost => return Ok(Other::Nothing),
        };
        self.published = row.published;
        self.caught_up = true;
        self.assembly.look_again().await?;
        self.assembly.passed(row.offset);
        self.place = Place {
            at: row.offset,
            stepped: row.offset,
            hasher,
            values,
        };
        self.at_piece = self.place.clone();
        self.attempt = None;
        Ok(Other::MovedOn)
    }

    /// All bytes are there: compares the digests, and publishes. Another node may do so at this moment; then what that
    /// came to is the outcome.
    async fn finish(&mut self) -> Result<Published> {
        if let Some(published) = self.published.take() {
            drop(self.assembly.take_sink());
            return Ok(published);
        }
        let error = match self.publish().await {
            Err(e) if self.caught_up || self.assembly.is_apart() => e,
            published => return published,
        };
        for _ in 0..ENDING_LOOKS {
            match self.look(0).await? {
                Other::MovedOn if self.published.is_some() => break,
                Other::Ends => tokio::time::sleep(LOOK_EVERY).await,
                _ => break,
            }
        }
        self.published.take().ok_or(error)
    }

    async fn publish(&mut self) -> Result<Published> {
        const OP: &str = "upload.finish";
        let stored = &self.assembly.stored;
        let engine = &self.assembly.engine;
        let failed = |kind| Error::new(kind, OP, stored.subject());
        let found = self.place.hasher.finish();
        let sink = self.assembly.take_sink();
        if let Err(e) = found.compare(OP, &stored.subject(), &self.assembly.expected) {
            // C0: what differs from what was declared is nobody's any more.
            engine.give_up(stored, sink).await;
            return Err(e);
        }
        let by_part = self.assembly.is_by_part();
        let sink = if self.assembly.is_apart() || (self.caught_up && by_part) {
            // Nothing is on its way any more, and this one knows its own parts only.
            drop(sink);
            let row = engine.options.ledger.upload(stored.fence.id).await?;
            let row = row.ok_or_else(|| failed(ErrorKind::Fenced))?;
            engine.reopened(&row, stored, row.offset, None).await?
        } else {
            sink.ok_or_else(|| failed(ErrorKind::Conflict))?
        };
        let completion = Completion {
            length: self.place.at,
            blake3: found.blake3,
            sha256: found.sha256,
        };
        let ended = (Vec::new(), completion);
        engine.complete_and_publish(stored, sink, ended).await
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        // Nobody waits for one that is gone. Whoever knew better has said so already.
        let subject = self.assembly.stored.subject();
        let ended = Error::new(ErrorKind::Fenced, "upload.follow", subject);
        self.assembly.end(Err(Arc::new(ended)));
    }
}

impl fmt::Debug for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reading")
            .field("check", &self.check)
            .field("at", &self.at)
            .finish_non_exhaustive()
    }
}

/// Holds what is read of a piece against the values that it was received with.
#[derive(Debug)]
struct Check {
    piece: Piece,
    hasher: PieceHasher,
    /// Index of the block in which reading began.
    first: usize,
    compared: usize,
}

impl Check {
    /// Of a piece that is read from the block that holds `at` on.
    fn new(piece: Piece, at: u64) -> Self {
        let block = (at - piece.start) / BLOCK_BYTES;
        Self {
            hasher: PieceHasher::at_block(piece.start, block),
            piece,
            first: usize::try_from(block).unwrap_or(usize::MAX),
            compared: 0,
        }
    }

    /// Where to read from.
    fn start(&self) -> u64 {
        self.piece.start + self.first as u64 * BLOCK_BYTES
    }

    fn end(&self) -> u64 {
        self.piece.start + self.piece.length
    }

    /// False when a block that ended is not as received.
    fn update(&mut self, bytes: &[u8]) -> bool {
        self.hasher.update(bytes);
        let found = self.hasher.values();
        let from = self.first + self.compared;
        let new = &found[self.compared..];
        let same = self.piece.values.get(from..from + new.len()) == Some(new);
        self.compared = found.len();
        same
    }

    /// Whether the last block is as received, too.
    fn ends_well(&self) -> bool {
        self.hasher.last_value().as_ref() == self.piece.values.last()
    }
}

/// After how long without a step another node does what one was to do with pieces that are held apart.
const STALLED: Duration = Duration::from_secs(30);
/// How often the row is asked whether another node moved it on, while pieces wait here.
const ROW_EVERY: Duration = Duration::from_millis(500);
/// Looks at a row that another node is publishing.
const ENDING_LOOKS: u32 = 100;
/// How often it is looked whether others want memory that is kept.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(100);
