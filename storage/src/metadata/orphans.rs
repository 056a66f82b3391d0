//! Bytes that no row names: when they were seen, and their way into the trash.

use futures_util::FutureExt as _;

use super::Metadata;
use super::sql::{At as _, Columns as _};
use super::uploads::trash;
use super::writer::Tx;
use crate::blob::BlobKey;
use crate::clock::UnixMillis;
use crate::error::Result;

const OP: &str = "orphans.see";

impl Metadata {
    /// Notes that these keys of a store, and of all its keys only these, have no row. Those that were seen
    /// at or before `known_since` as well go into the trash, due now, unless a row claims them after all.
    /// Returns how many did.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer; some may be noted then.
    pub(crate) async fn see_orphans(
        &self,
        store: &str,
        keys: &[BlobKey],
        known_since: UnixMillis,
    ) -> Result<u64> {
        let seen = self.now();
        let mut condemned = 0;
        // In small steps: whoever else writes waits for one of them at most.
        for keys in keys.chunks(KEYS_AT_ONCE) {
            let (store, keys) = (store.to_owned(), keys.to_vec());
            let see = self.write(OP, move |tx| {
                async move {
                    let mut condemned = 0;
                    for key in &keys {
                        if see(tx, &store, key, seen).await?.0 <= known_since.0 {
                            condemned += u64::from(condemn(tx, &store, key).await?);
                        }
                    }
                    Ok(condemned)
                }
                .boxed()
            });
            condemned += see.await?;
        }
        let store = store.to_owned();
        self.write(OP, move |tx| {
            async move {
                // They are gone, or have a row by now.
                sqlx::query("DELETE FROM orphans WHERE store = $1 AND last_ms <> $2")
                    .bind(&store)
                    .bind(seen.0)
                    .execute(&mut tx.connection)
                    .await
                    .at(OP, store)
                    .map(drop)
            }
            .boxed()
        })
        .await?;
        Ok(condemned)
    }

    /// Those of the keys that were seen without a row at or before `since`.
    pub(crate) async fn known_orphans(
        &self,
        store: &str,
        keys: &[BlobKey],
        since: UnixMillis,
    ) -> Result<Vec<BlobKey>> {
        const OP: &str = "orphans.known";
        let mut known = Vec::new();
        for keys in keys.chunks(KEYS_AT_ONCE) {
            let mut reader = self.reader(OP).await?;
            for key in keys {
                let row = sqlx::query(
                    "SELECT first_ms FROM orphans WHERE store = $1 AND key = $2 AND first_ms <= $3",
                )
                .bind(store)
                .bind(key.as_bytes().to_vec())
                .bind(since.0)
                .fetch_optional(&mut *reader)
                .await
                .at(OP, key)?;
                known.extend(row.map(|_known| *key));
            }
        }
        Ok(known)
    }
}

/// Notes one more look at the key; returns when the first was.
async fn see(tx: &mut Tx, store: &str, key: &BlobKey, now: UnixMillis) -> Result<UnixMillis> {
    // A first look that lies ahead was dated by a clock that was wrong.
    sqlx::query(
        "INSERT INTO orphans (store, key, first_ms, last_ms) VALUES ($1, $2, $3, $3)
         ON CONFLICT (store, key) DO UPDATE SET last_ms = EXCLUDED.last_ms,
             first_ms = CASE WHEN orphans.first_ms > EXCLUDED.first_ms
                 THEN EXCLUDED.first_ms ELSE orphans.first_ms END
         RETURNING first_ms",
    )
    .bind(store)
    .bind(key.as_bytes().to_vec())
    .bind(now.0)
    .fetch_one(&mut tx.connection)
    .await
    .at(OP, key)?
    .time("first_ms")
}

/// Puts the bytes into the trash; false when a row claims them.
async fn condemn(tx: &mut Tx, store: &str, key: &BlobKey) -> Result<bool> {
    let claimed = sqlx::query(
        "SELECT x.key AS key FROM blobs x WHERE x.key = $1
         UNION ALL SELECT t.key FROM trash t WHERE t.key = $1
         UNION ALL SELECT u.key FROM uploads u WHERE u.key = $1
             AND u.state IN ('open', 'completing')
         UNION ALL SELECT u.tail_key FROM uploads u WHERE u.tail_key = $1
         UNION ALL SELECT p.key FROM pieces p WHERE p.key = $1",
    )
    .bind(key.as_bytes().to_vec())
    .fetch_optional(&mut tx.connection)
    .await
    .at(OP, key)?;
    if claimed.is_some() {
        return Ok(false);
    }
    trash::add(tx, OP, key, store).await?;
    sqlx::query("DELETE FROM orphans WHERE store = $1 AND key = $2")
        .bind(store)
        .bind(key.as_bytes().to_vec())
        .execute(&mut tx.connection)
        .await
        .at(OP, key)?;
    Ok(true)
}

const KEYS_AT_ONCE: usize = 100;
