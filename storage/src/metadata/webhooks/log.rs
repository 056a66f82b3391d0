//! What was sent to whom, for those who look after it: listed, sent once more, forgotten in time.

use futures_util::FutureExt as _;
use sqlx::any::AnyRow;

use super::deliveries::{add_body, add_said, delivery_id};
use super::lanes::{Outcome, Settled, note};
use super::{few, find};
use crate::clock::UnixMillis;
use crate::error::Result;
use crate::metadata::sql::{At as _, Columns as _};
use crate::metadata::writer::Tx;
use crate::metadata::{Metadata, audit};

/// Where a delivery stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryState {
    /// It is sent, now or later.
    Queued,
    /// It waits for its script to work.
    Blocked,
    /// It was taken.
    Delivered,
    /// Nobody took it.
    Failed,
    /// It was not to be sent: too much waited already, or the endpoint was disabled.
    Skipped,
    /// Its endpoint was deleted.
    Dropped,
}

impl DeliveryState {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Queued,
        Self::Blocked,
        Self::Delivered,
        Self::Failed,
        Self::Skipped,
        Self::Dropped,
    ];

    /// Its word in rows and in answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Blocked => "blocked",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
            Self::Dropped => "dropped",
        }
    }

    /// The state of that word.
    pub fn from_name(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.as_str() == text)
    }
}

/// One event for one endpoint, and how that went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Its number.
    pub seq: i64,
    /// `dl_...`
    pub id: String,
    /// For whom.
    pub endpoint: String,
    /// Id of the message.
    pub message: String,
    /// Name of the event.
    pub event: String,
    /// Its number at the endpoint.
    pub sequence: i64,
    /// Where it stands.
    pub state: DeliveryState,
    /// When it is sent next.
    pub due: UnixMillis,
    /// Why it stands there.
    pub reason: Option<String>,
    /// When the event happened.
    pub occurred: UnixMillis,
    /// When it was kept.
    pub created: UnixMillis,
    /// When it ended.
    pub ended: Option<UnixMillis>,
    /// What was tried, the first first.
    pub attempts: Vec<Attempt>,
}

/// One attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Which, from 1 on.
    pub number: u32,
    /// When it began.
    pub begun: UnixMillis,
    /// How long it took.
    pub duration_ms: i64,
    /// Status of the answer.
    pub status: Option<u16>,
    /// A word: `ok`, or how it failed.
    pub result: String,
    /// How it failed, for people.
    pub error: Option<String>,
    /// How the answer began, where that was kept.
    pub response: Option<String>,
}

/// Which deliveries are listed.
#[derive(Debug, Clone, Default)]
pub struct DeliveryQuery {
    /// For whom.
    pub endpoint: String,
    /// Only those that stand there.
    pub state: Option<DeliveryState>,
    /// Only of events of that name.
    pub event: Option<String>,
    /// Only those kept from then on.
    pub since: Option<UnixMillis>,
    /// Only those kept before.
    pub until: Option<UnixMillis>,
    /// Only those with a lower number.
    pub before: Option<i64>,
}

/// What came of a wish to send once more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recovery {
    /// So many are sent once more.
    Queued(u64),
    /// There is no such delivery, or no such endpoint.
    Missing,
    /// The endpoint of the delivery was deleted.
    EndpointGone,
    /// What was sent is forgotten.
    BodyGone,
    /// Its script did not say what is sent, and nobody said to send it without.
    Blocked,
}

/// What a delivery is when it is sent once more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resend {
    /// As it was sent first.
    AsSent,
    /// As the event told it, whatever its script would say.
    Raw,
    /// As its script says by now: another body and more header fields where there are some.
    Said {
        /// What is sent.
        body: Option<String>,
        /// More header fields, as JSON.
        headers: Option<String>,
    },
}

macro_rules! delivery_columns {
    () => {
        "d.seq, d.id, d.endpoint, d.message, d.event, d.sequence, d.state, d.due_ms, d.reason, d.occurred_ms, \
         d.created_ms, d.ended_ms"
    };
}

impl Metadata {
    /// Up to `limit` deliveries with their attempts, the newest first.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn deliveries(&self, query: &DeliveryQuery, limit: u32) -> Result<Vec<Delivery>> {
        const OP: &str = "webhook.deliveries";
        let mut reader = self.reader(OP).await?;
        let rows = sqlx::query(concat!(
            "SELECT ",
            delivery_columns!(),
            " FROM webhook_deliveries d
              WHERE d.endpoint = $1 AND d.seq < $2 AND d.created_ms >= $3 AND d.created_ms < $4
                  AND (d.state = $5 OR $5 = '') AND (d.event = $6 OR $6 = '')
              ORDER BY d.seq DESC LIMIT $7"
        ))
        .bind(&query.endpoint)
        .bind(query.before.unwrap_or(i64::MAX))
        .bind(query.since.map_or(i64::MIN, |t| t.0))
        .bind(query.until.map_or(i64::MAX, |t| t.0))
        .bind(query.state.map_or("", DeliveryState::as_str))
        .bind(query.event.as_deref().unwrap_or_default())
        .bind(i64::from(limit))
        .fetch_all(&mut *reader)
        .await
        .at(OP, &query.endpoint)?;
        let mut found: Vec<Delivery> = rows.iter().map(delivery_of).collect::<Result<_>>()?;
        for one in &mut found {
            one.attempts = attempts(&mut reader, one.seq).await?;
        }
        Ok(found)
    }

    /// One delivery with all its attempts.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn delivery(&self, id: &str) -> Result<Option<Delivery>> {
        const OP: &str = "webhook.delivery";
        let mut reader = self.reader(OP).await?;
        let row = sqlx::query(concat!(
            "SELECT ",
            delivery_columns!(),
            " FROM webhook_deliveries d WHERE d.id = $1"
        ))
        .bind(id)
        .fetch_optional(&mut *reader)
        .await
        .at(OP, id)?;
        let Some(row) = row else { return Ok(None) };
        let mut found = delivery_of(&row)?;
        found.attempts = attempts(&mut reader, found.seq).await?;
        Ok(Some(found))
    }

    /// Sends a delivery once more, wherever it stands, by one fresh schedule.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn redeliver(&self, id: &str, what: Resend, actor: &str) -> Result<Recovery> {
        const OP: &str = "webhook.redeliver";
        let (id, actor) = (id.to_owned(), actor.to_owned());
        self.write(OP, move |tx| {
            async move {
                let row = sqlx::query(
                    "SELECT d.endpoint, d.state, d.raw, b.seq AS kept
                     FROM webhook_deliveries d LEFT JOIN webhook_bodies b ON b.seq = d.body WHERE d.id = $1",
                )
                .bind(&id)
                .fetch_optional(&mut tx.connection)
                .await
                .at(OP, &id)?;
                let Some(row) = row else {
                    return Ok(Recovery::Missing);
                };
                let (endpoint, state) = (row.text("endpoint")?, row.text("state")?);
                if find(tx, OP, &endpoint).await?.is_none() {
                    return Ok(Recovery::EndpointGone);
                }
                if row.opt_int("kept")?.is_none() {
                    return Ok(Recovery::BodyGone);
                }
                if row.truth("raw")? && what == Resend::AsSent {
                    return Ok(Recovery::Blocked);
                }
                queue_again(tx, &id, what).await?;
                let waited = matches!(state.as_str(), "queued" | "blocked");
                sqlx::query("UPDATE webhooks SET queued = queued + $2 WHERE id = $1")
                    .bind(&endpoint)
                    .bind(i64::from(!waited))
                    .execute(&mut tx.connection)
                    .await
                    .at(OP, &endpoint)?;
                audit::record(tx, &actor, OP, &id).await?;
                Ok(Recovery::Queued(1))
            }
            .boxed()
        })
        .await
    }

    /// Sends all of an endpoint's deliveries once more that ended in that state and were kept from `since` on and before
    /// `until`, in order; no tests, and what its script did not say anything of once it does.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn recover_deliveries(
        &self,
        endpoint: &str,
        state: DeliveryState,
        (since, until): (UnixMillis, UnixMillis),
        actor: &str,
    ) -> Result<Recovery> {
        const OP: &str = "webhook.recover";
        let (endpoint, actor) = (endpoint.to_owned(), actor.to_owned());
        self.write(OP, move |tx| {
            async move {
                if find(tx, OP, &endpoint).await?.is_none() {
                    return Ok(Recovery::Missing);
                }
                let queued = sqlx::query(
                    "UPDATE webhook_deliveries SET state = CASE WHEN raw = 1 THEN 'blocked' ELSE 'queued' END,
                         due_ms = $2, tries = 0, ended_ms = NULL,
                         reason = CASE WHEN raw = 1 THEN 'its script is asked what is sent' END
                     WHERE endpoint = $1 AND state = $3 AND created_ms >= $4 AND created_ms < $5 AND subject <> ''
                         AND body IN (SELECT seq FROM webhook_bodies)",
                )
                .bind(&endpoint)
                .bind(tx.now.0)
                .bind(state.as_str())
                .bind(since.0)
                .bind(until.0)
                .execute(&mut tx.connection)
                .await
                .at(OP, &endpoint)?
                .rows_affected();
                sqlx::query("UPDATE webhooks SET queued = queued + $2 WHERE id = $1")
                    .bind(&endpoint)
                    .bind(i64::try_from(queued).unwrap_or(i64::MAX))
                    .execute(&mut tx.connection)
                    .await
                    .at(OP, &endpoint)?;
                audit::record(tx, &actor, OP, &endpoint).await?;
                Ok(Recovery::Queued(queued))
            }
            .boxed()
        })
        .await
    }

    /// Keeps a delivery that is about nothing and sent once, by its caller and just now: its number, its id, and its number at the
    /// endpoint; `None` when there is no such endpoint.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn begin_test(
        &self,
        endpoint: &str,
        (message, event): (&str, &str),
        body: String,
    ) -> Result<Option<(i64, String, i64)>> {
        const OP: &str = "webhook.test";
        let endpoint = endpoint.to_owned();
        let (message, event) = (message.to_owned(), event.to_owned());
        self.write(OP, move |tx| {
            async move {
                let row = sqlx::query(
                    "UPDATE webhooks SET sequence = sequence + 1 WHERE id = $1 RETURNING sequence",
                )
                .bind(&endpoint)
                .fetch_optional(&mut tx.connection)
                .await
                .at(OP, &endpoint)?;
                let Some(row) = row else { return Ok(None) };
                let sequence = row.int("sequence")?;
                let body_seq = tx.next_id("webhook_bodies").await?;
                add_body(tx, body_seq, body).await?;
                let (seq, id) = (tx.next_id("webhook_deliveries").await?, delivery_id()?);
                sqlx::query(
                    "INSERT INTO webhook_deliveries (seq, id, endpoint, message, event, subject, sequence, body,
                         state, due_ms, tries, attempts, reason, occurred_ms, created_ms, ended_ms)
                     VALUES ($1, $2, $3, $4, $5, '', $6, $7, 'failed', $8, 0, 0, 'a test that was cut off', $8, $8, $8)",
                )
                .bind(seq)
                .bind(&id)
                .bind(&endpoint)
                .bind(message)
                .bind(event)
                .bind(sequence)
                .bind(body_seq)
                .bind(tx.now.0)
                .execute(&mut tx.connection)
                .await
                .at(OP, &endpoint)?;
                Ok(Some((seq, id, sequence)))
            }
            .boxed()
        })
        .await
    }

    /// Writes how such a delivery went.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn end_test(&self, tried: Settled) -> Result<()> {
        const OP: &str = "webhook.end_test";
        self.write(OP, move |tx| {
            async move {
                let seq = tx.next_id("webhook_attempts").await?;
                note(tx, &[(seq, &tried)]).await?;
                let delivered = tried.outcome == Outcome::Delivered;
                sqlx::query(
                    "UPDATE webhook_deliveries SET state = $2, attempts = 1, reason = $3 WHERE seq = $1",
                )
                .bind(tried.seq)
                .bind(if delivered { "delivered" } else { "failed" })
                .bind(tried.error)
                .execute(&mut tx.connection)
                .await
                .at(OP, tried.seq)
                .map(drop)
            }
            .boxed()
        })
        .await
    }

    /// Forgets up to `limit` rows of each kind: deliveries that ended by `ended` with their attempts, and those beyond
    /// the newest `most`; bodies of those that ended by `sent`. Returns how many went.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn prune_webhooks(
        &self,
        (ended, sent): (UnixMillis, UnixMillis),
        most: u64,
        limit: u32,
    ) -> Result<u64> {
        const OP: &str = "webhook.prune";
        // Looked at first: where nothing is due, nothing is written.
        let mut reader = self.reader(OP).await?;
        let newest = sqlx::query("SELECT COALESCE(MAX(seq), 0) AS seq FROM webhook_deliveries")
            .fetch_one(&mut *reader)
            .await
            .at(OP, "deliveries")?
            .int("seq")?;
        let floor = newest.saturating_sub(i64::try_from(most).unwrap_or(i64::MAX));
        let due = sqlx::query(
            "SELECT seq FROM webhook_deliveries WHERE ended_ms <= $1
             UNION ALL SELECT seq FROM webhook_deliveries WHERE ended_ms IS NOT NULL AND seq <= $2
             UNION ALL SELECT seq FROM webhook_bodies WHERE created_ms <= $3 LIMIT 1",
        )
        .bind(ended.0)
        .bind(floor)
        .bind(sent.0)
        .fetch_optional(&mut *reader)
        .await
        .at(OP, "deliveries")?;
        drop(reader);
        if due.is_none() {
            return Ok(0);
        }
        self.write(OP, move |tx| {
            async move {
                let mut gone = 0;
                for query in [
                    "DELETE FROM webhook_attempts WHERE delivery IN (
                         SELECT seq FROM webhook_deliveries WHERE ended_ms <= $1 OR (ended_ms IS NOT NULL AND seq <= $2)
                         ORDER BY seq LIMIT $3)",
                    "DELETE FROM webhook_deliveries WHERE seq IN (
                         SELECT seq FROM webhook_deliveries WHERE ended_ms <= $1 OR (ended_ms IS NOT NULL AND seq <= $2)
                         ORDER BY seq LIMIT $3)",
                ] {
                    let done = sqlx::query(query)
                        .bind(ended.0)
                        .bind(floor)
                        .bind(i64::from(limit))
                        .execute(&mut tx.connection)
                        .await
                        .at(OP, "deliveries")?;
                    gone = done.rows_affected();
                }
                let bodies = sqlx::query(
                    "DELETE FROM webhook_bodies WHERE seq IN (
                         SELECT b.seq FROM webhook_bodies b WHERE b.created_ms <= $1 AND NOT EXISTS (
                             SELECT 1 FROM webhook_deliveries d
                             WHERE d.body = b.seq AND (d.ended_ms IS NULL OR d.ended_ms > $1))
                         ORDER BY b.seq LIMIT $2)",
                )
                .bind(sent.0)
                .bind(i64::from(limit))
                .execute(&mut tx.connection)
                .await
                .at(OP, "bodies")?;
                Ok(gone.max(bodies.rows_affected()))
            }
            .boxed()
        })
        .await
    }
}

/// Makes a delivery wait to be sent from now on.
async fn queue_again(tx: &mut Tx, id: &str, what: Resend) -> Result<()> {
    const OP: &str = "webhook.redeliver";
    let (said, body, headers) = match what {
        Resend::AsSent | Resend::Raw => (false, None, None),
        Resend::Said { body, headers } => (true, body, headers),
    };
    let body_seq = add_said(tx, body).await?;
    sqlx::query(
        "UPDATE webhook_deliveries SET state = 'queued', due_ms = $2, tries = 0, reason = NULL, ended_ms = NULL,
             raw = 0, body = COALESCE($3, body), headers = CASE WHEN $4 = 1 THEN $5 ELSE headers END
         WHERE id = $1",
    )
    .bind(id)
    .bind(tx.now.0)
    .bind(body_seq)
    .bind(i64::from(said))
    .bind(headers)
    .execute(&mut tx.connection)
    .await
    .at(OP, id)
    .map(drop)
}

async fn attempts(
    reader: &mut sqlx::pool::PoolConnection<sqlx::Any>,
    delivery: i64,
) -> Result<Vec<Attempt>> {
    sqlx::query(
        "SELECT number, begun_ms, duration_ms, status, result, error, response
         FROM webhook_attempts WHERE delivery = $1 ORDER BY seq",
    )
    .bind(delivery)
    .fetch_all(&mut **reader)
    .await
    .at("webhook.attempts", delivery)?
    .iter()
    .map(|row| {
        Ok(Attempt {
            number: few(row, "number")?,
            begun: row.time("begun_ms")?,
            duration_ms: row.int("duration_ms")?,
            status: row.opt_int("status")?.and_then(|s| u16::try_from(s).ok()),
            result: row.text("result")?,
            error: row.opt_text("error")?,
            response: row.opt_text("response")?,
        })
    })
    .collect()
}

fn delivery_of(row: &AnyRow) -> Result<Delivery> {
    Ok(Delivery {
        seq: row.int("seq")?,
        id: row.text("id")?,
        endpoint: row.text("endpoint")?,
        message: row.text("message")?,
        event: row.text("event")?,
        sequence: row.int("sequence")?,
        state: row.word("state", DeliveryState::from_name)?,
        due: row.time("due_ms")?,
        reason: row.opt_text("reason")?,
        occurred: row.time("occurred_ms")?,
        created: row.time("created_ms")?,
        ended: row.opt_int("ended_ms")?.map(UnixMillis),
        attempts: Vec::new(),
    })
}
