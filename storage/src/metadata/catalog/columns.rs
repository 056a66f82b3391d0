//! The columns of the catalog's rows, each list beside the function that reads it, and the place of a
//! row in words.

use sqlx::AnyConnection;
use sqlx::any::AnyRow;

use super::blobs::labels_of;
use super::{
    Announced, ArchitectureId, ArchitectureRow, BoxFields, BoxId, BoxRow, FileId, FileRow,
    ProviderId, ProviderRow, VersionFields, VersionId, VersionRow, VersionStatus,
};
use crate::error::{Error, ErrorKind, Result};
use crate::metadata::accounts::{AccountId, OrganizationId};
use crate::metadata::outbox::Place;
use crate::metadata::sql::{At as _, Columns as _};

macro_rules! box_columns {
    () => {
        "b.id AS b_id, b.organization AS b_organization, b.name AS b_name,
         b.account AS b_account, b.description AS b_description,
         b.short_description AS b_short_description, b.readme AS b_readme,
         b.github_repo AS b_github_repo, b.workflow_file AS b_workflow_file,
         b.cicd_url AS b_cicd_url, b.metadata AS b_metadata, b.published AS b_published,
         b.is_public AS b_is_public, b.created_ms AS b_created_ms, b.updated_ms AS b_updated_ms"
    };
}

macro_rules! version_columns {
    () => {
        "v.id AS v_id, v.box AS v_box, v.name AS v_name, v.status AS v_status,
         v.description AS v_description, v.release_notes AS v_release_notes,
         v.deprecated AS v_deprecated, v.deprecation_reason AS v_deprecation_reason,
         v.created_ms AS v_created_ms, v.updated_ms AS v_updated_ms"
    };
}

macro_rules! provider_columns {
    () => {
        "p.id AS p_id, p.version AS p_version, p.name AS p_name, p.description AS p_description,
         p.created_ms AS p_created_ms, p.updated_ms AS p_updated_ms"
    };
}

macro_rules! architecture_columns {
    () => {
        "a.id AS a_id, a.provider AS a_provider, a.name AS a_name,
         a.description AS a_description, a.default_box AS a_default_box,
         a.original_url AS a_original_url, a.expected_type AS a_expected_type,
         a.expected_value AS a_expected_value,
         a.created_ms AS a_created_ms, a.updated_ms AS a_updated_ms"
    };
}

/// Everything of a file but its blob.
macro_rules! file_columns {
    () => {
        "f.id AS f_id, f.architecture AS f_architecture, f.downloads AS f_downloads,
         f.declared_type AS f_declared_type, f.declared_value AS f_declared_value,
         f.created_ms AS f_created_ms, f.updated_ms AS f_updated_ms"
    };
}

macro_rules! blob_columns {
    () => {
        "x.key AS x_key, x.length AS x_length, x.blake3 AS x_blake3, x.sha256 AS x_sha256,
         x.store AS x_store, x.state AS x_state, x.labels AS x_labels"
    };
}

pub(super) use {
    architecture_columns, blob_columns, box_columns, file_columns, provider_columns,
    version_columns,
};

pub(super) fn box_of(row: &AnyRow) -> Result<BoxRow> {
    Ok(BoxRow {
        id: BoxId(row.int("b_id")?),
        organization: OrganizationId(row.int("b_organization")?),
        name: row.name("b_name")?,
        account: AccountId(row.int("b_account")?),
        fields: BoxFields {
            description: row.opt_text("b_description")?,
            short_description: row.opt_text("b_short_description")?,
            readme: row.opt_text("b_readme")?,
            github_repo: row.opt_text("b_github_repo")?,
            workflow_file: row.opt_text("b_workflow_file")?,
            cicd_url: row.opt_text("b_cicd_url")?,
            metadata: row.opt_text("b_metadata")?,
            published: row.truth("b_published")?,
            public: row.truth("b_is_public")?,
        },
        created: row.time("b_created_ms")?,
        updated: row.time("b_updated_ms")?,
    })
}

pub(super) fn version_of(row: &AnyRow) -> Result<VersionRow> {
    Ok(VersionRow {
        id: VersionId(row.int("v_id")?),
        box_id: BoxId(row.int("v_box")?),
        name: row.name("v_name")?,
        status: row.word("v_status", VersionStatus::from_name)?,
        fields: VersionFields {
            description: row.opt_text("v_description")?,
            release_notes: row.opt_text("v_release_notes")?,
            deprecated: row.truth("v_deprecated")?,
            deprecation_reason: row.opt_text("v_deprecation_reason")?,
        },
        created: row.time("v_created_ms")?,
        updated: row.time("v_updated_ms")?,
    })
}

pub(super) fn provider_of(row: &AnyRow) -> Result<ProviderRow> {
    Ok(ProviderRow {
        id: ProviderId(row.int("p_id")?),
        version_id: VersionId(row.int("p_version")?),
        name: row.name("p_name")?,
        description: row.opt_text("p_description")?,
        created: row.time("p_created_ms")?,
        updated: row.time("p_updated_ms")?,
    })
}

pub(super) fn architecture_of(row: &AnyRow) -> Result<ArchitectureRow> {
    Ok(ArchitectureRow {
        id: ArchitectureId(row.int("a_id")?),
        provider_id: ProviderId(row.int("a_provider")?),
        name: row.name("a_name")?,
        description: row.opt_text("a_description")?,
        default_box: row.truth("a_default_box")?,
        announced: Announced {
            url: row.opt_text("a_original_url")?,
            checksum: row.declared("a_expected_type", "a_expected_value")?,
        },
        created: row.time("a_created_ms")?,
        updated: row.time("a_updated_ms")?,
    })
}

/// Reads `file_columns` and `blob_columns`.
pub(super) fn file_of(row: &AnyRow) -> Result<FileRow> {
    Ok(FileRow {
        id: FileId(row.int("f_id")?),
        architecture_id: ArchitectureId(row.int("f_architecture")?),
        blob: row.blob_meta()?,
        labels: labels_of(row, "x_labels")?,
        downloads: row.unsigned("f_downloads")?,
        declared: row.declared("f_declared_type", "f_declared_value")?,
        created: row.time("f_created_ms")?,
        updated: row.time("f_updated_ms")?,
    })
}

/// A row of the catalog, by its level and id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::metadata) enum Level {
    Box(BoxId),
    Version(VersionId),
    Provider(ProviderId),
    Architecture(ArchitectureId),
}

impl Level {
    fn select(self) -> (&'static str, i64) {
        match self {
            Self::Box(id) => (
                "SELECT o.name AS o_name, b.name AS b_name
                 FROM boxes b JOIN organizations o ON o.id = b.organization WHERE b.id = $1",
                id.0,
            ),
            Self::Version(id) => (
                "SELECT o.name AS o_name, b.name AS b_name, v.name AS v_name
                 FROM versions v JOIN boxes b ON b.id = v.box
                     JOIN organizations o ON o.id = b.organization WHERE v.id = $1",
                id.0,
            ),
            Self::Provider(id) => (
                "SELECT o.name AS o_name, b.name AS b_name, v.name AS v_name, p.name AS p_name
                 FROM providers p JOIN versions v ON v.id = p.version JOIN boxes b ON b.id = v.box
                     JOIN organizations o ON o.id = b.organization WHERE p.id = $1",
                id.0,
            ),
            Self::Architecture(id) => (
                "SELECT o.name AS o_name, b.name AS b_name, v.name AS v_name, p.name AS p_name,
                     a.name AS a_name
                 FROM architectures a JOIN providers p ON p.id = a.provider
                     JOIN versions v ON v.id = p.version JOIN boxes b ON b.id = v.box
                     JOIN organizations o ON o.id = b.organization WHERE a.id = $1",
                id.0,
            ),
        }
    }

    /// Its place in words; `None` when it is gone.
    pub(in crate::metadata) async fn place(
        self,
        connection: &mut AnyConnection,
        op: &'static str,
    ) -> Result<Option<Place>> {
        let (select, id) = self.select();
        let row = sqlx::query(select)
            .bind(id)
            .fetch_optional(connection)
            .await
            .at(op, id)?;
        let Some(row) = row else { return Ok(None) };
        let depth = match self {
            Self::Box(_) => 0,
            Self::Version(_) => 1,
            Self::Provider(_) => 2,
            Self::Architecture(_) => 3,
        };
        let below =
            |level: u8, column: &str| (depth >= level).then(|| row.text(column)).transpose();
        Ok(Some(Place {
            organization: row.text("o_name")?,
            box_name: row.text("b_name")?,
            version: below(1, "v_name")?,
            provider: below(2, "p_name")?,
            architecture: below(3, "a_name")?,
        }))
    }

    /// Its place in words.
    pub(in crate::metadata) async fn existing_place(
        self,
        connection: &mut AnyConnection,
        op: &'static str,
    ) -> Result<Place> {
        let gone = || Error::new(ErrorKind::NotFound, op, format!("{self:?}"));
        self.place(connection, op).await?.ok_or_else(gone)
    }
}
