//! Boxes by words: those that somebody may see and that have something to download.

use sqlx::AssertSqlSafe;

use super::{BoxId, BoxTree};
use crate::error::Result;
use crate::metadata::Metadata;
use crate::metadata::accounts::{AccountId, OrganizationId};
use crate::metadata::sql::{At as _, Columns as _};

/// What is searched for.
#[derive(Debug, Clone, Default)]
pub struct Search {
    /// Who asks, and the one organization that they are bound to, if any.
    pub reader: Option<(AccountId, Option<OrganizationId>)>,
    /// Part of `organization/box` or of the short description; empty is any.
    pub text: String,
    /// Name of a provider; empty is any.
    pub provider: String,
    /// Name of an architecture; empty is any.
    pub architecture: String,
    /// The order.
    pub sort: SortBy,
    /// Whether the least come first.
    pub ascending: bool,
    /// Most boxes.
    pub limit: u32,
    /// Boxes that are passed over first.
    pub offset: u64,
}

/// By what boxes are sorted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SortBy {
    /// Downloads of all their files.
    #[default]
    Downloads,
    /// When they were made.
    Created,
    /// When they were last changed.
    Updated,
}

impl Metadata {
    /// Boxes that match, with everything below them, in order. What others than their makers do not see in listings is
    /// left out, and so is what has no released version with a file.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn search_boxes(&self, search: &Search) -> Result<Vec<BoxTree>> {
        let ids = self.found(search).await?;
        let mut trees = self.trees_of(&ids).await?;
        trees.sort_by_key(|tree| ids.iter().position(|id| *id == tree.row.id));
        Ok(trees)
    }

    async fn found(&self, search: &Search) -> Result<Vec<BoxId>> {
        const OP: &str = "box.search";
        let order = match search.sort {
            SortBy::Downloads => "downloads",
            SortBy::Created => "b.created_ms",
            SortBy::Updated => "b.updated_ms",
        };
        let direction = if search.ascending { "ASC" } else { "DESC" };
        let statement = format!(
            "SELECT b.id AS b_id, (
                 SELECT CAST(COALESCE(SUM(f.downloads), 0) AS BIGINT) FROM versions v
                     JOIN providers p ON p.version = v.id JOIN architectures a ON a.provider = p.id
                     JOIN files f ON f.architecture = a.id WHERE v.box = b.id) AS downloads
             FROM boxes b JOIN organizations o ON o.id = b.organization
             WHERE (b.published = 1 OR b.account = $1)
                 AND (b.is_public = 1 OR EXISTS (
                     SELECT 1 FROM memberships m WHERE m.account = $1
                         AND m.organization = b.organization
                         AND (CAST($2 AS BIGINT) = 0 OR m.organization = $2)))
                 AND (LOWER(o.name || '/' || b.name) LIKE $3 ESCAPE '!'
                     OR LOWER(COALESCE(b.short_description, '')) LIKE $3 ESCAPE '!')
                 AND EXISTS (
                     SELECT 1 FROM versions v JOIN providers p ON p.version = v.id
                         JOIN architectures a ON a.provider = p.id
                         LEFT JOIN files f ON f.architecture = a.id
                     WHERE v.box = b.id AND v.status = 'active'
                         AND (f.id IS NOT NULL OR a.original_url IS NOT NULL)
                         AND ($4 = '' OR p.folded = $4) AND ($5 = '' OR a.folded = $5))
             ORDER BY {order} {direction}, b.id LIMIT $6 OFFSET $7"
        );
        let (account, only) = search.reader.unzip();
        let mut reader = self.reader(OP).await?;
        sqlx::query(AssertSqlSafe(statement))
            .bind(account.map_or(0, |id| id.0))
            .bind(only.flatten().map_or(0, |id| id.0))
            .bind(like(&search.text))
            .bind(search.provider.to_ascii_lowercase())
            .bind(search.architecture.to_ascii_lowercase())
            .bind(i64::from(search.limit))
            .bind(i64::try_from(search.offset).unwrap_or(i64::MAX))
            .fetch_all(&mut *reader)
            .await
            .at(OP, "boxes")?
            .iter()
            .map(|row| row.int("b_id").map(BoxId))
            .collect()
    }
}

/// The text anywhere, none of its characters with a meaning of its own.
fn like(text: &str) -> String {
    let mut pattern = String::from("%");
    for c in text.to_ascii_lowercase().chars() {
        if matches!(c, '!' | '%' | '_') {
            pattern.push('!');
        }
        pattern.push(c);
    }
    pattern.push('%');
    pattern
}
