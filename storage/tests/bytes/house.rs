//! Rows on disk, bytes on disk, an engine on both, and a hand that can reach into either.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use boxgate_storage::backend::local;
use boxgate_storage::blob::{BlobKey, UploadId};
use boxgate_storage::buffer::BufferPool;
use boxgate_storage::catalog::BoxRef;
use boxgate_storage::check::{Checked, Finding, Stock, Told};
use boxgate_storage::clock::ManualClock;
use boxgate_storage::conformance::database;
use boxgate_storage::conformance::ledger::{DOOMED_FOR, START};
use boxgate_storage::metadata::accounts::{NewAccount, OrganizationId, PlatformRole};
use boxgate_storage::metadata::catalog::ResolvedFile;
use boxgate_storage::metadata::uploads::{Published, Target};
use boxgate_storage::metadata::{Metadata, MetadataOptions};
use boxgate_storage::store::Store;
use boxgate_storage::upload::{
    EngineOptions, Sha256When, UploadEngine, UploadIntent, UploadLimits,
};
use bytes::Bytes;
use sqlx::Connection as _;

use crate::bench::{ACME, intent, kept, target};

pub(crate) struct House {
    pub(crate) metadata: Metadata,
    pub(crate) engine: UploadEngine,
    pub(crate) store: Store,
    pub(crate) clock: Arc<ManualClock>,
    home: Arc<tempfile::TempDir>,
    // Rows are in a file, whatever database the other tests run on.
    embedded: bool,
    sha256: Sha256When,
}

impl House {
    pub(crate) async fn new() -> Self {
        Self::begin(false).await
    }

    /// With its rows in a file, whatever database the other tests run on.
    pub(crate) async fn embedded() -> Self {
        Self::begin(true).await
    }

    async fn begin(embedded: bool) -> Self {
        // Whether bytes survive is not the question here.
        let home = tempfile::tempdir_in("/dev/shm").unwrap();
        let home = Arc::new(home);
        let store = local::open(&home.path().join("blobs")).await.unwrap();
        let clock = Arc::new(ManualClock::new(START));
        let ways = (embedded, Sha256When::Inline);
        let house = Self::on(home, store, clock, "boxgate.db", ways).await;
        let ann = NewAccount {
            username: "ann".to_owned(),
            email: None,
            password_hash: None,
            role: PlatformRole::User,
            membership: None,
            by: String::new(),
        };
        let account = house.metadata.create_account(ann).await.unwrap().id;
        let name = "acme".parse().unwrap();
        let acme = house.metadata.create_organization(&name, None, account);
        assert_eq!(acme.await.unwrap().id, ACME);
        house
    }

    async fn on(
        home: Arc<tempfile::TempDir>,
        store: Store,
        clock: Arc<ManualClock>,
        database: &str,
        (embedded, sha256): (bool, Sha256When),
    ) -> Self {
        let options = MetadataOptions {
            clock: clock.clone(),
            doomed_for: DOOMED_FOR,
        };
        let path = home.path().join(database);
        let metadata = if embedded {
            Metadata::open_sqlite(&path, options).await
        } else {
            database::open(&path, options).await
        };
        let metadata = metadata.unwrap();
        let engine = UploadEngine::new(EngineOptions {
            ledger: metadata.ledger(),
            stores: BTreeMap::from([("main".to_owned(), store.clone())]),
            default_store: "main".to_owned(),
            shared: false,
            pool: BufferPool::new(64 << 20),
            clock: clock.clone(),
            max_length_bytes: 512 << 20,
            min_free_bytes: 0,
            parts_in_flight: 4,
            limits: UploadLimits {
                lanes: 1,
                ..UploadLimits::default()
            },
            sha256,
            passage: boxgate_storage::upload::Passage::Free,
        });
        Self {
            metadata,
            engine,
            store,
            clock,
            home,
            embedded,
            sha256,
        }
    }

    /// The next process, on the same rows and bytes.
    pub(crate) async fn again(&self) -> Self {
        let store = local::open(&self.home.path().join("blobs")).await.unwrap();
        self.next(store, self.sha256).await
    }

    /// The next process, which leaves SHA-256 for later.
    pub(crate) async fn deferring(&self) -> Self {
        let later = Sha256When::Deferred { most: 100 };
        self.next(self.store.clone(), later).await
    }

    /// The same rows, and these bytes.
    pub(crate) async fn with_store(&self, store: Store) -> Self {
        self.next(store, self.sha256).await
    }

    async fn next(&self, store: Store, sha256: Sha256When) -> Self {
        let (home, clock) = (Arc::clone(&self.home), Arc::clone(&self.clock));
        Self::on(home, store, clock, "boxgate.db", (self.embedded, sha256)).await
    }

    /// The rows as they are now, kept under a name; of an embedded house.
    pub(crate) async fn back_up(&self, name: &str) {
        let path = self.home.path().join(name);
        let statement = format!("VACUUM INTO '{}'", path.display());
        self.sql(&statement).await;
    }

    /// A house on rows that were kept, and the bytes of now.
    pub(crate) async fn restored(&self, name: &str) -> Self {
        let (home, clock) = (Arc::clone(&self.home), Arc::clone(&self.clock));
        Self::on(
            home,
            self.store.clone(),
            clock,
            name,
            (self.embedded, self.sha256),
        )
        .await
    }

    pub(crate) fn stock(&self) -> Stock {
        Stock::new(self.metadata.clone(), self.engine.clone())
    }

    /// All findings, and that as many are counted.
    pub(crate) async fn findings(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        let checked = Self::told(&self.stock(), &mut findings).await;
        assert_eq!(checked.unwrap().findings, findings.len() as u64);
        findings
    }

    /// Checks, and collects the findings.
    pub(crate) async fn told(
        stock: &Stock,
        findings: &mut Vec<Finding>,
    ) -> boxgate_storage::Result<Checked> {
        let tell = |told| {
            if let Told::Finding(finding) = told {
                findings.push(finding);
            }
            std::future::ready(())
        };
        stock.check(tell).await
    }

    /// Changes rows behind everybody's back; foreign keys hold nobody up.
    pub(crate) async fn sql(&self, statement: &str) -> u64 {
        sqlx::any::install_default_drivers();
        let path = self.home.path().join("boxgate.db");
        let server = if self.embedded {
            None
        } else {
            database::url(&path).await
        };
        let (url, all) = if let Some(url) = server {
            let statement = statement.replace("x'", "'\\x");
            let unbound = "SET session_replication_role = 'replica'";
            (url, format!("{unbound}; {statement}"))
        } else {
            let unbound = "PRAGMA busy_timeout = 5000; PRAGMA foreign_keys = OFF";
            let url = format!("sqlite://{}", path.display());
            (url, format!("{unbound}; {statement}"))
        };
        let mut connection = sqlx::AnyConnection::connect(&url).await.unwrap();
        let done = sqlx::raw_sql(sqlx::AssertSqlSafe(all))
            .execute(&mut connection)
            .await
            .unwrap();
        connection.close().await.unwrap();
        done.rows_affected()
    }

    /// Where the local store keeps the bytes of a key.
    pub(crate) fn path_of(&self, key: &BlobKey) -> PathBuf {
        let name = key.to_string();
        let blobs = self.home.path().join("blobs");
        blobs.join(&name[..2]).join(name)
    }

    /// A file that no row names.
    pub(crate) fn plant_file(&self, key: &BlobKey, bytes: &[u8]) {
        std::fs::write(self.path_of(key), bytes).unwrap();
    }

    pub(crate) fn stored_keys(&self) -> Vec<BlobKey> {
        let files = self.all_files().into_iter();
        let blobs = files.filter(|name| !name.contains('.'));
        let mut keys: Vec<BlobKey> = blobs.map(|name| name.parse().unwrap()).collect();
        keys.sort_unstable();
        keys
    }

    /// The names of all files of the store, sidecars among them.
    pub(crate) fn all_files(&self) -> Vec<String> {
        walk(&self.home.path().join("blobs"))
    }

    /// Publishes `bytes` under `acme/{box_name}/1.0/virtualbox/amd64`.
    pub(crate) async fn put(&self, box_name: &str, bytes: &Bytes) -> Published {
        let length = Some(bytes.len() as u64);
        self.send(named(box_name, intent(length, vec![])), bytes)
            .await
    }

    /// Publishes `bytes` without a name.
    pub(crate) async fn put_untargeted(&self, bytes: &Bytes) -> Published {
        let nameless = UploadIntent {
            target: None,
            ..kept(Some(bytes.len() as u64), vec![])
        };
        self.send(nameless, bytes).await
    }

    async fn send(&self, intent: UploadIntent, bytes: &Bytes) -> Published {
        let mut writer = self.engine.begin(intent).await.unwrap();
        writer.write(bytes.clone()).await.unwrap();
        let published = writer.finish().await.unwrap();
        self.engine.settled().await;
        published
    }

    /// Leaves an upload open after these of its `length` bytes.
    pub(crate) async fn rest(&self, box_name: &str, sent: &Bytes, length: usize) -> UploadId {
        let intent = named(box_name, kept(Some(length as u64), vec![]));
        let mut writer = self.engine.begin(intent).await.unwrap();
        writer.write(sent.clone()).await.unwrap();
        let id = writer.id();
        writer.pause().await.unwrap();
        id
    }

    pub(crate) async fn delete(&self, box_name: &str) -> bool {
        let Some(row) = self
            .metadata
            .box_row(ACME, &box_name.parse().unwrap())
            .await
            .unwrap()
        else {
            return false;
        };
        self.metadata.delete_box(row.id, "ann").await.unwrap()
    }

    /// Lets everything that is doomed go.
    pub(crate) async fn sweep_all(&self) {
        self.clock.advance(DOOMED_FOR + Duration::from_secs(1));
        self.engine.sweep().await.unwrap();
    }

    /// What the name of [`Self::put`] leads to.
    pub(crate) async fn resolve(&self, box_name: &str) -> ResolvedFile {
        let name = BoxRef {
            organization: "acme".parse().unwrap(),
            name: box_name.parse().unwrap(),
            version: "1.0".parse().unwrap(),
            provider: "virtualbox".parse().unwrap(),
            architecture: "amd64".parse().unwrap(),
        };
        self.metadata.resolve_file(&name).await.unwrap().unwrap()
    }

    /// The key of an upload's bytes.
    pub(crate) async fn key_of(&self, id: UploadId) -> BlobKey {
        self.engine.peek(id).await.unwrap().unwrap().key
    }
}

fn walk(blobs: &Path) -> Vec<String> {
    let shards = std::fs::read_dir(blobs).unwrap();
    let files = shards.flat_map(|shard| std::fs::read_dir(shard.unwrap().path()).unwrap());
    files
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// The same upload to another box.
pub(crate) fn named(box_name: &str, intent: UploadIntent) -> UploadIntent {
    UploadIntent {
        organization: OrganizationId(1),
        target: Some(Target {
            box_name: box_name.to_owned(),
            ..target()
        }),
        ..intent
    }
}
