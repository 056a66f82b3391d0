//! What each node is asked of the rates that all nodes share: one row a node, which the others read.

use std::time::Duration;

use futures_util::FutureExt as _;

use super::Metadata;
use super::sql::{At as _, Columns as _};
use crate::error::Result;

/// A node that told nothing for so long is forgotten.
const FORGOTTEN: Duration = Duration::from_mins(1);

impl Metadata {
    /// Whether other nodes may work on the same rows.
    pub fn is_shared(&self) -> bool {
        !self.inner.alone
    }

    /// Tells what `node` is asked, and reads what the others told since `fresh`, in no order.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn share_demands(
        &self,
        node: &str,
        demands: String,
        fresh: Duration,
    ) -> Result<Vec<String>> {
        const OP: &str = "rates.share";
        let node = node.to_owned();
        self.write(OP, move |tx| {
            async move {
                sqlx::query(
                    "INSERT INTO rate_demands (node, demands, told_ms) VALUES ($1, $2, $3)
                     ON CONFLICT (node) DO UPDATE SET demands = EXCLUDED.demands,
                         told_ms = EXCLUDED.told_ms",
                )
                .bind(&node)
                .bind(demands)
                .bind(tx.now.0)
                .execute(&mut tx.connection)
                .await
                .at(OP, &node)?;
                sqlx::query("DELETE FROM rate_demands WHERE told_ms < $1")
                    .bind(tx.now.minus(FORGOTTEN).0)
                    .execute(&mut tx.connection)
                    .await
                    .at(OP, &node)?;
                sqlx::query("SELECT demands FROM rate_demands WHERE node <> $1 AND told_ms > $2")
                    .bind(&node)
                    .bind(tx.now.minus(fresh).0)
                    .fetch_all(&mut tx.connection)
                    .await
                    .at(OP, &node)?
                    .iter()
                    .map(|row| row.text("demands"))
                    .collect()
            }
            .boxed()
        })
        .await
    }

    /// Takes back what `node` told, as it stops: the others share what it had at once.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn withdraw_demands(&self, node: &str) -> Result<()> {
        const OP: &str = "rates.share";
        let node = node.to_owned();
        self.write(OP, move |tx| {
            async move {
                sqlx::query("DELETE FROM rate_demands WHERE node = $1")
                    .bind(&node)
                    .execute(&mut tx.connection)
                    .await
                    .at(OP, node)
                    .map(drop)
            }
            .boxed()
        })
        .await
    }
}
