//! A ledger that fails on schedule, as the faulty store does.

use std::sync::Arc;

use async_trait::async_trait;
use boxgate_storage::Result;
use boxgate_storage::backend::faulty::Faults;
use boxgate_storage::blob::{BlobKey, UploadId};
use boxgate_storage::clock::UnixMillis;
use boxgate_storage::digest::Digest;
use boxgate_storage::metadata::Ledger;
use boxgate_storage::metadata::accounts::OrganizationId;
use boxgate_storage::metadata::uploads::{
    Advance, Completion, Fence, GateAnswer, Gating, HeldPiece, NewUpload, Over, Piece, Published,
    Sender, Source, Target, Trash, UploadRow, UploadState,
};
use boxgate_storage::sidecar::Sidecar;
use boxgate_storage::store::Receipts;

/// A ledger that fails as its schedule has it.
#[derive(Debug)]
pub(crate) struct FaultyLedger {
    pub(crate) inner: Arc<dyn Ledger>,
    pub(crate) faults: Faults,
    /// Whether hash states come back unreadable, as from another version.
    pub(crate) forgets_states: bool,
}

#[async_trait]
impl Ledger for FaultyLedger {
    async fn create(&self, new: NewUpload) -> Result<UploadRow> {
        let call = self.inner.create(new);
        self.faults.around("ledger.create", call).await
    }

    async fn take_over(&self, id: UploadId) -> Result<Option<UploadRow>> {
        let call = self.inner.take_over(id);
        let row = self.faults.around("ledger.take_over", call).await?;
        Ok(row.map(|row| UploadRow {
            hash_states: if self.forgets_states {
                vec![0xff, 1, 2]
            } else {
                row.hash_states
            },
            ..row
        }))
    }

    async fn upload(&self, id: UploadId) -> Result<Option<UploadRow>> {
        let call = self.inner.upload(id);
        self.faults.around("ledger.upload", call).await
    }

    async fn advance_all(&self, fence: Fence, steps: Vec<Advance>) -> Result<()> {
        let call = self.inner.advance_all(fence, steps);
        self.faults.around("ledger.advance", call).await
    }

    async fn complete(
        &self,
        fence: Fence,
        last: Vec<Advance>,
        completion: Completion,
    ) -> Result<Option<(Sidecar, String)>> {
        let call = self.inner.complete(fence, last, completion);
        self.faults.around("ledger.complete", call).await
    }

    async fn publish(&self, fence: Fence) -> Result<Published> {
        let call = self.inner.publish(fence);
        self.faults.around("ledger.publish", call).await
    }

    async fn ask_gate(
        &self,
        fence: Fence,
        (over, until): (UnixMillis, UnixMillis),
        mine: Option<UnixMillis>,
    ) -> Result<Option<UploadRow>> {
        let call = self.inner.ask_gate(fence, (over, until), mine);
        self.faults.around("ledger.ask_gate", call).await
    }

    async fn answer_gate(
        &self,
        fence: Fence,
        mine: UnixMillis,
        answer: GateAnswer,
    ) -> Result<bool> {
        let call = self.inner.answer_gate(fence, mine, answer);
        self.faults.around("ledger.answer_gate", call).await
    }

    async fn let_through(&self, id: UploadId, actor: &str) -> Result<bool> {
        let call = self.inner.let_through(id, actor);
        self.faults.around("ledger.let_through", call).await
    }

    async fn waiting(
        &self,
        until: UnixMillis,
        over: UnixMillis,
        limit: u32,
    ) -> Result<Vec<UploadRow>> {
        let call = self.inner.waiting(until, over, limit);
        self.faults.around("ledger.waiting", call).await
    }

    async fn quarantined_like(&self, row: &UploadRow) -> Result<Option<Gating>> {
        let call = self.inner.quarantined_like(row);
        self.faults.around("ledger.quarantined_like", call).await
    }

    async fn sidecar(&self, fence: Fence) -> Result<Option<(Sidecar, String)>> {
        let call = self.inner.sidecar(fence);
        self.faults.around("ledger.sidecar", call).await
    }

    async fn condemn(&self, key: &BlobKey) -> Result<()> {
        let call = self.inner.condemn(key);
        self.faults.around("ledger.condemn", call).await
    }

    async fn set_length(&self, id: UploadId, length: u64) -> Result<UploadRow> {
        let call = self.inner.set_length(id, length);
        self.faults.around("ledger.set_length", call).await
    }

    async fn declare(&self, id: UploadId, digests: Vec<Digest>) -> Result<UploadRow> {
        let call = self.inner.declare(id, digests);
        self.faults.around("ledger.declare", call).await
    }

    async fn part_values(&self, id: UploadId, part: u32) -> Result<Option<Vec<[u8; 32]>>> {
        let call = self.inner.part_values(id, part);
        self.faults.around("ledger.part_values", call).await
    }

    async fn set_piece_bytes(&self, id: UploadId, bytes: u64) -> Result<UploadRow> {
        let call = self.inner.set_piece_bytes(id, bytes);
        self.faults.around("ledger.set_piece_bytes", call).await
    }

    async fn set_aside(&self, key: BlobKey, store: &str, until: UnixMillis) -> Result<()> {
        let call = self.inner.set_aside(key, store, until);
        self.faults.around("ledger.set_aside", call).await
    }

    async fn hasten(&self, key: BlobKey) -> Result<()> {
        let call = self.inner.hasten(key);
        self.faults.around("ledger.hasten", call).await
    }

    async fn pass_pieces(&self, id: UploadId) -> Result<()> {
        let call = self.inner.pass_pieces(id);
        self.faults.around("ledger.pass_pieces", call).await
    }

    async fn hold_piece(&self, fence: Fence, piece: Piece) -> Result<u32> {
        let call = self.inner.hold_piece(fence, piece);
        self.faults.around("ledger.hold_piece", call).await
    }

    async fn piece(&self, id: UploadId, k: u32) -> Result<Option<Piece>> {
        let call = self.inner.piece(id, k);
        self.faults.around("ledger.piece", call).await
    }

    async fn held_pieces(&self, id: UploadId) -> Result<Vec<HeldPiece>> {
        let call = self.inner.held_pieces(id);
        self.faults.around("ledger.held_pieces", call).await
    }

    async fn drop_pieces(&self, fence: Fence) -> Result<()> {
        let call = self.inner.drop_pieces(fence);
        self.faults.around("ledger.drop_pieces", call).await
    }

    async fn close(&self, id: UploadId) -> Result<bool> {
        let call = self.inner.close(id);
        self.faults.around("ledger.close", call).await
    }

    async fn sources(&self, id: UploadId) -> Result<Vec<Source>> {
        let call = self.inner.sources(id);
        self.faults.around("ledger.sources", call).await
    }

    async fn joinable(&self, after: Option<UploadId>, limit: u32) -> Result<Vec<UploadId>> {
        let call = self.inner.joinable(after, limit);
        self.faults.around("ledger.joinable", call).await
    }

    async fn name_store_upload(&self, fence: Fence, name: &str) -> Result<String> {
        let call = self.inner.name_store_upload(fence, name);
        self.faults.around("ledger.name_store_upload", call).await
    }

    async fn receipts(&self, id: UploadId) -> Result<Receipts> {
        let call = self.inner.receipts(id);
        self.faults.around("ledger.receipts", call).await
    }

    async fn abort(&self, id: UploadId, epoch: Option<i64>) -> Result<bool> {
        let call = self.inner.abort(id, epoch);
        self.faults.around("ledger.abort", call).await
    }

    async fn abort_by(&self, id: UploadId, actor: &str) -> Result<bool> {
        let call = self.inner.abort_by(id, actor);
        self.faults.around("ledger.abort_by", call).await
    }

    async fn lose(&self, fence: Fence) -> Result<()> {
        let call = self.inner.lose(fence);
        self.faults.around("ledger.lose", call).await
    }

    async fn release(&self, id: UploadId) -> Result<bool> {
        let call = self.inner.release(id);
        self.faults.around("ledger.release", call).await
    }

    async fn uploads_in(
        &self,
        state: UploadState,
        until: UnixMillis,
        limit: u32,
    ) -> Result<Vec<UploadRow>> {
        let call = self.inner.uploads_in(state, until, limit);
        self.faults.around("ledger.uploads_in", call).await
    }

    async fn replaced_by(&self, id: UploadId) -> Result<Vec<UploadRow>> {
        let call = self.inner.replaced_by(id);
        self.faults.around("ledger.replaced_by", call).await
    }

    async fn uploads_to(
        &self,
        sender: &Sender,
        organization: OrganizationId,
        target: &Target,
        since: UnixMillis,
    ) -> Result<Vec<UploadRow>> {
        let call = self.inner.uploads_to(sender, organization, target, since);
        self.faults.around("ledger.uploads_to", call).await
    }

    async fn open_uploads(
        &self,
        organization: Option<OrganizationId>,
        after: Option<UploadId>,
        limit: u32,
    ) -> Result<Vec<UploadRow>> {
        let call = self.inner.open_uploads(organization, after, limit);
        self.faults.around("ledger.open_uploads", call).await
    }

    async fn over(&self, over: Over, limit: u32) -> Result<Vec<UploadRow>> {
        let call = self.inner.over(over, limit);
        self.faults.around("ledger.over", call).await
    }

    async fn due_trash(&self, limit: u32) -> Result<Vec<Trash>> {
        let call = self.inner.due_trash(limit);
        self.faults.around("ledger.due_trash", call).await
    }

    async fn forget(&self, trash: &Trash) -> Result<()> {
        let call = self.inner.forget(trash);
        self.faults.around("ledger.forget", call).await
    }
}
