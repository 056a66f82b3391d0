//! Endpoints that are told of events, what each is to be told, and how that went. What a body says and how it is sent
//! is not known here.

mod blocked;
mod deliveries;
mod lanes;
mod log;
mod replies;

pub use blocked::{Blocked, Unblocked};
pub use deliveries::{Letter, Spread};
pub(super) use deliveries::{insert, stands_at};
pub use lanes::{Due, Order, Outcome, Settled};
pub use log::{Attempt, Delivery, DeliveryQuery, DeliveryState, Recovery, Resend};
pub use replies::Replied;

use futures_util::FutureExt as _;
use sqlx::any::AnyRow;

use super::sql::{At as _, Columns as _};
use super::writer::Tx;
use super::{Metadata, audit, outbox};
use crate::clock::UnixMillis;
use crate::error::{Error, ErrorKind, Result};

/// An endpoint as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Order in which they were made.
    pub seq: i64,
    /// `ep_...`
    pub id: String,
    /// The last event before it was made.
    pub after_event: i64,
    /// Where it is.
    pub url: String,
    /// What its owner chose, as JSON.
    pub options: String,
    /// Whether it is told anything.
    pub enabled: bool,
    /// Why it is not.
    pub disabled_reason: Option<String>,
    /// The secrets, sealed.
    pub secrets: Secrets,
    /// Raised by each change that a person makes.
    pub revision: i64,
    /// What waits for it.
    pub queued: i64,
    /// How much of that waits for its script to work.
    pub blocked: i64,
    /// How it answers.
    pub health: Health,
    /// Until when the node that sends for it may.
    pub lease: UnixMillis,
    /// When it was made.
    pub created: UnixMillis,
    /// When a person last changed it.
    pub updated: UnixMillis,
}

/// The secrets of an endpoint, sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Secrets {
    /// The one that stays.
    pub current: Vec<u8>,
    /// The one before, and until when it counts.
    pub previous: Option<(Vec<u8>, UnixMillis)>,
    /// Whether a signature that can be only one is made with the one before as long as it counts.
    pub legacy_previous: bool,
}

/// How an endpoint answers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Health {
    /// Attempts that failed since the last success.
    pub failed: u32,
    /// When the first of them did.
    pub failing_since: Option<UnixMillis>,
    /// Pauses of the breaker since then.
    pub pauses: u32,
    /// Until when nothing is sent.
    pub paused_until: UnixMillis,
    /// When it last took something.
    pub last_success: Option<UnixMillis>,
    /// How the last attempt failed.
    pub last_error: Option<String>,
}

/// A new endpoint.
#[derive(Debug, Clone)]
pub struct NewEndpoint {
    /// `ep_...`
    pub id: String,
    /// Where it is.
    pub url: String,
    /// What its owner chose, as JSON.
    pub options: String,
    /// Whether it is told of events from now on.
    pub enabled: bool,
    /// The secret, sealed.
    pub secret: Vec<u8>,
}

/// How a change of an endpoint went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changed {
    /// It is so now.
    Done(Box<Endpoint>),
    /// There is no such endpoint.
    Missing,
    /// Somebody changed it before; the revision that it has.
    Stale(i64),
    /// Its secret is just being replaced.
    Overlapping,
}

/// What is changed of an endpoint.
#[derive(Debug, Clone)]
pub enum Change {
    /// What its owner chose, and whether it is told anything; another address starts afresh.
    Edit {
        /// Where it is.
        url: String,
        /// The rest, as JSON.
        options: String,
        /// Whether it is told of events, where that was said.
        enabled: Option<bool>,
    },
    /// It is told of events from now on, whatever it did before.
    Enable,
    /// It is told of nothing any more.
    Disable,
    /// Another secret; the one before counts until then.
    Rotate {
        /// The new one, sealed.
        secret: Vec<u8>,
        /// Until when the one before counts.
        until: UnixMillis,
        /// Which one signs where only one can.
        legacy_previous: bool,
    },
    /// The secret before the current one counts no more.
    FinishRotation,
}

impl Change {
    fn action(&self) -> &'static str {
        match self {
            Self::Edit { .. } => "webhook.update",
            Self::Enable => "webhook.enable",
            Self::Disable => "webhook.disable",
            Self::Rotate { .. } => "webhook.rotate",
            Self::FinishRotation => "webhook.finish_rotation",
        }
    }
}

/// Why a person's endpoint is not told anything.
pub const BY_HAND: &str = "disabled by an administrator";

macro_rules! endpoint_columns {
    () => {
        "seq, id, after_event, url, options, enabled, disabled_reason, secret, previous_secret, previous_until_ms, legacy_previous, \
         revision, queued, failed, failing_since_ms, pauses, paused_until_ms, last_success_ms, last_error, lease_ms, \
         created_ms, updated_ms, \
         (SELECT COUNT(*) FROM webhook_deliveries b WHERE b.endpoint = webhooks.id AND b.state = 'blocked') AS blocked"
    };
}
use endpoint_columns;

impl Metadata {
    /// Up to `limit` endpoints made after `after`, in order.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when the database does not answer.
    pub async fn webhooks(&self, after: i64, limit: u32) -> Result<Vec<Endpoint>> {
        const OP: &str = "webhook.list";
        let mut reader = self.reader(OP).await?;
        sqlx::query(concat!(
            "SELECT ",
            endpoint_columns!(),
            " FROM webhooks WHERE seq > $1 ORDER BY seq LIMIT $2"
        ))
        .bind(after)
        .bind(i64::from(limit))
        .fetch_all(&mut *reader)
        .await
        .at(OP, "webhooks")?
        .iter()
        .map(endpoint_of)
        .collect()
    }

    /// The endpoint of that id.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when the database does not answer.
    pub async fn webhook(&self, id: &str) -> Result<Option<Endpoint>> {
        const OP: &str = "webhook.read";
        let mut reader = self.reader(OP).await?;
        sqlx::query(concat!(
            "SELECT ",
            endpoint_columns!(),
            " FROM webhooks WHERE id = $1"
        ))
        .bind(id)
        .fetch_optional(&mut *reader)
        .await
        .at(OP, id)?
        .as_ref()
        .map(endpoint_of)
        .transpose()
    }

    /// Makes an endpoint.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when the database does not answer.
    pub async fn add_webhook(&self, new: NewEndpoint, actor: &str) -> Result<Endpoint> {
        const OP: &str = "webhook.create";
        let actor = actor.to_owned();
        self.write(OP, move |tx| {
            async move {
                let seq = tx.next_id("webhooks").await?;
                sqlx::query(
                    "INSERT INTO webhooks (seq, id, after_event, url, options, enabled, disabled_reason, secret, legacy_previous,
                         revision, sequence, queued, failed, pauses, paused_until_ms, lease_ms, created_ms, updated_ms)
                     VALUES ($1, $2, (SELECT COALESCE(MAX(seq), 0) FROM outbox), $3, $4, $5, $6, $7, 1, 1, 0, 0, 0, 0, 0, 0,
                         $8, $8)",
                )
                .bind(seq)
                .bind(&new.id)
                .bind(new.url)
                .bind(new.options)
                .bind(i64::from(new.enabled))
                .bind((!new.enabled).then_some(BY_HAND))
                .bind(new.secret)
                .bind(tx.now.0)
                .execute(&mut tx.connection)
                .await
                .at(OP, &new.id)?;
                audit::record(tx, &actor, OP, &new.id).await?;
                existing(tx, OP, &new.id).await
            }
            .boxed()
        })
        .await
    }

    /// Changes an endpoint, if it still has that revision where one is given.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when the database does not answer.
    pub async fn change_webhook(
        &self,
        id: &str,
        revisions: Option<Vec<i64>>,
        change: Change,
        actor: &str,
    ) -> Result<Changed> {
        let action = change.action();
        let (id, actor) = (id.to_owned(), actor.to_owned());
        self.write(action, move |tx| {
            async move {
                let Some(before) = find(tx, action, &id).await? else {
                    return Ok(Changed::Missing);
                };
                if revisions.is_some_and(|known| !known.contains(&before.revision)) {
                    return Ok(Changed::Stale(before.revision));
                }
                if let Change::Rotate { .. } = &change
                    && let Some((_, until)) = &before.secrets.previous
                    && *until > tx.now
                {
                    return Ok(Changed::Overlapping);
                }
                apply(tx, &before, change).await?;
                audit::record(tx, &actor, action, &id).await?;
                Ok(Changed::Done(Box::new(existing(tx, action, &id).await?)))
            }
            .boxed()
        })
        .await
    }

    /// Removes an endpoint and drops what waits for it; its log stays. False when there is none.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when the database does not answer.
    pub async fn remove_webhook(
        &self,
        id: &str,
        revisions: Option<Vec<i64>>,
        actor: &str,
    ) -> Result<Changed> {
        const OP: &str = "webhook.delete";
        let (id, actor) = (id.to_owned(), actor.to_owned());
        self.write(OP, move |tx| {
            async move {
                let Some(before) = find(tx, OP, &id).await? else {
                    return Ok(Changed::Missing);
                };
                if revisions.is_some_and(|known| !known.contains(&before.revision)) {
                    return Ok(Changed::Stale(before.revision));
                }
                sqlx::query(
                    "UPDATE webhook_deliveries SET state = 'dropped', ended_ms = $2, reason = 'the endpoint was deleted'
                     WHERE endpoint = $1 AND state IN ('queued', 'blocked')",
                )
                .bind(&id)
                .bind(tx.now.0)
                .execute(&mut tx.connection)
                .await
                .at(OP, &id)?;
                sqlx::query("DELETE FROM webhooks WHERE id = $1")
                    .bind(&id)
                    .execute(&mut tx.connection)
                    .await
                    .at(OP, &id)?;
                audit::record(tx, &actor, OP, &id).await?;
                Ok(Changed::Done(Box::new(before)))
            }
            .boxed()
        })
        .await
    }
}

async fn apply(tx: &mut Tx, before: &Endpoint, change: Change) -> Result<()> {
    const OP: &str = "webhook.change";
    let id = &before.id;
    let query = match change {
        Change::Edit {
            url,
            options,
            enabled,
        } => {
            let moved = url != before.url;
            let enabled = enabled.unwrap_or(before.enabled || moved);
            if enabled && (moved || !before.enabled) {
                start_afresh(tx, OP, id).await?;
            }
            let reason = match (enabled, before.enabled) {
                (true, _) => None,
                (false, true) => Some(BY_HAND.to_owned()),
                (false, false) => before.disabled_reason.clone(),
            };
            sqlx::query(
                "UPDATE webhooks SET url = $3, options = $4, enabled = $5, disabled_reason = $6,
                     revision = revision + 1, updated_ms = $2 WHERE id = $1",
            )
            .bind(id)
            .bind(tx.now.0)
            .bind(url)
            .bind(options)
            .bind(i64::from(enabled))
            .bind(reason)
        }
        Change::Enable => {
            start_afresh(tx, OP, id).await?;
            sqlx::query(
                "UPDATE webhooks SET enabled = 1, disabled_reason = NULL, revision = revision + 1,
                     updated_ms = $2 WHERE id = $1",
            )
            .bind(id)
            .bind(tx.now.0)
        }
        Change::Disable => sqlx::query(
            "UPDATE webhooks SET enabled = 0, disabled_reason = $3, revision = revision + 1,
                 updated_ms = $2 WHERE id = $1",
        )
        .bind(id)
        .bind(tx.now.0)
        .bind(BY_HAND),
        Change::Rotate {
            secret,
            until,
            legacy_previous,
        } => sqlx::query(
            "UPDATE webhooks SET previous_secret = secret, previous_until_ms = $3, legacy_previous = $4,
                 secret = $5, revision = revision + 1, updated_ms = $2 WHERE id = $1",
        )
        .bind(id)
        .bind(tx.now.0)
        .bind(until.0)
        .bind(i64::from(legacy_previous))
        .bind(secret),
        Change::FinishRotation => sqlx::query(
            "UPDATE webhooks SET previous_secret = NULL, previous_until_ms = NULL,
                 revision = revision + 1, updated_ms = $2 WHERE id = $1",
        )
        .bind(id)
        .bind(tx.now.0),
    };
    query.execute(&mut tx.connection).await.at(OP, id).map(drop)
}

/// Forgets how an endpoint failed, and lets what waits go at once.
async fn start_afresh(tx: &mut Tx, op: &'static str, id: &str) -> Result<()> {
    sqlx::query(
        "UPDATE webhooks SET failed = 0, failing_since_ms = NULL, pauses = 0, paused_until_ms = 0 WHERE id = $1",
    )
    .bind(id)
    .execute(&mut tx.connection)
    .await
    .at(op, id)?;
    hurry(tx, op, id).await
}

/// Makes all that waits for an endpoint due.
async fn hurry(tx: &mut Tx, op: &'static str, id: &str) -> Result<()> {
    sqlx::query(
        "UPDATE webhook_deliveries SET due_ms = $2 WHERE endpoint = $1 AND state = 'queued' AND due_ms > $2",
    )
    .bind(id)
    .bind(tx.now.0)
    .execute(&mut tx.connection)
    .await
    .at(op, id)
    .map(drop)
}

/// Disables an endpoint that does not answer, and tells the others; nothing where it is disabled already.
async fn give_up(tx: &mut Tx, endpoint: &Endpoint, reason: &str) -> Result<()> {
    const OP: &str = "webhook.give_up";
    let disabled = sqlx::query(
        "UPDATE webhooks SET enabled = 0, disabled_reason = $2 WHERE id = $1 AND enabled = 1",
    )
    .bind(&endpoint.id)
    .bind(reason)
    .execute(&mut tx.connection)
    .await
    .at(OP, &endpoint.id)?;
    if disabled.rows_affected() == 0 {
        return Ok(());
    }
    let since = endpoint.health.failing_since.unwrap_or(tx.now);
    let event = outbox::webhook_disabled(&endpoint.id, &endpoint.url, reason, since);
    outbox::append(tx, event, "").await?;
    audit::record(tx, "", "webhook.disable", &endpoint.id).await
}

async fn find(tx: &mut Tx, op: &'static str, id: &str) -> Result<Option<Endpoint>> {
    sqlx::query(concat!(
        "SELECT ",
        endpoint_columns!(),
        " FROM webhooks WHERE id = $1"
    ))
    .bind(id)
    .fetch_optional(&mut tx.connection)
    .await
    .at(op, id)?
    .as_ref()
    .map(endpoint_of)
    .transpose()
}

async fn existing(tx: &mut Tx, op: &'static str, id: &str) -> Result<Endpoint> {
    let found = find(tx, op, id).await?;
    found.ok_or_else(|| Error::new(ErrorKind::NotFound, op, id))
}

fn endpoint_of(row: &AnyRow) -> Result<Endpoint> {
    let previous = row.opt_bytes("previous_secret")?;
    let until = row.opt_int("previous_until_ms")?.map(UnixMillis);
    Ok(Endpoint {
        seq: row.int("seq")?,
        id: row.text("id")?,
        after_event: row.int("after_event")?,
        url: row.text("url")?,
        options: row.text("options")?,
        enabled: row.truth("enabled")?,
        disabled_reason: row.opt_text("disabled_reason")?,
        secrets: Secrets {
            current: row.bytes("secret")?,
            previous: previous.zip(until),
            legacy_previous: row.truth("legacy_previous")?,
        },
        revision: row.int("revision")?,
        queued: row.int("queued")?,
        blocked: row.int("blocked")?,
        health: Health {
            failed: few(row, "failed")?,
            failing_since: row.opt_int("failing_since_ms")?.map(UnixMillis),
            pauses: few(row, "pauses")?,
            paused_until: row.time("paused_until_ms")?,
            last_success: row.opt_int("last_success_ms")?.map(UnixMillis),
            last_error: row.opt_text("last_error")?,
        },
        lease: row.time("lease_ms")?,
        created: row.time("created_ms")?,
        updated: row.time("updated_ms")?,
    })
}

/// A count that is small by its nature.
fn few(row: &AnyRow, column: &str) -> Result<u32> {
    Ok(u32::try_from(row.int(column)?).unwrap_or(u32::MAX))
}
