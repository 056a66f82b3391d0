//! Plugins that are behind: each that must miss no event and failed at one has a place of its own until it has caught up.
//!
//! Whoever tells all others leaves a straggler out and writes that down in the transaction that moves the common place;
//! a straggler that reaches the common place is one no more. Changes are made one after the other, so that no event
//! falls between the two.

use futures_util::FutureExt as _;
use sqlx::any::AnyRow;

use super::Metadata;
use super::sql::{At as _, Columns as _};
use super::webhooks::{Spread, insert, stands_at};
use super::writer::Tx;
use crate::clock::UnixMillis;
use crate::error::Result;

/// A plugin that is behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Straggler {
    /// Its name.
    pub plugin: String,
    /// The last event that it was told, or that it was passed over for.
    pub place: i64,
    /// Since when it is behind.
    pub since: UnixMillis,
    /// How often it failed at the next one.
    pub tries: u32,
    /// When it first did.
    pub failing_since: Option<UnixMillis>,
    /// From when on it is told again.
    pub due: UnixMillis,
    /// How it failed last.
    pub error: Option<String>,
}

/// How far a straggler came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Whether it is behind no more.
    pub caught_up: bool,
    /// Deliveries that were skipped.
    pub skipped: u64,
}

impl Metadata {
    /// All that are behind.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn stragglers(&self) -> Result<Vec<Straggler>> {
        const OP: &str = "stragglers.list";
        let mut reader = self.reader(OP).await?;
        sqlx::query(
            "SELECT plugin, place, since_ms, tries, failing_since_ms, due_ms, error FROM stragglers ORDER BY plugin",
        )
        .fetch_all(&mut *reader)
        .await
        .at(OP, "stragglers")?
        .iter()
        .map(straggler_of)
        .collect()
    }

    /// Notes that a plugin failed at the event behind `place`, and when it is told again. One that is behind already
    /// stays where it is.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn fall_behind(
        &self,
        plugin: &str,
        place: i64,
        due: UnixMillis,
        error: String,
    ) -> Result<()> {
        let plugin = plugin.to_owned();
        self.write("stragglers.fall_behind", move |tx| {
            async move {
                let now = tx.now;
                let straggler = Straggler {
                    plugin,
                    place,
                    since: now,
                    tries: 1,
                    failing_since: Some(now),
                    due,
                    error: Some(error),
                };
                add(tx, &straggler).await
            }
            .boxed()
        })
        .await
    }

    /// Notes that one failed once more where it stands, and when it is told again.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn stay_behind(
        &self,
        straggler: &Straggler,
        due: UnixMillis,
        error: String,
    ) -> Result<()> {
        const OP: &str = "stragglers.stay_behind";
        let (plugin, place) = (straggler.plugin.clone(), straggler.place);
        self.write(OP, move |tx| {
            async move {
                sqlx::query(
                    "UPDATE stragglers SET tries = tries + 1, failing_since_ms = COALESCE(failing_since_ms, $3),
                         due_ms = $4, error = $5 WHERE plugin = $1 AND place = $2",
                )
                .bind(&plugin)
                .bind(place)
                .bind(tx.now.0)
                .bind(due.0)
                .bind(error)
                .execute(&mut tx.connection)
                .await
                .at(OP, plugin)
                .map(drop)
            }
            .boxed()
        })
        .await
    }

    /// Moves one forward from where it was found, and keeps what came of that for endpoints; `None` when it stands
    /// elsewhere by now. One that reaches where `common` stands is behind no more.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn catch_up(
        &self,
        straggler: &Straggler,
        common: &str,
        spread: Spread,
        most: u32,
    ) -> Result<Option<Progress>> {
        const OP: &str = "stragglers.catch_up";
        let (plugin, place) = (straggler.plugin.clone(), straggler.place);
        let common = common.to_owned();
        self.write(OP, move |tx| {
            async move {
                let up_to = spread.up_to;
                let moved = sqlx::query(
                    "UPDATE stragglers SET place = $3, tries = 0, failing_since_ms = NULL, error = NULL
                     WHERE plugin = $1 AND place = $2",
                )
                .bind(&plugin)
                .bind(place)
                .bind(up_to)
                .execute(&mut tx.connection)
                .await
                .at(OP, &plugin)?;
                if moved.rows_affected() == 0 {
                    return Ok(None);
                }
                let skipped = insert(tx, spread, i64::from(most)).await?;
                let caught_up = stands_at(tx, &common).await?.is_none_or(|all| up_to >= all);
                if caught_up {
                    remove(tx, OP, &plugin).await?;
                }
                Ok(Some(Progress { caught_up, skipped }))
            }
            .boxed()
        })
        .await
    }

    /// Forgets one: nobody knows the plugin any more.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn forget_straggler(&self, plugin: &str) -> Result<()> {
        const OP: &str = "stragglers.forget";
        let plugin = plugin.to_owned();
        self.write(OP, move |tx| {
            async move { remove(tx, OP, &plugin).await }.boxed()
        })
        .await
    }
}

/// Notes those that were left out of the event behind `place`, unless they are known to be behind.
pub(super) async fn leave(tx: &mut Tx, plugins: Vec<String>, place: i64) -> Result<()> {
    let now = tx.now;
    for plugin in plugins {
        let straggler = Straggler {
            plugin,
            place,
            since: now,
            tries: 0,
            failing_since: None,
            due: now,
            error: None,
        };
        add(tx, &straggler).await?;
    }
    Ok(())
}

async fn add(tx: &mut Tx, straggler: &Straggler) -> Result<()> {
    sqlx::query(
        "INSERT INTO stragglers (plugin, place, since_ms, tries, failing_since_ms, due_ms, error)
         VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (plugin) DO NOTHING",
    )
    .bind(&straggler.plugin)
    .bind(straggler.place)
    .bind(straggler.since.0)
    .bind(i64::from(straggler.tries))
    .bind(straggler.failing_since.map(|t| t.0))
    .bind(straggler.due.0)
    .bind(straggler.error.as_deref())
    .execute(&mut tx.connection)
    .await
    .at("stragglers.add", &straggler.plugin)
    .map(drop)
}

async fn remove(tx: &mut Tx, op: &'static str, plugin: &str) -> Result<()> {
    sqlx::query("DELETE FROM stragglers WHERE plugin = $1")
        .bind(plugin)
        .execute(&mut tx.connection)
        .await
        .at(op, plugin)
        .map(drop)
}

fn straggler_of(row: &AnyRow) -> Result<Straggler> {
    Ok(Straggler {
        plugin: row.text("plugin")?,
        place: row.int("place")?,
        since: row.time("since_ms")?,
        tries: u32::try_from(row.int("tries")?).unwrap_or(u32::MAX),
        failing_since: row.opt_int("failing_since_ms")?.map(UnixMillis),
        due: row.time("due_ms")?,
        error: row.opt_text("error")?,
    })
}
