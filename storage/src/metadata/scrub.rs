//! Blobs that are read again, and what becomes of those that are not what was hashed.

use futures_util::FutureExt as _;

use sqlx::any::AnyRow;

use super::Metadata;
use super::sql::{At as _, Columns as _};
use crate::blob::{BlobKey, BlobMeta};
use crate::error::Result;

/// A blob whose turn it is to be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ToScrub {
    pub(crate) meta: BlobMeta,
    pub(crate) store: String,
    pub(crate) quarantined: bool,
}

impl ToScrub {
    /// The columns of [`Columns::blob_meta`], `store` and `state`.
    pub(super) fn of(row: &AnyRow) -> Result<Self> {
        Ok(Self {
            meta: row.blob_meta()?,
            store: row.text("store")?,
            quarantined: row.text("state")? == "quarantined",
        })
    }
}

impl Metadata {
    /// The first blob, of that store or of all, whose key is `from` or stands behind it; of damaged ones, those that something holds.
    pub(crate) async fn next_to_scrub(
        &self,
        from: &[u8],
        store: Option<&str>,
    ) -> Result<Option<ToScrub>> {
        const OP: &str = "scrub.next";
        let mut reader = self.reader(OP).await?;
        sqlx::query(
            "SELECT x.key AS x_key, x.length AS x_length, x.blake3 AS x_blake3,
                 x.sha256 AS x_sha256, x.store AS store, x.state AS state
             FROM blobs x WHERE x.key >= $1 AND x.store = COALESCE($2, x.store)
                 AND x.state <> 'deleting'
                 AND (x.state <> 'quarantined' OR x.refs > 0) ORDER BY x.key LIMIT 1",
        )
        .bind(from.to_vec())
        .bind(store.map(str::to_owned))
        .fetch_optional(&mut *reader)
        .await
        .at(OP, "blobs")?
        .map(|row| ToScrub::of(&row))
        .transpose()
    }

    /// Bytes of all such blobs.
    pub(crate) async fn bytes_to_scrub(&self, from: &[u8], store: Option<&str>) -> Result<u64> {
        const OP: &str = "scrub.bytes";
        let mut reader = self.reader(OP).await?;
        sqlx::query(
            "SELECT COALESCE(CAST(SUM(length) AS BIGINT), 0) AS bytes FROM blobs
             WHERE key >= $1 AND store = COALESCE($2, store) AND state <> 'deleting' AND (state <> 'quarantined' OR refs > 0)",
        )
        .bind(from.to_vec())
        .bind(store.map(str::to_owned))
        .fetch_one(&mut *reader)
        .await
        .at(OP, "blobs")?
        .unsigned("bytes")
    }

    /// A blob that was taken out of service was read as a whole and is what was hashed: it is served again.
    pub(crate) async fn heal_blob(&self, key: &BlobKey) -> Result<()> {
        const OP: &str = "scrub.heal";
        let key = *key;
        self.write(OP, move |tx| {
            async move {
                sqlx::query(
                    "UPDATE blobs SET state = CASE WHEN refs > 0 THEN 'live' ELSE 'doomed' END
                     WHERE key = $1 AND state = 'quarantined'",
                )
                .bind(key.as_bytes().to_vec())
                .execute(&mut tx.connection)
                .await
                .at(OP, key)
                .map(drop)
            }
            .boxed()
        })
        .await
    }
}
