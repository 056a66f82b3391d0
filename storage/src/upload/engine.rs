//! Makes uploads, publishes them, and gives them up: the steps around the bytes.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedMutexGuard, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::active::{Active, Start};
use super::committer::Shared;
use super::deferred::Deferred;
use super::pieces::{Cut, MOST_PIECES, PieceWriter};
use super::pressure::Holders;
use super::registry::{Cell, InProgress, Present, Registry};
use super::state::{
    LARGEST_PART, MOST_PARTS, SMALLEST_PART, UploadState, longest_in_parts_of, part_bytes_for,
};
use super::stats::{Counters, EngineStats, Stage};
use super::writer::UploadWriter;
use super::{EngineOptions, Recovered, Swept, UploadIntent};
use crate::blob::{BlobKey, UploadId};
use crate::clock::UnixMillis;
use crate::digest::{ContentHasher, Digest};
use crate::error::{Error, ErrorKind, Result, Retry};
use crate::metadata::accounts::OrganizationId;
use crate::metadata::uploads::{
    Fence, HeldPiece, Keep, MostOpen, NewUpload, Piece, Pieces, Sender, Source, Target, UploadRow,
};
use crate::store::{Intake, Store, UploadSink};
use crate::trace::carried;

/// Takes uploads in; one per process, cheap to clone.
#[derive(Debug, Clone)]
pub struct UploadEngine {
    inner: Arc<Inner>,
}

impl UploadEngine {
    /// An engine on these parts.
    pub fn new(options: EngineOptions) -> Self {
        let background = TaskTracker::new();
        // Closed from the start: then waiting ends whenever nothing runs.
        background.close();
        let counters = Counters::of(options.stores.keys());
        let lanes = options.limits.lanes.min(Semaphore::MAX_PERMITS);
        Self {
            inner: Arc::new(Inner {
                lanes: Arc::new(Semaphore::new(lanes)),
                options,
                background,
                counters,
                registry: Registry::default(),
                holders: Holders::default(),
                deferred: Deferred::default(),
                abandoned: Mutex::default(),
            }),
        }
    }

    /// Records the intent, then makes room in the store: an upload that its maker sends at once. A kept
    /// one that finds the limit of open uploads reached is taken all the same, but given up when it is
    /// cut.
    ///
    /// # Errors
    /// [`crate::ErrorKind::TooLarge`] and [`crate::ErrorKind::Full`] from the declared length, before
    /// anything is recorded; [`crate::ErrorKind::Invalid`] for a name, note or digest that no upload
    /// can have, and for a box of no bytes.
    /// # Cancel safety
    /// Dropping the future gives the upload up in the background.
    pub async fn begin(&self, intent: UploadIntent) -> Result<UploadWriter> {
        self.run("upload.begin", |inner| inner.begin(intent)).await
    }

    /// Records the intent and makes room in the store, for requests to come: nobody writes to it yet.
    ///
    /// # Errors
    /// As [`Self::begin`]; [`crate::ErrorKind::TooMany`] when as many uploads are open as one account
    /// or one organization may have.
    /// # Cancel safety
    /// Dropping the future leaves open whether there is an upload; one that nobody knows of expires.
    pub async fn create(&self, intent: UploadIntent) -> Result<UploadRow> {
        self.run("upload.create", |inner| inner.create(intent))
            .await
    }

    /// The same for a request that brings bytes along: whoever makes it writes to it at once, and takes nothing over.
    ///
    /// # Errors
    /// As [`Self::create`].
    /// # Cancel safety
    /// As [`Self::create`].
    pub async fn create_to_write(&self, intent: UploadIntent) -> Result<(UploadRow, UploadWriter)> {
        self.run("upload.create", |inner| inner.create_to_write(intent))
            .await
    }

    /// The same for an upload whose bytes are those of other uploads, one after the other: whole ones are
    /// held for it from now on, open ones once they are whole. Whoever reads them and writes them here
    /// ([`Self::resume`]) is told when by [`Self::joinable`]; it ends with any of them that is given up
    /// before it is whole.
    ///
    /// # Errors
    /// As [`Self::create`], and with the id of one of `sources` as the subject:
    /// [`crate::ErrorKind::NotFound`] when there is none of the same sender,
    /// [`crate::ErrorKind::Invalid`] for one with a target or that is joined itself,
    /// [`crate::ErrorKind::Gone`], [`crate::ErrorKind::Damaged`].
    /// # Cancel safety
    /// As [`Self::create`].
    pub async fn create_joined(
        &self,
        intent: UploadIntent,
        sources: Vec<UploadId>,
    ) -> Result<UploadRow> {
        self.run("upload.create", |inner| {
            inner.create_joined(intent, sources)
        })
        .await
    }

    /// Of what an upload is joined, in order; nothing once it was joined or given up.
    ///
    /// # Errors
    /// When the rows do not answer.
    pub async fn sources(&self, id: UploadId) -> Result<Vec<Source>> {
        self.inner.options.ledger.sources(id).await
    }

    /// Up to `limit` open uploads behind `after` that can be joined, in the order of their ids.
    ///
    /// # Errors
    /// When the rows do not answer.
    pub async fn joinable(&self, after: Option<UploadId>, limit: u32) -> Result<Vec<UploadId>> {
        self.inner.options.ledger.joinable(after, limit).await
    }

    /// Goes on with an open upload at its committed offset. Whoever wrote to it before is replaced at
    /// once, whatever the outcome.
    ///
    /// # Errors
    /// [`crate::ErrorKind::OffsetMismatch`] unless `offset` is the committed one;
    /// [`crate::ErrorKind::NotFound`] for no upload, [`crate::ErrorKind::Gone`] for one that was
    /// aborted, expired or lost; [`crate::ErrorKind::Conflict`] for one that is being published or is, and
    /// for one that holds pieces behind `offset`;
    /// [`crate::ErrorKind::Unavailable`] when the older writer does not end within seconds;
    /// [`crate::ErrorKind::Full`] when there is no room for what is missing.
    /// # Cancel safety
    /// Dropping the future drops the writer, and the upload stays as it is.
    pub async fn resume(&self, id: UploadId, offset: u64) -> Result<UploadWriter> {
        let gone = CancellationToken::new();
        let _here = gone.clone().drop_guard();
        self.run("upload.resume", move |inner| inner.resume(id, offset, gone))
            .await
    }

    /// Begins to send one piece of an open upload that is [cut](UploadIntent::cut) into pieces, beside
    /// whoever sends others; `length` is the piece's, where it is known. Replaces whoever sends the same
    /// piece, and nobody else.
    ///
    /// # Errors
    /// [`crate::ErrorKind::LengthMismatch`] for a piece of another size than it must have;
    /// [`crate::ErrorKind::Invalid`] for a number that no piece has, an empty one, and one whose place
    /// cannot be told; [`crate::ErrorKind::Conflict`] while a request sends the upload in order, and for
    /// one that takes no pieces; [`crate::ErrorKind::Unavailable`] for a last piece that came first, when
    /// no other tells its place; [`crate::ErrorKind::NotFound`], [`crate::ErrorKind::Gone`].
    pub async fn piece(&self, id: UploadId, k: u32, length: Option<u64>) -> Result<PieceWriter> {
        self.run("upload.piece", move |inner| inner.piece(id, k, length))
            .await
    }

    /// The committed offset of an open upload in pieces, as it moves over those that are held, which it does
    /// from here on if it does not yet: a crash leaves pieces that are held far behind it, and where all that
    /// are taken are held, no other comes to make it move. Raises no epoch.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when it does not take pieces; what the rows and the store answer.
    pub async fn follow_pieces(&self, id: UploadId) -> Result<watch::Receiver<u64>> {
        // Apart, since it is seldom needed and would make every request larger.
        Box::pin(Arc::clone(&self.inner).follow_pieces(id)).await
    }

    /// A piece that is held of an upload that was not given up: its values tell equal bytes from others
    /// ([`PieceHasher`](crate::digest::PieceHasher)).
    ///
    /// # Errors
    /// When the rows do not answer.
    pub async fn held_piece(&self, id: UploadId, k: u32) -> Result<Option<Piece>> {
        self.inner.options.ledger.piece(id, k).await
    }

    /// The pieces that are held of an upload that was not given up.
    ///
    /// # Errors
    /// When the rows do not answer.
    pub async fn held_pieces(&self, id: UploadId) -> Result<Vec<HeldPiece>> {
        self.inner.options.ledger.held_pieces(id).await
    }

    /// The values of the blocks of one part that is committed, of the last one as far as it is; `None` when nothing of it
    /// is, and once the upload ended.
    ///
    /// # Errors
    /// When the rows do not answer.
    pub async fn committed_values(&self, id: UploadId, part: u32) -> Result<Option<Vec<[u8; 32]>>> {
        self.inner.options.ledger.part_values(id, part).await
    }

    /// Where the upload stands, for whoever is about to go on with it: the writer it has is replaced,
    /// so that the offset told stays the one that [`Self::resume`] wants. One change of a row, and
    /// nothing is asked of the store. The row of a finished upload is told, too.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`], [`crate::ErrorKind::Gone`].
    pub async fn head(&self, id: UploadId) -> Result<UploadRow> {
        Arc::clone(&self.inner).head(id).await
    }

    /// The row as it is; nobody is replaced.
    ///
    /// # Errors
    /// When the rows do not answer.
    pub async fn peek(&self, id: UploadId) -> Result<Option<UploadRow>> {
        self.inner.options.ledger.upload(id).await
    }

    /// Ends an upload: an open one is given up with its bytes, and its writer is replaced; a finished
    /// one without a target drops its blob. False when there was nothing to end.
    ///
    /// # Errors
    /// When the rows do not answer. What a store does not remove stays in the trash.
    pub async fn cancel(&self, id: UploadId) -> Result<bool> {
        self.run("upload.cancel", move |inner| inner.cancel(id))
            .await
    }

    /// Gives up an upload in progress on behalf of `actor`, who administers it: as [`Self::cancel`], but
    /// told in the audit, and a finished upload is left alone. False when it was not in progress.
    ///
    /// # Errors
    /// When the rows do not answer. What a store does not remove stays in the trash.
    pub async fn abort_by(&self, id: UploadId, actor: &str) -> Result<bool> {
        let actor = actor.to_owned();
        self.run("upload.abort", move |inner| inner.abort_by(id, actor))
            .await
    }

    /// Lets a held or quarantined upload through on behalf of `actor`, whatever was said of it, and publishes it.
    /// False when it is neither.
    ///
    /// # Errors
    /// What the rows or the store answer: where it was let through already, the next sweep publishes it.
    pub async fn let_through(&self, id: UploadId, actor: &str) -> Result<bool> {
        let actor = actor.to_owned();
        self.run("upload.let_through", move |inner| async move {
            if !inner.options.ledger.let_through(id, &actor).await? {
                return Ok(false);
            }
            inner.publish_left(id).await?;
            Ok(true)
        })
        .await
    }

    /// Publishes what was left half published, and asks again about what is held, where that is due. Returns how
    /// many were published.
    ///
    /// # Errors
    /// When the rows cannot be read. What fails for one upload is logged and left for the next call.
    pub async fn publish_waiting(&self) -> Result<u64> {
        self.run("upload.publish_waiting", |inner| async move {
            inner.publish_waiting().await
        })
        .await
    }

    /// Closes a finished upload with a target: nobody is told of it any more, and what it became stays.
    /// False for any other.
    ///
    /// # Errors
    /// When the rows do not answer.
    pub async fn close(&self, id: UploadId) -> Result<bool> {
        self.inner.options.ledger.close(id).await
    }

    /// Fixes the length of an upload that declared none; the same length again is fine. Replaces no
    /// writer.
    ///
    /// # Errors
    /// [`crate::ErrorKind::TooLarge`]; [`crate::ErrorKind::Invalid`] for a box of no bytes;
    /// [`crate::ErrorKind::LengthMismatch`] when more is committed already;
    /// [`crate::ErrorKind::Conflict`] when it has another length or is not open any more;
    /// [`crate::ErrorKind::NotFound`], [`crate::ErrorKind::Gone`].
    pub async fn set_length(&self, id: UploadId, length: u64) -> Result<UploadRow> {
        self.inner.set_length(id, length).await
    }

    /// Declares digests of an open upload that finishing compares, beside those that were declared when it was made. Who
    /// writes to it at this moment is replaced: what comes from now on is held to them.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] for an algorithm that is not computed of every upload;
    /// [`crate::ErrorKind::Conflict`] when another digest is declared or it is not open any more;
    /// [`crate::ErrorKind::NotFound`], [`crate::ErrorKind::Gone`].
    pub async fn declare(&self, id: UploadId, digests: Vec<Digest>) -> Result<UploadRow> {
        self.run("upload.declare", move |inner| inner.declare(id, digests))
            .await
    }

    /// The newest kept upload of that sender to that name that is not published yet, among those with that
    /// note; one of which no byte was ever committed only where there is no other, for nothing was told of it.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] for a name that no box can have.
    pub async fn newest_unpublished(
        &self,
        sender: &Sender,
        organization: OrganizationId,
        target: &Target,
        note: Option<&str>,
    ) -> Result<Option<UploadRow>> {
        let never = UnixMillis(i64::MAX);
        let mut rows = self.uploads_to(sender, organization, target, never).await?;
        rows.retain(|row| row.note.as_deref() == note);
        let at = rows.iter().position(|row| row.offset > 0).unwrap_or(0);
        Ok((at < rows.len()).then(|| rows.swap_remove(at)))
    }

    /// Ends what the sender of upload `id` left open under the same name and note before `id` was made; once `id` is
    /// published, also what is whole there and still waits to be published. What a request is busy with at
    /// this moment stays.
    ///
    /// # Errors
    /// When the rows do not answer. What a store does not remove stays in the trash.
    pub async fn supersede(&self, id: UploadId) -> Result<()> {
        self.run("upload.supersede", move |inner| async move {
            inner.supersede(id).await
        })
        .await
    }

    /// Publishes an upload that is whole, and whose publishing failed or was cut: it is `completing` and in
    /// nobody's hands. Any other is left alone.
    ///
    /// # Errors
    /// What the store or the rows answer: then it is still to be published, by whoever asks next or the
    /// next sweep.
    pub async fn publish_left(&self, id: UploadId) -> Result<()> {
        self.run("upload.publish", move |inner| inner.publish_left(id))
            .await
    }

    /// Kept uploads of that sender to that name, newest first: those that did not end, and those that were
    /// published at or after `since`.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] for a name that no box can have.
    pub async fn uploads_to(
        &self,
        sender: &Sender,
        organization: OrganizationId,
        target: &Target,
        since: UnixMillis,
    ) -> Result<Vec<UploadRow>> {
        let ledger = &self.inner.options.ledger;
        ledger.uploads_to(sender, organization, target, since).await
    }

    /// Up to `limit` open uploads behind `after`, in the order of their ids; of one organization, if
    /// given. Replaces no writer.
    ///
    /// # Errors
    /// When the rows cannot be read.
    pub async fn open_uploads(
        &self,
        organization: Option<OrganizationId>,
        after: Option<UploadId>,
        limit: u32,
    ) -> Result<Vec<UploadRow>> {
        let ledger = &self.inner.options.ledger;
        ledger.open_uploads(organization, after, limit).await
    }

    /// Runs `work` to its end, whether or not the caller stays: nobody who leaves cuts between a row
    /// and its file.
    async fn run<T, F>(&self, op: &'static str, work: impl FnOnce(Arc<Inner>) -> F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let work = carried(work(Arc::clone(&self.inner)));
        let done = self.inner.background.spawn(work);
        done.await.unwrap_or_else(|panicked| {
            Err(Error::new(ErrorKind::Internal, op, "upload").with_source(panicked))
        })
    }

    /// Finishes what a former process left `completing`, and aborts what it left open and nobody keeps.
    /// Run before the first request is taken.
    ///
    /// # Errors
    /// When the rows cannot be read. What fails for one upload is logged and left for the next sweep.
    pub async fn recover(&self) -> Result<Recovered> {
        self.inner.recover().await
    }

    /// Removes what is due: bytes of aborted uploads and of blobs without a reference. Also publishes again
    /// what was left half published, gives up what was idle or open for too long, and drops finished uploads
    /// whose time is over.
    ///
    /// # Errors
    /// When the rows cannot be read. Bytes that a store does not remove stay due.
    pub async fn sweep(&self) -> Result<Swept> {
        self.inner.sweep().await
    }

    /// Whether this process is busy with an upload at this moment: a request writes to it, or it is
    /// just made, paused or ended.
    pub fn is_busy(&self, id: UploadId) -> bool {
        self.inner.registry.contains(id)
    }

    /// Uploads in progress in this process.
    pub fn in_progress(&self) -> usize {
        self.inner.registry.len()
    }

    /// Waits until aborts and finishes that go on in the background have ended.
    pub async fn settled(&self) {
        self.inner.background.wait().await;
    }

    pub(super) fn inner(&self) -> &Inner {
        &self.inner
    }

    /// What it stands on.
    pub(crate) fn options(&self) -> &EngineOptions {
        &self.inner.options
    }

    /// What happened so far.
    pub fn stats(&self) -> EngineStats {
        self.inner.counters.snapshot(self.in_progress() as u64)
    }

    /// Bytes copied into buffers on their way to each store.
    pub fn copied_bytes(&self) -> impl Iterator<Item = (&str, u64)> {
        let copied = self.inner.counters.copied.iter();
        copied.map(|(store, bytes)| (store.as_str(), bytes.load(Ordering::Relaxed)))
    }

    /// Calls `observe` with each commit of a part or an upload ([`Stage::Seal`], [`Stage::Advance`],
    /// [`Stage::Publish`]) and the time it took. The first observer stays.
    pub fn on_commit(&self, observe: Arc<dyn Fn(Stage, Duration) + Send + Sync>) {
        self.inner.counters.observe_with(observe);
    }
}

/// What all writers of an engine share.
pub(super) struct Inner {
    pub(super) options: EngineOptions,
    /// Aborts, pauses and finishes that outlive their request.
    pub(super) background: TaskTracker,
    pub(super) counters: Counters,
    /// Uploads that this process is busy with; recovery leaves them alone.
    pub(super) registry: Registry,
    /// Uploads that hold memory for a part.
    pub(super) holders: Holders,
    /// A permit for each upload that may hash on a second core.
    pub(super) lanes: Arc<Semaphore>,
    /// Blobs whose SHA-256 is not known yet.
    pub(super) deferred: Deferred,
    /// Uploads whose abort did not reach the rows, with the epoch that they may be aborted at. Never
    /// more than were in progress at once while the rows could not be written.
    abandoned: Mutex<BTreeMap<UploadId, i64>>,
}

/// What is needed to publish an upload or to give it up.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub(super) fence: Fence,
    pub(super) key: BlobKey,
    pub(super) store_name: String,
    pub(super) store: Store,
    /// Counts what is copied on its way to that store.
    pub(super) copied: Arc<AtomicU64>,
    pub(super) keep: Keep,
}

impl Stored {
    pub(super) fn subject(&self) -> String {
        self.fence.id.to_string()
    }
}

/// An upload's row.
struct Recorded {
    row: UploadRow,
    /// Whether it was there before: the same was asked for already.
    is_old: bool,
    state: Shared,
    in_progress: InProgress,
    /// Nobody else makes a writer of it: one who finds the row already would make the bytes' place, too.
    turn: OwnedMutexGuard<()>,
}

/// An upload that was just recorded and has room in its store.
struct Made {
    row: UploadRow,
    stored: Stored,
    sink: Box<dyn UploadSink>,
    state: Shared,
    in_progress: InProgress,
    turn: OwnedMutexGuard<()>,
}

impl Inner {
    pub(super) fn store(&self, name: &str) -> Result<&Store> {
        self.options.stores.get(name).ok_or_else(|| {
            Error::new(ErrorKind::Internal, "store.find", name)
                .with_source("no store has that name")
        })
    }

    /// What a row says about how to go on with its bytes.
    pub(super) fn stored(&self, row: &UploadRow) -> Result<Stored> {
        Ok(Stored {
            fence: Fence {
                id: row.id,
                epoch: row.epoch,
            },
            key: row.key,
            store_name: row.store.clone(),
            store: self.store(&row.store)?.clone(),
            copied: self
                .counters
                .copied
                .get(&row.store)
                .cloned()
                .unwrap_or_default(),
            keep: row.keep,
        })
    }

    /// The longest upload in parts of that length.
    pub(super) fn longest(&self, part_bytes: u64) -> u64 {
        let limit = self.options.max_length_bytes;
        limit.min(part_bytes.saturating_mul(MOST_PARTS))
    }

    pub(super) async fn free_bytes(store: &Store) -> Result<u64> {
        match &store.space {
            Some(space) => Ok(space.free_space().await?.free_bytes),
            None => Ok(u64::MAX),
        }
    }

    async fn begin(self: Arc<Self>, mut intent: UploadIntent) -> Result<UploadWriter> {
        let expected = intent.expected.clone();
        let made = match self.make(intent.clone()).await {
            Err(e) if matches!(e.kind(), ErrorKind::TooMany { .. }) => {
                intent.keep = Keep::No;
                self.make(intent).await?
            }
            made => made?,
        };
        let (_row, writer) = self.first_writer(made, expected);
        Ok(writer)
    }

    async fn create_to_write(
        self: Arc<Self>,
        intent: UploadIntent,
    ) -> Result<(UploadRow, UploadWriter)> {
        let expected = intent.expected.clone();
        let made = self.make(intent).await?;
        Ok(self.first_writer(made, expected))
    }

    /// The writer of whoever made an upload, from its first byte on.
    fn first_writer(
        self: &Arc<Self>,
        made: Made,
        expected: Vec<Digest>,
    ) -> (UploadRow, UploadWriter) {
        let Made {
            row,
            stored,
            sink,
            state,
            in_progress,
            turn: _until_it_is_known,
        } = made;
        let start = Start {
            state,
            offset: 0,
            hasher: self.hasher(&expected),
            values: Vec::new(),
            expected,
            memory: None,
        };
        (row, self.writer(stored, sink, start, in_progress))
    }

    async fn create(self: Arc<Self>, intent: UploadIntent) -> Result<UploadRow> {
        self.create_joined(intent, Vec::new()).await
    }

    async fn create_joined(
        self: Arc<Self>,
        intent: UploadIntent,
        sources: Vec<UploadId>,
    ) -> Result<UploadRow> {
        let recorded = self.intend(intent, sources).await?;
        if recorded.is_old {
            return Ok(recorded.row);
        }
        let made = self.place(recorded).await?;
        // The file's lock goes with the sink.
        drop(made.sink);
        Ok(made.row)
    }

    /// A writer on a sink, known to all who want to replace it.
    pub(super) fn writer(
        self: &Arc<Self>,
        stored: Stored,
        sink: Box<dyn UploadSink>,
        start: Start,
        in_progress: InProgress,
    ) -> UploadWriter {
        let (id, epoch) = (stored.fence.id, stored.fence.epoch);
        let (progress, told) = watch::channel(start.offset);
        let taken_over = CancellationToken::new();
        let ended = in_progress.ended();
        let state = start.state.clone();
        let active = Active::new(
            Arc::clone(self),
            stored,
            sink,
            start,
            progress,
            taken_over.clone(),
            in_progress,
        );
        let cell = Arc::new(Cell::new(active, taken_over));
        let present = Present::new(epoch, Arc::clone(&cell), ended);
        self.registry.enter_writer(id, present);
        UploadWriter::new(id, cell, state, told)
    }

    /// Room, then A1, then A2.
    async fn make(self: &Arc<Self>, intent: UploadIntent) -> Result<Made> {
        let recorded = self.intend(intent, Vec::new()).await?;
        self.place(recorded).await
    }

    /// Room, then A1.
    async fn intend(
        self: &Arc<Self>,
        intent: UploadIntent,
        joins: Vec<UploadId>,
    ) -> Result<Recorded> {
        assert_possible(&intent)?;
        let UploadIntent {
            store: store_name,
            sender,
            organization,
            target,
            length,
            expected,
            part_bytes: wanted,
            cut,
            keep,
            note,
        } = intent;
        let store_name = store_name.unwrap_or_else(|| self.options.default_store.clone());
        let store = self.store(&store_name)?;
        let needed = part_bytes_for(cut.map_or(length, |cut| cut.length(length)));
        let by_part = store.intake == Intake::ByPart;
        if by_part {
            self.assert_part(needed)?;
        }
        let part_bytes = match wanted {
            None => needed,
            Some(wanted) => self.part_bytes_of(wanted, by_part).max(needed),
        };
        let pieces = cut.map(|cut| {
            cut.pieces(length, part_bytes).ok_or_else(|| {
                Error::new(ErrorKind::Invalid, "upload.begin", "pieces")
                    .with_source(format!("1 to {MOST_PIECES} pieces make an upload"))
            })
        });
        let pieces = pieces.transpose()?.map(|pieces| Pieces {
            apart: by_part && matches!(cut, Some(Cut::Chunks { .. })),
            ..pieces
        });
        let limits = self.options.limits;
        let new = NewUpload {
            id: UploadId::random(),
            sender,
            organization,
            key: BlobKey::random(),
            store: store_name.clone(),
            length,
            part_bytes,
            pieces,
            joins,
            target,
            keep,
            note,
            expected,
            most_open: MostOpen {
                per_account: limits.open_per_account,
                per_organization: limits.open_per_organization,
            },
        };
        let (id, limit) = (new.id, self.longest(part_bytes));
        let least = cut.map_or(length, |cut| cut.least(length));
        if least.is_some_and(|least| least > limit) {
            let kind = ErrorKind::TooLarge { limit };
            return Err(Error::new(kind, "upload.begin", "upload"));
        }
        let state = Shared::new(UploadState::new(part_bytes, length, limit));
        let in_progress = self.enter(id);
        let turn = self.turn(id).await?;
        self.take_room(id, &state, Self::free_bytes(store).await?)?;
        let row = match self.options.ledger.create(new).await {
            Ok(row) => row,
            Err(e) => {
                // The row may be there all the same: only its answer may be lost.
                let refused = matches!(e.kind(), ErrorKind::TooMany { .. });
                if e.kind().retry() == Retry::Later && !refused {
                    self.abort_row(id, FIRST_EPOCH).await;
                }
                return Err(e);
            }
        };
        Ok(Recorded {
            is_old: row.id != id,
            row,
            state,
            in_progress,
            turn,
        })
    }

    /// What a part has that somebody wants to have so many bytes.
    pub(super) fn part_bytes_of(&self, wanted: u64, by_part: bool) -> u64 {
        let budget = self.options.pool.capacity_bytes().max(SMALLEST_PART);
        let most = if by_part {
            1 << budget.ilog2()
        } else {
            LARGEST_PART
        };
        let wanted = wanted.checked_next_power_of_two().unwrap_or(u64::MAX);
        wanted.clamp(SMALLEST_PART, LARGEST_PART.min(most))
    }

    /// A2.
    async fn place(self: &Arc<Self>, recorded: Recorded) -> Result<Made> {
        let Recorded {
            row,
            state,
            in_progress,
            turn,
            is_old: _,
        } = recorded;
        let stored = self.stored(&row)?;
        let write = &stored.store.write;
        match write.begin(&row.key, row.part_bytes, row.length).await {
            Ok(sink) => Ok(Made {
                row,
                stored,
                sink,
                state,
                in_progress,
                turn,
            }),
            Err(e) => {
                self.give_up(&stored, None).await;
                Err(e)
            }
        }
    }

    /// Refuses what a store that holds whole parts does not take.
    fn assert_part(&self, part_bytes: u64) -> Result<()> {
        const OP: &str = "upload.begin";
        let memory = self.options.pool.capacity_bytes();
        if part_bytes > memory {
            let limit = longest_in_parts_of(memory);
            return Err(
                Error::new(ErrorKind::TooLarge { limit }, OP, "upload").with_source(format!(
                    "a part of {part_bytes} bytes, {memory} bytes of memory"
                )),
            );
        }
        Ok(())
    }

    /// Uploads whose abort must be tried again.
    pub(super) fn abandoned(&self) -> MutexGuard<'_, BTreeMap<UploadId, i64>> {
        self.abandoned
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Refuses what no upload can have.
fn assert_possible(intent: &UploadIntent) -> Result<()> {
    let invalid = |what: &str, why: String| {
        Err(Error::new(ErrorKind::Invalid, "upload.begin", what).with_source(why))
    };
    let mut hasher = ContentHasher::new([]);
    if let Some(digest) = intent
        .expected
        .iter()
        .find(|digest| !hasher.want(digest.algorithm()))
    {
        let name = digest.algorithm().name();
        return invalid("digest", format!("{name} is no digest of a whole blob"));
    }
    if intent.length == Some(0) && intent.target.is_some() {
        return invalid("length", "a box has at least one byte".into());
    }
    match &intent.note {
        Some(note) if note.len() > NOTE_BYTES => invalid(
            "note",
            format!("{} bytes, {NOTE_BYTES} at most", note.len()),
        ),
        _ => Ok(()),
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner")
            .field("options", &self.options)
            .field("counters", &self.counters)
            .finish_non_exhaustive()
    }
}

/// The epoch of a row that was just made.
const FIRST_EPOCH: i64 = 1;
/// Longest note in bytes: what a protocol wants to tell again came in the head of a request.
const NOTE_BYTES: usize = 256 << 10;
