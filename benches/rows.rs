//! An upload engine on rows in memory or in `SQLite`.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use boxgate_storage::buffer::BufferPool;
use boxgate_storage::clock::SystemClock;
use boxgate_storage::metadata::accounts::{AccountId, NewAccount, OrganizationId, PlatformRole};
use boxgate_storage::metadata::memory::MemoryLedger;
use boxgate_storage::metadata::uploads::{Labels, Sender, Target};
use boxgate_storage::metadata::{Ledger, Metadata, MetadataOptions};
use boxgate_storage::store::Store;
use boxgate_storage::upload::{EngineOptions, Keep, UploadEngine, UploadIntent, UploadLimits};

/// The engine, and who uploads.
#[derive(Debug)]
pub struct Rows {
    /// The engine.
    pub uploads: UploadEngine,
    /// Its rows.
    pub ledger: Arc<dyn Ledger>,
    account: AccountId,
    organization: OrganizationId,
}

impl Rows {
    /// Rows in memory, for what the engine costs alone.
    pub fn in_memory(store: &Store, pool: &BufferPool) -> Self {
        let ledger = MemoryLedger::new(Arc::new(SystemClock), Duration::ZERO);
        let organization = ledger.add_organization("bench");
        Self::on(store, pool, Arc::new(ledger), AccountId(1), organization)
    }

    /// Rows in a database of their own below `directory`.
    pub async fn in_sqlite(store: &Store, pool: &BufferPool, directory: &Path) -> Self {
        let options = MetadataOptions {
            clock: Arc::new(SystemClock),
            doomed_for: Duration::ZERO,
        };
        let rows = Metadata::open_sqlite(&directory.join("rows.db"), options).await;
        let rows = rows.expect("an empty directory takes a database");
        let account = rows.create_account(NewAccount {
            username: "bench".into(),
            email: None,
            password_hash: None,
            role: PlatformRole::User,
            membership: None,
            by: String::new(),
        });
        let account = account.await.expect("the name is free");
        let name = "bench".parse().expect("it is a name");
        let organization = rows.create_organization(&name, None, account.id).await;
        let organization = organization.expect("the name is free");
        Self::on(store, pool, rows.ledger(), account.id, organization.id)
    }

    fn on(
        store: &Store,
        pool: &BufferPool,
        ledger: Arc<dyn Ledger>,
        account: AccountId,
        organization: OrganizationId,
    ) -> Self {
        let uploads = UploadEngine::new(EngineOptions {
            ledger: Arc::clone(&ledger),
            stores: [("main".to_owned(), store.clone())].into(),
            default_store: "main".into(),
            shared: false,
            pool: pool.clone(),
            clock: Arc::new(SystemClock),
            max_length_bytes: 1 << 40,
            min_free_bytes: 0,
            parts_in_flight: 4,
            limits: UploadLimits::default(),
            sha256: boxgate_storage::upload::Sha256When::Inline,
            passage: boxgate_storage::upload::Passage::Free,
        });
        Self {
            uploads,
            ledger,
            account,
            organization,
        }
    }

    /// An upload to the one name that all have.
    pub fn intent(&self, length: u64) -> UploadIntent {
        UploadIntent {
            store: None,
            sender: Sender::person(self.account),
            organization: self.organization,
            target: Some(Target {
                box_name: "bench".into(),
                version: "1.0.0".into(),
                provider: "virtualbox".into(),
                architecture: "amd64".into(),
                new_box_public: false,
                declared: None,
                actor: "bench".into(),
                base_url: String::new(),
                into: None,
                labels: Labels::new(),
                iso: None,
            }),
            length: Some(length),
            expected: Vec::new(),
            keep: Keep::No,
            part_bytes: None,
            cut: None,
            note: None,
        }
    }
}
