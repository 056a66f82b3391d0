//! The catalog's side of the one commit point: missing parents are made, and the name is pointed at
//! the blob.

use sqlx::any::AnyRow;

use super::columns::Level;
use super::{
    ArchitectureId, BoxFields, BoxId, FileId, ProviderId, VersionFields, VersionId, VersionStatus,
    architectures, blobs, boxes, providers, versions,
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

/// Where a name leads: to an architecture that is there, and to its file, if it has one.
#[derive(Debug)]
pub(in crate::metadata) struct Leaf {
    architecture: ArchitectureId,
    place: Place,
    file: Option<(FileId, BlobKey, Blake3)>,
}

/// A name from its organization down to its file, as far as it is there.
const DOWN: &str = "SELECT o.name AS o_name, b.id AS b_id, b.name AS b_name, v.id AS v_id, v.name AS v_name,
         p.id AS p_id, p.name AS p_name, a.id AS a_id, a.name AS a_name, f.id AS f_id, f.blob AS f_blob,
         x.blake3 AS x_blake3
     FROM organizations o LEFT JOIN boxes b ON b.organization = o.id AND b.folded = $2
         LEFT JOIN versions v ON v.box = b.id AND v.folded = $3
         LEFT JOIN providers p ON p.version = v.id AND p.folded = $4
         LEFT JOIN architectures a ON a.provider = p.id AND a.folded = $5
         LEFT JOIN files f ON f.architecture = a.id LEFT JOIN blobs x ON x.key = f.blob
     WHERE o.id = $1";

/// The architecture of that name; what is missing on the way down is made.
///
/// # Errors
/// [`ErrorKind::NotFound`] when the organization is gone.
pub(in crate::metadata) async fn ensure_parents(
    tx: &mut Tx,
    op: &'static str,
    organization: OrganizationId,
    account: AccountId,
    names: &Names,
    new_box_public: bool,
) -> Result<Leaf> {
    let gone = || {
        let subject = format!("organization {}", organization.0);
        Error::new(ErrorKind::NotFound, op, subject)
    };
    let row = sqlx::query(DOWN)
        .bind(organization.0)
        .bind(names.box_name.folded())
        .bind(names.version.folded())
        .bind(names.provider.folded())
        .bind(names.architecture.folded())
        .fetch_optional(&mut tx.connection)
        .await
        .at(op, organization.0)?
        .ok_or_else(gone)?;
    let file = file_in(&row)?;
    let [box_id, version, provider, architecture] = [
        row.opt_int("b_id")?,
        row.opt_int("v_id")?,
        row.opt_int("p_id")?,
        row.opt_int("a_id")?,
    ];
    let is_new = [
        ("boxes", box_id.is_none()),
        ("versions", version.is_none()),
        ("providers", provider.is_none()),
        ("architectures", architecture.is_none()),
        ("files", file.is_none()),
        // What whoever publishes writes besides.
        ("outbox", true),
        ("audit", true),
    ];
    let tables: Vec<_> = is_new
        .iter()
        .filter(|(_, new)| *new)
        .map(|(t, _)| *t)
        .collect();
    tx.reserve(&tables).await?;
    let box_id = if let Some(id) = box_id {
        BoxId(id)
    } else {
        let fields = BoxFields {
            published: true,
            public: new_box_public,
            ..BoxFields::default()
        };
        boxes::insert(tx, op, organization, &names.box_name, account, fields).await?
    };
    let version = if let Some(id) = version {
        VersionId(id)
    } else {
        let (status, fields) = (VersionStatus::Active, VersionFields::default());
        versions::insert(tx, op, box_id, &names.version, status, fields).await?
    };
    let provider = match provider {
        Some(id) => ProviderId(id),
        None => providers::insert(tx, op, version, &names.provider, None).await?,
    };
    let architecture = match architecture {
        Some(id) => ArchitectureId(id),
        None => architectures::insert(tx, op, provider, &names.architecture, None, false).await?,
    };
    let spelled = |column: &str, name: &str| {
        let stored = row.opt_text(column)?;
        Ok::<_, Error>(stored.unwrap_or_else(|| name.to_owned()))
    };
    let place = Place {
        organization: row.text("o_name")?,
        box_name: spelled("b_name", names.box_name.as_str())?,
        version: Some(spelled("v_name", names.version.as_str())?),
        provider: Some(spelled("p_name", names.provider.as_str())?),
        architecture: Some(spelled("a_name", names.architecture.as_str())?),
    };
    Ok(Leaf {
        architecture,
        place,
        file,
    })
}

/// Reads `f_id`, `f_blob` and `x_blake3`.
fn file_in(row: &AnyRow) -> Result<Option<(FileId, BlobKey, Blake3)>> {
    let Some(id) = row.opt_int("f_id")? else {
        return Ok(None);
    };
    let digest = Blake3(row.fixed("x_blake3")?);
    Ok(Some((FileId(id), row.key("f_blob")?, digest)))
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
) -> Result<Leaf> {
    let gone = || Error::new(ErrorKind::Gone, op, format!("architecture {}", id.0));
    let row = sqlx::query(
        "SELECT f.id AS f_id, f.blob AS f_blob, x.blake3 AS x_blake3
         FROM architectures a JOIN providers p ON p.id = a.provider
             JOIN versions v ON v.id = p.version JOIN boxes b ON b.id = v.box
             LEFT JOIN files f ON f.architecture = a.id LEFT JOIN blobs x ON x.key = f.blob
         WHERE a.id = $1 AND b.organization = $2",
    )
    .bind(id.0)
    .bind(organization.0)
    .fetch_optional(&mut tx.connection)
    .await
    .at(op, id.0)?
    .ok_or_else(gone)?;
    Ok(Leaf {
        architecture: id,
        place: Level::Architecture(id)
            .existing_place(&mut tx.connection, op)
            .await?,
        file: file_in(&row)?,
    })
}

/// What pointing a name at a blob did.
#[derive(Debug)]
pub(in crate::metadata) struct Pointed {
    pub(in crate::metadata) file: FileId,
    /// The blob that the name held before, if another.
    pub(in crate::metadata) old: Option<Blake3>,
    pub(in crate::metadata) place: Place,
}

/// Points the architecture's file at the blob, whose reference may be counted already, as it is of a blob that was made
/// for it; what it held before stays readable by its digest until it is due.
pub(in crate::metadata) async fn point(
    tx: &mut Tx,
    op: &'static str,
    leaf: Leaf,
    (blob, is_counted): (&BlobKey, bool),
    declared: Option<(String, String)>,
) -> Result<Pointed> {
    let Leaf {
        architecture,
        place,
        file,
    } = leaf;
    let (declared_type, declared_value) = declared.unzip();
    let Some((file, before, digest)) = file else {
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
        if !is_counted {
            blobs::take_reference(tx, op, blob).await?;
        }
        return Ok(Pointed {
            file,
            old: None,
            place,
        });
    };
    let mut old = None;
    if before != *blob {
        old = Some(digest);
        remember(tx, op, file).await?;
        if !is_counted {
            blobs::take_reference(tx, op, blob).await?;
        }
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
