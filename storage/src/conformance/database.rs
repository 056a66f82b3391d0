//! The database under a test: SQLite in the test's directory, or one of its own on a PostgreSQL server.

use std::path::Path;

use sqlx::{AnyConnection, AssertSqlSafe, Connection as _};

use crate::error::Result;
use crate::metadata::{Metadata, MetadataOptions};

/// Names the server: `postgres://` with the right to make databases. All tests that need a database
/// then run on it.
pub const SERVER: &str = "BOXGATE_TEST_POSTGRES";

/// More than the one that each call makes, so that they become fewer.
const FORGOTTEN_AT_ONCE: usize = 3;

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
    forget_ended(&mut connection).await;
    let whose = if file.is_dir() {
        Some(file)
    } else {
        file.parent()
    };
    let whose = whose.and_then(Path::to_str).unwrap_or_default();
    let mark = format!(
        "COMMENT ON DATABASE {name} IS '{}'",
        whose.replace('\'', "''")
    );
    let marked = sqlx::raw_sql(AssertSqlSafe(mark))
        .execute(&mut connection)
        .await;
    // Two that ask for one database at once mark it alike.
    drop(marked);
    drop(connection.close().await);
    let (base, parameters) = server.split_once('?').unwrap_or((&server, ""));
    let (place, _) = base.rsplit_once('/').expect("a database in the URL");
    Some(format!("{place}/{name}?{parameters}"))
}

/// Drops some databases of tests that ended: their directories are gone. Each takes 8 MB of the disk, and a
/// run makes a thousand.
async fn forget_ended(connection: &mut AnyConnection) {
    let listing = "SELECT datname::text, shobj_description(oid, 'pg_database') FROM pg_database \
                   WHERE datname LIKE 't\\_%' AND shobj_description(oid, 'pg_database') LIKE '/%'";
    let marked: Vec<(String, String)> = sqlx::query_as(listing)
        .fetch_all(&mut *connection)
        .await
        .expect("the server's databases");
    let ended = marked.into_iter().filter(|(_, of)| !Path::new(of).exists());
    for (name, _) in ended.take(FORGOTTEN_AT_ONCE) {
        let end = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
        // Another test may be dropping it, too.
        drop(
            sqlx::raw_sql(AssertSqlSafe(end))
                .execute(&mut *connection)
                .await,
        );
    }
}

fn name_of(file: &Path) -> String {
    let digest = blake3::hash(file.as_os_str().as_encoded_bytes());
    format!("t_{}", &digest.to_hex()[..24])
}
