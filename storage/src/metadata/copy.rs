//! Blobs that go from one store to another.

use futures_util::FutureExt as _;

use super::Metadata;
use super::scrub::ToScrub;
use super::sql::{At as _, Columns as _};
use super::uploads::trash;
use crate::blob::BlobKey;
use crate::error::Result;

/// What a store holds still.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LeftIn {
    /// Blobs.
    pub(crate) blobs: u64,
    /// Of those, the ones that were moved a short while ago, and wait until the bytes they left behind are gone.
    pub(crate) waiting: u64,
    /// Uploads in progress.
    pub(crate) uploads: u64,
}

/// Blobs of the store `$1` that something holds. One that was moved a short while ago still has bytes in the trash of
/// the store it came from, and waits until they are gone.
macro_rules! to_copy {
    () => {
        " FROM blobs x WHERE x.store = $1 AND x.state = 'live'
              AND NOT EXISTS (SELECT 1 FROM trash t WHERE t.key = x.key) "
    };
}

impl Metadata {
    /// The first such blob whose key is `from` or stands behind it.
    pub(crate) async fn next_to_copy(&self, store: &str, from: &[u8]) -> Result<Option<ToScrub>> {
        const OP: &str = "blob.next";
        let mut reader = self.reader(OP).await?;
        sqlx::query(concat!(
            "SELECT x.key AS x_key, x.length AS x_length, x.blake3 AS x_blake3,
                 x.sha256 AS x_sha256, x.store AS store, x.state AS state",
            to_copy!(),
            "AND x.key >= $2 ORDER BY x.key LIMIT 1"
        ))
        .bind(store.to_owned())
        .bind(from.to_vec())
        .fetch_optional(&mut *reader)
        .await
        .at(OP, "blobs")?
        .map(|row| ToScrub::of(&row))
        .transpose()
    }

    /// Bytes of all such blobs.
    pub(crate) async fn bytes_to_copy(&self, store: &str) -> Result<u64> {
        const OP: &str = "blob.next";
        let mut reader = self.reader(OP).await?;
        sqlx::query(concat!(
            "SELECT COALESCE(CAST(SUM(x.length) AS BIGINT), 0) AS bytes",
            to_copy!()
        ))
        .bind(store.to_owned())
        .fetch_one(&mut *reader)
        .await
        .at(OP, "blobs")?
        .unsigned("bytes")
    }

    /// What a store holds still.
    pub(crate) async fn left_in(&self, store: &str) -> Result<LeftIn> {
        const OP: &str = "blob.next";
        let mut reader = self.reader(OP).await?;
        let row = sqlx::query(
            "SELECT (SELECT COUNT(*) FROM blobs WHERE store = $1 AND state <> 'deleting') AS blobs,
                 (SELECT COUNT(*) FROM blobs x WHERE x.store = $1 AND x.state = 'live'
                     AND EXISTS (SELECT 1 FROM trash t WHERE t.key = x.key)) AS waiting,
                 (SELECT COUNT(*) FROM uploads WHERE store = $1
                     AND state IN ('open', 'completing')) AS uploads",
        )
        .bind(store.to_owned())
        .fetch_one(&mut *reader)
        .await
        .at(OP, "blobs")?;
        Ok(LeftIn {
            blobs: row.unsigned("blobs")?,
            waiting: row.unsigned("waiting")?,
            uploads: row.unsigned("uploads")?,
        })
    }

    /// The bytes of a blob are in another store, too: it is read from there, and what the first one has goes when
    /// downloads that began are over. False for a blob that is not there any more as it was.
    pub(crate) async fn move_blob(&self, key: &BlobKey, from: &str, to: &str) -> Result<bool> {
        const OP: &str = "blob.move";
        let (key, from, to) = (*key, from.to_owned(), to.to_owned());
        self.write(OP, move |tx| {
            async move {
                let moved = sqlx::query(
                    "UPDATE blobs SET store = $3 WHERE key = $1 AND store = $2 AND state = 'live'",
                )
                .bind(key.as_bytes().to_vec())
                .bind(from.clone())
                .bind(to)
                .execute(&mut tx.connection)
                .await
                .at(OP, key)?;
                if moved.rows_affected() == 0 {
                    return Ok(false);
                }
                let due = tx.due();
                trash::add_due(tx, OP, &key, &from, due).await?;
                Ok(true)
            }
            .boxed()
        })
        .await
    }
}
