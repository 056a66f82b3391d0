//! Uploads as they are looked for; nothing here changes a row.

use super::rows::{folded_target, upload_columns, upload_of};
use super::{Over, Sender, Target, UploadRow, UploadState};
use crate::blob::UploadId;
use crate::clock::UnixMillis;
use crate::error::Result;
use crate::metadata::Metadata;
use crate::metadata::accounts::OrganizationId;
use crate::metadata::sql::{At as _, Columns as _, odd};
use crate::store::{PartIndex, PartReceipt, Receipts, Tail};

pub(super) async fn upload(metadata: &Metadata, id: UploadId) -> Result<Option<UploadRow>> {
    const OP: &str = "upload.read";
    let mut reader = metadata.reader(OP).await?;
    sqlx::query(concat!(
        "SELECT ",
        upload_columns!(),
        " FROM uploads WHERE id = $1"
    ))
    .bind(id.as_bytes().to_vec())
    .fetch_optional(&mut *reader)
    .await
    .at(OP, id)?
    .as_ref()
    .map(upload_of)
    .transpose()
}

pub(super) async fn part_values(
    metadata: &Metadata,
    id: UploadId,
    part: u32,
) -> Result<Option<Vec<[u8; 32]>>> {
    const OP: &str = "upload.part_values";
    let mut reader = metadata.reader(OP).await?;
    let row = sqlx::query("SELECT cvs FROM parts WHERE upload = $1 AND k = $2")
        .bind(id.as_bytes().to_vec())
        .bind(i64::from(part))
        .fetch_optional(&mut *reader)
        .await
        .at(OP, id)?;
    let Some(row) = row else { return Ok(None) };
    let bytes = row.bytes("cvs")?;
    match bytes.as_chunks::<32>() {
        (values, []) => Ok(Some(values.to_vec())),
        _ => Err(odd("cvs").with_source(format!("{} bytes", bytes.len()))),
    }
}

pub(super) async fn receipts(metadata: &Metadata, id: UploadId) -> Result<Receipts> {
    const OP: &str = "upload.receipts";
    let mut reader = metadata.reader(OP).await?;
    // One statement, so that parts and tail are of one moment.
    let rows = sqlx::query(
        "SELECT s3_id, tail_key, tail_length, tail_crc, k, etag, crc64
         FROM uploads LEFT JOIN parts ON upload = id AND etag IS NOT NULL
         WHERE id = $1 ORDER BY k",
    )
    .bind(id.as_bytes().to_vec())
    .fetch_all(&mut *reader)
    .await
    .at(OP, id)?;
    let mut receipts = Receipts::default();
    for row in &rows {
        receipts.upload = row.opt_text("s3_id")?;
        if row.opt_bytes("tail_key")?.is_some() {
            receipts.tail = Some(Tail {
                key: row.key("tail_key")?,
                length: row.unsigned("tail_length")?,
                crc64: row.int("tail_crc")?.cast_unsigned(),
            });
        }
        if let Some(k) = row.opt_int("k")? {
            let k = u32::try_from(k).map_err(|e| odd("k").with_source(e))?;
            let part = PartReceipt {
                etag: row.text("etag")?,
                crc64: u64::from_be_bytes(row.fixed("crc64")?),
            };
            receipts.parts.insert(PartIndex(k), part);
        }
    }
    Ok(receipts)
}

pub(super) async fn uploads_in(
    metadata: &Metadata,
    state: UploadState,
    until: UnixMillis,
    limit: u32,
) -> Result<Vec<UploadRow>> {
    const OP: &str = "upload.list";
    let mut reader = metadata.reader(OP).await?;
    sqlx::query(concat!(
        "SELECT ",
        upload_columns!(),
        " FROM uploads WHERE state = $1 AND updated_ms <= $2 ORDER BY updated_ms, id LIMIT $3"
    ))
    .bind(state.as_str())
    .bind(until.0)
    .bind(i64::from(limit))
    .fetch_all(&mut *reader)
    .await
    .at(OP, state.as_str())?
    .iter()
    .map(upload_of)
    .collect()
}

pub(super) async fn uploads_to(
    metadata: &Metadata,
    sender: &Sender,
    organization: OrganizationId,
    target: &Target,
    since: UnixMillis,
) -> Result<Vec<UploadRow>> {
    const OP: &str = "upload.find";
    let folded = folded_target(OP, target)?;
    let mut reader = metadata.reader(OP).await?;
    sqlx::query(concat!(
        "SELECT ",
        upload_columns!(),
        " FROM uploads WHERE account = $1 AND organization = $2 AND target_folded = $3 AND keep = 1
             AND service IS NOT DISTINCT FROM $6
             AND (state IN ('open', 'completing') OR state = 'done' AND updated_ms >= $4)
         ORDER BY created_ms DESC, id DESC LIMIT $5"
    ))
    .bind(sender.account.0)
    .bind(organization.0)
    .bind(folded)
    .bind(since.0)
    .bind(MOST_FOUND)
    .bind(&sender.service)
    .fetch_all(&mut *reader)
    .await
    .at(OP, sender.account.0)?
    .iter()
    .map(upload_of)
    .collect()
}

pub(super) async fn replaced_by(metadata: &Metadata, id: UploadId) -> Result<Vec<UploadRow>> {
    const OP: &str = "upload.find";
    let mut reader = metadata.reader(OP).await?;
    sqlx::query(concat!(
        "WITH newer AS (
             SELECT account AS n_account, service AS n_service, organization AS n_organization,
                 target_folded AS n_folded, note AS n_note, created_ms AS n_created, state AS n_state
             FROM uploads WHERE id = $1 AND byte_offset > 0 AND state IN ('open', 'completing', 'done'))
         SELECT ",
        upload_columns!(),
        " FROM newer JOIN uploads ON account = n_account AND organization = n_organization
             AND target_folded = n_folded
         WHERE id <> $1 AND keep = 1 AND created_ms <= n_created
             AND service IS NOT DISTINCT FROM n_service AND note IS NOT DISTINCT FROM n_note
             AND state IN ('open', 'completing') AND (state = 'open' OR n_state = 'done')
         ORDER BY created_ms DESC, id DESC LIMIT $2"
    ))
    .bind(id.as_bytes().to_vec())
    .bind(MOST_FOUND)
    .fetch_all(&mut *reader)
    .await
    .at(OP, id)?
    .iter()
    .map(upload_of)
    .collect()
}

pub(super) async fn open_uploads(
    metadata: &Metadata,
    organization: Option<OrganizationId>,
    after: Option<UploadId>,
    limit: u32,
) -> Result<Vec<UploadRow>> {
    const OP: &str = "upload.page";
    let mut reader = metadata.reader(OP).await?;
    // No id is empty, so an empty one stands before the first.
    let after = after.map_or_else(Vec::new, |id| id.as_bytes().to_vec());
    sqlx::query(concat!(
        "SELECT ",
        upload_columns!(),
        " FROM uploads WHERE state = 'open' AND organization = COALESCE($1, organization)
             AND id > $2 ORDER BY id LIMIT $3"
    ))
    .bind(organization.map(|id| id.0))
    .bind(after)
    .bind(i64::from(limit))
    .fetch_all(&mut *reader)
    .await
    .at(OP, "open")?
    .iter()
    .map(upload_of)
    .collect()
}

pub(super) async fn over(metadata: &Metadata, over: Over, limit: u32) -> Result<Vec<UploadRow>> {
    const OP: &str = "upload.over";
    let Over {
        unkept,
        idle,
        made,
        untargeted,
        quarantined,
    } = over;
    let mut reader = metadata.reader(OP).await?;
    sqlx::query(concat!(
        "SELECT ",
        upload_columns!(),
        " FROM uploads WHERE state = 'open' AND (created_ms <= $3
                 OR joins = 0 AND updated_ms <= CASE keep WHEN 1 THEN $2 ELSE $1 END)
             OR state = 'done' AND held IS NOT NULL AND updated_ms <= $4
             OR state = 'completing' AND gate = 'quarantined' AND updated_ms <= $5
         ORDER BY updated_ms, id LIMIT $6"
    ))
    .bind(unkept.0)
    .bind(idle.0)
    .bind(made.0)
    .bind(untargeted.0)
    .bind(quarantined.0)
    .bind(i64::from(limit))
    .fetch_all(&mut *reader)
    .await
    .at(OP, "uploads")?
    .iter()
    .map(upload_of)
    .collect()
}

/// More than one account may have open, with what it finished lately.
const MOST_FOUND: i64 = 1000;
