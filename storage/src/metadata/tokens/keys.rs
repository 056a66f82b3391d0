//! The gateway's own keys; their secrets come sealed and leave sealed.

use futures_util::FutureExt as _;
use sqlx::AnyConnection;

use super::KeyRow;
use crate::clock::UnixMillis;
use crate::error::Result;
use crate::metadata::Metadata;
use crate::metadata::sql::{At as _, Columns as _};

impl Metadata {
    /// All keys for a purpose, newest first.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn keys(&self, purpose: &str) -> Result<Vec<KeyRow>> {
        const OP: &str = "key.list";
        list(&mut *self.reader(OP).await?, OP, purpose).await
    }

    /// Stores `secret` as the first key for the purpose unless one is there; returns the one that is
    /// (two nodes that start at once agree).
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn first_key(&self, purpose: &str, secret: &[u8]) -> Result<KeyRow> {
        const OP: &str = "key.first";
        let purpose = purpose.to_owned();
        let secret = secret.to_vec();
        self.write(OP, move |tx| {
            async move {
                let there = list(&mut tx.connection, OP, &purpose)
                    .await?
                    .into_iter()
                    .next();
                if let Some(newest) = there {
                    return Ok(newest);
                }
                let id = tx.next_id("keys").await?;
                sqlx::query(
                    "INSERT INTO keys (id, purpose, secret, created_ms) VALUES ($1, $2, $3, $4)",
                )
                .bind(id)
                .bind(&purpose)
                .bind(&secret)
                .bind(tx.now.0)
                .execute(&mut tx.connection)
                .await
                .at(OP, &purpose)?;
                Ok(KeyRow {
                    id,
                    purpose,
                    secret,
                    retired: None,
                })
            }
            .boxed()
        })
        .await
    }
}

async fn list(
    connection: &mut AnyConnection,
    op: &'static str,
    purpose: &str,
) -> Result<Vec<KeyRow>> {
    sqlx::query(
        "SELECT id, purpose, secret, retired_ms FROM keys WHERE purpose = $1 ORDER BY id DESC",
    )
    .bind(purpose)
    .fetch_all(connection)
    .await
    .at(op, purpose)?
    .iter()
    .map(|row| {
        Ok(KeyRow {
            id: row.int("id")?,
            purpose: row.text("purpose")?,
            secret: row.bytes("secret")?,
            retired: row.opt_int("retired_ms")?.map(UnixMillis),
        })
    })
    .collect()
}
