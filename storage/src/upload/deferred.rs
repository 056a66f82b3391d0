//! Which uploads leave their SHA-256 for later, and who is told that one did.
//!
//! Hashing it takes most of the time that an upload's bytes cost. Where it is deferred, an upload is durable, verified by
//! BLAKE3 and published without it, and [`crate::check::Stock::complete_sha256`] computes it afterwards from what is stored.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

use super::engine::{Inner, UploadEngine};
use crate::blob::BlobMeta;
use crate::digest::{ContentHasher, Digest};

/// When SHA-256 is computed of what comes in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Sha256When {
    /// While it comes.
    #[default]
    Inline,
    /// Afterwards, of all uploads that name none to be compared with.
    Deferred {
        /// While so many blobs wait for it, those that come are hashed inline again.
        most: u64,
    },
}

/// What waits, as far as this process knows.
#[derive(Debug, Default)]
pub(super) struct Deferred {
    waiting: AtomicU64,
    came: Notify,
}

impl UploadEngine {
    /// Resolves when a blob was published without its SHA-256, at once if one was since the last time.
    pub async fn deferred(&self) {
        self.inner().deferred.came.notified().await;
    }

    /// How many blobs wait for it, by the rows.
    pub fn set_waiting(&self, blobs: u64) {
        self.inner()
            .deferred
            .waiting
            .store(blobs, Ordering::Relaxed);
    }
}

impl Inner {
    /// The hashers of an upload that has no bytes yet.
    pub(super) fn hasher(&self, expected: &[Digest]) -> ContentHasher {
        let wanted = expected.iter().map(Digest::algorithm);
        match self.options.sha256 {
            Sha256When::Deferred { most }
                if self.deferred.waiting.load(Ordering::Relaxed) < most =>
            {
                ContentHasher::deferring(wanted)
            }
            Sha256When::Inline | Sha256When::Deferred { .. } => ContentHasher::new(wanted),
        }
    }

    /// Tells whoever computes what is missing of a blob that was just published.
    pub(super) fn note_deferred(&self, blob: &BlobMeta) {
        if blob.sha256.is_none() {
            self.deferred.waiting.fetch_add(1, Ordering::Relaxed);
            self.deferred.came.notify_one();
        }
    }
}
