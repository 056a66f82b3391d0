//! An upload that fails at each call of its store and its ledger, before it, after it (done, answer
//! lost), or for good, as a process does that dies. Whatever happened: recovery and one sweep leave
//! either the whole blob or nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use boxgate_storage::backend::faulty::{self, Fault, Faults};
use boxgate_storage::blob::UploadId;
use boxgate_storage::metadata::uploads::{Published, UploadState};
use boxgate_storage::upload::UploadEngine;
use boxgate_storage::{ErrorKind, Result};
use bytes::Bytes;

use crate::bench::{Bench, MIB, content, intent, kept};
use crate::rigs::Sql;

/// Two whole parts and a short one.
const LENGTH: usize = 17 * MIB + 5;

/// An engine on the bench's rows and bytes that fails by `faults`.
pub(crate) fn failing(bench: &Bench, faults: &Faults) -> UploadEngine {
    let ledger = bench.failing_ledger(faults);
    let store = faulty::wrap(bench.memory.store(), faults);
    bench.engine_on(ledger, store, &bench.pool)
}

async fn upload(bench: &Bench, faults: &Faults, bytes: &Bytes) -> Result<Published> {
    let engine = failing(bench, faults);
    let uploaded = async {
        let length = Some(bytes.len() as u64);
        let mut writer = engine.begin(intent(length, vec![])).await?;
        for at in (0..bytes.len()).step_by(700_000) {
            let chunk = bytes.slice(at..bytes.len().min(at + 700_000));
            if let Err(e) = writer.write(chunk).await {
                writer.abort().await;
                return Err(e);
            }
        }
        writer.finish().await
    }
    .await;
    engine.settled().await;
    assert_eq!(engine.in_progress(), 0);
    assert_eq!(bench.pool.in_use_bytes(), 0);
    uploaded
}

/// Every operation that an upload calls, with how often it does.
async fn operations() -> BTreeMap<&'static str, usize> {
    let (bench, faults) = (Bench::new().await, Faults::new());
    let bytes = content(LENGTH, 0);
    upload(&bench, &faults, &bytes).await.unwrap();
    // Those of an upload that is given up, too.
    let engine = failing(&bench, &faults);
    let writer = engine.begin(intent(None, vec![])).await.unwrap();
    writer.abort().await;
    faults.times()
}

async fn check(bench: &Bench, outcome: &Result<Published>, bytes: &Bytes, case: &str) {
    // The next process starts: it finds the rows, and of the bytes what was durable.
    bench.memory.lose_power();
    bench.engine.recover().await.unwrap();
    let blob = bench.published().await;
    if let Ok(published) = outcome {
        assert_eq!(
            blob,
            Some(published.blob),
            "{case}: what was answered is there"
        );
    }
    if let Some(blob) = &blob {
        let found = bench.read_back(blob).await;
        assert!(found == *bytes, "{case}: what is visible is whole");
    }
    let states = bench.states().await;
    let ended = |state: &UploadState| matches!(state, UploadState::Done | UploadState::Aborted);
    assert!(states.iter().all(ended), "{case}: {states:?}");
    bench.is_clean().await;
}

#[tokio::test]
async fn an_upload_that_fails_at_any_step_is_whole_or_gone() {
    let bytes = content(LENGTH, 1);
    let faults_of_a_step = [
        Fault::Before(ErrorKind::Unavailable),
        Fault::After(ErrorKind::Unavailable),
        Fault::Before(ErrorKind::Internal),
        Fault::Before(ErrorKind::Full),
        Fault::Halt,
    ];
    let operations = operations().await;
    let needed = [
        "ledger.abort",
        "ledger.advance",
        "ledger.complete",
        "ledger.create",
        "ledger.forget",
        "ledger.publish",
        "sink.abort",
        "sink.commit",
        "sink.seal",
        "sink.write",
        "store.begin",
        "store.delete",
        "store.free_space",
        "store.put_sidecar",
    ];
    let called: Vec<_> = operations.keys().copied().collect();
    assert_eq!(called, needed, "each step of an upload has its fail point");
    assert_eq!(
        operations["ledger.advance"], 2,
        "the last of three parts is committed with the end"
    );
    let (mut cases, mut published) = (0, 0);
    for (op, times) in operations {
        for nth in 0..times {
            for fault in faults_of_a_step {
                let (bench, faults) = (Bench::new().await, Faults::new());
                faults.plan(op, nth, fault);
                let outcome = upload(&bench, &faults, &bytes).await;
                check(&bench, &outcome, &bytes, &format!("{op} {nth} {fault:?}")).await;
                cases += 1;
                published += usize::from(outcome.is_ok());
            }
        }
    }
    assert!(cases > 150 && published > 10, "{cases} {published}");
}

#[tokio::test]
async fn an_upload_whose_end_fails_too_is_whole_or_gone() {
    // The first fault sends the upload to its abort; the second hits the abort itself.
    let bytes = content(LENGTH, 2);
    for first in [
        "sink.write",
        "sink.seal",
        "ledger.advance",
        "ledger.complete",
    ] {
        for second in [
            "ledger.abort",
            "sink.abort",
            "ledger.forget",
            "ledger.upload",
        ] {
            for fault in [
                Fault::Before(ErrorKind::Unavailable),
                Fault::After(ErrorKind::Unavailable),
                Fault::Halt,
            ] {
                let (bench, faults) = (Bench::new().await, Faults::new());
                faults.plan(first, 0, Fault::After(ErrorKind::Unavailable));
                faults.plan(second, 0, fault);
                let outcome = upload(&bench, &faults, &bytes).await;
                let case = format!("{first}, then {second} {fault:?}");
                check(&bench, &outcome, &bytes, &case).await;
            }
        }
    }
}

#[tokio::test]
async fn a_lost_answer_of_a_commit_loses_no_upload() {
    let bytes = content(LENGTH, 3);
    for (op, nth) in [
        ("ledger.advance", 0),
        ("ledger.advance", 1),
        ("ledger.complete", 0),
        ("ledger.publish", 0),
        ("sink.commit", 0),
    ] {
        let (bench, faults) = (Bench::new().await, Faults::new());
        faults.plan(op, nth, Fault::After(ErrorKind::Unavailable));
        let outcome = upload(&bench, &faults, &bytes).await;
        assert!(outcome.is_ok(), "{op} {nth}: {:?}", outcome.err());
        check(&bench, &outcome, &bytes, op).await;
    }
}

#[tokio::test]
async fn rows_that_answer_again_let_a_sweep_finish_what_was_left() {
    let (bench, faults) = (Bench::new().await, Faults::new());
    let bytes = content(LENGTH, 4);
    for nth in 0..3 {
        faults.plan("ledger.publish", nth, Fault::Before(ErrorKind::Unavailable));
    }
    let outcome = upload(&bench, &faults, &bytes).await;
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(bench.states().await, [UploadState::Completing]);
    bench.engine.sweep().await.unwrap();
    assert_eq!(bench.published().await, None, "its task may still be at it");
    bench.rig.clock().advance(Duration::from_secs(31));
    bench.engine.sweep().await.unwrap();
    assert_eq!(bench.states().await, [UploadState::Done]);
    bench.is_clean().await;
}

#[tokio::test]
async fn the_rows_on_disk_recover_as_the_twin_does() {
    let bytes = content(LENGTH, 5);
    let steps = [
        "ledger.create",
        "ledger.advance",
        "ledger.complete",
        "ledger.publish",
        "ledger.abort",
        "sink.seal",
        "sink.write",
        "store.begin",
    ];
    for op in steps {
        for fault in [
            Fault::After(ErrorKind::Unavailable),
            Fault::Before(ErrorKind::Internal),
            Fault::Halt,
        ] {
            let (bench, faults) = (Bench::on(Sql::open().await).await, Faults::new());
            faults.plan(op, 0, fault);
            let outcome = upload(&bench, &faults, &bytes).await;
            check(&bench, &outcome, &bytes, &format!("{op} {fault:?}")).await;
        }
    }
}

/// What a client knows of an upload that it sent in three requests, as far as it came.
#[derive(Default)]
struct Known {
    id: Option<UploadId>,
    /// The largest offset that it was told.
    told: u64,
    published: Option<Published>,
}

/// Three requests, with a cut within a block between them.
async fn three_requests(engine: &UploadEngine, bytes: &Bytes, known: &mut Known) -> Result<()> {
    let length = Some(bytes.len() as u64);
    let id = engine.create(kept(length, vec![])).await?.id;
    known.id = Some(id);
    for to in [3 * MIB + 5, 13 * MIB + 7, bytes.len()] {
        known.told = engine.head(id).await?.offset;
        let mut writer = engine.resume(id, known.told).await?;
        let from = usize::try_from(known.told).unwrap();
        for at in (from..to).step_by(700_000) {
            writer.write(bytes.slice(at..to.min(at + 700_000))).await?;
        }
        if to < bytes.len() {
            known.told = writer.pause().await?;
        } else {
            known.published = Some(writer.finish().await?);
        }
    }
    Ok(())
}

/// The next process finds all that was told, and can bring it to its end.
async fn can_be_finished(bench: &Bench, known: &Known, bytes: &Bytes, case: &str) {
    bench.memory.lose_power();
    bench.engine.recover().await.unwrap();
    if let Some(id) = known.id {
        let row = bench.engine.head(id).await.unwrap();
        assert!(
            row.offset >= known.told,
            "{case}: {} of {}",
            row.offset,
            known.told
        );
        if row.state == UploadState::Open {
            assert_eq!(known.published, None, "{case}");
            let mut writer = bench.engine.resume(id, row.offset).await.unwrap();
            let from = usize::try_from(row.offset).unwrap();
            writer.write(bytes.slice(from..)).await.unwrap();
            writer.finish().await.unwrap();
        }
        let blob = bench.published().await.unwrap();
        if let Some(published) = &known.published {
            assert_eq!(blob, published.blob, "{case}: what was answered is there");
        }
        let found = bench.read_back(&blob).await;
        assert!(found == *bytes, "{case}: what is visible is whole");
    }
    // An upload that was made and never told expires.
    bench.rig.clock().advance(Duration::from_hours(25));
    bench.engine.sweep().await.unwrap();
    let states = bench.states().await;
    let ended = |state: &UploadState| matches!(state, UploadState::Done | UploadState::Aborted);
    assert!(states.iter().all(ended), "{case}: {states:?}");
    bench.is_clean().await;
}

#[tokio::test]
async fn a_kept_upload_that_fails_at_any_step_can_be_finished() {
    let bytes = content(LENGTH, 6);
    let (bench, faults) = (Bench::new().await, Faults::new());
    let mut known = Known::default();
    let done = three_requests(&failing(&bench, &faults), &bytes, &mut known).await;
    done.unwrap();
    let operations = faults.times();
    let needed = [
        "ledger.advance",
        "ledger.complete",
        "ledger.create",
        "ledger.part_values",
        "ledger.publish",
        "ledger.take_over",
        "sink.commit",
        "sink.seal",
        "sink.write",
        "store.begin",
        "store.free_space",
        "store.open",
        "store.put_sidecar",
        "store.resume",
    ];
    let called: Vec<_> = operations.keys().copied().collect();
    assert_eq!(called, needed, "each step of an upload has its fail point");
    let (mut cases, mut told) = (0, 0);
    for (op, times) in operations {
        for nth in 0..times {
            for fault in [
                Fault::Before(ErrorKind::Unavailable),
                Fault::After(ErrorKind::Unavailable),
                Fault::Before(ErrorKind::Full),
                Fault::Halt,
            ] {
                let (bench, faults) = (Bench::new().await, Faults::new());
                faults.plan(op, nth, fault);
                let (engine, mut known) = (failing(&bench, &faults), Known::default());
                let _failed = three_requests(&engine, &bytes, &mut known).await;
                engine.settled().await;
                assert_eq!(engine.in_progress(), 0);
                let case = format!("{op} {nth} {fault:?}");
                can_be_finished(&bench, &known, &bytes, &case).await;
                cases += 1;
                told += usize::from(known.told > 0);
            }
        }
    }
    assert!(cases > 150 && told > 50, "{cases} {told}");
}
