//! What must happen without a request: finishing what was left half published, giving up what nobody
//! writes to, removing what is due. Every step may be repeated and may run beside uploads.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::engine::{InProgress, Inner, Stored};
use crate::blob::UploadId;
use crate::clock::UnixMillis;
use crate::error::{Result, chain};
use crate::metadata::uploads::{Fence, Trash, UploadRow, UploadState as RowState};

/// What [`super::UploadEngine::recover`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Uploads that were whole and are now published.
    pub finished: u64,
    /// Uploads that were not whole and are gone.
    pub aborted: u64,
}

/// A `completing` row that did not move for so long has lost its task.
const COMPLETING_IDLE: Duration = Duration::from_secs(30);
/// An open upload that nobody wrote to for so long is given up.
const OPEN_IDLE: Duration = Duration::from_secs(24 * 3600);
/// Rows read at once.
const PAGE: u32 = 100;

impl Inner {
    pub(super) async fn recover(self: &Arc<Self>) -> Result<Recovered> {
        let now = self.options.clock.now();
        let recovered = Recovered {
            finished: self.publish_again(now).await?,
            aborted: self.abort_open(now).await?,
        };
        self.remove_due().await?;
        Ok(recovered)
    }

    pub(super) async fn sweep(self: &Arc<Self>) -> Result<u64> {
        let abandoned: Vec<UploadId> = self.abandoned().iter().copied().collect();
        for id in abandoned {
            self.abort_row(id).await;
        }
        let now = self.options.clock.now();
        self.publish_again(now.minus(COMPLETING_IDLE)).await?;
        self.abort_open(now.minus(OPEN_IDLE)).await?;
        self.remove_due().await
    }

    /// Runs `completing` uploads again from C1. Returns how many were published.
    async fn publish_again(self: &Arc<Self>, until: UnixMillis) -> Result<u64> {
        let mut published = 0;
        let mut seen = HashSet::new();
        while let Some(page) = self.idle(RowState::Completing, until, &mut seen).await? {
            for (row, _in_progress) in page {
                match self.publish_row(&row).await {
                    Ok(()) => published += 1,
                    Err(e) => {
                        tracing::warn!(upload = %row.id, error = chain(&e), "upload stays completing");
                    }
                }
            }
        }
        Ok(published)
    }

    async fn publish_row(&self, row: &UploadRow) -> Result<()> {
        let stored = Stored {
            fence: Fence {
                id: row.id,
                epoch: row.epoch,
            },
            key: row.key,
            store: self.store(&row.store)?.clone(),
        };
        self.publish(&stored, row.offset).await?;
        Ok(())
    }

    /// Gives up open uploads. Returns how many.
    async fn abort_open(self: &Arc<Self>, until: UnixMillis) -> Result<u64> {
        let mut aborted = 0;
        let mut seen = HashSet::new();
        while let Some(page) = self.idle(RowState::Open, until, &mut seen).await? {
            for (row, _in_progress) in page {
                aborted += u64::from(self.abort_row(row.id).await);
            }
        }
        Ok(aborted)
    }

    /// The next page of uploads in `state` that are in nobody's hands in this process; `None` once a
    /// page holds nothing new (rows that stay as they are would come again and again).
    async fn idle(
        self: &Arc<Self>,
        state: RowState,
        until: UnixMillis,
        seen: &mut HashSet<UploadId>,
    ) -> Result<Option<Vec<(UploadRow, InProgress)>>> {
        let mut rows = self.options.ledger.uploads_in(state, until, PAGE).await?;
        rows.retain(|row| seen.insert(row.id));
        let fresh = !rows.is_empty();
        let mine = rows
            .into_iter()
            .filter_map(|row| self.try_enter(row.id).map(|entered| (row, entered)));
        Ok(fresh.then(|| mine.collect()))
    }

    /// Removes what is due from its store, then from the rows. Returns how many were removed.
    async fn remove_due(&self) -> Result<u64> {
        let mut removed = 0;
        let mut seen = HashSet::new();
        loop {
            let due = self.options.ledger.due_trash(PAGE).await?;
            let mut fresh = false;
            for trash in due {
                if seen.insert(trash.key) {
                    fresh = true;
                    removed += u64::from(self.remove_one(&trash).await);
                }
            }
            if !fresh {
                return Ok(removed);
            }
        }
    }

    async fn remove_one(&self, trash: &Trash) -> bool {
        let removed = match self.store(&trash.store).map(|store| &store.delete) {
            Ok(Some(delete)) => delete.delete(&trash.key).await,
            Ok(None) => return false,
            Err(e) => Err(e),
        };
        let forgotten = match removed {
            Ok(()) => self.options.ledger.forget(&trash.key).await,
            failed => failed,
        };
        if let Err(e) = &forgotten {
            tracing::warn!(key = %trash.key, error = chain(e), "bytes stay in the trash");
        }
        forgotten.is_ok()
    }
}
