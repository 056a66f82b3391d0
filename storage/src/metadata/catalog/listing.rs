//! Boxes of an organization, page by page, without what is below them.

use super::BoxRow;
use super::columns::{box_columns, box_of};
use crate::error::Result;
use crate::metadata::Metadata;
use crate::metadata::accounts::{AccountId, OrganizationId};
use crate::metadata::sql::At as _;

/// A page of a listing.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Page {
    /// Whose boxes.
    pub organization: OrganizationId,
    /// Who asks: unpublished boxes are listed to their makers alone.
    pub account: Option<AccountId>,
    /// Whether private boxes are theirs to see.
    pub is_member: bool,
    /// The name behind which the page begins; empty for the first.
    pub after: String,
    /// Most boxes.
    pub limit: u32,
}

impl Metadata {
    /// The boxes of a page, by name.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn listed_boxes(&self, page: &Page) -> Result<Vec<BoxRow>> {
        const OP: &str = "box.page";
        let mut reader = self.reader(OP).await?;
        sqlx::query(concat!(
            "SELECT ",
            box_columns!(),
            " FROM boxes b
             WHERE b.organization = $1 AND b.folded > $2 AND (b.published = 1 OR b.account = $3)
                 AND (b.is_public = 1 OR CAST($4 AS BIGINT) = 1)
             ORDER BY b.folded LIMIT $5"
        ))
        .bind(page.organization.0)
        .bind(page.after.to_ascii_lowercase())
        .bind(page.account.map_or(0, |id| id.0))
        .bind(i64::from(page.is_member))
        .bind(i64::from(page.limit))
        .fetch_all(&mut *reader)
        .await
        .at(OP, page.organization.0)?
        .iter()
        .map(box_of)
        .collect()
    }
}
