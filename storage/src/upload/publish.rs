//! The two ends of an upload: published by the one commit point, or given up without a trace.

use tokio::time::Instant;

use super::engine::{Inner, Stored};
use super::gate::Turn;
use super::stats::{Stage, count};
use crate::blob::{BlobKey, UploadId};
use crate::error::{Error, ErrorKind, Result, Retry, chain};
use crate::metadata::uploads::{
    Advance, Completion, Fence, Gating, Keep, Published, Trash, UploadState as RowState,
};
use crate::sidecar::Sidecar;
use crate::store::{Intake, UploadSink};

/// Where a sidecar stands.
#[derive(Debug, PartialEq, Eq)]
struct Described {
    key: BlobKey,
    store: String,
}

/// Tries of a step whose answer may have been lost; each finds out what the one before did.
const TRIES: usize = 3;

impl Inner {
    /// C0 to C3, with B3 of the last parts where those are durable and not committed yet. On failure the upload is given
    /// up, unless only its answer is missing, or the gate's: then the row stays `completing`, and recovery publishes it.
    /// A kept upload whose row did not get so far stays open, with all bytes that are committed.
    pub(super) async fn complete_and_publish(
        &self,
        stored: &Stored,
        sink: Box<dyn UploadSink>,
        (last, completion): (Vec<Advance>, Completion),
    ) -> Result<Published> {
        let started = Instant::now();
        let beside = match self.complete(stored, last, completion).await {
            Ok(beside) => beside,
            Err(e) => {
                if stored.keep == Keep::No {
                    self.give_up(stored, Some(sink)).await;
                }
                return Err(e);
            }
        };
        let held = self.commit(stored, sink).await?;
        // Where C1 takes its time, equal bytes may have come or gone since.
        let beside = beside.filter(|_| stored.store.intake == Intake::InPlace);
        let turn = self.first_turn();
        let published = self
            .publish(stored, (completion.length, held), beside, (None, turn))
            .await;
        self.counters.spent(Stage::Publish, started);
        published
    }

    /// C1. Returns how many bytes the store then holds. An answer that is lost decides nothing: what the store holds
    /// does, which is looked at next.
    pub(super) async fn commit(
        &self,
        stored: &Stored,
        sink: Box<dyn UploadSink>,
    ) -> Result<Option<u64>> {
        let e = match sink.commit().await {
            Ok(held) => return Ok(Some(held)),
            Err(e) => e,
        };
        if stored.store.intake == Intake::ByPart && e.kind().retry() == Retry::Later {
            // The parts are there and not yet one blob: recovery commits them again.
            return Err(e);
        }
        if e.kind() == ErrorKind::Damaged {
            self.lose(stored).await;
            return Err(e);
        }
        tracing::warn!(upload = %stored.fence.id, error = chain(&e), "commit of the bytes unanswered");
        Ok(None)
    }

    /// C0, with the row deciding when the answer is lost. Returns what is to stand beside the blob, as far as that is
    /// known.
    async fn complete(
        &self,
        stored: &Stored,
        last: Vec<Advance>,
        completion: Completion,
    ) -> Result<Option<(Sidecar, String)>> {
        let started = Instant::now();
        let ledger = &self.options.ledger;
        let steps = last.len() as u64;
        let mut done = ledger.complete(stored.fence, last, completion).await;
        if let Err(lost) = &done
            && lost.kind().retry() == Retry::Later
            && let Ok(Some(row)) = ledger.upload(stored.fence.id).await
            && row.epoch == stored.fence.epoch
            && row.state == RowState::Completing
        {
            done = Ok(None);
        }
        if steps > 0 {
            self.counters.spent(Stage::Advance, started);
        }
        if done.is_ok() {
            count(&self.counters.part_commits, steps);
        }
        done
    }

    /// C2 and C3 of an upload whose row is `completing`, and the gate between them; may be repeated. `held` is what the
    /// store just said that it holds, `beside` what the rows just said is to stand beside the blob.
    pub(super) async fn publish(
        &self,
        stored: &Stored,
        (length, held): (u64, Option<u64>),
        beside: Option<(Sidecar, String)>,
        (gating, turn): (Option<Gating>, Turn),
    ) -> Result<Published> {
        self.check(stored, length, held).await?;
        let mut sidecar = self.settle_equals(stored, length, beside).await?;
        let is_new = is_own(stored, sidecar.as_ref());
        if self.pass_gate(stored, gating, is_new, turn).await? {
            // That took its time, and may have labels.
            sidecar = self.settle_equals(stored, length, None).await?;
        }
        let described = self.write_beside(sidecar).await?;
        let ledger = &self.options.ledger;
        let mut tries = 0;
        let published = loop {
            tries += 1;
            match ledger.publish(stored.fence).await {
                Ok(published) => break published,
                // Repeating it on a row that is done gives the outcome again.
                Err(e) if e.kind().retry() == Retry::Later && tries < TRIES => {
                    tracing::warn!(upload = %stored.fence.id, error = chain(&e), "publish tried again");
                }
                Err(e) => {
                    if e.kind().retry() == Retry::Never {
                        self.give_up(stored, None).await;
                    }
                    return Err(e);
                }
            }
        };
        count(&self.counters.uploads_finished, 1);
        self.note_deferred(&published.blob);
        self.describe_where_it_is(stored, &published, described)
            .await?;
        if published.blob.key != stored.key {
            // The tenant held an equal blob; ours is in the trash by now.
            self.remove_and_forget(stored).await;
        }
        Ok(published)
    }

    /// Writes beside the blob which name is about to lead to it, so that the name can be made again without the
    /// rows. Returns the place: where another upload publishes or removes equal bytes at this moment, the rows
    /// may come to lead elsewhere.
    async fn write_beside(&self, sidecar: Option<(Sidecar, String)>) -> Result<Option<Described>> {
        let Some((sidecar, store)) = sidecar else {
            return Ok(None);
        };
        let Some(sidecars) = self.store(&store)?.sidecars.clone() else {
            return Ok(None);
        };
        let (key, id, text) = (sidecar.blob.key, sidecar.upload, sidecar.to_text());
        sidecars.put(&key, id, &text).await?;
        Ok(Some(Described { key, store }))
    }

    /// The same once it is published, where what was written stands at another place than the blob.
    async fn describe_where_it_is(
        &self,
        stored: &Stored,
        published: &Published,
        described: Option<Described>,
    ) -> Result<()> {
        let Some(before) = described else {
            return Ok(());
        };
        // Nobody but this upload knows its own key until now.
        if before.key == stored.key && published.blob.key == stored.key {
            return Ok(());
        }
        let sidecar = self.options.ledger.sidecar(stored.fence).await?;
        let now = self.write_beside(sidecar).await?;
        if now.as_ref() == Some(&before) {
            return Ok(());
        }
        // Beside bytes that are gone nothing would ever remove it.
        if let Ok(store) = self.store(&before.store)
            && let Some(sidecars) = &store.sidecars
        {
            sidecars.remove(&before.key, stored.fence.id).await?;
        }
        Ok(())
    }

    /// What is to stand beside the blob that publishing leads to. Bytes that are whole must never be given up for equal
    /// ones that are gone: such a blob is taken out of service first, and publishing heals it.
    async fn settle_equals(
        &self,
        stored: &Stored,
        length: u64,
        mut known: Option<(Sidecar, String)>,
    ) -> Result<Option<(Sidecar, String)>> {
        let ledger = &self.options.ledger;
        let mut condemned = None;
        // As often as there are rows of the same bytes, each with others' names; mostly none, rarely one.
        loop {
            let sidecar = match known.take() {
                Some(known) => Some(known),
                None => ledger.sidecar(stored.fence).await?,
            };
            let Some((beside, store)) = &sidecar else {
                return Ok(None);
            };
            let key = beside.blob.key;
            // What was published already leads where it leads.
            if key == stored.key || condemned == Some(key) {
                return Ok(sidecar);
            }
            let found = match self.store(store)?.read.stat(&key).await {
                Ok(found) => Some(found),
                Err(e) if e.kind() == ErrorKind::NotFound => None,
                // Nothing is known of it.
                Err(e) => return Err(e),
            };
            if found == Some(length) {
                return Ok(sidecar);
            }
            tracing::error!(blob = %key, store, ?found, length, "a blob lost its bytes");
            ledger.condemn(&key).await?;
            condemned = Some(key);
        }
    }

    /// C2: the store holds as many bytes as were committed.
    async fn check(&self, stored: &Stored, length: u64, held: Option<u64>) -> Result<()> {
        let found = match held {
            Some(held) => Ok(held),
            None => stored.store.read.stat(&stored.key).await,
        };
        let what = match found {
            Ok(found) if found == length => return Ok(()),
            Ok(_) => "the store holds another length than was committed",
            Err(e) if e.kind() == ErrorKind::NotFound => "the store lost the bytes",
            Err(e) => return Err(e),
        };
        self.lose(stored).await;
        Err(Error::new(ErrorKind::Damaged, "upload.check", stored.subject()).with_source(what))
    }

    /// Bytes that were committed are gone, so that the upload can never be whole: it ends as `lost`,
    /// since an offset never goes down.
    pub(super) async fn lose(&self, stored: &Stored) {
        if self.lose_row(stored.fence).await {
            self.remove_and_forget(stored).await;
        }
    }

    /// The same, for its row alone: what is left of its bytes is removed with the trash.
    pub(super) async fn lose_row(&self, fence: Fence) -> bool {
        let id = fence.id;
        let done = self.options.ledger.lose(fence).await;
        match &done {
            Ok(()) => {
                tracing::error!(upload = %id, "stored bytes are lost, and with them the upload");
                count(&self.counters.uploads_lost, 1);
            }
            Err(e) => tracing::warn!(upload = %id, error = chain(e), "lost upload stays open"),
        }
        done.is_ok()
    }

    /// Ends an upload without a trace, unless it has a newer epoch: the row first, since it may turn
    /// out to be published or another's.
    pub(super) async fn give_up(&self, stored: &Stored, sink: Option<Box<dyn UploadSink>>) {
        if !self.abort_row(stored.fence.id, stored.fence.epoch).await {
            return;
        }
        if let Some(sink) = sink
            && let Err(e) = sink.abort().await
        {
            tracing::warn!(upload = %stored.fence.id, error = chain(&e), "bytes stay in the trash");
            return;
        }
        self.remove_and_forget(stored).await;
    }

    /// True when the row was open or completing at that epoch and is aborted now. When the rows do not
    /// answer, the upload is noted and tried again by the next sweep; its bytes stay, for they may be
    /// published.
    pub(super) async fn abort_row(&self, id: UploadId, epoch: i64) -> bool {
        match self.options.ledger.abort(id, Some(epoch)).await {
            Ok(aborted) => {
                self.abandoned().remove(&id);
                count(&self.counters.uploads_aborted, u64::from(aborted));
                aborted
            }
            Err(e) => {
                tracing::warn!(upload = %id, error = chain(&e), "abort is left for later");
                self.abandoned().insert(id, epoch);
                false
            }
        }
    }

    /// Removes bytes that are in the trash. What fails stays there for the next sweep.
    pub(super) async fn remove_and_forget(&self, stored: &Stored) {
        let removed = match &stored.store.delete {
            Some(delete) => delete.delete(&stored.key).await,
            None => return,
        };
        let forgotten = match removed {
            Ok(()) => {
                let (key, store) = (stored.key, stored.store_name.clone());
                self.options.ledger.forget(&Trash { key, store }).await
            }
            failed => failed,
        };
        if let Err(e) = forgotten {
            tracing::warn!(upload = %stored.fence.id, error = chain(&e), "bytes stay in the trash");
        }
    }
}

/// Whether publishing makes a blob of the upload's own bytes.
fn is_own(stored: &Stored, sidecar: Option<&(Sidecar, String)>) -> bool {
    sidecar.is_none_or(|(sidecar, _)| sidecar.blob.key == stored.key)
}
