//! Going on with an upload: who may, from where, and with which hash states.
//!
//! The row decides: raising its epoch is what replaces an older writer, and its offset is where bytes
//! go on. What the store holds behind that offset was never told to anyone and is cut off.

use std::sync::Arc;

use futures_util::StreamExt;
use tokio_util::sync::CancellationToken;

use super::active::Start;
use super::committer::Shared;
use super::engine::{Inner, Stored};
use super::registry::InProgress;
use super::state::{UploadState, buffers_for};
use super::stats::count;
use super::writer::UploadWriter;
use crate::blob::UploadId;
use crate::buffer::Reservation;
use crate::digest::{BLOCK_BYTES, ContentHasher, Digest, block_value};
use crate::error::{Error, ErrorKind, Result, Retry, chain};
use crate::metadata::uploads::{UploadRow, UploadState as RowState};
use crate::range::ByteRange;
use crate::store::{Intake, Kept, UploadSink};

impl Inner {
    /// `gone` is set when whoever asked has left.
    pub(super) async fn resume(
        self: Arc<Self>,
        id: UploadId,
        offset: u64,
        gone: CancellationToken,
    ) -> Result<UploadWriter> {
        const OP: &str = "upload.resume";
        let in_progress = self.enter(id);
        let _turn = self.turn(id).await?;
        self.let_close(id).await;
        let row = self.take_over(OP, id).await?;
        if row.state != RowState::Open {
            return Err(Error::new(ErrorKind::Conflict, OP, id.to_string()));
        }
        if let Some(older) = self.registry.raise(id, row.epoch) {
            self.replace(&older);
            self.gone(id, &older).await?;
        }
        if row.offset != offset {
            let kind = ErrorKind::OffsetMismatch {
                expected: row.offset,
                given: offset,
            };
            return Err(Error::new(kind, OP, id.to_string()));
        }
        if row.pieces.is_some() {
            // In order from here on: what was on its way behind the offset is cut off with the rest. Not
            // what is held there, of which somebody was told.
            let fence = self.stored(&row)?.fence;
            self.options.ledger.drop_pieces(fence).await?;
        }
        self.go_on(&row, in_progress, &gone).await
    }

    /// The row, with the upload taken over if it is open.
    async fn take_over(&self, op: &'static str, id: UploadId) -> Result<UploadRow> {
        let row = self.options.ledger.take_over(id).await?;
        told(op, id, row)
    }

    pub(super) async fn head(self: Arc<Self>, id: UploadId) -> Result<UploadRow> {
        self.settle(id).await;
        let row = match self.take_over("upload.head", id).await {
            Err(e) if e.kind() == ErrorKind::Full => return self.head_without_room(id).await,
            row => row?,
        };
        if row.state == RowState::Open
            && let Some(older) = self.registry.raise(id, row.epoch)
        {
            self.replace(&older);
        }
        Ok(row)
    }

    /// Where it stands while the epoch cannot be written. The offset that is told must stay true all the
    /// same, so the writer that this process has of it ends first; another process has none, since the data
    /// directory that is full is this one's.
    async fn head_without_room(self: Arc<Self>, id: UploadId) -> Result<UploadRow> {
        const OP: &str = "upload.head";
        let _in_progress = self.enter(id);
        // Not beside one that is just making a writer.
        let _turn = self.turn(id).await?;
        if let Some(older) = self.registry.writer(id)
            && !older.has_ended()
        {
            self.replace(&older);
            self.gone(id, &older).await?;
        }
        let row = self.options.ledger.upload(id).await?;
        told(OP, id, row)
    }

    pub(super) async fn declare(
        self: Arc<Self>,
        id: UploadId,
        digests: Vec<Digest>,
    ) -> Result<UploadRow> {
        // What a writer is about to commit counts: whether it is too late for a digest is asked of the row that is changed.
        self.let_close(id).await;
        let row = self.options.ledger.declare(id, digests).await?;
        if let Some(older) = self.registry.raise(id, row.epoch) {
            self.replace(&older);
        }
        Ok(row)
    }

    pub(super) async fn cancel(self: Arc<Self>, id: UploadId) -> Result<bool> {
        let _in_progress = self.enter(id);
        // Not beside one that is just making a writer: it may make the file anew.
        let _turn = self.turn(id).await?;
        let ledger = &self.options.ledger;
        let Some(row) = ledger.upload(id).await? else {
            return Ok(false);
        };
        if !ledger.abort(id, None).await? {
            return ledger.release(id).await;
        }
        self.clear_away(&row).await
    }

    pub(super) async fn abort_by(self: Arc<Self>, id: UploadId, actor: String) -> Result<bool> {
        let _in_progress = self.enter(id);
        let _turn = self.turn(id).await?;
        let ledger = &self.options.ledger;
        match ledger.upload(id).await? {
            Some(row) if ledger.abort_by(id, &actor).await? => self.clear_away(&row).await,
            _ => Ok(false),
        }
    }

    /// Ends the writer of an upload that was just aborted, and removes its bytes.
    async fn clear_away(self: &Arc<Self>, row: &UploadRow) -> Result<bool> {
        let id = row.id;
        count(&self.counters.uploads_aborted, 1);
        if let Some(writer) = self.registry.writer(id) {
            self.replace(&writer);
            if let Err(e) = self.gone(id, &writer).await {
                tracing::warn!(upload = %id, error = chain(&e), "bytes stay in the trash");
                return Ok(true);
            }
        }
        self.remove_and_forget(&self.stored(row)?).await;
        Ok(true)
    }

    pub(super) async fn set_length(&self, id: UploadId, length: u64) -> Result<UploadRow> {
        const OP: &str = "upload.set_length";
        let ledger = &self.options.ledger;
        let row = ledger.upload(id).await?;
        let row = row.ok_or_else(|| Error::new(ErrorKind::NotFound, OP, id.to_string()))?;
        let limit = self.longest(row.part_bytes);
        if length > limit {
            return Err(Error::new(
                ErrorKind::TooLarge { limit },
                OP,
                id.to_string(),
            ));
        }
        let row = ledger.set_length(id, length).await?;
        if let Some(numbers) = self.registry.numbers(id) {
            numbers.lock().set_length(length);
        }
        Ok(row)
    }

    /// Room, then the store, then the hash states.
    async fn go_on(
        self: &Arc<Self>,
        row: &UploadRow,
        in_progress: InProgress,
        gone: &CancellationToken,
    ) -> Result<UploadWriter> {
        let stored = self.stored(row)?;
        let limit = self.longest(row.part_bytes);
        let state = UploadState::resumed(row.part_bytes, row.length, limit, row.offset);
        let state = Shared::new(state);
        let free_bytes = Self::free_bytes(&stored.store).await?;
        self.take_room(row.id, &state, free_bytes)?;
        // Nothing is half done by then, and whoever comes next must not wait for one that is not there.
        let mut memory = tokio::select! {
            biased;
            () = gone.cancelled() => {
                let error = Error::new(ErrorKind::Unavailable, "upload.resume", stored.subject());
                return Err(error.with_source("whoever asked for it has left"));
            }
            memory = self.memory_for(row, &stored, &state) => memory,
        };
        let sink = self
            .reopened(row, &stored, row.offset, memory.as_mut())
            .await?;
        let begun = row.offset - row.offset % BLOCK_BYTES;
        let held = ByteRange::try_new(begun, row.offset).and_then(|range| sink.reread(range));
        let (hasher, values) = match self.restored(row, &stored, held).await {
            Ok(restored) => restored,
            Err(e) => {
                drop(sink);
                return Err(self.lost_if_so(&stored, e).await);
            }
        };
        let start = Start {
            state,
            offset: row.offset,
            hasher,
            values,
            expected: row.expected.clone(),
            memory,
        };
        count(&self.counters.uploads_resumed, 1);
        Ok(self.writer(stored, sink, start, in_progress))
    }

    /// Memory for the whole part that holds the offset, where the store holds parts: what is stored of it
    /// is read back, and what is missing comes in beside it.
    pub(super) async fn memory_for(
        &self,
        row: &UploadRow,
        stored: &Stored,
        state: &Shared,
    ) -> Option<Reservation> {
        let start = row.offset - row.offset % row.part_bytes;
        if stored.store.intake == Intake::InPlace || start == row.offset {
            return None;
        }
        let end = state.lock().part_end(row.offset);
        let buffers = buffers_for(start, end);
        let memory = self.options.pool.reserve_for_frames(buffers);
        Some(self.memory(memory).await)
    }

    /// The sink, with nothing behind `offset` any more. What it holds of the part is taken from `memory`.
    pub(super) async fn reopened(
        &self,
        row: &UploadRow,
        stored: &Stored,
        offset: u64,
        memory: Option<&mut Reservation>,
    ) -> Result<Box<dyn UploadSink>> {
        self.reopened_as(row, stored, offset, memory, false).await
    }

    /// The same for pieces, which other nodes may take at this moment, too. Where each node has a sink of its own, all
    /// parts go into one upload of the store: the one that the row names before any is sent.
    pub(super) async fn reopened_for_pieces(
        &self,
        row: &UploadRow,
        stored: &Stored,
        offset: u64,
    ) -> Result<Box<dyn UploadSink>> {
        if let Some(shared) = &stored.store.shared
            && row.length.is_none_or(|length| length > row.part_bytes)
        {
            let ledger = &self.options.ledger;
            if ledger.receipts(row.id).await?.upload.is_none() {
                let mine = shared.begin_shared(&row.key).await?;
                let named = match ledger.name_store_upload(stored.fence, &mine).await {
                    // Only the answer may be lost: then it is named by now, and others may send to it.
                    Err(lost) if lost.kind().retry() == Retry::Later => {
                        ledger.name_store_upload(stored.fence, &mine).await
                    }
                    named => named,
                };
                shared.end_others(&row.key, &named?).await?;
            }
        }
        self.reopened_as(row, stored, offset, None, true).await
    }

    async fn reopened_as(
        &self,
        row: &UploadRow,
        stored: &Stored,
        offset: u64,
        memory: Option<&mut Reservation>,
        shared: bool,
    ) -> Result<Box<dyn UploadSink>> {
        let write = &stored.store.write;
        let mut kept = Kept {
            shared,
            length: row.length,
            ..Kept::default()
        };
        if stored.store.intake == Intake::ByPart {
            if memory.is_some() {
                self.assert_still_ours(stored).await?;
            }
            kept.receipts = self.options.ledger.receipts(row.id).await?;
            let start = offset - offset % row.part_bytes;
            // The block that the offset lies in has its buffer with what comes.
            kept.memory = memory
                .map(|memory| memory.split(buffers_for(start, offset - offset % BLOCK_BYTES)));
        }
        match write.resume(&row.key, row.part_bytes, offset, kept).await {
            // Its maker died between row and file, and nothing was told to be there.
            Err(e) if e.kind() == ErrorKind::NotFound && offset == 0 => {
                write.begin(&row.key, row.part_bytes, row.length).await
            }
            Err(e) => Err(self.lost_if_so(stored, e).await),
            sink => sink,
        }
    }

    /// Memory may have come late: what the store holds by now may be a newer writer's, of another node.
    async fn assert_still_ours(&self, stored: &Stored) -> Result<()> {
        let now = self.options.ledger.upload(stored.fence.id).await?;
        if now.is_some_and(|row| row.epoch == stored.fence.epoch) {
            return Ok(());
        }
        let kind = ErrorKind::Fenced;
        Err(Error::new(kind, "upload.resume", stored.subject()))
    }

    /// When the failure tells that committed bytes are gone, the upload is, too. Where the store holds parts, no
    /// blob is found before it is whole, which says nothing of its parts.
    pub(super) async fn lost_if_so(&self, stored: &Stored, error: Error) -> Error {
        let lost = match error.kind() {
            ErrorKind::Damaged | ErrorKind::Gone => true,
            ErrorKind::NotFound => stored.store.intake == Intake::InPlace,
            _ => false,
        };
        if !lost {
            return error;
        }
        self.lose(stored).await;
        Error::new(ErrorKind::Gone, "upload.resume", stored.subject()).with_source(error)
    }

    /// The hashers at the row's offset, and the values of the finished blocks of the part it lies in.
    pub(super) async fn restored(
        &self,
        row: &UploadRow,
        stored: &Stored,
        held: Option<Vec<u8>>,
    ) -> Result<(ContentHasher, Vec<[u8; 32]>)> {
        let algorithms = || row.expected.iter().map(Digest::algorithm);
        if row.offset == 0 {
            return Ok((self.hasher(&row.expected), Vec::new()));
        }
        let tail = row.offset - row.offset % BLOCK_BYTES;
        let mut hasher = match ContentHasher::restore(&row.hash_states) {
            Ok(hasher) if hasher.bytes() == tail && algorithms().all(|a| hasher.has(a)) => hasher,
            Ok(_) => {
                return self
                    .hashed_again(row, stored, "states of another offset")
                    .await;
            }
            Err(e) => return self.hashed_again(row, stored, &e.to_string()).await,
        };
        let mut values = self.committed_values(row, row.offset).await?;
        if tail < row.offset {
            let expected = values.pop();
            // Nothing comes behind it, and of parts that are not one object yet none can be read.
            if stored.store.intake == Intake::ByPart
                && held.is_none()
                && row.length == Some(row.offset)
                && let Some(value) = expected
                && hasher.push_end(value, row.offset - tail)
            {
                return Ok((hasher, values));
            }
            let bytes = match held {
                Some(bytes) => bytes,
                None => read(stored, tail, row.offset).await?,
            };
            if expected != Some(block_value(tail, &bytes)) {
                return Err(damaged(stored, tail));
            }
            hasher.update_tree(&bytes);
        }
        Ok((hasher, values))
    }

    /// Values of the part that ends at `to`, or begins before it.
    async fn committed_values(&self, row: &UploadRow, to: u64) -> Result<Vec<[u8; 32]>> {
        if to.is_multiple_of(row.part_bytes) {
            return Ok(Vec::new());
        }
        let part = to / row.part_bytes;
        let values = self.part_values(row, part).await?;
        let blocks = (to - part * row.part_bytes).div_ceil(BLOCK_BYTES);
        if values.len() as u64 == blocks {
            return Ok(values);
        }
        let why = format!("{} values for {blocks} blocks", values.len());
        let subject = row.id.to_string();
        Err(Error::new(ErrorKind::Internal, "upload.resume", subject).with_source(why))
    }

    async fn part_values(&self, row: &UploadRow, part: u64) -> Result<Vec<[u8; 32]>> {
        let part = u32::try_from(part).unwrap_or(u32::MAX);
        let values = self.options.ledger.part_values(row.id, part).await?;
        Ok(values.unwrap_or_default())
    }

    /// Reads everything once more, since the stored states cannot be used. What is read must be what
    /// was committed.
    async fn hashed_again(
        &self,
        row: &UploadRow,
        stored: &Stored,
        why: &str,
    ) -> Result<(ContentHasher, Vec<[u8; 32]>)> {
        if stored.store.intake == Intake::ByPart {
            // Nothing is lost: an older release may go on with it.
            let error = Error::new(ErrorKind::Internal, "upload.resume", row.id.to_string());
            return Err(error.with_source(format!(
                "the store cannot read it before it is whole: {why}"
            )));
        }
        tracing::warn!(upload = %row.id, why, bytes = row.offset, "hashing stored bytes again");
        let mut hasher = self.hasher(&row.expected);
        let mut from = 0;
        loop {
            let to = row.offset.min(from + row.part_bytes);
            let committed = self.part_values(row, from / row.part_bytes).await?;
            let mut values = Vec::new();
            let range = ByteRange::try_new(from, to);
            let range = range.ok_or_else(|| damaged(stored, from))?;
            let mut bytes = stored.store.read.open(&stored.key, range).await?;
            while let Some(chunk) = bytes.next().await {
                hasher.update(&chunk?);
                values.extend(hasher.take_values());
                tokio::task::yield_now().await;
            }
            let open = hasher.open_value();
            if hasher.bytes() != to || !values.iter().copied().chain(open).eq(committed) {
                return Err(damaged(stored, from));
            }
            from = to;
            if from == row.offset {
                let within = !from.is_multiple_of(row.part_bytes);
                return Ok((hasher, if within { values } else { Vec::new() }));
            }
        }
    }
}

/// The row of an upload that somebody may still ask about.
fn told(op: &'static str, id: UploadId, row: Option<UploadRow>) -> Result<UploadRow> {
    let failed = |kind| Error::new(kind, op, id.to_string());
    let row = row.ok_or_else(|| failed(ErrorKind::NotFound))?;
    match row.state {
        RowState::Open | RowState::Completing | RowState::Done => Ok(row),
        RowState::Aborted | RowState::Lost => Err(failed(ErrorKind::Gone)),
    }
}

/// Less than one block, as it is stored.
async fn read(stored: &Stored, from: u64, to: u64) -> Result<Vec<u8>> {
    let range = ByteRange::try_new(from, to).ok_or_else(|| damaged(stored, from))?;
    let mut stream = match stored.store.read.open(&stored.key, range).await {
        // One that fits a part is an object as soon as its end is committed.
        Err(e) if e.kind() == ErrorKind::NotFound => return Err(damaged(stored, from)),
        stream => stream?,
    };
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.next().await {
        bytes.extend_from_slice(&chunk?);
    }
    Ok(bytes)
}

fn damaged(stored: &Stored, from: u64) -> Error {
    Error::new(ErrorKind::Damaged, "upload.resume", stored.subject()).with_source(format!(
        "what is stored from {from} on is not what was hashed"
    ))
}
