//! Every row and every commit point, in SQLite or PostgreSQL through one SQL text.
//!
//! Times are milliseconds, ids are ours, and no query depends on a type that only one database has;
//! the few differences stand in `dialect`. Changes go through the one task of `writer`, which commits
//! what waits together; reads use a small pool beside it and never wait for a change.

pub mod accounts;
pub(crate) mod adopt;
mod audit;
pub mod catalog;
pub mod check;
mod copy;
pub mod deferred;
mod dialect;
mod former;
mod imported;
pub mod inbound;
#[cfg(feature = "conformance")]
pub mod memory;
pub mod orders;
mod orphans;
pub mod outbox;
pub mod plugins;
mod rates;
pub mod recent;
mod schema;
pub(crate) mod scrub;
mod sql;
pub mod stragglers;
pub mod tokens;
pub mod transfer;
pub mod upkeep;
pub mod uploads;
pub mod webhooks;
mod writer;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use sqlx::pool::PoolConnection;
use sqlx::{Any, AnyPool};

use self::accounts::{Account, AccountId, Membership, Organization, OrganizationId};
use self::catalog::{BlobDigest, BoxRow, HeldBlob, ResolvedFile};
use self::dialect::{Database, News};
use self::recent::{Changes, Kind, Moment, Recent};
use self::sql::{At as _, Columns as _};
use self::tokens::Token;
use self::writer::{Tx, Writer};
use crate::blob::BlobKey;
use crate::clock::{Clock, UnixMillis};
use crate::error::Result;
use crate::layer::verify::BlobTree;
use crate::trace;

pub use uploads::Ledger;

/// What the rows depend on beside the database.
#[derive(Debug, Clone)]
pub struct MetadataOptions {
    /// Current time.
    pub clock: Arc<dyn Clock>,
    /// How long a blob without a reference stays readable, for downloads in progress.
    pub doomed_for: std::time::Duration,
}

/// The rows; cheap to clone.
#[derive(Debug, Clone)]
pub struct Metadata {
    inner: Arc<Inner>,
    /// What leads to the changes of this handle, where something does.
    cause: Option<Arc<Cause>>,
}

/// The events and plugins that lead to a change, for the events that it makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// How many events led to it.
    pub depth: u32,
    /// The plugins that led to it, the first first.
    pub plugins: Vec<String>,
}

#[derive(Debug)]
struct Inner {
    writer: Writer,
    readers: AnyPool,
    options: MetadataOptions,
    changes: Changes,
    /// What other processes tell of their changes.
    _news: Option<News>,
    /// Whether nobody else changes the rows.
    alone: bool,
    /// What asks for the time that all processes agree on.
    clock: Option<&'static str>,
    known: Known,
}

/// What was read lately of what is asked for most.
struct Known {
    organizations: Recent<String, Organization>,
    organizations_by_id: Recent<OrganizationId, Organization>,
    boxes: Recent<(OrganizationId, String), BoxRow>,
    files: Recent<[String; 5], ResolvedFile>,
    /// What anybody may read.
    blobs: Recent<BlobDigest, HeldBlob>,
    trees: Recent<BlobKey, BlobTree>,
    /// By the hash of the credential.
    tokens: Recent<[u8; 32], (Token, Account)>,
    memberships: Recent<AccountId, Vec<Membership>>,
}

/// Memory for each kind of row, one of which is about a KiB.
const KNOWN_BYTES: u64 = 2 << 20;
const ROW_BYTES: u32 = 1 << 10;
/// Memory for trees: 32 bytes for each MiB of a blob.
const TREES_BYTES: u64 = 8 << 20;

impl Known {
    fn new(changes: &Changes, alone: bool) -> Self {
        let (name, right, bytes) = (Kind::Name, Kind::Right, KNOWN_BYTES);
        let tree =
            |tree: &BlobTree| u32::try_from(tree.values.len() * 32 + 128).unwrap_or(u32::MAX);
        let memberships = |all: &Vec<Membership>| {
            u32::try_from(all.len() + 1).map_or(u32::MAX, |n| n.saturating_mul(ROW_BYTES))
        };
        Self {
            organizations: Recent::with(changes, right, alone, bytes, |_| ROW_BYTES),
            organizations_by_id: Recent::with(changes, right, alone, bytes, |_| ROW_BYTES),
            boxes: Recent::with(changes, name, alone, bytes, |_| ROW_BYTES),
            files: Recent::with(changes, name, alone, bytes, |_| ROW_BYTES),
            blobs: Recent::with(changes, name, alone, bytes, |_| ROW_BYTES),
            trees: Recent::with(changes, Kind::Content, alone, TREES_BYTES, tree),
            tokens: Recent::with(changes, right, alone, bytes, |_| ROW_BYTES),
            memberships: Recent::with(changes, right, alone, bytes, memberships),
        }
    }
}

impl fmt::Debug for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Known").finish_non_exhaustive()
    }
}

impl Metadata {
    /// Opens (and makes, if missing) the SQLite database and brings its schema up to date. Asserts
    /// `journal_mode = wal`, `synchronous = 2` and SQLite 3.51.3 or newer.
    ///
    /// # Errors
    /// When the file cannot be opened, is locked by another process, or fails an assertion.
    pub async fn open_sqlite(path: &Path, options: MetadataOptions) -> Result<Self> {
        Self::open(Database::sqlite(path)?, options).await
    }

    /// Opens the PostgreSQL database of `url`, which any number of processes may share, and brings its
    /// schema up to date. Warns of settings that may lose what was acknowledged.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when it does not answer; when it cannot be used, and why.
    pub async fn open_postgres(url: &str, options: MetadataOptions) -> Result<Self> {
        Self::open(Database::postgres(url)?, options).await
    }

    async fn open(database: Database, options: MetadataOptions) -> Result<Self> {
        let mut connection = database.connect_writer().await?;
        database.assert_safe(&mut connection).await?;
        schema::migrate(&database, &mut connection).await?;
        let readers = database.connect_readers().await?;
        let changes = Changes::default();
        let alone = matches!(database, Database::Sqlite(_));
        let clock = database.clock();
        let news = database.news(changes.clone());
        let writer = Writer::spawn(connection, database, options.clone(), changes.clone());
        let inner = Arc::new(Inner {
            writer,
            readers,
            options,
            known: Known::new(&changes, alone),
            changes,
            _news: news,
            alone,
            clock,
        });
        Ok(Self { inner, cause: None })
    }

    /// The rows of uploads and blobs as the engine sees them.
    pub fn ledger(&self) -> Arc<dyn Ledger> {
        Arc::new(self.clone())
    }

    /// The same rows; events of what is changed by this handle tell what led to them.
    #[must_use]
    pub fn caused_by(&self, cause: Cause) -> Self {
        Self {
            cause: Some(Arc::new(cause)),
            ..self.clone()
        }
    }

    /// One trivial read, for readiness.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn ping(&self) -> Result<()> {
        const OP: &str = "metadata.ping";
        let mut reader = self.reader(OP).await?;
        sqlx::query("SELECT value FROM counters LIMIT 1")
            .fetch_optional(&mut *reader)
            .await
            .at(OP, "database")
            .map(drop)
    }

    /// One transaction that changes nothing, to see that there is somebody who writes.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer, or is closed.
    pub async fn prove_writer(&self) -> Result<()> {
        const OP: &str = "upkeep.prove_writer";
        self.write(OP, |tx| {
            async move {
                let counters = sqlx::query("SELECT value FROM counters LIMIT 1");
                let read = counters.fetch_optional(&mut tx.connection).await;
                read.at(OP, "database").map(drop)
            }
            .boxed()
        })
        .await
    }

    /// The time by the database's clock, where several processes share it: what expires and what is due is theirs
    /// together, and no machine's own clock may decide it.
    ///
    /// # Errors
    /// As [`Self::ping`].
    pub async fn shared_time(&self) -> Result<Option<UnixMillis>> {
        const OP: &str = "metadata.clock";
        let Some(ask) = self.inner.clock else {
            return Ok(None);
        };
        let mut reader = self.reader(OP).await?;
        let row = sqlx::query(ask).fetch_one(&mut *reader).await;
        let now = row.at(OP, "database")?.int("now_ms")?;
        Ok(Some(UnixMillis(now)))
    }

    /// The moment before what is read next.
    pub fn moment(&self) -> Moment {
        self.inner.changes.moment()
    }

    /// Resolves when another process tells that it changed something; never where nobody else does.
    pub async fn told(&self) {
        self.inner.changes.hear().await;
    }

    /// Time each commit took; for the metrics, called from the writer.
    pub fn on_commit(&self, observe: Arc<dyn Fn(std::time::Duration) + Send + Sync>) {
        self.inner.writer.observe(observe);
    }

    /// Ends the writer after what waits is committed, and closes the database.
    pub async fn close(&self) {
        self.inner.writer.close().await;
        self.inner.readers.close().await;
    }

    fn now(&self) -> UnixMillis {
        self.inner.options.clock.now()
    }

    /// One connection that reads; what it sees is the last committed state.
    async fn reader(&self, op: &'static str) -> Result<PoolConnection<Any>> {
        self.inner.readers.acquire().await.at(op, "database")
    }

    /// Runs `work` in the next transaction and answers once that is committed.
    async fn write<T, F>(&self, op: &'static str, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: for<'t> FnOnce(&'t mut Tx) -> BoxFuture<'t, Result<T>> + Send + 'static,
    {
        let (cause, trace) = (self.cause.clone(), trace::current());
        let run = self.inner.writer.run(op, move |tx| {
            // Every change says so, since one transaction serves many.
            tx.cause = cause;
            tx.trace = trace;
            work(tx)
        });
        run.await
    }
}

#[cfg(test)]
mod tests;
