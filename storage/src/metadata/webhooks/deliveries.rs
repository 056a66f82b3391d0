//! From events to what each endpoint is told: in one transaction with the place up to which events were told, so that a
//! crash repeats none and leaves none out.

use std::collections::BTreeMap;

use futures_util::FutureExt as _;
use sqlx::AssertSqlSafe;

use super::BY_HAND;
use crate::clock::UnixMillis;
use crate::error::{Error, ErrorKind, Result};
use crate::metadata::sql::{At as _, Columns as _, places};
use crate::metadata::writer::Tx;
use crate::metadata::{Metadata, stragglers};

/// One event for one endpoint.
#[derive(Debug, Clone)]
pub struct Letter {
    /// For whom.
    pub endpoint: String,
    /// Id of the message, the same for all endpoints.
    pub message: String,
    /// Name of the event.
    pub event: String,
    /// What it is about: those about the same are kept in order where the endpoint wants that.
    pub subject: String,
    /// Which of the bodies.
    pub body: usize,
    /// More header fields, as JSON.
    pub headers: Option<String>,
    /// Why it is not to be sent yet.
    pub blocked: Option<String>,
    /// When the event happened.
    pub occurred: UnixMillis,
}

/// What some events come to.
#[derive(Debug, Clone, Default)]
pub struct Spread {
    /// Up to which event.
    pub up_to: i64,
    /// What is sent.
    pub bodies: Vec<String>,
    /// To whom.
    pub letters: Vec<Letter>,
    /// Plugins that are behind and were left out: they are told the last event later.
    pub left_out: Vec<String>,
}

impl Metadata {
    /// Keeps what some events come to and moves the place of that name behind them; how many were skipped, or `None`
    /// when it stood there already. An endpoint for which `most` wait gets what is beyond as skipped.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when the database does not answer.
    pub async fn spread_events(
        &self,
        place: &str,
        mut spread: Spread,
        most: u32,
    ) -> Result<Option<u64>> {
        const OP: &str = "webhook.spread";
        let place = place.to_owned();
        self.write(OP, move |tx| {
            async move {
                if !move_place(tx, &place, spread.up_to).await? {
                    return Ok(None);
                }
                let left_out = std::mem::take(&mut spread.left_out);
                stragglers::leave(tx, left_out, spread.up_to - 1).await?;
                insert(tx, spread, i64::from(most)).await.map(Some)
            }
            .boxed()
        })
        .await
    }
}

/// Moves the place forward; false when it is not behind.
async fn move_place(tx: &mut Tx, place: &str, up_to: i64) -> Result<bool> {
    const OP: &str = "webhook.place";
    let stands = stands_at(tx, place).await?;
    if stands.is_some_and(|stands| stands >= up_to) {
        return Ok(false);
    }
    sqlx::query(
        "INSERT INTO upkeep (name, ended_ms, state) VALUES ($1, $2, $3)
         ON CONFLICT (name) DO UPDATE SET ended_ms = EXCLUDED.ended_ms, state = EXCLUDED.state",
    )
    .bind(place)
    .bind(tx.now.0)
    .bind(up_to.to_string())
    .execute(&mut tx.connection)
    .await
    .at(OP, place)?;
    Ok(true)
}

/// Up to which event all were told, as the place of that name has it.
pub(in crate::metadata) async fn stands_at(tx: &mut Tx, place: &str) -> Result<Option<i64>> {
    let row = sqlx::query("SELECT state FROM upkeep WHERE name = $1")
        .bind(place)
        .fetch_optional(&mut tx.connection)
        .await
        .at("webhook.stands", place)?;
    let state = row.map(|row| row.opt_text("state")).transpose()?.flatten();
    Ok(state.and_then(|text| text.parse().ok()))
}

/// What an endpoint's letters become.
struct Standing {
    sequence: i64,
    room: i64,
    /// Why none of them is sent.
    skips: Option<String>,
}

/// Keeps them; how many were skipped.
pub(in crate::metadata) async fn insert(tx: &mut Tx, spread: Spread, most: i64) -> Result<u64> {
    let Spread {
        bodies, letters, ..
    } = spread;
    let mut counts: BTreeMap<String, i64> = BTreeMap::new();
    for letter in &letters {
        *counts.entry(letter.endpoint.clone()).or_default() += 1;
    }
    let mut standing = BTreeMap::new();
    for (endpoint, count) in counts {
        if let Some(found) = stand(tx, &endpoint, count, most).await? {
            standing.insert(endpoint, found);
        }
    }
    let letters: Vec<Letter> = letters
        .into_iter()
        .filter(|letter| standing.contains_key(&letter.endpoint))
        .collect();
    if letters.is_empty() {
        return Ok(0);
    }
    let mut skipped = 0;
    let first_body = tx.next_ids("webhook_bodies", bodies.len()).await?;
    let body_seq = |index: usize| first_body + i64::try_from(index).unwrap_or(i64::MAX);
    let used: std::collections::BTreeSet<usize> = letters.iter().map(|l| l.body).collect();
    for (index, body) in bodies.into_iter().enumerate() {
        if used.contains(&index) {
            add_body(tx, body_seq(index), body).await?;
        }
    }
    let first = tx.next_ids("webhook_deliveries", letters.len()).await?;
    let mut rows = Vec::with_capacity(letters.len());
    for (seq, letter) in (first..).zip(letters) {
        let Some(place) = standing.get_mut(&letter.endpoint) else {
            continue;
        };
        place.sequence += 1;
        let (state, reason) = match (&place.skips, &letter.blocked) {
            (Some(why), _) => ("skipped", Some(why.clone())),
            (None, _) if place.room <= 0 => ("skipped", Some("backlog".to_owned())),
            (None, Some(why)) => ("blocked", Some(why.clone())),
            (None, None) => ("queued", None),
        };
        if state == "skipped" {
            skipped += 1;
        } else {
            place.room -= 1;
        }
        rows.push(Row {
            seq,
            sequence: place.sequence,
            body: body_seq(letter.body),
            letter,
            state,
            reason,
        });
    }
    for rows in rows.chunks(AT_ONCE) {
        add_deliveries(tx, rows).await?;
    }
    Ok(skipped)
}

/// A delivery that is about to be kept.
struct Row {
    seq: i64,
    sequence: i64,
    body: i64,
    letter: Letter,
    state: &'static str,
    reason: Option<String>,
}

/// Rows of one statement: the database is asked less often, and no text of a statement is long.
pub(super) const AT_ONCE: usize = 32;

async fn add_deliveries(tx: &mut Tx, rows: &[Row]) -> Result<()> {
    const OP: &str = "webhook.spread";
    let text = format!(
        "INSERT INTO webhook_deliveries (seq, id, endpoint, message, event, subject, sequence, body, headers, state,
             reason, occurred_ms, due_ms, created_ms, ended_ms, tries, attempts, raw) VALUES {}",
        places(18, rows.len())
    );
    let mut query = sqlx::query(AssertSqlSafe(text));
    for row in rows {
        let letter = &row.letter;
        query = query
            .bind(row.seq)
            .bind(delivery_id()?)
            .bind(letter.endpoint.as_str())
            .bind(letter.message.as_str())
            .bind(letter.event.as_str())
            .bind(letter.subject.as_str())
            .bind(row.sequence)
            .bind(row.body)
            .bind(letter.headers.as_deref())
            .bind(row.state)
            .bind(row.reason.as_deref())
            .bind(letter.occurred.0)
            .bind(tx.now.0)
            .bind(tx.now.0)
            .bind((row.state == "skipped").then_some(tx.now.0))
            .bind(0_i64)
            .bind(0_i64)
            .bind(i64::from(letter.blocked.is_some()));
    }
    query
        .execute(&mut tx.connection)
        .await
        .at(OP, rows.len())
        .map(drop)
}

/// Counts what an endpoint is about to be told; `None` when it is gone, or told nothing by somebody's will.
async fn stand(tx: &mut Tx, endpoint: &str, count: i64, most: i64) -> Result<Option<Standing>> {
    const OP: &str = "webhook.stand";
    let row = sqlx::query("SELECT enabled, disabled_reason, queued FROM webhooks WHERE id = $1")
        .bind(endpoint)
        .fetch_optional(&mut tx.connection)
        .await
        .at(OP, endpoint)?;
    let Some(row) = row else { return Ok(None) };
    let skips = match (row.truth("enabled")?, row.opt_text("disabled_reason")?) {
        (true, _) => None,
        (false, Some(reason)) if reason != BY_HAND => Some(format!("disabled: {reason}")),
        (false, _) => return Ok(None),
    };
    let room = (most - row.int("queued")?).max(0);
    let kept = if skips.is_some() { 0 } else { count.min(room) };
    let sequence = sqlx::query(
        "UPDATE webhooks SET sequence = sequence + $2, queued = queued + $3 WHERE id = $1 RETURNING sequence",
    )
    .bind(endpoint)
    .bind(count)
    .bind(kept)
    .fetch_one(&mut tx.connection)
    .await
    .at(OP, endpoint)?
    .int("sequence")?;
    Ok(Some(Standing {
        sequence: sequence - count,
        room,
        skips,
    }))
}

pub(super) async fn add_body(tx: &mut Tx, seq: i64, body: String) -> Result<()> {
    sqlx::query("INSERT INTO webhook_bodies (seq, body, created_ms) VALUES ($1, $2, $3)")
        .bind(seq)
        .bind(body)
        .bind(tx.now.0)
        .execute(&mut tx.connection)
        .await
        .at("webhook.body", seq)
        .map(drop)
}

/// Keeps what a script said in a body's place, where it said something.
pub(super) async fn add_said(tx: &mut Tx, said: Option<String>) -> Result<Option<i64>> {
    let Some(text) = said else {
        return Ok(None);
    };
    let seq = tx.next_id("webhook_bodies").await?;
    add_body(tx, seq, text).await?;
    Ok(Some(seq))
}

/// An id that nobody guesses.
pub(super) fn delivery_id() -> Result<String> {
    let mut bits = [0; 16];
    getrandom::fill(&mut bits)
        .map_err(|e| Error::new(ErrorKind::Internal, "webhook.id", "delivery").with_source(e))?;
    Ok(format!("dl_{}", hex::encode(bits)))
}
