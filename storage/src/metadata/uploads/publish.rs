//! C3, the one commit point: blob, name, stored answer and event in one transaction.

use serde::{Deserialize, Serialize};
use sqlx::AnyConnection;

use super::rows::{fenced, upload_columns, upload_of};
use super::{Fence, Published, Target, UploadRow, UploadState, gate, joins, pieces, trash};
use crate::blob::{BlobMeta, UploadId};
use crate::clock::UnixMillis;
use crate::digest::{Blake3, Sha256};
use crate::error::{Error, ErrorKind, Result};
use crate::metadata::catalog::blobs::{self, blocks};
use crate::metadata::catalog::isos;
use crate::metadata::catalog::publish::{Names, ensure_parents, point, still_there};
use crate::metadata::catalog::{ArchitectureId, FileId};
use crate::metadata::sql::{At as _, Columns as _, odd, sha256_column, signed};
use crate::metadata::writer::Tx;
use crate::metadata::{Metadata, audit, deferred, outbox};
use crate::sidecar::Sidecar;

pub(super) const OP: &str = "upload.publish";
pub(super) const RELEASE: &str = "upload.release";
pub(super) const CLOSE: &str = "upload.close";

/// Publishes what `fence` names, or repeats what publishing it answered.
pub(super) async fn publish(tx: &mut Tx, fence: Fence) -> Result<Published> {
    // Most uploads are like none before, and whether one is costs no statement of its own.
    let row = sqlx::query(concat!(
        "SELECT ",
        upload_columns!(),
        ", (SELECT COUNT(*) FROM blobs x WHERE x.tenant = uploads.organization
                AND x.blake3 = uploads.blake3 AND x.length = uploads.byte_offset
                AND x.state IN ('live', 'doomed', 'quarantined')) AS equals
         FROM uploads WHERE id = $1 AND epoch = $2 AND state IN ('completing', 'done')"
    ))
    .bind(fence.id.as_bytes().to_vec())
    .bind(fence.epoch)
    .fetch_optional(&mut tx.connection)
    .await
    .at(OP, fence.id)?
    .ok_or_else(|| fenced(OP, fence.id))?;
    let has_equals = row.int("equals")? > 0;
    let upload = upload_of(&row)?;
    if upload.state == UploadState::Done {
        return upload.published.ok_or_else(|| odd("answer"));
    }
    gate::check_passed(OP, &upload)?;
    match upload.target.clone() {
        Some(target) if target.iso.is_some() => publish_iso(tx, &upload, &target, has_equals).await,
        Some(target) => publish_name(tx, &upload, &target, has_equals).await,
        None => publish_held(tx, &upload, has_equals).await,
    }
}

/// The target's name holds the blob from here on.
async fn publish_name(
    tx: &mut Tx,
    upload: &UploadRow,
    target: &Target,
    has_equals: bool,
) -> Result<Published> {
    let names = Names::parse(OP, target)?;
    let (blob, made) = stored_once(tx, upload, has_equals).await?;
    let (organization, account) = (upload.organization, upload.sender.account);
    let leaf = if let Some(id) = target.into {
        still_there(tx, OP, organization, ArchitectureId(id)).await?
    } else {
        let public = target.new_box_public;
        ensure_parents(tx, OP, organization, account, &names, public).await?
    };
    let declared = target.declared.clone();
    let named = (&blob.key, made.is_new);
    let pointed = point(tx, OP, leaf, named, declared).await?;
    if made.heals {
        blobs::heal(tx, OP, upload.organization, &blob).await?;
    }
    let published = Published {
        blob,
        file: Some(pointed.file),
        replaced: pointed.old.is_some(),
        version: pointed.place.version.clone().unwrap_or_default(),
    };
    finish(tx, upload, &published).await?;
    let event = outbox::box_uploaded(&pointed.place, &target.base_url, &blob, pointed.old);
    outbox::append(tx, event, &target.actor).await?;
    audit::record(tx, &target.actor, OP, &pointed.place.path()).await?;
    Ok(published)
}

/// The ISO image of that name holds the blob from here on.
async fn publish_iso(
    tx: &mut Tx,
    upload: &UploadRow,
    target: &Target,
    has_equals: bool,
) -> Result<Published> {
    let name = isos::name_of(OP, target)?;
    assert_organization(tx, upload).await?;
    let (blob, made) = stored_once(tx, upload, has_equals).await?;
    let (organization, account) = (upload.organization, upload.sender.account);
    let public = target.iso.and_then(|iso| iso.public);
    let named = (&blob.key, made.is_new);
    let pointed = isos::point(tx, OP, organization, account, (&name, public), named).await?;
    if made.heals {
        blobs::heal(tx, OP, organization, &blob).await?;
    }
    let published = Published {
        blob,
        file: None,
        replaced: pointed.replaced,
        version: String::new(),
    };
    finish(tx, upload, &published).await?;
    let event = outbox::iso_uploaded(&pointed.organization, &name, &blob);
    outbox::append(tx, event, &target.actor).await?;
    let path = isos::path(&pointed.organization, &name);
    audit::record(tx, &target.actor, OP, &path).await?;
    Ok(published)
}

/// The upload itself holds the blob from here on.
async fn publish_held(tx: &mut Tx, upload: &UploadRow, has_equals: bool) -> Result<Published> {
    assert_organization(tx, upload).await?;
    let (blob, made) = stored_once(tx, upload, has_equals).await?;
    if !made.is_new {
        blobs::take_reference(tx, OP, &blob.key).await?;
    }
    if made.heals {
        blobs::heal(tx, OP, upload.organization, &blob).await?;
    }
    let published = Published {
        blob,
        file: None,
        replaced: false,
        version: String::new(),
    };
    finish(tx, upload, &published).await?;
    sqlx::query("UPDATE uploads SET held = $2 WHERE id = $1")
        .bind(upload.id.as_bytes().to_vec())
        .bind(blob.key.as_bytes().to_vec())
        .execute(&mut tx.connection)
        .await
        .at(OP, upload.id)?;
    joins::hold(tx, OP, upload.id, &blob.key).await?;
    Ok(published)
}

/// Gives back the reference that a finished upload holds; false when it holds none.
pub(super) async fn release(tx: &mut Tx, id: UploadId) -> Result<bool> {
    let held = sqlx::query("SELECT held FROM uploads WHERE id = $1 AND held IS NOT NULL")
        .bind(id.as_bytes().to_vec())
        .fetch_optional(&mut tx.connection)
        .await
        .at(RELEASE, id)?;
    let Some(held) = held else { return Ok(false) };
    blobs::give_reference(tx, RELEASE, &held.key("held")?).await?;
    sqlx::query(
        "UPDATE uploads SET state = 'aborted', epoch = epoch + 1, held = NULL, updated_ms = $2
         WHERE id = $1",
    )
    .bind(id.as_bytes().to_vec())
    .bind(tx.now.0)
    .execute(&mut tx.connection)
    .await
    .at(RELEASE, id)?;
    blobs::doom_unnamed(tx).await?;
    Ok(true)
}

/// Ends a finished upload whose name has its blob; false for any other.
pub(super) async fn close(tx: &mut Tx, id: UploadId) -> Result<bool> {
    let closed = sqlx::query(
        "UPDATE uploads SET state = 'aborted', epoch = epoch + 1, updated_ms = $2
         WHERE id = $1 AND state = 'done' AND held IS NULL",
    )
    .bind(id.as_bytes().to_vec())
    .bind(tx.now.0)
    .execute(&mut tx.connection)
    .await
    .at(CLOSE, id)?;
    Ok(closed.rows_affected() == 1)
}

/// What was made of an upload's bytes.
struct Made {
    /// Whether it is a blob of its own, which has the reference of whoever publishes it.
    is_new: bool,
    /// Whether that heals damaged ones.
    heals: bool,
}

/// The blob that holds the upload's bytes, with its labels: an equal one that the tenant has, or a new row.
async fn stored_once(
    tx: &mut Tx,
    upload: &UploadRow,
    has_equals: bool,
) -> Result<(BlobMeta, Made)> {
    let Equals { whole, is_damaged } = if has_equals {
        equals(tx, upload).await?
    } else {
        Equals::default()
    };
    let is_new = whole.is_none();
    let blob = if let Some(held) = whole {
        trash::add(tx, OP, &upload.key, &upload.store).await?;
        told_by(tx, held, upload).await?
    } else {
        insert_blob(tx, upload).await?
    };
    blobs::label(tx, OP, &blob.key, &upload.labels()).await?;
    let heals = is_new && is_damaged;
    Ok((blob, Made { is_new, heals }))
}

/// The blob that holds the upload's bytes, whose SHA-256 may be known by the upload alone.
async fn told_by(tx: &mut Tx, held: BlobMeta, upload: &UploadRow) -> Result<BlobMeta> {
    let (None, Some((_, Some(sha256)))) = (held.sha256, upload.digests) else {
        return Ok(held);
    };
    deferred::learn(tx, OP, held.key, sha256).await?;
    Ok(BlobMeta {
        sha256: Some(sha256),
        ..held
    })
}

async fn assert_organization(tx: &mut Tx, upload: &UploadRow) -> Result<()> {
    let id = upload.organization.0;
    sqlx::query("SELECT id FROM organizations WHERE id = $1")
        .bind(id)
        .fetch_optional(&mut tx.connection)
        .await
        .at(OP, id)?
        .map(drop)
        .ok_or_else(|| Error::new(ErrorKind::NotFound, OP, format!("organization {id}")))
}

/// What the upload holds, once its digests are known.
fn whole(upload: &UploadRow) -> Result<BlobMeta> {
    let (blake3, sha256) = upload.digests.ok_or_else(|| odd("blake3"))?;
    Ok(BlobMeta {
        key: upload.key,
        length: upload.offset,
        blake3,
        sha256,
    })
}

/// The upload that `fence` names, if all its bytes are there.
async fn whole_upload(
    connection: &mut AnyConnection,
    op: &'static str,
    fence: Fence,
) -> Result<Option<UploadRow>> {
    let row = sqlx::query(concat!(
        "SELECT ",
        upload_columns!(),
        " FROM uploads WHERE id = $1 AND epoch = $2 AND state IN ('completing', 'done')"
    ))
    .bind(fence.id.as_bytes().to_vec())
    .bind(fence.epoch)
    .fetch_optional(connection)
    .await
    .at(op, fence.id)?;
    row.as_ref().map(upload_of).transpose()
}

/// What is to stand beside the blob, and its store.
pub(super) async fn sidecar(
    metadata: &Metadata,
    fence: Fence,
) -> Result<Option<(Sidecar, String)>> {
    const OP: &str = "upload.sidecar";
    let mut reader = metadata.reader(OP).await?;
    let Some(upload) = whole_upload(&mut reader, OP, fence).await? else {
        return Ok(None);
    };
    beside(&mut reader, OP, &upload, metadata.now()).await
}

/// The same for an upload whose row was just read.
pub(super) async fn beside(
    connection: &mut AnyConnection,
    op: &'static str,
    upload: &UploadRow,
    now: UnixMillis,
) -> Result<Option<(Sidecar, String)>> {
    let own = whole(upload)?;
    let held = if let Some(published) = &upload.published {
        sqlx::query(
            "SELECT o.name AS o_name, x.key AS x_key, x.store AS x_store
             FROM organizations o LEFT JOIN blobs x ON x.key = $2 WHERE o.id = $1",
        )
        .bind(upload.organization.0)
        .bind(published.blob.key.as_bytes().to_vec())
    } else {
        sqlx::query(
            "SELECT o.name AS o_name, x.key AS x_key, x.store AS x_store
             FROM organizations o LEFT JOIN blobs x ON x.tenant = o.id AND x.blake3 = $2
                 AND x.length = $3 AND x.state IN ('live', 'doomed')
             WHERE o.id = $1 ORDER BY x.created_ms, x.key LIMIT 1",
        )
        .bind(upload.organization.0)
        .bind(own.blake3.0.to_vec())
        .bind(signed(op, own.length)?)
    };
    let Some(row) = held.fetch_optional(connection).await.at(op, upload.id)? else {
        return Ok(None);
    };
    let (key, store) = match row.opt_text("x_store")? {
        Some(store) => (row.key("x_key")?, store),
        None => (upload.key, upload.store.clone()),
    };
    let sidecar = upload.sidecar(BlobMeta { key, ..own }, row.text("o_name")?, now);
    Ok(Some((sidecar, store)))
}

/// Equal blobs that the same organization holds already; one that is being deleted is none.
#[derive(Default)]
struct Equals {
    /// One whose bytes are whole, as far as anybody knows.
    whole: Option<BlobMeta>,
    /// Whether there are damaged ones.
    is_damaged: bool,
}

async fn equals(tx: &mut Tx, upload: &UploadRow) -> Result<Equals> {
    let wanted = whole(upload)?;
    let rows = sqlx::query(
        "SELECT x.key AS x_key, x.length AS x_length, x.blake3 AS x_blake3, x.sha256 AS x_sha256,
             x.state AS state
         FROM blobs x WHERE x.tenant = $1 AND x.blake3 = $2 AND x.length = $3
             AND x.state IN ('live', 'doomed', 'quarantined') ORDER BY x.created_ms, x.key",
    )
    .bind(upload.organization.0)
    .bind(wanted.blake3.0.to_vec())
    .bind(signed(OP, wanted.length)?)
    .fetch_all(&mut tx.connection)
    .await
    .at(OP, upload.id)?;
    let mut equals = Equals::default();
    for row in rows {
        if row.text("state")? == "quarantined" {
            equals.is_damaged = true;
        } else if equals.whole.is_none() {
            equals.whole = Some(row.blob_meta()?);
        }
    }
    Ok(equals)
}

/// Makes the blob row, with the one reference that whoever publishes it is about to have, and moves the parts' subtree
/// values to it.
async fn insert_blob(tx: &mut Tx, upload: &UploadRow) -> Result<BlobMeta> {
    let blob = whole(upload)?;
    let values = trash::take_values(tx, OP, upload.id).await?;
    if values.len() as u64 != blocks(blob.length) * 32 {
        return Err(odd("cvs").with_source(format!("{} bytes for {}", values.len(), blob.length)));
    }
    sqlx::query(
        "INSERT INTO blobs (key, tenant, store, length, blake3, sha256, state, refs, created_ms)
         VALUES ($1, $2, $3, $4, $5, $6, 'live', 1, $7)",
    )
    .bind(blob.key.as_bytes().to_vec())
    .bind(upload.organization.0)
    .bind(&upload.store)
    .bind(signed(OP, blob.length)?)
    .bind(blob.blake3.0.to_vec())
    .bind(sha256_column(blob.sha256))
    .bind(tx.now.0)
    .execute(&mut tx.connection)
    .await
    .at(OP, blob.key)?;
    sqlx::query("INSERT INTO blob_trees (blob, cvs) VALUES ($1, $2)")
        .bind(blob.key.as_bytes().to_vec())
        .bind(values)
        .execute(&mut tx.connection)
        .await
        .at(OP, blob.key)?;
    Ok(blob)
}

/// `done`, with the answer for whoever asks again.
async fn finish(tx: &mut Tx, upload: &UploadRow, published: &Published) -> Result<()> {
    let answer = Answer::text(published)?;
    let done = sqlx::query(
        "UPDATE uploads SET state = 'done', answer = $3, hash_states = NULL, updated_ms = $4
         WHERE id = $1 AND epoch = $2 AND state = 'completing' RETURNING tail_key",
    )
    .bind(upload.id.as_bytes().to_vec())
    .bind(upload.epoch)
    .bind(answer)
    .bind(tx.now.0)
    .fetch_optional(&mut tx.connection)
    .await
    .at(OP, upload.id)?
    .ok_or_else(|| fenced(OP, upload.id))?;
    if upload.joins > 0 {
        joins::release(tx, OP, upload.id).await?;
    }
    if done.opt_bytes("tail_key")?.is_some() {
        trash::add_tail(tx, OP, upload.id, None).await?;
    }
    if upload.pieces.is_some_and(|cut| cut.apart) {
        pieces::pass(tx, upload.id).await?;
    }
    if published.blob.key == upload.key {
        // Its values were taken from the parts.
        return Ok(());
    }
    trash::forget_parts(tx, OP, upload.id).await
}

/// [`Published`] as the upload's row keeps it.
#[derive(Serialize, Deserialize)]
pub(super) struct Answer {
    key: String,
    length: u64,
    blake3: String,
    sha256: Option<String>,
    file: Option<i64>,
    replaced: bool,
    version: String,
}

impl Answer {
    fn text(published: &Published) -> Result<String> {
        let Published {
            blob,
            file,
            replaced,
            version,
        } = published;
        let answer = Self {
            key: blob.key.to_string(),
            length: blob.length,
            blake3: blob.blake3.to_hex(),
            sha256: blob.sha256.map(|sha256| sha256.to_hex()),
            file: file.map(|id| id.0),
            replaced: *replaced,
            version: version.clone(),
        };
        serde_json::to_string(&answer).map_err(|e| odd("answer").with_source(e))
    }

    pub(super) fn read(text: &str) -> Result<Published> {
        let answer: Self = serde_json::from_str(text).map_err(|e| odd("answer").with_source(e))?;
        Ok(Published {
            blob: BlobMeta {
                key: answer
                    .key
                    .parse()
                    .map_err(|e| odd("answer").with_source(e))?,
                length: answer.length,
                blake3: Blake3::from_hex(&answer.blake3).ok_or_else(|| odd("answer"))?,
                sha256: match answer.sha256 {
                    Some(hex) => Some(Sha256::from_hex(&hex).ok_or_else(|| odd("answer"))?),
                    None => None,
                },
            },
            file: answer.file.map(FileId),
            replaced: answer.replaced,
            version: answer.version,
        })
    }
}
