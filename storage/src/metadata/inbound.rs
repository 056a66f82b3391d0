//! Webhooks that come in for plugins: which were seen, and which are still to be run.
//!
//! A delivery is a row from the moment it is taken. One that its sender waits for is taken for as long as its call may
//! last and ends with it; one that is run later is kept whole, claimed by one node at a time, and tried again until it
//! is done or was tried often enough. Whoever ends a delivery says for whom: a claim that ran out changes nothing.

use std::time::Duration;

use futures_util::FutureExt as _;
use sqlx::any::AnyRow;

use super::Metadata;
use super::sql::{At as _, Columns as _};
use super::writer::Tx;
use crate::clock::UnixMillis;
use crate::error::Result;

/// What tells one delivery from all others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The plugin that it is for.
    pub plugin: String,
    /// The plugin's hook.
    pub hook: String,
    /// The id that its sender gave it.
    pub id: String,
}

/// What became of a delivery whose sender waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It is the caller's to run, under this number.
    Ours(i64),
    /// It is just being run for another request.
    UnderWay,
    /// It was run.
    Repeat,
}

/// What became of a delivery that is run later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queued {
    /// It is kept.
    Kept,
    /// It was kept before.
    Repeat,
    /// Too many wait already.
    Full,
}

/// A delivery that is the caller's to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// Its number.
    pub seq: i64,
    /// Which it is.
    pub delivery: Delivery,
    /// The request's head, in the words of whoever kept it.
    pub head: String,
    /// The request's body.
    pub body: Vec<u8>,
    /// How often it was run, this time included.
    pub tries: u32,
    /// When it came.
    pub received: UnixMillis,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// Well.
    Done,
    /// Badly: it is run again from then on.
    Again(UnixMillis, String),
    /// Badly, and for the last time.
    Failed(String),
    /// It was cut off, and counts as no try.
    Cut,
    /// Badly, and its sender was told: it may come again.
    Forgotten,
}

impl Metadata {
    /// Takes a delivery whose sender waits, for so long. An id is known for `kept`.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn take_delivery(
        &self,
        delivery: Delivery,
        owner: &str,
        (lease, kept): (Duration, Duration),
    ) -> Result<Taken> {
        const OP: &str = "inbound.take";
        let owner = owner.to_owned();
        self.write(OP, move |tx| {
            async move {
                if let Some(found) = seen(tx, &delivery, kept).await? {
                    if found.state != "running" {
                        return Ok(Taken::Repeat);
                    }
                    if found.due > tx.now {
                        return Ok(Taken::UnderWay);
                    }
                    // Whoever ran it is gone.
                    forget(tx, found.seq).await?;
                }
                let due = tx.now.plus(lease);
                let seq = insert(tx, &delivery, ("running", due), Some(owner), None).await?;
                Ok(Taken::Ours(seq))
            }
            .boxed()
        })
        .await
    }

    /// Keeps a delivery that is run later, unless `most` wait already. An id is known for `kept`.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn queue_delivery(
        &self,
        delivery: Delivery,
        (head, body): (String, Vec<u8>),
        (most, kept): (u32, Duration),
    ) -> Result<Queued> {
        const OP: &str = "inbound.queue";
        self.write(OP, move |tx| {
            async move {
                if let Some(found) = seen(tx, &delivery, kept).await? {
                    if found.state != "failed" {
                        return Ok(Queued::Repeat);
                    }
                    // Its sender was asked to send it once more.
                    forget(tx, found.seq).await?;
                }
                let waiting = sqlx::query(
                    "SELECT COUNT(*) AS n FROM inbound WHERE state IN ('running', 'waiting')",
                )
                .fetch_one(&mut tx.connection)
                .await
                .at(OP, "inbound")?
                .int("n")?;
                if waiting >= i64::from(most) {
                    return Ok(Queued::Full);
                }
                let due = tx.now;
                insert(tx, &delivery, ("waiting", due), None, Some((head, body))).await?;
                Ok(Queued::Kept)
            }
            .boxed()
        })
        .await
    }

    /// When the next delivery is due to be run, if one is kept.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn next_delivery(&self) -> Result<Option<UnixMillis>> {
        const OP: &str = "inbound.next";
        let mut reader = self.reader(OP).await?;
        sqlx::query(
            "SELECT due_ms FROM inbound WHERE state IN ('running', 'waiting') AND head IS NOT NULL
             ORDER BY due_ms LIMIT 1",
        )
        .fetch_optional(&mut *reader)
        .await
        .at(OP, "inbound")?
        .map(|row| row.time("due_ms"))
        .transpose()
    }

    /// Takes up to `limit` deliveries that are due, those that wait longest first, each for so long.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn claim_deliveries(
        &self,
        owner: &str,
        lease: Duration,
        limit: u32,
    ) -> Result<Vec<Claimed>> {
        const OP: &str = "inbound.claim";
        let owner = owner.to_owned();
        self.write(OP, move |tx| {
            async move {
                let rows = sqlx::query(
                    "SELECT seq, plugin, hook, delivery, head, body, tries, received_ms FROM inbound
                     WHERE state IN ('running', 'waiting') AND head IS NOT NULL AND due_ms <= $1
                     ORDER BY due_ms, seq LIMIT $2",
                )
                .bind(tx.now.0)
                .bind(i64::from(limit))
                .fetch_all(&mut tx.connection)
                .await
                .at(OP, "inbound")?;
                let claimed: Vec<Claimed> = rows.iter().map(claimed).collect::<Result<_>>()?;
                for one in &claimed {
                    sqlx::query(
                        "UPDATE inbound SET state = 'running', owner = $2, due_ms = $3,
                             tries = tries + 1 WHERE seq = $1",
                    )
                    .bind(one.seq)
                    .bind(&owner)
                    .bind(tx.now.plus(lease).0)
                    .execute(&mut tx.connection)
                    .await
                    .at(OP, one.seq)?;
                }
                Ok(claimed)
            }
            .boxed()
        })
        .await
    }

    /// Keeps a delivery that `owner` runs for so much longer; false when it is another's by now.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn renew_delivery(&self, seq: i64, owner: &str, lease: Duration) -> Result<bool> {
        const OP: &str = "inbound.renew";
        let owner = owner.to_owned();
        self.write(OP, move |tx| {
            async move {
                let renewed = sqlx::query(
                    "UPDATE inbound SET due_ms = $3
                     WHERE seq = $1 AND owner = $2 AND state = 'running'",
                )
                .bind(seq)
                .bind(owner)
                .bind(tx.now.plus(lease).0)
                .execute(&mut tx.connection)
                .await
                .at(OP, seq)?;
                Ok(renewed.rows_affected() == 1)
            }
            .boxed()
        })
        .await
    }

    /// Notes how a run ended; false when the delivery is another's by now, and nothing changes.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn end_delivery(&self, seq: i64, owner: &str, end: End) -> Result<bool> {
        const OP: &str = "inbound.end";
        let owner = owner.to_owned();
        self.write(OP, move |tx| {
            async move {
                if end == End::Forgotten {
                    let gone = sqlx::query(
                        "DELETE FROM inbound WHERE seq = $1 AND owner = $2 AND state = 'running'",
                    )
                    .bind(seq)
                    .bind(owner)
                    .execute(&mut tx.connection)
                    .await
                    .at(OP, seq)?;
                    return Ok(gone.rows_affected() == 1);
                }
                let (state, due, error, untried) = match end {
                    End::Done => ("done", tx.now, None, 0),
                    End::Failed(why) => ("failed", tx.now, Some(why), 0),
                    End::Again(at, why) => ("waiting", at, Some(why), 0),
                    End::Cut | End::Forgotten => ("waiting", tx.now, None, 1),
                };
                let ended = sqlx::query(
                    "UPDATE inbound SET state = $3, due_ms = $4, error = $5, tries = tries - $6, owner = NULL
                     WHERE seq = $1 AND owner = $2 AND state = 'running'",
                )
                .bind(seq)
                .bind(owner)
                .bind(state)
                .bind(due.0)
                .bind(error)
                .bind(untried)
                .execute(&mut tx.connection)
                .await
                .at(OP, seq)?;
                if ended.rows_affected() != 1 {
                    return Ok(false);
                }
                if state == "done" {
                    // Its id is all that is still of use.
                    sqlx::query("UPDATE inbound SET head = NULL, body = NULL WHERE seq = $1")
                        .bind(seq)
                        .execute(&mut tx.connection)
                        .await
                        .at(OP, seq)?;
                }
                Ok(true)
            }
            .boxed()
        })
        .await
    }

    /// Forgets up to `limit` deliveries that came at or before `until` and wait for nothing; returns how many.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn prune_deliveries(&self, until: UnixMillis, limit: u32) -> Result<u64> {
        let fits = "received_ms <= $1
            AND (state IN ('done', 'failed') OR (state = 'running' AND head IS NULL))";
        let prune = self.prune(
            "inbound.prune",
            "inbound",
            (fits, "received_ms"),
            until,
            limit,
        );
        prune.await
    }
}

/// A delivery as its row has it.
struct Seen {
    seq: i64,
    state: String,
    due: UnixMillis,
}

/// The row of a delivery, unless it ended too long ago to count.
async fn seen(tx: &mut Tx, delivery: &Delivery, kept: Duration) -> Result<Option<Seen>> {
    const OP: &str = "inbound.seen";
    let row = sqlx::query(
        "SELECT seq, state, due_ms, received_ms FROM inbound
         WHERE plugin = $1 AND hook = $2 AND delivery = $3",
    )
    .bind(&delivery.plugin)
    .bind(&delivery.hook)
    .bind(&delivery.id)
    .fetch_optional(&mut tx.connection)
    .await
    .at(OP, &delivery.id)?;
    let Some(row) = row else { return Ok(None) };
    let found = Seen {
        seq: row.int("seq")?,
        state: row.text("state")?,
        due: row.time("due_ms")?,
    };
    let ended = matches!(found.state.as_str(), "done" | "failed");
    if ended && row.time("received_ms")? <= tx.now.minus(kept) {
        forget(tx, found.seq).await?;
        return Ok(None);
    }
    Ok(Some(found))
}

async fn forget(tx: &mut Tx, seq: i64) -> Result<()> {
    sqlx::query("DELETE FROM inbound WHERE seq = $1")
        .bind(seq)
        .execute(&mut tx.connection)
        .await
        .at("inbound.forget", seq)
        .map(drop)
}

async fn insert(
    tx: &mut Tx,
    delivery: &Delivery,
    (state, due): (&'static str, UnixMillis),
    owner: Option<String>,
    request: Option<(String, Vec<u8>)>,
) -> Result<i64> {
    let seq = tx.next_id("inbound").await?;
    let (head, body) = request.unzip();
    sqlx::query(
        "INSERT INTO inbound (seq, plugin, hook, delivery, state, due_ms, owner, tries, received_ms, head, body)
         VALUES ($1, $2, $3, $4, $5, $6, $7, 0, $8, $9, $10)",
    )
    .bind(seq)
    .bind(&delivery.plugin)
    .bind(&delivery.hook)
    .bind(&delivery.id)
    .bind(state)
    .bind(due.0)
    .bind(owner)
    .bind(tx.now.0)
    .bind(head)
    .bind(body)
    .execute(&mut tx.connection)
    .await
    .at("inbound.insert", &delivery.id)?;
    Ok(seq)
}

fn claimed(row: &AnyRow) -> Result<Claimed> {
    Ok(Claimed {
        seq: row.int("seq")?,
        delivery: Delivery {
            plugin: row.text("plugin")?,
            hook: row.text("hook")?,
            id: row.text("delivery")?,
        },
        head: row.text("head")?,
        body: row.opt_bytes("body")?.unwrap_or_default(),
        tries: u32::try_from(row.int("tries")?).map_or(u32::MAX, |tries| tries.saturating_add(1)),
        received: row.time("received_ms")?,
    })
}
