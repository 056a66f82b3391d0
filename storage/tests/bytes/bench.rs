//! An engine with everything under it within reach.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use boxgate_storage::backend::faulty::Faults;
use boxgate_storage::backend::memory::MemoryStore;
use boxgate_storage::blob::BlobMeta;
use boxgate_storage::buffer::BufferPool;
use boxgate_storage::clock::{Clock, UnixMillis};
use boxgate_storage::conformance::ledger::{DOOMED_FOR, Rig};
use boxgate_storage::digest::Digest;
use boxgate_storage::layer::verify::{self, BlobTree};
use boxgate_storage::metadata::Ledger;
use boxgate_storage::metadata::accounts::{AccountId, OrganizationId};
use boxgate_storage::metadata::uploads::{Labels, Sender, Target, UploadState};
use boxgate_storage::range::ByteRange;
use boxgate_storage::store::Store;
use boxgate_storage::upload::{
    EngineOptions, Keep, Passage, Sha256When, UploadEngine, UploadIntent, UploadLimits,
};
use bytes::Bytes;
use futures_util::StreamExt;

use crate::ledger::FaultyLedger;
use crate::rigs::Memory;

pub(crate) const MIB: usize = 1 << 20;
/// The only organization of a rig.
pub(crate) const ACME: OrganizationId = OrganizationId(1);

/// Rows, bytes, and an engine on them.
pub(crate) struct Bench {
    pub(crate) engine: UploadEngine,
    pub(crate) rig: Arc<dyn Rig>,
    pub(crate) memory: MemoryStore,
    pub(crate) pool: BufferPool,
}

impl Bench {
    pub(crate) async fn new() -> Self {
        Self::on(Memory::new()).await
    }

    pub(crate) async fn on(rig: impl Rig + 'static) -> Self {
        Self::made(rig, 1 << 30).await
    }

    pub(crate) async fn with_room(capacity_bytes: u64) -> Self {
        Self::made(Memory::new(), capacity_bytes).await
    }

    async fn made(rig: impl Rig + 'static, capacity_bytes: u64) -> Self {
        let rig: Arc<dyn Rig> = Arc::new(rig);
        assert_eq!(rig.add_organization("acme").await, ACME);
        let memory = MemoryStore::new(capacity_bytes);
        let pool = BufferPool::new(8 << 20);
        let engine = engine(
            &rig,
            rig.ledger(),
            (memory.store(), Passage::Free, false),
            &pool,
        );
        Self {
            engine,
            rig,
            memory,
            pool,
        }
    }

    /// Another engine on the same rows, clock and bytes, as another process would be.
    pub(crate) fn other(&self) -> UploadEngine {
        self.engine_on(self.rig.ledger(), self.memory.store(), &self.pool)
    }

    /// Another engine that asks before it publishes.
    pub(crate) fn gated(&self, passage: Passage) -> UploadEngine {
        self.engine_with(self.rig.ledger(), self.memory.store(), passage)
    }

    /// The rows, which fail by `faults`.
    pub(crate) fn failing_ledger(&self, faults: &Faults) -> Arc<dyn Ledger> {
        Arc::new(FaultyLedger {
            inner: self.rig.ledger(),
            faults: faults.clone(),
            forgets_states: false,
        })
    }

    /// The same on these rows and bytes.
    pub(crate) fn engine_with(
        &self,
        ledger: Arc<dyn Ledger>,
        store: Store,
        passage: Passage,
    ) -> UploadEngine {
        engine(&self.rig, ledger, (store, passage, false), &self.pool)
    }

    /// One on the same clock.
    pub(crate) fn engine_on(
        &self,
        ledger: Arc<dyn Ledger>,
        store: Store,
        pool: &BufferPool,
    ) -> UploadEngine {
        engine(&self.rig, ledger, (store, Passage::Free, false), pool)
    }

    /// One with other limits than a rig has.
    pub(crate) fn limited(
        &self,
        ledger: Arc<dyn Ledger>,
        store: Store,
        limits: impl FnOnce(UploadLimits) -> UploadLimits,
    ) -> UploadEngine {
        let options = options(&self.rig, ledger, (store, Passage::Free, false), &self.pool);
        UploadEngine::new(EngineOptions {
            limits: limits(options.limits),
            ..options
        })
    }

    /// One whose whole parts wait for one another, until they have `commit_bytes` or `commit_within` is over.
    pub(crate) fn gathering(
        &self,
        ledger: Arc<dyn Ledger>,
        store: Store,
        (commit_bytes, commit_within): (u64, Duration),
    ) -> UploadEngine {
        self.limited(ledger, store, |limits| UploadLimits {
            commit_bytes,
            commit_within,
            ..limits
        })
    }

    /// One that hashes so many uploads on a second core.
    pub(crate) fn laned(&self, lanes: usize) -> UploadEngine {
        let store = self.memory.store();
        self.limited(self.rig.ledger(), store, |limits| UploadLimits {
            lanes,
            ..limits
        })
    }

    /// One that leaves SHA-256 for later.
    pub(crate) fn deferring(&self, store: Store, pool: &BufferPool) -> UploadEngine {
        let under = (store, Passage::Free, false);
        UploadEngine::new(EngineOptions {
            sha256: Sha256When::Deferred { most: 100 },
            ..options(&self.rig, self.rig.ledger(), under, pool)
        })
    }

    /// One of several nodes on these rows.
    pub(crate) fn node_on(&self, store: Store, pool: &BufferPool) -> UploadEngine {
        let ledger = self.rig.ledger();
        engine(&self.rig, ledger, (store, Passage::Free, true), pool)
    }

    /// States of all uploads, open ones first.
    pub(crate) async fn states(&self) -> Vec<UploadState> {
        let mut states = Vec::new();
        for state in [
            UploadState::Open,
            UploadState::Completing,
            UploadState::Done,
            UploadState::Aborted,
            UploadState::Lost,
        ] {
            let rows = self.rig.ledger();
            let rows = rows.uploads_in(state, UnixMillis(i64::MAX), 1000).await;
            states.extend(rows.unwrap().iter().map(|row| row.state));
        }
        states
    }

    /// What the one name holds.
    pub(crate) async fn published(&self) -> Option<BlobMeta> {
        self.rig.file(ACME, &target()).await
    }

    /// The published bytes, verified on the way.
    pub(crate) async fn read_back(&self, blob: &BlobMeta) -> Vec<u8> {
        self.read_back_from(&self.memory.store(), blob).await
    }

    pub(crate) async fn read_back_from(&self, store: &Store, blob: &BlobMeta) -> Vec<u8> {
        let values = self.rig.blob_tree(blob).await.unwrap().into();
        let (tree, whole) = (BlobTree { values }, ByteRange::whole(blob.length));
        let opened = verify::open(&store.read, blob, &tree, whole).await;
        let mut stream = opened.unwrap();
        let mut bytes = Vec::new();
        while let Some(chunk) = stream.next().await {
            bytes.extend_from_slice(&chunk.unwrap());
        }
        bytes
    }

    /// Nothing of any upload is left but what the name holds.
    pub(crate) async fn is_clean(&self) {
        self.engine.settled().await;
        // What was replaced stays for a while.
        self.rig
            .clock()
            .advance(DOOMED_FOR + Duration::from_secs(1));
        self.engine.sweep().await.unwrap();
        let named: Vec<_> = self.published().await.iter().map(|b| b.key).collect();
        assert_eq!(self.memory.keys(), named);
        assert_eq!(self.rig.ledger().due_trash(1000).await.unwrap(), []);
        assert_eq!(self.pool.in_use_bytes(), 0);
        assert_eq!(self.engine.in_progress(), 0);
    }
}

fn engine(
    rig: &Arc<dyn Rig>,
    ledger: Arc<dyn Ledger>,
    under: (Store, Passage, bool),
    pool: &BufferPool,
) -> UploadEngine {
    UploadEngine::new(options(rig, ledger, under, pool))
}

fn options(
    rig: &Arc<dyn Rig>,
    ledger: Arc<dyn Ledger>,
    (store, passage, shared): (Store, Passage, bool),
    pool: &BufferPool,
) -> EngineOptions {
    EngineOptions {
        ledger,
        stores: BTreeMap::from([("main".to_owned(), store)]),
        default_store: "main".to_owned(),
        shared,
        pool: pool.clone(),
        clock: Arc::new(RigClock(Arc::clone(rig))),
        max_length_bytes: 512 << 20,
        min_free_bytes: 1 << 20,
        parts_in_flight: 4,
        limits: UploadLimits::default(),
        sha256: Sha256When::Inline,
        passage,
    }
}

/// The rig's clock, for an engine.
struct RigClock(Arc<dyn Rig>);

impl Clock for RigClock {
    fn now(&self) -> UnixMillis {
        self.0.clock().now()
    }
}

impl fmt::Debug for RigClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RigClock")
    }
}

pub(crate) fn target() -> Target {
    Target {
        box_name: "debian".to_owned(),
        version: "1.0".to_owned(),
        provider: "virtualbox".to_owned(),
        architecture: "amd64".to_owned(),
        new_box_public: false,
        declared: None,
        actor: "ci".to_owned(),
        base_url: String::new(),
        into: None,
        labels: Labels::new(),
        iso: None,
    }
}

pub(crate) fn intent(length: Option<u64>, expected: Vec<Digest>) -> UploadIntent {
    UploadIntent {
        store: None,
        sender: Sender::person(AccountId(1)),
        organization: ACME,
        target: Some(target()),
        length,
        expected,
        part_bytes: None,
        cut: None,
        keep: Keep::No,
        note: None,
    }
}

/// An upload that outlives its writer.
pub(crate) fn kept(length: Option<u64>, expected: Vec<Digest>) -> UploadIntent {
    UploadIntent {
        keep: Keep::UntilIdle,
        ..intent(length, expected)
    }
}

/// Bytes that differ from place to place.
pub(crate) fn content(length: usize, salt: u8) -> Bytes {
    (0..length)
        .map(|i| (i ^ (i >> 9) ^ (i >> 17)).to_le_bytes()[0] ^ salt)
        .collect()
}
