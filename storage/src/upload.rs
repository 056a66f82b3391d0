//! Blobs on their way in: rows first, then parts, then one commit point.
//!
//! [`UploadEngine::begin`] records the intent before a byte is stored; [`UploadWriter::write`] hashes
//! each chunk while it is hot, copies it once into a pooled buffer, and moves the committed offset
//! only after the part is durable; [`UploadWriter::finish`] compares lengths and digests, then
//! publishes in one transaction. Dropping a writer publishes nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::blob::UploadId;
use crate::buffer::BufferPool;
use crate::clock::Clock;
use crate::digest::Digest;
use crate::error::Result;
use crate::metadata::Ledger;
use crate::metadata::accounts::{AccountId, OrganizationId};
use crate::metadata::uploads::{Published, Target};
use crate::store::Store;

/// What the engine stands on.
#[derive(Debug)]
pub struct EngineOptions {
    /// Rows.
    pub ledger: Arc<dyn Ledger>,
    /// Stores by name.
    pub stores: BTreeMap<String, Store>,
    /// Which store takes new uploads.
    pub default_store: String,
    /// The memory that uploads may use.
    pub pool: BufferPool,
    /// Current time.
    pub clock: Arc<dyn Clock>,
    /// Longest upload in bytes.
    pub max_length_bytes: u64,
    /// Free room below which new uploads are refused, in bytes.
    pub min_free_bytes: u64,
    /// Parts of one upload that may be on their way to the store at once.
    pub parts_in_flight: usize,
}

/// What a client wants to store.
#[derive(Debug, Clone)]
pub struct UploadIntent {
    /// Who sends it.
    pub account: AccountId,
    /// Whose blob it becomes; dedupe never leaves this tenant.
    pub organization: OrganizationId,
    /// The name that finishing publishes.
    pub target: Target,
    /// Declared length in bytes, if any.
    pub length: Option<u64>,
    /// Digests that the client declared; algorithms beyond BLAKE3 and SHA-256 are hashed on demand.
    pub expected: Vec<Digest>,
}

/// Takes uploads in; one per process, cheap to clone.
#[derive(Debug, Clone)]
pub struct UploadEngine {}

impl UploadEngine {
    /// An engine on these parts.
    pub fn new(options: EngineOptions) -> Self {
        let _ = options;
        todo!()
    }

    /// Records the intent, then makes room in the store.
    ///
    /// # Errors
    /// [`crate::ErrorKind::TooLarge`] and [`crate::ErrorKind::Full`] from the declared length, before
    /// anything is recorded.
    pub async fn begin(&self, intent: UploadIntent) -> Result<UploadWriter> {
        let _ = intent;
        todo!()
    }

    /// Finishes what a former process left `completing`, and aborts what it left open. Run before the
    /// first request is taken.
    pub async fn recover(&self) -> Result<Recovered> {
        todo!()
    }

    /// Removes what is due: bytes of aborted uploads and of blobs without a reference. Returns how
    /// many blobs and leftovers were removed.
    pub async fn sweep(&self) -> Result<u64> {
        todo!()
    }

    /// Uploads in progress in this process.
    pub fn in_progress(&self) -> usize {
        todo!()
    }

    /// Waits until aborts and finishes that go on in the background have ended.
    pub async fn settled(&self) {
        todo!()
    }
}

/// What [`UploadEngine::recover`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Uploads that were whole and are now published.
    pub finished: u64,
    /// Uploads that were not whole and are gone.
    pub aborted: u64,
}

/// The writing end of one upload.
#[derive(Debug)]
pub struct UploadWriter {}

impl UploadWriter {
    /// Which upload.
    pub fn id(&self) -> UploadId {
        todo!()
    }

    /// Adds a digest to verify at the end that became known after the first byte (a form field behind
    /// the file part). Only BLAKE3 and SHA-256 can come late: others would need the bytes again.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] for another algorithm once bytes were written.
    pub fn expect(&mut self, digest: Digest) -> Result<()> {
        let _ = digest;
        todo!()
    }

    /// Takes one chunk of any size; waits while memory or the store has no room.
    ///
    /// # Errors
    /// [`crate::ErrorKind::TooLarge`] past the limit, [`crate::ErrorKind::LengthMismatch`] past the
    /// declared length, and whatever the store answers. After an error only [`Self::abort`] is left.
    /// # Cancel safety
    /// Not cancel safe: dropping the future leaves the writer fit only for [`Self::abort`] or drop.
    pub async fn write(&mut self, chunk: Bytes) -> Result<()> {
        let _ = chunk;
        todo!()
    }

    /// Bytes taken so far, durable or not.
    pub fn received_bytes(&self) -> u64 {
        todo!()
    }

    /// Makes everything durable, compares length and digests, publishes in one transaction. Goes on in
    /// the background when the future is dropped: the outcome is one whole publication or none.
    ///
    /// # Errors
    /// [`crate::ErrorKind::LengthMismatch`], [`crate::ErrorKind::DigestMismatch`]: nothing is
    /// published and the bytes are given up.
    pub async fn finish(self) -> Result<Published> {
        todo!()
    }

    /// Gives the upload up and removes what it stored.
    pub async fn abort(self) {
        todo!()
    }
}
