//! Sending, as rows see it: one node at a time sends for an endpoint, under a claim that runs out by itself; what is due
//! is read without a change, and what came of it is written for many at once.

use std::collections::HashSet;
use std::time::Duration;

use futures_util::FutureExt as _;
use sqlx::AssertSqlSafe;
use sqlx::any::AnyRow;

use super::deliveries::AT_ONCE;
use super::{Endpoint, Health, endpoint_columns, endpoint_of, few, find, give_up, hurry};
use crate::clock::UnixMillis;
use crate::error::Result;
use crate::metadata::Metadata;
use crate::metadata::sql::{At as _, Columns as _, list, places};
use crate::metadata::writer::Tx;

/// What must not overtake what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Nothing matters.
    None,
    /// What has the same subject stays in order.
    Subject,
    /// Everything stays in order.
    All,
}

/// What is to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// Its number.
    pub seq: i64,
    /// Id of the message.
    pub message: String,
    /// Name of the event.
    pub event: String,
    /// Its number at the endpoint.
    pub sequence: i64,
    /// What is sent; `None` when it is forgotten.
    pub body: Option<String>,
    /// More header fields, as JSON.
    pub headers: Option<String>,
    /// From when on it is to be sent.
    pub due: UnixMillis,
    /// How often it was, along its schedule.
    pub tries: u32,
    /// How often it was at all.
    pub attempts: u32,
    /// When it was kept.
    pub created: UnixMillis,
}

/// What became of a delivery by an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was taken.
    Delivered,
    /// It waits until then, having been tried so often along its schedule.
    Again(UnixMillis, u32),
    /// Its schedule has ended.
    Failed,
}

/// One attempt that ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// Number of the delivery.
    pub seq: i64,
    /// Which attempt of it, from 1 on.
    pub number: u32,
    /// When it began.
    pub begun: UnixMillis,
    /// How long it took.
    pub duration_ms: i64,
    /// Status of the answer.
    pub status: Option<u16>,
    /// A word: `ok`, or how it failed.
    pub result: &'static str,
    /// How it failed, for people.
    pub error: Option<String>,
    /// How the answer began, where that is kept.
    pub response: Option<String>,
    /// What became of the delivery.
    pub outcome: Outcome,
}

impl Metadata {
    /// Endpoints for which something waits and for which `owner` sends: those that were its own, and those that are
    /// nobody's, for `lease` from now on. A claim that has `fresh` left is not renewed.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn claim_webhooks(
        &self,
        owner: &str,
        (lease, fresh): (Duration, Duration),
    ) -> Result<Vec<Endpoint>> {
        const OP: &str = "webhook.claim";
        // Looked at first: where nothing waits, nothing is written.
        let now = self.now();
        let mut reader = self.reader(OP).await?;
        let found = sqlx::query(concat!(
            "SELECT ",
            endpoint_columns!(),
            " FROM webhooks WHERE enabled = 1 AND queued > 0 AND (owner = $1 OR lease_ms <= $2) ORDER BY seq"
        ))
        .bind(owner)
        .bind(now.0)
        .fetch_all(&mut *reader)
        .await
        .at(OP, "webhooks")?;
        drop(reader);
        let found: Vec<Endpoint> = found.iter().map(endpoint_of).collect::<Result<_>>()?;
        if found.iter().all(|e| e.lease > now.plus(fresh)) {
            return Ok(found);
        }
        let owner = owner.to_owned();
        self.write(OP, move |tx| {
            async move {
                sqlx::query(concat!(
                    "UPDATE webhooks SET owner = $1, lease_ms = $3
                     WHERE enabled = 1 AND queued > 0 AND (owner = $1 OR lease_ms <= $2) RETURNING ",
                    endpoint_columns!()
                ))
                .bind(owner)
                .bind(tx.now.0)
                .bind(tx.now.plus(lease).0)
                .fetch_all(&mut tx.connection)
                .await
                .at(OP, "webhooks")?
                .iter()
                .map(endpoint_of)
                .collect()
            }
            .boxed()
        })
        .await
    }

    /// Gives back all endpoints for which `owner` sends.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn release_webhooks(&self, owner: &str) -> Result<()> {
        const OP: &str = "webhook.release";
        let owner = owner.to_owned();
        self.write(OP, move |tx| {
            async move {
                sqlx::query("UPDATE webhooks SET owner = NULL, lease_ms = 0 WHERE owner = $1")
                    .bind(owner)
                    .execute(&mut tx.connection)
                    .await
                    .at(OP, "webhooks")
                    .map(drop)
            }
            .boxed()
        })
        .await
    }

    /// Up to `limit` deliveries for an endpoint that are due by `until`, none before what it must not overtake, and none
    /// of those that are `held`.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn due_deliveries(
        &self,
        endpoint: &str,
        order: Order,
        (until, limit): (UnixMillis, usize),
        held: &HashSet<i64>,
    ) -> Result<Vec<Due>> {
        const OP: &str = "webhook.due";
        macro_rules! due {
            ($which:literal) => {
                concat!(
                    "SELECT seq FROM webhook_deliveries WHERE endpoint = $1 AND state = 'queued' AND due_ms <= $2",
                    $which,
                    " LIMIT $3"
                )
            };
        }
        let query = match order {
            Order::None => due!(" ORDER BY due_ms, seq"),
            Order::Subject => due!(
                " AND seq IN (SELECT MIN(seq) FROM webhook_deliveries
                      WHERE endpoint = $1 AND state IN ('queued', 'blocked') GROUP BY subject)
                  ORDER BY seq"
            ),
            Order::All => due!(
                " AND seq = (SELECT MIN(seq) FROM webhook_deliveries
                      WHERE endpoint = $1 AND state IN ('queued', 'blocked'))
                  ORDER BY seq"
            ),
        };
        let mut reader = self.reader(OP).await?;
        let found = sqlx::query(query)
            .bind(endpoint)
            .bind(until.0)
            .bind(i64::try_from(limit + held.len()).unwrap_or(i64::MAX))
            .fetch_all(&mut *reader)
            .await
            .at(OP, endpoint)?;
        let mut wanted = Vec::with_capacity(limit);
        for row in &found {
            let seq = row.int("seq")?;
            if wanted.len() < limit && !held.contains(&seq) {
                wanted.push(seq);
            }
        }
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        // Bodies are read of these alone.
        let text = format!(
            "SELECT d.seq, d.message, d.event, d.sequence, d.headers, d.due_ms, d.tries, d.attempts, d.created_ms,
                 b.body AS text
             FROM webhook_deliveries d LEFT JOIN webhook_bodies b ON b.seq = d.body
             WHERE d.state = 'queued' AND d.seq IN {}",
            list(wanted.len())
        );
        let mut query = sqlx::query(AssertSqlSafe(text));
        for seq in &wanted {
            query = query.bind(*seq);
        }
        let rows = query.fetch_all(&mut *reader).await.at(OP, endpoint)?;
        let mut due = rows.iter().map(due_of).collect::<Result<Vec<Due>>>()?;
        match order {
            Order::None => due.sort_by_key(|one| (one.due, one.seq)),
            Order::Subject | Order::All => due.sort_by_key(|one| one.seq),
        }
        Ok(due)
    }

    /// Writes what came of attempts for one endpoint, and how it answers, if `owner` still sends for it and nobody
    /// changed it meanwhile; what was taken is noted in any case. `lively` makes all that waits due; `reason` disables it.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn settle_deliveries(
        &self,
        owner: &str,
        endpoint: &Endpoint,
        settled: Vec<Settled>,
        (lively, reason): (bool, Option<String>),
    ) -> Result<()> {
        const OP: &str = "webhook.settle";
        let (owner, endpoint) = (owner.to_owned(), endpoint.clone());
        self.write(OP, move |tx| {
            async move {
                let id = endpoint.id.as_str();
                let ended = settle(tx, settled).await?;
                sqlx::query("UPDATE webhooks SET queued = queued - $2 WHERE id = $1")
                    .bind(id)
                    .bind(ended)
                    .execute(&mut tx.connection)
                    .await
                    .at(OP, id)?;
                if !keep_health(tx, &owner, &endpoint).await? {
                    return Ok(());
                }
                if lively {
                    hurry(tx, OP, id).await?;
                }
                if let Some(reason) = reason {
                    give_up(tx, &endpoint, &reason).await?;
                }
                Ok(())
            }
            .boxed()
        })
        .await
    }

    /// Since when the oldest of what waits for an endpoint does.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn oldest_waiting(&self, endpoint: &str) -> Result<Option<UnixMillis>> {
        const OP: &str = "webhook.oldest";
        let mut reader = self.reader(OP).await?;
        sqlx::query(
            "SELECT created_ms FROM webhook_deliveries WHERE endpoint = $1 AND state IN ('queued', 'blocked')
             ORDER BY seq LIMIT 1",
        )
        .bind(endpoint)
        .fetch_optional(&mut *reader)
        .await
        .at(OP, endpoint)?
        .map(|row| row.time("created_ms"))
        .transpose()
    }
}

/// Attempts into the log, and their deliveries to where that leads; how many wait less now.
async fn settle(tx: &mut Tx, settled: Vec<Settled>) -> Result<i64> {
    let first = tx.next_ids("webhook_attempts", settled.len()).await?;
    let rows: Vec<(i64, &Settled)> = (first..).zip(&settled).collect();
    for rows in rows.chunks(AT_ONCE) {
        note(tx, rows).await?;
    }
    let (taken, others): (Vec<Settled>, Vec<Settled>) = settled
        .into_iter()
        .partition(|one| one.outcome == Outcome::Delivered);
    let mut ended = 0;
    for taken in taken.chunks(AT_ONCE) {
        ended += deliver(tx, taken).await?;
    }
    for one in others {
        ended += put_off(tx, one).await?;
    }
    Ok(i64::try_from(ended).unwrap_or(i64::MAX))
}

/// What was taken; how much of it waited.
async fn deliver(tx: &mut Tx, taken: &[Settled]) -> Result<u64> {
    let text = format!(
        "UPDATE webhook_deliveries SET state = 'delivered', tries = tries + 1, attempts = attempts + 1, reason = NULL,
             ended_ms = ${} WHERE state = 'queued' AND seq IN {}",
        taken.len() + 1,
        list(taken.len()),
    );
    let mut query = sqlx::query(AssertSqlSafe(text));
    for one in taken {
        query = query.bind(one.seq);
    }
    let query = query.bind(tx.now.0);
    let changed = query
        .execute(&mut tx.connection)
        .await
        .at("webhook.settle", taken.len())?;
    Ok(changed.rows_affected())
}

/// What was not taken, to when it is tried again or to its end; how many wait less.
async fn put_off(tx: &mut Tx, one: Settled) -> Result<u64> {
    let (state, due, tries, ended) = match one.outcome {
        Outcome::Delivered => ("delivered", None, None, Some(tx.now.0)),
        Outcome::Again(due, tries) => ("queued", Some(due.0), Some(i64::from(tries)), None),
        Outcome::Failed => ("failed", None, None, Some(tx.now.0)),
    };
    let changed = sqlx::query(
        "UPDATE webhook_deliveries SET state = $2, due_ms = COALESCE($3, due_ms), tries = COALESCE($4, tries + 1),
             attempts = $5, reason = $6, ended_ms = $7
         WHERE seq = $1 AND state = 'queued'",
    )
    .bind(one.seq)
    .bind(state)
    .bind(due)
    .bind(tries)
    .bind(i64::from(one.number))
    .bind(one.error)
    .bind(ended)
    .execute(&mut tx.connection)
    .await
    .at("webhook.settle", one.seq)?;
    Ok(if ended.is_some() {
        changed.rows_affected()
    } else {
        0
    })
}

/// Attempts into the log, under these numbers.
pub(super) async fn note(tx: &mut Tx, rows: &[(i64, &Settled)]) -> Result<()> {
    let text = format!(
        "INSERT INTO webhook_attempts (seq, delivery, number, begun_ms, duration_ms, status, result, error, response)
         VALUES {}",
        places(9, rows.len())
    );
    let mut query = sqlx::query(AssertSqlSafe(text));
    for (seq, one) in rows {
        query = query
            .bind(*seq)
            .bind(one.seq)
            .bind(i64::from(one.number))
            .bind(one.begun.0)
            .bind(one.duration_ms)
            .bind(one.status.map(i64::from))
            .bind(one.result)
            .bind(one.error.as_deref())
            .bind(one.response.as_deref());
    }
    query
        .execute(&mut tx.connection)
        .await
        .at("webhook.note", rows.len())
        .map(drop)
}

/// Writes how an endpoint answers; false when that is another's to say by now.
async fn keep_health(tx: &mut Tx, owner: &str, endpoint: &Endpoint) -> Result<bool> {
    const OP: &str = "webhook.health";
    let Some(now) = find(tx, OP, &endpoint.id).await? else {
        return Ok(false);
    };
    if now.revision != endpoint.revision || now.health == endpoint.health {
        return Ok(now.revision == endpoint.revision);
    }
    let Health {
        failed,
        failing_since,
        pauses,
        paused_until,
        last_success,
        last_error,
    } = &endpoint.health;
    let kept = sqlx::query(
        "UPDATE webhooks SET failed = $3, failing_since_ms = $4, pauses = $5, paused_until_ms = $6,
             last_success_ms = $7, last_error = $8
         WHERE id = $1 AND owner = $2",
    )
    .bind(&endpoint.id)
    .bind(owner)
    .bind(i64::from(*failed))
    .bind(failing_since.map(|t| t.0))
    .bind(i64::from(*pauses))
    .bind(paused_until.0)
    .bind(last_success.map(|t| t.0))
    .bind(last_error.as_deref())
    .execute(&mut tx.connection)
    .await
    .at(OP, &endpoint.id)?;
    Ok(kept.rows_affected() == 1)
}

fn due_of(row: &AnyRow) -> Result<Due> {
    Ok(Due {
        seq: row.int("seq")?,
        message: row.text("message")?,
        event: row.text("event")?,
        sequence: row.int("sequence")?,
        body: row.opt_text("text")?,
        headers: row.opt_text("headers")?,
        due: row.time("due_ms")?,
        tries: few(row, "tries")?,
        attempts: few(row, "attempts")?,
        created: row.time("created_ms")?,
    })
}
