//! PostgreSQL: one database for all nodes.
//!
//! Changes of all nodes are made one batch after the other, as they are in SQLite: each transaction that
//! writes first takes one advisory lock, which ends with it, however that is. Batches are small and their
//! statements are few, so what a node waits for is the others' commits.

use std::time::Duration;

use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::postgres::PgListener;
use sqlx::{AnyConnection, ConnectOptions as _, Connection as _};
use tokio::time::{Instant, sleep, timeout};

use super::{TransactionId, readers_with};
use crate::error::{Error, ErrorKind, Result};
use crate::metadata::recent::Changes;
use crate::metadata::sql::{At as _, Columns as _};

/// Connections of one node that read.
const READERS: u32 = 8;

/// The time, as one clock tells it to all.
pub(super) const CLOCK: &str =
    "SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT) AS now_ms";

/// How long a node waits for an answer before it gives the connection up. Longer than the server waits
/// with [`SESSION`]'s limits, so that the server tells what went wrong where it can.
pub(super) const PATIENCE: Duration = Duration::from_secs(15);

/// How long the fate of a lost transaction is asked for.
const FATE_WAIT: Duration = Duration::from_secs(10);

/// Between two questions.
const FATE_PAUSE: Duration = Duration::from_millis(100);

/// Older ones have no `pg_current_xact_id`.
const OLDEST: i64 = 13_00_00;

/// What every connection asks for: no statement runs, waits for a lock, or leaves one lying about, for
/// longer than a database call may take (10 s), and each statement sees what was committed before it.
const SESSION: &str = "SET statement_timeout = '10s';
SET idle_in_transaction_session_timeout = '10s';
SET default_transaction_isolation = 'read committed';
SET client_min_messages = 'warning'";

/// Where processes tell each other that names changed.
const NEWS: &str = "boxgate_names";
const TELL: &str = "NOTIFY boxgate_names";

/// Between two tries to hear of it.
const NEWS_PAUSE: Duration = Duration::from_secs(1);

/// The lock of those who write: "boxgate" in ASCII.
const TAKE_TURN: &str = "SELECT CAST(pg_current_xact_id() AS TEXT) AS id
     FROM pg_advisory_xact_lock(27707110638842981)";

/// How to reach the database of `url`, which may hold a password and is never told.
pub(super) fn options(url: &str) -> Result<AnyConnectOptions> {
    let invalid = |why: &str| {
        Error::new(ErrorKind::Invalid, "metadata.open", "its URL").with_source(why.to_owned())
    };
    if !["postgres://", "postgresql://"]
        .iter()
        .any(|scheme| url.starts_with(scheme))
    {
        return Err(invalid("it must begin with postgres://"));
    }
    let options: AnyConnectOptions = url.parse().map_err(|e: sqlx::Error| match e {
        sqlx::Error::Configuration(why) => invalid(&why.to_string()),
        _ => invalid("it is no URL"),
    })?;
    Ok(options.disable_statement_logging())
}

pub(super) async fn connect_writer(options: &AnyConnectOptions) -> Result<AnyConnection> {
    const OP: &str = "metadata.connect";
    let mut connection = connect(options).await?;
    let shown = sqlx::query("SHOW synchronous_commit")
        .fetch_one(&mut connection)
        .await
        .at(OP, "database")?;
    if shown.text("synchronous_commit")? == "off" {
        sqlx::raw_sql("SET synchronous_commit = 'on'")
            .execute(&mut connection)
            .await
            .at(OP, "database")?;
    }
    Ok(connection)
}

async fn connect(options: &AnyConnectOptions) -> Result<AnyConnection> {
    const OP: &str = "metadata.connect";
    let connecting = async {
        let mut connection = AnyConnection::connect_with(options)
            .await
            .at(OP, "database")?;
        sqlx::raw_sql(SESSION)
            .execute(&mut connection)
            .await
            .at(OP, "database")?;
        Ok(connection)
    };
    timeout(PATIENCE, connecting)
        .await
        .unwrap_or_else(|_elapsed| {
            Err(Error::new(ErrorKind::Unavailable, OP, "database")
                .with_source("it does not answer"))
        })
}

/// The connections that read.
pub(super) fn readers() -> AnyPoolOptions {
    readers_with(&[SESSION, "SET default_transaction_read_only = on"])
        .max_connections(READERS)
        // The server may have been started again since.
        .test_before_acquire(true)
}

/// Refuses what cannot work, and warns of what may lose acknowledged bytes.
pub(super) async fn assert_safe(connection: &mut AnyConnection) -> Result<()> {
    const OP: &str = "metadata.open";
    let is = sqlx::query(
        "SELECT CAST(current_setting('server_version_num') AS BIGINT) AS version,
             current_setting('server_encoding') AS encoding,
             CASE WHEN pg_is_in_recovery() THEN 1 ELSE 0 END AS standby,
             current_setting('fsync') AS fsync,
             current_setting('full_page_writes') AS full_page_writes,
             (SELECT reset_val FROM pg_settings WHERE name = 'synchronous_commit') AS synchronous_commit",
    )
    .fetch_one(connection)
    .await
    .at(OP, "database")?;
    let refuse = |why: String| Err(Error::new(ErrorKind::Invalid, OP, "database").with_source(why));
    let version = is.int("version")?;
    if version < OLDEST {
        return refuse(format!(
            "PostgreSQL 13 or newer is needed, this is {}",
            version / 10_000
        ));
    }
    let encoding = is.text("encoding")?;
    if encoding != "UTF8" {
        return refuse(format!("its encoding must be UTF8, not {encoding}"));
    }
    if is.truth("standby")? {
        return refuse("it is a standby and takes no changes; name the primary".to_owned());
    }
    for (setting, loses) in [
        (
            "fsync",
            "a crash of its machine loses what was acknowledged",
        ),
        ("full_page_writes", "a loss of power may destroy it"),
    ] {
        if is.text(setting)? == "off" {
            tracing::warn!(
                "the database runs with {setting} = off: {loses}; turn it on in postgresql.conf"
            );
        }
    }
    if is.text("synchronous_commit")? == "off" {
        tracing::warn!(
            "the database runs with synchronous_commit = off; boxgate turns it on for its own changes"
        );
    }
    Ok(())
}

pub(super) async fn take_turn(connection: &mut AnyConnection) -> Result<TransactionId> {
    let row = sqlx::query(TAKE_TURN)
        .fetch_one(connection)
        .await
        .at("metadata.turn", "database")?;
    row.text("id").map(TransactionId)
}

/// Tells all who [`hear`], when the transaction is committed. That takes a lock of the whole database, which no two
/// of our transactions wait for: they follow each other anyway.
pub(super) async fn tell(connection: &mut AnyConnection) -> Result<()> {
    sqlx::raw_sql(TELL)
        .execute(connection)
        .await
        .at("metadata.tell", "database")
        .map(drop)
}

/// Counts what others tell, and each time that the connection is lost: who knows what was told meanwhile. A pooler
/// that passes nothing on does no harm, as nothing is kept for long anyway.
pub(super) async fn hear(options: AnyConnectOptions, changes: Changes) {
    loop {
        match timeout(PATIENCE, listener(&options)).await {
            Ok(Ok(mut listener)) => {
                changes.told();
                while let Ok(Some(_told)) = listener.try_recv().await {
                    changes.told();
                }
                changes.told();
            }
            Ok(Err(error)) => tracing::debug!(%error, "no news of other nodes"),
            Err(_elapsed) => {
                tracing::debug!("no news of other nodes: the database does not answer");
            }
        }
        sleep(NEWS_PAUSE).await;
    }
}

async fn listener(options: &AnyConnectOptions) -> Result<PgListener, sqlx::Error> {
    let mut listener = PgListener::connect(options.database_url.as_str()).await?;
    listener.eager_reconnect(false);
    listener.listen(NEWS).await?;
    Ok(listener)
}

/// Makes the type that the schema's text calls BLOB; the caller has its turn.
pub(super) async fn make_domain(connection: &mut AnyConnection) -> Result<()> {
    const OP: &str = "metadata.migrate";
    let there = sqlx::query(
        "SELECT 1 AS there FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
         WHERE t.typname = 'blob' AND n.nspname = current_schema()",
    )
    .fetch_optional(&mut *connection)
    .await
    .at(OP, "blob")?;
    if there.is_none() {
        sqlx::raw_sql("CREATE DOMAIN blob AS bytea")
            .execute(connection)
            .await
            .at(OP, "blob")?;
    }
    Ok(())
}

/// Asks the server, by another connection, until it knows or the time is up.
pub(super) async fn was_committed(options: &AnyConnectOptions, id: &str) -> Result<bool> {
    let until = Instant::now() + FATE_WAIT;
    loop {
        let unknown = match timeout(FATE_WAIT, fate(options, id)).await {
            Ok(Ok(Some(committed))) => return Ok(committed),
            // Its session still runs: the server has not noticed that we are gone.
            Ok(Ok(None)) => None,
            Ok(Err(e)) if e.kind() != ErrorKind::Unavailable => return Err(e),
            Ok(Err(e)) => Some(e),
            Err(_elapsed) => None,
        };
        if Instant::now() >= until {
            return Err(unknown.unwrap_or_else(|| {
                Error::new(ErrorKind::Unavailable, "metadata.fate", id).with_source("it still runs")
            }));
        }
        sleep(FATE_PAUSE).await;
    }
}

/// `None` while the transaction runs.
async fn fate(options: &AnyConnectOptions, id: &str) -> Result<Option<bool>> {
    const OP: &str = "metadata.fate";
    let mut connection = connect(options).await?;
    let row = sqlx::query("SELECT pg_xact_status(CAST($1 AS xid8)) AS status")
        .bind(id)
        .fetch_one(&mut connection)
        .await
        .at(OP, id)?;
    let status = row.opt_text("status")?;
    drop(connection.close().await);
    match status.as_deref() {
        Some("committed") => Ok(Some(true)),
        Some("aborted") => Ok(Some(false)),
        Some("in progress") => Ok(None),
        _ => Err(Error::new(ErrorKind::Internal, OP, id).with_source("the server forgot it")),
    }
}

/// Length of an SQLSTATE; codes of SQLite are shorter.
pub(super) const CODE_LENGTH: usize = 5;

/// What an SQLSTATE means to us (<https://www.postgresql.org/docs/current/errcodes-appendix.html>).
pub(super) fn kind_of(code: &str) -> Option<ErrorKind> {
    match code {
        "53100" => Some(ErrorKind::Full),
        // read_only_sql_transaction: the primary became a standby. idle_in_transaction_session_timeout.
        // lock_not_available.
        "25006" | "25P03" | "42501" | "55P03" => Some(ErrorKind::Unavailable),
        // character_not_in_repertoire, untranslatable_character: a text holds a NUL.
        "22021" | "22P05" => Some(ErrorKind::Invalid),
        _ => match code.get(..2)? {
            // Credentials and the name of the database, which may be mended; connections, serialization and
            // deadlocks, resources, operators (a stop, a time limit), and
            // the system below.
            "08" | "28" | "3D" | "40" | "53" | "57" | "58" => Some(ErrorKind::Unavailable),
            _ => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_means_what_its_class_means() {
        for (code, kind) in [
            ("53100", Some(ErrorKind::Full)),
            ("53300", Some(ErrorKind::Unavailable)), // too_many_connections
            ("57P01", Some(ErrorKind::Unavailable)), // admin_shutdown
            ("57014", Some(ErrorKind::Unavailable)), // query_canceled, by statement_timeout
            ("40P01", Some(ErrorKind::Unavailable)), // deadlock_detected
            ("08006", Some(ErrorKind::Unavailable)), // connection_failure
            ("25006", Some(ErrorKind::Unavailable)),
            ("28P01", Some(ErrorKind::Unavailable)), // invalid_password
            ("3D000", Some(ErrorKind::Unavailable)), // invalid_catalog_name
            ("42501", Some(ErrorKind::Unavailable)),
            ("22021", Some(ErrorKind::Invalid)),
            ("23505", None), // unique_violation: the general rules know it
            ("42P01", None), // undefined_table
        ] {
            assert_eq!(kind_of(code), kind, "{code}");
        }
    }

    #[test]
    fn a_url_that_is_none_is_told_without_its_password() {
        for url in [
            "mysql://a:hush@b/c",
            "postgres://a:hush@[/c",
            "/tmp/hush.db",
        ] {
            let error = options(url).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(!crate::error::chain(&error).contains("hush"), "{url}");
        }
        assert!(options("postgres://a@b/c").is_ok());
    }
}
