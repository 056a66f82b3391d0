//! Blobs whose SHA-256 is computed after they came in. The column is empty until it is known, so that no task and no
//! note of one has to survive for it to be computed: the rows alone say what is missing.

use futures_util::FutureExt as _;

use super::catalog::ArchitectureId;
use super::catalog::columns::Level;
use super::scrub::ToScrub;
use super::sql::{At as _, Columns as _};
use super::writer::Tx;
use super::{Metadata, outbox};
use crate::blob::BlobKey;
use crate::clock::UnixMillis;
use crate::digest::Sha256;
use crate::error::Result;

/// What waits for its SHA-256.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Blobs in service.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// When the oldest of them came in.
    pub oldest: Option<UnixMillis>,
}

/// Where one looks on: behind a blob that came in then.
pub(crate) type After = (UnixMillis, BlobKey);

impl Metadata {
    /// What waits for its SHA-256.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn waiting_for_sha256(&self) -> Result<Waiting> {
        const OP: &str = "deferred.waiting";
        let mut reader = self.reader(OP).await?;
        let row = sqlx::query(
            "SELECT COUNT(*) AS blobs, COALESCE(CAST(SUM(length) AS BIGINT), 0) AS bytes,
                 MIN(created_ms) AS oldest
             FROM blobs WHERE length(sha256) = 0 AND state = 'live'",
        )
        .fetch_one(&mut *reader)
        .await
        .at(OP, "blobs")?;
        Ok(Waiting {
            blobs: row.unsigned("blobs")?,
            bytes: row.unsigned("bytes")?,
            oldest: row.opt_int("oldest")?.map(UnixMillis),
        })
    }

    /// The blob that has waited for the longest of those behind `after`.
    pub(crate) async fn next_deferred(
        &self,
        after: Option<After>,
    ) -> Result<Option<(ToScrub, After)>> {
        const OP: &str = "deferred.next";
        let (time, key) = after.map_or_else(
            || (i64::MIN, Vec::new()),
            |(time, key)| (time.0, key.as_bytes().to_vec()),
        );
        let mut reader = self.reader(OP).await?;
        sqlx::query(
            "SELECT x.key AS x_key, x.length AS x_length, x.blake3 AS x_blake3,
                 x.sha256 AS x_sha256, x.store AS store, x.state AS state, x.created_ms AS created_ms
             FROM blobs x WHERE length(x.sha256) = 0 AND x.state = 'live'
                 AND (x.created_ms > $1 OR (x.created_ms = $1 AND x.key > $2))
             ORDER BY x.created_ms, x.key LIMIT 1",
        )
        .bind(time)
        .bind(key)
        .fetch_optional(&mut *reader)
        .await
        .at(OP, "blobs")?
        .map(|row| {
            let blob = ToScrub::of(&row)?;
            let place = (row.time("created_ms")?, blob.meta.key);
            Ok((blob, place))
        })
        .transpose()
    }

    /// The SHA-256 of a blob is known: whatever its names are is listed with it from now on.
    pub(crate) async fn learn_sha256(&self, key: &BlobKey, sha256: Sha256) -> Result<()> {
        const OP: &str = "deferred.learn";
        let key = *key;
        self.write(OP, move |tx| learn(tx, OP, key, sha256).boxed())
            .await
    }
}

/// Writes it down where it is not known yet, and tells of each box that is complete with it.
pub(super) async fn learn(
    tx: &mut Tx,
    op: &'static str,
    key: BlobKey,
    sha256: Sha256,
) -> Result<()> {
    let learned = sqlx::query("UPDATE blobs SET sha256 = $2 WHERE key = $1 AND length(sha256) = 0")
        .bind(key.as_bytes().to_vec())
        .bind(sha256.0.to_vec())
        .execute(&mut tx.connection)
        .await
        .at(op, key)?;
    if learned.rows_affected() == 0 {
        return Ok(());
    }
    let files = sqlx::query("SELECT architecture FROM files WHERE blob = $1 ORDER BY id")
        .bind(key.as_bytes().to_vec())
        .fetch_all(&mut tx.connection)
        .await
        .at(op, key)?;
    for file in files {
        let level = Level::Architecture(ArchitectureId(file.int("architecture")?));
        let place = level.existing_place(&mut tx.connection, op).await?;
        let event = outbox::box_learned(&place, sha256);
        outbox::append(tx, event, "").await?;
    }
    Ok(())
}
