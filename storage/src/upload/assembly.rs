//! What the pieces of one upload share while any of them arrives in this process: the sink, the book of
//! who sends which piece, and what was kept in memory for the follower.
//!
//! Opening one raises no epoch: pieces may come over many connections at once. Whoever takes the upload
//! over ends it as a whole.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::active::SLOW;
use super::committer::Shared;
use super::engine::{Inner, Stored};
use super::follower::{Follower, LOOK_EVERY};
use super::registry::{InProgress, Present};
use super::state::UploadState;
use super::stats::count;
use crate::buffer::BUFFER_BYTES;
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::metadata::uploads::{HeldPiece, Piece, Pieces, Published, UploadRow};
use crate::store::{Intake, LOCK_WAIT, PartIndex, Receipt, Run, RunBytes, UploadSink};

/// Shared by the writers of one upload's pieces and by their follower.
#[derive(Debug)]
pub(super) struct Assembly {
    pub(super) engine: Arc<Inner>,
    pub(super) stored: Stored,
    pub(super) part_bytes: u64,
    /// Whether each piece is held as bytes of its own until the offset covers it.
    apart: bool,
    /// Whether a piece of this process was the last that was missing.
    completed_here: AtomicBool,
    /// Digests of the whole that were declared.
    pub(super) expected: Vec<Digest>,
    /// Set by whoever takes the upload over or ends it.
    pub(super) taken_over: CancellationToken,
    /// Something changed that the follower may wait for.
    pub(super) news: Notify,
    /// Bytes that came, so that room is kept for those that did not.
    numbers: Shared,
    /// Absent once the follower took it to commit, and where pieces are held apart: then only the follower writes, a
    /// part at a time.
    sink: Mutex<Option<Box<dyn UploadSink>>>,
    book: Mutex<Book>,
    /// Bytes of each piece but the last, once known.
    piece_bytes: watch::Sender<Option<u64>>,
    /// The committed offset.
    committed: watch::Sender<u64>,
    /// What became of the upload, once that is decided.
    outcome: watch::Sender<Option<Outcome>>,
    _in_progress: InProgress,
}

/// What became of an upload; several may want to know.
pub(super) type Outcome = Result<Published, Arc<Error>>;

/// Who sends which piece, and what is there of each.
#[derive(Debug)]
struct Book {
    count: u32,
    length: Option<u64>,
    /// Writers that did not end.
    writers: usize,
    /// Nobody joins any more.
    closed: bool,
    /// Pieces that are whole and recorded, those behind the offset included.
    held: BTreeSet<u32>,
    claims: HashMap<u32, Claim>,
    /// What came in this process of pieces that the follower did not pass.
    tracks: HashMap<u32, Track>,
    /// Where the store holds whole parts: pieces that are durable and that the follower did not pass.
    sealed: BTreeMap<u32, Sealed>,
    /// When one of those gave way to others that want its memory.
    gave_way: Option<Instant>,
    next_track: u64,
}

/// The right to send one piece.
#[derive(Debug, Clone)]
struct Claim {
    /// Set by a newer sender of the same piece.
    replaced: CancellationToken,
    /// Set once nothing of this one is left.
    ended: CancellationToken,
}

#[derive(Debug)]
struct Track {
    id: u64,
    runs: VecDeque<Kept>,
}

/// A run that is on its way to the store or there, kept for the follower so that it need not be read.
#[derive(Debug)]
pub(super) struct Kept {
    /// Where it belongs in the blob.
    pub(super) offset: u64,
    pub(super) bytes: RunBytes,
    /// Its subtree value, if it is one whole block of the blob's tree.
    pub(super) value: Option<[u8; 32]>,
}

/// A piece that its store holds where nobody can read it before the upload is whole: it counts once the
/// follower passed it, from memory.
#[derive(Debug)]
pub(super) struct Sealed {
    pub(super) piece: Piece,
    pub(super) receipt: Receipt,
}

/// What the follower finds where it stands.
#[derive(Debug)]
pub(super) enum Front {
    /// The next bytes, kept.
    Kept(Kept),
    /// The piece is whole; its bytes up to its end must be read.
    Stored(u64),
    /// The piece is whole, and all of it was followed.
    Passed,
    /// What was followed of the piece is not going to be a part of it.
    Withdrawn,
    /// Nothing yet.
    Nothing,
}

impl Assembly {
    /// Opens what is needed to take pieces, with a seat for the first of them, and starts the follower.
    pub(super) async fn open(
        engine: &Arc<Inner>,
        row: &UploadRow,
        cut: Pieces,
        in_progress: InProgress,
    ) -> Result<Seat> {
        let stored = engine.stored(row)?;
        let held = engine.held_of(row, &stored, cut).await?;
        let ends = held.iter().map(|piece| piece.start + piece.length);
        let extent = ends.fold(row.offset, u64::max);
        let came = held.iter().map(|piece| piece.length);
        let came = came.fold(0, u64::saturating_add).max(row.offset);
        let limit = engine.longest(row.part_bytes);
        let numbers = UploadState::resumed(row.part_bytes, row.length, limit, came);
        let numbers = Shared::new(numbers);
        engine.take_room(row.id, &numbers, Inner::free_bytes(&stored.store).await?)?;
        let sink = if cut.apart {
            None
        } else {
            Some(engine.reopened_for_pieces(row, &stored, extent).await?)
        };
        let restored = engine.restored(row, &stored, None).await;
        let (hasher, values) = match restored {
            Ok(restored) => restored,
            Err(e) => {
                drop(sink);
                return Err(engine.lost_if_so(&stored, e).await);
            }
        };
        let ended = in_progress.ended();
        let assembly = Arc::new(Self {
            engine: Arc::clone(engine),
            stored,
            part_bytes: row.part_bytes,
            apart: cut.apart,
            completed_here: AtomicBool::new(false),
            expected: row.expected.clone(),
            taken_over: CancellationToken::new(),
            news: Notify::new(),
            numbers,
            sink: Mutex::new(sink),
            book: Mutex::new(Book {
                count: cut.count,
                length: row.length,
                writers: 1,
                closed: false,
                held: held.iter().map(|piece| piece.k).collect(),
                claims: HashMap::new(),
                tracks: HashMap::new(),
                sealed: BTreeMap::new(),
                gave_way: None,
                next_track: 0,
            }),
            piece_bytes: watch::Sender::new(cut.bytes),
            committed: watch::Sender::new(row.offset),
            outcome: watch::Sender::new(None),
            _in_progress: in_progress,
        });
        let goes_on = row.offset > 0 || cut.held > 0;
        count(&engine.counters.uploads_resumed, u64::from(goes_on));
        let present = Present::of_pieces(row.epoch, &assembly, ended);
        engine.registry.enter_writer(row.id, present);
        let follower = Follower::new(Arc::clone(&assembly), row.offset, hasher, values);
        engine.background.spawn(follower.run());
        Ok(Seat::new(assembly))
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        // Every change of the book is one step.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A seat for one more writer; `None` when this is ending.
    pub(super) fn join(self: &Arc<Self>) -> Option<Seat> {
        let mut book = self.book();
        if book.closed || self.taken_over.is_cancelled() {
            return None;
        }
        book.writers += 1;
        drop(book);
        Some(Seat::new(Arc::clone(self)))
    }

    /// Ends this for newcomers, if nobody is there any more.
    pub(super) fn close_if_idle(&self) -> bool {
        let mut book = self.book();
        book.closed |= book.writers == 0;
        book.closed
    }

    /// Ends this for newcomers, and says what became of the upload unless that is said.
    pub(super) fn end(&self, outcome: Outcome) {
        self.book().closed = true;
        self.outcome.send_if_modified(|known| {
            let news = known.is_none();
            if news {
                *known = Some(outcome);
            }
            news
        });
    }

    /// What became of the upload, as soon as that is decided.
    pub(super) async fn decided(&self) -> Result<Published> {
        const OP: &str = "upload.finish";
        let mut outcome = self.outcome.subscribe();
        let decided = tokio::select! {
            decided = outcome.wait_for(Option::is_some) => decided.ok().and_then(|o| o.clone()),
            () = self.taken_over.cancelled() => None,
        };
        match decided {
            Some(Ok(published)) => Ok(published),
            Some(Err(e)) => Err(Error::new(e.kind(), OP, self.stored.subject()).with_source(e)),
            None => Err(Error::new(ErrorKind::Fenced, OP, self.stored.subject())),
        }
    }

    /// Notes the size of the pieces, once it is in the row.
    pub(super) fn set_piece_bytes(&self, bytes: u64) {
        self.piece_bytes.send_replace(Some(bytes));
    }

    /// The size of the pieces as soon as one told it.
    pub(super) fn piece_bytes(&self) -> watch::Receiver<Option<u64>> {
        self.piece_bytes.subscribe()
    }

    /// Notes the length of the upload, once it is in the row.
    pub(super) fn set_length(&self, length: u64) {
        self.book().length = Some(length);
        self.numbers.lock().set_length(length);
        self.news.notify_one();
    }

    pub(super) fn length(&self) -> Option<u64> {
        self.book().length
    }

    /// Where a piece begins and ends, as far as that is known.
    pub(super) fn place(&self, k: u32) -> Option<(u64, Option<u64>)> {
        let (count, length) = {
            let book = self.book();
            (book.count, book.length)
        };
        let bytes = *self.piece_bytes.borrow();
        if k + 1 == count {
            let before = u64::from(k);
            let start = if k == 0 {
                Some(0)
            } else {
                before.checked_mul(bytes?)
            };
            return Some((start?, length));
        }
        let start = u64::from(k).checked_mul(bytes?)?;
        Some((start, start.checked_add(bytes?)))
    }

    /// The piece that holds the byte at `offset`.
    pub(super) fn piece_at(&self, offset: u64) -> u32 {
        let last = self.book().count.saturating_sub(1);
        match *self.piece_bytes.borrow() {
            Some(bytes) => u32::try_from(offset / bytes.max(1))
                .unwrap_or(last)
                .min(last),
            None => 0,
        }
    }

    pub(super) fn committed(&self) -> u64 {
        *self.committed.borrow()
    }

    /// The committed offset as it moves.
    pub(super) fn progress(&self) -> watch::Receiver<u64> {
        self.committed.subscribe()
    }

    pub(super) fn set_committed(&self, offset: u64) {
        self.committed.send_replace(offset);
    }

    /// Whether a piece is whole and recorded.
    pub(super) fn holds(&self, k: u32) -> bool {
        self.book().held.contains(&k)
    }

    /// Whether all pieces are.
    pub(super) fn holds_all(&self) -> bool {
        let book = self.book();
        book.held.len() as u64 == u64::from(book.count)
    }

    /// Takes note of bytes that came, for the room that is left.
    pub(super) fn received(&self, bytes: u64) {
        // Bytes that are sent again count twice; then too little room is kept, not too much.
        let _past = self.numbers.lock().receive(bytes);
    }

    /// Hands a run to the store.
    pub(super) fn write(&self, run: Run) -> BoxFuture<'static, Result<()>> {
        match &mut *self.sink() {
            Some(sink) => sink.write(run),
            None => self.no_sink(),
        }
    }

    /// Resolves when the bytes up to `end` that were handed over survive a loss of power.
    pub(super) fn seal(&self, end: u64) -> BoxFuture<'static, Result<Receipt>> {
        let part = end.saturating_sub(1) / self.part_bytes;
        let part = PartIndex(u32::try_from(part).unwrap_or(u32::MAX));
        match &mut *self.sink() {
            Some(sink) => sink.seal(part),
            None => self.no_sink(),
        }
    }

    /// The sink, to be committed: all pieces are in it.
    pub(super) fn take_sink(&self) -> Option<Box<dyn UploadSink>> {
        self.sink().take()
    }

    fn sink(&self) -> MutexGuard<'_, Option<Box<dyn UploadSink>>> {
        self.sink.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn no_sink<T: Send + 'static>(&self) -> BoxFuture<'static, Result<T>> {
        let error = Error::new(ErrorKind::Conflict, "upload.write", self.stored.subject());
        Box::pin(std::future::ready(Err(error)))
    }

    /// Begins to keep what comes of a piece; returns the number of the attempt.
    pub(super) fn begin_track(&self, k: u32) -> u64 {
        let mut book = self.book();
        book.next_track += 1;
        let id = book.next_track;
        let runs = VecDeque::new();
        book.tracks.insert(k, Track { id, runs });
        id
    }

    /// Whether each piece is a part of a store that holds whole parts: then it is followed from memory, or not at all.
    pub(super) fn is_by_part(&self) -> bool {
        !self.apart && self.stored.store.intake == Intake::ByPart
    }

    /// Whether each piece is held as bytes of its own until the offset covers it.
    pub(super) fn is_apart(&self) -> bool {
        self.apart
    }

    /// Takes note of how many pieces are held, as the row was told by one of this process.
    pub(super) fn counted(&self, held: u32) {
        if held == self.count() {
            self.completed_here.store(true, Ordering::Relaxed);
        }
    }

    pub(super) fn is_completed_here(&self) -> bool {
        self.completed_here.load(Ordering::Relaxed)
    }

    /// Where the part that begins at `at`, or the upload, ends, once all pieces up to there are held.
    pub(super) fn whole_part(&self, at: u64) -> Option<u64> {
        let end = at + self.part_bytes;
        let end = self.length().map_or(end, |length| end.min(length));
        let (first, last) = (self.piece_at(at), self.piece_at(end.saturating_sub(1)));
        let book = self.book();
        (first..=last)
            .all(|k| book.held.contains(&k))
            .then_some(end)
    }

    /// Keeps a run for the follower, while there is memory that nobody waits for.
    pub(super) fn keep(&self, k: u32, run: Kept) {
        let pool = &self.engine.options.pool;
        let most = pool.capacity_bytes() / KEPT_SHARE / BUFFER_BYTES as u64;
        let mut book = self.book();
        if self.is_by_part() {
            // Its memory was reserved with its part's.
            if let Some(track) = book.tracks.get_mut(&k) {
                track.runs.push_back(run);
            }
            drop(book);
            return self.news.notify_one();
        }
        let kept = book.tracks.values().map(|track| track.runs.len() as u64);
        let mut full = kept.sum::<u64>() >= most;
        if full {
            // Whatever comes first is followed first.
            let rest = book.tracks.iter_mut().filter(|(other, _)| **other > k);
            let last = rest.filter(|(_, track)| !track.runs.is_empty());
            if let Some((_, last)) = last.max_by_key(|(other, _)| **other) {
                last.runs.clear();
                full = most == 0;
            }
        }
        if !full
            && pool.waiting() == 0
            && let Some(track) = book.tracks.get_mut(&k)
        {
            track.runs.push_back(run);
            drop(book);
            self.news.notify_one();
        }
    }

    /// Gives back what is kept, when others want its memory: it can be read. Returns whether anything
    /// is left that may be wanted later.
    pub(super) fn yield_memory(&self) -> bool {
        let pool = &self.engine.options.pool;
        let wanted = pool.waiting() > 0 || pool.in_use_bytes() >= pool.capacity_bytes();
        let mut book = self.book();
        if wanted && !self.is_by_part() {
            for track in book.tracks.values_mut() {
                track.runs.clear();
            }
        }
        book.tracks.values().any(|track| !track.runs.is_empty())
    }

    /// A piece is whole and durable, and waits for the follower.
    pub(super) fn sealed(&self, sealed: Sealed) {
        self.book().sealed.insert(sealed.piece.k, sealed);
        self.news.notify_one();
    }

    /// Whether pieces wait here for one before them, which may be at another node.
    pub(super) fn waits_for_others(&self) -> bool {
        !self.book().sealed.is_empty()
    }

    /// Another node moved the offset on: what is kept of pieces before it is of no use.
    pub(super) fn passed(&self, offset: u64) {
        let front = self.piece_at(offset);
        let mut book = self.book();
        book.sealed.retain(|k, _| *k >= front);
        book.tracks.retain(|k, _| *k >= front);
        drop(book);
        self.set_committed(offset);
    }

    /// What the follower just passed.
    pub(super) fn take_sealed(&self, k: u32) -> Option<Sealed> {
        self.book().sealed.remove(&k)
    }

    /// Resolves once the follower passed the piece `k`, which ends at `end`, or ended.
    ///
    /// # Errors
    /// [`ErrorKind::OffsetMismatch`] when the pieces before it do not come: then the piece is nobody's,
    /// and its memory is free.
    pub(super) async fn followed(&self, k: u32, end: u64) -> Result<()> {
        const OP: &str = "upload.piece";
        let mut progress = self.committed.subscribe();
        let mut outcome = self.outcome.subscribe();
        let since = Instant::now();
        loop {
            tokio::select! {
                reached = progress.wait_for(|committed| *committed >= end) => {
                    drop(reached);
                    return Ok(());
                }
                ended = outcome.wait_for(Option::is_some) => {
                    let failed = ended.ok().and_then(|ended| ended.clone()).and_then(Result::err);
                    return failed.map_or(Ok(()), |e| {
                        Err(Error::new(e.kind(), OP, self.stored.subject()).with_source(e))
                    });
                }
                () = self.taken_over.cancelled() => {
                    return Err(Error::new(ErrorKind::Fenced, OP, self.stored.subject()));
                }
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            let waiting = self.engine.options.pool.waiting() > 0;
            let long = since.elapsed() >= if waiting { SLOW } else { FRONT_WAIT };
            if long && self.gives_way(k, waiting) {
                let kind = ErrorKind::OffsetMismatch {
                    expected: self.committed(),
                    given: u64::from(k) * self.part_bytes,
                };
                return Err(Error::new(kind, OP, self.stored.subject())
                    .with_source("the pieces before it did not come"));
            }
        }
    }

    /// Gives a piece up that waits for those before it; where memory is short, the last of them only, and one
    /// after the other: whoever waits needs a moment to take what the one before gave back.
    fn gives_way(&self, k: u32, memory_is_short: bool) -> bool {
        if k == self.piece_at(self.committed()) {
            return false;
        }
        let mut book = self.book();
        let now = Instant::now();
        if memory_is_short {
            let last = book.sealed.keys().next_back() == Some(&k);
            if !last || book.gave_way.is_some_and(|at| now - at < SLOW) {
                return false;
            }
            book.gave_way = Some(now);
        }
        book.sealed.remove(&k);
        book.tracks.remove(&k);
        true
    }

    /// A piece is whole and recorded.
    pub(super) fn arrived(&self, k: u32) {
        self.book().held.insert(k);
        self.news.notify_one();
    }

    /// More pieces are recorded than this process knows of.
    pub(super) async fn look_again(&self) -> Result<()> {
        let ledger = &self.engine.options.ledger;
        let id = self.stored.fence.id;
        let row = ledger.upload(id).await?;
        let held = ledger.held_pieces(id).await?;
        if let Some(bytes) = row.as_ref().and_then(|row| row.pieces?.bytes) {
            self.set_piece_bytes(bytes);
        }
        if let Some(length) = row.and_then(|row| row.length) {
            self.set_length(length);
        }
        self.book().held.extend(held.iter().map(|piece| piece.k));
        self.news.notify_one();
        Ok(())
    }

    /// How many pieces there are.
    pub(super) fn count(&self) -> u32 {
        self.book().count
    }

    /// How many pieces this process knows to be held.
    pub(super) fn held(&self) -> usize {
        self.book().held.len()
    }

    /// What the follower finds at the offset `at` of the piece `k`, which ends at `end`; `attempt` is
    /// the one it followed so far.
    pub(super) fn front(
        &self,
        k: u32,
        at: u64,
        end: Option<u64>,
        attempt: &mut Option<u64>,
    ) -> Front {
        let mut book = self.book();
        let held = book.held.contains(&k) || book.sealed.contains_key(&k);
        let track = book.tracks.get_mut(&k);
        let found = track.as_ref().map(|track| track.id);
        if attempt.is_some() && *attempt != found {
            *attempt = None;
            return Front::Withdrawn;
        }
        if held && end == Some(at) {
            book.tracks.remove(&k);
            return Front::Passed;
        }
        if let Some(track) = track {
            if let Some(run) = track.runs.pop_front_if(|run| run.offset == at) {
                *attempt = found;
                return Front::Kept(run);
            }
            if held {
                // To its end, so that each block that is read is compared as a whole.
                track.runs.clear();
            }
        }
        match end {
            Some(end) if held => Front::Stored(end),
            _ => Front::Nothing,
        }
    }
}

impl Inner {
    /// Pieces that are held. Where the store holds whole parts, those are the committed ones, and a crash
    /// may have left the last of them to be recorded.
    async fn held_of(
        &self,
        row: &UploadRow,
        stored: &Stored,
        cut: Pieces,
    ) -> Result<Vec<HeldPiece>> {
        let ledger = &self.options.ledger;
        let mut held = ledger.held_pieces(row.id).await?;
        if cut.apart || stored.store.intake == Intake::InPlace {
            return Ok(held);
        }
        for k in 0..cut.count {
            let start = u64::from(k) * row.part_bytes;
            let length = row
                .length
                .unwrap_or(0)
                .saturating_sub(start)
                .min(row.part_bytes);
            if start >= row.offset {
                break;
            }
            if held.iter().any(|piece| piece.k == k) {
                continue;
            }
            let values = ledger.part_values(row.id, k).await?.unwrap_or_default();
            let piece = Piece {
                k,
                start,
                length,
                values,
                apart: None,
            };
            ledger.hold_piece(stored.fence, piece).await?;
            held.push(HeldPiece { k, start, length });
        }
        Ok(held)
    }
}

/// A writer's place at an assembly, and its right to send a piece once it has claimed one.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) assembly: Arc<Assembly>,
    claimed: Option<(u32, Claim)>,
}

impl Seat {
    fn new(assembly: Arc<Assembly>) -> Self {
        Self {
            assembly,
            claimed: None,
        }
    }

    /// The right to send the piece `k`: whoever sends it now is replaced, for the newest request of a
    /// piece wins as that of an upload does.
    pub(super) async fn claim(&mut self, k: u32) -> Result<()> {
        let mine = Claim {
            replaced: CancellationToken::new(),
            ended: CancellationToken::new(),
        };
        loop {
            let older = {
                let mut book = self.assembly.book();
                let older = book.claims.get(&k).cloned();
                if older.is_none() {
                    book.claims.insert(k, mine.clone());
                }
                older
            };
            let Some(older) = older else {
                self.claimed = Some((k, mine));
                return Ok(());
            };
            older.replaced.cancel();
            let ended = tokio::time::timeout(LOCK_WAIT, older.ended.cancelled()).await;
            ended.map_err(|_elapsed| {
                let subject = self.assembly.stored.subject();
                Error::new(ErrorKind::Unavailable, "upload.piece", subject)
                    .with_source("an older request still sends that piece")
            })?;
        }
    }

    /// Resolves when a newer request sends the piece, or takes the upload over.
    pub(super) fn replaced(&self) -> impl Future<Output = ()> + Send + 'static {
        let taken_over = self.assembly.taken_over.clone();
        let replaced = self
            .claimed
            .as_ref()
            .map(|(_, claim)| claim.replaced.clone());
        async move {
            let replaced = async {
                match replaced {
                    Some(replaced) => replaced.cancelled().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = taken_over.cancelled() => {}
                () = replaced => {}
            }
        }
    }

    pub(super) fn is_replaced(&self) -> bool {
        let claim = self.claimed.as_ref();
        self.assembly.taken_over.is_cancelled()
            || claim.is_some_and(|(_, claim)| claim.replaced.is_cancelled())
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut book = self.assembly.book();
        book.writers -= 1;
        if let Some((k, claim)) = self.claimed.take() {
            book.claims.remove(&k);
            if !book.held.contains(&k) && !book.sealed.contains_key(&k) {
                // What came of it is nobody's.
                book.tracks.remove(&k);
            }
            claim.ended.cancel();
        }
        drop(book);
        self.assembly.news.notify_one();
    }
}

/// How long a piece waits in memory for those before it.
const FRONT_WAIT: Duration = Duration::from_secs(10);

/// The part of all buffers that the pieces of one upload may keep: the others are on their way. With the
/// smallest budget that is one part of each of eight connections.
const KEPT_SHARE: u64 = 2;
