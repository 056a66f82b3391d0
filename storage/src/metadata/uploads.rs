//! Rows of uploads and blobs, fenced by an epoch: the commit protocol's steps, one method each.
//!
//! A step that finds another epoch, state or offset than the caller knew changes nothing and answers
//! [`crate::ErrorKind::Fenced`]: the caller's upload moved on without it.

mod find;
mod gate;
mod joins;
mod known;
mod listing;
mod pieces;
mod publish;
mod rows;
mod steps;
pub(super) mod trash;

use std::collections::BTreeMap;
use std::fmt::{self, Debug};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::accounts::{AccountId, OrganizationId};
use super::catalog::FileId;
use crate::blob::{BlobKey, BlobMeta, UploadId};
use crate::clock::UnixMillis;
use crate::digest::{Blake3, Digest, Sha256};
use crate::error::Result;
use crate::sidecar::Sidecar;
use crate::store::{Receipt, Receipts};

pub use known::{Known, Naming};
pub use listing::NamedUpload;
pub(super) use rows::{end_open_of, let_go};
#[cfg(feature = "conformance")]
pub(super) use {
    gate::check_passed,
    joins::{Health, check_source, is_alike},
    pieces::{assert_cut, assert_kept, check_piece_bytes, refuse_held_ahead},
    rows::{check_length, declared_beside, fenced, folded_target, too_many},
    steps::check_steps,
};

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
    /// Row id of the architecture that takes it, where it must be there still: nothing is made for it then, and
    /// `Gone` is what publishing comes to. A new one of the same name is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub into: Option<i64>,
    /// Labels that its blob gets, beside those that it passes the gate with.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// What is asked of an ISO image, for one: `box_name` is its name then, and the levels below are empty, so that a
    /// release that knows no ISO images publishes nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iso: Option<IsoTarget>,
}

/// What is asked of an ISO image beside its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IsoTarget {
    /// Whether anyone may read it; as it was where nothing is said, and a new one may not.
    pub public: Option<bool>,
}

impl Target {
    /// Its four names; of an ISO image all but the first are empty.
    pub fn names(&self) -> [&str; 4] {
        [
            &self.box_name,
            &self.version,
            &self.provider,
            &self.architecture,
        ]
        .map(String::as_str)
    }

    /// The same target, if it is of an ISO image: without levels below its name.
    #[must_use]
    pub fn or_iso(self, iso: Option<IsoTarget>) -> Self {
        if iso.is_none() {
            return self;
        }
        Self {
            version: String::new(),
            provider: String::new(),
            architecture: String::new(),
            declared: None,
            iso,
            ..self
        }
    }
}

/// Who sends an upload: nobody else goes on with it, and what two of them send never mixes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sender {
    /// On whose behalf. A person's sessions and personal tokens are one sender.
    pub account: AccountId,
    /// Name of the service account, where one acts: it keeps its name when its key is replaced.
    pub service: Option<String>,
}

impl Sender {
    /// A person, and not one of the service accounts that act for them.
    pub fn person(account: AccountId) -> Self {
        Self {
            account,
            service: None,
        }
    }
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

/// What becomes of an upload whose writer ends before it is whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// It is given up.
    No,
    /// It stays open at its durable offset until it was idle for too long.
    UntilIdle,
}

impl UploadState {
    /// Its word in rows and in answers.
    pub fn as_str(self) -> &'static str {
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
    pub sender: Sender,
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
    /// How it is cut, if it arrives in pieces.
    pub pieces: Option<Pieces>,
    /// Of how many other uploads it is joined; 0 for one that is sent.
    pub joins: u32,
    /// The name that finishing publishes; without one the upload itself holds its blob.
    pub target: Option<Target>,
    /// Whether it outlives its writer.
    pub keep: Keep,
    /// Opaque text of the protocol that made it.
    pub note: Option<String>,
    /// Digests that were declared when it was made; finishing compares them.
    pub expected: Vec<Digest>,
    /// Versioned map of hash states at `offset`, opaque here; empty at 0.
    pub hash_states: Vec<u8>,
    /// Digests once known (from `Completing` on); a deferred SHA-256 is not.
    pub digests: Option<(Blake3, Option<Sha256>)>,
    /// What it became, once `Done`.
    pub published: Option<Published>,
    /// What was said of it once it was whole; `None` while nobody was asked.
    pub gate: Option<Gating>,
    /// When it was made.
    pub created: UnixMillis,
    /// When its offset or state last moved.
    pub updated: UnixMillis,
}

impl UploadRow {
    /// What its blob is labelled with: as it began, and as it passed the gate, whose word counts more.
    pub(super) fn labels(&self) -> Labels {
        let begun = self.target.iter().flat_map(|target| &target.labels);
        let passed = self.gate.iter().flat_map(|gating| &gating.labels);
        let all = begun.chain(passed);
        all.map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    }

    /// What stands beside the blob that it led to.
    pub(super) fn sidecar(
        &self,
        blob: BlobMeta,
        organization: String,
        published: UnixMillis,
    ) -> Sidecar {
        Sidecar {
            upload: self.id,
            blob,
            organization,
            // The address is the event's, which is over.
            target: self.target.clone().map(|target| Target {
                base_url: String::new(),
                into: None,
                labels: Labels::new(),
                ..target
            }),
            labels: self.labels(),
            published,
            of_rows: false,
        }
    }
}

/// A new upload.
#[derive(Debug, Clone)]
pub struct NewUpload {
    /// Its id.
    pub id: UploadId,
    /// Who sends it.
    pub sender: Sender,
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
    /// How it is cut, if it arrives in pieces; none is held yet.
    pub pieces: Option<Pieces>,
    /// The uploads whose bytes, one after the other, are its own; none for one that is sent. They are
    /// the same sender's, have no target and are not joined themselves; one may stand there twice.
    pub joins: Vec<UploadId>,
    /// The name that finishing publishes, if any.
    pub target: Option<Target>,
    /// Whether it outlives its writer.
    pub keep: Keep,
    /// Opaque text of the protocol that makes it.
    pub note: Option<String>,
    /// Digests that finishing compares.
    pub expected: Vec<Digest>,
    /// How many kept uploads may be open at once; checked for kept ones, in the same transaction.
    pub most_open: MostOpen,
}

/// How many kept uploads may be open at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MostOpen {
    /// Of one account.
    pub per_account: u64,
    /// Of one organization.
    pub per_organization: u64,
}

/// Moments up to which uploads are over, each for its own reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Over {
    /// An open upload that does not outlive its writer and was last written to by then.
    pub unkept: UnixMillis,
    /// A kept open upload that was last written to by then; not one that is joined of others, which has
    /// nothing to do while those are sent.
    pub idle: UnixMillis,
    /// An open upload that was made by then.
    pub made: UnixMillis,
    /// A finished upload that holds its blob itself and was finished by then.
    pub untargeted: UnixMillis,
    /// One that was quarantined by then.
    pub quarantined: UnixMillis,
}

/// The right to change one upload's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fence {
    /// Which upload.
    pub id: UploadId,
    /// The epoch that the writer was given.
    pub epoch: i64,
}

/// One step forward: a part became durable, or its beginning did.
///
/// Part k holds exactly the bytes from k part lengths on, so that
/// `start of the part <= from < to <= end of the part`.
#[derive(Debug, Clone)]
pub struct Advance {
    /// Offset before, in bytes.
    pub from: u64,
    /// Offset after, in bytes.
    pub to: u64,
    /// Index of the part that holds `from..to`.
    pub part: u32,
    /// One BLAKE3 subtree value per MiB from the part's start to `to`; the last may stand for less.
    pub values: Vec<[u8; 32]>,
    /// Versioned map of hash states at `to`, opaque here.
    pub hash_states: Vec<u8>,
    /// What the store gave for the bytes of the part up to `to`.
    pub receipt: Receipt,
}

impl Advance {
    /// Whether it is the first of its part, whose length is a power of two: behind k > 0 parts of that length there is no
    /// other place within the next one that k divides into a power of two, since this would lie k lengths further at least.
    pub(super) fn begins_part(&self) -> bool {
        let k = u64::from(self.part);
        self.from.checked_rem(k).map_or(self.from == 0, |rest| {
            rest == 0 && (self.from / k).is_power_of_two()
        })
    }
}

/// How an upload is cut that arrives in pieces, in any order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pieces {
    /// How many there are.
    pub count: u32,
    /// Bytes of each but the last; unknown until one of them came.
    pub bytes: Option<u64>,
    /// How many are whole and durable.
    pub held: u32,
    /// Whether each is held as bytes of its own until the offset covers it: its store takes nothing out of order.
    pub apart: bool,
}

/// A piece that is whole and durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Which one, from 0.
    pub k: u32,
    /// Its first byte, counted from the start of the blob.
    pub start: u64,
    /// How many bytes.
    pub length: u64,
    /// One BLAKE3 subtree value per MiB from its start; the last may stand for less.
    pub values: Vec<[u8; 32]>,
    /// The key of its bytes where it is held [apart](Pieces::apart); `None` once the offset covers it.
    pub apart: Option<BlobKey>,
}

impl Piece {
    /// Whether both have the same bytes in the same place, wherever these are.
    pub fn is_same(&self, other: &Self) -> bool {
        let here = (self.k, self.start, self.length, &self.values);
        here == (other.k, other.start, other.length, &other.values)
    }
}

/// Where a held piece lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldPiece {
    /// Which one, from 0.
    pub k: u32,
    /// Its first byte.
    pub start: u64,
    /// How many bytes.
    pub length: u64,
}

/// All bytes are durable and verified.
#[derive(Debug, Clone, Copy)]
pub struct Completion {
    /// Length in bytes, equal to the committed offset.
    pub length: u64,
    /// BLAKE3 of all bytes.
    pub blake3: Blake3,
    /// SHA-256 of all bytes, unless it is deferred.
    pub sha256: Option<Sha256>,
}

/// Names in order with their values.
pub type Labels = BTreeMap<String, String>;

/// How it stands with what is asked before an upload that is whole becomes visible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GateState {
    /// Somebody asks at this moment.
    Asked,
    /// There was no answer; it is asked again.
    Held,
    /// It may be published.
    Passed,
    /// It is kept out of sight until somebody lets it through or gives it up.
    Quarantined,
    /// It was dropped.
    Rejected,
}

/// What was said of an upload that is whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gating {
    /// How it stands.
    pub state: GateState,
    /// Why it was not published; may be empty.
    pub why: String,
    /// Whether `why` is an answer, meant for whoever sends the upload, and no failure's text.
    pub is_verdict: bool,
    /// How often there was no answer.
    pub tries: u32,
    /// A number that came with a rejection, opaque here.
    pub code: Option<u16>,
    /// Labels that it is published with.
    pub labels: Labels,
    /// Until when whoever asks has the right to; when a held one is asked again.
    pub due: Option<UnixMillis>,
}

impl Gating {
    /// Nothing is said yet.
    pub(crate) fn new(state: GateState) -> Self {
        Self {
            state,
            why: String::new(),
            is_verdict: false,
            tries: 0,
            code: None,
            labels: Labels::new(),
            due: None,
        }
    }

    /// What an answer comes to, after so many tries without one.
    pub(super) fn answered(tries: u32, answer: GateAnswer) -> Self {
        let failed = tries.saturating_add(1);
        let said = |state, tries| Self {
            tries,
            ..Self::new(state)
        };
        match answer {
            GateAnswer::Pass(labels) => Self {
                labels,
                ..said(GateState::Passed, tries)
            },
            GateAnswer::Hold { why, until } => Self {
                why,
                due: Some(until),
                ..said(GateState::Held, failed)
            },
            GateAnswer::Quarantine {
                why,
                by: _,
                is_verdict,
            } => Self {
                why,
                is_verdict,
                ..said(
                    GateState::Quarantined,
                    if is_verdict { tries } else { failed },
                )
            },
            GateAnswer::Reject { why, code } => Self {
                why,
                is_verdict: true,
                code,
                ..said(GateState::Rejected, tries)
            },
        }
    }
}

/// What is said of an upload that is whole, as its row keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GateAnswer {
    /// It may be published, with these labels.
    Pass(Labels),
    /// There was no answer; it is asked again then.
    Hold {
        /// How that failed.
        why: String,
        /// When it is asked again.
        until: UnixMillis,
    },
    /// It is kept out of sight.
    Quarantine {
        /// Why.
        why: String,
        /// Who says so, or did not answer; told once, and not kept.
        by: Option<String>,
        /// Whether that was answered; else too often there was no answer.
        is_verdict: bool,
    },
    /// It is dropped with its bytes.
    Reject {
        /// Why.
        why: String,
        /// Opaque here.
        code: Option<u16>,
    },
}

/// The source of an [`crate::ErrorKind::Withheld`] error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Withheld(pub Gating);

impl fmt::Display for Withheld {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} ({} tries failed)",
            self.0.state.as_str(),
            self.0.tries
        )?;
        if self.0.why.is_empty() {
            return Ok(());
        }
        write!(f, ": {}", self.0.why)
    }
}

impl std::error::Error for Withheld {}

/// What a finished upload became.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// The blob: the new one, or an equal one that the tenant held already.
    pub blob: BlobMeta,
    /// The file row that names it; `None` for an upload without a target.
    pub file: Option<FileId>,
    /// Whether the name held another blob before.
    pub replaced: bool,
    /// The stored spelling of the version (the one that came first); empty without a target.
    pub version: String,
}

/// An upload of those that another is joined of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Which upload.
    pub id: UploadId,
    /// Its length in bytes, once known.
    pub length: Option<u64>,
    /// What it became, and the name of the store that has it, once it is whole. Held until the upload is
    /// joined or given up, whatever becomes of the source.
    pub blob: Option<(BlobMeta, String)>,
}

/// Bytes to remove from a store.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Trash {
    /// Key of the bytes.
    pub key: BlobKey,
    /// Name of the store.
    pub store: String,
}

/// The rows of uploads and blobs; the SQL one and its in-memory twin obey the same suite.
#[async_trait]
pub trait Ledger: Debug + Send + Sync {
    /// A1: records the intent with epoch 1, before any byte or file exists. Where the same sender asked for
    /// the same join with the same note, and that is not joined yet, its row is the answer, and nothing is made.
    ///
    /// # Errors
    /// [`crate::ErrorKind::TooMany`] for one more kept upload than [`NewUpload::most_open`] allows. With
    /// its id as the subject, for an upload of [`NewUpload::joins`]: `NotFound` when there is none of that
    /// sender, `Invalid` when it is not to be joined, `Gone`, and `Damaged`.
    async fn create(&self, new: NewUpload) -> Result<UploadRow>;

    /// Returns the row, whatever its state, and raises the epoch of an open one: the older writer's
    /// next step is fenced. `None` when there is no such upload.
    async fn take_over(&self, id: UploadId) -> Result<Option<UploadRow>>;

    /// The row as it is; takes nothing over.
    async fn upload(&self, id: UploadId) -> Result<Option<UploadRow>>;

    /// Fixes the length of an open upload that declared none; the same length again is fine. Returns
    /// the row as it is then. Raises no epoch.
    ///
    /// # Errors
    /// `NotFound`; `Gone`; `Conflict` when it is no longer open or has another length;
    /// `LengthMismatch` when more than that is committed already.
    async fn set_length(&self, id: UploadId, length: u64) -> Result<UploadRow>;

    /// Declares digests that finishing compares, beside those that were declared before. Raises the epoch, so that what
    /// comes of writers that knew nothing of them is fenced. Returns the row as it is then.
    ///
    /// # Errors
    /// `NotFound`; `Gone`; `Conflict` when it is no longer open, or another digest of the same algorithm is declared;
    /// `Invalid` for an algorithm that did not run over what is committed, or that does not run unless it was declared
    /// when the upload was made.
    async fn declare(&self, id: UploadId, digests: Vec<Digest>) -> Result<UploadRow>;

    /// The subtree values of one part of an upload that did not end; `None` when nothing of it is
    /// committed.
    async fn part_values(&self, id: UploadId, part: u32) -> Result<Option<Vec<[u8; 32]>>>;

    /// What the store gave for the committed bytes of an upload that did not end.
    async fn receipts(&self, id: UploadId) -> Result<Receipts>;

    /// Names the store's own upload, unless it has a name already; returns the name that it has then. Raises no epoch:
    /// all who send parts in this one must name the same.
    /// [`crate::ErrorKind::Fenced`] unless the epoch is as given and the upload is open.
    async fn name_store_upload(&self, fence: Fence, name: &str) -> Result<String>;

    /// B3: moves the offset and records the part with its receipt, in one transaction; a tail that is
    /// no longer the upload's goes to the trash in the same one.
    /// [`crate::ErrorKind::Fenced`] unless epoch, state and offset are as given, and the store's own upload is
    /// the one that the parts before are in: two nodes may take pieces in one epoch.
    async fn advance(&self, fence: Fence, step: Advance) -> Result<()> {
        self.advance_all(fence, vec![step]).await
    }

    /// The same over several parts in one transaction: all steps are taken or none, and none at all is fine. Each
    /// begins where the one before ended, and only the last one may leave a tail.
    async fn advance_all(&self, fence: Fence, steps: Vec<Advance>) -> Result<()>;

    /// Fixes the bytes of each piece but the last; the same number again is fine. Raises no epoch.
    ///
    /// # Errors
    /// `NotFound`; `Gone`; `Conflict` when it is no longer open, has another number or no pieces.
    async fn set_piece_bytes(&self, id: UploadId, bytes: u64) -> Result<UploadRow>;

    /// Records a piece that is whole and durable; returns how many are held then. The same piece again
    /// changes nothing. [`crate::ErrorKind::Fenced`] unless the epoch is as given and the upload is
    /// open; [`crate::ErrorKind::Conflict`] when another piece is held under that number.
    async fn hold_piece(&self, fence: Fence, piece: Piece) -> Result<u32>;

    /// A held piece, wherever the offset is.
    async fn piece(&self, id: UploadId, k: u32) -> Result<Option<Piece>>;

    /// All held pieces in order, of an upload that was not given up.
    async fn held_pieces(&self, id: UploadId) -> Result<Vec<HeldPiece>>;

    /// Claims a key for bytes of a piece that are about to be stored there: they are removed at `until` unless the
    /// piece is held by then.
    async fn set_aside(&self, key: BlobKey, store: &str, until: UnixMillis) -> Result<()>;

    /// Bytes that were set aside and are not held go now.
    async fn hasten(&self, key: BlobKey) -> Result<()>;

    /// Bytes that are held [apart](Pieces::apart) go to the trash where the offset covers all of their piece.
    async fn pass_pieces(&self, id: UploadId) -> Result<()>;

    /// Forgets the pieces and how the upload is cut: it goes on in order from its offset.
    /// [`crate::ErrorKind::Fenced`] unless the epoch is as given and the upload is open;
    /// [`crate::ErrorKind::Conflict`] while pieces are held that the offset does not cover.
    async fn drop_pieces(&self, fence: Fence) -> Result<()>;

    /// C0: `open` → `completing`, fenced by epoch and by offset = length; the same again changes nothing. With `last` steps
    /// it is B3 of those, too, in the same transaction: all or nothing. Returns what is to stand beside the blob, as
    /// [`Self::sidecar`].
    async fn complete(
        &self,
        fence: Fence,
        last: Vec<Advance>,
        completion: Completion,
    ) -> Result<Option<(Sidecar, String)>>;

    /// Takes the right to ask whether a whole upload may be published, until `until`; rights that run out by
    /// `over` are over, and `mine` is kept. The row as it is then; `None` when the right is another's, and when
    /// nothing is to be asked any more.
    async fn ask_gate(
        &self,
        fence: Fence,
        (over, until): (UnixMillis, UnixMillis),
        mine: Option<UnixMillis>,
    ) -> Result<Option<UploadRow>>;

    /// Writes down what was said to whoever has the right to ask until `mine`; what is rejected ends here as by
    /// `abort`. False when the right is theirs no more: then it counts for nothing.
    async fn answer_gate(&self, fence: Fence, mine: UnixMillis, answer: GateAnswer)
    -> Result<bool>;

    /// Lets a held or quarantined upload through, whatever was said; told in the audit. False for any other.
    async fn let_through(&self, id: UploadId, actor: &str) -> Result<bool>;

    /// Whole uploads to publish or to ask about: those that nobody asked about or that passed, and did not move
    /// since `until`; those for which the right to ask runs out by `over`, or that are held no longer than that.
    /// Oldest first.
    async fn waiting(
        &self,
        until: UnixMillis,
        over: UnixMillis,
        limit: u32,
    ) -> Result<Vec<UploadRow>>;

    /// What was said of another upload of the same bytes to the same name that is quarantined.
    async fn quarantined_like(&self, row: &UploadRow) -> Result<Option<Gating>>;

    /// C3: the one commit point. Makes missing parents (box, version, provider, architecture) of the
    /// target, the blob row with its subtree values (or takes an equal live blob of the same
    /// organization, and trashes the new bytes), points the file at it, dooms what lost its last
    /// reference, writes `done` and the event `box.uploaded`. Without a target there is no name and
    /// no event: the upload's row holds the one reference, and each upload that it is to be joined into
    /// holds one more. Repeating it on a `done` row returns the
    /// same outcome.
    ///
    /// # Errors
    /// `NotFound` when the organization is gone; `Fenced`.
    async fn publish(&self, fence: Fence) -> Result<Published>;

    /// What is to stand beside the blob that publishing this upload would lead to, or has led to, and the name
    /// of the store that holds it; `None` where it cannot be published. That blob has the upload's own key, unless the
    /// tenant holds an equal one.
    async fn sidecar(&self, fence: Fence) -> Result<Option<(Sidecar, String)>>;

    /// Takes a blob whose bytes are gone or not what was hashed out of service: no upload is taken for equal
    /// to it any more, and the next with the same digests heals what holds it.
    async fn condemn(&self, key: &BlobKey) -> Result<()>;

    /// `open` or `completing` → `aborted`, and its bytes into the trash, due now. With an `epoch` only
    /// while the row still has that one: whoever was replaced ends nothing. False when there was
    /// nothing to end. Uploads that waited to be joined of it end with it, as in all the ways to end below.
    async fn abort(&self, id: UploadId, epoch: Option<i64>) -> Result<bool>;

    /// As `abort` at any epoch, by somebody whose upload it need not be: told in the audit, in the same
    /// transaction.
    async fn abort_by(&self, id: UploadId, actor: &str) -> Result<bool>;

    /// `open` or `completing` → `lost`, and what is left of its bytes into the trash.
    /// [`crate::ErrorKind::Fenced`] when it moved on.
    async fn lose(&self, fence: Fence) -> Result<()>;

    /// Drops the reference that a finished upload without a target holds; the row is `aborted` then.
    /// False when it holds none.
    async fn release(&self, id: UploadId) -> Result<bool>;

    /// Closes a finished upload with a target: `aborted`, so that nobody is told its answer any more. What
    /// it became stays under its name. False for any other.
    async fn close(&self, id: UploadId) -> Result<bool>;

    /// Of what an upload is joined, in order; nothing once it was joined or given up.
    async fn sources(&self, id: UploadId) -> Result<Vec<Source>>;

    /// Open uploads whose sources are all whole, in the order of their ids, from behind `after` on.
    async fn joinable(&self, after: Option<UploadId>, limit: u32) -> Result<Vec<UploadId>>;

    /// Uploads in that state whose row was last changed at or before `until`, oldest first.
    async fn uploads_in(
        &self,
        state: UploadState,
        until: UnixMillis,
        limit: u32,
    ) -> Result<Vec<UploadRow>>;

    /// Kept uploads of that sender to that name, found as names are found: those that did not end,
    /// and those that were published at or after `since`. Newest first.
    async fn uploads_to(
        &self,
        sender: &Sender,
        organization: OrganizationId,
        target: &Target,
        since: UnixMillis,
    ) -> Result<Vec<UploadRow>>;

    /// What that upload replaces: kept ones of its sender to its name, with its note, that were made before it and are
    /// open or, once it is published, whole and not published. Newest first.
    async fn replaced_by(&self, id: UploadId) -> Result<Vec<UploadRow>>;

    /// Open uploads in the order of their ids, from behind `after` on; of one organization, if given.
    async fn open_uploads(
        &self,
        organization: Option<OrganizationId>,
        after: Option<UploadId>,
        limit: u32,
    ) -> Result<Vec<UploadRow>>;

    /// Uploads that are over: open ones to abort, finished ones to release. Oldest first.
    async fn over(&self, over: Over, limit: u32) -> Result<Vec<UploadRow>>;

    /// Bytes due for removal: trash, and doomed blobs that are due, which become `deleting` here in
    /// the same transaction (never one with a reference).
    async fn due_trash(&self, limit: u32) -> Result<Vec<Trash>>;

    /// Forgets bytes that were removed, with their blob row.
    async fn forget(&self, trash: &Trash) -> Result<()>;
}
