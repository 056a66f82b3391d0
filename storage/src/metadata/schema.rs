//! The schema, as migrations that run once each.

use std::borrow::Cow;

use sqlx::AnyConnection;
use sqlx::SqlSafeStr as _;
use sqlx::migrate::{Migration, MigrationType, Migrator};

use crate::error::{Error, ErrorKind, Result};

/// Number, name and text; a text that was released never changes (its checksum is compared).
const MIGRATIONS: [(i64, &str, &str); 1] =
    [(1, "house", include_str!("migrations/0001_house.sql"))];

/// Brings the schema up to date.
pub(super) async fn migrate(connection: &mut AnyConnection) -> Result<()> {
    let migrations = MIGRATIONS
        .into_iter()
        .map(|(version, name, text)| {
            let kind = MigrationType::Simple;
            Migration::new(
                version,
                Cow::Borrowed(name),
                kind,
                text.into_sql_str(),
                false,
            )
        })
        .collect();
    Migrator::with_migrations(migrations)
        .run(connection)
        .await
        .map_err(|e| Error::new(ErrorKind::Internal, "metadata.migrate", "schema").with_source(e))
}
