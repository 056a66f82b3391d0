//! The few things that differ between databases, in one place. Only SQLite is opened today; what a
//! second database needs goes here and nowhere else.

use std::path::Path;

use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::{AnyConnection, AnyPool, ConnectOptions as _, Connection as _};

use super::sql::{At as _, Columns as _};
use crate::error::{Error, ErrorKind, Result};

/// Starts a transaction that may write. SQLite's plain `BEGIN` would take the write lock late and then
/// fail instead of waiting for it.
pub(super) const BEGIN_WRITE: &str = "BEGIN IMMEDIATE";

/// Connections that read; SQLite answers each on a thread of its own, so few are enough.
const READERS: u32 = 4;

/// How long a read waits for a connection (`reliability` rule: pool wait 5 s).
const POOL_WAIT: std::time::Duration = std::time::Duration::from_secs(5);

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
pub(super) async fn connect_readers(options: AnyConnectOptions) -> Result<AnyPool> {
    AnyPoolOptions::new()
        .max_connections(READERS)
        .acquire_timeout(POOL_WAIT)
        .test_before_acquire(false)
        .after_connect(|connection, _| {
            Box::pin(async move {
                for pragma in ["PRAGMA busy_timeout = 5000", "PRAGMA query_only = ON"] {
                    sqlx::raw_sql(pragma).execute(&mut *connection).await?;
                }
                Ok(())
            })
        })
        .connect_with(options)
        .await
        .at("metadata.connect", "database")
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

/// What a database's own error code means to us; `None` leaves it to the general rules.
pub(super) fn kind_of(code: &str) -> Option<ErrorKind> {
    match primary(code)? {
        BUSY | LOCKED => Some(ErrorKind::Unavailable),
        FULL => Some(ErrorKind::Full),
        _ => None,
    }
}

/// Whether the disk below the database failed. After a failed flush nobody knows which pages are on
/// disk, so the process must end and recover from the file.
pub(super) fn is_disk_failure(error: &Error) -> bool {
    let mut next: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(error);
    while let Some(cause) = next {
        if let Some(sqlx::Error::Database(database)) = cause.downcast_ref() {
            return database.code().and_then(|code| primary(&code)) == Some(IOERR);
        }
        next = cause.source();
    }
    false
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

    #[derive(Debug)]
    struct Failed(&'static str);

    impl std::fmt::Display for Failed {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("failed")
        }
    }

    impl std::error::Error for Failed {}

    impl sqlx::error::DatabaseError for Failed {
        fn message(&self) -> &'static str {
            "failed"
        }

        fn code(&self) -> Option<std::borrow::Cow<'_, str>> {
            Some(self.0.into())
        }

        fn as_error(&self) -> &(dyn std::error::Error + Send + Sync + 'static) {
            self
        }

        fn as_error_mut(&mut self) -> &mut (dyn std::error::Error + Send + Sync + 'static) {
            self
        }

        fn into_error(self: Box<Self>) -> Box<dyn std::error::Error + Send + Sync + 'static> {
            self
        }

        fn kind(&self) -> sqlx::error::ErrorKind {
            sqlx::error::ErrorKind::Other
        }
    }

    #[test]
    fn only_a_failing_disk_ends_the_process() {
        let at = |code| {
            let failed = sqlx::Error::Database(Box::new(Failed(code)));
            Err::<(), _>(failed)
                .at("metadata.transaction", "COMMIT")
                .unwrap_err()
        };
        assert!(is_disk_failure(&at("10")));
        assert!(is_disk_failure(&at("1034")), "a failed flush");
        assert!(!is_disk_failure(&at("13")), "a full disk recovers");
        assert_eq!(at("13").kind(), ErrorKind::Full);
        assert!(!is_disk_failure(&at("5")));
        assert!(!is_disk_failure(&Error::new(
            ErrorKind::Internal,
            "metadata.transaction",
            "COMMIT"
        )));
    }

    #[test]
    fn versions_compare_by_number() {
        assert!(version_of("3.51.3").unwrap() >= OLDEST_SQLITE);
        assert!(version_of("3.100.0").unwrap() >= OLDEST_SQLITE);
        assert!(version_of("3.9.99").unwrap() < OLDEST_SQLITE);
        assert_eq!(version_of("beta"), None);
    }
}
