mod accounts;
mod catalog;
mod deletes;
mod former;
mod inbound;
mod orders;
mod outbox;
mod rates;
mod stragglers;
mod tokens;
mod uploads;
mod webhooks;

use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::join_all;
use serde_json::Value;

use super::accounts::{Account, NewAccount, Organization, PlatformRole};
use super::sql::Columns as _;
use super::*;
use crate::clock::ManualClock;
use crate::conformance::database;
use crate::error::{Error, ErrorKind};

const DOOMED_FOR: Duration = Duration::from_hours(1);

/// A database of its own, with an account and an organization.
struct House {
    metadata: Metadata,
    clock: Arc<ManualClock>,
    ann: Account,
    acme: Organization,
    directory: tempfile::TempDir,
}

impl House {
    async fn new() -> Self {
        let (directory, clock) = Self::place();
        let metadata = open(directory.path(), &clock).await;
        Self::of(metadata, directory, clock).await
    }

    /// In a file, whatever database the other tests run on.
    async fn embedded() -> Self {
        let (directory, clock) = Self::place();
        let metadata = open_embedded(directory.path(), &clock).await;
        Self::of(metadata, directory, clock).await
    }

    fn place() -> (tempfile::TempDir, Arc<ManualClock>) {
        let clock = Arc::new(ManualClock::new(UnixMillis(1_700_000_000_000)));
        (tempfile::tempdir().unwrap(), clock)
    }

    async fn of(metadata: Metadata, directory: tempfile::TempDir, clock: Arc<ManualClock>) -> Self {
        let ann = metadata.create_account(account("Ann")).await.unwrap();
        let name = "Acme".parse().unwrap();
        let acme = metadata
            .create_organization(&name, Some("boxes"), ann.id)
            .await
            .unwrap();
        Self {
            metadata,
            clock,
            ann,
            acme,
            directory,
        }
    }

    /// Names and data of all events from number `skip` on.
    async fn events(&self, skip: usize) -> Vec<(String, Value)> {
        let events = self.metadata.events(0, 1000).await.unwrap();
        let events = events.into_iter().skip(skip);
        events
            .map(|e| (e.name, serde_json::from_str(&e.data).unwrap()))
            .collect()
    }

    /// Actor, action and subject of all audit rows.
    async fn audit(&self) -> Vec<(String, String, String)> {
        let mut reader = self.metadata.reader("test").await.unwrap();
        let rows = sqlx::query("SELECT actor, action, subject FROM audit ORDER BY seq");
        let rows = rows.fetch_all(&mut *reader).await.unwrap();
        let text = |row: &sqlx::any::AnyRow, column| row.text(column).unwrap();
        let rows = rows.iter();
        rows.map(|r| (text(r, "actor"), text(r, "action"), text(r, "subject")))
            .collect()
    }

    async fn count(&self, table: &str) -> i64 {
        let mut reader = self.metadata.reader("test").await.unwrap();
        let query = sqlx::AssertSqlSafe(format!("SELECT COUNT(*) AS n FROM {table}"));
        sqlx::query(query)
            .fetch_one(&mut *reader)
            .await
            .unwrap()
            .int("n")
            .unwrap()
    }
}

/// A path that means something else in a URL.
const FILE: &str = "box gate%41?#.db";

async fn open(directory: &Path, clock: &Arc<ManualClock>) -> Metadata {
    let file = directory.join(FILE);
    database::open(&file, options(clock)).await.unwrap()
}

async fn open_embedded(directory: &Path, clock: &Arc<ManualClock>) -> Metadata {
    let file = directory.join(FILE);
    Metadata::open_sqlite(&file, options(clock)).await.unwrap()
}

fn options(clock: &Arc<ManualClock>) -> MetadataOptions {
    MetadataOptions {
        clock: clock.clone(),
        doomed_for: DOOMED_FOR,
    }
}

fn account(username: &str) -> NewAccount {
    NewAccount {
        username: username.to_owned(),
        email: Some(format!("{username}@example.com")),
        password_hash: None,
        role: PlatformRole::User,
        membership: None,
        by: String::new(),
    }
}

fn kind<T: std::fmt::Debug>(result: Result<T>) -> ErrorKind {
    result.unwrap_err().kind()
}

#[tokio::test]
async fn all_rows_are_there_after_the_database_was_closed() {
    let house = House::embedded().await;
    house.metadata.ping().await.unwrap();
    house.metadata.close().await;
    assert_eq!(kind(house.metadata.ping().await), ErrorKind::Unavailable);
    let late = house.metadata.create_account(account("late")).await;
    assert_eq!(kind(late), ErrorKind::Unavailable);
    house.metadata.close().await;

    assert!(house.directory.path().join(FILE).exists());
    let again = open_embedded(house.directory.path(), &house.clock).await;
    assert_eq!(again.account(house.ann.id).await.unwrap(), Some(house.ann));
    assert_eq!(
        again.organization_by_id(house.acme.id).await.unwrap(),
        Some(house.acme)
    );
}

#[tokio::test]
async fn rows_are_there_when_the_process_ended_without_closing() {
    let house = House::embedded().await;
    // A copy of the files as they lie there now is what a killed process leaves.
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(house.directory.path()).unwrap() {
        let entry = entry.unwrap();
        if !entry.file_name().to_str().unwrap().ends_with("-shm") {
            std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
        }
    }
    let again = open_embedded(copy.path(), &house.clock).await;
    assert_eq!(again.account(house.ann.id).await.unwrap(), Some(house.ann));
}

#[tokio::test]
async fn two_processes_may_have_the_database_open() {
    let house = House::new().await;
    let beside = open(house.directory.path(), &house.clock).await;
    let bob = beside.create_account(account("bob")).await.unwrap();
    assert_eq!(house.metadata.account(bob.id).await.unwrap(), Some(bob));
    assert_eq!(
        kind(house.metadata.create_account(account("BOB")).await),
        ErrorKind::Conflict
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn processes_that_make_the_database_at_once_agree() {
    let clock = Arc::new(ManualClock::default());
    for _ in 0..8 {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let opened = join_all((0..4).map(|_| {
            tokio::spawn({
                let (path, clock) = (path.to_owned(), Arc::clone(&clock));
                async move { open(&path, &clock).await }
            })
        }))
        .await;
        let opened: Vec<_> = opened.into_iter().map(|one| one.unwrap()).collect();
        let ann = opened[0].create_account(account("ann")).await.unwrap();
        for metadata in &opened {
            assert_eq!(metadata.account(ann.id).await.unwrap().as_ref(), Some(&ann));
        }
    }
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused_at_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("boxgate.db");
    std::fs::write(&path, vec![7; 8192]).unwrap();
    let clock = Arc::new(ManualClock::default());
    let error = Metadata::open_sqlite(&path, options(&clock))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Internal);
}

#[tokio::test]
async fn thirty_two_writers_share_commits() {
    let house = House::new().await;
    let commits = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&commits);
    house
        .metadata
        .on_commit(Arc::new(move |took| seen.lock().unwrap().push(took)));
    let rounds = 4;
    for round in 0..rounds {
        let made = join_all((0..32).map(|n| {
            let metadata = house.metadata.clone();
            async move {
                metadata
                    .create_account(account(&format!("user-{round}-{n}")))
                    .await
            }
        }))
        .await;
        let mut ids: Vec<_> = made
            .into_iter()
            .map(|account| account.unwrap().id)
            .collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 32, "every id is given once");
    }
    let commits = commits.lock().unwrap().len();
    assert!(
        (1..=rounds * 8).contains(&commits),
        "{commits} commits for {} changes",
        rounds * 32
    );
    assert_eq!(house.count("users").await, 1 + 32 * 4);
}

#[tokio::test]
async fn a_change_that_fails_takes_nothing_of_its_batch_along() {
    let house = House::new().await;
    let bad = |n: i64, panics: bool| {
        house.metadata.write("test.bad", move |tx| {
            async move {
                sqlx::query("INSERT INTO counters (name, value) VALUES ($1, 1)")
                    .bind(format!("bad-{n}"))
                    .execute(&mut tx.connection)
                    .await
                    .unwrap();
                assert!(!panics, "a job that panics");
                Err::<(), _>(Error::new(ErrorKind::Invalid, "test.bad", "on purpose"))
            }
            .boxed()
        })
    };
    let good = |n: i64| house.metadata.create_account(account(&format!("good-{n}")));
    let results = tokio::join!(
        good(0),
        bad(0, false),
        good(1),
        bad(1, true),
        good(2),
        bad(2, false)
    );
    results.0.unwrap();
    results.2.unwrap();
    results.4.unwrap();
    assert_eq!(kind(results.1), ErrorKind::Invalid);
    assert_eq!(kind(results.3), ErrorKind::Internal);
    assert_eq!(kind(results.5), ErrorKind::Invalid);
    assert_eq!(house.count("counters WHERE name LIKE 'bad-%'").await, 0);
    assert_eq!(house.count("users WHERE folded LIKE 'good-%'").await, 3);
}

#[tokio::test]
async fn a_lost_transaction_fails_its_batch_and_no_later_one() {
    let house = House::new().await;
    let first = house.metadata.create_account(account("first"));
    let breaker = house.metadata.write("test.break", |tx| {
        async move {
            // What a full disk makes SQLite do by itself.
            sqlx::raw_sql("ROLLBACK")
                .execute(&mut tx.connection)
                .await
                .unwrap();
            Ok(())
        }
        .boxed()
    });
    let (first, breaker) = tokio::join!(first, breaker);
    assert_eq!(kind(breaker), ErrorKind::Unavailable);
    // In its own batch or in the broken one: the answer says which.
    let kept = i64::from(first.is_ok());
    assert_eq!(house.count("users WHERE folded = 'first'").await, kept);
    house
        .metadata
        .create_account(account("second"))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_change_is_done_though_nobody_waits_for_it() {
    let house = House::new().await;
    {
        let mut change = std::pin::pin!(house.metadata.create_account(account("left")));
        // One poll puts it into the queue.
        assert!(change.as_mut().now_or_never().is_none());
    }
    house
        .metadata
        .create_account(account("waits"))
        .await
        .unwrap();
    assert!(
        house
            .metadata
            .account_by_username("left")
            .await
            .unwrap()
            .is_some()
    );
}

#[tokio::test]
async fn foreign_keys_hold_on_the_writing_connection() {
    let house = House::new().await;
    let orphan = house
        .metadata
        .write("test.orphan", |tx| {
            async move {
                sqlx::query("INSERT INTO memberships VALUES (99, 99, 'member', 0)")
                    .execute(&mut tx.connection)
                    .await
                    .at("test.orphan", "membership")
                    .map(drop)
            }
            .boxed()
        })
        .await;
    assert_eq!(kind(orphan), ErrorKind::NotFound);
}
