//! Names: boxes, versions, providers, architectures, and the file that each architecture holds.
//!
//! Look-ups by name go without case, and `v1.2.3` finds `1.2.3`. Methods with `actor` write an `audit`
//! row and the contract's events in the same transaction. Deleting or replacing takes a reference from
//! the blobs concerned; at none they are doomed.

mod announced;
mod architectures;
pub(super) mod blobs;
mod boxes;
pub(super) mod columns;
mod deeds;
mod downloads;
mod holders;
pub(super) mod isos;
mod linked;
mod listing;
mod providers;
pub(super) mod publish;
pub(super) mod remove;
mod resolve;
mod search;
mod tree;
mod versions;

pub use announced::{Announcement, Slot, SlotChange};
pub use downloads::Counted;
pub use holders::{BlobDigest, HeldBlob};
pub use isos::{Iso, IsoChange, IsoFilter};
pub use listing::Page;
pub use search::{Search, SortBy};

use super::accounts::{AccountId, OrganizationId, row_id};
use crate::blob::BlobMeta;
use crate::catalog::{ArchitectureName, BoxName, OrganizationName, ProviderName, VersionName};
use crate::clock::UnixMillis;
use crate::metadata::uploads::Labels;

row_id! {
    /// Row id of a box.
    BoxId
}
row_id! {
    /// Row id of a version.
    VersionId
}
row_id! {
    /// Row id of a provider.
    ProviderId
}
row_id! {
    /// Row id of an architecture.
    ArchitectureId
}
row_id! {
    /// Row id of a box file.
    FileId
}
row_id! {
    /// Row id of an ISO image.
    IsoId
}

/// A box.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoxRow {
    /// Row id.
    pub id: BoxId,
    /// Its owner.
    pub organization: OrganizationId,
    /// Unique without case in its organization.
    pub name: BoxName,
    /// Who made it.
    pub account: AccountId,
    /// What may be edited.
    pub fields: BoxFields,
    /// When it was made.
    pub created: UnixMillis,
    /// When it was last changed.
    pub updated: UnixMillis,
}

/// What may be edited of a box.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BoxFields {
    /// Markdown.
    pub description: Option<String>,
    /// At most 255 characters.
    pub short_description: Option<String>,
    /// Markdown.
    pub readme: Option<String>,
    /// BoxVault's `githubRepo`.
    pub github_repo: Option<String>,
    /// BoxVault's `workflowFile`.
    pub workflow_file: Option<String>,
    /// BoxVault's `cicdUrl`.
    pub cicd_url: Option<String>,
    /// BoxVault's `metadata`, a JSON object as text.
    pub metadata: Option<String>,
    /// Whether it shows in listings for others than its creator.
    pub published: bool,
    /// Whether anyone may read and download.
    pub public: bool,
}

/// Whether a version is for users yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VersionStatus {
    /// Not listed to Vagrant yet.
    Unreleased,
    /// Listed.
    Active,
    /// No longer listed.
    Revoked,
}

impl VersionStatus {
    /// Its word in rows and in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unreleased => "unreleased",
            Self::Active => "active",
            Self::Revoked => "revoked",
        }
    }

    fn from_name(text: &str) -> Option<Self> {
        [Self::Unreleased, Self::Active, Self::Revoked]
            .into_iter()
            .find(|s| s.as_str() == text)
    }
}

/// A version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionRow {
    /// Row id.
    pub id: VersionId,
    /// Its box.
    pub box_id: BoxId,
    /// The spelling that came first.
    pub name: VersionName,
    /// Whether it is for users yet; versions made by BoxVault's doors are active at once.
    pub status: VersionStatus,
    /// What may be edited.
    pub fields: VersionFields,
    /// When it was made.
    pub created: UnixMillis,
    /// When it was last changed.
    pub updated: UnixMillis,
}

/// What may be edited of a version.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VersionFields {
    /// Markdown.
    pub description: Option<String>,
    /// Markdown.
    pub release_notes: Option<String>,
    /// Whether users should move on.
    pub deprecated: bool,
    /// Why.
    pub deprecation_reason: Option<String>,
}

/// A provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderRow {
    /// Row id.
    pub id: ProviderId,
    /// Its version.
    pub version_id: VersionId,
    /// Unique without case in its version.
    pub name: ProviderName,
    /// Markdown.
    pub description: Option<String>,
    /// When it was made.
    pub created: UnixMillis,
    /// When it was last changed.
    pub updated: UnixMillis,
}

/// An architecture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchitectureRow {
    /// Row id.
    pub id: ArchitectureId,
    /// Its provider.
    pub provider_id: ProviderId,
    /// Unique without case in its provider.
    pub name: ArchitectureName,
    /// Markdown.
    pub description: Option<String>,
    /// Whether it is the default; at most one of its provider is. The first of a provider is.
    pub default_box: bool,
    /// What was told of its file before that came.
    pub announced: Announced,
    /// When it was made.
    pub created: UnixMillis,
    /// When it was last changed.
    pub updated: UnixMillis,
}

/// What is told of a box before its bytes come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Announced {
    /// Another place that serves it.
    pub url: Option<String>,
    /// The checksum that uploads to it must have: type in lower case, hexadecimal value.
    pub checksum: Option<(String, String)>,
}

/// A file under an architecture, with its blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileRow {
    /// Row id.
    pub id: FileId,
    /// Its architecture.
    pub architecture_id: ArchitectureId,
    /// Its blob.
    pub blob: BlobMeta,
    /// What was written on its blob.
    pub labels: Labels,
    /// Downloads that started at byte 0.
    pub downloads: u64,
    /// Checksum that the uploader declared: BoxVault's type in capitals, hexadecimal value.
    pub declared: Option<(String, String)>,
    /// When the name was first published.
    pub created: UnixMillis,
    /// When the present blob was published.
    pub updated: UnixMillis,
}

/// A box with everything below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoxTree {
    /// The box.
    pub row: BoxRow,
    /// Its owner's name.
    pub organization_name: OrganizationName,
    /// Its maker's name; `None` when that account is gone.
    pub username: Option<String>,
    /// Versions by id.
    pub versions: Vec<VersionTree>,
}

/// A version with everything below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionTree {
    /// The version.
    pub row: VersionRow,
    /// Providers by id.
    pub providers: Vec<ProviderTree>,
}

/// A provider with everything below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderTree {
    /// The provider.
    pub row: ProviderRow,
    /// Architectures by id.
    pub architectures: Vec<ArchitectureTree>,
}

/// An architecture with its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchitectureTree {
    /// The architecture.
    pub row: ArchitectureRow,
    /// Its file, if one was stored.
    pub file: Option<FileRow>,
    /// What was the file before one whose SHA-256 is not known yet.
    pub before: Option<FileRow>,
}

impl ArchitectureTree {
    /// The file that Vagrant is shown, which is one that it can compare.
    pub fn shown_file(&self) -> Option<&FileRow> {
        let mut files = self.file.iter().chain(&self.before);
        files.find(|file| file.blob.sha256.is_some())
    }

    /// Whether there is something here to list to Vagrant: a file that it can compare, or one elsewhere.
    pub fn is_listed(&self) -> bool {
        match &self.file {
            Some(_) => self.shown_file().is_some(),
            None => self.row.announced.url.is_some(),
        }
    }
}

/// Which boxes a listing shows.
#[derive(Debug, Clone)]
pub enum BoxFilter {
    /// All of an organization.
    Organization(OrganizationId),
    /// Public and published ones everywhere, plus all that the account made.
    Discover(Option<AccountId>),
}

/// What a file name leads to.
#[derive(Debug, Clone)]
pub struct ResolvedFile {
    /// The box above it: visibility and owner.
    pub row: BoxRow,
    /// The stored spelling of the version and its status.
    pub version: VersionRow,
    /// The file and its blob.
    pub file: FileRow,
    /// Name of the store that holds the blob.
    pub store: String,
    /// Whether the blob is quarantined.
    pub quarantined: bool,
}
