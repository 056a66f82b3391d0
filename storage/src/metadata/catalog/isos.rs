//! ISO images: a name in an organization that holds a blob, as the file of a box does, without levels between.

use futures_util::FutureExt as _;
use sqlx::AnyConnection;
use sqlx::any::AnyRow;

use super::IsoId;
use super::blobs::{self, labels_of};
use super::columns::blob_columns;
use crate::blob::{BlobKey, BlobMeta};
use crate::catalog::{IsoName, OrganizationName};
use crate::clock::UnixMillis;
use crate::error::{Error, ErrorKind, Result};
use crate::metadata::accounts::{AccountId, OrganizationId};
use crate::metadata::sql::{At as _, Columns as _};
use crate::metadata::uploads::{Labels, Target};
use crate::metadata::writer::Tx;
use crate::metadata::{Metadata, audit, outbox};

/// An ISO image, and the blob that it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Iso {
    /// Row id.
    pub id: IsoId,
    /// Its owner.
    pub organization: OrganizationId,
    /// Name of the owner.
    pub organization_name: OrganizationName,
    /// Unique without case in its organization.
    pub name: IsoName,
    /// What is said of it.
    pub description: Option<String>,
    /// Whether anyone may read it.
    pub public: bool,
    /// Downloads that began at its first byte.
    pub downloads: u64,
    /// Its bytes.
    pub blob: BlobMeta,
    /// Name of the store that holds them.
    pub store: String,
    /// Whether they are damaged.
    pub quarantined: bool,
    /// What was written on them.
    pub labels: Labels,
    /// When it was made.
    pub created: UnixMillis,
    /// When it was last changed.
    pub updated: UnixMillis,
}

/// Which ISO images are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IsoFilter {
    /// All of an organization.
    Organization(OrganizationId),
    /// Those of an organization that anyone may read.
    PublicOf(OrganizationId),
    /// Those that anyone may read.
    Public,
}

/// What becomes of an ISO image; what is absent stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IsoChange {
    /// Another name.
    pub name: Option<IsoName>,
    /// Another description, or none.
    pub description: Option<Option<String>>,
    /// Whether anyone may read it.
    pub public: Option<bool>,
}

macro_rules! select_isos {
    ($condition:literal) => {
        concat!(
            "SELECT i.id AS i_id, i.organization AS i_organization, o.name AS o_name, i.name AS i_name,
                 i.description AS i_description, i.is_public AS i_is_public,
                 i.downloads AS i_downloads, i.created_ms AS i_created_ms,
                 i.updated_ms AS i_updated_ms, ",
            blob_columns!(),
            " FROM isos i JOIN organizations o ON o.id = i.organization
                 JOIN blobs x ON x.key = i.blob ",
            $condition
        )
    };
}

fn iso_of(row: &AnyRow) -> Result<Iso> {
    Ok(Iso {
        id: IsoId(row.int("i_id")?),
        organization: OrganizationId(row.int("i_organization")?),
        organization_name: row.name("o_name")?,
        name: row.name("i_name")?,
        description: row.opt_text("i_description")?,
        public: row.truth("i_is_public")?,
        downloads: row.unsigned("i_downloads")?,
        blob: row.blob_meta()?,
        store: row.text("x_store")?,
        quarantined: row.text("x_state")? == "quarantined",
        labels: labels_of(row, "x_labels")?,
        created: row.time("i_created_ms")?,
        updated: row.time("i_updated_ms")?,
    })
}

impl Metadata {
    /// ISO images, the newest first.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when the database does not answer.
    pub async fn isos(&self, filter: IsoFilter) -> Result<Vec<Iso>> {
        const OP: &str = "iso.list";
        let mut reader = self.reader(OP).await?;
        let query = match filter {
            IsoFilter::Organization(id) => sqlx::query(select_isos!(
                "WHERE i.organization = $1 ORDER BY i.created_ms DESC, i.id DESC"
            ))
            .bind(id.0),
            IsoFilter::PublicOf(id) => sqlx::query(select_isos!(
                "WHERE i.organization = $1 AND i.is_public = 1
                 ORDER BY i.created_ms DESC, i.id DESC"
            ))
            .bind(id.0),
            IsoFilter::Public => sqlx::query(select_isos!(
                "WHERE i.is_public = 1 ORDER BY i.created_ms DESC, i.id DESC"
            )),
        };
        let rows = query.fetch_all(&mut *reader).await.at(OP, "isos")?;
        rows.iter().map(iso_of).collect()
    }

    /// The ISO image of that id.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when the database does not answer.
    pub async fn iso(&self, id: IsoId) -> Result<Option<Iso>> {
        const OP: &str = "iso.find";
        let mut reader = self.reader(OP).await?;
        find(&mut reader, OP, id).await
    }

    /// The ISO image of that name.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when the database does not answer.
    pub async fn iso_by_name(
        &self,
        organization: &OrganizationName,
        name: &IsoName,
    ) -> Result<Option<Iso>> {
        const OP: &str = "iso.find";
        let mut reader = self.reader(OP).await?;
        sqlx::query(select_isos!("WHERE o.folded = $1 AND i.folded = $2"))
            .bind(organization.folded())
            .bind(name.folded())
            .fetch_optional(&mut *reader)
            .await
            .at(OP, name)?
            .as_ref()
            .map(iso_of)
            .transpose()
    }

    /// Changes what is said of an ISO image.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], or [`ErrorKind::Conflict`] when the new name is taken.
    pub async fn update_iso(&self, id: IsoId, change: IsoChange, actor: &str) -> Result<Iso> {
        const OP: &str = "iso.update";
        let actor = actor.to_owned();
        self.write(OP, move |tx| {
            async move {
                let is_told = change.description.is_some();
                sqlx::query(
                    "UPDATE isos SET name = COALESCE($2, name), folded = COALESCE($3, folded),
                         description = CASE WHEN CAST($4 AS BIGINT) = 1 THEN $5
                             ELSE description END,
                         is_public = COALESCE($6, is_public), updated_ms = $7
                     WHERE id = $1",
                )
                .bind(id.0)
                .bind(change.name.as_ref().map(IsoName::as_str))
                .bind(change.name.as_ref().map(IsoName::folded))
                .bind(i64::from(is_told))
                .bind(change.description.flatten())
                .bind(change.public.map(i64::from))
                .bind(tx.now.0)
                .execute(&mut tx.connection)
                .await
                .at(OP, id.0)?;
                let iso = existing(&mut tx.connection, OP, id).await?;
                let path = path(iso.organization_name.as_str(), &iso.name);
                audit::record(tx, &actor, OP, &path).await?;
                Ok(iso)
            }
            .boxed()
        })
        .await
    }

    /// Removes an ISO image, which gives its blob back; false when it is gone already. Emits `iso.deleted`.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when the database does not answer.
    pub async fn delete_iso(&self, id: IsoId, actor: &str) -> Result<bool> {
        const OP: &str = "iso.delete";
        let actor = actor.to_owned();
        self.write(OP, move |tx| {
            async move {
                let Some(iso) = find(&mut tx.connection, OP, id).await? else {
                    return Ok(false);
                };
                remove(tx, OP, &iso, &actor).await?;
                blobs::doom_unnamed(tx).await?;
                Ok(true)
            }
            .boxed()
        })
        .await
    }
}

/// The name that an upload publishes, parsed again from its row.
///
/// # Errors
/// [`ErrorKind::Invalid`] with the rule that it breaks.
pub(in crate::metadata) fn name_of(op: &'static str, target: &Target) -> Result<IsoName> {
    let invalid = |e| Error::new(ErrorKind::Invalid, op, "target").with_source(e);
    target.box_name.parse().map_err(invalid)
}

/// What an ISO image is called where all things are named in full.
pub(in crate::metadata) fn path(organization: &str, name: &IsoName) -> String {
    format!("{organization}/iso/{name}")
}

/// What pointing a name at a blob did.
#[derive(Debug)]
pub(in crate::metadata) struct Pointed {
    pub(in crate::metadata) id: IsoId,
    /// Whether it held another blob before.
    pub(in crate::metadata) replaced: bool,
    /// Name of the organization.
    pub(in crate::metadata) organization: String,
}

/// Points the ISO image of that name at the blob, and makes it where there is none; whether anyone may read it stays
/// as it is where nothing is said.
pub(in crate::metadata) async fn point(
    tx: &mut Tx,
    op: &'static str,
    organization: OrganizationId,
    account: AccountId,
    (name, public): (&IsoName, Option<bool>),
    (blob, is_counted): (&BlobKey, bool),
) -> Result<Pointed> {
    let row = sqlx::query(
        "SELECT o.name AS o_name, i.id AS i_id, i.blob AS i_blob FROM organizations o
             LEFT JOIN isos i ON i.organization = o.id AND i.folded = $2 WHERE o.id = $1",
    )
    .bind(organization.0)
    .bind(name.folded())
    .fetch_one(&mut tx.connection)
    .await
    .at(op, name)?;
    let organization_name = row.text("o_name")?;
    let Some(id) = row.opt_int("i_id")? else {
        let id = tx.next_id("isos").await?;
        sqlx::query(
            "INSERT INTO isos (id, organization, name, folded, account, blob, is_public, downloads,
                 created_ms, updated_ms)
             VALUES ($1, $2, $3, $4, $5, $6, $7, 0, $8, $8)",
        )
        .bind(id)
        .bind(organization.0)
        .bind(name.as_str())
        .bind(name.folded())
        .bind(account.0)
        .bind(blob.as_bytes().to_vec())
        .bind(i64::from(public.unwrap_or(false)))
        .bind(tx.now.0)
        .execute(&mut tx.connection)
        .await
        .at(op, name)?;
        if !is_counted {
            blobs::take_reference(tx, op, blob).await?;
        }
        return Ok(Pointed {
            id: IsoId(id),
            replaced: false,
            organization: organization_name,
        });
    };
    let before = row.key("i_blob")?;
    let replaced = before != *blob;
    if replaced {
        if !is_counted {
            blobs::take_reference(tx, op, blob).await?;
        }
        blobs::give_reference(tx, op, &before).await?;
    }
    sqlx::query(
        "UPDATE isos SET blob = $2, is_public = COALESCE($3, is_public), updated_ms = $4
         WHERE id = $1",
    )
    .bind(id)
    .bind(blob.as_bytes().to_vec())
    .bind(public.map(i64::from))
    .bind(tx.now.0)
    .execute(&mut tx.connection)
    .await
    .at(op, name)?;
    blobs::doom_unnamed(tx).await?;
    Ok(Pointed {
        id: IsoId(id),
        replaced,
        organization: organization_name,
    })
}

/// Takes all ISO images of an organization away, before it goes itself.
pub(in crate::metadata) async fn remove_all(
    tx: &mut Tx,
    organization: OrganizationId,
    actor: &str,
) -> Result<()> {
    const OP: &str = "iso.delete";
    let rows = sqlx::query(select_isos!("WHERE i.organization = $1 ORDER BY i.id"))
        .bind(organization.0)
        .fetch_all(&mut tx.connection)
        .await
        .at(OP, organization.0)?;
    for row in rows {
        remove(tx, OP, &iso_of(&row)?, actor).await?;
    }
    Ok(())
}

/// [`blobs::doom_unnamed`] must follow.
async fn remove(tx: &mut Tx, op: &'static str, iso: &Iso, actor: &str) -> Result<()> {
    sqlx::query("DELETE FROM isos WHERE id = $1")
        .bind(iso.id.0)
        .execute(&mut tx.connection)
        .await
        .at(op, iso.id.0)?;
    blobs::give_reference(tx, op, &iso.blob.key).await?;
    let organization = iso.organization_name.as_str();
    outbox::append(tx, outbox::iso_deleted(organization, &iso.name), actor).await?;
    audit::record(tx, actor, op, &path(organization, &iso.name)).await
}

/// Up to `limit` ISO images that hold the blob, as they are called.
pub(in crate::metadata) async fn paths_of(
    connection: &mut AnyConnection,
    op: &'static str,
    key: &BlobKey,
    limit: u32,
) -> Result<Vec<Result<String>>> {
    let rows = sqlx::query(
        "SELECT o.name AS o_name, i.name AS i_name FROM isos i
             JOIN organizations o ON o.id = i.organization WHERE i.blob = $1 ORDER BY i.id LIMIT $2",
    )
    .bind(key.as_bytes().to_vec())
    .bind(i64::from(limit))
    .fetch_all(connection)
    .await
    .at(op, key)?;
    let paths = rows.iter();
    Ok(paths
        .map(|row| Ok(path(&row.text("o_name")?, &row.name("i_name")?)))
        .collect())
}

async fn find(connection: &mut AnyConnection, op: &'static str, id: IsoId) -> Result<Option<Iso>> {
    sqlx::query(select_isos!("WHERE i.id = $1"))
        .bind(id.0)
        .fetch_optional(connection)
        .await
        .at(op, id.0)?
        .as_ref()
        .map(iso_of)
        .transpose()
}

async fn existing(connection: &mut AnyConnection, op: &'static str, id: IsoId) -> Result<Iso> {
    let found = find(connection, op, id).await?;
    found.ok_or_else(|| Error::new(ErrorKind::NotFound, op, format!("ISO {}", id.0)))
}
