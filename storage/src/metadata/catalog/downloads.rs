//! How often what has a name was downloaded.

use futures_util::FutureExt as _;

use super::{FileId, IsoId};
use crate::error::Result;
use crate::metadata::Metadata;
use crate::metadata::sql::At as _;

/// What counts its downloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// The file of a box.
    File(FileId),
    /// An ISO image.
    Iso(IsoId),
}

impl Metadata {
    /// Counts one download.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn count_download(&self, what: Counted) -> Result<()> {
        let query = match what {
            Counted::File(_) => "UPDATE files SET downloads = downloads + $2 WHERE id = $1",
            Counted::Iso(_) => "UPDATE isos SET downloads = downloads + $2 WHERE id = $1",
        };
        self.set_downloads(what, query, 1).await
    }

    /// Raises the count to at least `count`: what was counted elsewhere, told once or more.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn raise_downloads(&self, what: Counted, count: u64) -> Result<()> {
        let query = match what {
            Counted::File(_) => "UPDATE files SET downloads = $2 WHERE id = $1 AND downloads < $2",
            Counted::Iso(_) => "UPDATE isos SET downloads = $2 WHERE id = $1 AND downloads < $2",
        };
        self.set_downloads(what, query, count).await
    }

    async fn set_downloads(&self, what: Counted, query: &'static str, count: u64) -> Result<()> {
        const OP: &str = "file.count_download";
        let (Counted::File(FileId(id)) | Counted::Iso(IsoId(id))) = what;
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.write(OP, move |tx| {
            async move {
                sqlx::query(query)
                    .bind(id)
                    .bind(count)
                    .execute(&mut tx.connection)
                    .await
                    .at(OP, id)
                    .map(drop)
            }
            .boxed()
        })
        .await
    }
}
