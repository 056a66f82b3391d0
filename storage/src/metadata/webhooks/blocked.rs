//! Deliveries whose script failed: they wait until it works, or until somebody sends them without it.

use futures_util::FutureExt as _;
use sqlx::any::AnyRow;

use super::deliveries::add_said;
use crate::clock::UnixMillis;
use crate::error::Result;
use crate::metadata::Metadata;
use crate::metadata::sql::{At as _, Columns as _};

/// A delivery that waits for its script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocked {
    /// Its number.
    pub seq: i64,
    /// Id of the message.
    pub message: String,
    /// Name of the event.
    pub event: String,
    /// What would be sent without the script.
    pub body: String,
    /// When the event happened.
    pub occurred: UnixMillis,
}

/// What a script said at last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unblocked {
    /// It is sent, with another body and more header fields where there are some.
    Send {
        /// What is sent.
        body: Option<String>,
        /// More header fields, as JSON.
        headers: Option<String>,
    },
    /// It is not sent.
    Drop,
}

impl Metadata {
    /// Whether any delivery waits for its script.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn has_blocked_deliveries(&self) -> Result<bool> {
        const OP: &str = "webhook.blocked";
        let mut reader = self.reader(OP).await?;
        let found =
            sqlx::query("SELECT seq FROM webhook_deliveries WHERE state = 'blocked' LIMIT 1")
                .fetch_optional(&mut *reader)
                .await
                .at(OP, "deliveries")?;
        Ok(found.is_some())
    }

    /// Up to `limit` deliveries for an endpoint that wait for its script, with numbers above `after`, in order.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn blocked_deliveries(
        &self,
        endpoint: &str,
        after: i64,
        limit: u32,
    ) -> Result<Vec<Blocked>> {
        const OP: &str = "webhook.blocked";
        let mut reader = self.reader(OP).await?;
        sqlx::query(
            "SELECT d.seq, d.message, d.event, d.occurred_ms, b.body AS text
             FROM webhook_deliveries d JOIN webhook_bodies b ON b.seq = d.body
             WHERE d.endpoint = $1 AND d.state = 'blocked' AND d.seq > $2
             ORDER BY d.seq LIMIT $3",
        )
        .bind(endpoint)
        .bind(after)
        .bind(i64::from(limit))
        .fetch_all(&mut *reader)
        .await
        .at(OP, endpoint)?
        .iter()
        .map(blocked_of)
        .collect()
    }

    /// A delivery whose script has not said what is sent, with its endpoint, wherever it stands.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn raw_delivery(&self, id: &str) -> Result<Option<(String, Blocked)>> {
        const OP: &str = "webhook.raw";
        let mut reader = self.reader(OP).await?;
        sqlx::query(
            "SELECT d.endpoint, d.seq, d.message, d.event, d.occurred_ms, b.body AS text
             FROM webhook_deliveries d JOIN webhook_bodies b ON b.seq = d.body
             WHERE d.id = $1 AND d.raw = 1",
        )
        .bind(id)
        .fetch_optional(&mut *reader)
        .await
        .at(OP, id)?
        .map(|row| Ok((row.text("endpoint")?, blocked_of(&row)?)))
        .transpose()
    }

    /// Lets a delivery go as its script says, if it still waits for it.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn unblock_delivery(&self, seq: i64, said: Unblocked) -> Result<()> {
        const OP: &str = "webhook.unblock";
        self.write(OP, move |tx| {
            async move {
                let (state, body, headers) = match said {
                    Unblocked::Drop => ("dropped", None, None),
                    Unblocked::Send { body, headers } => ("queued", body, headers),
                };
                let body_seq = add_said(tx, body).await?;
                let dropped = state == "dropped";
                let changed = sqlx::query(
                    "UPDATE webhook_deliveries SET state = $2, body = COALESCE($3, body), headers = $4, due_ms = $5,
                         reason = $6, ended_ms = $7, raw = $8
                     WHERE seq = $1 AND state = 'blocked'",
                )
                .bind(seq)
                .bind(state)
                .bind(body_seq)
                .bind(headers)
                .bind(tx.now.0)
                .bind(dropped.then_some("its script does not send it"))
                .bind(dropped.then_some(tx.now.0))
                .bind(i64::from(dropped))
                .execute(&mut tx.connection)
                .await
                .at(OP, seq)?;
                if dropped && changed.rows_affected() == 1 {
                    sqlx::query(
                        "UPDATE webhooks SET queued = queued - 1
                         WHERE id = (SELECT endpoint FROM webhook_deliveries WHERE seq = $1)",
                    )
                    .bind(seq)
                    .execute(&mut tx.connection)
                    .await
                    .at(OP, seq)?;
                }
                Ok(())
            }
            .boxed()
        })
        .await
    }

    /// Lets all that waits for the script of an endpoint go as it is; how many.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn unblock_deliveries(&self, endpoint: &str) -> Result<u64> {
        const OP: &str = "webhook.unblock";
        if self.blocked_deliveries(endpoint, 0, 1).await?.is_empty() {
            return Ok(0);
        }
        let endpoint = endpoint.to_owned();
        self.write(OP, move |tx| {
            async move {
                let freed = sqlx::query(
                    "UPDATE webhook_deliveries SET state = 'queued', due_ms = $2, reason = NULL, raw = 0
                     WHERE endpoint = $1 AND state = 'blocked'",
                )
                .bind(&endpoint)
                .bind(tx.now.0)
                .execute(&mut tx.connection)
                .await
                .at(OP, &endpoint)?;
                Ok(freed.rows_affected())
            }
            .boxed()
        })
        .await
    }
}

fn blocked_of(row: &AnyRow) -> Result<Blocked> {
    Ok(Blocked {
        seq: row.int("seq")?,
        message: row.text("message")?,
        event: row.text("event")?,
        body: row.text("text")?,
        occurred: row.time("occurred_ms")?,
    })
}
