//! The in-memory twin of the ledger: uploads, parts, blobs, files, trash, outbox. For models and for
//! tests that pause time; it keeps nothing and is no store for a gateway.
//!
//! What a caller of the SQL ledger does by other means (make an organization, delete a file, mark a
//! blob damaged) are methods of [`MemoryLedger`] here.

mod state;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use self::state::{State, Upload};
use super::accounts::OrganizationId;
use super::outbox::Event;
use super::uploads::{
    Advance, Completion, Fence, GateAnswer, GateState, Gating, HeldPiece, Keep, Ledger, NewUpload,
    Over, Piece, Published, Sender, Source, Target, Trash, UploadRow, UploadState, assert_cut,
    assert_kept, check_length, check_piece_bytes, check_steps, declared_beside, fenced,
    folded_target, is_alike, refuse_held_ahead,
};
use crate::blob::{BlobKey, BlobMeta, UploadId};
use crate::clock::{Clock, UnixMillis};
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::sidecar::Sidecar;
use crate::store::{PartIndex, Receipts};

/// The twin; each one starts empty.
#[derive(Debug)]
pub struct MemoryLedger {
    clock: Arc<dyn Clock>,
    doomed_for: Duration,
    state: Mutex<State>,
}

impl MemoryLedger {
    /// An empty ledger; a blob without a reference stays for `doomed_for`.
    pub fn new(clock: Arc<dyn Clock>, doomed_for: Duration) -> Self {
        Self {
            clock,
            doomed_for,
            state: Mutex::default(),
        }
    }

    /// Makes an organization, the tenant of uploads.
    pub fn add_organization(&self, name: &str) -> OrganizationId {
        self.state().add_organization(name)
    }

    /// Removes an organization with its files and its open uploads.
    pub fn remove_organization(&self, id: OrganizationId) {
        let (now, due) = (self.clock.now(), self.due());
        self.state().remove_organization(id, (now, due));
    }

    /// Takes the file from its name; false when there was none.
    pub fn delete_file(&self, organization: OrganizationId, target: &Target) -> bool {
        let due = self.due();
        self.state().delete_file(organization, target, due)
    }

    /// The blob that the name holds.
    pub fn file(&self, organization: OrganizationId, target: &Target) -> Option<BlobMeta> {
        self.state().file(organization, target)
    }

    /// Marks a blob as damaged.
    pub fn quarantine(&self, key: &BlobKey) {
        self.state().quarantine(key);
    }

    /// The subtree values of a blob, one per MiB.
    pub fn blob_tree(&self, key: &BlobKey) -> Option<Vec<[u8; 32]>> {
        self.state().blob_tree(key)
    }

    /// All events, in order.
    pub fn events(&self) -> Vec<Event> {
        self.state().events.clone()
    }

    // A panic of one test's step leaves the state whole: every step checks before it changes.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn due(&self) -> UnixMillis {
        self.clock.now().plus(self.doomed_for)
    }
}

#[async_trait]
impl Ledger for MemoryLedger {
    async fn create(&self, new: NewUpload) -> Result<UploadRow> {
        const OP: &str = "upload.create";
        let now = self.clock.now();
        let folded = new.target.as_ref().map(|target| folded_target(OP, target));
        let folded = folded.transpose()?;
        let mut state = self.state();
        let asked = !new.joins.is_empty() && new.note.is_some();
        if let Some(alike) = state.uploads.values().find(|upload| {
            let sources = upload.joins.iter().map(|(source, _)| source);
            asked && is_alike(&upload.row, &new) && sources.eq(&new.joins)
        }) {
            return Ok(alike.row.clone());
        }
        if new.keep == Keep::UntilIdle {
            state.assert_room(OP, &new)?;
        }
        if state
            .uploads
            .values()
            .any(|u| u.row.id == new.id || u.row.key == new.key)
        {
            return Err(Error::new(ErrorKind::Conflict, OP, new.id.to_string()));
        }
        let row = UploadRow {
            id: new.id,
            sender: new.sender,
            organization: new.organization,
            key: new.key,
            store: new.store,
            epoch: 1,
            state: UploadState::Open,
            offset: 0,
            length: new.length,
            part_bytes: new.part_bytes,
            pieces: new.pieces,
            joins: u32::try_from(new.joins.len()).unwrap_or(u32::MAX),
            target: new.target,
            keep: new.keep,
            note: new.note,
            expected: new.expected,
            hash_states: Vec::new(),
            digests: None,
            published: None,
            gate: None,
            created: now,
            updated: now,
        };
        let joins = state.joined(OP, &new.joins, &row.sender)?;
        for blob in joins.iter().filter_map(|(_, blob)| blob.as_ref()) {
            state.take_reference(blob);
        }
        let upload = Upload {
            joins,
            ..Upload::new(row.clone(), folded)
        };
        state.uploads.insert(row.id, upload);
        Ok(row)
    }

    async fn take_over(&self, id: UploadId) -> Result<Option<UploadRow>> {
        let mut state = self.state();
        Ok(state.uploads.get_mut(&id).map(|upload| {
            let row = &mut upload.row;
            row.epoch += i64::from(row.state == UploadState::Open);
            row.clone()
        }))
    }

    async fn upload(&self, id: UploadId) -> Result<Option<UploadRow>> {
        Ok(self.state().uploads.get(&id).map(|u| u.row.clone()))
    }

    async fn set_length(&self, id: UploadId, length: u64) -> Result<UploadRow> {
        const OP: &str = "upload.set_length";
        let mut state = self.state();
        let upload = state.uploads.get_mut(&id);
        let missing = || Error::new(ErrorKind::NotFound, OP, id.to_string());
        let row = &mut upload.ok_or_else(missing)?.row;
        check_length(OP, row, length)?;
        row.length = Some(length);
        Ok(row.clone())
    }

    async fn declare(&self, id: UploadId, digests: Vec<Digest>) -> Result<UploadRow> {
        const OP: &str = "upload.declare";
        let mut state = self.state();
        let upload = state.uploads.get_mut(&id);
        let missing = || Error::new(ErrorKind::NotFound, OP, id.to_string());
        let row = &mut upload.ok_or_else(missing)?.row;
        row.expected = declared_beside(OP, row, &digests)?;
        row.epoch += 1;
        Ok(row.clone())
    }

    async fn part_values(&self, id: UploadId, part: u32) -> Result<Option<Vec<[u8; 32]>>> {
        let state = self.state();
        let upload = state.uploads.get(&id);
        Ok(upload.and_then(|upload| upload.parts.get(&part).cloned()))
    }

    async fn receipts(&self, id: UploadId) -> Result<Receipts> {
        let state = self.state();
        let upload = state.uploads.get(&id);
        Ok(upload
            .map(|upload| upload.receipts.clone())
            .unwrap_or_default())
    }

    async fn name_store_upload(&self, fence: Fence, name: &str) -> Result<String> {
        const OP: &str = "upload.name_store_upload";
        let mut state = self.state();
        let upload = state.fenced(OP, fence)?;
        if upload.row.state != UploadState::Open {
            return Err(fenced(OP, fence.id));
        }
        let named = &mut upload.receipts.upload;
        Ok(named.get_or_insert_with(|| name.to_owned()).clone())
    }

    async fn advance_all(&self, fence: Fence, steps: Vec<Advance>) -> Result<()> {
        let now = self.clock.now();
        advance(&mut self.state(), "upload.advance", fence, steps, now)
    }

    async fn set_piece_bytes(&self, id: UploadId, bytes: u64) -> Result<UploadRow> {
        const OP: &str = "upload.set_piece_bytes";
        let mut state = self.state();
        let upload = state.uploads.get_mut(&id);
        let missing = || Error::new(ErrorKind::NotFound, OP, id.to_string());
        let row = &mut upload.ok_or_else(missing)?.row;
        check_piece_bytes(OP, row, bytes)?;
        if let Some(cut) = &mut row.pieces {
            cut.bytes = Some(bytes);
        }
        Ok(row.clone())
    }

    async fn hold_piece(&self, fence: Fence, piece: Piece) -> Result<u32> {
        const OP: &str = "upload.hold_piece";
        let now = self.clock.now();
        let mut state = self.state();
        let upload = state.fenced(OP, fence)?;
        if upload.row.state != UploadState::Open {
            return Err(fenced(OP, fence.id));
        }
        assert_cut(OP, &upload.row, &piece)?;
        let apart = upload.row.pieces.is_some_and(|cut| cut.apart);
        let held = upload.pieces.get(&piece.k);
        let again = held.is_some();
        if held.is_some_and(|held| !held.is_same(&piece)) {
            return Err(Error::new(ErrorKind::Conflict, OP, fence.id.to_string()));
        }
        if let Some(key) = &piece.apart
            && again
        {
            state.hasten(key, now);
        } else if apart && !again {
            let kept = piece.apart.is_some_and(|key| state.take_back(&key, now));
            assert_kept(OP, fence.id, kept)?;
        }
        let upload = state.fenced(OP, fence)?;
        upload.pieces.entry(piece.k).or_insert(piece);
        let count = u32::try_from(upload.pieces.len()).unwrap_or(u32::MAX);
        upload.row.updated = now;
        if let Some(cut) = &mut upload.row.pieces {
            cut.held = count;
        }
        Ok(count)
    }

    async fn set_aside(&self, key: BlobKey, store: &str, until: UnixMillis) -> Result<()> {
        let store = store.to_owned();
        self.state().trash.push((until, Trash { key, store }));
        Ok(())
    }

    async fn hasten(&self, key: BlobKey) -> Result<()> {
        let now = self.clock.now();
        self.state().hasten(&key, now);
        Ok(())
    }

    async fn pass_pieces(&self, id: UploadId) -> Result<()> {
        let now = self.clock.now();
        self.state().let_pieces_go(id, now, |piece, offset| {
            piece.start + piece.length <= offset
        });
        Ok(())
    }

    async fn piece(&self, id: UploadId, k: u32) -> Result<Option<Piece>> {
        let state = self.state();
        let upload = state.uploads.get(&id);
        Ok(upload.and_then(|upload| upload.pieces.get(&k).cloned()))
    }

    async fn held_pieces(&self, id: UploadId) -> Result<Vec<HeldPiece>> {
        let state = self.state();
        let pieces = state.uploads.get(&id).map(|upload| upload.pieces.values());
        let held = pieces.into_iter().flatten().map(|piece| HeldPiece {
            k: piece.k,
            start: piece.start,
            length: piece.length,
        });
        Ok(held.collect())
    }

    async fn drop_pieces(&self, fence: Fence) -> Result<()> {
        const OP: &str = "upload.drop_pieces";
        let mut state = self.state();
        let upload = state.fenced(OP, fence)?;
        if upload.row.state != UploadState::Open {
            return Err(fenced(OP, fence.id));
        }
        let mut held = upload.pieces.values();
        let ahead = held.any(|piece| piece.start + piece.length > upload.row.offset);
        refuse_held_ahead(OP, fence.id, ahead)?;
        upload.row.pieces = None;
        let now = self.clock.now();
        state.let_pieces_go(fence.id, now, |_, _| true);
        state.fenced(OP, fence)?.pieces.clear();
        Ok(())
    }

    async fn complete(
        &self,
        fence: Fence,
        last: Vec<Advance>,
        completion: Completion,
    ) -> Result<Option<(Sidecar, String)>> {
        const OP: &str = "upload.complete";
        let now = self.clock.now();
        let mut state = self.state();
        let row = &state.fenced(OP, fence)?.row;
        let Completion {
            length,
            blake3,
            sha256,
        } = completion;
        let digests = Some((blake3, sha256));
        let end = last.last().map_or(row.offset, |step| step.to);
        let whole = end == length && row.length.is_none_or(|declared| declared == length);
        let is_open = row.state == UploadState::Open;
        let again = row.state == UploadState::Completing && row.digests == digests;
        let fits = is_open || again && last.is_empty();
        if !whole || !fits {
            return Err(fenced(OP, fence.id));
        }
        advance(&mut state, OP, fence, last, now)?;
        if is_open {
            let row = &mut state.fenced(OP, fence)?.row;
            row.state = UploadState::Completing;
            row.length = Some(length);
            row.digests = digests;
            row.updated = now;
        }
        Ok(state.sidecar(fence, now))
    }

    async fn ask_gate(
        &self,
        fence: Fence,
        (over, until): (UnixMillis, UnixMillis),
        mine: Option<UnixMillis>,
    ) -> Result<Option<UploadRow>> {
        let mut state = self.state();
        let Ok(upload) = state.fenced("upload.ask_gate", fence) else {
            return Ok(None);
        };
        let row = &mut upload.row;
        let free = match &row.gate {
            None => true,
            Some(gating) => {
                matches!(gating.state, GateState::Asked | GateState::Held)
                    && gating
                        .due
                        .is_none_or(|due| due <= over || Some(due) == mine)
            }
        };
        if row.state != UploadState::Completing || !free {
            return Ok(None);
        }
        let gating = row
            .gate
            .get_or_insert_with(|| Gating::new(GateState::Asked));
        gating.state = GateState::Asked;
        gating.due = Some(until);
        Ok(Some(row.clone()))
    }

    async fn answer_gate(
        &self,
        fence: Fence,
        mine: UnixMillis,
        answer: GateAnswer,
    ) -> Result<bool> {
        let (now, due) = (self.clock.now(), self.due());
        let mut state = self.state();
        let Ok(upload) = state.fenced("upload.answer_gate", fence) else {
            return Ok(false);
        };
        let row = &mut upload.row;
        let asked = row
            .gate
            .as_ref()
            .filter(|gating| gating.state == GateState::Asked && gating.due == Some(mine));
        let Some(asked) = asked.filter(|_| row.state == UploadState::Completing) else {
            return Ok(false);
        };
        let gating = Gating::answered(asked.tries, answer);
        let rejected = gating.state == GateState::Rejected;
        row.gate = Some(gating);
        row.updated = now;
        if rejected {
            state.end(
                fence.id,
                Some(fence.epoch),
                UploadState::Aborted,
                (now, due),
            );
        }
        Ok(true)
    }

    async fn let_through(&self, id: UploadId, _actor: &str) -> Result<bool> {
        let now = self.clock.now();
        let mut state = self.state();
        let Some(row) = state.uploads.get_mut(&id).map(|upload| &mut upload.row) else {
            return Ok(false);
        };
        let waits = |state| {
            matches!(
                state,
                GateState::Asked | GateState::Held | GateState::Quarantined
            )
        };
        let completing = row.state == UploadState::Completing;
        let Some(gating) = row.gate.as_mut().filter(|g| completing && waits(g.state)) else {
            return Ok(false);
        };
        gating.state = GateState::Passed;
        gating.due = None;
        row.updated = now;
        Ok(true)
    }

    async fn waiting(
        &self,
        until: UnixMillis,
        over: UnixMillis,
        limit: u32,
    ) -> Result<Vec<UploadRow>> {
        let oldest = |row: &UploadRow| (row.updated, row.id);
        Ok(self.state().rows(limit, oldest, |upload| {
            let row = &upload.row;
            let waits = match &row.gate {
                None => row.updated <= until,
                Some(gating) => match gating.state {
                    GateState::Passed => row.updated <= until,
                    GateState::Asked | GateState::Held => gating.due.is_some_and(|due| due <= over),
                    GateState::Quarantined | GateState::Rejected => false,
                },
            };
            row.state == UploadState::Completing && waits
        }))
    }

    async fn quarantined_like(&self, row: &UploadRow) -> Result<Option<Gating>> {
        let state = self.state();
        let folded = state.uploads.get(&row.id).and_then(|u| u.folded.clone());
        let newest = |row: &UploadRow| std::cmp::Reverse((row.updated, row.id));
        let like = state.rows(1, newest, |upload| {
            let other = &upload.row;
            let gate = other.gate.as_ref().map(|gating| gating.state);
            other.id != row.id
                && other.state == UploadState::Completing
                && gate == Some(GateState::Quarantined)
                && other.organization == row.organization
                && row.digests.is_some()
                && other.digests.map(|(blake3, _)| blake3) == row.digests.map(|(blake3, _)| blake3)
                && folded.is_some()
                && upload.folded == folded
        });
        Ok(like.into_iter().next().and_then(|row| row.gate))
    }

    async fn publish(&self, fence: Fence) -> Result<Published> {
        let (now, due) = (self.clock.now(), self.due());
        self.state().publish(fence, now, due)
    }

    async fn abort(&self, id: UploadId, epoch: Option<i64>) -> Result<bool> {
        let (now, due) = (self.clock.now(), self.due());
        Ok(self
            .state()
            .end(id, epoch, UploadState::Aborted, (now, due)))
    }

    async fn abort_by(&self, id: UploadId, _actor: &str) -> Result<bool> {
        // No audit here: it is no part of what an upload needs.
        self.abort(id, None).await
    }

    async fn lose(&self, fence: Fence) -> Result<()> {
        let (now, due) = (self.clock.now(), self.due());
        let Fence { id, epoch } = fence;
        if self
            .state()
            .end(id, Some(epoch), UploadState::Lost, (now, due))
        {
            Ok(())
        } else {
            Err(fenced("upload.lose", id))
        }
    }

    async fn release(&self, id: UploadId) -> Result<bool> {
        let (now, due) = (self.clock.now(), self.due());
        Ok(self.state().release(id, now, due))
    }

    async fn close(&self, id: UploadId) -> Result<bool> {
        let now = self.clock.now();
        let mut state = self.state();
        let upload = state
            .uploads
            .get_mut(&id)
            .filter(|upload| upload.row.state == UploadState::Done && upload.held.is_none());
        Ok(upload.is_some_and(|upload| {
            upload.row.state = UploadState::Aborted;
            upload.row.epoch += 1;
            upload.row.updated = now;
            true
        }))
    }

    async fn sources(&self, id: UploadId) -> Result<Vec<Source>> {
        Ok(self.state().sources(id))
    }

    async fn joinable(&self, after: Option<UploadId>, limit: u32) -> Result<Vec<UploadId>> {
        let by_id = |row: &UploadRow| row.id;
        let rows = self.state().rows(limit, by_id, |upload| {
            upload.row.state == UploadState::Open
                && !upload.joins.is_empty()
                && upload.joins.iter().all(|(_, blob)| blob.is_some())
                && after.is_none_or(|after| upload.row.id > after)
        });
        Ok(rows.into_iter().map(|row| row.id).collect())
    }

    async fn uploads_in(
        &self,
        state: UploadState,
        until: UnixMillis,
        limit: u32,
    ) -> Result<Vec<UploadRow>> {
        let oldest = |row: &UploadRow| (row.updated, row.id);
        Ok(self.state().rows(limit, oldest, |upload| {
            upload.row.state == state && upload.row.updated <= until
        }))
    }

    async fn uploads_to(
        &self,
        sender: &Sender,
        organization: OrganizationId,
        target: &Target,
        since: UnixMillis,
    ) -> Result<Vec<UploadRow>> {
        let folded = folded_target("upload.find", target)?;
        let newest = |row: &UploadRow| std::cmp::Reverse((row.created, row.id));
        Ok(self.state().rows(u32::MAX, newest, |upload| {
            let wanted = match upload.row.state {
                UploadState::Open | UploadState::Completing => true,
                UploadState::Done => upload.row.updated >= since,
                _ => false,
            };
            wanted
                && upload.row.keep == Keep::UntilIdle
                && (&upload.row.sender, upload.row.organization) == (sender, organization)
                && upload.folded.as_ref() == Some(&folded)
        }))
    }

    async fn replaced_by(&self, id: UploadId) -> Result<Vec<UploadRow>> {
        let state = self.state();
        let holds = |newer: &&Upload| {
            let ended = matches!(newer.row.state, UploadState::Aborted | UploadState::Lost);
            newer.row.offset > 0 && !ended
        };
        let Some(newer) = state.uploads.get(&id).filter(holds) else {
            return Ok(Vec::new());
        };
        let newest = |row: &UploadRow| std::cmp::Reverse((row.created, row.id));
        Ok(state.rows(u32::MAX, newest, |upload| {
            let (row, new) = (&upload.row, &newer.row);
            let waits = match row.state {
                UploadState::Open => true,
                UploadState::Completing => new.state == UploadState::Done,
                _ => false,
            };
            waits
                && row.id != new.id
                && row.keep == Keep::UntilIdle
                && row.created <= new.created
                && (&row.sender, row.organization, &row.note)
                    == (&new.sender, new.organization, &new.note)
                && upload.folded.is_some()
                && upload.folded == newer.folded
        }))
    }

    async fn open_uploads(
        &self,
        organization: Option<OrganizationId>,
        after: Option<UploadId>,
        limit: u32,
    ) -> Result<Vec<UploadRow>> {
        let by_id = |row: &UploadRow| row.id;
        Ok(self.state().rows(limit, by_id, |upload| {
            upload.row.state == UploadState::Open
                && organization.is_none_or(|id| upload.row.organization == id)
                && after.is_none_or(|after| upload.row.id > after)
        }))
    }

    async fn over(&self, over: Over, limit: u32) -> Result<Vec<UploadRow>> {
        let oldest = |row: &UploadRow| (row.updated, row.id);
        Ok(self.state().rows(limit, oldest, |upload| {
            let row = &upload.row;
            let idle = match row.keep {
                Keep::No => over.unkept,
                Keep::UntilIdle => over.idle,
            };
            match row.state {
                UploadState::Open => {
                    row.joins == 0 && row.updated <= idle || row.created <= over.made
                }
                UploadState::Done => upload.held.is_some() && row.updated <= over.untargeted,
                UploadState::Completing => {
                    let gate = row.gate.as_ref().map(|gating| gating.state);
                    gate == Some(GateState::Quarantined) && row.updated <= over.quarantined
                }
                _ => false,
            }
        }))
    }

    async fn sidecar(&self, fence: Fence) -> Result<Option<(Sidecar, String)>> {
        let now = self.clock.now();
        Ok(self.state().sidecar(fence, now))
    }

    async fn condemn(&self, key: &BlobKey) -> Result<()> {
        self.quarantine(key);
        Ok(())
    }

    async fn due_trash(&self, limit: u32) -> Result<Vec<Trash>> {
        let now = self.clock.now();
        Ok(self.state().due_trash(now, limit as usize))
    }

    async fn forget(&self, trash: &Trash) -> Result<()> {
        self.state().forget(trash);
        Ok(())
    }
}

/// Moves the offset over some steps, or changes nothing.
fn advance(
    state: &mut State,
    op: &'static str,
    fence: Fence,
    steps: Vec<Advance>,
    now: UnixMillis,
) -> Result<()> {
    let (Some(first), Some(last)) = (steps.first(), steps.last()) else {
        return Ok(());
    };
    let upload = state.fenced(op, fence)?;
    let row = &mut upload.row;
    let fits = row.state == UploadState::Open
        && row.offset == first.from
        && row.length.is_none_or(|length| length >= last.to);
    let (known, given) = (&upload.receipts.upload, &last.receipt.upload);
    let same = known.is_none() || given.is_none() || known == given;
    if !fits || !same {
        return Err(fenced(op, fence.id));
    }
    check_steps(op, fence.id, row.part_bytes, &steps)?;
    row.offset = last.to;
    row.hash_states.clone_from(&last.hash_states);
    row.updated = now;
    let old = upload.receipts.tail.map(|tail| Trash {
        key: tail.key,
        store: row.store.clone(),
    });
    for step in steps {
        upload.receipts.add(PartIndex(step.part), step.receipt);
        upload.parts.insert(step.part, step.values);
    }
    state.trash.extend(old.map(|old| (now, old)));
    Ok(())
}
