//! An upload that is whole and asked about before it becomes visible: whatever is answered, or is not, and wherever
//! the process dies meanwhile, its bytes stay, and nothing is published unasked.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use boxgate_storage::backend::faulty::{self, Fault, Faults};
use boxgate_storage::metadata::uploads::{GateState, Labels, UploadRow, UploadState, Withheld};
use boxgate_storage::upload::{Answer, Gate, Gatekeeping, Passage, Silence, UploadEngine, Whole};
use boxgate_storage::{Error, ErrorKind};
use bytes::Bytes;
use tokio::sync::Notify;

use crate::bench::{Bench, MIB, content, kept};
use crate::rigs::Sql;
use crate::s3::Rig;

const LENGTH: usize = 9 * MIB + 5;

/// Answers in the order in which they were given to it; without one it lets everything pass.
#[derive(Debug, Default)]
struct Doorman {
    answers: Mutex<VecDeque<Result<Answer, Silence>>>,
    asked: AtomicUsize,
    /// Whether each was new.
    news: Mutex<Vec<bool>>,
    away: AtomicBool,
    /// Asked, and waiting to be told to go on.
    thinks: Option<(Arc<Notify>, Arc<Notify>)>,
}

#[async_trait]
impl Gate for Doorman {
    fn is_kept(&self) -> bool {
        !self.away.load(Ordering::Relaxed)
    }

    async fn ask(&self, whole: &Whole) -> Result<Answer, Silence> {
        assert_eq!(whole.row.state, UploadState::Completing);
        assert!(whole.row.digests.is_some());
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.news.lock().unwrap().push(whole.is_new);
        if let Some((asked, go_on)) = &self.thinks {
            asked.notify_one();
            go_on.notified().await;
        }
        let next = self.answers.lock().unwrap().pop_front();
        next.unwrap_or_else(|| Ok(Answer::Publish(Labels::new())))
    }
}

impl Doorman {
    fn says(answers: impl IntoIterator<Item = Result<Answer, Silence>>) -> Arc<Self> {
        Arc::new(Self {
            answers: Mutex::new(answers.into_iter().collect()),
            ..Self::default()
        })
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

fn passage(gate: &Arc<Doorman>) -> Passage {
    Passage::Gate(Gatekeeping {
        gate: Arc::clone(gate) as _,
        pauses: vec![Duration::from_secs(2), Duration::from_secs(10)],
        patience: Duration::ZERO,
    })
}

fn silence() -> Result<Answer, Silence> {
    Err("the scanner does not answer".to_owned().into())
}

async fn upload(engine: &UploadEngine, bytes: &Bytes) -> Result<(), Error> {
    let length = Some(bytes.len() as u64);
    let mut writer = engine.begin(kept(length, vec![])).await?;
    writer.write(bytes.clone()).await?;
    writer.finish().await.map(drop)
}

async fn only(bench: &Bench, state: UploadState) -> UploadRow {
    let rows = bench.rig.ledger();
    let far = boxgate_storage::clock::UnixMillis(i64::MAX);
    let mut rows = rows.uploads_in(state, far, 10).await.unwrap();
    assert_eq!(rows.len(), 1);
    rows.remove(0)
}

fn said(error: &Error) -> GateState {
    assert_eq!(error.kind(), ErrorKind::Withheld, "{error}");
    let Withheld(gating) = error.caused_by().unwrap();
    gating.state
}

#[tokio::test]
async fn what_passes_is_published_and_asked_about_once() {
    let (bench, gate) = (Bench::new().await, Doorman::says([]));
    let engine = bench.gated(passage(&gate));
    let bytes = content(LENGTH, 0);
    upload(&engine, &bytes).await.unwrap();
    assert_eq!(gate.asked(), 1);
    let blob = bench.published().await.unwrap();
    assert!(bench.read_back(&blob).await == bytes);
    assert_eq!(engine.publish_waiting().await.unwrap(), 0);
    bench.is_clean().await;
}

#[tokio::test]
async fn a_gate_that_does_not_answer_holds_and_heals() {
    for database in [false, true] {
        let bench = if database {
            Bench::on(Sql::open().await).await
        } else {
            Bench::new().await
        };
        let gate = Doorman::says([silence(), silence()]);
        let engine = bench.gated(passage(&gate));
        let bytes = content(LENGTH, 1);
        let error = upload(&engine, &bytes).await.unwrap_err();
        assert_eq!(said(&error), GateState::Held);
        assert_eq!(bench.published().await, None);
        // Not before its pause is over, by whatever goes round.
        engine.publish_waiting().await.unwrap();
        engine.sweep().await.unwrap();
        assert_eq!(gate.asked(), 1);
        bench.rig.clock().advance(Duration::from_secs(2));
        engine.publish_waiting().await.unwrap();
        assert_eq!(gate.asked(), 2);
        let row = only(&bench, UploadState::Completing).await;
        assert_eq!(row.gate.unwrap().tries, 2);
        // Days are nothing to it: it neither expires nor is collected beneath the gate.
        bench.rig.clock().advance(Duration::from_hours(24 * 20));
        engine.sweep().await.unwrap();
        assert_eq!(engine.publish_waiting().await.unwrap(), 1);
        assert_eq!(gate.asked(), 3);
        let blob = bench.published().await.unwrap();
        assert!(bench.read_back(&blob).await == bytes);
        bench.is_clean().await;
    }
}

#[tokio::test]
async fn whoever_waits_gets_the_answer_of_a_later_try() {
    let (bench, gate) = (Bench::new().await, Doorman::says([silence()]));
    let engine = bench.gated(Passage::Gate(Gatekeeping {
        gate: Arc::clone(&gate) as _,
        pauses: vec![Duration::from_millis(1)],
        patience: Duration::from_mins(1),
    }));
    upload(&engine, &content(LENGTH, 2)).await.unwrap();
    assert_eq!(gate.asked(), 2);
    bench.is_clean().await;
}

#[tokio::test]
async fn after_too_many_tries_it_is_quarantined_until_somebody_lets_it_through() {
    let bench = Bench::new().await;
    let gate = Doorman::says([silence(), silence(), silence()]);
    let engine = bench.gated(passage(&gate));
    let bytes = content(LENGTH, 3);
    let error = upload(&engine, &bytes).await.unwrap_err();
    assert_eq!(said(&error), GateState::Held);
    for pause in [2, 10] {
        bench.rig.clock().advance(Duration::from_secs(pause));
        engine.publish_waiting().await.unwrap();
    }
    let row = only(&bench, UploadState::Completing).await;
    let gating = row.gate.unwrap();
    assert_eq!(gating.state, GateState::Quarantined);
    assert_eq!((gating.tries, gating.is_verdict), (3, false));
    bench.rig.clock().advance(Duration::from_hours(24));
    engine.publish_waiting().await.unwrap();
    engine.sweep().await.unwrap();
    assert_eq!((gate.asked(), bench.published().await), (3, None));
    // Not even where nobody is asked any more.
    gate.away.store(true, Ordering::Relaxed);
    engine.sweep().await.unwrap();
    engine.recover().await.unwrap();
    assert_eq!(bench.published().await, None);
    assert!(engine.let_through(row.id, "root").await.unwrap());
    let blob = bench.published().await.unwrap();
    assert!(bench.read_back(&blob).await == bytes);
    assert!(!engine.let_through(row.id, "root").await.unwrap());
    bench.is_clean().await;
}

#[tokio::test]
async fn a_quarantined_upload_ends_by_hand_or_with_its_time() {
    let worm = || {
        Ok(Answer::Quarantine {
            why: "a known worm".to_owned(),
            by: None,
        })
    };
    let bench = Bench::new().await;
    let gate = Doorman::says([worm(), worm()]);
    let engine = bench.gated(passage(&gate));
    let error = upload(&engine, &content(LENGTH, 4)).await.unwrap_err();
    assert_eq!(said(&error), GateState::Quarantined);
    // The same bytes again take no more room, and need no question.
    let error = upload(&engine, &content(LENGTH, 4)).await.unwrap_err();
    assert_eq!(said(&error), GateState::Rejected);
    assert_eq!((gate.asked(), bench.memory.keys().len()), (1, 1));
    let id = only(&bench, UploadState::Completing).await.id;
    assert!(engine.abort_by(id, "root").await.unwrap());
    assert_eq!(bench.memory.keys(), []);

    let error = upload(&engine, &content(LENGTH, 5)).await.unwrap_err();
    assert_eq!(said(&error), GateState::Quarantined);
    bench.rig.clock().advance(Duration::from_hours(24 * 31));
    engine.sweep().await.unwrap();
    assert_eq!(bench.memory.keys(), []);
    bench.is_clean().await;
}

#[tokio::test]
async fn what_is_rejected_is_gone_at_once() {
    let no = Ok(Answer::Reject {
        why: "no signature".to_owned(),
        code: Some(422),
    });
    let (bench, gate) = (Bench::new().await, Doorman::says([no]));
    let engine = bench.gated(passage(&gate));
    let error = upload(&engine, &content(LENGTH, 6)).await.unwrap_err();
    assert_eq!(said(&error), GateState::Rejected);
    assert_eq!(bench.memory.keys(), []);
    assert_eq!(
        only(&bench, UploadState::Aborted).await.gate.unwrap().code,
        Some(422)
    );
    bench.is_clean().await;
}

#[tokio::test]
async fn the_second_node_asks_neither_beside_the_first_nor_publishes_past_it() {
    let asked_and_go_on = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let gate = Arc::new(Doorman {
        thinks: Some(asked_and_go_on.clone()),
        ..Doorman::default()
    });
    let (asked, go_on) = asked_and_go_on;
    let bench = Bench::new().await;
    let engine = bench.gated(passage(&gate));
    let sending = tokio::spawn({
        let engine = engine.clone();
        async move { upload(&engine, &content(LENGTH, 7)).await }
    });
    asked.notified().await;
    let id = only(&bench, UploadState::Completing).await.id;
    // One with the gate, and one whose plugin was just removed.
    let other_gate = Doorman::says([]);
    let other = bench.gated(passage(&other_gate));
    let unasked = bench.other();
    for node in [&other, &unasked] {
        bench.rig.clock().advance(Duration::from_secs(9));
        assert_eq!(node.publish_waiting().await.unwrap(), 0);
        let _withheld = node.publish_left(id).await.unwrap_err();
    }
    assert_eq!((other_gate.asked(), bench.published().await), (0, None));
    // The first one died: whoever comes after its claim has run out asks anew.
    bench.rig.clock().advance(Duration::from_secs(30));
    assert_eq!(other.publish_waiting().await.unwrap(), 1);
    assert_eq!(other_gate.asked(), 1);
    // If it was only slow, what it hears counts for nothing.
    go_on.notify_one();
    sending.await.unwrap().unwrap();
    bench.is_clean().await;
}

#[tokio::test]
async fn a_process_that_dies_at_any_step_leaves_it_to_be_asked_about_or_published() {
    for op in [
        "ledger.complete",
        "ledger.ask_gate",
        "ledger.quarantined_like",
        "ledger.answer_gate",
        "ledger.publish",
        "sink.commit",
    ] {
        for fault in [Fault::Halt, Fault::After(ErrorKind::Unavailable)] {
            let case = format!("{op} {fault:?}");
            let (bench, faults) = (Bench::new().await, Faults::new());
            faults.plan(op, 0, fault);
            let gate = Doorman::says([]);
            let ledger = bench.failing_ledger(&faults);
            let store = faulty::wrap(bench.memory.store(), &faults);
            let dying = bench.engine_with(ledger, store, passage(&gate));
            let bytes = content(LENGTH, 8);
            let sent = upload(&dying, &bytes).await;
            dying.settled().await;
            bench.memory.lose_power();
            let before = gate.asked();
            let next = bench.gated(passage(&gate));
            next.recover().await.unwrap();
            next.settled().await;
            bench.rig.clock().advance(Duration::from_secs(31));
            next.publish_waiting().await.unwrap();
            let states = bench.states().await;
            if states == [UploadState::Open] {
                // Whoever sends the last part again ends it.
                let row = only(&bench, UploadState::Open).await;
                let mut writer = next.resume(row.id, row.offset).await.unwrap();
                let from = usize::try_from(row.offset).unwrap();
                writer.write(bytes.slice(from..)).await.unwrap();
                writer.finish().await.unwrap();
            } else {
                assert_eq!(states, [UploadState::Done], "{case}");
            }
            assert!(gate.asked() >= 1, "{case}: it was never asked about");
            assert!(
                sent.is_err() || before == 1,
                "{case}: what was answered was asked about"
            );
            let blob = bench.published().await.unwrap();
            assert!(bench.read_back(&blob).await == bytes, "{case}");
            bench.is_clean().await;
        }
    }
}

#[tokio::test]
async fn a_shut_passage_lets_nothing_through() {
    let bench = Bench::new().await;
    let gate = Doorman::says([silence()]);
    let engine = bench.gated(passage(&gate));
    let _held = upload(&engine, &content(LENGTH, 9)).await.unwrap_err();
    let shut = bench.gated(Passage::Shut);
    bench.rig.clock().advance(Duration::from_hours(1));
    shut.recover().await.unwrap();
    shut.sweep().await.unwrap();
    assert_eq!(bench.states().await, [UploadState::Completing]);
    assert_eq!(engine.publish_waiting().await.unwrap(), 1);
    bench.is_clean().await;
}

#[tokio::test]
async fn equal_bytes_are_asked_about_again_and_said_not_to_be_new() {
    let bench = Bench::new().await;
    let gate = Doorman::says([]);
    let engine = bench.gated(passage(&gate));
    for _ in 0..2 {
        upload(&engine, &content(LENGTH, 10)).await.unwrap();
    }
    assert_eq!(gate.asked(), 2);
    assert_eq!(*gate.news.lock().unwrap(), [true, false]);
    bench.is_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_asked_about_keeps_no_memory_from_others() {
    let rig = Rig::new().await;
    let (asked, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let gate = Arc::new(Doorman {
        thinks: Some((Arc::clone(&asked), Arc::clone(&go_on))),
        ..Doorman::default()
    });
    let (bench, store) = (&rig.bench, rig.store.clone());
    let engine = bench.engine_with(bench.rig.ledger(), store, passage(&gate));
    let begun = engine.begin(kept(Some(1000), vec![])).await;
    let mut writer = begun.unwrap();
    writer.write(content(1000, 9)).await.unwrap();
    let ending = tokio::spawn(writer.finish());
    asked.notified().await;
    assert!(!bench.pool.lacks(8), "all of it is free");
    go_on.notify_one();
    ending.await.unwrap().unwrap();
}
