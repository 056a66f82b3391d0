//! The catalog's side of the one commit point: missing parents are made, and the name is pointed at
//! the blob.

use super::columns::Level;
use super::{
    ArchitectureId, BoxFields, FileId, VersionFields, VersionStatus, architectures, blobs, boxes,
    providers, versions,
};
use crate::blob::BlobKey;
use crate::catalog::{ArchitectureName, BoxName, ProviderName, VersionName};
use crate::digest::Blake3;
use crate::error::{Error, ErrorKind, Result};
use crate::metadata::accounts::{AccountId, OrganizationId};
use crate::metadata::outbox::Place;
use crate::metadata::sql::{At as _, Columns as _};
use crate::metadata::uploads::Target;
use crate::metadata::writer::Tx;

/// The name that an upload publishes, parsed again from its row.
#[derive(Debug)]
pub(in crate::metadata) struct Names {
    pub(in crate::metadata) box_name: BoxName,
    pub(in crate::metadata) version: VersionName,
    pub(in crate::metadata) provider: ProviderName,
    pub(in crate::metadata) architecture: ArchitectureName,
}

impl Names {
    /// # Errors
    /// [`ErrorKind::Invalid`] naming the rule that a name breaks.
    pub(in crate::metadata) fn parse(op: &'static str, target: &Target) -> Result<Self> {
        let invalid = |e| Error::new(ErrorKind::Invalid, op, "target").with_source(e);
        Ok(Self {
            box_name: target.box_name.parse().map_err(invalid)?,
            version: target.version.parse().map_err(invalid)?,
            provider: target.provider.parse().map_err(invalid)?,
            architecture: target.architecture.parse().map_err(invalid)?,
        })
    }
}

/// The architecture of that name; what is missing on the way down is made.
pub(in crate::metadata) async fn ensure_parents(
    tx: &mut Tx,
    op: &'static str,
    organization: OrganizationId,
    account: AccountId,
    names: &Names,
    new_box_public: bool,
) -> Result<ArchitectureId> {
    let box_id = if let Some(id) = boxes::find(tx, op, organization, &names.box_name).await? {
        id
    } else {
        let fields = BoxFields {
            published: true,
            public: new_box_public,
            ..BoxFields::default()
        };
        boxes::insert(tx, op, organization, &names.box_name, account, fields).await?
    };
    let version_id = if let Some(id) = versions::find(tx, op, box_id, &names.version).await? {
        id
    } else {
        let (status, fields) = (VersionStatus::Active, VersionFields::default());
        versions::insert(tx, op, box_id, &names.version, status, fields).await?
    };
    let provider = &names.provider;
    let provider_id = match providers::find(tx, op, version_id, provider).await? {
        Some(id) => id,
        None => providers::insert(tx, op, version_id, provider, None).await?,
    };
    let architecture = &names.architecture;
    match architectures::find(tx, op, provider_id, architecture).await? {
        Some(id) => Ok(id),
        None => architectures::insert(tx, op, provider_id, architecture, None, false).await,
    }
}

/// The architecture of that id, if it is there still.
///
/// # Errors
/// [`ErrorKind::Gone`] where it was removed.
pub(in crate::metadata) async fn still_there(
    tx: &mut Tx,
    op: &'static str,
    organization: OrganizationId,
    id: ArchitectureId,
) -> Result<ArchitectureId> {
    sqlx::query(
        "SELECT a.id FROM architectures a JOIN providers p ON p.id = a.provider
             JOIN versions v ON v.id = p.version JOIN boxes b ON b.id = v.box
         WHERE a.id = $1 AND b.organization = $2",
    )
    .bind(id.0)
    .bind(organization.0)
    .fetch_optional(&mut tx.connection)
    .await
    .at(op, id.0)?
    .map(|_there| id)
    .ok_or_else(|| Error::new(ErrorKind::Gone, op, format!("architecture {}", id.0)))
}

/// What pointing a name at a blob did.
#[derive(Debug)]
pub(in crate::metadata) struct Pointed {
    pub(in crate::metadata) file: FileId,
    /// The blob that the name held before, if another.
    pub(in crate::metadata) old: Option<Blake3>,
    pub(in crate::metadata) place: Place,
}

/// Points the architecture's file at the blob; what it held before stays readable by its digest until
/// it is due.
pub(in crate::metadata) async fn point(
    tx: &mut Tx,
    op: &'static str,
    architecture: ArchitectureId,
    blob: &BlobKey,
    declared: Option<(String, String)>,
) -> Result<Pointed> {
    let place = Level::Architecture(architecture)
        .existing_place(&mut tx.connection, op)
        .await?;
    let (declared_type, declared_value) = declared.unzip();
    let present = sqlx::query(
        "SELECT f.id, f.blob, x.blake3 FROM files f JOIN blobs x ON x.key = f.blob
         WHERE f.architecture = $1",
    )
    .bind(architecture.0)
    .fetch_optional(&mut tx.connection)
    .await
    .at(op, architecture.0)?;
    let Some(present) = present else {
        let file = FileId(tx.next_id("files").await?);
        sqlx::query(
            "INSERT INTO files (id, architecture, blob, downloads, declared_type, declared_value,
                 created_ms, updated_ms)
             VALUES ($1, $2, $3, 0, $4, $5, $6, $6)",
        )
        .bind(file.0)
        .bind(architecture.0)
        .bind(blob.as_bytes().to_vec())
        .bind(declared_type)
        .bind(declared_value)
        .bind(tx.now.0)
        .execute(&mut tx.connection)
        .await
        .at(op, architecture.0)?;
        blobs::take_reference(tx, op, blob).await?;
        return Ok(Pointed {
            file,
            old: None,
            place,
        });
    };
    let file = FileId(present.int("id")?);
    let before = present.key("blob")?;
    let mut old = None;
    if before != *blob {
        old = Some(Blake3(present.fixed("blake3")?));
        remember(tx, op, file).await?;
        blobs::take_reference(tx, op, blob).await?;
        blobs::give_reference(tx, op, &before).await?;
    }
    sqlx::query(
        "UPDATE files SET blob = $2, declared_type = $3, declared_value = $4, updated_ms = $5
         WHERE id = $1",
    )
    .bind(file.0)
    .bind(blob.as_bytes().to_vec())
    .bind(declared_type)
    .bind(declared_value)
    .bind(tx.now.0)
    .execute(&mut tx.connection)
    .await
    .at(op, architecture.0)?;
    blobs::doom_unnamed(tx).await?;
    Ok(Pointed { file, old, place })
}

/// Keeps what the file is now as a former file, and forgets those that are over.
async fn remember(tx: &mut Tx, op: &'static str, file: FileId) -> Result<()> {
    sqlx::query("DELETE FROM former_files WHERE file = $1 AND until_ms <= $2")
        .bind(file.0)
        .bind(tx.now.0)
        .execute(&mut tx.connection)
        .await
        .at(op, file.0)?;
    sqlx::query(
        "INSERT INTO former_files (file, blob, declared_type, declared_value, updated_ms, until_ms)
         SELECT id, blob, declared_type, declared_value, updated_ms, $2 FROM files WHERE id = $1
         ON CONFLICT (file, blob) DO UPDATE SET declared_type = EXCLUDED.declared_type,
             declared_value = EXCLUDED.declared_value, updated_ms = EXCLUDED.updated_ms,
             until_ms = EXCLUDED.until_ms",
    )
    .bind(file.0)
    .bind(tx.due().0)
    .execute(&mut tx.connection)
    .await
    .at(op, file.0)
    .map(drop)
}
