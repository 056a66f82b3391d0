//! Rows of uploads and blobs, fenced by an epoch: the commit protocol's steps, one method each.
//!
//! A step that finds another epoch, state or offset than the caller knew changes nothing and answers
//! [`crate::ErrorKind::Fenced`]: the caller's upload moved on without it.

mod publish;
mod rows;
mod trash;

use std::fmt::Debug;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::accounts::{AccountId, OrganizationId};
use super::catalog::FileId;
use crate::blob::{BlobKey, BlobMeta, UploadId};
use crate::clock::UnixMillis;
use crate::digest::{Blake3, Sha256};
use crate::error::Result;

#[cfg(feature = "conformance")]
pub(super) use rows::{check_step, fenced};

/// What finishing an upload publishes; kept in the upload's row as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// Box, version, provider and architecture, as spelled by the client and already parsed.
    pub box_name: String,
    /// See `box_name`.
    pub version: String,
    /// See `box_name`.
    pub provider: String,
    /// See `box_name`.
    pub architecture: String,
    /// Visibility of a box that this upload makes.
    pub new_box_public: bool,
    /// Checksum that the uploader declared: BoxVault's type in capitals, hexadecimal value.
    pub declared: Option<(String, String)>,
    /// Who did it, for audit and events: name of the account or service account.
    pub actor: String,
    /// Absolute URL prefix for the `url` of the `box.uploaded` event; may be empty.
    pub base_url: String,
}

/// Where an upload stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UploadState {
    /// Takes bytes.
    Open,
    /// All bytes are there and verified; publishing is under way or must be repeated.
    Completing,
    /// Published.
    Done,
    /// Given up.
    Aborted,
    /// Stored bytes turned out to be gone.
    Lost,
}

impl UploadState {
    fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Completing => "completing",
            Self::Done => "done",
            Self::Aborted => "aborted",
            Self::Lost => "lost",
        }
    }

    fn from_name(text: &str) -> Option<Self> {
        [
            Self::Open,
            Self::Completing,
            Self::Done,
            Self::Aborted,
            Self::Lost,
        ]
        .into_iter()
        .find(|s| s.as_str() == text)
    }
}

/// An upload's row.
#[derive(Debug, Clone)]
pub struct UploadRow {
    /// Its id.
    pub id: UploadId,
    /// Who sends it.
    pub account: AccountId,
    /// Whose blob it becomes.
    pub organization: OrganizationId,
    /// Key of its bytes in the store.
    pub key: BlobKey,
    /// Name of the store.
    pub store: String,
    /// Fence: only the writer that knows it may change the row.
    pub epoch: i64,
    /// Where it stands.
    pub state: UploadState,
    /// Durable, committed bytes.
    pub offset: u64,
    /// Declared length in bytes, if any.
    pub length: Option<u64>,
    /// Bytes of a part, a power of two.
    pub part_bytes: u64,
    /// What finishing publishes.
    pub target: Target,
    /// Digests once known (from `Completing` on).
    pub digests: Option<(Blake3, Sha256)>,
    /// When it was made.
    pub created: UnixMillis,
    /// When its offset last moved.
    pub updated: UnixMillis,
}

/// A new upload.
#[derive(Debug, Clone)]
pub struct NewUpload {
    /// Its id.
    pub id: UploadId,
    /// Who sends it.
    pub account: AccountId,
    /// Whose blob it becomes.
    pub organization: OrganizationId,
    /// Key of its bytes in the store.
    pub key: BlobKey,
    /// Name of the store.
    pub store: String,
    /// Declared length in bytes, if any.
    pub length: Option<u64>,
    /// Bytes of a part, a power of two.
    pub part_bytes: u64,
    /// What finishing publishes.
    pub target: Target,
}

/// The right to change one upload's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fence {
    /// Which upload.
    pub id: UploadId,
    /// The epoch that the writer was given.
    pub epoch: i64,
}

/// One step forward: a part (the last may be short) became durable.
#[derive(Debug, Clone)]
pub struct Advance {
    /// Offset before, in bytes.
    pub from: u64,
    /// Offset after, in bytes.
    pub to: u64,
    /// Index of the part that ends at `to`.
    pub part: u32,
    /// One BLAKE3 subtree value per MiB of the part.
    pub values: Vec<[u8; 32]>,
    /// Versioned map of hash states at `to`, opaque here.
    pub hash_states: Vec<u8>,
}

/// All bytes are durable and verified.
#[derive(Debug, Clone, Copy)]
pub struct Completion {
    /// Length in bytes, equal to the committed offset.
    pub length: u64,
    /// BLAKE3 of all bytes.
    pub blake3: Blake3,
    /// SHA-256 of all bytes.
    pub sha256: Sha256,
}

/// What a finished upload became.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// The blob: the new one, or an equal one that the tenant held already.
    pub blob: BlobMeta,
    /// The file row that names it.
    pub file: FileId,
    /// Whether the name held another blob before.
    pub replaced: bool,
    /// The stored spelling of the version (the one that came first).
    pub version: String,
}

/// Bytes to remove from a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trash {
    /// Key of the bytes.
    pub key: BlobKey,
    /// Name of the store.
    pub store: String,
}

/// The rows of uploads and blobs; the SQL one and its in-memory twin obey the same suite.
#[async_trait]
pub trait Ledger: Debug + Send + Sync {
    /// A1: records the intent with epoch 1, before any byte or file exists.
    async fn create(&self, new: NewUpload) -> Result<UploadRow>;

    /// Raises the epoch of an open upload and returns its row; the older writer's next step is fenced.
    /// `None` when it is not open.
    async fn take_over(&self, id: UploadId) -> Result<Option<UploadRow>>;

    /// The row as it is; takes nothing over.
    async fn upload(&self, id: UploadId) -> Result<Option<UploadRow>>;

    /// B3: moves the offset and records the part, in one transaction.
    /// [`crate::ErrorKind::Fenced`] unless epoch, state and offset are as given.
    async fn advance(&self, fence: Fence, step: Advance) -> Result<()>;

    /// C0: `open` → `completing`, fenced by epoch and by offset = length.
    async fn complete(&self, fence: Fence, completion: Completion) -> Result<()>;

    /// C3: the one commit point. Makes missing parents (box, version, provider, architecture) of the
    /// target, the blob row with its subtree values (or takes an equal live blob of the same
    /// organization, and trashes the new bytes), points the file at it, dooms what lost its last
    /// reference, writes `done` and the event `box.uploaded`. Repeating it on a `done` row returns the
    /// same outcome.
    ///
    /// # Errors
    /// `NotFound` when the organization is gone; `Fenced`.
    async fn publish(&self, fence: Fence) -> Result<Published>;

    /// `open` or `completing` → `aborted`, and its bytes into the trash, due now. False when it was
    /// neither.
    async fn abort(&self, id: UploadId) -> Result<bool>;

    /// Uploads in that state whose row was last changed at or before `until`, oldest first.
    async fn uploads_in(
        &self,
        state: UploadState,
        until: UnixMillis,
        limit: u32,
    ) -> Result<Vec<UploadRow>>;

    /// Bytes due for removal: trash, and doomed blobs that are due, which become `deleting` here in
    /// the same transaction (never one with a reference).
    async fn due_trash(&self, limit: u32) -> Result<Vec<Trash>>;

    /// Forgets bytes that were removed, with their blob row.
    async fn forget(&self, key: &BlobKey) -> Result<()>;
}
