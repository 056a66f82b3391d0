//! The least that has an upload stay whatever happens, beside its bytes: its name in a directory and a row of it, both
//! flushed before it is answered.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Error};
use tokio::runtime::Handle;

use super::Buffer;
use crate::error::{Failure, Result};

/// Where an upload of that name is kept by a server that works in `directory`.
pub(in crate::compare) fn kept(directory: &Path, name: &str) -> PathBuf {
    directory.join("kept").join(name)
}

/// What keeps uploads, and the memory that they come through.
pub(super) struct Keeper {
    directory: PathBuf,
    names: File,
    rows: Mutex<SqliteConnection>,
    runtime: Handle,
    buffers: Mutex<Vec<Buffer>>,
}

impl Keeper {
    /// Works in that directory, which is empty.
    pub(super) async fn open(directory: &Path) -> Result<Self> {
        let names = kept(directory, "");
        let opened = std::fs::create_dir_all(&names).and_then(|()| File::open(&names));
        let opened = opened.map_err(|e| Failure::file(&names, e))?;
        let options = SqliteConnectOptions::new()
            .filename(directory.join("rows.db"))
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .disable_statement_logging();
        let mut rows = options.connect().await.map_err(|e| refused(&e))?;
        let table = "CREATE TABLE files (name TEXT PRIMARY KEY, length INTEGER NOT NULL, blake3 TEXT NOT NULL, \
                     sha256 TEXT NOT NULL)";
        let made = sqlx::query(table).execute(&mut rows).await;
        made.map_err(|e| refused(&e))?;
        Ok(Self {
            directory: directory.to_owned(),
            names: opened,
            rows: Mutex::new(rows),
            runtime: Handle::current(),
            buffers: Mutex::default(),
        })
    }

    /// Where the file of that name is written.
    pub(super) fn path(&self, name: &str) -> Result<PathBuf> {
        let is_plain = |letter: char| letter.is_ascii_alphanumeric() || letter == '-';
        if name.is_empty() || !name.chars().all(is_plain) {
            return Err(Failure::said(format!("{name:?} is no name")));
        }
        Ok(kept(&self.directory, name))
    }

    /// Has a written and flushed file stay under its name, with its row.
    pub(super) fn keep(&self, name: &str, length: u64, digests: (&str, &str)) -> Result<()> {
        self.names.sync_all()?;
        let (blake3, sha256) = digests;
        let length = i64::try_from(length).map_err(|e| Failure::said(e.to_string()))?;
        let statement = "INSERT INTO files (name, length, blake3, sha256) VALUES ($1, $2, $3, $4)";
        let insert = sqlx::query(statement)
            .bind(name)
            .bind(length)
            .bind(blake3)
            .bind(sha256);
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        let inserted = self.runtime.block_on(insert.execute(&mut *rows));
        inserted.map_err(|e| refused(&e))?;
        Ok(())
    }

    /// So many buffers, of those that were given back first.
    pub(super) fn take(&self, count: usize) -> Vec<Buffer> {
        let mut buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        let from = buffers.len().saturating_sub(count);
        let mut taken = buffers.split_off(from);
        drop(buffers);
        taken.resize_with(count, Buffer::new);
        taken
    }

    /// Takes buffers back.
    pub(super) fn give(&self, given: Vec<Buffer>) {
        let mut buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        buffers.extend(given);
    }
}

fn refused(error: &Error) -> Failure {
    Failure::said(format!("SQLite: {error}"))
}

#[cfg(test)]
mod tests {
    use sqlx::{Connection as _, Row as _};

    use super::*;

    /// Until its files stay as they are.
    async fn closed(keeper: Keeper) {
        let rows = keeper.rows.into_inner().unwrap();
        rows.close().await.unwrap();
    }

    #[tokio::test]
    async fn a_row_is_committed_and_a_path_for_a_name_is_none() {
        let directory = std::env::temp_dir().join(format!("compare-keeper-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let keeper = Keeper::open(&directory).await.unwrap();
        for wrong in ["", "..", "a/b"] {
            assert!(keeper.path(wrong).is_err(), "{wrong}");
        }
        assert_eq!(keeper.path("f1-2").unwrap(), kept(&directory, "f1-2"));
        let keeper = tokio::task::spawn_blocking(move || {
            keeper.keep("f1-2", 7, ("aa", "bb")).unwrap();
            keeper
        });
        closed(keeper.await.unwrap()).await;
        let options = SqliteConnectOptions::new().filename(directory.join("rows.db"));
        let mut rows = options.connect().await.unwrap();
        let row = sqlx::query("SELECT length, sha256 FROM files WHERE name = 'f1-2'");
        let row = row.fetch_one(&mut rows).await.unwrap();
        assert_eq!(
            (row.get::<i64, _>(0), row.get::<String, _>(1)),
            (7, "bb".to_owned())
        );
        rows.close().await.unwrap();
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[tokio::test]
    async fn buffers_come_back() {
        let directory =
            std::env::temp_dir().join(format!("compare-buffers-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let keeper = Keeper::open(&directory).await.unwrap();
        keeper.give(keeper.take(3));
        assert_eq!(keeper.take(2).len(), 2);
        assert_eq!(keeper.buffers.lock().unwrap().len(), 1);
        assert_eq!(keeper.take(4).len(), 4);
        closed(keeper).await;
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
