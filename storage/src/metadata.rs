//! Every row and every commit point, in SQLite or PostgreSQL through one SQL text.
//!
//! Times are milliseconds, ids are ours, and no query depends on a type that only one database has;
//! the few differences stand in `dialect`.

pub mod accounts;
pub mod catalog;
pub mod outbox;
pub mod tokens;
pub mod uploads;

use std::path::Path;
use std::sync::Arc;

use crate::clock::Clock;
use crate::error::Result;

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
pub struct Metadata {}

impl Metadata {
    /// Opens (and makes, if missing) the SQLite database and brings its schema up to date. Asserts
    /// `journal_mode = wal`, `synchronous = 2` and SQLite 3.51.3 or newer.
    ///
    /// # Errors
    /// When the file cannot be opened, is locked by another process, or fails an assertion.
    pub async fn open_sqlite(path: &Path, options: MetadataOptions) -> Result<Self> {
        let _ = (path, options);
        todo!()
    }

    /// The rows of uploads and blobs as the engine sees them.
    pub fn ledger(&self) -> Arc<dyn Ledger> {
        todo!()
    }

    /// One trivial read, for readiness.
    pub async fn ping(&self) -> Result<()> {
        todo!()
    }

    /// Time each commit took; for the metrics, called from the writer.
    pub fn on_commit(&self, observe: Arc<dyn Fn(std::time::Duration) + Send + Sync>) {
        let _ = observe;
        todo!()
    }

    /// Ends the writer after what waits is committed, and closes the database.
    pub async fn close(&self) {
        todo!()
    }
}
