//! What must happen without a request: finishing what was left half published, giving up what nobody
//! writes to, removing what is due. Every step may be repeated and may run beside uploads.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::{StreamExt as _, stream};

use super::engine::Inner;
use super::gate::{ASKED_AT_ONCE, CLAIM, Passage, Turn};
use super::registry::InProgress;
use super::state::buffers_for;
use super::stats::count;
use crate::blob::UploadId;
use crate::clock::UnixMillis;
use crate::error::{ErrorKind, Result, chain};
use crate::metadata::uploads::{Over, Trash, UploadRow, UploadState as RowState};
use crate::store::Intake;

/// What [`super::UploadEngine::recover`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Uploads that were whole and are now published.
    pub finished: u64,
    /// Uploads that were not whole and are gone; kept ones stay.
    pub aborted: u64,
}

/// What [`super::UploadEngine::sweep`] did with what was due.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Blobs and leftovers that are gone.
    pub removed: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// A `completing` row that did not move for so long has lost its task.
const COMPLETING_IDLE: Duration = Duration::from_secs(30);
/// Rows read at once.
const PAGE: u32 = 100;

impl Inner {
    pub(super) async fn recover(self: &Arc<Self>) -> Result<Recovered> {
        let now = self.options.clock.now();
        // Alone, whatever is open has lost its writer with the process before this one.
        let (completing, unkept) = if self.options.shared {
            (
                now.minus(COMPLETING_IDLE),
                now.minus(self.options.limits.idle),
            )
        } else {
            (now, now)
        };
        let finished = if self.asks() {
            // Nobody waits at the start for what a hook takes.
            let this = Arc::clone(self);
            // Whoever asked before is gone with that process, too.
            let over = if self.options.shared {
                now
            } else {
                now.plus(CLAIM)
            };
            self.background.spawn(async move {
                if let Err(e) = this.publish_again(completing, over).await {
                    tracing::warn!(error = chain(&e), "what was left is asked about later");
                }
            });
            0
        } else {
            self.publish_again(completing, now).await?
        };
        let recovered = Recovered {
            finished,
            aborted: self.end_over(self.over(now, unkept)).await?,
        };
        self.remove_due().await?;
        Ok(recovered)
    }

    pub(super) async fn sweep(self: &Arc<Self>) -> Result<Swept> {
        let abandoned: Vec<_> = self.abandoned().iter().map(|(id, e)| (*id, *e)).collect();
        for (id, epoch) in abandoned {
            self.abort_row(id, epoch).await;
        }
        let now = self.options.clock.now();
        if !self.asks() {
            self.publish_waiting().await?;
        }
        let unkept = now.minus(self.options.limits.idle);
        self.end_over(self.over(now, unkept)).await?;
        self.remove_due().await
    }

    /// Publishes what waits for it or is to be asked about again.
    pub(super) async fn publish_waiting(self: &Arc<Self>) -> Result<u64> {
        let now = self.options.clock.now();
        self.publish_again(now.minus(COMPLETING_IDLE), now).await
    }

    /// Runs `completing` uploads again from C1, those that did not move since `until` or whose next question is
    /// due by `over`. Returns how many were published.
    async fn publish_again(self: &Arc<Self>, until: UnixMillis, over: UnixMillis) -> Result<u64> {
        if matches!(self.options.passage, Passage::Shut) {
            return Ok(0);
        }
        let published = AtomicU64::new(0);
        let mut seen = HashSet::new();
        while let Some(page) = self.waiting(until, over, &mut seen).await? {
            let each = |(row, in_progress): (UploadRow, InProgress)| {
                let published = &published;
                async move {
                    match self.publish_row(&row, over).await {
                        Ok(()) => {
                            published.fetch_add(1, Ordering::Relaxed);
                        }
                        // What was said is in the log already.
                        Err(e) if e.kind() == ErrorKind::Withheld => {}
                        Err(e) => {
                            tracing::warn!(upload = %row.id, error = chain(&e), "upload stays completing");
                        }
                    }
                    drop(in_progress);
                }
            };
            let all = stream::iter(page);
            all.for_each_concurrent(ASKED_AT_ONCE, each).await;
        }
        Ok(published.into_inner())
    }

    pub(super) async fn publish_left(self: Arc<Self>, id: UploadId) -> Result<()> {
        let Some(_in_progress) = self.try_enter(id) else {
            return Ok(());
        };
        match self.options.ledger.upload(id).await? {
            Some(row) if row.state == RowState::Completing => {
                let now = self.options.clock.now();
                self.publish_row(&row, now).await
            }
            _ => Ok(()),
        }
    }

    async fn publish_row(&self, row: &UploadRow, over: UnixMillis) -> Result<()> {
        let stored = self.stored(row)?;
        let mut held = None;
        if stored.store.intake == Intake::ByPart {
            // C1 again; a store that did it before says so.
            let start = row.offset - row.offset % row.part_bytes;
            let pool = &self.options.pool;
            let memory = pool.reserve(buffers_for(start, row.offset));
            let mut memory = self.memory(memory).await;
            let sink = self.reopened(row, &stored, row.offset, Some(&mut memory));
            held = self.commit(&stored, sink.await?).await?;
        }
        let turn = Turn {
            over,
            patience: Duration::ZERO,
        };
        let gating = row.gate.clone();
        self.publish(&stored, (row.offset, held), None, (gating, turn))
            .await?;
        Ok(())
    }

    /// What is over at `now`; of those that do not outlive their writer, what nobody wrote to since
    /// `unkept`.
    fn over(&self, now: UnixMillis, unkept: UnixMillis) -> Over {
        let limits = self.options.limits;
        Over {
            unkept,
            idle: now.minus(limits.idle),
            made: now.minus(limits.age),
            untargeted: now.minus(limits.untargeted_ttl),
            quarantined: now.minus(limits.quarantine),
        }
    }

    /// Gives up open uploads that are over, and drops finished ones. Returns how many were given up.
    async fn end_over(self: &Arc<Self>, over: Over) -> Result<u64> {
        let mut aborted = 0;
        let mut seen = HashSet::new();
        loop {
            let rows = self.options.ledger.over(over, PAGE).await?;
            let Some(page) = self.free(rows, &mut seen) else {
                return Ok(aborted);
            };
            for (row, _in_progress) in page {
                if self.was_published(&row).await {
                    let upload = row.id;
                    tracing::error!(
                        %upload,
                        "the rows are older than the store: this upload was published; see `boxgate fsck --adopt`"
                    );
                } else if matches!(row.state, RowState::Open | RowState::Completing) {
                    // Fenced: whoever went on with it meanwhile, in whatever process, keeps it.
                    aborted += u64::from(self.abort_row(row.id, row.epoch).await);
                } else if let Err(e) = self.options.ledger.release(row.id).await {
                    tracing::warn!(upload = %row.id, error = chain(&e), "its blob stays held");
                }
            }
        }
    }

    /// Whether what stands beside the bytes says that an open upload was published, which rows from before that do
    /// not know: its bytes are a box's. Where the store does not tell, so it may be.
    async fn was_published(&self, row: &UploadRow) -> bool {
        if row.state != RowState::Open {
            return false;
        }
        let Ok(store) = self.store(&row.store) else {
            return false;
        };
        let Some(sidecars) = &store.sidecars else {
            return false;
        };
        match sidecars.beside(&row.key).await {
            Ok(beside) => beside.iter().any(|(id, _)| *id == row.id),
            Err(e) => {
                tracing::warn!(upload = %row.id, error = chain(&e), "it is given up later");
                true
            }
        }
    }

    /// The next page of uploads to publish or to ask about that are in nobody's hands in this process; `None`
    /// once a page holds nothing new.
    async fn waiting(
        self: &Arc<Self>,
        until: UnixMillis,
        over: UnixMillis,
        seen: &mut HashSet<UploadId>,
    ) -> Result<Option<Vec<(UploadRow, InProgress)>>> {
        let rows = self.options.ledger.waiting(until, over, PAGE).await?;
        Ok(self.free(rows, seen))
    }

    /// Those of the rows that nobody in this process is busy with; `None` when none is new (rows that
    /// stay as they are come again and again).
    fn free(
        self: &Arc<Self>,
        mut rows: Vec<UploadRow>,
        seen: &mut HashSet<UploadId>,
    ) -> Option<Vec<(UploadRow, InProgress)>> {
        rows.retain(|row| seen.insert(row.id));
        let fresh = !rows.is_empty();
        let mine = rows
            .into_iter()
            .filter_map(|row| self.try_enter(row.id).map(|entered| (row, entered)));
        fresh.then(|| mine.collect())
    }

    /// Removes what is due from its store, then from the rows.
    async fn remove_due(&self) -> Result<Swept> {
        let mut swept = Swept::default();
        let mut seen = HashSet::new();
        loop {
            let due = self.options.ledger.due_trash(PAGE).await?;
            let mut fresh = false;
            for trash in due {
                if seen.insert(trash.clone()) {
                    fresh = true;
                    if let Some(bytes) = self.remove_one(&trash).await {
                        swept.removed += 1;
                        swept.bytes += bytes;
                        count(&self.counters.blobs_removed, 1);
                        count(&self.counters.bytes_removed, bytes);
                    }
                }
            }
            if !fresh {
                return Ok(swept);
            }
        }
    }

    /// How many bytes went; `None` when they did not.
    async fn remove_one(&self, trash: &Trash) -> Option<u64> {
        let mut bytes = 0;
        let removed = match self.store(&trash.store) {
            Ok(store) => {
                let delete = store.delete.as_ref()?;
                // What is gone already frees nothing.
                bytes = store.read.stat(&trash.key).await.unwrap_or(0);
                delete.delete(&trash.key).await
            }
            Err(e) => Err(e),
        };
        let forgotten = match removed {
            Ok(()) => self.options.ledger.forget(trash).await,
            failed => failed,
        };
        if let Err(e) = &forgotten {
            tracing::warn!(key = %trash.key, error = chain(e), "bytes stay in the trash");
        }
        forgotten.ok().map(|()| bytes)
    }
}
