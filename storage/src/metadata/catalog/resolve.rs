//! From a full name to its file.

use sqlx::any::AnyRow;

use super::ResolvedFile;
use super::columns::{
    blob_columns, box_columns, box_of, file_columns, file_of, version_columns, version_of,
};
use crate::catalog::BoxRef;
use crate::digest::Blake3;
use crate::error::Result;
use crate::metadata::Metadata;
use crate::metadata::sql::{At as _, Columns as _};

/// The way down by name; `$1` to `$5` are the folded names.
macro_rules! down_to_file {
    () => {
        " FROM organizations o JOIN boxes b ON b.organization = o.id AND b.folded = $2
              JOIN versions v ON v.box = b.id AND v.folded = $3
              JOIN providers p ON p.version = v.id AND p.folded = $4
              JOIN architectures a ON a.provider = p.id AND a.folded = $5
              JOIN files f ON f.architecture = a.id "
    };
}

impl Metadata {
    /// Follows a full name to its file; one query.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn resolve_file(&self, name: &BoxRef) -> Result<Option<ResolvedFile>> {
        let key = [
            name.organization.folded(),
            name.name.folded(),
            name.version.folded(),
            name.provider.folded(),
            name.architecture.folded(),
        ];
        let known = &self.inner.known.files;
        known.or_read(key, self.read_file(name)).await
    }

    /// The same, with what it is counted by as it is now: not from what was read a moment ago.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn read_file(&self, name: &BoxRef) -> Result<Option<ResolvedFile>> {
        const OP: &str = "file.resolve";
        let mut reader = self.reader(OP).await?;
        sqlx::query(concat!(
            "SELECT ",
            box_columns!(),
            ", ",
            version_columns!(),
            ", ",
            file_columns!(),
            ", ",
            blob_columns!(),
            down_to_file!(),
            "JOIN blobs x ON x.key = f.blob WHERE o.folded = $1"
        ))
        .bind(name.organization.folded())
        .bind(name.name.folded())
        .bind(name.version.folded())
        .bind(name.provider.folded())
        .bind(name.architecture.folded())
        .fetch_optional(&mut *reader)
        .await
        .at(OP, name)?
        .map(|row| resolved(&row))
        .transpose()
    }

    /// The file of a box by the digest of its bytes: the present one, or one that was replaced less
    /// than `doomed_for` ago, as long as the name itself still exists. What is shown to Vagrant since the SHA-256 of the
    /// present one is not known is found for as long as its bytes are there.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn resolve_former_file(
        &self,
        name: &BoxRef,
        blake3: &Blake3,
    ) -> Result<Option<ResolvedFile>> {
        const OP: &str = "file.resolve_former";
        // The present first: what is replaced between the two reads is then found by the second.
        let Some(present) = self.resolve_file(name).await? else {
            return Ok(None);
        };
        if present.file.blob.blake3 == *blake3 {
            return Ok(Some(present));
        }
        let mut reader = self.reader(OP).await?;
        sqlx::query(concat!(
            "SELECT ",
            box_columns!(),
            ", ",
            version_columns!(),
            ", ",
            blob_columns!(),
            ", f.id AS f_id, f.architecture AS f_architecture, f.downloads AS f_downloads,
               r.declared_type AS f_declared_type, r.declared_value AS f_declared_value,
               f.created_ms AS f_created_ms, r.updated_ms AS f_updated_ms",
            down_to_file!(),
            "JOIN blobs n ON n.key = f.blob
             JOIN former_files r ON r.file = f.id AND (r.until_ms > $7 OR length(n.sha256) = 0)
             JOIN blobs x ON x.key = r.blob AND x.blake3 = $6 AND x.state <> 'deleting'
             WHERE o.folded = $1 ORDER BY r.until_ms DESC LIMIT 1"
        ))
        .bind(name.organization.folded())
        .bind(name.name.folded())
        .bind(name.version.folded())
        .bind(name.provider.folded())
        .bind(name.architecture.folded())
        .bind(blake3.0.to_vec())
        .bind(self.now().0)
        .fetch_optional(&mut *reader)
        .await
        .at(OP, name)?
        .map(|row| resolved(&row))
        .transpose()
    }
}

fn resolved(row: &AnyRow) -> Result<ResolvedFile> {
    Ok(ResolvedFile {
        row: box_of(row)?,
        version: version_of(row)?,
        file: file_of(row)?,
        store: row.text("x_store")?,
        quarantined: row.text("x_state")? == "quarantined",
    })
}
