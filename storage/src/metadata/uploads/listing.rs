//! Uploads in progress with the names of those whose they are, for people who administer them.

use sqlx::any::AnyRow;

use super::UploadRow;
use super::rows::{upload_columns, upload_of};
use crate::blob::UploadId;
use crate::catalog::OrganizationName;
use crate::error::Result;
use crate::metadata::Metadata;
use crate::metadata::accounts::OrganizationId;
use crate::metadata::sql::{At as _, Columns as _, odd};

/// An upload and the names behind its ids; either name is absent when its row is gone.
#[derive(Debug, Clone)]
pub struct NamedUpload {
    /// The upload.
    pub row: UploadRow,
    /// Name of the account that sends it.
    pub username: Option<String>,
    /// Name of the organization whose it becomes.
    pub organization: Option<OrganizationName>,
}

macro_rules! named_upload {
    () => {
        concat!(
            "SELECT ",
            upload_columns!(),
            ", (SELECT username FROM users WHERE users.id = uploads.account) AS x_username,
             (SELECT name FROM organizations WHERE organizations.id = uploads.organization)
                 AS x_organization
             FROM uploads"
        )
    };
}

fn named(row: &AnyRow) -> Result<NamedUpload> {
    let organization = row.opt_text("x_organization")?;
    let organization = organization.map(|name| name.parse()).transpose();
    Ok(NamedUpload {
        row: upload_of(row)?,
        username: row.opt_text("x_username")?,
        organization: organization.map_err(|e| odd("x_organization").with_source(e))?,
    })
}

impl Metadata {
    /// The upload of that id, in whatever state.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn named_upload(&self, id: UploadId) -> Result<Option<NamedUpload>> {
        const OP: &str = "upload.read";
        let mut reader = self.reader(OP).await?;
        sqlx::query(concat!(named_upload!(), " WHERE id = $1"))
            .bind(id.as_bytes().to_vec())
            .fetch_optional(&mut *reader)
            .await
            .at(OP, id)?
            .as_ref()
            .map(named)
            .transpose()
    }

    /// Up to `limit` uploads behind `after` that take bytes or are being published, in the order of
    /// their ids; of one organization, if given; or only those that are held or quarantined.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn uploads_in_progress(
        &self,
        organization: Option<OrganizationId>,
        after: Option<UploadId>,
        (limit, withheld): (u32, bool),
    ) -> Result<Vec<NamedUpload>> {
        const OP: &str = "upload.page";
        let mut reader = self.reader(OP).await?;
        // No id is empty, so an empty one stands before the first.
        let after = after.map_or_else(Vec::new, |id| id.as_bytes().to_vec());
        sqlx::query(concat!(
            named_upload!(),
            " WHERE state IN ('open', 'completing')
                 AND organization = COALESCE($1, organization) AND id > $2
                 AND ($4 = 0 OR gate IN ('held', 'quarantined'))
             ORDER BY id LIMIT $3"
        ))
        .bind(organization.map(|id| id.0))
        .bind(after)
        .bind(i64::from(limit))
        .bind(i64::from(withheld))
        .fetch_all(&mut *reader)
        .await
        .at(OP, "uploads")?
        .iter()
        .map(named)
        .collect()
    }
}
