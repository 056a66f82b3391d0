//! From a blob's key to its bytes, for whoever holds a link to it: no account is asked for, the link is the right.
//!
//! A link is made where a plugin is told of a blob, which may be before anybody sees it. It leads to the bytes while
//! something holds them: to those of an upload that waits to be let through, and to what that became.

use super::HeldBlob;
use super::blobs::labels_of;
use super::columns::blob_columns;
use crate::blob::{BlobKey, BlobMeta};
use crate::error::Result;
use crate::metadata::Metadata;
use crate::metadata::sql::{At as _, Columns as _};
use crate::metadata::uploads::Labels;

/// The blob of that key.
const BY_KEY: &str = concat!(
    "SELECT ",
    blob_columns!(),
    " FROM blobs x WHERE x.key = $1 AND x.refs > 0"
);

/// The blob that a finished upload became: an equal one, where its organization held one before.
const BY_UPLOAD: &str = concat!(
    "SELECT ",
    blob_columns!(),
    " FROM uploads u JOIN blobs x
         ON x.tenant = u.organization AND x.blake3 = u.blake3 AND x.length = u.byte_offset
     WHERE u.key = $1 AND u.state = 'done' AND x.refs > 0 ORDER BY x.state LIMIT 1"
);

/// An upload that is whole, and that nobody refused.
const WAITING: &str = "SELECT u.key AS x_key, u.byte_offset AS x_length, u.blake3 AS x_blake3,
         u.sha256 AS x_sha256, u.store AS x_store
     FROM uploads u WHERE u.key = $1 AND u.state = 'completing' AND u.blake3 IS NOT NULL
         AND (u.gate IS NULL OR u.gate IN ('asked', 'held', 'passed'))";

impl Metadata {
    /// The blob with that key, or what the upload with that key became, or is about to become.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn linked_blob(&self, key: &BlobKey) -> Result<Option<HeldBlob>> {
        const OP: &str = "blob.linked";
        let mut reader = self.reader(OP).await?;
        for query in [BY_KEY, BY_UPLOAD, WAITING] {
            let row = sqlx::query(query)
                .bind(key.as_bytes().to_vec())
                .fetch_optional(&mut *reader)
                .await
                .at(OP, key)?;
            let Some(row) = row else { continue };
            let blob: BlobMeta = row.blob_meta()?;
            let waits = query == WAITING;
            return Ok(Some(HeldBlob {
                blob,
                store: row.text("x_store")?,
                quarantined: !waits && row.text("x_state")? == "quarantined",
                labels: if waits {
                    Labels::new()
                } else {
                    labels_of(&row, "x_labels")?
                },
                public_holders: Vec::new(),
            }));
        }
        Ok(None)
    }
}
