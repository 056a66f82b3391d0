//! Plugins that were pushed to all nodes: bundles of sources by name and hash, and which of them is in force. What a
//! bundle holds is not known here.

use futures_util::FutureExt as _;

use super::sql::{At as _, Columns as _};
use super::writer::Tx;
use super::{Metadata, audit};
use crate::clock::UnixMillis;
use crate::error::Result;

/// Versions of one plugin that are kept.
pub const KEPT: i64 = 5;

/// A plugin that was pushed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginRow {
    /// Its name.
    pub name: String,
    /// The version that is in force.
    pub hash: String,
    /// Who said so.
    pub by: String,
    /// When.
    pub pushed: UnixMillis,
}

impl Metadata {
    /// All of them, by name.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn plugins(&self) -> Result<Vec<PluginRow>> {
        const OP: &str = "plugin.list";
        let mut reader = self.reader(OP).await?;
        sqlx::query("SELECT name, hash, pushed_by, pushed_ms FROM plugins ORDER BY name")
            .fetch_all(&mut *reader)
            .await
            .at(OP, "plugins")?
            .iter()
            .map(|row| {
                Ok(PluginRow {
                    name: row.text("name")?,
                    hash: row.text("hash")?,
                    by: row.text("pushed_by")?,
                    pushed: row.time("pushed_ms")?,
                })
            })
            .collect()
    }

    /// A version of a plugin.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn plugin_bundle(&self, name: &str, hash: &str) -> Result<Option<String>> {
        const OP: &str = "plugin.bundle";
        let mut reader = self.reader(OP).await?;
        sqlx::query("SELECT bundle FROM plugin_bundles WHERE name = $1 AND hash = $2")
            .bind(name)
            .bind(hash)
            .fetch_optional(&mut *reader)
            .await
            .at(OP, name)?
            .map(|row| row.text("bundle"))
            .transpose()
    }

    /// Hashes of the versions that are kept of a plugin, the one that was in force last first.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn plugin_versions(&self, name: &str) -> Result<Vec<String>> {
        const OP: &str = "plugin.versions";
        let mut reader = self.reader(OP).await?;
        sqlx::query("SELECT hash FROM plugin_bundles WHERE name = $1 ORDER BY pushed_ms DESC, hash")
            .bind(name)
            .fetch_all(&mut *reader)
            .await
            .at(OP, name)?
            .iter()
            .map(|row| row.text("hash"))
            .collect()
    }

    /// Puts a version in force on all nodes, and keeps it with the last ones before it.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn push_plugin(
        &self,
        name: &str,
        hash: &str,
        bundle: String,
        actor: &str,
    ) -> Result<()> {
        const OP: &str = "plugin.push";
        let (name, hash, actor) = (name.to_owned(), hash.to_owned(), actor.to_owned());
        self.write(OP, move |tx| {
            async move {
                sqlx::query(
                    "INSERT INTO plugins (name, hash, pushed_by, pushed_ms) VALUES ($1, $2, $3, $4)
                     ON CONFLICT (name) DO UPDATE SET hash = EXCLUDED.hash,
                         pushed_by = EXCLUDED.pushed_by, pushed_ms = EXCLUDED.pushed_ms",
                )
                .bind(&name)
                .bind(&hash)
                .bind(&actor)
                .bind(tx.now.0)
                .execute(&mut tx.connection)
                .await
                .at(OP, &name)?;
                keep(tx, &name, &hash, &bundle).await?;
                audit::record(tx, &actor, OP, &format!("{name} {hash}")).await
            }
            .boxed()
        })
        .await
    }

    /// Puts a version in force again that is kept; it stays where it is among the others. False when it is not kept.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn roll_back_plugin(&self, name: &str, hash: &str, actor: &str) -> Result<bool> {
        const OP: &str = "plugin.rollback";
        let (name, hash, actor) = (name.to_owned(), hash.to_owned(), actor.to_owned());
        self.write(OP, move |tx| {
            async move {
                let done = sqlx::query(
                    "UPDATE plugins SET hash = $2, pushed_by = $3, pushed_ms = $4 WHERE name = $1
                     AND EXISTS (SELECT 1 FROM plugin_bundles WHERE name = $1 AND hash = $2)",
                )
                .bind(&name)
                .bind(&hash)
                .bind(&actor)
                .bind(tx.now.0)
                .execute(&mut tx.connection)
                .await
                .at(OP, &name)?;
                if done.rows_affected() == 0 {
                    return Ok(false);
                }
                audit::record(tx, &actor, OP, &format!("{name} {hash}")).await?;
                Ok(true)
            }
            .boxed()
        })
        .await
    }

    /// Takes a plugin off all nodes, with all its versions; false when there is none.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn remove_plugin(&self, name: &str, actor: &str) -> Result<bool> {
        const OP: &str = "plugin.remove";
        let (name, actor) = (name.to_owned(), actor.to_owned());
        self.write(OP, move |tx| {
            async move {
                let mut gone = 0;
                for query in [
                    "DELETE FROM plugin_bundles WHERE name = $1",
                    "DELETE FROM plugins WHERE name = $1",
                ] {
                    let done = sqlx::query(query).bind(&name);
                    let done = done.execute(&mut tx.connection).await.at(OP, &name)?;
                    gone = done.rows_affected();
                }
                if gone == 0 {
                    return Ok(false);
                }
                audit::record(tx, &actor, OP, &name).await?;
                Ok(true)
            }
            .boxed()
        })
        .await
    }
}

/// Keeps a bundle as the newest, and forgets those that are too old.
async fn keep(tx: &mut Tx, name: &str, hash: &str, bundle: &str) -> Result<()> {
    const OP: &str = "plugin.keep";
    // Two pushes within a millisecond have an order, too.
    sqlx::query(
        "INSERT INTO plugin_bundles (name, hash, bundle, pushed_ms)
         VALUES ($1, $2, $3, (SELECT CASE WHEN COALESCE(MAX(pushed_ms), 0) >= $4
             THEN MAX(pushed_ms) + 1 ELSE $4 END FROM plugin_bundles WHERE name = $1))
         ON CONFLICT (name, hash) DO UPDATE SET pushed_ms = EXCLUDED.pushed_ms",
    )
    .bind(name)
    .bind(hash)
    .bind(bundle)
    .bind(tx.now.0)
    .execute(&mut tx.connection)
    .await
    .at(OP, name)?;
    sqlx::query(
        "DELETE FROM plugin_bundles WHERE name = $1 AND hash NOT IN (
             SELECT hash FROM plugin_bundles WHERE name = $1 ORDER BY pushed_ms DESC LIMIT $2)",
    )
    .bind(name)
    .bind(KEPT)
    .execute(&mut tx.connection)
    .await
    .at(OP, name)
    .map(drop)
}
