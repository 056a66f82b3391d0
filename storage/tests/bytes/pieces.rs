//! Uploads that arrive in pieces, in any order and at once: the blob is the one that a single pass makes,
//! and only whole pieces count.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use boxgate_storage::backend::faulty::{Fault, Faults};
use boxgate_storage::backend::local;
use boxgate_storage::blob::UploadId;
use boxgate_storage::buffer::BufferPool;
use boxgate_storage::digest::{Algorithm, Digest, DigestHasher};
use boxgate_storage::metadata::uploads::{Published, UploadState};
use boxgate_storage::store::Store;
use boxgate_storage::upload::{Cut, PieceWriter, Placed, UploadEngine, UploadIntent};
use boxgate_storage::{ErrorKind, Result};
use bytes::Bytes;
use futures_util::future::join_all;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::bench::{Bench, MIB, content, kept};
use crate::fail_points::failing;
use crate::rigs::Sql;

const PART: usize = 8 * MIB;

fn digest_of(algorithm: Algorithm, bytes: &[u8]) -> Digest {
    let mut hasher = DigestHasher::new(algorithm);
    hasher.update(bytes);
    hasher.finish()
}

fn kind<T: std::fmt::Debug>(result: Result<T>) -> ErrorKind {
    result.expect_err("it must be refused").kind()
}

fn in_parts(bytes: &Bytes) -> UploadIntent {
    let declared = [Algorithm::Md5, Algorithm::Sha256, Algorithm::Blake3];
    UploadIntent {
        cut: Some(Cut::Parts),
        ..kept(
            Some(bytes.len() as u64),
            declared.map(|a| digest_of(a, bytes)).to_vec(),
        )
    }
}

fn in_chunks(bytes: &Bytes, count: usize) -> UploadIntent {
    UploadIntent {
        cut: Some(Cut::Chunks {
            count: u32::try_from(count).unwrap(),
            bytes: None,
        }),
        ..kept(None, vec![digest_of(Algorithm::Sha256, bytes)])
    }
}

/// The bytes of the piece `k`.
fn piece(bytes: &Bytes, size: usize, k: usize) -> Bytes {
    bytes.slice(k * size..bytes.len().min((k + 1) * size))
}

async fn begin(
    engine: &UploadEngine,
    id: UploadId,
    k: usize,
    length: usize,
) -> Result<PieceWriter> {
    let k = u32::try_from(k).unwrap();
    engine.piece(id, k, Some(length as u64)).await
}

async fn put(engine: &UploadEngine, id: UploadId, k: usize, piece: Bytes) -> Result<Placed> {
    let mut writer = begin(engine, id, k, piece.len()).await?;
    for at in (0..piece.len()).step_by(700_001) {
        let chunk = piece.slice(at..piece.len().min(at + 700_001));
        writer.write(chunk).await?;
    }
    writer.finish().await
}

/// The name holds what one pass over `bytes` makes.
async fn is_whole(bench: &Bench, store: &Store, published: &Published, bytes: &Bytes) {
    let blob = &published.blob;
    assert_eq!(blob.blake3.0, *blake3::hash(bytes).as_bytes());
    let sha256 = digest_of(Algorithm::Sha256, bytes);
    assert_eq!(blob.checksum(), sha256);
    assert_eq!(bench.published().await, Some(*blob));
    assert!(bench.read_back_from(store, blob).await == *bytes);
}

#[tokio::test]
async fn parts_in_any_order_make_one_blob() {
    for order in [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]] {
        let bench = Bench::new().await;
        let bytes = content(3 * PART + MIB + 77, 1);
        let id = bench.engine.create(in_parts(&bytes)).await.unwrap().id;
        let mut held = BTreeSet::new();
        let mut published = None;
        for k in order {
            let placed = put(&bench.engine, id, k, piece(&bytes, PART, k))
                .await
                .unwrap();
            held.insert(k);
            assert_eq!((placed.held as usize, placed.again), (held.len(), false));
            published = placed.published;
            assert_eq!(published.is_some(), held.len() == 4);
        }
        let published = published.unwrap();
        is_whole(&bench, &bench.memory.store(), &published, &bytes).await;
        bench.is_clean().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_at_once_make_one_blob_on_disk_with_rows_on_disk() {
    for (parent, buffers) in [(env!("CARGO_TARGET_TMPDIR"), 64), ("/dev/shm", 3)] {
        let home = tempfile::tempdir_in(parent).unwrap();
        let store = local::open(home.path()).await.unwrap();
        let bench = Bench::on(Sql::open().await).await;
        // With few buffers nothing can be kept, and all that came ahead is read.
        let pool = BufferPool::new(buffers << 20);
        let engine = bench.engine_on(bench.rig.ledger(), store.clone(), &pool);
        let bytes = content(9 * PART + 4097, 2);
        let id = engine.create(in_parts(&bytes)).await.unwrap().id;
        let all = (0..10).map(|k| put(&engine, id, k, piece(&bytes, PART, k)));
        let placed: Result<Vec<_>> = join_all(all).await.into_iter().collect();
        let mut published = placed.unwrap().into_iter().filter_map(|p| p.published);
        is_whole(&bench, &store, &published.next().unwrap(), &bytes).await;
        engine.settled().await;
        assert_eq!((pool.in_use_bytes(), engine.in_progress()), (0, 0));
    }
}

#[tokio::test]
async fn chunks_of_any_size_make_one_blob_and_a_last_one_that_comes_first_waits() {
    // Larger and smaller than a part, at the edges of a MiB and beside them.
    for size in [5 * MIB, 5 * MIB - 3, 20 * MIB + 1, 300_007] {
        let bench = Bench::new().await;
        let bytes = content(3 * size + size / 2, 3);
        let id = bench.engine.create(in_chunks(&bytes, 4)).await.unwrap().id;
        let last = put(&bench.engine, id, 3, piece(&bytes, size, 3));
        let others = async {
            let mut published = None;
            for k in [2, 0, 1] {
                let placed = put(&bench.engine, id, k, piece(&bytes, size, k)).await;
                published = published.or(placed.unwrap().published);
            }
            published
        };
        let (last, others) = tokio::join!(last, others);
        let published = last.unwrap().published.or(others).unwrap();
        is_whole(&bench, &bench.memory.store(), &published, &bytes).await;
        bench.is_clean().await;
    }
}

#[tokio::test]
async fn a_single_chunk_is_the_whole() {
    let bench = Bench::new().await;
    let bytes = content(17 * MIB + 1, 4);
    let id = bench.engine.create(in_chunks(&bytes, 1)).await.unwrap().id;
    let placed = put(&bench.engine, id, 0, bytes.clone()).await.unwrap();
    is_whole(
        &bench,
        &bench.memory.store(),
        &placed.published.unwrap(),
        &bytes,
    )
    .await;
    bench.is_clean().await;
}

#[tokio::test]
async fn a_piece_that_is_cut_counts_for_nothing_and_can_be_sent_again() {
    let bench = Bench::new().await;
    let bytes = content(2 * PART, 5);
    let other = content(PART, 6);
    let id = bench.engine.create(in_parts(&bytes)).await.unwrap().id;
    // In front, so that it is followed while it comes.
    let mut cut = begin(&bench.engine, id, 0, PART).await.unwrap();
    cut.write(other.slice(..5 * MIB + 3)).await.unwrap();
    drop(cut);
    bench.engine.settled().await;
    assert_eq!(bench.engine.held_pieces(id).await.unwrap(), []);
    assert_eq!(bench.engine.peek(id).await.unwrap().unwrap().offset, 0);

    // The newest sender of a piece wins.
    let mut older = begin(&bench.engine, id, 0, PART).await.unwrap();
    older.write(other.slice(..MIB + 3)).await.unwrap();
    let engine = bench.engine.clone();
    let front = piece(&bytes, PART, 0);
    let newer = tokio::spawn(async move { put(&engine, id, 0, front).await });
    older.taken_over().await;
    assert_eq!(kind(older.write(other.slice(..1)).await), ErrorKind::Fenced);
    drop(older);
    assert_eq!(newer.await.unwrap().unwrap().held, 1);

    // Short of its end, and past it.
    let mut short = begin(&bench.engine, id, 1, PART).await.unwrap();
    short.write(other.slice(..PART - 1)).await.unwrap();
    let missing = ErrorKind::LengthMismatch {
        expected: PART as u64,
        given: PART as u64 - 1,
    };
    assert_eq!(kind(short.finish().await), missing);
    let mut long = begin(&bench.engine, id, 1, PART).await.unwrap();
    long.write(other.clone()).await.unwrap();
    let past = kind(long.write(other.slice(..1)).await);
    assert!(matches!(past, ErrorKind::LengthMismatch { .. }));
    drop(long);

    let last = put(&bench.engine, id, 1, piece(&bytes, PART, 1)).await;
    let published = last.unwrap().published.unwrap();
    is_whole(&bench, &bench.memory.store(), &published, &bytes).await;
    bench.is_clean().await;
}

#[tokio::test]
async fn a_held_piece_takes_equal_bytes_again_and_no_others() {
    let bench = Bench::new().await;
    let bytes = content(3 * PART, 7);
    let id = bench.engine.create(in_parts(&bytes)).await.unwrap().id;
    // One behind the offset, one ahead of it.
    for k in [0, 2] {
        let one = piece(&bytes, PART, k);
        put(&bench.engine, id, k, one.clone()).await.unwrap();
        let again = put(&bench.engine, id, k, one).await.unwrap();
        assert!(again.again && again.published.is_none());
        let other = put(&bench.engine, id, k, content(PART, 8)).await;
        assert_eq!(kind(other), ErrorKind::Conflict);
    }
    assert_eq!(bench.engine.held_pieces(id).await.unwrap().len(), 2);
    let last = put(&bench.engine, id, 1, piece(&bytes, PART, 1)).await;
    let published = last.unwrap().published.unwrap();
    is_whole(&bench, &bench.memory.store(), &published, &bytes).await;
}

#[tokio::test]
async fn a_piece_with_a_digest_counts_only_if_it_has_it() {
    let bench = Bench::new().await;
    let bytes = content(2 * PART, 9);
    let id = bench.engine.create(in_parts(&bytes)).await.unwrap().id;
    let send = async |declared: Digest| {
        let mut writer = begin(&bench.engine, id, 1, PART).await.unwrap();
        writer.hold(declared).unwrap();
        writer.write(piece(&bytes, PART, 1)).await.unwrap();
        writer.finish().await
    };
    let wrong = digest_of(Algorithm::Sha256, b"else");
    assert_eq!(kind(send(wrong).await), ErrorKind::DigestMismatch);
    assert_eq!(bench.engine.held_pieces(id).await.unwrap(), []);
    let right = digest_of(Algorithm::Crc32, &piece(&bytes, PART, 1));
    assert_eq!(send(right).await.unwrap().held, 1);
    assert!(bench.engine.cancel(id).await.unwrap());
    bench.is_clean().await;
}

#[tokio::test]
async fn a_whole_with_another_digest_is_given_up() {
    let bench = Bench::new().await;
    let bytes = content(PART + 5, 10);
    let intent = UploadIntent {
        expected: vec![digest_of(Algorithm::Sha256, b"else")],
        ..in_parts(&bytes)
    };
    let id = bench.engine.create(intent).await.unwrap().id;
    put(&bench.engine, id, 1, piece(&bytes, PART, 1))
        .await
        .unwrap();
    let last = put(&bench.engine, id, 0, piece(&bytes, PART, 0)).await;
    assert_eq!(kind(last), ErrorKind::DigestMismatch);
    let row = bench.engine.peek(id).await.unwrap().unwrap();
    assert_eq!(
        (row.state, bench.published().await),
        (UploadState::Aborted, None)
    );
    bench.is_clean().await;
}

#[tokio::test]
async fn pieces_that_fit_no_place_are_refused() {
    let bench = Bench::new().await;
    let bytes = content(2 * PART + 5, 11);
    let id = bench.engine.create(in_parts(&bytes)).await.unwrap().id;
    let length = |expected: usize, given: usize| ErrorKind::LengthMismatch {
        expected: expected as u64,
        given: given as u64,
    };
    for (k, given, refused) in [
        (0, PART - 1, length(PART, PART - 1)),
        (2, PART, length(5, PART)),
        (1, 0, ErrorKind::Invalid),
        (3, 5, ErrorKind::Invalid),
    ] {
        assert_eq!(
            kind(begin(&bench.engine, id, k, given).await),
            refused,
            "{k}"
        );
    }
    // Sizes that no upload can have, and two sizes.
    let huge = bench
        .engine
        .create(in_chunks(&bytes, 60_000))
        .await
        .unwrap()
        .id;
    let large = begin(&bench.engine, huge, 0, 1 << 20).await;
    let limit = bench.engine.peek(huge).await.unwrap().unwrap().part_bytes;
    assert!(matches!(kind(large), ErrorKind::TooLarge { limit: l } if l > limit));
    let other = UploadIntent {
        target: None,
        ..in_chunks(&bytes, 3)
    };
    let chunks = bench.engine.create(other).await.unwrap().id;
    drop(begin(&bench.engine, chunks, 1, 9).await.unwrap());
    assert_eq!(kind(begin(&bench.engine, chunks, 0, 8).await), length(9, 8));
    assert_eq!(
        kind(begin(&bench.engine, chunks, 2, 10).await),
        length(9, 10)
    );
    // One that is not cut, and one that is finished.
    let whole = bench.engine.create(kept(None, vec![])).await.unwrap().id;
    assert_eq!(
        kind(begin(&bench.engine, whole, 0, 5).await),
        ErrorKind::Conflict
    );
    let nobody = begin(&bench.engine, UploadId::random(), 0, 5).await;
    assert_eq!(kind(nobody), ErrorKind::NotFound);
    let none = UploadIntent {
        cut: Some(Cut::Chunks {
            count: 0,
            bytes: None,
        }),
        ..kept(None, vec![])
    };
    assert_eq!(kind(bench.engine.create(none).await), ErrorKind::Invalid);
}

#[tokio::test]
async fn whoever_takes_the_upload_over_ends_its_pieces_and_keeps_what_is_held() {
    let bench = Bench::new().await;
    let bytes = content(3 * PART, 12);
    let id = bench.engine.create(in_parts(&bytes)).await.unwrap().id;
    put(&bench.engine, id, 2, piece(&bytes, PART, 2))
        .await
        .unwrap();
    let mut older = begin(&bench.engine, id, 0, PART).await.unwrap();
    older.write(bytes.slice(..MIB)).await.unwrap();
    let row = bench.engine.head(id).await.unwrap();
    assert_eq!((row.offset, row.pieces.unwrap().held), (0, 1));
    older.taken_over().await;
    assert_eq!(kind(older.write(bytes.slice(..1)).await), ErrorKind::Fenced);
    drop(older);
    put(&bench.engine, id, 0, piece(&bytes, PART, 0))
        .await
        .unwrap();
    let last = put(&bench.engine, id, 1, piece(&bytes, PART, 1)).await;
    let published = last.unwrap().published.unwrap();
    is_whole(&bench, &bench.memory.store(), &published, &bytes).await;
    bench.is_clean().await;
}

#[tokio::test]
async fn an_upload_in_pieces_can_go_on_in_order_when_none_lies_ahead() {
    let bench = Bench::new().await;
    let bytes = content(3 * PART, 13);
    let id = bench.engine.create(in_parts(&bytes)).await.unwrap().id;
    put(&bench.engine, id, 0, piece(&bytes, PART, 0))
        .await
        .unwrap();
    bench.engine.settled().await;
    let mut writer = bench.engine.resume(id, PART as u64).await.unwrap();
    let refused = begin(&bench.engine, id, 1, PART).await;
    assert_eq!(
        kind(refused),
        ErrorKind::Conflict,
        "somebody sends in order"
    );
    writer.write(bytes.slice(PART..)).await.unwrap();
    let published = writer.finish().await.unwrap();
    is_whole(&bench, &bench.memory.store(), &published, &bytes).await;
    bench.is_clean().await;
}

#[tokio::test]
async fn a_piece_that_is_held_ahead_is_not_given_up_for_bytes_in_order() {
    let bench = Bench::new().await;
    let bytes = content(3 * PART, 16);
    let id = bench.engine.create(in_parts(&bytes)).await.unwrap().id;
    for k in [0, 2] {
        put(&bench.engine, id, k, piece(&bytes, PART, k))
            .await
            .unwrap();
    }
    bench.engine.settled().await;
    let refused = bench.engine.resume(id, PART as u64).await;
    assert_eq!(kind(refused), ErrorKind::Conflict);
    let held = bench.engine.held_pieces(id).await.unwrap();
    assert_eq!(held.iter().map(|p| p.k).collect::<Vec<_>>(), [0, 2]);
    let last = put(&bench.engine, id, 1, piece(&bytes, PART, 1)).await;
    let published = last.unwrap().published.unwrap();
    is_whole(&bench, &bench.memory.store(), &published, &bytes).await;
    bench.is_clean().await;
}

#[tokio::test]
async fn another_process_goes_on_with_what_is_held() {
    let bench = Bench::new().await;
    let bytes = content(4 * PART + 9, 14);
    let id = bench.engine.create(in_parts(&bytes)).await.unwrap().id;
    for k in [4, 0, 2] {
        put(&bench.engine, id, k, piece(&bytes, PART, k))
            .await
            .unwrap();
    }
    bench.engine.settled().await;
    bench.memory.lose_power();
    let second = bench.other();
    assert_eq!(second.recover().await.unwrap().aborted, 0);
    let held = second.held_pieces(id).await.unwrap();
    assert_eq!(held.iter().map(|p| p.k).collect::<Vec<_>>(), [0, 2, 4]);
    put(&second, id, 3, piece(&bytes, PART, 3)).await.unwrap();
    let placed = put(&second, id, 1, piece(&bytes, PART, 1)).await.unwrap();
    let published = placed.published.unwrap();
    is_whole(&bench, &bench.memory.store(), &published, &bytes).await;
    second.settled().await;
    bench.is_clean().await;
}

#[tokio::test]
async fn two_processes_send_pieces_of_one_upload() {
    let bench = Bench::new().await;
    let store = bench.memory.store();
    let bytes = content(4 * PART, 15);
    let id = bench.engine.create(in_parts(&bytes)).await.unwrap().id;
    let second = bench.other();
    // One store's sink at a time is what a local directory gives; rows are what both share.
    for (engine, k) in [(&bench.engine, 1), (&second, 3), (&bench.engine, 0)] {
        put(engine, id, k, piece(&bytes, PART, k)).await.unwrap();
        engine.settled().await;
    }
    let row = second.peek(id).await.unwrap().unwrap();
    assert_eq!((row.epoch, row.offset), (1, 2 * PART as u64));
    let placed = put(&second, id, 2, piece(&bytes, PART, 2)).await.unwrap();
    is_whole(&bench, &store, &placed.published.unwrap(), &bytes).await;
    second.settled().await;
    bench.is_clean().await;
}

#[tokio::test]
async fn a_held_piece_whose_bytes_changed_loses_the_upload_before_it_is_published() {
    let bench = Bench::new().await;
    let bytes = content(2 * PART, 16);
    let row = bench.engine.create(in_parts(&bytes)).await.unwrap();
    put(&bench.engine, row.id, 1, piece(&bytes, PART, 1))
        .await
        .unwrap();
    bench.engine.settled().await;
    assert!(bench.memory.damage(&row.key, PART + 3 * MIB + 7));
    let last = put(&bench.engine, row.id, 0, piece(&bytes, PART, 0)).await;
    assert_eq!(kind(last), ErrorKind::Gone);
    let row = bench.engine.peek(row.id).await.unwrap().unwrap();
    assert_eq!(
        (row.state, bench.published().await),
        (UploadState::Lost, None)
    );
    bench.is_clean().await;
}

/// Sends three chunks of an odd size, the last two the wrong way round; as far as it comes.
async fn three_chunks(
    engine: &UploadEngine,
    bytes: &Bytes,
    acknowledged: &mut BTreeSet<usize>,
) -> Result<Option<Published>> {
    let id = engine.create(in_chunks(bytes, 3)).await?.id;
    let mut published = None;
    for k in [0, 2, 1] {
        published = put(engine, id, k, piece(bytes, ODD, k)).await?.published;
        acknowledged.insert(k);
        // Each step in its turn, so that the schedule of failures can be repeated.
        engine.settled().await;
    }
    Ok(published)
}

const ODD: usize = 9 * MIB + 5;

#[tokio::test]
async fn pieces_that_fail_at_any_step_can_be_sent_again() {
    let bytes = content(2 * ODD + MIB, 18);
    let (bench, faults) = (Bench::new().await, Faults::new());
    let sent = three_chunks(&failing(&bench, &faults), &bytes, &mut BTreeSet::new()).await;
    sent.unwrap();
    let operations = faults.times();
    for needed in [
        "ledger.hold_piece",
        "ledger.advance",
        "ledger.piece",
        "sink.seal",
    ] {
        assert!(
            operations.contains_key(needed),
            "{needed} has its fail point"
        );
    }
    let (mut cases, mut whole) = (0, 0);
    for (op, times) in operations {
        for nth in 0..times {
            for fault in [
                Fault::Before(ErrorKind::Unavailable),
                Fault::After(ErrorKind::Unavailable),
                Fault::Before(ErrorKind::Internal),
                Fault::Halt,
            ] {
                let case = format!("{op} {nth} {fault:?}");
                let (bench, faults) = (Bench::new().await, Faults::new());
                faults.plan(op, nth, fault);
                let engine = failing(&bench, &faults);
                let mut acknowledged = BTreeSet::new();
                let sent = three_chunks(&engine, &bytes, &mut acknowledged).await;
                engine.settled().await;
                bench.memory.lose_power();
                can_be_sent_again(&bench, &bytes, &acknowledged, &case).await;
                cases += 1;
                whole += usize::from(sent.is_ok());
            }
        }
    }
    assert!(cases > 100 && whole > 10, "{cases} {whole}");
}

/// The next process finds what was acknowledged, and takes the rest.
async fn can_be_sent_again(
    bench: &Bench,
    bytes: &Bytes,
    acknowledged: &BTreeSet<usize>,
    case: &str,
) {
    bench.engine.recover().await.unwrap();
    let rows = bench.engine.open_uploads(None, None, 2).await.unwrap();
    if let [row] = rows.as_slice() {
        let held = bench.engine.held_pieces(row.id).await.unwrap();
        let held: BTreeSet<_> = held.iter().map(|piece| piece.k as usize).collect();
        assert!(
            acknowledged.is_subset(&held),
            "{case}: {acknowledged:?} of {held:?}"
        );
        for k in 0..3 {
            let placed = put(&bench.engine, row.id, k, piece(bytes, ODD, k)).await;
            match placed {
                Ok(placed) if placed.published.is_some() => break,
                Ok(_) => {}
                Err(e) => panic!("{case}: piece {k}: {e}"),
            }
        }
        let blob = bench.published().await.expect(case);
        assert!(bench.read_back(&blob).await == *bytes, "{case}");
        assert_eq!(blob.blake3.0, *blake3::hash(bytes).as_bytes(), "{case}");
    } else {
        // Never made, or published already.
        let blob = bench.published().await;
        assert!(blob.is_some() || acknowledged.is_empty(), "{case}");
        if let Some(blob) = blob {
            assert!(bench.read_back(&blob).await == *bytes, "{case}");
            assert_eq!(blob.blake3.0, *blake3::hash(bytes).as_bytes(), "{case}");
        }
    }
    bench.is_clean().await;
}

#[tokio::test]
async fn a_part_that_ends_the_upload_and_halts_before_has_its_digest_later() {
    // A whole block and a short one: the offset may be at the end while nothing is published.
    let bytes = content(MIB + 77, 19);
    let (bench, faults) = (Bench::new().await, Faults::new());
    let engine = failing(&bench, &faults);
    let id = engine.create(in_parts(&bytes)).await.unwrap().id;
    let before = faults.times();
    put(&engine, id, 0, bytes.clone()).await.unwrap();
    let mut full = 0;
    for (op, times) in faults.times() {
        for nth in before.get(op).copied().unwrap_or(0)..times {
            let case = format!("{op} {nth}");
            let (bench, faults) = (Bench::new().await, Faults::new());
            let engine = failing(&bench, &faults);
            let id = engine.create(in_parts(&bytes)).await.unwrap().id;
            faults.plan(op, nth, Fault::Halt);
            let _halted = put(&engine, id, 0, bytes.clone()).await;
            engine.settled().await;
            bench.memory.lose_power();
            let row = bench.engine.peek(id).await.unwrap().unwrap();
            full += usize::from(row.state == UploadState::Open && row.offset > 0);
            bench.engine.recover().await.unwrap();
            if bench.published().await.is_none() {
                put(&bench.engine, id, 0, bytes.clone()).await.expect(&case);
            }
            let blob = bench.published().await.expect(&case);
            assert_eq!(blob.blake3.0, *blake3::hash(&bytes).as_bytes(), "{case}");
            assert!(bench.read_back(&blob).await == bytes, "{case}");
        }
    }
    assert!(full > 0, "no case left a full upload open");
}

/// What a client does with an upload in pieces.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// Sends a piece whole.
    Put {
        k: usize,
    },
    /// Sends other bytes in its place.
    Forge {
        k: usize,
    },
    /// Sends several at once.
    All {
        from: usize,
        many: usize,
    },
    /// Sends a beginning and leaves.
    Cut {
        k: usize,
        bytes: usize,
    },
    Head,
    /// The process dies now, or after so many calls of its store and its rows.
    Crash,
    CrashAfter {
        calls: usize,
    },
}

#[derive(Debug, Default)]
struct Turns {
    published: usize,
    crashed_within: usize,
    resumed: usize,
}

struct World {
    bench: Bench,
    faults: Faults,
    engine: UploadEngine,
    bytes: Bytes,
    size: usize,
    count: usize,
    id: UploadId,
    /// Pieces that were acknowledged.
    acknowledged: BTreeSet<usize>,
    told: u64,
    done: Option<Published>,
    turns: Turns,
}

impl World {
    async fn new(size: usize, parts: bool) -> Self {
        let bench = Bench::new().await;
        let faults = Faults::new();
        let engine = failing(&bench, &faults);
        let count = 5;
        let bytes = content((count - 1) * size + size / 3 + 1, 17);
        let intent = if parts {
            in_parts(&bytes)
        } else {
            in_chunks(&bytes, count)
        };
        let id = engine.create(intent).await.unwrap().id;
        Self {
            bench,
            faults,
            engine,
            bytes,
            size,
            count,
            id,
            acknowledged: BTreeSet::new(),
            told: 0,
            done: None,
            turns: Turns::default(),
        }
    }

    async fn run(mut self, steps: &[Step]) -> Turns {
        for step in steps {
            self.take(*step).await;
            if self.faults.is_halted() {
                self.turns.crashed_within += 1;
                self.crash().await;
            }
            self.check().await;
        }
        self.end().await;
        self.turns
    }

    async fn take(&mut self, step: Step) {
        match step {
            Step::Put { k } => {
                let placed = self.send(k % self.count).await;
                self.judge(k % self.count, placed);
            }
            Step::Forge { k } => {
                let k = k % self.count;
                let forged = content(piece(&self.bytes, self.size, k).len(), 99);
                // Only where it must be refused; elsewhere nobody could tell it from the piece.
                if self.acknowledged.contains(&k) && self.done.is_none() {
                    let refused = put(&self.engine, self.id, k, forged).await.unwrap_err();
                    let fits = refused.kind() == ErrorKind::Conflict || self.faults.is_halted();
                    assert!(fits, "{refused}");
                }
            }
            Step::All { from, many } => {
                let mut all: Vec<_> = (0..many).map(|i| (from + i) % self.count).collect();
                if self.acknowledged.is_empty() {
                    all.retain(|k| k + 1 < self.count);
                }
                let mut sent = join_all(all.iter().map(|k| self.send(*k))).await;
                // The one that published tells why others came too late.
                let mut sent: Vec<_> = all.into_iter().zip(sent.drain(..)).collect();
                sent.sort_by_key(|(_, placed)| placed.is_err());
                for (k, placed) in sent {
                    self.judge(k, placed);
                }
            }
            Step::Cut { k, bytes } => {
                let k = k % self.count;
                let whole = piece(&self.bytes, self.size, k);
                if let Ok(mut writer) = begin(&self.engine, self.id, k, whole.len()).await {
                    let _cut = writer.write(whole.slice(..bytes.min(whole.len()))).await;
                }
            }
            Step::Head => {
                if let Ok(row) = self.engine.head(self.id).await {
                    assert!(self.told <= row.offset, "an offset was taken back");
                    self.told = row.offset;
                }
            }
            Step::Crash => self.crash().await,
            Step::CrashAfter { calls } => self.faults.halt_after(calls),
        }
    }

    async fn send(&self, k: usize) -> Result<Placed> {
        // Alone, a last piece of a size that nobody told waits for another.
        if k + 1 == self.count && self.acknowledged.is_empty() {
            put(&self.engine, self.id, 0, piece(&self.bytes, self.size, 0)).await?;
        }
        put(&self.engine, self.id, k, piece(&self.bytes, self.size, k)).await
    }

    fn judge(&mut self, k: usize, placed: Result<Placed>) {
        match placed {
            Ok(placed) => {
                self.acknowledged.insert(k);
                // Answers that were given at once come in any order.
                self.told = self.told.max(placed.committed);
                if let Some(published) = placed.published {
                    self.done = Some(published);
                }
            }
            Err(e) => {
                let over = e.kind() == ErrorKind::Conflict && self.done.is_some();
                assert!(over || self.faults.is_halted(), "piece {k}: {e}");
            }
        }
    }

    async fn crash(&mut self) {
        self.faults.halt_after(0);
        self.engine.settled().await;
        self.faults = Faults::new();
        self.bench.memory.lose_power();
        self.engine = failing(&self.bench, &self.faults);
        self.engine.recover().await.unwrap();
        self.turns.resumed += 1;
    }

    /// What was acknowledged is there, however far the offset is.
    async fn check(&mut self) {
        // Past the faults, which may be about to halt everything.
        let ledger = self.bench.rig.ledger();
        let row = ledger.upload(self.id).await.unwrap().unwrap();
        match row.state {
            UploadState::Open => {
                assert!(self.told <= row.offset);
                let held = ledger.held_pieces(self.id).await.unwrap();
                let held: BTreeSet<_> = held.iter().map(|piece| piece.k as usize).collect();
                assert!(self.acknowledged.is_subset(&held));
            }
            UploadState::Completing => {}
            UploadState::Done => self.done = row.published,
            UploadState::Aborted | UploadState::Lost => panic!("{:?}", row.state),
        }
    }

    async fn end(&mut self) {
        self.faults = Faults::new();
        self.engine.settled().await;
        self.engine = failing(&self.bench, &self.faults);
        self.engine.recover().await.unwrap();
        self.check().await;
        for k in [1, 0, 4, 3, 2, 1] {
            if self.done.is_none() {
                let placed = self.send(k).await.unwrap();
                self.judge(k, Ok(placed));
            }
        }
        let published = self.done.clone().unwrap();
        is_whole(
            &self.bench,
            &self.bench.memory.store(),
            &published,
            &self.bytes,
        )
        .await;
        self.engine.settled().await;
        self.turns.published += 1;
        self.bench.is_clean().await;
    }
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..5_usize).prop_map(|k| Step::Put { k }),
        2 => (0..5_usize).prop_map(|k| Step::Forge { k }),
        3 => (0..5_usize, 2..5_usize).prop_map(|(from, many)| Step::All { from, many }),
        3 => (0..5_usize, 0..9 * MIB).prop_map(|(k, bytes)| Step::Cut { k, bytes }),
        1 => Just(Step::Head),
        1 => Just(Step::Crash),
        2 => (0..30_usize).prop_map(|calls| Step::CrashAfter { calls }),
    ]
}

/// Runs random histories; every turn that matters must have been taken.
#[test]
fn random_histories_of_pieces_end_in_the_one_blob() {
    let all = RefCell::new(BTreeMap::<&str, usize>::new());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut runner = TestRunner::new(Config {
        cases: 24,
        failure_persistence: None,
        ..Config::default()
    });
    let size = prop_oneof![
        Just((PART, true)),
        Just((MIB, false)),
        Just((3 * MIB + 5, false)),
        Just((9 * MIB + 1, false)),
    ];
    let histories = (size, proptest::collection::vec(step(), 1..14));
    let ran = runner.run(&histories, |((size, parts), steps)| {
        let turns = runtime.block_on(async { World::new(size, parts).await.run(&steps).await });
        let mut all = all.borrow_mut();
        *all.entry("published").or_default() += turns.published;
        *all.entry("crashed within a step").or_default() += turns.crashed_within;
        *all.entry("resumed after a crash").or_default() += turns.resumed;
        Ok(())
    });
    ran.unwrap();
    for (turn, times) in all.into_inner() {
        assert!(times > 0, "no history {turn}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_last_piece_that_waits_for_its_place_makes_nobody_wait() {
    let bench = Bench::new().await;
    let bytes = content(12 * MIB, 14);
    let row = bench.engine.create(in_chunks(&bytes, 3)).await.unwrap();
    let mut last = Box::pin(bench.engine.piece(row.id, 2, Some(1)));
    let waited = tokio::time::timeout(Duration::from_secs(1), &mut last).await;
    assert!(waited.is_err(), "no other piece told where it belongs");
    let cancelled = bench.engine.cancel(row.id);
    let cancelled = tokio::time::timeout(Duration::from_secs(1), cancelled).await;
    assert!(cancelled.unwrap().unwrap());
    assert_eq!(kind(last.await.map(drop)), ErrorKind::Fenced);
    bench.is_clean().await;
}
