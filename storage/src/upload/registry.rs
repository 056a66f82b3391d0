//! Which uploads this process is busy with, and who writes to each: the newest request wins at once.
//!
//! What is safe is decided by the row's epoch alone. This only makes it quick: an older writer of the
//! same process is told, and what it holds is taken from it, so that nobody waits for a timeout.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio_util::sync::CancellationToken;

use super::active::Active;
use super::assembly::Assembly;
use super::committer::Shared;
use super::engine::Inner;
use crate::blob::UploadId;
use crate::error::{Error, ErrorKind, Result};
use crate::store::LOCK_WAIT;

/// The uploads that this process is busy with.
#[derive(Debug, Default)]
pub(super) struct Registry(Mutex<HashMap<UploadId, Entry>>);

/// One upload, for as long as anybody is busy with it.
#[derive(Debug, Default)]
struct Entry {
    /// How many are.
    users: usize,
    /// Whoever makes a writer or ends the upload, one after the other.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// The newest epoch that this process knows of.
    epoch: i64,
    /// Numbers of the newest writer.
    numbers: Option<Shared>,
    writer: Option<Present>,
}

/// A writer, or the writers of an upload's pieces, as others see it.
#[derive(Debug, Clone)]
pub(super) struct Present {
    epoch: i64,
    holder: Holder,
    /// Set once nothing of it is left.
    ended: CancellationToken,
}

/// What a writer holds, where it can be taken from it.
#[derive(Debug)]
pub(super) struct Cell {
    /// Locked by the writer for a call only; absent once the writer ended.
    pub(super) active: tokio::sync::Mutex<Option<Box<Active>>>,
    /// Set by a newer request.
    pub(super) taken_over: CancellationToken,
    /// Set when the writer ends by itself, or lets a newer request have the upload.
    pub(super) closing: CancellationToken,
    /// Whether whole parts are committed first where somebody asks where to go on.
    cedes: bool,
}

/// Who holds the upload's sink.
#[derive(Debug, Clone)]
enum Holder {
    /// One writer, in order.
    Writer(Arc<Cell>),
    /// Those who send its pieces; and what tells them that they were replaced.
    Pieces(Weak<Assembly>, CancellationToken),
}

impl Present {
    /// `ended` is that of the writer's [`InProgress`].
    pub(super) fn new(epoch: i64, cell: Arc<Cell>, ended: CancellationToken) -> Self {
        Self {
            epoch,
            holder: Holder::Writer(cell),
            ended,
        }
    }

    /// `ended` is that of the assembly's [`InProgress`].
    pub(super) fn of_pieces(
        epoch: i64,
        assembly: &Arc<Assembly>,
        ended: CancellationToken,
    ) -> Self {
        let taken_over = assembly.taken_over.clone();
        Self {
            epoch,
            holder: Holder::Pieces(Arc::downgrade(assembly), taken_over),
            ended,
        }
    }

    /// Whether nothing is left of it.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.is_cancelled()
    }

    /// The assembly, where pieces are sent.
    pub(super) fn assembly(&self) -> Option<Arc<Assembly>> {
        match &self.holder {
            Holder::Writer(_) => None,
            Holder::Pieces(assembly, _) => assembly.upgrade(),
        }
    }

    /// Whether pieces are sent, not one byte after the other.
    pub(super) fn is_in_pieces(&self) -> bool {
        matches!(self.holder, Holder::Pieces(..))
    }

    fn taken_over(&self) -> &CancellationToken {
        match &self.holder {
            Holder::Writer(cell) => &cell.taken_over,
            Holder::Pieces(_, taken_over) => taken_over,
        }
    }
}

impl Cell {
    pub(super) fn new(active: Active, taken_over: CancellationToken) -> Self {
        Self {
            cedes: active.cedes(),
            active: tokio::sync::Mutex::new(Some(Box::new(active))),
            taken_over,
            closing: CancellationToken::new(),
        }
    }
}

/// An upload that this process is busy with until this is dropped.
#[derive(Debug)]
pub(super) struct InProgress {
    engine: Arc<Inner>,
    id: UploadId,
    /// Set when this is dropped.
    ended: CancellationToken,
}

impl InProgress {
    /// Set once this is dropped.
    pub(super) fn ended(&self) -> CancellationToken {
        self.ended.clone()
    }
}

impl Drop for InProgress {
    fn drop(&mut self) {
        let mut entries = self.engine.registry.entries();
        if let Slot::Occupied(mut entry) = entries.entry(self.id) {
            entry.get_mut().users -= 1;
            if entry.get().users == 0 {
                entry.remove();
            }
        }
        drop(entries);
        self.ended.cancel();
    }
}

impl Registry {
    fn entries(&self) -> MutexGuard<'_, HashMap<UploadId, Entry>> {
        // Every change of the map is one step.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this process is busy with an upload.
    pub(super) fn contains(&self, id: UploadId) -> bool {
        self.entries().contains_key(&id)
    }

    /// How many uploads this process is busy with.
    pub(super) fn len(&self) -> usize {
        self.entries().len()
    }

    /// Bytes that were declared to present writers and did not come yet, but for the upload `id`.
    fn outstanding(entries: &HashMap<UploadId, Entry>, id: UploadId) -> u64 {
        entries
            .iter()
            .filter(|(other, _)| **other != id)
            .filter_map(|(_, entry)| entry.numbers.as_ref())
            .map(|numbers| numbers.lock().outstanding())
            .fold(0, u64::saturating_add)
    }

    /// The numbers of the newest writer.
    pub(super) fn numbers(&self, id: UploadId) -> Option<Shared> {
        self.entries().get(&id)?.numbers.clone()
    }

    /// Notes a newer epoch. Returns the writer that is older, if there is one.
    pub(super) fn raise(&self, id: UploadId, epoch: i64) -> Option<Present> {
        let mut entries = self.entries();
        let entry = entries.get_mut(&id)?;
        entry.epoch = entry.epoch.max(epoch);
        entry.writer.clone().filter(|writer| writer.epoch < epoch)
    }

    /// Makes the writer known. When the upload was taken over while it was being made, it is told so.
    pub(super) fn enter_writer(&self, id: UploadId, writer: Present) {
        let mut entries = self.entries();
        let Some(entry) = entries.get_mut(&id) else {
            return;
        };
        if entry.epoch > writer.epoch {
            writer.taken_over().cancel();
        }
        entry.epoch = entry.epoch.max(writer.epoch);
        entry.writer = Some(writer);
    }

    /// The present writer.
    pub(super) fn writer(&self, id: UploadId) -> Option<Present> {
        self.entries().get(&id)?.writer.clone()
    }
}

impl Inner {
    /// Marks the upload as in progress, beside whoever else is busy with it.
    pub(super) fn enter(self: &Arc<Self>, id: UploadId) -> InProgress {
        self.registry.entries().entry(id).or_default().users += 1;
        self.entered(id)
    }

    /// Marks the upload as in progress; `None` when anybody is busy with it already.
    pub(super) fn try_enter(self: &Arc<Self>, id: UploadId) -> Option<InProgress> {
        match self.registry.entries().entry(id) {
            Slot::Occupied(_) => return None,
            Slot::Vacant(free) => free.insert(Entry::default()).users = 1,
        }
        Some(self.entered(id))
    }

    fn entered(self: &Arc<Self>, id: UploadId) -> InProgress {
        InProgress {
            engine: Arc::clone(self),
            id,
            ended: CancellationToken::new(),
        }
    }

    /// Takes the numbers of a new writer into account, if what is left of `free_bytes` beside what
    /// others declared and have not sent yet has room for them.
    pub(super) fn take_room(&self, id: UploadId, numbers: &Shared, free_bytes: u64) -> Result<()> {
        let mut entries = self.registry.entries();
        let needed = [
            Registry::outstanding(&entries, id),
            self.options.min_free_bytes,
            numbers.lock().outstanding(),
        ]
        .into_iter()
        .fold(0, u64::saturating_add);
        if free_bytes < needed {
            return Err(Error::new(ErrorKind::Full, "upload.begin", "upload"));
        }
        if let Some(entry) = entries.get_mut(&id) {
            entry.numbers = Some(numbers.clone());
        }
        Ok(())
    }

    /// The right to make a writer of this upload or to end it.
    pub(super) async fn turn(&self, id: UploadId) -> Result<tokio::sync::OwnedMutexGuard<()>> {
        let turn = self.registry.entries().get(&id).map(|e| e.turn.clone());
        let turn = turn.unwrap_or_default().lock_owned();
        tokio::time::timeout(LOCK_WAIT, turn)
            .await
            .map_err(|_elapsed| busy(id))
    }

    /// Lets a writer that ends by itself do so: it is about to commit what its client sent, and the
    /// client would have to send it again. It commits within some syncs, or its disk is stuck.
    pub(super) async fn let_close(&self, id: UploadId) {
        if let Some(writer) = self.registry.writer(id)
            && let Holder::Writer(cell) = &writer.holder
            && cell.closing.is_cancelled()
        {
            let _too_long = tokio::time::timeout(LOCK_WAIT, writer.ended.cancelled()).await;
        }
    }

    /// Ends the writer of an upload that is about to be taken over, once the whole parts that came are committed: a fast
    /// client that was cut is back before its connection is seen to be gone, and would send the same again each time. They
    /// take some syncs, or the disk is stuck: then the writer is replaced as it is.
    pub(super) async fn settle(&self, id: UploadId) {
        self.let_close(id).await;
        let Some(writer) = self.registry.writer(id) else {
            return;
        };
        let Holder::Writer(cell) = &writer.holder else {
            return;
        };
        if !cell.cedes || writer.has_ended() || cell.taken_over.is_cancelled() {
            return;
        }
        cell.closing.cancel();
        cell.taken_over.cancel();
        let cell = Arc::clone(cell);
        // Whoever asks may leave: what is taken from the writer then, nobody else would end.
        let ceded = self.background.spawn(async move {
            let active = cell.active.lock().await.take();
            if let Some(active) = active {
                active.cede().await;
            }
        });
        let _too_long = tokio::time::timeout(LOCK_WAIT, ceded).await;
    }

    /// Tells a writer that it was replaced, and takes from it what it holds.
    pub(super) fn replace(&self, writer: &Present) {
        writer.taken_over().cancel();
        // Who sends a piece lets go of it by itself.
        let Holder::Writer(cell) = &writer.holder else {
            return;
        };
        let cell = Arc::clone(cell);
        self.background.spawn(async move {
            let active = cell.active.lock().await.take();
            if let Some(active) = active {
                active.leave().await;
            }
        });
    }

    /// Waits until nothing of a replaced writer is left.
    pub(super) async fn gone(&self, id: UploadId, writer: &Present) -> Result<()> {
        tokio::time::timeout(LOCK_WAIT, writer.ended.cancelled())
            .await
            .map_err(|_elapsed| busy(id))
    }
}

fn busy(id: UploadId) -> Error {
    Error::new(ErrorKind::Unavailable, "upload.take_over", id.to_string())
        .with_source("an older request still holds it")
}
