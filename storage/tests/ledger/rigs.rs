//! The two ledgers as the suite wants them.

#![expect(
    clippy::unwrap_used,
    reason = "a rig that cannot be made fails its test"
)]

use std::sync::Arc;

use async_trait::async_trait;
use boxgate_storage::ErrorKind;
use boxgate_storage::blob::{BlobKey, BlobMeta};
use boxgate_storage::catalog::BoxRef;
use boxgate_storage::clock::ManualClock;
use boxgate_storage::conformance::database;
use boxgate_storage::conformance::ledger::{DOOMED_FOR, Rig, START};
use boxgate_storage::metadata::accounts::{AccountId, NewAccount, OrganizationId, PlatformRole};
use boxgate_storage::metadata::memory::MemoryLedger;
use boxgate_storage::metadata::outbox::Event;
use boxgate_storage::metadata::uploads::Target;
use boxgate_storage::metadata::{Ledger, Metadata, MetadataOptions};

pub(crate) struct Memory {
    clock: Arc<ManualClock>,
    ledger: Arc<MemoryLedger>,
}

impl Memory {
    pub(crate) fn new() -> Self {
        let clock = Arc::new(ManualClock::new(START));
        let ledger = Arc::new(MemoryLedger::new(clock.clone(), DOOMED_FOR));
        Self { clock, ledger }
    }
}

#[async_trait]
impl Rig for Memory {
    fn ledger(&self) -> Arc<dyn Ledger> {
        self.ledger.clone()
    }

    fn clock(&self) -> &ManualClock {
        &self.clock
    }

    async fn add_organization(&self, name: &str) -> OrganizationId {
        self.ledger.add_organization(name)
    }

    async fn remove_organization(&self, id: OrganizationId) {
        self.ledger.remove_organization(id);
    }

    async fn delete_file(&self, organization: OrganizationId, target: &Target) -> bool {
        self.ledger.delete_file(organization, target)
    }

    async fn file(&self, organization: OrganizationId, target: &Target) -> Option<BlobMeta> {
        self.ledger.file(organization, target)
    }

    async fn quarantine(&self, key: &BlobKey) {
        self.ledger.quarantine(key);
    }

    async fn blob_tree(&self, blob: &BlobMeta) -> Option<Vec<[u8; 32]>> {
        self.ledger.blob_tree(&blob.key)
    }

    async fn events(&self) -> Vec<Event> {
        self.ledger.events()
    }
}

pub(crate) struct Sql {
    clock: Arc<ManualClock>,
    metadata: Metadata,
    owner: AccountId,
    // Removed last.
    _directory: tempfile::TempDir,
}

impl Sql {
    pub(crate) async fn open() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::new(START));
        let options = MetadataOptions {
            clock: clock.clone(),
            doomed_for: DOOMED_FOR,
        };
        let path = directory.path().join("boxgate.db");
        let metadata = database::open(&path, options).await.unwrap();
        let ann = NewAccount {
            username: "ann".to_owned(),
            email: None,
            password_hash: None,
            role: PlatformRole::User,
            membership: None,
            by: String::new(),
        };
        let owner = metadata.create_account(ann).await.unwrap().id;
        Self {
            clock,
            metadata,
            owner,
            _directory: directory,
        }
    }

    async fn name(&self, organization: OrganizationId, target: &Target) -> Option<BoxRef> {
        let organization = self
            .metadata
            .organization_by_id(organization)
            .await
            .unwrap()?;
        Some(BoxRef {
            organization: organization.name,
            name: target.box_name.parse().unwrap(),
            version: target.version.parse().unwrap(),
            provider: target.provider.parse().unwrap(),
            architecture: target.architecture.parse().unwrap(),
        })
    }
}

#[async_trait]
impl Rig for Sql {
    fn ledger(&self) -> Arc<dyn Ledger> {
        self.metadata.ledger()
    }

    fn clock(&self) -> &ManualClock {
        &self.clock
    }

    async fn add_organization(&self, name: &str) -> OrganizationId {
        let name = name.parse().unwrap();
        self.metadata
            .create_organization(&name, None, self.owner)
            .await
            .unwrap()
            .id
    }

    async fn remove_organization(&self, id: OrganizationId) {
        self.metadata.delete_organization(id, "ann").await.unwrap();
    }

    async fn delete_file(&self, organization: OrganizationId, target: &Target) -> bool {
        let Some(name) = self.name(organization, target).await else {
            return false;
        };
        let Some(resolved) = self.metadata.resolve_file(&name).await.unwrap() else {
            return false;
        };
        self.metadata
            .delete_file(resolved.file.architecture_id, "ann")
            .await
            .unwrap()
    }

    async fn file(&self, organization: OrganizationId, target: &Target) -> Option<BlobMeta> {
        let name = self.name(organization, target).await?;
        self.metadata
            .resolve_file(&name)
            .await
            .unwrap()
            .map(|resolved| resolved.file.blob)
    }

    async fn quarantine(&self, key: &BlobKey) {
        self.metadata.quarantine_blob(key).await.unwrap();
    }

    async fn blob_tree(&self, blob: &BlobMeta) -> Option<Vec<[u8; 32]>> {
        match self.metadata.stored_tree(blob).await {
            Ok(tree) => Some(tree.values.to_vec()),
            Err(e) if e.kind() == ErrorKind::NotFound => None,
            Err(e) => panic!("{e}"),
        }
    }

    async fn events(&self) -> Vec<Event> {
        let events = self.metadata.events(0, 1000).await.unwrap();
        // The twin tells of uploads only: it has no accounts and no deletes of its own.
        events
            .into_iter()
            .filter(|e| e.name == "box.uploaded")
            .collect()
    }
}
