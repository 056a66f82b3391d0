//! Names: boxes, versions, providers, architectures, and the file that each architecture holds.

use super::Metadata;
use super::accounts::{AccountId, OrganizationId, row_id};
use crate::blob::BlobMeta;
use crate::catalog::{
    ArchitectureName, BoxName, BoxRef, OrganizationName, ProviderName, VersionName,
};
use crate::clock::UnixMillis;
use crate::error::Result;
use crate::layer::verify::BlobTree;

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
    /// When it was made.
    pub created: UnixMillis,
    /// When it was last changed.
    pub updated: UnixMillis,
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

// Look-ups by name go without case, and `v1.2.3` finds `1.2.3`. Methods with `actor` write an `audit`
// row and the contract's events in the same transaction. Deleting or replacing takes a reference from
// the blobs concerned; at none they are doomed.
impl Metadata {
    /// Makes a box; `Conflict` when the name is taken.
    pub async fn create_box(
        &self,
        organization: OrganizationId,
        name: &BoxName,
        account: AccountId,
        fields: BoxFields,
        actor: &str,
    ) -> Result<BoxRow> {
        let _ = (organization, name, account, fields, actor);
        todo!()
    }

    /// One box without what is below it.
    pub async fn box_row(
        &self,
        organization: OrganizationId,
        name: &BoxName,
    ) -> Result<Option<BoxRow>> {
        let _ = (organization, name);
        todo!()
    }

    /// One box with everything below it.
    pub async fn box_tree(
        &self,
        organization: OrganizationId,
        name: &BoxName,
    ) -> Result<Option<BoxTree>> {
        let _ = (organization, name);
        todo!()
    }

    /// Boxes with everything below them, by id. At most a fixed number of queries, however many boxes.
    pub async fn box_trees(&self, filter: BoxFilter) -> Result<Vec<BoxTree>> {
        let _ = filter;
        todo!()
    }

    /// Replaces the editable fields, and the name if given. Emits `box.updated` with what changed.
    pub async fn update_box(
        &self,
        id: BoxId,
        name: Option<&BoxName>,
        fields: BoxFields,
        actor: &str,
    ) -> Result<BoxRow> {
        let _ = (id, name, fields, actor);
        todo!()
    }

    /// Removes a box and everything below it; false when it is gone already.
    pub async fn delete_box(&self, id: BoxId, actor: &str) -> Result<bool> {
        let _ = (id, actor);
        todo!()
    }

    /// Makes a version; `Conflict` when it exists under either spelling.
    pub async fn create_version(
        &self,
        box_id: BoxId,
        name: &VersionName,
        status: VersionStatus,
        fields: VersionFields,
        actor: &str,
    ) -> Result<VersionRow> {
        let _ = (box_id, name, status, fields, actor);
        todo!()
    }

    /// Replaces the editable fields, and name and status if given.
    pub async fn update_version(
        &self,
        id: VersionId,
        name: Option<&VersionName>,
        status: Option<VersionStatus>,
        fields: VersionFields,
        actor: &str,
    ) -> Result<VersionRow> {
        let _ = (id, name, status, fields, actor);
        todo!()
    }

    /// Removes a version and everything below it; false when it is gone already.
    pub async fn delete_version(&self, id: VersionId, actor: &str) -> Result<bool> {
        let _ = (id, actor);
        todo!()
    }

    /// Makes a provider; `Conflict` when it exists.
    pub async fn create_provider(
        &self,
        version_id: VersionId,
        name: &ProviderName,
        description: Option<&str>,
        actor: &str,
    ) -> Result<ProviderRow> {
        let _ = (version_id, name, description, actor);
        todo!()
    }

    /// Replaces the description, and the name if given.
    pub async fn update_provider(
        &self,
        id: ProviderId,
        name: Option<&ProviderName>,
        description: Option<&str>,
        actor: &str,
    ) -> Result<ProviderRow> {
        let _ = (id, name, description, actor);
        todo!()
    }

    /// Removes a provider and everything below it; false when it is gone already.
    pub async fn delete_provider(&self, id: ProviderId, actor: &str) -> Result<bool> {
        let _ = (id, actor);
        todo!()
    }

    /// Makes an architecture; `Conflict` when it exists. With `default_box` the siblings lose theirs.
    pub async fn create_architecture(
        &self,
        provider_id: ProviderId,
        name: &ArchitectureName,
        description: Option<&str>,
        default_box: bool,
        actor: &str,
    ) -> Result<ArchitectureRow> {
        let _ = (provider_id, name, description, default_box, actor);
        todo!()
    }

    /// Replaces the description, and name and default flag if given (setting it clears the siblings').
    pub async fn update_architecture(
        &self,
        id: ArchitectureId,
        name: Option<&ArchitectureName>,
        description: Option<&str>,
        default_box: Option<bool>,
        actor: &str,
    ) -> Result<ArchitectureRow> {
        let _ = (id, name, description, default_box, actor);
        todo!()
    }

    /// Removes an architecture and its file; false when it is gone already.
    pub async fn delete_architecture(&self, id: ArchitectureId, actor: &str) -> Result<bool> {
        let _ = (id, actor);
        todo!()
    }

    /// Follows a full name to its file; one query.
    pub async fn resolve_file(&self, name: &BoxRef) -> Result<Option<ResolvedFile>> {
        let _ = name;
        todo!()
    }

    /// The file of a box by the digest of its bytes: the present one, or one that was replaced less
    /// than `doomed_for` ago, as long as the name itself still exists.
    pub async fn resolve_former_file(
        &self,
        name: &BoxRef,
        blake3: &crate::digest::Blake3,
    ) -> Result<Option<ResolvedFile>> {
        let _ = (name, blake3);
        todo!()
    }

    /// Takes the file from its name; false when there was none. The architecture stays.
    pub async fn delete_file(&self, id: ArchitectureId, actor: &str) -> Result<bool> {
        let _ = (id, actor);
        todo!()
    }

    /// Counts one download.
    pub async fn count_download(&self, id: FileId) -> Result<()> {
        let _ = id;
        todo!()
    }

    /// The subtree values of a blob.
    pub async fn blob_tree(&self, blob: &BlobMeta) -> Result<BlobTree> {
        let _ = blob;
        todo!()
    }

    /// Marks a blob as damaged, so that it is no longer served and a re-upload is not deduplicated
    /// against it.
    pub async fn quarantine_blob(&self, key: &crate::blob::BlobKey) -> Result<()> {
        let _ = key;
        todo!()
    }
}
