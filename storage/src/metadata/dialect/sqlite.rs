//! SQLite: one file, in the write-ahead log.

use std::path::Path;

use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::{AnyConnection, ConnectOptions as _, Connection as _};

use super::readers_with;
use crate::error::{Error, ErrorKind, Result};
use crate::metadata::sql::{At as _, Columns as _};

/// Starts a transaction that may write. SQLite's plain `BEGIN` would take the write lock late and then
/// fail instead of waiting for it.
pub(super) const BEGIN_WRITE: &str = "BEGIN IMMEDIATE";

/// Connections that read; SQLite answers each on a thread of its own, so few are enough.
const READERS: u32 = 4;

/// Older ones may corrupt a database when two connections reset the WAL at once.
const OLDEST_SQLITE: (u32, u32, u32) = (3, 51, 3);

/// How to reach the database of `path`.
pub(super) fn options(path: &Path) -> Result<AnyConnectOptions> {
    let invalid = || {
        Error::new(
            ErrorKind::Invalid,
            "metadata.open",
            path.display().to_string(),
        )
    };
    let absolute = std::path::absolute(path).map_err(|e| invalid().with_source(e))?;
    let text = absolute
        .to_str()
        .ok_or_else(|| invalid().with_source("the path is not UTF-8"))?;
    let mut url = String::from("sqlite://");
    for byte in text.bytes() {
        // The driver takes a URL and decodes it again: whatever could mean something there is escaped.
        if byte.is_ascii_alphanumeric() || b"/._-".contains(&byte) {
            url.push(char::from(byte));
        } else {
            url.push('%');
            url.push_str(&hex::encode_upper([byte]));
        }
    }
    url.push_str("?mode=rwc");
    let options: AnyConnectOptions = url.parse().map_err(|e| invalid().with_source(e))?;
    Ok(options.disable_statement_logging())
}

/// The one connection that writes.
pub(super) async fn connect_writer(options: &AnyConnectOptions) -> Result<AnyConnection> {
    const OP: &str = "metadata.connect";
    sqlx::any::install_default_drivers();
    let mut connection = AnyConnection::connect_with(options)
        .await
        .at(OP, "database")?;
    for pragma in [
        "PRAGMA busy_timeout = 5000",
        // The WAL is flushed at every commit: what was acknowledged survives a loss of power.
        "PRAGMA synchronous = FULL",
        "PRAGMA foreign_keys = ON",
        // A WAL that grew behind a slow reader is cut back at the next checkpoint.
        "PRAGMA journal_size_limit = 67108864",
    ] {
        sqlx::raw_sql(pragma)
            .execute(&mut connection)
            .await
            .at(OP, pragma)?;
    }
    use_wal(&mut connection).await?;
    Ok(connection)
}

/// Switches a new database to the write-ahead log. Two processes that do so at once meet a lock for
/// which SQLite's own waiting does not work.
async fn use_wal(connection: &mut AnyConnection) -> Result<()> {
    const SWITCH: &str = "PRAGMA journal_mode = WAL";
    let mut tries_left = 100;
    loop {
        let switched = sqlx::raw_sql(SWITCH).execute(&mut *connection).await;
        match switched.at("metadata.connect", SWITCH) {
            Err(e) if e.kind() == ErrorKind::Unavailable && tries_left > 0 => {
                tries_left -= 1;
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
            other => return other.map(drop),
        }
    }
}

/// The connections that read.
pub(super) fn readers() -> AnyPoolOptions {
    readers_with(&["PRAGMA busy_timeout = 5000", "PRAGMA query_only = ON"])
        .max_connections(READERS)
        .test_before_acquire(false)
}

/// Refuses a database that would not keep its promises.
pub(super) async fn assert_safe(connection: &mut AnyConnection) -> Result<()> {
    const OP: &str = "metadata.open";
    let refuse = |what: &str, is: &str| {
        Err(Error::new(
            ErrorKind::Internal,
            OP,
            format!("{what} is {is}"),
        ))
    };
    let one = async |connection: &mut AnyConnection, query: &'static str| {
        sqlx::query(query).fetch_one(connection).await.at(OP, query)
    };
    let version = one(connection, "SELECT sqlite_version() AS version").await?;
    let version = version.text("version")?;
    if version_of(&version).is_none_or(|v| v < OLDEST_SQLITE) {
        return refuse("SQLite's version", &version);
    }
    let journal = one(connection, "PRAGMA journal_mode")
        .await?
        .text("journal_mode")?;
    if journal != "wal" {
        return refuse("the journal mode", &journal);
    }
    let synchronous = one(connection, "PRAGMA synchronous")
        .await?
        .int("synchronous")?;
    if synchronous != 2 {
        return refuse("the level of synchronous", &synchronous.to_string());
    }
    Ok(())
}

fn version_of(text: &str) -> Option<(u32, u32, u32)> {
    let mut numbers = text.split('.').map(str::parse);
    let mut next = || numbers.next()?.ok();
    Some((next()?, next()?, next()?))
}

/// What an error code means to us; `None` leaves it to the general rules.
pub(super) fn kind_of(code: &str) -> Option<ErrorKind> {
    match primary(code)? {
        BUSY | LOCKED => Some(ErrorKind::Unavailable),
        FULL => Some(ErrorKind::Full),
        _ => None,
    }
}

/// Whether the code says that the disk below the file failed.
pub(super) fn is_disk_failure(code: &str) -> bool {
    primary(code) == Some(IOERR)
}

/// The low byte of an extended result code.
fn primary(code: &str) -> Option<i64> {
    Some(code.parse::<i64>().ok()? & 0xff)
}

// https://www.sqlite.org/rescode.html
const BUSY: i64 = 5;
const LOCKED: i64 = 6;
const IOERR: i64 = 10;
const FULL: i64 = 13;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_extended_code_means_what_its_primary_code_means() {
        assert_eq!(kind_of("517"), Some(ErrorKind::Unavailable)); // SQLITE_BUSY_SNAPSHOT
        assert_eq!(kind_of("13"), Some(ErrorKind::Full));
        assert_eq!(kind_of("2067"), None); // SQLITE_CONSTRAINT_UNIQUE
        assert_eq!(primary("1034"), Some(IOERR)); // SQLITE_IOERR_FSYNC
    }

    #[test]
    fn versions_compare_by_number() {
        assert!(version_of("3.51.3").unwrap() >= OLDEST_SQLITE);
        assert!(version_of("3.100.0").unwrap() >= OLDEST_SQLITE);
        assert!(version_of("3.9.99").unwrap() < OLDEST_SQLITE);
        assert_eq!(version_of("beta"), None);
    }
}
