//! Of one sender's uploads to one name the newest counts: what was left open before it ends with it.
//!
//! Not before the newer one holds bytes of its own, though: one that is refused, for want of room say, has
//! replaced nothing, and what was told of the older one must still be true.

use super::engine::Inner;
use crate::blob::UploadId;
use crate::error::{Result, chain};

impl Inner {
    /// Gives up what the sender of `id` left open under the same name and note when `id` was made; once `id` is
    /// published, also what is whole and was not published yet, since its turn came before. What a request is
    /// busy with at this moment is that request's, and stays.
    pub(super) async fn supersede(self: &std::sync::Arc<Self>, id: UploadId) -> Result<()> {
        for older in self.options.ledger.replaced_by(id).await? {
            // Fenced by its epoch: whoever goes on with it meanwhile, in whatever process, keeps it.
            if let Some(_in_progress) = self.try_enter(older.id)
                && self.abort_row(older.id, older.epoch).await
            {
                tracing::info!(upload = %older.id, by = %id, "an upload was replaced by a newer one");
                self.remove_and_forget(&self.stored(&older)?).await;
            }
        }
        Ok(())
    }

    /// The same where nobody waits for the outcome: what stays open ends with its time.
    pub(super) async fn supersede_or_log(self: &std::sync::Arc<Self>, id: UploadId) {
        if let Err(e) = self.supersede(id).await {
            tracing::warn!(upload = %id, error = chain(&e), "an upload that was replaced stays open");
        }
    }
}
