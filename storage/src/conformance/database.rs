//! The database under a test: SQLite in the test's directory, or one of its own on a PostgreSQL server.

use std::path::Path;

use sqlx::{AnyConnection, AssertSqlSafe, Connection as _};

use crate::error::Result;
use crate::metadata::{Metadata, MetadataOptions};

/// Names the server: `postgres://` with the right to make databases. All tests that need a database
/// then run on it.
pub const SERVER: &str = "BOXGATE_TEST_POSTGRES";

/// Opens the database of `file`; the same one for the same file.
///
/// # Errors
/// As [`Metadata::open_sqlite`] and [`Metadata::open_postgres`].
pub async fn open(file: &Path, options: MetadataOptions) -> Result<Metadata> {
    match url(file).await {
        Some(url) => Metadata::open_postgres(&url, options).await,
        None => Metadata::open_sqlite(file, options).await,
    }
}

/// The URL of `file`'s database, which is made if it is missing; `None` without a server.
///
/// # Panics
/// When the server does not answer.
#[expect(
    clippy::disallowed_methods,
    reason = "a test asks its own environment, which no configuration describes"
)]
pub async fn url(file: &Path) -> Option<String> {
    let server = std::env::var(SERVER).ok()?;
    let name = name_of(file);
    sqlx::any::install_default_drivers();
    let mut connection = AnyConnection::connect(&server).await.expect(SERVER);
    let make = format!("CREATE DATABASE {name}");
    let made = sqlx::raw_sql(AssertSqlSafe(make))
        .execute(&mut connection)
        .await;
    if let Err(error) = made {
        // duplicate_database; unique_violation when two make it at once.
        let code = error
            .as_database_error()
            .and_then(sqlx::error::DatabaseError::code);
        let there = matches!(code.as_deref(), Some("42P04" | "23505"));
        assert!(there, "{error}");
    }
    drop(connection.close().await);
    let (base, parameters) = server.split_once('?').unwrap_or((&server, ""));
    let (place, _) = base.rsplit_once('/').expect("a database in the URL");
    Some(format!("{place}/{name}?{parameters}"))
}

fn name_of(file: &Path) -> String {
    let digest = blake3::hash(file.as_os_str().as_encoded_bytes());
    format!("t_{}", &digest.to_hex()[..24])
}
