//! Uploads as a whole: what goes in comes out, and what ends early leaves nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use boxgate_storage::backend::{local, memory::MemoryStore};
use boxgate_storage::blob::BlobMeta;
use boxgate_storage::buffer::BufferPool;
use boxgate_storage::clock::{ManualClock, UnixMillis};
use boxgate_storage::digest::{Algorithm, Digest};
use boxgate_storage::layer::verify;
use boxgate_storage::metadata::Ledger;
use boxgate_storage::metadata::accounts::{AccountId, OrganizationId};
use boxgate_storage::metadata::uploads::{Target, UploadState};
use boxgate_storage::range::ByteRange;
use boxgate_storage::store::Store;
use boxgate_storage::upload::{EngineOptions, Stage, UploadEngine, UploadIntent, UploadWriter};
use boxgate_storage::{ErrorKind, Result};
use bytes::Bytes;
use futures_util::StreamExt;

use crate::ledger::TinyLedger;

pub const MIB: usize = 1 << 20;

/// An engine with everything under it within reach.
pub struct Bench {
    pub engine: UploadEngine,
    pub ledger: Arc<TinyLedger>,
    pub memory: MemoryStore,
    pub pool: BufferPool,
    pub clock: Arc<ManualClock>,
}

impl Bench {
    pub fn new() -> Self {
        Self::with_room(1 << 30)
    }

    pub fn with_room(capacity_bytes: u64) -> Self {
        let clock = Arc::new(ManualClock::new(UnixMillis(1_000_000_000)));
        let ledger = TinyLedger::new(clock.clone());
        let memory = MemoryStore::new(capacity_bytes);
        let pool = BufferPool::new(8 << 20);
        let engine = engine(&clock, &pool, ledger.clone(), memory.store());
        Self {
            engine,
            ledger,
            memory,
            pool,
            clock,
        }
    }

    /// Nothing of any upload is left but what is published.
    pub async fn is_clean(&self) {
        self.engine.settled().await;
        self.engine.sweep().await.unwrap();
        let published: Vec<_> = self.ledger.blobs().iter().map(|(b, _)| b.key).collect();
        assert_eq!(self.memory.keys(), published);
        assert_eq!(self.ledger.trash(), 0);
        assert_eq!(self.pool.in_use_bytes(), 0);
        assert_eq!(self.engine.in_progress(), 0);
    }
}

pub fn engine(
    clock: &Arc<ManualClock>,
    pool: &BufferPool,
    ledger: Arc<dyn Ledger>,
    store: Store,
) -> UploadEngine {
    UploadEngine::new(EngineOptions {
        ledger,
        stores: BTreeMap::from([("main".to_owned(), store)]),
        default_store: "main".to_owned(),
        pool: pool.clone(),
        clock: clock.clone(),
        max_length_bytes: 512 << 20,
        min_free_bytes: 1 << 20,
        parts_in_flight: 4,
    })
}

pub fn intent(length: Option<u64>, expected: Vec<Digest>) -> UploadIntent {
    UploadIntent {
        account: AccountId(1),
        organization: OrganizationId(1),
        target: Target {
            box_name: "debian".to_owned(),
            version: "1.0".to_owned(),
            provider: "virtualbox".to_owned(),
            architecture: "amd64".to_owned(),
            new_box_public: false,
            declared: None,
            actor: "ci".to_owned(),
            base_url: String::new(),
        },
        length,
        expected,
    }
}

pub fn content(length: usize, salt: u8) -> Bytes {
    (0..length)
        .map(|i| (i ^ (i >> 9) ^ (i >> 17)) as u8 ^ salt)
        .collect()
}

async fn send(writer: &mut UploadWriter, bytes: &Bytes, chunk: usize) -> Result<()> {
    for at in (0..bytes.len()).step_by(chunk) {
        let end = bytes.len().min(at + chunk);
        writer.write(bytes.slice(at..end)).await?;
    }
    Ok(())
}

/// The published bytes, verified on the way.
pub async fn read_back(store: &Store, meta: &BlobMeta, ledger: &TinyLedger) -> Vec<u8> {
    let blobs = ledger.blobs();
    let (_, tree) = blobs.iter().find(|(blob, _)| blob == meta).unwrap();
    let whole = ByteRange::whole(meta.length);
    let mut stream = verify::open(&store.read, meta, tree, whole).await.unwrap();
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.next().await {
        bytes.extend_from_slice(&chunk.unwrap());
    }
    bytes
}

fn sha256_of(bytes: &[u8]) -> Digest {
    use sha2::Digest as _;
    Digest::try_new(Algorithm::Sha256, sha2::Sha256::digest(bytes).to_vec()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_goes_in_comes_out_for_every_length_and_chunking() {
    let bench = Bench::new();
    let lengths = [
        1,
        4096,
        MIB - 1,
        MIB,
        MIB + 1,
        8 * MIB,
        8 * MIB + 1,
        17 * MIB + 123,
    ];
    let mut salt = 0;
    for length in lengths {
        for chunk in [7919, 64 << 10, MIB, 3 * MIB + 5] {
            for declared in [Some(length as u64), None] {
                if length / chunk > 500 {
                    continue;
                }
                salt += 1;
                let bytes = content(length, salt);
                let expected = vec![sha256_of(&bytes)];
                let begun = bench.engine.begin(intent(declared, expected)).await;
                let mut writer = begun.unwrap();
                send(&mut writer, &bytes, chunk).await.unwrap();
                assert_eq!(writer.received_bytes(), length as u64);
                let published = writer.finish().await.unwrap();
                assert_eq!(published.blob.length, length as u64);
                assert_eq!(published.blob.blake3.0, *blake3::hash(&bytes).as_bytes());
                let found = read_back(&bench.memory.store(), &published.blob, &bench.ledger).await;
                assert!(found == bytes, "{length} bytes by {chunk}");
            }
        }
    }
    bench.is_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_to_a_local_disk_is_there_byte_by_byte() {
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let store = local::open(home.path()).await.unwrap();
    let bench = Bench::new();
    let (clock, pool) = (&bench.clock, &bench.pool);
    let engine = engine(clock, pool, bench.ledger.clone(), store.clone());
    let bytes = content(40 * MIB + 4097, 3);
    let mut writer = engine.begin(intent(None, Vec::new())).await.unwrap();
    send(&mut writer, &bytes, 500_000).await.unwrap();
    let published = writer.finish().await.unwrap();
    assert!(read_back(&store, &published.blob, &bench.ledger).await == bytes);
    let name = published.blob.key.to_string();
    let path = home.path().join(&name[..2]).join(&name);
    assert!(std::fs::read(path).unwrap() == bytes);
    assert_eq!(pool.in_use_bytes(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_uploads_share_two_buffers() {
    let bench = Bench::new();
    let pool = BufferPool::new(0);
    let ledger = bench.ledger.clone();
    let engine = engine(&bench.clock, &pool, ledger, bench.memory.store());
    let uploads = (0..64u8).map(|salt| {
        let engine = engine.clone();
        tokio::spawn(async move {
            let bytes = content(2 * MIB + 77, salt);
            let mut writer = engine.begin(intent(None, Vec::new())).await.unwrap();
            send(&mut writer, &bytes, 3 * MIB).await.unwrap();
            writer.finish().await.unwrap()
        })
    });
    let all = futures_util::future::join_all(uploads);
    let finished = tokio::time::timeout(Duration::from_secs(120), all).await;
    for published in finished.expect("no upload waits for ever") {
        published.unwrap();
    }
    assert_eq!(pool.in_use_bytes(), 0);
    bench.is_clean().await;
}

#[tokio::test]
async fn a_dropped_writer_leaves_nothing() {
    let bench = Bench::new();
    let mut writer = bench.engine.begin(intent(None, vec![])).await.unwrap();
    writer.write(content(20 * MIB, 1)).await.unwrap();
    assert_eq!(bench.engine.in_progress(), 1);
    drop(writer);
    bench.is_clean().await;
    assert_eq!(bench.ledger.states(), [UploadState::Aborted]);
    assert_eq!(bench.engine.stats().uploads_aborted, 1);
}

#[tokio::test]
async fn a_write_that_is_cut_cannot_be_finished() {
    let bench = Bench::new();
    // All memory is taken, so the write has to wait.
    let mut held = Vec::new();
    for _ in 0..8 {
        held.push(bench.pool.take().await);
    }
    let mut writer = bench.engine.begin(intent(None, vec![])).await.unwrap();
    let mut cut = Box::pin(writer.write(content(100, 1)));
    assert!(futures_util::poll!(&mut cut).is_pending());
    drop(cut);
    drop(held);
    let error = writer.write(content(1, 1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let error = writer.finish().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    bench.is_clean().await;
}

#[tokio::test]
async fn a_caller_who_leaves_while_it_begins_leaves_nothing() {
    let bench = Bench::new();
    let mut begun = Box::pin(bench.engine.begin(intent(None, vec![])));
    assert!(futures_util::poll!(&mut begun).is_pending());
    drop(begun);
    bench.engine.settled().await;
    bench.is_clean().await;
    assert_eq!(bench.ledger.states(), [UploadState::Aborted]);
}

#[tokio::test]
async fn a_finish_that_nobody_waits_for_still_publishes() {
    let bench = Bench::new();
    let mut writer = bench.engine.begin(intent(None, vec![])).await.unwrap();
    writer.write(content(9 * MIB, 1)).await.unwrap();
    let mut finishing = Box::pin(writer.finish());
    assert!(futures_util::poll!(&mut finishing).is_pending());
    drop(finishing);
    bench.engine.settled().await;
    assert_eq!(bench.ledger.states(), [UploadState::Done]);
    bench.is_clean().await;
}

#[tokio::test]
async fn declared_digests_are_compared_by_every_algorithm() {
    let bench = Bench::new();
    let bytes = content(MIB + 5, 9);
    for algorithm in Algorithm::ALL {
        let wrong = Digest::try_new(algorithm, vec![7; algorithm.digest_bytes()]).unwrap();
        let begun = bench.engine.begin(intent(None, vec![wrong])).await;
        let mut writer = begun.unwrap();
        writer.write(bytes.clone()).await.unwrap();
        let error = writer.finish().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DigestMismatch, "{algorithm:?}");
    }
    assert_eq!(bench.ledger.blobs().len(), 0);
    bench.is_clean().await;
}

#[tokio::test]
async fn a_digest_may_come_late_only_when_its_hash_ran_all_along() {
    let bench = Bench::new();
    let mut writer = bench.engine.begin(intent(None, vec![])).await.unwrap();
    let bytes = content(100, 1);
    writer.write(bytes.clone()).await.unwrap();
    let md5 = Digest::try_new(Algorithm::Md5, vec![0; 16]).unwrap();
    assert_eq!(writer.expect(md5).unwrap_err().kind(), ErrorKind::Invalid);
    writer.expect(sha256_of(&bytes)).unwrap();
    writer.finish().await.unwrap();

    let mut writer = bench.engine.begin(intent(None, vec![])).await.unwrap();
    writer.write(bytes.clone()).await.unwrap();
    writer.expect(sha256_of(b"else")).unwrap();
    let error = writer.finish().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DigestMismatch);
    bench.is_clean().await;
}

#[tokio::test]
async fn a_declared_length_that_lies_is_refused_in_both_directions() {
    let bench = Bench::new();
    let mut writer = bench.engine.begin(intent(Some(10), vec![])).await.unwrap();
    writer.write(content(8, 1)).await.unwrap();
    let error = writer.write(content(3, 1)).await.unwrap_err();
    let (expected, given) = (10, 11);
    assert_eq!(error.kind(), ErrorKind::LengthMismatch { expected, given });
    writer.abort().await;

    let mut writer = bench.engine.begin(intent(Some(10), vec![])).await.unwrap();
    writer.write(content(8, 1)).await.unwrap();
    let error = writer.finish().await.unwrap_err();
    let (expected, given) = (10, 8);
    assert_eq!(error.kind(), ErrorKind::LengthMismatch { expected, given });
    bench.is_clean().await;
}

#[tokio::test]
async fn an_upload_without_a_byte_is_invalid() {
    let bench = Bench::new();
    for length in [None, Some(0)] {
        let mut writer = bench.engine.begin(intent(length, vec![])).await.unwrap();
        writer.write(Bytes::new()).await.unwrap();
        let error = writer.finish().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
    bench.is_clean().await;
}

#[tokio::test]
async fn what_cannot_fit_is_refused_before_anything_is_recorded() {
    let bench = Bench::with_room(20 << 20);
    let limit = 512 << 20;
    let begun = bench.engine.begin(intent(Some(limit + 1), vec![])).await;
    assert_eq!(begun.unwrap_err().kind(), ErrorKind::TooLarge { limit });
    let begun = bench.engine.begin(intent(Some(20 << 20), vec![])).await;
    assert_eq!(begun.unwrap_err().kind(), ErrorKind::Full);
    assert_eq!(bench.ledger.states(), []);
    let begun = bench.engine.begin(intent(Some(19 << 20), vec![])).await;
    begun.unwrap().abort().await;
    bench.is_clean().await;
}

#[tokio::test]
async fn a_store_that_fills_up_ends_the_upload_and_keeps_nothing_of_it() {
    let bench = Bench::with_room(20 << 20);
    let mut writer = bench.engine.begin(intent(None, vec![])).await.unwrap();
    let error = writer.write(content(64 * MIB, 1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Full);
    let again = writer.write(content(1, 1)).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::Invalid, "only abort is left");
    writer.abort().await;
    bench.is_clean().await;
    let mut writer = bench.engine.begin(intent(None, vec![])).await.unwrap();
    writer.write(content(10 * MIB, 1)).await.unwrap();
    writer.finish().await.expect("there is room again");
    bench.is_clean().await;
}

#[tokio::test]
async fn equal_bytes_are_stored_once() {
    let bench = Bench::new();
    let mut keys = Vec::new();
    for _ in 0..2 {
        let mut writer = bench.engine.begin(intent(None, vec![])).await.unwrap();
        writer.write(content(3 * MIB, 1)).await.unwrap();
        keys.push(writer.finish().await.unwrap().blob.key);
        assert_eq!(bench.memory.keys(), [keys[0]], "no sweep is needed");
    }
    assert_eq!(keys[0], keys[1]);
    bench.is_clean().await;
}

#[tokio::test]
async fn numbers_tell_what_happened() {
    let bench = Bench::new();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&seen);
    bench.engine.on_commit(Arc::new(move |stage, _took| {
        told.lock().unwrap().push(stage);
    }));
    let length = Some(17 * MIB as u64);
    let mut writer = bench.engine.begin(intent(length, vec![])).await.unwrap();
    writer.write(content(17 * MIB, 1)).await.unwrap();
    assert_eq!(bench.engine.stats().uploads_in_progress, 1);
    writer.finish().await.unwrap();
    let stats = bench.engine.stats();
    assert_eq!(stats.bytes_received, 17 << 20);
    assert_eq!(stats.bytes_copied, 17 << 20, "copied once");
    assert_eq!(stats.part_commits, 3);
    assert_eq!((stats.uploads_finished, stats.uploads_aborted), (1, 0));
    assert!(stats.stage(Stage::InOrder) > Duration::ZERO);
    let seen = seen.lock().unwrap();
    let times = |stage| seen.iter().filter(|s| **s == stage).count();
    let commits = (
        times(Stage::Seal),
        times(Stage::Advance),
        times(Stage::Publish),
    );
    assert_eq!(commits, (3, 3, 1));
}

#[tokio::test]
async fn recovery_ends_what_a_former_process_left() {
    let bench = Bench::new();
    // Two processes on the same rows and bytes: the first stops without a word.
    let ended = engine(
        &bench.clock,
        &bench.pool,
        bench.ledger.clone(),
        bench.memory.store(),
    );
    let mut left_open = ended.begin(intent(None, vec![])).await.unwrap();
    left_open.write(content(9 * MIB, 1)).await.unwrap();
    let recovered = bench.engine.recover().await.unwrap();
    assert_eq!((recovered.finished, recovered.aborted), (0, 1));
    assert_eq!(bench.memory.keys(), []);
    // Its fence holds: what it still does changes nothing.
    left_open.write(content(16 * MIB, 1)).await.unwrap_err();
    left_open.abort().await;
    bench.is_clean().await;
}

#[tokio::test]
async fn a_sweep_leaves_uploads_in_progress_alone() {
    let bench = Bench::new();
    let mut writer = bench.engine.begin(intent(None, vec![])).await.unwrap();
    writer.write(content(MIB, 1)).await.unwrap();
    bench.clock.advance(Duration::from_secs(48 * 3600));
    assert_eq!(bench.engine.sweep().await.unwrap(), 0);
    writer.finish().await.unwrap();
    bench.is_clean().await;
}
