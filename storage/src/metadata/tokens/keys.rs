//! The gateway's own keys; their secrets come sealed and leave sealed.

use futures_util::FutureExt as _;
use sqlx::AnyConnection;

use super::KeyRow;
use crate::clock::UnixMillis;
use crate::error::Result;
use crate::metadata::sql::{At as _, Columns as _};
use crate::metadata::writer::Tx;
use crate::metadata::{Metadata, audit};

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
                insert(tx, OP, purpose, secret).await
            }
            .boxed()
        })
        .await
    }

    /// Puts down what this process was told, for the next one to compare; returns what the last one put down.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn note(&self, purpose: &str, text: &[u8]) -> Result<Option<Vec<u8>>> {
        const OP: &str = "key.note";
        let (purpose, text) = (purpose.to_owned(), text.to_vec());
        self.write(OP, move |tx| {
            async move {
                let there = list(&mut tx.connection, OP, &purpose).await?;
                let Some(before) = there.into_iter().next() else {
                    insert(tx, OP, purpose, text).await?;
                    return Ok(None);
                };
                sqlx::query("UPDATE keys SET secret = $1 WHERE id = $2")
                    .bind(text)
                    .bind(before.id)
                    .execute(&mut tx.connection)
                    .await
                    .at(OP, before.id)?;
                Ok(Some(before.secret))
            }
            .boxed()
        })
        .await
    }

    /// Adds a key for the purpose, from now on the newest; `None` when `most` of them are in use.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn add_key(
        &self,
        purpose: &str,
        secret: &[u8],
        most: usize,
        actor: &str,
    ) -> Result<Option<KeyRow>> {
        const OP: &str = "key.add";
        let (purpose, actor) = (purpose.to_owned(), actor.to_owned());
        let secret = secret.to_vec();
        self.write(OP, move |tx| {
            async move {
                let there = list(&mut tx.connection, OP, &purpose).await?;
                if there.iter().filter(|key| key.retired.is_none()).count() >= most {
                    return Ok(None);
                }
                audit::record(tx, &actor, OP, &purpose).await?;
                insert(tx, OP, purpose, secret).await.map(Some)
            }
            .boxed()
        })
        .await
    }

    /// Retires a key for the purpose; `next` becomes one if none is left. `false` when there is no such
    /// key in use.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn retire_key(
        &self,
        purpose: &str,
        id: i64,
        next: &[u8],
        actor: &str,
    ) -> Result<bool> {
        const OP: &str = "key.retire";
        let (purpose, actor) = (purpose.to_owned(), actor.to_owned());
        let next = next.to_vec();
        self.write(OP, move |tx| {
            async move {
                let there = list(&mut tx.connection, OP, &purpose).await?;
                let mut used = there.iter().filter(|key| key.retired.is_none());
                if !used.any(|key| key.id == id) {
                    return Ok(false);
                }
                let is_last = there.iter().filter(|key| key.retired.is_none()).count() == 1;
                sqlx::query("UPDATE keys SET retired_ms = $1 WHERE id = $2")
                    .bind(tx.now.0)
                    .bind(id)
                    .execute(&mut tx.connection)
                    .await
                    .at(OP, id)?;
                audit::record(tx, &actor, OP, &format!("{purpose} {id}")).await?;
                if is_last {
                    insert(tx, OP, purpose, next).await?;
                }
                Ok(true)
            }
            .boxed()
        })
        .await
    }
}

async fn insert(tx: &mut Tx, op: &'static str, purpose: String, secret: Vec<u8>) -> Result<KeyRow> {
    let id = tx.next_id("keys").await?;
    sqlx::query("INSERT INTO keys (id, purpose, secret, created_ms) VALUES ($1, $2, $3, $4)")
        .bind(id)
        .bind(&purpose)
        .bind(&secret)
        .bind(tx.now.0)
        .execute(&mut tx.connection)
        .await
        .at(op, &purpose)?;
    Ok(KeyRow {
        id,
        purpose,
        secret,
        created: tx.now,
        retired: None,
    })
}

async fn list(
    connection: &mut AnyConnection,
    op: &'static str,
    purpose: &str,
) -> Result<Vec<KeyRow>> {
    sqlx::query(
        "SELECT id, purpose, secret, created_ms, retired_ms FROM keys WHERE purpose = $1 ORDER BY id DESC",
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
            created: UnixMillis(row.int("created_ms")?),
            retired: row.opt_int("retired_ms")?.map(UnixMillis),
        })
    })
    .collect()
}
