//! What processes that are gone were at: a start gives it back, and nobody waits until their claims run out.

use futures_util::FutureExt as _;

use super::Metadata;
use super::sql::At as _;
use crate::clock::UnixMillis;
use crate::error::Result;

impl Metadata {
    /// What `node` claims work under in this process: another name in each, from which it is known to be that node's.
    pub fn owner_at(node: &str, process: &str) -> String {
        format!("{node}.{process}")
    }

    /// Gives back what former processes of `node` had claimed; where this process is the only one on its rows, what anybody
    /// had. To be called before this process claims anything.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn release_former(&self, node: &str) -> Result<()> {
        const OP: &str = "former.release";
        let whose = if self.inner.alone {
            "%".to_owned()
        } else {
            Self::owner_at(node, "%")
        };
        let alone = self.inner.alone;
        self.write(OP, move |tx| {
            async move {
                for of_owner in [
                    "DELETE FROM claims WHERE owner LIKE $1",
                    "UPDATE webhooks SET owner = NULL, lease_ms = 0 WHERE owner LIKE $1",
                ] {
                    let release = sqlx::query(of_owner).bind(&whose);
                    release.execute(&mut tx.connection).await.at(OP, "claims")?;
                }
                let UnixMillis(now) = tx.now;
                sqlx::query(
                    "UPDATE inbound SET due_ms = $2 WHERE state = 'running' AND owner LIKE $1",
                )
                .bind(&whose)
                .bind(now)
                .execute(&mut tx.connection)
                .await
                .at(OP, "inbound")?;
                // An order does not say whose it is.
                if alone {
                    sqlx::query(
                        "UPDATE orders SET due_ms = $1 WHERE server IS NULL AND due_ms > $1",
                    )
                    .bind(now)
                    .execute(&mut tx.connection)
                    .await
                    .at(OP, "orders")?;
                }
                Ok(())
            }
            .boxed()
        })
        .await
    }
}
