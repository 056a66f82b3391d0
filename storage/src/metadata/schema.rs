//! The schema, as migrations that run once each.

use std::borrow::Cow;

use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::{AnyConnection, Connection as _, SqlSafeStr as _};

use super::dialect::Database;
use super::sql::At as _;
use crate::error::{Error, ErrorKind, Result};

/// Number, name and text; a text that was released never changes (its checksum is compared).
const MIGRATIONS: [(i64, &str, &str); 22] = [
    (1, "house", include_str!("migrations/0001_house.sql")),
    (2, "pieces", include_str!("migrations/0002_pieces.sql")),
    (3, "joins", include_str!("migrations/0003_joins.sql")),
    (4, "orphans", include_str!("migrations/0004_orphans.sql")),
    (5, "digests", include_str!("migrations/0005_digests.sql")),
    (6, "upkeep", include_str!("migrations/0006_upkeep.sql")),
    (7, "senders", include_str!("migrations/0007_senders.sql")),
    (8, "causes", include_str!("migrations/0008_causes.sql")),
    (9, "gate", include_str!("migrations/0009_gate.sql")),
    (10, "plugins", include_str!("migrations/0010_plugins.sql")),
    (11, "inbound", include_str!("migrations/0011_inbound.sql")),
    (12, "webhooks", include_str!("migrations/0012_webhooks.sql")),
    (
        13,
        "stragglers",
        include_str!("migrations/0013_stragglers.sql"),
    ),
    (14, "orders", include_str!("migrations/0014_orders.sql")),
    (15, "apart", include_str!("migrations/0015_apart.sql")),
    (16, "raw", include_str!("migrations/0016_raw.sql")),
    (17, "ends", include_str!("migrations/0017_ends.sql")),
    (
        18,
        "announced",
        include_str!("migrations/0018_announced.sql"),
    ),
    (20, "boxvault", include_str!("migrations/0020_boxvault.sql")),
    (24, "traces", include_str!("migrations/0024_traces.sql")),
    (25, "rates", include_str!("migrations/0025_rates.sql")),
    (26, "deferred", include_str!("migrations/0026_deferred.sql")),
];

/// Brings the schema up to date, in one transaction: of two processes that start at once, the second
/// finds the work done.
pub(super) async fn migrate(database: &Database, connection: &mut AnyConnection) -> Result<()> {
    const OP: &str = "metadata.migrate";
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
    let mut tx = connection
        .begin_with(database.begin_write())
        .await
        .at(OP, "schema")?;
    database.take_turn(&mut tx).await?;
    database.prepare_schema(&mut tx).await?;
    // `run` would do, but its future is not `Send`, and with it that of whoever opens the database.
    Migrator::with_migrations(migrations)
        .set_locking(false)
        .run_direct(None, &mut *tx, false)
        .await
        .map_err(|e| Error::new(ErrorKind::Internal, OP, "schema").with_source(e))?;
    tx.commit().await.at(OP, "schema")
}
