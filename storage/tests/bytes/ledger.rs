//! A ledger that fails on schedule, as the faulty store does.

use std::sync::Arc;

use async_trait::async_trait;
use boxgate_storage::Result;
use boxgate_storage::backend::faulty::Faults;
use boxgate_storage::blob::{BlobKey, UploadId};
use boxgate_storage::clock::UnixMillis;
use boxgate_storage::metadata::Ledger;
use boxgate_storage::metadata::uploads::{
    Advance, Completion, Fence, NewUpload, Published, Trash, UploadRow, UploadState,
};

/// A ledger that fails as its schedule has it.
#[derive(Debug)]
pub(crate) struct FaultyLedger {
    pub(crate) inner: Arc<dyn Ledger>,
    pub(crate) faults: Faults,
}

#[async_trait]
impl Ledger for FaultyLedger {
    async fn create(&self, new: NewUpload) -> Result<UploadRow> {
        let call = self.inner.create(new);
        self.faults.around("ledger.create", call).await
    }

    async fn take_over(&self, id: UploadId) -> Result<Option<UploadRow>> {
        let call = self.inner.take_over(id);
        self.faults.around("ledger.take_over", call).await
    }

    async fn upload(&self, id: UploadId) -> Result<Option<UploadRow>> {
        let call = self.inner.upload(id);
        self.faults.around("ledger.upload", call).await
    }

    async fn advance(&self, fence: Fence, step: Advance) -> Result<()> {
        let call = self.inner.advance(fence, step);
        self.faults.around("ledger.advance", call).await
    }

    async fn complete(&self, fence: Fence, completion: Completion) -> Result<()> {
        let call = self.inner.complete(fence, completion);
        self.faults.around("ledger.complete", call).await
    }

    async fn publish(&self, fence: Fence) -> Result<Published> {
        let call = self.inner.publish(fence);
        self.faults.around("ledger.publish", call).await
    }

    async fn abort(&self, id: UploadId) -> Result<bool> {
        let call = self.inner.abort(id);
        self.faults.around("ledger.abort", call).await
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

    async fn due_trash(&self, limit: u32) -> Result<Vec<Trash>> {
        let call = self.inner.due_trash(limit);
        self.faults.around("ledger.due_trash", call).await
    }

    async fn forget(&self, key: &BlobKey) -> Result<()> {
        let call = self.inner.forget(key);
        self.faults.around("ledger.forget", call).await
    }
}
