//! Blobs on their way in: rows first, then parts, then one commit point.
//!
//! [`UploadEngine::begin`] records the intent before a byte is stored; [`UploadWriter::write`] hashes
//! each chunk while it is hot, copies it once into a pooled buffer, and moves the committed offset
//! only after the part is durable; [`UploadWriter::finish`] compares lengths and digests, then
//! publishes in one transaction. Dropping a writer publishes nothing.

//!
//! The steps' names (A1 to C3) are those of the commit protocol: A1 row, A2 file, B1 hash and copy, B2
//! make durable, B3 move the offset, C0 all is there, C1 final in the store, C2 check, C3 publish.

mod committer;
mod engine;
pub mod part;
mod publish;
mod recover;
pub mod state;
mod stats;
mod writer;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::buffer::BufferPool;
use crate::clock::Clock;
use crate::digest::Digest;
use crate::metadata::Ledger;
use crate::metadata::accounts::{AccountId, OrganizationId};
use crate::metadata::uploads::Target;
use crate::store::Store;

pub use engine::UploadEngine;
pub use part::PartAssembler;
pub use recover::Recovered;
pub use state::{Refusal, Step, UploadState, part_bytes_for};
pub use stats::{EngineStats, Stage};
pub use writer::UploadWriter;

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
