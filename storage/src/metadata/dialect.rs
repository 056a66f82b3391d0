//! The few things that differ between databases, in one place.

mod postgres;
mod sqlite;

use std::fmt;
use std::path::Path;
use std::time::Duration;

use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::{AnyConnection, AnyPool};
use tokio::task::JoinHandle;

use crate::error::{Error, ErrorKind, Result};
use crate::metadata::recent::Changes;
use crate::metadata::sql::At as _;

/// How long a read waits for a connection (`reliability` rule: pool wait 5 s).
const POOL_WAIT: Duration = Duration::from_secs(5);

/// Which database, and how to reach it.
#[derive(Clone)]
pub(super) enum Database {
    Sqlite(AnyConnectOptions),
    Postgres(AnyConnectOptions),
}

/// A transaction's name in its database, by which it can be asked later whether it was committed.
#[derive(Debug)]
pub(super) struct TransactionId(String);

/// The task that hears what other processes tell.
#[derive(Debug)]
pub(super) struct News(JoinHandle<()>);

impl Drop for News {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl fmt::Debug for Database {
    // The options hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sqlite(_) => "Sqlite",
            Self::Postgres(_) => "Postgres",
        })
    }
}

impl Database {
    /// The file of that path, made if missing.
    pub(super) fn sqlite(path: &Path) -> Result<Self> {
        sqlite::options(path).map(Self::Sqlite)
    }

    /// The database of a `postgres://` URL.
    pub(super) fn postgres(url: &str) -> Result<Self> {
        postgres::options(url).map(Self::Postgres)
    }

    /// The one connection of this process that writes.
    pub(super) async fn connect_writer(&self) -> Result<AnyConnection> {
        sqlx::any::install_default_drivers();
        match self {
            Self::Sqlite(options) => sqlite::connect_writer(options).await,
            Self::Postgres(options) => postgres::connect_writer(options).await,
        }
    }

    /// The connections that read.
    pub(super) async fn connect_readers(&self) -> Result<AnyPool> {
        let (pool, options) = match self {
            Self::Sqlite(options) => (sqlite::readers(), options),
            Self::Postgres(options) => (postgres::readers(), options),
        };
        let pool = pool
            .acquire_timeout(POOL_WAIT)
            .connect_with(options.clone());
        pool.await.at("metadata.connect", "database")
    }

    /// Refuses a database that would not keep its promises.
    pub(super) async fn assert_safe(&self, connection: &mut AnyConnection) -> Result<()> {
        match self {
            Self::Sqlite(_) => sqlite::assert_safe(connection).await,
            Self::Postgres(_) => postgres::assert_safe(connection).await,
        }
    }

    /// The statement that starts a transaction which may write.
    pub(super) fn begin_write(&self) -> &'static str {
        match self {
            Self::Sqlite(_) => sqlite::BEGIN_WRITE,
            Self::Postgres(_) => "BEGIN",
        }
    }

    /// The first thing in a transaction that writes: waits until no other process writes, so that none
    /// sees another's work half done. SQLite's own lock does the same.
    pub(super) async fn take_turn(
        &self,
        connection: &mut AnyConnection,
    ) -> Result<Option<TransactionId>> {
        match self {
            Self::Sqlite(_) => Ok(None),
            Self::Postgres(_) => postgres::take_turn(connection).await.map(Some),
        }
    }

    /// Tells other processes, once the transaction is committed, that names changed.
    pub(super) async fn tell(&self, connection: &mut AnyConnection) -> Result<()> {
        match self {
            Self::Sqlite(_) => Ok(()),
            Self::Postgres(_) => postgres::tell(connection).await,
        }
    }

    /// Hears what other processes tell, for as long as it is held; `None` where there are none.
    pub(super) fn news(&self, changes: Changes) -> Option<News> {
        match self {
            Self::Sqlite(_) => None,
            Self::Postgres(options) => {
                Some(News(tokio::spawn(postgres::hear(options.clone(), changes))))
            }
        }
    }

    /// What must be there before the first migration.
    pub(super) async fn prepare_schema(&self, connection: &mut AnyConnection) -> Result<()> {
        match self {
            Self::Sqlite(_) => Ok(()),
            Self::Postgres(_) => postgres::make_domain(connection).await,
        }
    }

    /// Asks for the time (`now_ms`) that all processes of the database agree on; `None` where there is but one.
    pub(super) fn clock(&self) -> Option<&'static str> {
        match self {
            Self::Sqlite(_) => None,
            Self::Postgres(_) => Some(postgres::CLOCK),
        }
    }

    /// How long to wait for an answer; `None` where only this machine's disk can be slow.
    pub(super) fn patience(&self) -> Option<Duration> {
        match self {
            Self::Sqlite(_) => None,
            Self::Postgres(_) => Some(postgres::PATIENCE),
        }
    }

    /// Whether a transaction was committed whose answer was lost.
    pub(super) async fn was_committed(&self, id: &TransactionId) -> Result<bool> {
        match self {
            Self::Sqlite(_) => Ok(false),
            Self::Postgres(options) => postgres::was_committed(options, &id.0).await,
        }
    }
}

/// A pool whose connections each begin with these statements.
fn readers_with(statements: &'static [&'static str]) -> AnyPoolOptions {
    AnyPoolOptions::new().after_connect(move |connection, _| {
        Box::pin(async move {
            for statement in statements {
                sqlx::raw_sql(*statement).execute(&mut *connection).await?;
            }
            Ok(())
        })
    })
}

/// What a database's own error code means to us; `None` leaves it to the general rules.
pub(super) fn kind_of(code: &str) -> Option<ErrorKind> {
    if code.len() == postgres::CODE_LENGTH {
        postgres::kind_of(code)
    } else {
        sqlite::kind_of(code)
    }
}

/// Whether the disk below the database failed. After a failed flush nobody knows which pages are on
/// disk, so the process must end and recover from the file.
pub(super) fn is_disk_failure(error: &Error) -> bool {
    let mut next: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(error);
    while let Some(cause) = next {
        if let Some(sqlx::Error::Database(database)) = cause.downcast_ref() {
            return database
                .code()
                .is_some_and(|code| sqlite::is_disk_failure(&code));
        }
        next = cause.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert!(!is_disk_failure(&at("58030")), "another machine's disk");
        assert!(!is_disk_failure(&Error::new(
            ErrorKind::Internal,
            "metadata.transaction",
            "COMMIT"
        )));
    }
}
