//! Whole parts of a fast sender, which become durable together.

use std::time::Duration;

use boxgate_storage::ErrorKind;
use boxgate_storage::backend::faulty::{self, Fault, Faults};
use boxgate_storage::digest::{Digest, Sha256};
use boxgate_storage::upload::UploadEngine;
use tokio::sync::watch;

use crate::bench::{Bench, MIB, content, kept};

/// An engine that counts its calls.
fn counting(bench: &Bench, faults: &Faults, wait: (u64, Duration)) -> UploadEngine {
    let ledger = bench.failing_ledger(faults);
    let store = faulty::wrap(bench.memory.store(), faults);
    bench.gathering(ledger, store, wait)
}

/// How often something was made durable, and how often rows moved over what is.
fn commits(faults: &Faults) -> [usize; 2] {
    let times = faults.times();
    ["sink.seal", "ledger.advance"].map(|call| times.get(call).copied().unwrap_or_default())
}

async fn told(progress: &mut watch::Receiver<u64>, offset: u64) {
    let moved = progress.wait_for(|at| *at == offset);
    let moved = tokio::time::timeout(Duration::from_mins(1), moved).await;
    assert!(moved.is_ok_and(|moved| moved.is_ok()), "never at {offset}");
}

#[tokio::test]
async fn whole_parts_wait_for_one_another_and_are_committed_at_once() {
    let (bench, faults) = (Bench::new().await, Faults::new());
    let engine = counting(&bench, &faults, (24 << 20, Duration::MAX));
    let bytes = content(49 * MIB, 1);
    let begun = engine.begin(kept(Some(49 << 20), vec![])).await;
    let mut writer = begun.unwrap();
    let mut progress = writer.progress();
    writer.write(bytes.slice(..24 * MIB)).await.unwrap();
    told(&mut progress, 24 << 20).await;
    writer.write(bytes.slice(24 * MIB..)).await.unwrap();
    let published = writer.finish().await.unwrap();
    assert_eq!(
        commits(&faults),
        [3, 2],
        "3 parts, 3 parts, and the rest with the end"
    );
    assert_eq!(engine.stats().part_commits, 7);
    assert!(bench.read_back(&published.blob).await == bytes);
    engine.settled().await;
    bench.is_clean().await;
}

#[tokio::test(start_paused = true)]
async fn a_whole_part_does_not_wait_for_long() {
    let (bench, faults) = (Bench::new().await, Faults::new());
    let within = Duration::from_millis(250);
    let engine = counting(&bench, &faults, (64 << 20, within));
    let bytes = content(40 * MIB, 2);
    let begun = engine.begin(kept(Some(40 << 20), vec![])).await;
    let mut writer = begun.unwrap();
    let (id, mut progress) = (writer.id(), writer.progress());
    let at = 8 * MIB + 1;
    writer.write(bytes.slice(..at)).await.unwrap();
    assert_eq!(commits(&faults), [0, 0]);
    tokio::time::advance(within).await;
    writer.write(bytes.slice(at..9 * MIB)).await.unwrap();
    told(&mut progress, 8 << 20).await;
    // A pause waits for nothing.
    writer.write(bytes.slice(9 * MIB..17 * MIB)).await.unwrap();
    assert_eq!(commits(&faults), [1, 1]);
    assert_eq!(writer.pause().await.unwrap(), 17 << 20);
    assert_eq!(commits(&faults), [2, 2], "a part and the beginning of one");
    let mut rest = engine.resume(id, 17 << 20).await.unwrap();
    rest.write(bytes.slice(17 * MIB..)).await.unwrap();
    let published = rest.finish().await.unwrap();
    assert!(bench.read_back(&published.blob).await == bytes);
    engine.settled().await;
    bench.is_clean().await;
}

#[tokio::test]
async fn whoever_asks_where_to_go_on_is_told_behind_the_parts_that_wait() {
    let (bench, faults) = (Bench::new().await, Faults::new());
    let engine = counting(&bench, &faults, (64 << 20, Duration::MAX));
    let bytes = content(40 * MIB, 3);
    let begun = engine.begin(kept(Some(40 << 20), vec![])).await;
    let mut cut = begun.unwrap();
    let id = cut.id();
    cut.write(bytes.slice(..25 * MIB)).await.unwrap();
    assert_eq!(commits(&faults), [0, 0]);
    let told = engine.head(id).await.unwrap();
    assert_eq!(told.offset, 24 << 20, "three parts, nothing of the fourth");
    let late = cut.write(bytes.slice(25 * MIB..26 * MIB)).await;
    assert_eq!(late.unwrap_err().kind(), ErrorKind::Fenced);
    let mut rest = engine.resume(id, told.offset).await.unwrap();
    drop(cut);
    rest.write(bytes.slice(24 * MIB..)).await.unwrap();
    let published = rest.finish().await.unwrap();
    assert!(bench.read_back(&published.blob).await == bytes);
    engine.settled().await;
    bench.is_clean().await;
}

#[tokio::test]
async fn parts_that_wait_for_their_digest_wait_whoever_asks() {
    let (bench, faults) = (Bench::new().await, Faults::new());
    let engine = counting(&bench, &faults, (64 << 20, Duration::MAX));
    let begun = engine.begin(kept(Some(40 << 20), vec![])).await;
    let mut held = begun.unwrap();
    let id = held.id();
    held.hold(Digest::from(Sha256([7; 32]))).unwrap();
    held.write(content(25 * MIB, 4)).await.unwrap();
    assert_eq!(engine.head(id).await.unwrap().offset, 0);
    engine.settled().await;
    assert!(engine.cancel(id).await.unwrap());
    drop(held);
    engine.settled().await;
    bench.is_clean().await;
}

#[tokio::test]
async fn nothing_is_told_behind_a_run_that_failed() {
    let (bench, faults) = (Bench::new().await, Faults::new());
    let engine = counting(&bench, &faults, (64 << 20, Duration::MAX));
    let bytes = content(12 * MIB, 5);
    let begun = engine.begin(kept(Some(12 << 20), vec![])).await;
    let mut failed = begun.unwrap();
    // The last of the first part: the part waits for others, and its bytes are not all there.
    faults.plan("sink.write", 7, Fault::Before(ErrorKind::Full));
    let error = failed.write(bytes.clone()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Full);
    let told = engine.head(failed.id()).await.unwrap();
    assert_eq!(told.offset, 0);
    let mut all = engine.resume(told.id, 0).await.unwrap();
    drop(failed);
    all.write(bytes.clone()).await.unwrap();
    let published = all.finish().await.unwrap();
    assert!(bench.read_back(&published.blob).await == bytes);
    engine.settled().await;
    bench.is_clean().await;
}
