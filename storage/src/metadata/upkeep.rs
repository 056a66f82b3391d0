//! Work that nobody asked for: who does it, when it last ended, and where one that did not goes on.

use std::time::Duration;

use futures_util::FutureExt as _;

use super::Metadata;
use super::sql::{At as _, Columns as _};
use crate::clock::UnixMillis;
use crate::error::Result;

/// What is kept of one kind of upkeep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpkeepRow {
    /// When it last ran to its end.
    pub ended: UnixMillis,
    /// Where it goes on, in its own words; `None` when it did end.
    pub state: Option<String>,
}

impl Metadata {
    /// Takes, or keeps, the right to do `name` for so long; false while another `owner` has it.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn claim(&self, name: &str, owner: &str, time: Duration) -> Result<bool> {
        const OP: &str = "upkeep.claim";
        let (name, owner) = (name.to_owned(), owner.to_owned());
        self.write(OP, move |tx| {
            async move {
                let claimed = sqlx::query(
                    "INSERT INTO claims (name, owner, until_ms) VALUES ($1, $2, $3)
                     ON CONFLICT (name) DO UPDATE SET owner = EXCLUDED.owner,
                         until_ms = EXCLUDED.until_ms
                     WHERE claims.owner = EXCLUDED.owner OR claims.until_ms <= $4",
                )
                .bind(&name)
                .bind(owner)
                .bind(tx.now.plus(time).0)
                .bind(tx.now.0)
                .execute(&mut tx.connection)
                .await
                .at(OP, name)?;
                Ok(claimed.rows_affected() == 1)
            }
            .boxed()
        })
        .await
    }

    /// Gives the right to do `name` back, if `owner` has it.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn unclaim(&self, name: &str, owner: &str) -> Result<()> {
        const OP: &str = "upkeep.unclaim";
        let (name, owner) = (name.to_owned(), owner.to_owned());
        self.write(OP, move |tx| {
            async move {
                sqlx::query("DELETE FROM claims WHERE name = $1 AND owner = $2")
                    .bind(&name)
                    .bind(owner)
                    .execute(&mut tx.connection)
                    .await
                    .at(OP, name)
                    .map(drop)
            }
            .boxed()
        })
        .await
    }

    /// Removes up to `limit` rows of a table, by the column of their age: those that fit a condition in which `$1` is
    /// `until`. Looked at first: where none does, nothing is written.
    pub(super) async fn prune(
        &self,
        op: &'static str,
        table: &'static str,
        (fits, age): (&'static str, &'static str),
        until: UnixMillis,
        limit: u32,
    ) -> Result<u64> {
        let mut reader = self.reader(op).await?;
        let look = format!("SELECT seq FROM {table} WHERE {fits} LIMIT 1");
        let due = sqlx::query(sqlx::AssertSqlSafe(look))
            .bind(until.0)
            .fetch_optional(&mut *reader)
            .await
            .at(op, table)?;
        drop(reader);
        if due.is_none() {
            return Ok(0);
        }
        self.write(op, move |tx| {
            async move {
                let remove = format!(
                    "DELETE FROM {table} WHERE seq IN (
                         SELECT seq FROM {table} WHERE {fits} ORDER BY {age} LIMIT $2)"
                );
                let gone = sqlx::query(sqlx::AssertSqlSafe(remove))
                    .bind(until.0)
                    .bind(i64::from(limit))
                    .execute(&mut tx.connection)
                    .await
                    .at(op, table)?;
                Ok(gone.rows_affected())
            }
            .boxed()
        })
        .await
    }

    /// What is kept of `name`.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn upkeep(&self, name: &str) -> Result<Option<UpkeepRow>> {
        const OP: &str = "upkeep.row";
        let mut reader = self.reader(OP).await?;
        sqlx::query("SELECT ended_ms, state FROM upkeep WHERE name = $1")
            .bind(name)
            .fetch_optional(&mut *reader)
            .await
            .at(OP, name)?
            .map(|row| {
                Ok(UpkeepRow {
                    ended: row.time("ended_ms")?,
                    state: row.opt_text("state")?,
                })
            })
            .transpose()
    }

    /// Keeps it.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn keep_upkeep(&self, name: &str, row: UpkeepRow) -> Result<()> {
        const OP: &str = "upkeep.keep";
        let name = name.to_owned();
        self.write(OP, move |tx| {
            async move {
                sqlx::query(
                    "INSERT INTO upkeep (name, ended_ms, state) VALUES ($1, $2, $3)
                     ON CONFLICT (name) DO UPDATE SET ended_ms = EXCLUDED.ended_ms,
                         state = EXCLUDED.state",
                )
                .bind(&name)
                .bind(row.ended.0)
                .bind(row.state)
                .execute(&mut tx.connection)
                .await
                .at(OP, name)
                .map(drop)
            }
            .boxed()
        })
        .await
    }
}
