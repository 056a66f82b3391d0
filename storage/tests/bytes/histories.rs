//! Random histories of uploads with several writers each, cuts, cancels, expiry, and processes that die
//! after any of their calls, against what an honest client may count on: an offset that was told is
//! never taken back, what was replaced changes nothing, and what is published is what was sent.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;
use std::time::Duration;

use boxgate_storage::backend::faulty::{self, Faults};
use boxgate_storage::backend::local;
use boxgate_storage::blob::{BlobMeta, UploadId};
use boxgate_storage::clock::{Clock, UnixMillis};
use boxgate_storage::conformance::ledger::DOOMED_FOR;
use boxgate_storage::digest::{Algorithm, Digest, DigestHasher};
use boxgate_storage::metadata::uploads::UploadState;
use boxgate_storage::store::Store;
use boxgate_storage::upload::{UploadEngine, UploadIntent, UploadLimits, UploadWriter};
use boxgate_storage::{ErrorKind, Result};
use bytes::Bytes;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::bench::{Bench, MIB, content, kept};
use crate::rigs::Sql;

/// Uploads that a history has at most.
const UPLOADS: usize = 3;
/// Writers that clients hold at once.
const WRITERS: usize = 3;
/// What each of them sends, unless it ends early: a part, a part, and a bit.
const LENGTH: usize = 17 * MIB + 4099;
/// The bytes of each upload, and one digest.
static SENT: LazyLock<[(Bytes, Digest); UPLOADS]> = LazyLock::new(|| {
    [0, 1, 2].map(|salt| {
        let bytes = content(LENGTH, salt);
        let md5 = digest_of(Algorithm::Md5, &bytes);
        (bytes, md5)
    })
});

#[derive(Debug, Clone, Copy)]
enum Step {
    Create {
        named: bool,
        declared: bool,
    },
    /// Asks where to go on and goes on there; or somewhere else.
    Resume {
        upload: usize,
        writer: usize,
        wrong: bool,
        /// Announces a digest of what it will send: the right one, or another.
        held: Option<bool>,
    },
    Append {
        writer: usize,
        bytes: usize,
    },
    /// Polls a write once and leaves it.
    Cut {
        writer: usize,
        bytes: usize,
    },
    Pause {
        writer: usize,
    },
    Drop {
        writer: usize,
    },
    Finish {
        writer: usize,
    },
    /// Goes on where it stands, with all that is missing, and finishes.
    Deliver {
        upload: usize,
        writer: usize,
    },
    Head {
        upload: usize,
    },
    Cancel {
        upload: usize,
    },
    Pass {
        hours: u8,
    },
    /// The process dies now.
    Crash,
    /// The process dies after so many calls of its store and its rows.
    CrashAfter {
        calls: usize,
    },
}

/// How often histories came to the turns that matter.
#[derive(Debug, Clone, Copy, Default)]
struct Turns {
    published: usize,
    resumed_within_a_part: usize,
    fenced: usize,
    discarded: usize,
    expired: usize,
    cancelled: usize,
    crashed_within_a_step: usize,
    resumed_after_a_crash: usize,
}

struct Upload {
    id: UploadId,
    bytes: Bytes,
    declared: bool,
    named: bool,
    /// The largest offset that was told.
    told: u64,
    /// No byte behind this was ever sent.
    sent: u64,
    made: UnixMillis,
    crashed: bool,
}

struct Writer {
    upload: usize,
    end: UploadWriter,
    start: usize,
    at: usize,
    held: Option<Held>,
    /// Not replaced.
    live: bool,
    /// A write was cut, so that nobody but the store knows how far it came.
    cut: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Held {
    /// Right if the writer ends where it announced to.
    until: Option<usize>,
}

struct World {
    bench: Bench,
    store: Store,
    /// Whether a crash is a loss of power.
    loses_power: bool,
    faults: Faults,
    /// Whether the process is about to die.
    armed: bool,
    engine: UploadEngine,
    /// Whether parts wait for one another, and are hashed on a second core.
    together: bool,
    uploads: Vec<Upload>,
    /// Uploads whose blob was compared.
    compared: BTreeSet<usize>,
    writers: BTreeMap<usize, Writer>,
    turns: Turns,
    context: String,
}

impl World {
    async fn in_memory(together: bool) -> Self {
        let bench = Bench::new().await;
        let store = bench.memory.store();
        Self::new(bench, (store, true), together)
    }

    fn new(bench: Bench, (store, loses_power): (Store, bool), together: bool) -> Self {
        let faults = Faults::new();
        let engine = engine(&bench, (&store, &faults), together);
        Self {
            bench,
            store,
            loses_power,
            faults,
            armed: false,
            engine,
            together,
            uploads: Vec::new(),
            compared: BTreeSet::new(),
            writers: BTreeMap::new(),
            turns: Turns::default(),
            context: String::new(),
        }
    }

    async fn run(mut self, steps: &[Step]) -> Turns {
        for (number, step) in steps.iter().enumerate() {
            self.context = format!("step {number}: {step:?}");
            self.take(*step).await;
            if self.faults.is_halted() {
                self.turns.crashed_within_a_step += 1;
                self.crash().await;
            }
            self.check().await;
        }
        "the end".clone_into(&mut self.context);
        self.end().await;
        self.turns
    }

    fn now(&self) -> UnixMillis {
        self.bench.rig.clock().now()
    }

    async fn take(&mut self, step: Step) {
        match step {
            Step::Create { named, declared } => self.create(named, declared).await,
            Step::Pass { hours } => self.pass(hours).await,
            Step::Crash => self.crash().await,
            Step::CrashAfter { calls } => {
                self.faults.halt_after(calls);
                self.armed = true;
            }
            _ if self.uploads.is_empty() => {}
            Step::Resume {
                upload,
                writer,
                wrong,
                held,
            } => {
                let upload = upload % self.uploads.len();
                self.resume(upload, writer, wrong, held).await;
            }
            Step::Append { writer, bytes } => self.append(writer, bytes, false).await,
            Step::Cut { writer, bytes } => self.append(writer, bytes, true).await,
            Step::Pause { writer } => self.pause(writer).await,
            Step::Drop { writer } => self.drop_writer(writer).await,
            Step::Finish { writer } => self.finish(writer).await,
            Step::Deliver { upload, writer } => {
                let upload = upload % self.uploads.len();
                self.resume(upload, writer, false, None).await;
                self.append(writer, LENGTH, false).await;
                self.finish(writer).await;
            }
            Step::Head { upload } => {
                self.head(upload % self.uploads.len()).await;
            }
            Step::Cancel { upload } => self.cancel(upload % self.uploads.len()).await,
        }
    }

    async fn create(&mut self, named: bool, declared: bool) {
        if self.uploads.len() == UPLOADS {
            return;
        }
        let (bytes, md5) = SENT[self.uploads.len()].clone();
        let expected = if declared { vec![md5] } else { vec![] };
        let mut intent = kept(declared.then_some(LENGTH as u64), expected);
        intent.target = intent.target.filter(|_| named);
        let created: Result<_> = self.engine.create(UploadIntent { ..intent }).await;
        match created {
            Ok(row) => self.uploads.push(Upload {
                id: row.id,
                bytes,
                declared,
                named,
                told: 0,
                sent: 0,
                made: self.now(),
                crashed: false,
            }),
            Err(e) => assert!(self.faults.is_halted(), "{}: {e}", self.context),
        }
    }

    /// All writers of an upload are replaced.
    fn replace(&mut self, upload: usize) {
        for writer in self.writers.values_mut() {
            writer.live &= writer.upload != upload;
        }
    }

    /// What a new request is told; `None` when there is nothing to go on with.
    async fn head(&mut self, upload: usize) -> Option<u64> {
        let id = self.uploads[upload].id;
        let told = self.engine.head(id).await;
        self.replace(upload);
        match told {
            Ok(row) if row.state == UploadState::Open => {
                self.told(upload, row.offset);
                Some(row.offset)
            }
            Ok(row) => {
                assert_ne!(row.state, UploadState::Aborted, "{}", self.context);
                None
            }
            Err(e) => {
                let fits = e.kind() == ErrorKind::Gone || self.faults.is_halted();
                assert!(fits, "{}: {e}", self.context);
                None
            }
        }
    }

    fn told(&mut self, upload: usize, offset: u64) {
        let upload = &mut self.uploads[upload];
        assert!(
            upload.told <= offset && offset <= upload.sent,
            "{}: {offset} is told after {}, {} were sent",
            self.context,
            upload.told,
            upload.sent
        );
        upload.told = offset;
    }

    async fn resume(&mut self, upload: usize, slot: usize, wrong: bool, held: Option<bool>) {
        let slot = slot % WRITERS;
        if self.writers.contains_key(&slot) {
            return;
        }
        let Some(offset) = self.head(upload).await else {
            return;
        };
        let id = self.uploads[upload].id;
        if wrong {
            let given = offset + 1;
            let refused = self.engine.resume(id, given).await.unwrap_err().kind();
            let expected = ErrorKind::OffsetMismatch {
                expected: offset,
                given,
            };
            let fits = refused == expected || self.faults.is_halted();
            assert!(fits, "{}: {refused:?}", self.context);
            return;
        }
        let mut writer = match self.engine.resume(id, offset).await {
            Ok(writer) => writer,
            Err(e) => {
                assert!(self.faults.is_halted(), "{}: {e}", self.context);
                return;
            }
        };
        self.turns.resumed_within_a_part += usize::from(!offset.is_multiple_of(8 << 20));
        self.turns.resumed_after_a_crash += usize::from(self.uploads[upload].crashed);
        let start = usize::try_from(offset).unwrap();
        let held = held.map(|right| {
            let bytes = &self.uploads[upload].bytes;
            let until = bytes.len().min(start + 9 * MIB);
            let bytes = &bytes[start..until];
            let digest = digest_of(Algorithm::Sha1, if right { bytes } else { b"else" });
            writer.hold(digest).unwrap();
            Held {
                until: right.then_some(until),
            }
        });
        let writer = Writer {
            upload,
            end: writer,
            start,
            at: start,
            held,
            live: true,
            cut: false,
        };
        self.writers.insert(slot, writer);
    }

    async fn append(&mut self, slot: usize, bytes: usize, cut: bool) {
        let Some(writer) = self.writers.get_mut(&(slot % WRITERS)) else {
            return;
        };
        let upload = &mut self.uploads[writer.upload];
        // One that announced a digest sends what it announced and no more.
        let end = writer.held.and_then(|held| held.until);
        let end = end.unwrap_or(upload.bytes.len());
        let to = end.min(writer.at + bytes);
        let chunk = upload.bytes.slice(writer.at..to);
        if writer.live {
            upload.sent = upload.sent.max(to as u64);
        }
        if cut {
            let mut write = Box::pin(writer.end.write(chunk));
            // A write that needs to wait for nothing is over before it can be left.
            let over = futures_util::poll!(&mut write).is_ready();
            drop(write);
            writer.cut |= !over;
            writer.at = to;
            return;
        }
        match writer.end.write(chunk).await {
            Ok(()) => {
                assert!(writer.live, "{}: it was replaced", self.context);
                writer.at = to;
            }
            Err(_) if self.faults.is_halted() => {}
            Err(e) if writer.live => {
                assert!(
                    writer.cut && e.kind() == ErrorKind::Invalid,
                    "{}: {e}",
                    self.context
                );
            }
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::Fenced, "{}", self.context);
                self.turns.fenced += 1;
            }
        }
    }

    async fn pause(&mut self, slot: usize) {
        let Some(writer) = self.writers.remove(&(slot % WRITERS)) else {
            return;
        };
        let paused = writer.end.pause().await;
        match paused {
            Ok(offset) => {
                assert!(writer.live, "{}: it was replaced", self.context);
                assert!(
                    offset == writer.at as u64 || writer.cut,
                    "{}: {offset} of {}",
                    self.context,
                    writer.at
                );
                let right = writer.held.is_none_or(|held| held.until == Some(writer.at));
                assert!(right, "{}: another digest", self.context);
                self.told(writer.upload, offset);
            }
            Err(_) if self.faults.is_halted() => {}
            Err(e) if e.kind() == ErrorKind::DigestMismatch => {
                let right = writer
                    .held
                    .is_some_and(|held| held.until == Some(writer.at));
                assert!(!right || writer.cut, "{}: the right digest", self.context);
                self.stands_at(writer.upload, writer.start).await;
                self.turns.discarded += 1;
            }
            Err(e) => {
                assert!(!writer.live, "{}: {e}", self.context);
                assert_eq!(e.kind(), ErrorKind::Fenced, "{}", self.context);
                self.turns.fenced += 1;
            }
        }
    }

    async fn drop_writer(&mut self, slot: usize) {
        let Some(writer) = self.writers.remove(&(slot % WRITERS)) else {
            return;
        };
        drop(writer.end);
        self.engine.settled().await;
        let right = writer.held.is_none_or(|held| held.until == Some(writer.at));
        if writer.live && !writer.cut && !self.faults.is_halted() {
            let offset = if right { writer.at } else { writer.start };
            self.stands_at(writer.upload, offset).await;
        }
    }

    async fn stands_at(&self, upload: usize, offset: usize) {
        let row = self.engine.peek(self.uploads[upload].id).await;
        if let Ok(Some(row)) = row {
            let is = (row.state, row.offset);
            assert_eq!(is, (UploadState::Open, offset as u64), "{}", self.context);
        }
    }

    async fn finish(&mut self, slot: usize) {
        let Some(writer) = self.writers.remove(&(slot % WRITERS)) else {
            return;
        };
        let finished = writer.end.finish().await;
        let upload = &self.uploads[writer.upload];
        let whole = writer.at > 0 && (!upload.declared || writer.at == upload.bytes.len());
        let right = writer.held.is_none_or(|held| held.until == Some(writer.at));
        match finished {
            Ok(published) => {
                let fits = writer.live && whole && right && !writer.cut;
                assert!(fits, "{}: published", self.context);
                self.is_sent(&published.blob, upload, writer.at).await;
                assert_eq!(published.file.is_some(), upload.named);
                self.turns.published += 1;
            }
            Err(_) if self.faults.is_halted() => {}
            Err(e) if !writer.live => {
                assert_eq!(e.kind(), ErrorKind::Fenced, "{}", self.context);
                self.turns.fenced += 1;
            }
            Err(e) => {
                let offset = if right { writer.at } else { writer.start };
                assert!(!whole || !right || writer.cut, "{}: {e}", self.context);
                self.engine.settled().await;
                if !writer.cut {
                    self.stands_at(writer.upload, offset).await;
                }
            }
        }
    }

    async fn is_sent(&self, blob: &BlobMeta, upload: &Upload, length: usize) {
        let expected = blake3::hash(&upload.bytes[..length]);
        assert_eq!(blob.blake3.0, *expected.as_bytes(), "{}", self.context);
        let found = self.bench.read_back_from(&self.store, blob).await;
        assert!(found == upload.bytes[..length], "{}", self.context);
    }

    async fn cancel(&mut self, upload: usize) {
        let id = self.uploads[upload].id;
        let before = self.bench.engine.peek(id).await.unwrap().unwrap();
        let cancelled = self.engine.cancel(id).await;
        if self.faults.is_halted() {
            return;
        }
        self.replace(upload);
        let ends = match before.state {
            UploadState::Open => true,
            UploadState::Done => !self.uploads[upload].named,
            _ => false,
        };
        assert_eq!(cancelled.unwrap(), ends, "{}", self.context);
        if ends {
            self.turns.cancelled += 1;
            let gone = self.bench.engine.head(id).await.unwrap_err().kind();
            assert_eq!(gone, ErrorKind::Gone, "{}", self.context);
        }
    }

    async fn pass(&mut self, hours: u8) {
        let clock = self.bench.rig.clock();
        clock.advance(Duration::from_hours(u64::from(hours)));
        let mut before = Vec::new();
        for upload in &self.uploads {
            before.push(self.bench.engine.peek(upload.id).await.unwrap().unwrap());
        }
        let swept = self.engine.sweep().await;
        assert!(swept.is_ok() || self.faults.is_halted(), "{}", self.context);
        let now = self.now();
        for (number, before) in before.into_iter().enumerate() {
            let upload = &self.uploads[number];
            let after = self.bench.engine.peek(upload.id).await.unwrap().unwrap();
            if after.state == before.state {
                continue;
            }
            let (idle, old) = (
                before.updated <= now.minus(Duration::from_hours(24)),
                upload.made <= now.minus(Duration::from_hours(7 * 24)),
            );
            let busy = self.writers.values().any(|w| w.live && w.upload == number);
            let fits = match before.state {
                UploadState::Open => (idle || old) && !busy,
                UploadState::Done => !upload.named,
                _ => false,
            };
            let (before, after) = (before.state, after.state);
            assert!(fits, "{}: {before:?} became {after:?}", self.context);
            self.turns.expired += 1;
        }
    }

    /// The process dies, and another begins where its rows and its durable bytes are.
    async fn crash(&mut self) {
        self.faults.halt_after(0);
        self.writers.clear();
        self.engine.settled().await;
        assert_eq!(self.engine.in_progress(), 0, "{}", self.context);
        assert_eq!(self.bench.pool.in_use_bytes(), 0, "{}", self.context);
        if self.loses_power {
            self.bench.memory.lose_power();
        }
        self.faults = Faults::new();
        self.armed = false;
        self.engine = engine(&self.bench, (&self.store, &self.faults), self.together);
        self.engine.recover().await.unwrap();
        for upload in &mut self.uploads {
            upload.crashed = true;
        }
    }

    /// What holds between any two steps, asked without replacing anyone.
    async fn check(&mut self) {
        for number in 0..self.uploads.len() {
            let upload = &self.uploads[number];
            let row = self.bench.engine.peek(upload.id).await.unwrap().unwrap();
            match row.state {
                UploadState::Open => self.told(number, row.offset),
                UploadState::Done if self.compared.contains(&number) => {}
                UploadState::Done => {
                    let length = usize::try_from(row.offset).unwrap();
                    assert!(upload.told <= row.offset, "{}", self.context);
                    assert!(!upload.declared || length == upload.bytes.len());
                    let blob = row.published.unwrap().blob;
                    let expected = blake3::hash(&upload.bytes[..length]);
                    assert_eq!(blob.blake3.0, *expected.as_bytes(), "{}", self.context);
                    self.compared.insert(number);
                }
                UploadState::Aborted => {}
                UploadState::Completing | UploadState::Lost => {
                    panic!("{}: {row:?}", self.context)
                }
            }
        }
    }

    async fn end(&mut self) {
        if self.armed {
            self.crash().await;
        }
        self.writers.clear();
        self.engine.settled().await;
        // Every upload that is still open can be brought to its end.
        for number in 0..self.uploads.len() {
            let Some(offset) = self.head(number).await else {
                continue;
            };
            let upload = &self.uploads[number];
            let mut writer = self.engine.resume(upload.id, offset).await.unwrap();
            let from = usize::try_from(offset).unwrap();
            writer.write(upload.bytes.slice(from..)).await.unwrap();
            let published = writer.finish().await.unwrap();
            self.is_sent(&published.blob, upload, LENGTH).await;
        }
        for upload in &self.uploads {
            self.engine.cancel(upload.id).await.unwrap();
        }
        self.engine.settled().await;
        let clock = self.bench.rig.clock();
        clock.advance(DOOMED_FOR + Duration::from_secs(1));
        self.engine.sweep().await.unwrap();
        let held: Vec<_> = self.bench.published().await.iter().map(|b| b.key).collect();
        let list = self.store.list.as_ref().unwrap();
        assert_eq!(list.page(None, 1000).await.unwrap(), held);
        assert_eq!(self.bench.pool.in_use_bytes(), 0);
        assert_eq!(self.engine.in_progress(), 0);
    }
}

fn engine(bench: &Bench, (store, faults): (&Store, &Faults), together: bool) -> UploadEngine {
    let ledger = bench.failing_ledger(faults);
    let store = faulty::wrap(store.clone(), faults);
    bench.limited(ledger, store, |limits| {
        if !together {
            return limits;
        }
        UploadLimits {
            commit_bytes: 16 << 20,
            lanes: 1,
            ..limits
        }
    })
}

fn digest_of(algorithm: Algorithm, bytes: &[u8]) -> Digest {
    let mut hasher = DigestHasher::new(algorithm);
    hasher.update(bytes);
    hasher.finish()
}

fn step() -> impl Strategy<Value = Step> {
    let upload = || 0..UPLOADS;
    let writer = || 0..WRITERS;
    let bytes = || {
        prop_oneof![
            1 => 0..5_usize,
            2 => 1..MIB,
            3 => MIB..10 * MIB,
            1 => Just(LENGTH),
        ]
    };
    let held = prop_oneof![4 => Just(None), 1 => any::<bool>().prop_map(Some)];
    prop_oneof![
        2 => (any::<bool>(), any::<bool>())
            .prop_map(|(named, declared)| Step::Create { named, declared }),
        8 => (upload(), writer(), proptest::bool::weighted(0.1), held).prop_map(
            |(upload, writer, wrong, held)| Step::Resume { upload, writer, wrong, held }
        ),
        10 => (writer(), bytes()).prop_map(|(writer, bytes)| Step::Append { writer, bytes }),
        1 => (writer(), bytes()).prop_map(|(writer, bytes)| Step::Cut { writer, bytes }),
        4 => writer().prop_map(|writer| Step::Pause { writer }),
        3 => writer().prop_map(|writer| Step::Drop { writer }),
        3 => writer().prop_map(|writer| Step::Finish { writer }),
        2 => (upload(), writer())
            .prop_map(|(upload, writer)| Step::Deliver { upload, writer }),
        2 => upload().prop_map(|upload| Step::Head { upload }),
        1 => upload().prop_map(|upload| Step::Cancel { upload }),
        1 => (1..40_u8).prop_map(|hours| Step::Pass { hours }),
        1 => Just(Step::Crash),
        2 => (0..30_usize).prop_map(|calls| Step::CrashAfter { calls }),
    ]
}

fn runner(cases: u32) -> TestRunner {
    TestRunner::new(Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let create = Step::Create {
        named: true,
        declared: true,
    };
    proptest::collection::vec(step(), 1..60).prop_map(move |mut steps| {
        steps.insert(0, create);
        steps
    })
}

#[test]
fn any_history_in_memory_keeps_what_was_told() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    let all = RefCell::new(Turns::default());
    let result = runner(200).run(&(steps(), any::<bool>()), |(steps, together)| {
        let one = runtime.block_on(async { World::in_memory(together).await.run(&steps).await });
        let mut all = all.borrow_mut();
        all.published += one.published;
        all.resumed_within_a_part += one.resumed_within_a_part;
        all.fenced += one.fenced;
        all.discarded += one.discarded;
        all.expired += one.expired;
        all.cancelled += one.cancelled;
        all.crashed_within_a_step += one.crashed_within_a_step;
        all.resumed_after_a_crash += one.resumed_after_a_crash;
        Ok(())
    });
    result.unwrap();
    let all = all.into_inner();
    let Turns {
        published,
        resumed_within_a_part,
        fenced,
        discarded,
        expired,
        cancelled,
        crashed_within_a_step,
        resumed_after_a_crash,
    } = all;
    let turns = [
        published,
        resumed_within_a_part,
        fenced,
        discarded,
        expired,
        cancelled,
        crashed_within_a_step,
        resumed_after_a_crash,
    ];
    assert!(turns.iter().all(|count| *count > 0), "{all:?}");
}

#[test]
fn any_history_on_disk_keeps_what_was_told() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let result = runner(16).run(&(steps(), any::<bool>()), |(steps, together)| {
        let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        runtime.block_on(async {
            let store = local::open(home.path()).await.unwrap();
            let bench = Bench::on(Sql::open().await).await;
            let world = World::new(bench, (store, false), together);
            world.run(&steps).await
        });
        Ok(())
    });
    result.unwrap();
}
