//! What was brought from other servers, by its name in full: what of it is gone here since was taken away on purpose.

use std::collections::HashSet;

use futures_util::FutureExt as _;

use super::Metadata;
use super::sql::{At as _, Columns as _};
use crate::error::Result;

impl Metadata {
    /// All that was ever brought from servers of that kind.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn imported(&self, source: &str) -> Result<HashSet<String>> {
        const OP: &str = "imported.list";
        let mut reader = self.reader(OP).await?;
        sqlx::query("SELECT item FROM imported WHERE source = $1")
            .bind(source)
            .fetch_all(&mut *reader)
            .await
            .at(OP, source)?
            .iter()
            .map(|row| row.text("item"))
            .collect()
    }

    /// Remembers that it was brought.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn note_imported(&self, source: &str, item: &str) -> Result<()> {
        const OP: &str = "imported.note";
        let (source, item) = (source.to_owned(), item.to_owned());
        self.write(OP, move |tx| {
            async move {
                sqlx::query(
                    "INSERT INTO imported (source, item, brought_ms) VALUES ($1, $2, $3)
                     ON CONFLICT (source, item) DO NOTHING",
                )
                .bind(source)
                .bind(&item)
                .bind(tx.now.0)
                .execute(&mut tx.connection)
                .await
                .at(OP, &item)
                .map(drop)
            }
            .boxed()
        })
        .await
    }
}
