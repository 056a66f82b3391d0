//! Answers to requests that named themselves (`Idempotency-Key`), so that a repeat changes nothing and gets the same.

use std::time::Duration;

use futures_util::FutureExt as _;

use crate::error::Result;
use crate::metadata::Metadata;
use crate::metadata::sql::{At as _, Columns as _};

/// How a request that names itself stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replied {
    /// It is new, and its caller's to do.
    New,
    /// It is just being done.
    UnderWay,
    /// It was done; the answer.
    Done(Vec<u8>),
    /// That name stands for another request.
    Another,
}

impl Metadata {
    /// Begins a request named `name` whose content has that hash. A name is known for `kept`; one whose doing was cut
    /// is free again after `cut`.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn begin_reply(
        &self,
        name: &str,
        request: Vec<u8>,
        (kept, cut): (Duration, Duration),
    ) -> Result<Replied> {
        const OP: &str = "webhook.begin_reply";
        let name = name.to_owned();
        self.write(OP, move |tx| {
            async move {
                sqlx::query(
                    "DELETE FROM webhook_replies WHERE created_ms <= $1 OR (reply IS NULL AND created_ms <= $2)",
                )
                .bind(tx.now.minus(kept).0)
                .bind(tx.now.minus(cut).0)
                .execute(&mut tx.connection)
                .await
                .at(OP, &name)?;
                let found = sqlx::query("SELECT request, reply FROM webhook_replies WHERE name = $1")
                    .bind(&name)
                    .fetch_optional(&mut tx.connection)
                    .await
                    .at(OP, &name)?;
                if let Some(row) = found {
                    if row.bytes("request")? != request {
                        return Ok(Replied::Another);
                    }
                    return Ok(row
                        .opt_bytes("reply")?
                        .map_or(Replied::UnderWay, Replied::Done));
                }
                sqlx::query("INSERT INTO webhook_replies (name, request, created_ms) VALUES ($1, $2, $3)")
                    .bind(&name)
                    .bind(request)
                    .bind(tx.now.0)
                    .execute(&mut tx.connection)
                    .await
                    .at(OP, &name)?;
                Ok(Replied::New)
            }
            .boxed()
        })
        .await
    }

    /// Keeps the answer to a request that was begun; `None` forgets that it was.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn end_reply(&self, name: &str, reply: Option<Vec<u8>>) -> Result<()> {
        const OP: &str = "webhook.end_reply";
        let name = name.to_owned();
        self.write(OP, move |tx| {
            async move {
                let query = match reply {
                    Some(reply) => {
                        sqlx::query("UPDATE webhook_replies SET reply = $2 WHERE name = $1")
                            .bind(&name)
                            .bind(reply)
                    }
                    None => sqlx::query("DELETE FROM webhook_replies WHERE name = $1").bind(&name),
                };
                query
                    .execute(&mut tx.connection)
                    .await
                    .at(OP, &name)
                    .map(drop)
            }
            .boxed()
        })
        .await
    }
}
