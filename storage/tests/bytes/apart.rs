//! Pieces of any size on a store that takes nothing out of order: each is an object of its own until the offset
//! covers it, and then it is gone.

use std::collections::BTreeSet;
use std::time::Duration;

use boxgate_storage::backend::faulty::{self, Fault as Planned, Faults};
use boxgate_storage::backend::s3;
use boxgate_storage::blob::UploadId;
use boxgate_storage::buffer::BufferPool;
use boxgate_storage::check::{Brake, OrphanLimits};
use boxgate_storage::digest::{Algorithm, Digest, DigestHasher};
use boxgate_storage::metadata::uploads::UploadState;
use boxgate_storage::upload::{Cut, Placed, UploadEngine, UploadIntent};
use boxgate_storage::{ErrorKind, Result};
use bytes::Bytes;
use futures_util::future::join_all;

use crate::bench::{MIB, content, kept};
use crate::house::House;
use crate::s3::Rig;
use crate::s3::reference::Fault;

/// A call that never ends is a failure; everything here takes a fraction of it.
const PATIENCE: Duration = Duration::from_mins(1);

fn digest_of(algorithm: Algorithm, bytes: &[u8]) -> Digest {
    let mut hasher = DigestHasher::new(algorithm);
    hasher.update(bytes);
    hasher.finish()
}

async fn in_chunks(engine: &UploadEngine, bytes: &Bytes, size: usize) -> UploadId {
    let created = engine.create(cut(bytes, size)).await;
    created.unwrap().id
}

async fn in_three(engine: &UploadEngine, bytes: &Bytes) -> Result<UploadId> {
    Ok(engine.create(cut(bytes, 5 * MIB)).await?.id)
}

fn cut(bytes: &Bytes, size: usize) -> UploadIntent {
    let count = u32::try_from(bytes.len().div_ceil(size)).unwrap();
    let size = Some(size as u64);
    UploadIntent {
        cut: Some(Cut::Chunks { count, bytes: size }),
        ..kept(None, vec![digest_of(Algorithm::Sha256, bytes)])
    }
}

/// The bytes of the chunk `k`.
fn chunk(bytes: &Bytes, size: usize, k: usize) -> Bytes {
    bytes.slice(k * size..bytes.len().min((k + 1) * size))
}

async fn put(
    engine: &UploadEngine,
    id: UploadId,
    k: usize,
    (chunk, told): (Bytes, bool),
) -> Result<Placed> {
    let length = told.then_some(chunk.len() as u64);
    let mut writer = engine.piece(id, u32::try_from(k).unwrap(), length).await?;
    for at in (0..chunk.len()).step_by(700_001) {
        writer
            .write(chunk.slice(at..chunk.len().min(at + 700_001)))
            .await?;
    }
    writer.finish().await
}

/// Objects that hold bytes of uploads.
fn objects(rig: &Rig) -> usize {
    let state = rig.reference.state();
    let blobs = |name: &&String| name.contains("/blobs/");
    state.objects.keys().filter(blobs).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunks_of_any_size_and_in_any_order_become_the_object() {
    // Smaller and larger than a part, at the edges of a MiB and beside them; and less than a part in all.
    for (size, chunks) in [
        (5 * MIB, 5),
        (5 * MIB - 3, 5),
        (8 * MIB, 4),
        (20 * MIB + 1, 3),
        (300_007, 4),
    ] {
        for backwards in [false, true] {
            let rig = Rig::new().await;
            let bytes = content((chunks - 1) * size + size / 2, 3);
            let id = in_chunks(&rig.engine, &bytes, size).await;
            let mut order: Vec<_> = (0..chunks).collect();
            if backwards {
                // The last one has its place once another came.
                order.reverse();
                order.swap(0, 1);
            }
            let mut published = None;
            for (sent, k) in order.into_iter().enumerate() {
                // Nobody told how long the last one is.
                let told = k + 1 < chunks;
                let placed = put(&rig.engine, id, k, (chunk(&bytes, size, k), told)).await;
                let placed = placed.unwrap();
                assert_eq!(placed.held as usize, sent + 1);
                published = placed.published;
            }
            assert!(published.is_some(), "{size}, {backwards}");
            rig.holds(&bytes).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_offset_covers_is_gone_and_what_it_does_not_is_kept() {
    let mut rig = Rig::new().await;
    let bytes = content(5 * 5 * MIB + 77, 4);
    let id = in_chunks(&rig.engine, &bytes, 5 * MIB).await;
    let send = |k| (chunk(&bytes, 5 * MIB, k), true);
    for k in [0, 1, 3] {
        put(&rig.engine, id, k, send(k)).await.unwrap();
    }
    // One part of 8 MiB is whole: the first chunk is in it, the second ends behind it.
    rig.restart().await;
    rig.engine.sweep().await.unwrap();
    let row = rig.engine.peek(id).await.unwrap().unwrap();
    assert_eq!((row.offset, objects(&rig)), (8 << 20, 2));

    // What is held takes equal bytes again, wherever they are, and no others.
    for k in [0, 1] {
        assert!(put(&rig.engine, id, k, send(k)).await.unwrap().again);
        let other = (content(5 * MIB, 5), true);
        let refused = put(&rig.engine, id, k, other).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Conflict);
    }
    // One that is cut leaves nothing.
    let mut cut = rig.engine.piece(id, 4, Some(5 << 20)).await.unwrap();
    cut.write(bytes.slice(..3 * MIB)).await.unwrap();
    drop(cut);
    rig.restart().await;
    rig.engine.sweep().await.unwrap();
    assert_eq!(objects(&rig), 2);

    for k in [4, 5, 2] {
        put(&rig.engine, id, k, send(k)).await.unwrap();
    }
    rig.holds(&bytes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_take_chunks_of_one_upload_at_once() {
    for round in 0..24 {
        let mut rig = Rig::new().await;
        rig.engine = rig.bench.node_on(rig.store.clone(), &rig.pool);
        let (store, _) = s3::open(rig.reference.options()).await.unwrap();
        let pool = BufferPool::new(64 << 20);
        let other = rig.bench.node_on(store, &pool);
        let size = 3 * MIB + 5;
        let bytes = content(6 * size + 77, 16);
        let id = in_chunks(&rig.engine, &bytes, size).await;
        let sent = (0..7).map(|k| {
            let at = if (k + round) % 2 == 0 {
                &rig.engine
            } else {
                &other
            };
            put(at, id, k, (chunk(&bytes, size, k), true))
        });
        let placed = tokio::time::timeout(PATIENCE, join_all(sent)).await;
        for placed in placed.expect("all end") {
            if let Err(e) = placed {
                panic!("round {round}: {}", boxgate_storage::error::chain(&e));
            }
        }
        other.settled().await;
        rig.holds(&bytes).await;
        assert_eq!(pool.in_use_bytes(), 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_chunks_at_once_share_memory_for_one_part() {
    let rig = Rig::with_memory(8 << 20).await;
    let size = 9 * MIB;
    let bytes = content(5 * size + 9, 6);
    let id = in_chunks(&rig.engine, &bytes, size).await;
    let sent = (0..6).map(|k| put(&rig.engine, id, k, (chunk(&bytes, size, k), true)));
    let placed = tokio::time::timeout(PATIENCE, join_all(sent)).await;
    let placed: Result<Vec<_>> = placed.expect("all end").into_iter().collect();
    assert!(
        placed
            .unwrap()
            .iter()
            .any(|placed| placed.published.is_some())
    );
    rig.holds(&bytes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_given_up_takes_its_chunks_along() {
    let rig = Rig::new().await;
    let bytes = content(4 * 5 * MIB, 7);
    let id = in_chunks(&rig.engine, &bytes, 5 * MIB).await;
    for k in [0, 1, 3] {
        let sent = (chunk(&bytes, 5 * MIB, k), true);
        put(&rig.engine, id, k, sent).await.unwrap();
    }
    rig.engine.settled().await;
    assert!(rig.engine.cancel(id).await.unwrap());
    rig.engine.sweep().await.unwrap();
    let state = rig.reference.state();
    assert!(state.objects.is_empty(), "{:?}", state.objects.keys());
    assert!(state.uploads.is_empty(), "{:?}", state.uploads.keys());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chunk_that_is_gone_loses_the_upload_before_it_is_published() {
    let rig = Rig::new().await;
    let bytes = content(3 * 5 * MIB, 8);
    let id = in_chunks(&rig.engine, &bytes, 5 * MIB).await;
    for k in [1, 2] {
        let sent = (chunk(&bytes, 5 * MIB, k), true);
        put(&rig.engine, id, k, sent).await.unwrap();
    }
    rig.reference.state().objects.clear();
    let last = put(&rig.engine, id, 0, (chunk(&bytes, 5 * MIB, 0), true)).await;
    assert_eq!(last.unwrap_err().kind(), ErrorKind::Gone);
    let row = rig.engine.peek(id).await.unwrap().unwrap();
    assert_eq!(row.state, UploadState::Lost);
    assert_eq!(rig.bench.published().await, None);
}

/// Whatever call of the bucket fails, and however, each chunk can be sent again until all are held.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_of_the_bucket_may_fail() {
    let bytes = content(2 * 5 * MIB + 9, 9);
    let faults = [
        Fault::Before(503, "SlowDown"),
        Fault::After(500, "InternalError"),
        Fault::Cut,
    ];
    for call in ["head", "create", "part", "put", "complete", "get"] {
        for fault in faults {
            let rig = Rig::new().await;
            let id = in_chunks(&rig.engine, &bytes, 5 * MIB).await;
            for nth in [0, 2, 3] {
                rig.reference.fail(call, nth, fault);
            }
            for k in [1, 0, 2] {
                let sent = || (chunk(&bytes, 5 * MIB, k), true);
                let mut placed = put(&rig.engine, id, k, sent()).await;
                for _again in 0..5 {
                    if placed.is_ok() {
                        break;
                    }
                    placed = put(&rig.engine, id, k, sent()).await;
                }
                placed.unwrap_or_else(|e| panic!("{call} {fault:?} {k}: {e:?}"));
            }
            rig.holds(&bytes).await;
        }
    }
}

/// Sends three chunks, the last two the wrong way round; as far as it comes.
async fn three_chunks(
    engine: &UploadEngine,
    bytes: &Bytes,
    acknowledged: &mut BTreeSet<u32>,
) -> Result<()> {
    let id = in_three(engine, bytes).await?;
    for k in [0, 2, 1] {
        put(engine, id, k, (chunk(bytes, 5 * MIB, k), true)).await?;
        acknowledged.insert(u32::try_from(k).unwrap());
        // Each step in its turn, so that the schedule of failures can be repeated.
        engine.settled().await;
    }
    Ok(())
}

fn failing(rig: &Rig, faults: &Faults) -> UploadEngine {
    let ledger = rig.bench.failing_ledger(faults);
    let store = faulty::wrap(rig.store.clone(), faults);
    rig.bench.engine_on(ledger, store, &rig.pool)
}

/// Wherever a process fails or dies, the next one finds what was acknowledged, takes the rest, and leaves nothing else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunks_that_fail_at_any_step_can_be_sent_again() {
    let bytes = content(2 * 5 * MIB + 9, 10);
    let (rig, faults) = (Rig::new().await, Faults::new());
    let sent = three_chunks(&failing(&rig, &faults), &bytes, &mut BTreeSet::new()).await;
    sent.unwrap();
    let operations = faults.times();
    for needed in [
        "ledger.set_aside",
        "ledger.hold_piece",
        "ledger.advance",
        "ledger.pass_pieces",
        "sink.commit",
    ] {
        assert!(
            operations.contains_key(needed),
            "{needed} has its fail point"
        );
    }
    let mut cases = 0;
    for (op, times) in operations {
        for nth in 0..times {
            for fault in [
                Planned::Before(ErrorKind::Unavailable),
                Planned::After(ErrorKind::Unavailable),
                Planned::Halt,
            ] {
                let case = format!("{op} {nth} {fault:?}");
                let (mut rig, faults) = (Rig::new().await, Faults::new());
                faults.plan(op, nth, fault);
                let engine = failing(&rig, &faults);
                let mut acknowledged = BTreeSet::new();
                let _how_far = three_chunks(&engine, &bytes, &mut acknowledged).await;
                engine.settled().await;
                rig.restart().await;
                rig.engine.recover().await.unwrap();
                take_the_rest(&rig, &bytes, &acknowledged, &case).await;
                cases += 1;
            }
        }
    }
    assert!(cases > 60, "{cases}");
}

async fn take_the_rest(rig: &Rig, bytes: &Bytes, acknowledged: &BTreeSet<u32>, case: &str) {
    let rows = rig.engine.open_uploads(None, None, 2).await.unwrap();
    let id = match rows.as_slice() {
        [row] => row.id,
        _ if rig.bench.published().await.is_some() => return rig.holds(bytes).await,
        _ => {
            assert!(acknowledged.is_empty(), "{case}");
            in_three(&rig.engine, bytes).await.unwrap()
        }
    };
    let held = rig.engine.held_pieces(id).await.unwrap();
    let held: BTreeSet<_> = held.iter().map(|piece| piece.k).collect();
    assert!(
        acknowledged.is_subset(&held),
        "{case}: {acknowledged:?} of {held:?}"
    );
    for k in 0..3 {
        let sent = (chunk(bytes, 5 * MIB, k), true);
        match put(&rig.engine, id, k, sent).await {
            Ok(placed) if placed.published.is_some() => break,
            Ok(_) => {}
            Err(e) => panic!("{case}: chunk {k}: {e:?}"),
        }
    }
    rig.engine.settled().await;
    // What a process left that died is removed after a day.
    rig.bench.rig.clock().advance(Duration::from_hours(25));
    rig.holds(bytes).await;
}

/// What is an upload's own, though under another key, is no orphan: the check does not name it, and it stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_open_upload_holds_apart_is_not_nobodys() {
    let rig = Rig::new().await;
    let house = House::new().await.with_store(rig.store.clone()).await;
    // The beginning of a part, and chunks ahead of the offset.
    let whole = content(9 * MIB, 11);
    let rest = house
        .rest("tail", &whole.slice(..3 * MIB), whole.len())
        .await;
    let bytes = content(2 * 5 * MIB + 9, 12);
    let id = in_three(&house.engine, &bytes).await.unwrap();
    let held = (chunk(&bytes, 5 * MIB, 1), true);
    put(&house.engine, id, 1, held).await.unwrap();
    house.engine.settled().await;
    assert_eq!(house.findings().await, []);
    let at_once = OrphanLimits {
        age: Duration::ZERO,
        brake: Brake::RELEASED,
    };
    for _look in 0..3 {
        let collected = house.stock().collect(at_once).await.unwrap();
        let main = collected.stores["main"];
        assert_eq!((main.stored, main.orphans, main.removed), (2, 0, 0));
    }
    let mut writer = house.engine.resume(rest, 3 << 20).await.unwrap();
    writer.write(whole.slice(3 * MIB..)).await.unwrap();
    writer.finish().await.unwrap();
    for k in [0, 2] {
        let sent = (chunk(&bytes, 5 * MIB, k), true);
        put(&house.engine, id, k, sent).await.unwrap();
    }
    house.engine.settled().await;
    house.engine.sweep().await.unwrap();
    assert_eq!(house.findings().await, []);
    assert_eq!(objects(&rig), 2);

    // One that is gone is found before its upload comes to need it.
    let id = in_three(&house.engine, &bytes).await.unwrap();
    let held = (chunk(&bytes, 5 * MIB, 1), true);
    put(&house.engine, id, 1, held).await.unwrap();
    house.engine.settled().await;
    let taken = house.metadata.ledger().piece(id, 1).await.unwrap().unwrap();
    let key = taken.apart.unwrap();
    let name = format!("some/where/blobs/{key}");
    assert!(rig.reference.state().objects.remove(&name).is_some());
    let found = house.findings().await;
    let found: Vec<_> = found.iter().map(|f| (f.key, f.problem.word())).collect();
    assert_eq!(found, [(key, "missing")]);
}
