//! Names made again out of what stands beside the bytes, where rows were lost or are older than the store.
//!
//! Rows that know a name, or what became of it, are never overruled: an upload that ended has its row for a while, and
//! a file tells since when it is what it is.

use futures_util::FutureExt as _;
use sqlx::any::AnyRow;

use super::accounts::{AccountId, OrganizationId, organizations};
use super::catalog::blobs::{self, blocks};
use super::catalog::isos;
use super::catalog::publish::{Names, ensure_parents, point};
use super::sql::{At as _, Columns as _, odd, sha256_column, signed};
use super::uploads::{IsoTarget, Labels, Target, let_go};
use super::writer::Tx;
use super::{Metadata, audit};
use crate::blob::{BlobKey, BlobMeta, UploadId};
use crate::catalog::{IsoName, OrganizationName};
use crate::clock::UnixMillis;
use crate::error::Result;
use crate::sidecar::Sidecar;

const OP: &str = "blob.adopt";
/// Who did it, in the audit.
const ACTOR: &str = "fsck";
/// Who owns a box that is made of a sidecar: nobody.
const NOBODY: AccountId = AccountId(0);

/// Bytes in a store, and what stands beside them.
#[derive(Debug, Clone)]
pub(crate) struct Foundling {
    pub(crate) blob: BlobMeta,
    /// Name of the store.
    pub(crate) store: String,
    /// Its subtree values, where the bytes were read since no row has them.
    pub(crate) values: Option<Vec<[u8; 32]>>,
    /// Oldest first.
    pub(crate) sidecars: Vec<Sidecar>,
    /// Rows of uploads that ended later than that are there still.
    pub(crate) known_since: UnixMillis,
}

impl Metadata {
    /// Points the names of the sidecars at the blob, makes its row where there is none, and ends an upload that is
    /// still open in the rows. A name that was published later, or that the rows know as published and gone, stays
    /// as it is; a blob that no name takes gets no row. Returns the names that were made.
    pub(crate) async fn adopt(&self, found: Foundling) -> Result<Vec<String>> {
        self.write(OP, move |tx| adopt(tx, found).boxed()).await
    }
}

impl Metadata {
    /// What would stand beside a blob of each name that leads to it, had it been written with them.
    pub(crate) async fn sidecars_of(&self, blob: &BlobMeta) -> Result<Vec<Sidecar>> {
        const OP: &str = "blob.sidecars";
        let mut reader = self.reader(OP).await?;
        let files = sqlx::query(
            "SELECT o.name AS o, b.name AS b, v.name AS v, p.name AS p, a.name AS a,
                 f.declared_type AS declared_type, f.declared_value AS declared_value,
                 f.updated_ms AS updated_ms, x.labels AS labels
             FROM files f JOIN blobs x ON x.key = f.blob JOIN architectures a ON a.id = f.architecture
                 JOIN providers p ON p.id = a.provider JOIN versions v ON v.id = p.version
                 JOIN boxes b ON b.id = v.box JOIN organizations o ON o.id = b.organization
             WHERE f.blob = $1 ORDER BY f.id",
        )
        .bind(blob.key.as_bytes().to_vec())
        .fetch_all(&mut *reader)
        .await
        .at(OP, blob.key)?;
        let isos = sqlx::query(
            "SELECT o.name AS o, i.name AS b, '' AS v, '' AS p, '' AS a,
                 i.updated_ms AS updated_ms, x.labels AS labels, i.is_public AS is_public
             FROM isos i JOIN blobs x ON x.key = i.blob JOIN organizations o ON o.id = i.organization
             WHERE i.blob = $1 ORDER BY i.id",
        )
        .bind(blob.key.as_bytes().to_vec())
        .fetch_all(&mut *reader)
        .await
        .at(OP, blob.key)?;
        let files = files.iter().map(|row| sidecar_of(blob, row, None));
        let isos = isos.iter().map(|row| {
            let public = Some(row.truth("is_public")?);
            sidecar_of(blob, row, Some(IsoTarget { public }))
        });
        files.chain(isos).collect()
    }
}

fn sidecar_of(blob: &BlobMeta, row: &AnyRow, iso: Option<IsoTarget>) -> Result<Sidecar> {
    Ok(Sidecar {
        upload: UploadId::random(),
        blob: *blob,
        organization: row.text("o")?,
        target: Some(Target {
            box_name: row.text("b")?,
            version: row.text("v")?,
            provider: row.text("p")?,
            architecture: row.text("a")?,
            new_box_public: false,
            declared: match iso {
                Some(_) => None,
                None => row.declared("declared_type", "declared_value")?,
            },
            actor: String::new(),
            base_url: String::new(),
            into: None,
            labels: Labels::new(),
            iso,
        }),
        labels: blobs::labels_of(row, "labels")?,
        published: row.time("updated_ms")?,
        of_rows: true,
    })
}

async fn adopt(tx: &mut Tx, found: Foundling) -> Result<Vec<String>> {
    let Foundling {
        blob,
        store,
        values,
        sidecars,
        known_since,
    } = found;
    let mut tenant = match &values {
        Some(_) if is_claimed(tx, &blob.key).await? => return Ok(Vec::new()),
        Some(_) => None,
        None => match tenant_of(tx, &blob, &store).await? {
            Some(tenant) => Some(tenant),
            None => return Ok(Vec::new()),
        },
    };
    let has_row = values.is_none();
    let mut rowless = values;
    let mut made = Vec::new();
    for sidecar in sidecars {
        let Some(target) = &sidecar.target else {
            continue;
        };
        // What no door takes today is no name.
        let (Ok(name), Ok(organization)) = (
            Name::parse(target),
            sidecar.organization.parse::<OrganizationName>(),
        ) else {
            continue;
        };
        if has_row && is_known(tx, &sidecar, known_since).await? {
            continue;
        }
        let id = organizations::find_by_name(tx, OP, &organization).await?;
        // Equal bytes of two organizations are two blobs.
        if tenant.is_some() && tenant != id {
            continue;
        }
        if let Some(id) = id
            && name.is_newer(tx, id, &sidecar).await?
        {
            continue;
        }
        let id = match id {
            Some(id) => id,
            None => organizations::insert(tx, OP, &organization, None).await?,
        };
        tenant = Some(id);
        if let Some(values) = rowless.take() {
            let_go(tx, OP, &blob.key).await?;
            insert(tx, &blob, &store, id, sidecar.published, &values).await?;
        }
        let path = name
            .point(tx, id, target, &blob.key, sidecar.published)
            .await?;
        blobs::label(tx, OP, &blob.key, &sidecar.labels).await?;
        audit::record(tx, ACTOR, OP, &path).await?;
        made.push(path);
    }
    Ok(made)
}

/// Whether some row says what these bytes are, or that they are to go.
async fn is_claimed(tx: &mut Tx, key: &BlobKey) -> Result<bool> {
    sqlx::query(
        "SELECT key FROM blobs WHERE key = $1 UNION ALL SELECT key FROM trash WHERE key = $1
         UNION ALL SELECT key FROM uploads WHERE key = $1 AND state = 'completing'",
    )
    .bind(key.as_bytes().to_vec())
    .fetch_optional(&mut tx.connection)
    .await
    .at(OP, key)
    .map(|row| row.is_some())
}

/// Whose blob it is, if its row agrees with its sidecars and it can be named.
async fn tenant_of(tx: &mut Tx, blob: &BlobMeta, store: &str) -> Result<Option<OrganizationId>> {
    sqlx::query(
        "SELECT tenant FROM blobs WHERE key = $1 AND store = $2 AND length = $3 AND blake3 = $4
             AND state IN ('live', 'doomed')",
    )
    .bind(blob.key.as_bytes().to_vec())
    .bind(store)
    .bind(signed(OP, blob.length)?)
    .bind(blob.blake3.0.to_vec())
    .fetch_optional(&mut tx.connection)
    .await
    .at(OP, blob.key)?
    .map(|row| row.int("tenant").map(OrganizationId))
    .transpose()
}

/// Whether the rows know that upload as one that ended: what became of its name since is in them, too. Rows of uploads
/// that ended long ago are forgotten.
async fn is_known(tx: &mut Tx, sidecar: &Sidecar, known_since: UnixMillis) -> Result<bool> {
    if sidecar.of_rows {
        return Ok(true);
    }
    let row = sqlx::query("SELECT state FROM uploads WHERE id = $1")
        .bind(sidecar.upload.as_bytes().to_vec())
        .fetch_optional(&mut tx.connection)
        .await
        .at(OP, sidecar.upload)?;
    match row {
        Some(row) => Ok(row.text("state")? != "open"),
        None => Ok(sidecar.published <= known_since),
    }
}

/// What a sidecar leads to.
enum Name {
    File(Names),
    Iso(IsoName),
}

impl Name {
    fn parse(target: &Target) -> Result<Self> {
        if target.iso.is_some() {
            isos::name_of(OP, target).map(Self::Iso)
        } else {
            Names::parse(OP, target).map(Self::File)
        }
    }

    /// Whether the name leads to this blob already, or to what was published later.
    async fn is_newer(
        &self,
        tx: &mut Tx,
        organization: OrganizationId,
        sidecar: &Sidecar,
    ) -> Result<bool> {
        let query = match self {
            Self::File(names) => sqlx::query(
                "SELECT f.blob AS blob, f.updated_ms AS updated_ms FROM files f
                     JOIN architectures a ON a.id = f.architecture
                     JOIN providers p ON p.id = a.provider JOIN versions v ON v.id = p.version
                     JOIN boxes b ON b.id = v.box
                 WHERE b.organization = $1 AND b.folded = $2 AND v.folded = $3 AND p.folded = $4
                     AND a.folded = $5",
            )
            .bind(organization.0)
            .bind(names.box_name.folded())
            .bind(names.version.folded())
            .bind(names.provider.folded())
            .bind(names.architecture.folded()),
            Self::Iso(name) => sqlx::query(
                "SELECT blob, updated_ms FROM isos WHERE organization = $1 AND folded = $2",
            )
            .bind(organization.0)
            .bind(name.folded()),
        };
        let row = query.fetch_optional(&mut tx.connection).await;
        let Some(row) = row.at(OP, sidecar.upload)? else {
            return Ok(false);
        };
        Ok(row.key("blob")? == sidecar.blob.key || row.time("updated_ms")? >= sidecar.published)
    }

    /// Points the name at the blob, as of then; tells it in full.
    async fn point(
        &self,
        tx: &mut Tx,
        organization: OrganizationId,
        target: &Target,
        blob: &BlobKey,
        published: UnixMillis,
    ) -> Result<String> {
        let (statement, id, path) = match self {
            Self::File(names) => {
                let leaf = ensure_parents(tx, OP, organization, NOBODY, names, false).await?;
                let declared = target.declared.clone();
                let pointed = point(tx, OP, leaf, (blob, false), declared).await?;
                let statement = "UPDATE files SET updated_ms = $2 WHERE id = $1";
                (statement, pointed.file.0, pointed.place.path())
            }
            Self::Iso(name) => {
                // As a box that is made anew, it is its members' until somebody says otherwise.
                let named = (name, None);
                let pointed =
                    isos::point(tx, OP, organization, NOBODY, named, (blob, false)).await?;
                let statement = "UPDATE isos SET updated_ms = $2 WHERE id = $1";
                let path = isos::path(&pointed.organization, name);
                (statement, pointed.id.0, path)
            }
        };
        sqlx::query(statement)
            .bind(id)
            .bind(published.0)
            .execute(&mut tx.connection)
            .await
            .at(OP, blob)?;
        Ok(path)
    }
}

async fn insert(
    tx: &mut Tx,
    blob: &BlobMeta,
    store: &str,
    tenant: OrganizationId,
    published: UnixMillis,
    values: &[[u8; 32]],
) -> Result<()> {
    if values.len() as u64 != blocks(blob.length) {
        return Err(odd("cvs"));
    }
    sqlx::query(
        "INSERT INTO blobs (key, tenant, store, length, blake3, sha256, state, refs, created_ms)
         VALUES ($1, $2, $3, $4, $5, $6, 'live', 0, $7)",
    )
    .bind(blob.key.as_bytes().to_vec())
    .bind(tenant.0)
    .bind(store)
    .bind(signed(OP, blob.length)?)
    .bind(blob.blake3.0.to_vec())
    .bind(sha256_column(blob.sha256))
    .bind(published.0)
    .execute(&mut tx.connection)
    .await
    .at(OP, blob.key)?;
    sqlx::query("INSERT INTO blob_trees (blob, cvs) VALUES ($1, $2)")
        .bind(blob.key.as_bytes().to_vec())
        .bind(values.concat())
        .execute(&mut tx.connection)
        .await
        .at(OP, blob.key)
        .map(drop)
}
