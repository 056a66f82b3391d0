//! The S3 store: on a strict reference with planned faults.

mod cable;
pub(crate) mod reference;

use std::time::Duration;

use boxgate_storage::backend::s3::{self, Checksum, Patience, Rules};
use boxgate_storage::blob::UploadId;
use boxgate_storage::buffer::BufferPool;
use boxgate_storage::conformance::store as contract;
use boxgate_storage::metadata::uploads::{Keep, Published, UploadState};
use boxgate_storage::store::Store;
use boxgate_storage::upload::{Cut, GIVES_WAY, Placed, UploadEngine, UploadIntent, UploadWriter};
use boxgate_storage::{Error, ErrorKind};

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};

use self::cable::Cable;
use self::reference::{Fault, Reference};
use crate::bench::{Bench, MIB, content, intent, kept};

const SMALLEST_PART: usize = 5 << 20;
/// Two parts of 8 MiB and a bit.
const LENGTH: usize = 2 * PART + 12_345;
const PART: usize = 8 << 20;
/// A call that never ends is a failure; everything here takes a fraction of it.
const PATIENCE: Duration = Duration::from_mins(1);

/// An engine on a bucket of the reference.
pub(crate) struct Rig {
    pub(crate) reference: Reference,
    pub(crate) store: Store,
    pub(crate) bench: Bench,
    pub(crate) engine: UploadEngine,
    pub(crate) pool: BufferPool,
}

impl Rig {
    pub(crate) async fn with_memory(bytes: u64) -> Self {
        let reference = Reference::start(SMALLEST_PART).await;
        let (store, _found) = s3::open(reference.options()).await.unwrap();
        let (bench, pool) = (Bench::new().await, BufferPool::new(bytes));
        let engine = bench.engine_on(bench.rig.ledger(), store.clone(), &pool);
        Self {
            reference,
            store,
            bench,
            engine,
            pool,
        }
    }

    pub(crate) async fn new() -> Self {
        Self::with_memory(64 << 20).await
    }

    /// Another process on the same rows and the same bucket.
    pub(crate) async fn restart(&mut self) {
        self.engine.settled().await;
        (self.store, _) = s3::open(self.reference.options()).await.unwrap();
        let ledger = self.bench.rig.ledger();
        self.engine = self.bench.engine_on(ledger, self.store.clone(), &self.pool);
    }

    /// What the name holds is `bytes`, and the bucket holds nothing else.
    pub(crate) async fn holds(&self, bytes: &[u8]) {
        self.engine.settled().await;
        self.engine.sweep().await.unwrap();
        let blob = self.bench.published().await.unwrap();
        assert!(self.bench.read_back_from(&self.store, &blob).await == bytes);
        let state = self.reference.state();
        let names: Vec<_> = state.objects.keys().cloned().collect();
        let beside = format!("some/where/sidecars/{}/", blob.key);
        let (sidecars, names): (Vec<_>, Vec<_>) = names
            .into_iter()
            .partition(|name| name.starts_with(&beside));
        assert_eq!(names, [format!("some/where/blobs/{}", blob.key)]);
        assert_eq!(sidecars.len(), 1, "{sidecars:?}");
        assert!(state.uploads.is_empty(), "{:?}", state.uploads.keys());
        assert_eq!(self.pool.in_use_bytes(), 0);
    }
}

async fn send(writer: &mut UploadWriter, bytes: &[u8]) {
    try_send(writer, bytes).await.unwrap();
}

async fn try_send(writer: &mut UploadWriter, bytes: &[u8]) -> Result<(), Error> {
    for chunk in bytes.chunks(300_007) {
        writer.write(chunk.to_vec().into()).await?;
    }
    Ok(())
}

/// Why bytes are not committed: told by the write that ends a part, or by what comes next.
async fn refused(mut writer: UploadWriter, bytes: &[u8]) -> Error {
    match try_send(&mut writer, bytes).await {
        Ok(()) => writer.pause().await.unwrap_err(),
        Err(e) => e,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_s3_store_keeps_the_contract() {
    let reference = Reference::start(1).await;
    let (store, found) = s3::open(reference.options()).await.unwrap();
    assert_eq!(found.checksum, Checksum::Crc64Nvme);
    assert!(found.conditional_writes);
    contract::all(&store).await;
    let state = reference.state();
    let (objects, uploads) = (&state.objects, &state.uploads);
    assert!(uploads.is_empty(), "{:?}", uploads.keys());
    assert!(objects.is_empty(), "{:?}", objects.keys());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_bucket_removes_by_itself_is_found() {
    let reference = Reference::start(1).await;
    let rule = |prefix: &str, status: &str, what: &str| {
        format!(
            "<Rule><Filter><Prefix>{prefix}</Prefix></Filter><Status>{status}</Status>{what}</Rule>"
        )
    };
    let unfinished = |days: u32| {
        format!(
            "<AbortIncompleteMultipartUpload><DaysAfterInitiation>{days}</DaysAfterInitiation>\
             </AbortIncompleteMultipartUpload>"
        )
    };
    let expires = "<Expiration><Days>30</Days></Expiration>";
    for (rules, days, objects) in [
        (String::new(), None, false),
        (rule("", "Enabled", &unfinished(9)), Some(9), false),
        (rule("some/", "Enabled", expires), None, true),
        (rule("some/where/blobs/", "Enabled", expires), None, true),
        (rule("elsewhere/", "Enabled", expires), None, false),
        (rule("", "Disabled", expires), None, false),
        (
            rule("", "Enabled", &unfinished(9)) + &rule("some/", "Enabled", &unfinished(3)),
            Some(3),
            false,
        ),
    ] {
        reference.state().rules = rules;
        let (_store, found) = s3::open(reference.options()).await.unwrap();
        let expected = Rules {
            unfinished_after_days: days,
            objects,
        };
        assert_eq!(found.rules, expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_go_to_the_bucket_as_they_arrived_unless_they_are_small_or_pin_too_much() {
    // Sizes of frames in turn, and the bytes of all that are copied.
    for (sizes, copied) in [
        // The rest in the last part is less than a frame that is worth it.
        (&[500 << 10][..], 12_345..12_346),
        (&[10_000], LENGTH as u64..LENGTH as u64 + 1),
        // Each pins more than it holds, and a part has an eighth more than its bytes.
        (&[70_000], 4 << 20..16 << 20),
        (&[700_000, 10, 65_536, 1_300_000, 65_535], 1..15 << 20),
    ] {
        let rig = Rig::new().await;
        let bytes = content(LENGTH, 5);
        let declared = Some(bytes.len() as u64);
        let mut writer = rig.engine.begin(intent(declared, vec![])).await.unwrap();
        let mut rest = &bytes[..];
        for size in sizes.iter().cycle() {
            let (now, later) = rest.split_at(rest.len().min(*size));
            writer.write(now.to_vec().into()).await.unwrap();
            assert!(rig.pool.in_use_bytes() <= rig.pool.capacity_bytes());
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        writer.finish().await.unwrap();
        let stats = rig.engine.stats();
        assert!(copied.contains(&stats.bytes_copied), "{sizes:?}: {stats:?}");
        rig.holds(&bytes).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_of_every_shape_become_their_object() {
    for length in [1, MIB, PART - 1, PART, PART + 1, LENGTH] {
        for declared in [Some(length as u64), None] {
            let rig = Rig::new().await;
            let bytes = content(length, 1);
            let mut writer = rig.engine.begin(intent(declared, vec![])).await.unwrap();
            send(&mut writer, &bytes).await;
            writer.finish().await.unwrap();
            rig.holds(&bytes).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_upload_is_one_put() {
    for declared in [Some(5), None] {
        let rig = Rig::new().await;
        let before = rig.reference.state().calls.len();
        let mut writer = rig.engine.begin(intent(declared, vec![])).await.unwrap();
        send(&mut writer, b"small").await;
        writer.finish().await.unwrap();
        let calls = rig.reference.state().calls[before..].to_vec();
        assert_eq!(
            calls,
            ["head", "put", "head", "put_sidecar"],
            "{declared:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_goes_on_in_another_process_wherever_it_paused() {
    for declared in [Some(LENGTH as u64), None] {
        let mut rig = Rig::new().await;
        let bytes = content(LENGTH, 2);
        let id = rig.engine.create(kept(declared, vec![])).await.unwrap().id;
        let mut at = 0;
        for to in [1, MIB, 3 * MIB + 7, PART, PART + 9, 2 * PART + 1, LENGTH] {
            rig.restart().await;
            let mut writer = rig.engine.resume(id, at as u64).await.unwrap();
            send(&mut writer, &bytes[at..to]).await;
            if to == LENGTH {
                writer.finish().await.unwrap();
            } else {
                assert_eq!(writer.pause().await.unwrap(), to as u64);
            }
            at = to;
        }
        rig.holds(&bytes).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_may_fail_for_a_while_and_in_every_way() {
    let faults = [
        Fault::Before(500, "InternalError"),
        Fault::Before(503, "SlowDown"),
        Fault::After(500, "InternalError"),
        Fault::Cut,
    ];
    for call in [
        "head",
        "create",
        "part",
        "put",
        "complete",
        "get",
        "put_sidecar",
    ] {
        for fault in faults.into_iter().chain([Fault::OkWithError]) {
            if fault == Fault::OkWithError && call != "complete" {
                continue;
            }
            let mut rig = Rig::new().await;
            let bytes = content(LENGTH, 3);
            rig.reference.fail(call, 0, fault);
            rig.reference.fail(call, 2, fault);
            let intent = kept(Some(LENGTH as u64), vec![]);
            let id = rig.engine.create(intent).await.unwrap().id;
            let mut writer = rig.engine.resume(id, 0).await.unwrap();
            send(&mut writer, &bytes[..PART + 5]).await;
            assert_eq!(writer.pause().await.unwrap(), (PART + 5) as u64);
            rig.restart().await;
            let mut writer = rig.engine.resume(id, (PART + 5) as u64).await.unwrap();
            send(&mut writer, &bytes[PART + 5..]).await;
            let finished = writer.finish().await;
            finished.unwrap_or_else(|e| panic!("{call} {fault:?}: {e:?}"));
            rig.holds(&bytes).await;
        }
    }
}

/// Sends one upload by two requests; what it became.
async fn sent_in_two(engine: &UploadEngine, bytes: &[u8]) -> Result<Published, Error> {
    let at = PART + 5;
    let intent = kept(Some(bytes.len() as u64), vec![]);
    let id = engine.create(intent).await?.id;
    let mut writer = engine.resume(id, 0).await?;
    send(&mut writer, &bytes[..at]).await;
    writer.pause().await?;
    let mut writer = engine.resume(id, at as u64).await?;
    send(&mut writer, &bytes[at..]).await;
    writer.finish().await
}

/// Uploads that a storm is let loose on; `.ci/long storm` wants more.
#[expect(
    clippy::disallowed_methods,
    reason = "a test's length is no setting of the program"
)]
fn storm_uploads() -> usize {
    let told = std::env::var("BOXGATE_STORM_UPLOADS").ok();
    told.map_or(24, |told| told.parse().unwrap())
}

/// So many uploads, some at once; how long they took.
async fn many(rig: &Rig, numbers: std::ops::Range<usize>) -> Duration {
    let started = tokio::time::Instant::now();
    let sending = numbers.map(|number| {
        let (engine, store, bench) = (&rig.engine, &rig.store, &rig.bench);
        async move {
            // No two are equal.
            let bytes = content(LENGTH + number / 256, number.to_le_bytes()[0]);
            let published = sent_in_two(engine, &bytes).await.unwrap();
            assert!(bench.read_back_from(store, &published.blob).await == bytes);
            // Memory holds what the bucket does.
            let state = &mut rig.reference.state();
            let held = state
                .objects
                .get_mut(&format!("some/where/blobs/{}", published.blob.key));
            *held.unwrap() = Bytes::new();
        }
    });
    futures_util::stream::iter(sending)
        .buffer_unordered(6)
        .collect::<()>()
        .await;
    started.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_are_whole_in_bad_weather() {
    let mut rig = Rig::new().await;
    rig.reference.patience = Patience {
        first_byte: Duration::from_secs(10),
        slowest_bytes_per_second: u64::MAX,
        ..rig.reference.patience
    };
    let uploads = storm_uploads();
    let calm = many(&rig, 0..uploads / 8).await;
    let cable = Cable::to(&rig.reference.endpoint, 20_261_129).await;
    rig.reference.endpoint.clone_from(&cable.endpoint);
    rig.restart().await;
    rig.reference.storm(5, 20_261_128);
    let stormy = many(&rig, uploads / 8..uploads).await;
    rig.reference.storm(0, 0);
    rig.engine.settled().await;
    rig.engine.sweep().await.unwrap();
    let state = rig.reference.state();
    eprintln!(
        "{} of {uploads} uploads in {calm:?} of calm, the others in {stormy:?}; {} of {} calls and {} connections failed",
        uploads / 8,
        state.failed,
        state.calls.len(),
        cable.broken()
    );
    let objects = state.objects.keys();
    let sidecars = objects.filter(|name| name.contains("/sidecars/")).count();
    assert_eq!(sidecars, uploads);
    let objects = state.objects.len() - sidecars;
    assert_eq!(objects, uploads, "{:?}", state.objects.keys());
    assert!(state.uploads.is_empty(), "{:?}", state.uploads.keys());
    assert!(state.failed > 0 && cable.broken() > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_moves_no_offset_and_ends_with_all_uploads_whole() {
    let mut rig = Rig::new().await;
    rig.reference.patience = Patience {
        first_byte: Duration::from_secs(1),
        slowest_bytes_per_second: u64::MAX,
        tries: 2,
        ..rig.reference.patience
    };
    rig.restart().await;
    let bytes = content(LENGTH, 16);
    let intent = kept(Some(LENGTH as u64), vec![]);
    let id = rig.engine.create(intent).await.unwrap().id;
    let mut writer = rig.engine.resume(id, 0).await.unwrap();
    send(&mut writer, &bytes[..PART + 5]).await;
    writer.pause().await.unwrap();
    rig.reference.storm(100, 7);
    for _ in 0..8 {
        let failed = match rig.engine.resume(id, (PART + 5) as u64).await {
            Ok(mut writer) => {
                send(&mut writer, &bytes[PART + 5..]).await;
                writer.pause().await.unwrap_err()
            }
            Err(e) => e,
        };
        assert_eq!(failed.kind(), ErrorKind::Unavailable, "{failed:?}");
        let row = rig.engine.head(id).await.unwrap();
        assert_eq!(
            (row.state, row.offset),
            (UploadState::Open, (PART + 5) as u64)
        );
    }
    rig.reference.storm(0, 0);
    rig.restart().await;
    let mut writer = rig.engine.resume(id, (PART + 5) as u64).await.unwrap();
    send(&mut writer, &bytes[PART + 5..]).await;
    writer.finish().await.unwrap();
    rig.holds(&bytes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_answers_in_the_stores_place_is_not_believed() {
    for (at, status) in [PART + 5, PART]
        .into_iter()
        .flat_map(|at| [404, 200, 301, 403].map(|status| (at, status)))
    {
        let mut rig = Rig::new().await;
        rig.reference.patience.tries = 2;
        rig.restart().await;
        let bytes = content(LENGTH, 17);
        let old = bytes.slice(..77);
        let mut writer = rig.engine.begin(intent(Some(77), vec![])).await.unwrap();
        send(&mut writer, &old).await;
        let old = writer.finish().await.unwrap().blob;
        let intent = kept(Some(LENGTH as u64), vec![]);
        let id = rig.engine.create(intent).await.unwrap().id;
        let mut writer = rig.engine.resume(id, 0).await.unwrap();
        send(&mut writer, &bytes[..at]).await;
        assert_eq!(writer.pause().await.unwrap(), at as u64);
        rig.reference.state().instead = Some(status);
        let failed = match rig.engine.resume(id, at as u64).await {
            Ok(writer) => refused(writer, &bytes[at..2 * PART]).await,
            Err(e) => e,
        };
        assert_eq!(
            failed.kind(),
            ErrorKind::Unavailable,
            "{status}: {failed:?}"
        );
        let other = kept(Some(LENGTH as u64), vec![]);
        let failed = async {
            let id = rig.engine.create(other).await?.id;
            rig.engine.resume(id, 0).await.map(drop)
        };
        let failed = failed.await.unwrap_err();
        assert_eq!(
            failed.kind(),
            ErrorKind::Unavailable,
            "{status}: {failed:?}"
        );
        let seen = rig.store.read.stat(&old.key).await.unwrap_err();
        assert_eq!(seen.kind(), ErrorKind::Unavailable, "{status}: {seen:?}");
        rig.reference.state().instead = None;
        let row = rig.engine.head(id).await.unwrap();
        assert_eq!((row.state, row.offset), (UploadState::Open, at as u64));
        let mut writer = rig.engine.resume(id, at as u64).await.unwrap();
        send(&mut writer, &bytes[at..]).await;
        let published = writer.finish().await.unwrap();
        assert!(rig.bench.read_back_from(&rig.store, &published.blob).await == bytes);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_the_bucket_expired_ends_for_whoever_asks() {
    let rig = Rig::new().await;
    let bytes = content(LENGTH, 18);
    let intent = kept(Some(LENGTH as u64), vec![]);
    let id = rig.engine.create(intent).await.unwrap().id;
    let mut writer = rig.engine.resume(id, 0).await.unwrap();
    send(&mut writer, &bytes[..2 * PART]).await;
    assert_eq!(writer.pause().await.unwrap(), 2 * PART as u64);
    rig.reference.state().uploads.clear();
    let mut writer = rig.engine.resume(id, 2 * PART as u64).await.unwrap();
    send(&mut writer, &bytes[2 * PART..]).await;
    assert_eq!(writer.finish().await.unwrap_err().kind(), ErrorKind::Gone);
    assert_eq!(rig.bench.states().await, [UploadState::Lost]);

    // One that has parts to come as well.
    let intent = kept(Some(3 * PART as u64), vec![]);
    let id = rig.engine.create(intent).await.unwrap().id;
    let mut writer = rig.engine.resume(id, 0).await.unwrap();
    let long = content(3 * PART, 19);
    send(&mut writer, &long[..PART]).await;
    writer.pause().await.unwrap();
    rig.reference.state().uploads.clear();
    let writer = rig.engine.resume(id, PART as u64).await.unwrap();
    let failed = refused(writer, &long[PART..2 * PART]).await;
    assert_eq!(failed.kind(), ErrorKind::Gone);
    assert_eq!(
        rig.engine.head(id).await.unwrap_err().kind(),
        ErrorKind::Gone
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_stays_away_leaves_the_offset_where_it_was() {
    let mut rig = Rig::new().await;
    let bytes = content(LENGTH, 4);
    let intent = kept(Some(LENGTH as u64), vec![]);
    let id = rig.engine.create(intent).await.unwrap().id;
    let mut writer = rig.engine.resume(id, 0).await.unwrap();
    send(&mut writer, &bytes[..PART]).await;
    assert_eq!(writer.pause().await.unwrap(), PART as u64);
    for nth in 0..6 {
        let away = Fault::Before(503, "SlowDown");
        rig.reference.fail("part", nth, away);
    }
    let writer = rig.engine.resume(id, PART as u64).await.unwrap();
    let failed = refused(writer, &bytes[PART..2 * PART]).await;
    assert_eq!(failed.kind(), ErrorKind::Unavailable);
    rig.restart().await;
    let row = rig.engine.head(id).await.unwrap();
    assert_eq!((row.state, row.offset), (UploadState::Open, PART as u64));
    let mut writer = rig.engine.resume(id, PART as u64).await.unwrap();
    send(&mut writer, &bytes[PART..]).await;
    writer.finish().await.unwrap();
    rig.holds(&bytes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_completion_that_was_not_answered_is_made_again_after_a_restart() {
    let bytes = content(LENGTH, 5);
    let six = |fault| (0..6).map(move |nth| (nth, fault));
    let before = six(Fault::Before(500, "InternalError")).collect::<Vec<_>>();
    for faults in [before, vec![(0, Fault::Cut)]] {
        let mut rig = Rig::new().await;
        let lost = faults.len() == 6;
        for (nth, fault) in faults {
            rig.reference.fail("complete", nth, fault);
        }
        let intent = kept(Some(LENGTH as u64), vec![]);
        let mut writer = rig.engine.begin(intent).await.unwrap();
        send(&mut writer, &bytes).await;
        let finished = writer.finish().await;
        assert_eq!(finished.is_err(), lost);
        if lost {
            assert_eq!(rig.bench.states().await, [UploadState::Completing]);
            rig.restart().await;
            assert_eq!(rig.engine.recover().await.unwrap().finished, 1);
        }
        rig.holds(&bytes).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_the_store_dropped_is_lost_and_never_a_box() {
    let rig = Rig::new().await;
    let bytes = content(LENGTH, 6);
    let intent = intent(Some(LENGTH as u64), vec![]);
    let mut writer = rig.engine.begin(intent).await.unwrap();
    send(&mut writer, &bytes).await;
    rig.reference
        .fail("complete", 0, Fault::Before(404, "NoSuchUpload"));
    let finished = writer.finish().await.unwrap_err();
    assert_eq!(finished.kind(), ErrorKind::Damaged);
    assert_eq!(rig.bench.states().await, [UploadState::Lost]);
    assert_eq!(rig.bench.published().await, None);
    let state = rig.reference.state();
    assert!(state.objects.is_empty() && state.uploads.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_under_other_validators_are_joined_if_their_bytes_are_the_same() {
    let bytes = content(LENGTH, 8);
    for (changed, whole) in [(0, true), (1, false)] {
        let mut rig = Rig::new().await;
        let intent = kept(Some(LENGTH as u64), vec![]);
        let id = rig.engine.create(intent).await.unwrap().id;
        let mut writer = rig.engine.resume(id, 0).await.unwrap();
        send(&mut writer, &bytes[..2 * PART]).await;
        writer.pause().await.unwrap();
        rig.restart().await;
        rig.reference.change_parts(|part| {
            let mut new = part.to_vec();
            new[77] ^= changed;
            *part = new.into();
        });
        let mut writer = rig.engine.resume(id, 2 * PART as u64).await.unwrap();
        send(&mut writer, &bytes[2 * PART..]).await;
        let finished = writer.finish().await;
        if whole {
            finished.unwrap();
            rig.holds(&bytes).await;
        } else {
            assert_eq!(finished.unwrap_err().kind(), ErrorKind::Damaged);
            assert_eq!(rig.bench.states().await, [UploadState::Lost]);
            assert_eq!(rig.bench.published().await, None);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_of_other_bytes_than_its_parts_is_never_a_box() {
    let rig = Rig::new().await;
    let bytes = content(LENGTH, 9);
    let intent = intent(Some(LENGTH as u64), vec![]);
    let mut writer = rig.engine.begin(intent).await.unwrap();
    send(&mut writer, &bytes).await;
    rig.reference.fail("complete", 0, Fault::OtherBytes);
    assert_eq!(
        writer.finish().await.unwrap_err().kind(),
        ErrorKind::Damaged
    );
    assert_eq!(rig.bench.states().await, [UploadState::Lost]);
    assert_eq!(rig.bench.published().await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recovery_gives_up_what_the_store_dropped_meanwhile() {
    let mut rig = Rig::new().await;
    let bytes = content(LENGTH, 10);
    let intent = kept(Some(LENGTH as u64), vec![]);
    let mut writer = rig.engine.begin(intent).await.unwrap();
    send(&mut writer, &bytes).await;
    for nth in 0..6 {
        let away = Fault::Before(500, "InternalError");
        rig.reference.fail("complete", nth, away);
    }
    writer.finish().await.unwrap_err();
    assert_eq!(rig.bench.states().await, [UploadState::Completing]);
    rig.reference.state().uploads.clear();
    rig.restart().await;
    assert_eq!(rig.engine.recover().await.unwrap().finished, 0);
    assert_eq!(rig.bench.states().await, [UploadState::Lost]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_comes_ends_an_upload_of_which_all_is_there_and_nothing_can_be_read_yet() {
    for length in [LENGTH, PART + 1, PART - 1, MIB + 1, MIB, 5] {
        let mut rig = Rig::new().await;
        let bytes = content(length, 16);
        let intent = kept(Some(length as u64), vec![]);
        let id = rig.engine.create(intent).await.unwrap().id;
        let mut writer = rig.engine.resume(id, 0).await.unwrap();
        send(&mut writer, &bytes).await;
        assert_eq!(writer.pause().await.unwrap(), length as u64);
        rig.restart().await;
        let row = rig.engine.head(id).await.unwrap();
        assert_eq!(row.offset, length as u64);
        let writer = rig.engine.resume(id, row.offset).await.unwrap();
        writer.finish().await.unwrap();
        rig.holds(&bytes).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tail_that_changed_is_not_gone_on_with() {
    let mut rig = Rig::new().await;
    let id = rig.engine.create(kept(None, vec![])).await.unwrap().id;
    let mut writer = rig.engine.resume(id, 0).await.unwrap();
    send(&mut writer, b"the beginning").await;
    assert_eq!(writer.pause().await.unwrap(), 13);
    for tail in rig.reference.state().objects.values_mut() {
        *tail = "the beginninG".into();
    }
    rig.restart().await;
    let resumed = rig.engine.resume(id, 13).await;
    assert_eq!(resumed.unwrap_err().kind(), ErrorKind::Gone);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_is_given_up_leaves_nothing() {
    let rig = Rig::new().await;
    let bytes = content(LENGTH, 7);
    let intent = kept(Some(LENGTH as u64), vec![]);
    let id = rig.engine.create(intent).await.unwrap().id;
    let mut writer = rig.engine.resume(id, 0).await.unwrap();
    send(&mut writer, &bytes[..PART + 5]).await;
    writer.pause().await.unwrap();
    assert!(!rig.reference.state().uploads.is_empty());
    assert!(rig.engine.cancel(id).await.unwrap());
    rig.engine.sweep().await.unwrap();
    let state = rig.reference.state();
    assert!(state.objects.is_empty(), "{:?}", state.objects.keys());
    assert!(state.uploads.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_uploads_share_memory_for_one_part_without_waiting_for_each_other_for_ever() {
    // Each could take a share of the memory, and none a part.
    let rig = Rig::with_memory(PART as u64).await;
    let uploads = (0..6).map(|salt| {
        let engine = rig.engine.clone();
        async move {
            let bytes = content(PART + 3 * MIB, salt);
            let intent = intent(Some(bytes.len() as u64), vec![]);
            let mut writer = engine.begin(intent).await.unwrap();
            send(&mut writer, &bytes).await;
            writer.finish().await.unwrap();
        }
    });
    let all = futures_util::future::join_all(uploads);
    tokio::time::timeout(PATIENCE, all).await.expect("all end");
    assert_eq!(rig.pool.in_use_bytes(), 0);
}

/// How a client sends that needs a part's memory and does not fill it.
#[derive(Debug, Clone, Copy)]
enum Slow {
    /// It sends nothing more; its request looks after it once a second.
    Silent,
    /// A few bytes at a time.
    Trickling,
}

/// What the request of such a client does until it is told to end; the bytes before `at` are there.
async fn slowly(
    how: Slow,
    writer: &mut UploadWriter,
    bytes: &[u8],
    mut at: usize,
    until: tokio_util::sync::CancellationToken,
) -> usize {
    let mut often = tokio::time::interval(Duration::from_millis(100));
    while !until.is_cancelled() {
        often.tick().await;
        match how {
            Slow::Silent => writer.give_memory_back().await.unwrap(),
            // The one that gave way takes nothing more before the others were served.
            Slow::Trickling if writer.committed_bytes() == at as u64 => {
                writer.give_memory_back().await.unwrap();
            }
            Slow::Trickling => {
                send(writer, &bytes[at..at + 10]).await;
                at += 10;
            }
        }
    }
    at
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_piece_that_comes_very_slowly_gives_its_memory_to_others_and_is_sent_again() {
    // As much as one part takes.
    let rig = Rig::with_memory(PART as u64).await;
    let bytes = content(2 * PART, 23);
    let id = in_parts(&rig, bytes.len()).await;
    let mut slow = rig.engine.piece(id, 0, Some(PART as u64)).await.unwrap();
    slow.write(bytes.slice(..5)).await.unwrap();
    // It sends nothing more; its request looks after it.
    let silent = async {
        let mut often = tokio::time::interval(Duration::from_millis(100));
        loop {
            often.tick().await;
            if let Err(error) = slow.give_memory_back().await {
                drop(slow);
                return error;
            }
        }
    };
    let other = content(LENGTH, 24);
    let others = async {
        let all = Some(LENGTH as u64);
        let mut writer = rig.engine.begin(intent(all, vec![])).await.unwrap();
        send(&mut writer, &other).await;
        writer.finish().await.unwrap()
    };
    let both = async { tokio::join!(silent, others) };
    let (error, _) = tokio::time::timeout(PATIENCE, both).await.expect("served");
    assert_eq!(
        (error.kind(), error.op()),
        (ErrorKind::Unavailable, GIVES_WAY)
    );
    assert_eq!(rig.engine.stats().uploads_gave_way, 1);
    for k in [0, 1] {
        put(&rig.engine, id, k, &bytes).await.unwrap();
    }
    let blob = rig.bench.published().await.unwrap();
    assert!(rig.bench.read_back_from(&rig.store, &blob).await == bytes);
    rig.engine.settled().await;
    assert_eq!(rig.pool.in_use_bytes(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_sends_slowly_gives_the_memory_of_its_part_to_those_who_wait_for_it() {
    for (how, lingers) in [
        (Slow::Silent, Keep::UntilIdle),
        (Slow::Trickling, Keep::UntilIdle),
        (Slow::Silent, Keep::No),
    ] {
        // As much as one part takes.
        let rig = Rig::with_memory(PART as u64).await;
        let bytes = content(LENGTH, 9);
        let all = Some(LENGTH as u64);
        let slow = UploadIntent {
            keep: lingers,
            ..intent(all, vec![])
        };
        let mut slow = rig.engine.begin(slow).await.unwrap();
        // Within a part, and within a block; the part before is there.
        let at = PART + 3 * MIB + 77;
        send(&mut slow, &bytes[..at]).await;
        let served = tokio_util::sync::CancellationToken::new();
        let others = async {
            for salt in 1..3 {
                let other = content(LENGTH, salt);
                let mut writer = rig.engine.begin(intent(all, vec![])).await.unwrap();
                send(&mut writer, &other).await;
                writer.finish().await.unwrap();
            }
            served.cancel();
        };
        let both =
            async { tokio::join!(slowly(how, &mut slow, &bytes, at, served.clone()), others) };
        let both = tokio::time::timeout(PATIENCE, both).await;
        let (at, ()) = both.expect("others are served");
        assert_eq!(rig.engine.stats().uploads_gave_way, 1, "{how:?}");
        assert_eq!(rig.pool.in_use_bytes(), 0, "{how:?}");
        assert_eq!(slow.committed_bytes(), at as u64, "{how:?}");
        // It goes on where it was.
        send(&mut slow, &bytes[at..]).await;
        slow.finish().await.unwrap();
        rig.engine.settled().await;
        rig.engine.sweep().await.unwrap();
        let blob = rig.bench.published().await.unwrap();
        assert!(rig.bench.read_back_from(&rig.store, &blob).await == bytes);
        // Itself and the two that it replaced; nothing is left of what it kept apart.
        let state = rig.reference.state();
        let blobs = state.objects.keys().filter(|name| name.contains("/blobs/"));
        assert_eq!(blobs.count(), 3, "{:?}", state.objects.keys());
        assert!(state.uploads.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_gave_way_may_pause_end_and_be_given_up() {
    let rig = Rig::with_memory(PART as u64).await;
    let bytes = content(PART + MIB, 10);
    let ends: [&dyn Fn(UploadWriter) -> futures_util::future::BoxFuture<'static, ()>; 3] = [
        &|writer| {
            async move { assert_eq!(writer.pause().await.unwrap(), (PART + 77) as u64) }.boxed()
        },
        &|writer| async move { writer.abort().await }.boxed(),
        &|writer| async move { drop(writer) }.boxed(),
    ];
    for end in ends {
        let whole = Some(bytes.len() as u64);
        let id = rig.engine.create(kept(whole, vec![])).await.unwrap().id;
        let mut slow = rig.engine.resume(id, 0).await.unwrap();
        send(&mut slow, &bytes[..PART + 77]).await;
        let before = rig.engine.stats().uploads_gave_way;
        let gave_way = async {
            let mut often = tokio::time::interval(Duration::from_millis(100));
            while rig.engine.stats().uploads_gave_way == before {
                often.tick().await;
                slow.give_memory_back().await.unwrap();
            }
        };
        let mut asking = rig
            .engine
            .begin(intent(Some(PART as u64), vec![]))
            .await
            .unwrap();
        let both = async {
            let asks = async {
                send(&mut asking, &bytes[..PART]).await;
                asking.abort().await;
            };
            tokio::join!(gave_way, asks)
        };
        tokio::time::timeout(PATIENCE, both)
            .await
            .expect("it gives way");
        end(slow).await;
        rig.engine.settled().await;
        assert_eq!(rig.pool.in_use_bytes(), 0);
        rig.engine.cancel(id).await.unwrap();
        rig.engine.sweep().await.unwrap();
        let state = rig.reference.state();
        assert!(state.objects.is_empty(), "{:?}", state.objects.keys());
        assert!(state.uploads.is_empty());
    }
}

/// An upload that rests within its first part, of which all is sent again once somebody goes on.
async fn resting(rig: &Rig, bytes: &[u8], at: usize) -> UploadId {
    let length = Some(bytes.len() as u64);
    let mut writer = rig.engine.begin(kept(length, vec![])).await.unwrap();
    let id = writer.id();
    send(&mut writer, &bytes[..at]).await;
    assert_eq!(writer.pause().await.unwrap(), at as u64);
    id
}

/// Until somebody waits for memory, or nobody does.
async fn until_waiting(pool: &BufferPool, waiting: bool) {
    let look = async {
        let mut often = tokio::time::interval(Duration::from_millis(10));
        while (pool.waiting() > 0) != waiting {
            often.tick().await;
        }
    };
    tokio::time::timeout(PATIENCE, look).await.expect("soon");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leaves_while_it_waits_for_memory_makes_nobody_wait() {
    let rig = Rig::with_memory(PART as u64).await;
    let bytes = content(PART + MIB, 31);
    let at = 3 * MIB + 77;
    let id = resting(&rig, &bytes, at).await;
    let others = rig.pool.reserve(PART / MIB).await;
    for _ in 0..2 {
        let asked = rig.engine.resume(id, at as u64);
        tokio::select! {
            _ = asked => panic!("there is no memory"),
            () = until_waiting(&rig.pool, true) => {}
        }
        // It left.
        until_waiting(&rig.pool, false).await;
    }
    drop(others);
    let mut writer = rig.engine.resume(id, at as u64).await.unwrap();
    send(&mut writer, &bytes[at..]).await;
    writer.finish().await.unwrap();
    rig.holds(&bytes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_gets_its_memory_late_touches_nothing_of_who_went_on_meanwhile() {
    let rig = Rig::new().await;
    let bytes = content(LENGTH, 32);
    let at = 3 * MIB + 77;
    let id = resting(&rig, &bytes, at).await;
    // Another node, short of memory.
    let pool = BufferPool::new(PART as u64);
    let ledger = rig.bench.rig.ledger();
    let node = rig.bench.engine_on(ledger, rig.store.clone(), &pool);
    let others = pool.reserve(PART / MIB).await;
    let mut late = Box::pin(node.resume(id, at as u64));
    tokio::select! {
        _ = &mut late => panic!("there is no memory"),
        () = until_waiting(&pool, true) => {}
    }
    let told = rig.engine.head(id).await.unwrap().offset;
    assert_eq!(told, at as u64);
    let mut writer = rig.engine.resume(id, told).await.unwrap();
    send(&mut writer, &bytes[at..PART + MIB]).await;
    drop(others);
    let fenced = late.await.map(drop).unwrap_err();
    assert_eq!(fenced.kind(), ErrorKind::Fenced);
    send(&mut writer, &bytes[PART + MIB..]).await;
    writer.finish().await.unwrap();
    rig.holds(&bytes).await;
}

/// Begins an upload in parts.
async fn in_parts(rig: &Rig, length: usize) -> UploadId {
    let intent = boxgate_storage::upload::UploadIntent {
        cut: Some(Cut::Parts),
        ..kept(Some(length as u64), vec![])
    };
    rig.engine.create(intent).await.unwrap().id
}

/// Sends one part of the bytes.
async fn put(engine: &UploadEngine, id: UploadId, k: usize, bytes: &[u8]) -> Result<Placed, Error> {
    let part = &bytes[k * PART..bytes.len().min((k + 1) * PART)];
    let number = u32::try_from(k).unwrap();
    let mut writer = engine.piece(id, number, Some(part.len() as u64)).await?;
    for chunk in part.chunks(300_007) {
        writer.write(chunk.to_vec().into()).await?;
    }
    writer.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_at_once_and_in_any_order_are_each_sent_once() {
    let mut rig = Rig::new().await;
    let bytes = content(4 * PART + 77, 11);
    let before = rig.reference.count("part");
    let id = in_parts(&rig, bytes.len()).await;
    let first = [1, 0].map(|k| put(&rig.engine, id, k, &bytes));
    for placed in futures_util::future::join_all(first).await {
        assert!(placed.unwrap().published.is_none());
    }
    // Held by the rows, so that another process need not ask for them again. It sends the probe's part.
    rig.restart().await;
    let before = before + 1;
    let row = rig.engine.peek(id).await.unwrap().unwrap();
    assert_eq!((row.offset, row.pieces.unwrap().held), (2 * PART as u64, 2));
    assert!(put(&rig.engine, id, 1, &bytes).await.unwrap().again);
    let mut other = bytes.to_vec();
    other[PART] ^= 1;
    let refused = put(&rig.engine, id, 1, &other).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict);
    let rest = [4, 2, 3].map(|k| put(&rig.engine, id, k, &bytes));
    let placed = futures_util::future::join_all(rest).await;
    let published = placed.into_iter().map(|placed| placed.unwrap().published);
    assert!(published.flatten().count() >= 1);
    assert_eq!(rig.reference.count("part") - before, 5);
    rig.holds(&bytes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_that_is_cut_is_as_if_it_had_not_been_sent() {
    let rig = Rig::with_memory(2 * PART as u64).await;
    let bytes = content(2 * PART, 12);
    let id = in_parts(&rig, bytes.len()).await;
    for _ in 0..5 {
        let mut writer = rig.engine.piece(id, 0, Some(PART as u64)).await.unwrap();
        let other = content(3 * MIB + 5, 13);
        writer.write(other).await.unwrap();
        drop(writer);
    }
    for k in [0, 1] {
        put(&rig.engine, id, k, &bytes).await.unwrap();
    }
    rig.holds(&bytes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_that_wait_for_the_first_give_it_their_memory() {
    let rig = Rig::with_memory(2 * PART as u64).await;
    let bytes = content(3 * PART, 14);
    let id = in_parts(&rig, bytes.len()).await;
    let (second, third) = (
        put(&rig.engine, id, 1, &bytes),
        put(&rig.engine, id, 2, &bytes),
    );
    let before = rig.reference.count("part");
    let first = async {
        // Both are with the store, and fill the memory.
        rig.reference.came("part", before + 2).await;
        put(&rig.engine, id, 0, &bytes).await
    };
    let all = futures_util::future::join3(second, third, first);
    let (second, third, first) = tokio::time::timeout(PATIENCE, all).await.expect("all end");
    first.unwrap();
    let (expected, given) = (0, 2 * PART as u64);
    let kind = ErrorKind::OffsetMismatch { expected, given };
    assert_eq!(third.unwrap_err().kind(), kind);
    if second.is_err() {
        // Where the first took its time to take the memory.
        put(&rig.engine, id, 1, &bytes).await.unwrap();
    }
    let last = put(&rig.engine, id, 2, &bytes).await.unwrap();
    assert!(last.published.is_some());
    rig.holds(&bytes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_takes_over_goes_on_behind_the_parts_that_are_held() {
    let mut rig = Rig::new().await;
    let bytes = content(LENGTH, 15);
    let id = in_parts(&rig, bytes.len()).await;
    put(&rig.engine, id, 0, &bytes).await.unwrap();
    rig.restart().await;
    let mut writer = rig.engine.resume(id, PART as u64).await.unwrap();
    send(&mut writer, &bytes[PART..]).await;
    writer.finish().await.unwrap();
    rig.holds(&bytes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_take_parts_of_one_upload_at_once() {
    for round in 0..8 {
        let rig = Rig::new().await;
        let (store, _) = s3::open(rig.reference.options()).await.unwrap();
        let pool = BufferPool::new(64 << 20);
        let other = rig.bench.engine_on(rig.bench.rig.ledger(), store, &pool);
        let bytes = content(5 * PART + 77, 16);
        let id = in_parts(&rig, bytes.len()).await;
        // Whatever the order, and whoever gets the first and the last; some parts come to both.
        let sent = (0..6).flat_map(|k| {
            let (here, there) = (&rig.engine, &other);
            let first = if (k + round) % 2 == 0 { here } else { there };
            let again = (k == round % 6).then(|| put(there, id, k, &bytes));
            std::iter::once(put(first, id, k, &bytes)).chain(again)
        });
        let all = futures_util::future::join_all(sent);
        let placed = tokio::time::timeout(PATIENCE, all).await.expect("all end");
        for placed in placed {
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
async fn what_a_store_of_parts_cannot_take_is_refused_at_once() {
    let rig = Rig::with_memory(PART as u64 - 1).await;
    let too_large = rig.engine.begin(intent(Some(5), vec![])).await;
    let kind = too_large.unwrap_err().kind();
    assert!(matches!(kind, ErrorKind::TooLarge { .. }), "{kind:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_that_cannot_be_used_is_told_with_its_setting() {
    for (code, setting) in [
        ("NoSuchBucket", "bucket"),
        ("InvalidAccessKeyId", "access_key_id"),
        ("SignatureDoesNotMatch", "secret_access_key"),
        ("AuthorizationHeaderMalformed", "region"),
    ] {
        let reference = Reference::start(1).await;
        reference.fail("put", 0, Fault::Before(403, code));
        let error = s3::open(reference.options()).await.unwrap_err();
        assert!(error.subject().starts_with(setting), "{error:?}");
        let text = boxgate_storage::error::chain(&error);
        assert!(!text.contains('\n') && !text.contains("secret\""), "{text}");
    }
    let mut nowhere = Reference::start(1).await.options();
    nowhere.endpoint = "http://127.0.0.1:1".to_owned();
    let error = s3::open(nowhere).await.unwrap_err();
    assert!(error.subject().starts_with("endpoint"), "{error:?}");
}
