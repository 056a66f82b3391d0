//! Blobs on their way in: rows first, then parts, then one commit point.
//!
//! [`UploadEngine::begin`] records the intent before a byte is stored; [`UploadWriter::write`] hashes
//! each chunk while it is hot, copies it once into a pooled buffer, and moves the committed offset
//! only after the part is durable; [`UploadWriter::finish`] compares lengths and digests, then
//! publishes in one transaction. Dropping a writer publishes nothing.
//!
//! An upload may also be made for requests to come ([`UploadEngine::create`]) and be gone on with by
//! any of them ([`UploadEngine::resume`]), in this process or the next: its row holds the offset and
//! the hash states that belong to it. The newest request wins at once; the row's epoch keeps every
//! older one from changing anything.
//!
//! The steps' names (A1 to C3) are those of the commit protocol: A1 row, A2 file, B1 hash and copy, B2
//! make durable, B3 move the offset, C0 all is there (with B3 of the last part), C1 final in the store, C2 check, C3
//! publish.

mod active;
mod apart;
mod assembly;
mod committer;
mod deferred;
mod engine;
mod follower;
mod gate;
mod lane;
pub mod part;
mod pieces;
mod pressure;
mod publish;
mod recover;
mod registry;
mod resume;
pub mod state;
mod stats;
mod supersede;
mod writer;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::buffer::BufferPool;
use crate::clock::Clock;
use crate::digest::Digest;
use crate::metadata::Ledger;
use crate::metadata::accounts::OrganizationId;
use crate::metadata::uploads::Target;
use crate::store::Store;

pub use crate::metadata::uploads::{Keep, Sender, UploadRow};
pub use deferred::Sha256When;
pub use engine::UploadEngine;
pub use gate::{Answer, Gate, Gatekeeping, Passage, Silence, Whole};
pub use part::PartAssembler;
pub use pieces::{Cut, GIVES_WAY, MOST_PIECES, PieceWriter, Placed};
pub use recover::{Recovered, Swept};
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
    /// Which store takes new uploads that name none.
    pub default_store: String,
    /// Whether other processes write to the same rows: what is open at the start may then be theirs.
    pub shared: bool,
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
    /// How long and how many uploads may stay.
    pub limits: UploadLimits,
    /// When SHA-256 is computed of what comes in.
    pub sha256: Sha256When,
    /// What stands between uploads that are whole and their names.
    pub passage: Passage,
}

/// How long and how many uploads may stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UploadLimits {
    /// An open upload that nobody wrote to for so long is given up.
    pub idle: Duration,
    /// An open upload that is older is given up.
    pub age: Duration,
    /// A finished upload without a target holds its blob for so long.
    pub untargeted_ttl: Duration,
    /// An upload that is quarantined is given up after so long.
    pub quarantine: Duration,
    /// What came since the last commit is committed after so long, however little of its part that is.
    pub tail_commit: Duration,
    /// Parts that are whole wait for one another until they have so many bytes, or until [`Self::commit_within`] after the
    /// last ones, and are made durable and committed together, one batch at a time; for stores that take bytes in place.
    /// Where it is 0, and elsewhere, each part is by itself and several are at once.
    pub commit_bytes: u64,
    /// See [`Self::commit_bytes`].
    pub commit_within: Duration,
    /// Uploads that compute SHA-256, and what else needs bytes in order, on another core than the rest at once; for stores
    /// that take bytes in place.
    pub lanes: usize,
    /// Kept uploads that one account may have open.
    pub open_per_account: u64,
    /// Kept uploads that one organization may have open.
    pub open_per_organization: u64,
}

impl Default for UploadLimits {
    fn default() -> Self {
        Self {
            idle: Duration::from_hours(24),
            age: Duration::from_hours(7 * 24),
            untargeted_ttl: Duration::from_hours(7 * 24),
            quarantine: Duration::from_hours(30 * 24),
            tail_commit: Duration::from_secs(5),
            commit_bytes: 0,
            commit_within: Duration::from_millis(250),
            lanes: 0,
            open_per_account: 64,
            open_per_organization: 10_000,
        }
    }
}

/// What a client wants to store.
#[derive(Debug, Clone)]
pub struct UploadIntent {
    /// The store that keeps it; `None` is [`EngineOptions::default_store`].
    pub store: Option<String>,
    /// Who sends it.
    pub sender: Sender,
    /// Whose blob it becomes; dedupe never leaves this tenant.
    pub organization: OrganizationId,
    /// The name that finishing publishes; without one the upload holds its blob itself, until it is
    /// cancelled or [`UploadLimits::untargeted_ttl`] is over.
    pub target: Option<Target>,
    /// Declared length in bytes, if any.
    pub length: Option<u64>,
    /// Digests that the client declared; algorithms beyond BLAKE3 and SHA-256 are hashed on demand, and that where it is
    /// deferred.
    pub expected: Vec<Digest>,
    /// Bytes of a part, if somebody asks for more than its length needs: up to the next power of two.
    pub part_bytes: Option<u64>,
    /// How it is cut, if it comes in pieces and not from its first byte on.
    pub cut: Option<Cut>,
    /// What becomes of it when its writer ends before it is whole.
    pub keep: Keep,
    /// Opaque text of the protocol, at most 256 KiB, told again with the row.
    pub note: Option<String>,
}
