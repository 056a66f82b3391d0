//! What an unfinished upload holds, and the way of its bytes: copy, hash, hand over, seal.
//!
//! Every wait leaves all bytes taken so far in their place, so that a call may be cut anywhere and the
//! upload can still pause at the last byte that it took.

mod yielding;

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::committer::{Committer, PartHashes, Shared};
use super::engine::{Inner, Stored};
use super::lane::{Lane, States};
use super::part::PartAssembler;
use super::pressure::Holding;
use super::registry::InProgress;
use super::state::{Refusal, Step, buffers_for};
use super::stats::{Counters, Stage, count};
use crate::blob::UploadId;
use crate::buffer::Reservation;
use crate::digest::{Algorithm, ContentHasher, Digest, DigestHasher};
use crate::error::{Error, ErrorKind, Result, chain};
use crate::metadata::uploads::{Advance, Completion, Keep, Published};
use crate::store::{Intake, PartIndex, Receipt, Run, UploadSink};

/// Everything that an unfinished upload holds.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) engine: Arc<Inner>,
    stored: Stored,
    state: Shared,
    /// Where this writer began.
    start: u64,
    assembler: PartAssembler,
    /// Whether it ends what the same sender left open under the same name.
    supersedes: bool,
    hasher: ContentHasher,
    /// Whether what needs its bytes in order is hashed by the run, perhaps on another core, and not with the rest.
    by_run: bool,
    /// Who does so, from the first run on; the half of `hasher` stays behind meanwhile.
    lane: Option<Lane>,
    /// Values of the current part's finished blocks.
    values: Vec<[u8; 32]>,
    expected: Vec<Digest>,
    /// What this writer's bytes alone are hashed for, to be compared before any of them is committed.
    held: Option<Held>,
    /// Absent while this upload gives way to others.
    sink: Option<Box<dyn UploadSink>>,
    /// The rest of what is reserved for the current part, where the store holds whole parts.
    memory: Option<Reservation>,
    /// While memory for a part is held.
    holding: Option<Holding>,
    /// When it was given back for others.
    gave_way: Option<Instant>,
    /// When the current buffer was taken.
    held_since: Instant,
    /// When what came was last made durable, or the writer began.
    stepped: Instant,
    /// When the last step was one that time brought.
    tail_stepped: Option<Instant>,
    /// Runs on their way to the store that no seal waits for yet.
    runs: Runs,
    /// Steps whose bytes the store has: parts that are whole wait for others, to be made durable with them.
    gathered: Vec<(Step, PartHashes)>,
    /// How many bytes of them wait for one another; 0 where each part is made durable by itself.
    gathers: u64,
    /// Steps that wait for their place with the committer.
    sealing: Option<Sealing>,
    /// Whether all came: the steps that reach the end are committed with the end.
    is_ending: bool,
    committer: Committer,
    /// The committed offset.
    committed: watch::Receiver<u64>,
    health: Health,
    taken_over: CancellationToken,
    in_progress: InProgress,
}

type Runs = FuturesUnordered<BoxFuture<'static, Result<()>>>;

/// What the next call may count on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Health {
    /// Everything is in its place.
    Whole,
    /// A call was cut: what it did not take yet is missing.
    Cut,
    /// The store or the rows failed, or a digest differed: nothing more is committed.
    Failed,
}

/// Bytes that are committed only once their digest was compared.
#[derive(Debug)]
struct Held {
    /// Absent until it is told.
    expected: Option<Digest>,
    /// One for each algorithm that it may come by.
    hashers: Vec<(Algorithm, DigestHasher)>,
}

/// Steps whose bytes are with the store and that were not given to the committer yet.
struct Sealing {
    steps: Vec<(Step, PartHashes)>,
    is_last: bool,
    runs: Runs,
    sealed: BoxFuture<'static, Result<Receipt>>,
    since: Instant,
}

impl std::fmt::Debug for Sealing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let steps: Vec<_> = self.steps.iter().map(|(step, _)| step).collect();
        f.debug_tuple("Sealing").field(&steps).finish()
    }
}

/// What is left of an upload that nothing is on its way of.
struct Quiet {
    engine: Arc<Inner>,
    stored: Stored,
    sink: Option<Box<dyn UploadSink>>,
    unsure: bool,
    in_progress: InProgress,
}

/// Where a writer begins.
#[derive(Debug)]
pub(super) struct Start {
    pub(super) state: Shared,
    pub(super) offset: u64,
    pub(super) hasher: ContentHasher,
    /// Values of the finished blocks of the part that holds `offset`.
    pub(super) values: Vec<[u8; 32]>,
    pub(super) expected: Vec<Digest>,
    /// Memory for the rest of the part that holds `offset`, where the store holds whole parts.
    pub(super) memory: Option<Reservation>,
}

impl Active {
    /// Called within a runtime, which also runs what happens in the background.
    pub(super) fn new(
        engine: Arc<Inner>,
        stored: Stored,
        sink: Box<dyn UploadSink>,
        start: Start,
        progress: watch::Sender<u64>,
        taken_over: CancellationToken,
        in_progress: InProgress,
    ) -> Self {
        let Start {
            state,
            offset,
            hasher,
            values,
            expected,
            memory,
        } = start;
        let committed = progress.subscribe();
        let in_place = stored.store.intake == Intake::InPlace;
        let gathers = if in_place {
            engine.options.limits.commit_bytes
        } else {
            0
        };
        let by_run = in_place && engine.options.limits.lanes > 0;
        let mut active = Self {
            committer: Committer::start(
                &engine,
                stored.fence,
                state.clone(),
                progress,
                &Handle::current(),
            ),
            engine,
            stored,
            state,
            start: offset,
            assembler: PartAssembler::at(offset),
            by_run,
            lane: None,
            hasher,
            values,
            expected,
            held: None,
            supersedes: false,
            sink: Some(sink),
            memory,
            holding: None,
            gave_way: None,
            committed,
            held_since: Instant::now(),
            stepped: Instant::now(),
            tail_stepped: None,
            runs: FuturesUnordered::new(),
            gathered: Vec::new(),
            gathers,
            sealing: None,
            is_ending: false,
            health: Health::Whole,
            taken_over,
            in_progress,
        };
        active.hold_memory();
        active
    }

    /// Refuses a call on an upload that was cut within a write or failed.
    pub(super) fn assert_whole(&self, op: &'static str) -> Result<()> {
        match self.health {
            Health::Whole => Ok(()),
            Health::Cut | Health::Failed => Err(ended(op, self.stored.fence.id)),
        }
    }

    pub(super) fn expect(&mut self, digest: Digest) -> Result<()> {
        self.want(digest.algorithm())?;
        self.expected.push(digest);
        Ok(())
    }

    pub(super) fn want(&mut self, algorithm: Algorithm) -> Result<()> {
        // Asked of what was received: hashing may trail it by less than a buffer.
        let late = self.state.lock().received() > 0 && !self.hasher.has(algorithm);
        if late || !self.hasher.want(algorithm) {
            let error = Error::new(ErrorKind::Invalid, "upload.expect", algorithm.name());
            return Err(error.with_source("this digest must be declared before the first byte"));
        }
        Ok(())
    }

    pub(super) fn supersede(&mut self) {
        self.supersedes = true;
        self.committer.supersede();
    }

    pub(super) fn hold(
        &mut self,
        algorithms: &[Algorithm],
        expected: Option<Digest>,
    ) -> Result<()> {
        let first = self.held.is_none() && self.state.lock().received() == self.start;
        if !first || !self.committer.hold() {
            let error = Error::new(ErrorKind::Invalid, "upload.hold", self.stored.subject());
            return Err(error.with_source("one digest, before the first byte"));
        }
        let hashers = algorithms.iter().map(|a| (*a, DigestHasher::new(*a)));
        self.held = Some(Held {
            expected,
            hashers: hashers.collect(),
        });
        Ok(())
    }

    /// Whether what came counts only once its digest was compared.
    pub(super) fn holds(&self) -> bool {
        self.held.is_some()
    }

    pub(super) fn tell(&mut self, digest: Digest) -> Result<()> {
        let algorithm = digest.algorithm();
        let held = self.held.as_mut().filter(|held| {
            held.expected.is_none() && held.hashers.iter().any(|(a, _)| *a == algorithm)
        });
        let held = held.ok_or_else(|| {
            Error::new(ErrorKind::Invalid, "upload.tell", algorithm.name())
                .with_source("nothing is held for a digest by that algorithm")
        })?;
        held.expected = Some(digest);
        Ok(())
    }

    /// Compares what is held, and lets it be committed.
    ///
    /// # Cancel safety
    /// Dropping the future leaves it held.
    pub(super) async fn release(&mut self) -> Result<()> {
        self.hash(0);
        let Some(held) = &self.held else {
            return Ok(());
        };
        if let Err(why) = held.compare() {
            self.committer.stop();
            self.health = Health::Failed;
            let kind = ErrorKind::DigestMismatch;
            return Err(Error::new(kind, "upload.release", self.stored.subject()).with_source(why));
        }
        if let Ok(room) = self.committer.room().await {
            room.release();
            self.held = None;
            return Ok(());
        }
        Err(self.failure().await)
    }

    pub(super) async fn write(&mut self, chunk: Bytes) -> Result<()> {
        let received = self.state.lock().receive(chunk.len() as u64);
        received.map_err(|refusal| refusal.into_error("upload.write", self.stored.subject()))?;
        count(&self.engine.counters.bytes_received, chunk.len() as u64);
        self.health = Health::Cut;
        let taken = self.take(chunk).await;
        self.judge(&taken);
        taken
    }

    pub(super) async fn give_memory_back(&mut self) -> Result<()> {
        self.health = Health::Cut;
        let given = self.hand_back().await;
        self.judge(&given);
        given
    }

    async fn hand_back(&mut self) -> Result<()> {
        if self.stored.store.intake == Intake::ByPart {
            return self.give_way_if_asked().await;
        }
        self.hash(0);
        match self.tail_stepped {
            // A client that trickles costs no more commits than one that is slow.
            Some(last) if last.elapsed() < self.engine.options.limits.tail_commit => {
                self.hand_over().await
            }
            _ => self.commit_tail().await,
        }
    }

    fn judge<T>(&mut self, outcome: &Result<T>) {
        self.health = match outcome {
            Ok(_) => Health::Whole,
            Err(_) => Health::Failed,
        };
    }

    async fn take(&mut self, mut chunk: Bytes) -> Result<()> {
        self.come_back().await?;
        while !chunk.is_empty() {
            if self.keep(&mut chunk).await? {
                continue;
            }
            if self.assembler.wants_buffer() {
                self.room().await?;
            }
            self.push(&mut chunk);
            if self.assembler.is_full() {
                self.hand_over().await?;
                // A MiB took a millisecond of hashing; others want this thread, too.
                tokio::task::yield_now().await;
            }
        }
        if self.stored.store.intake == Intake::InPlace
            && self.stepped.elapsed() >= self.engine.options.limits.tail_commit
        {
            return self.commit_tail().await;
        }
        if self.is_slow_while_others_wait() {
            self.hash(0);
            self.hand_over().await?;
        }
        self.give_way_if_asked().await
    }

    /// Hands over what came and lets it be committed, however little of its part that is: a client that is
    /// slow or has gone silent would have to send it again, after a takeover or a kill. Bytes that wait for
    /// a digest wait on. Not for stores that take parts: each time they would be sent all of it again.
    async fn commit_tail(&mut self) -> Result<()> {
        self.hash(0);
        self.hand_over().await?;
        if self.held.is_some() || self.stored.keep == Keep::No {
            return Ok(());
        }
        let step = self.state.lock().step_so_far();
        if step.is_some() {
            self.tail_stepped = Some(Instant::now());
        }
        self.gather(step);
        self.seal();
        self.settle().await
    }

    /// One that needs longer than this for a MiB may not keep it from others.
    fn is_slow_while_others_wait(&self) -> bool {
        self.stored.store.intake == Intake::InPlace
            && self.assembler.holds_bytes()
            && self.engine.options.pool.waiting() > 0
            && self.held_since.elapsed() >= SLOW
    }

    /// Keeps what of the chunk lies within the current part as it is, where the store holds whole parts and
    /// there is memory for what it may pin: no byte of it is copied on its way. False where it is to be copied.
    async fn keep(&mut self, chunk: &mut Bytes) -> Result<bool> {
        if self.stored.store.intake == Intake::InPlace || chunk.len() < KEPT_AT_LEAST {
            return Ok(false);
        }
        let at = self.assembler.end();
        let to = self.state.lock().part_end(at);
        let within = usize::try_from(to - at).map_or(chunk.len(), |left| left.min(chunk.len()));
        if within < KEPT_AT_LEAST {
            return Ok(false);
        }
        self.reserved().await?;
        let piece = chunk.slice(..within);
        let rest = buffers_for(at + within as u64, to);
        let memory = self.memory.as_mut();
        let Some(frame) = memory.and_then(|memory| memory.keep(&piece, rest)) else {
            return Ok(false);
        };
        if self.assembler.holds_bytes() {
            self.hash(0);
            self.hand_over().await?;
        }
        chunk.advance(within);
        hash_into(
            (&mut self.hasher, true),
            &mut self.held,
            &piece,
            &self.engine.counters,
        );
        if let Some(holding) = &self.holding {
            holding.received(within);
        }
        let run = self.assembler.frame(frame);
        self.give(run);
        self.settle().await?;
        tokio::task::yield_now().await;
        Ok(true)
    }

    /// Waits for the memory of the next part before any of its bytes are asked for, where it is short: while many
    /// wait, none of them holds more than its connection.
    pub(super) async fn prepare(&mut self) -> Result<()> {
        if self.stored.store.intake == Intake::InPlace
            || self.sink.is_none()
            || self.memory.is_some()
        {
            return Ok(());
        }
        let at = self.assembler.end();
        let buffers = buffers_for(at, self.state.lock().part_end(at));
        if buffers == 0 || !self.engine.options.pool.lacks(buffers) {
            return Ok(());
        }
        let reserved = self.reserved().await;
        self.judge(&reserved);
        reserved
    }

    /// Sees to it that there is memory for all that the current part still lacks. A part is held until it is
    /// whole, so its memory is taken at once or not at all: with a share each, several uploads would wait for
    /// one another for ever.
    async fn reserved(&mut self) -> Result<()> {
        if self.memory.is_some() {
            return Ok(());
        }
        let at = self.assembler.end();
        let to = self.state.lock().part_end(at);
        let pool = self.engine.options.pool.clone();
        let engine = Arc::clone(&self.engine);
        let memory = engine.memory(pool.reserve_for_frames(buffers_for(at, to)));
        self.memory = Some(self.meanwhile(memory).await?);
        self.hold_memory();
        Ok(())
    }

    /// Gets a buffer.
    async fn room(&mut self) -> Result<()> {
        let buffer = if self.stored.store.intake == Intake::InPlace {
            let pool = self.engine.options.pool.clone();
            self.meanwhile(pool.take()).await?
        } else {
            self.reserved().await?;
            let taken = self.memory.as_mut().and_then(Reservation::take);
            taken.ok_or_else(|| {
                let subject = self.stored.subject();
                let error = Error::new(ErrorKind::Internal, "upload.write", subject);
                error.with_source("a part is longer than its memory")
            })?
        };
        self.assembler.give(buffer);
        self.held_since = Instant::now();
        Ok(())
    }

    /// Waits for memory, watching meanwhile whether the runs that hold some fare well.
    async fn meanwhile<T>(&mut self, memory: impl Future<Output = T>) -> Result<T> {
        let started = Instant::now();
        // Pinned outside the loop: a new future would go to the end of the queue.
        let mut memory = std::pin::pin!(memory);
        loop {
            tokio::select! {
                biased;
                taken = &mut memory => {
                    self.engine.counters.spent(Stage::Room, started);
                    return Ok(taken);
                }
                Some(written) = self.runs.next(), if !self.runs.is_empty() => written?,
            }
        }
    }

    /// Copies what fits of the chunk into the current buffer, and hashes it while it is hot.
    fn push(&mut self, chunk: &mut Bytes) {
        let counters = &self.engine.counters;
        let started = Instant::now();
        let copied = self.assembler.push(chunk);
        counters.spent(Stage::Copy, started);
        count(&self.stored.copied, copied as u64);
        if let Some(holding) = &self.holding {
            holding.received(copied);
        }
        chunk.advance(copied);
        self.hash(HASHED_BY);
    }

    fn hash(&mut self, step: usize) {
        if let Some(bytes) = self.assembler.unhashed(step) {
            let in_order = !self.by_run;
            hash_into(
                (&mut self.hasher, in_order),
                &mut self.held,
                bytes,
                &self.engine.counters,
            );
        }
    }

    /// A place with the lane for the run that comes next, if it is hashed there.
    async fn place(&mut self) -> Option<OwnedSemaphorePermit> {
        if !self.by_run || !self.assembler.holds_bytes() || !self.hasher.needs_order() {
            return None;
        }
        let (engine, hasher) = (&self.engine, &self.hasher);
        let lane = self
            .lane
            .get_or_insert_with(|| Lane::new(engine, hasher.order().clone()));
        Some(lane.place().await)
    }

    /// Has all that came so far hashed here; what comes is hashed with the rest from now on.
    async fn leave_lane(&mut self) -> Result<()> {
        if !self.by_run {
            return Ok(());
        }
        if let Some(lane) = &self.lane {
            let hashed = lane.ask().await.map_err(|failed| {
                Error::new(ErrorKind::Internal, "upload.hash", self.stored.subject())
                    .with_source(failed)
            })?;
            self.hasher.set_order(hashed);
            self.lane = None;
        }
        self.by_run = false;
        let started = Instant::now();
        self.hasher.update_in_order(self.assembler.held());
        self.engine.counters.spent(Stage::InOrder, started);
        Ok(())
    }

    /// Gives the current buffer to the store, and its part to the committer when that was the part's
    /// last. Everything in the buffer is hashed.
    async fn hand_over(&mut self) -> Result<()> {
        let started = Instant::now();
        while self.runs.len() >= RUNS_IN_FLIGHT {
            if let Some(written) = self.runs.next().await {
                written?;
            }
        }
        let place = self.place().await;
        self.engine.counters.spent(Stage::Room, started);
        if let Some(run) = self.assembler.rest() {
            if let (Some(lane), Some(place)) = (&self.lane, place) {
                lane.hash(&run.bytes, place);
            }
            self.give(run);
        }
        self.settle().await
    }

    fn give(&mut self, run: Run) {
        let to = run.end();
        let written = self.sink().write(run);
        self.runs.push(written);
        let step = self.state.lock().hand_over(to);
        self.gather(step);
    }

    fn sink(&mut self) -> &mut Box<dyn UploadSink> {
        self.sink
            .as_mut()
            .expect("it came back before it takes anything")
    }

    /// Notes that all of a step is with the store.
    fn gather(&mut self, step: Option<Step>) {
        let Some(step) = step else { return };
        self.values.extend(self.hasher.take_values());
        let values = if self.state.lock().ends_part(step.to) {
            // The next part's memory is taken at once or not at all.
            self.memory = None;
            self.holding = None;
            std::mem::take(&mut self.values)
        } else {
            let open = self.hasher.open_value();
            self.values.iter().copied().chain(open).collect()
        };
        let states = match &self.lane {
            Some(lane) => States::Asked(self.hasher.tree_states(), lane.ask()),
            None => States::Known(self.hasher.states()),
        };
        let hashes = PartHashes { values, states };
        self.gathered.push((step, hashes));
    }

    /// Whether what was gathered is to become durable without waiting for more: a flush and a change of rows for each
    /// part would cost a fast sender more than they keep. One such batch is under way at a time; while a disk is slow to
    /// flush it, the next may grow to twice its size, and then has to wait, so that a kill costs four times that at most.
    fn is_due(&self) -> bool {
        let (Some((first, _)), Some((last, _))) = (self.gathered.first(), self.gathered.last())
        else {
            return false;
        };
        let within = self.engine.options.limits.commit_within;
        let bytes = last.to - first.from;
        bytes >= self.gathers.saturating_mul(2)
            || ((bytes >= self.gathers || self.stepped.elapsed() >= within)
                && self.committer.is_idle())
    }

    /// Lets what was gathered become durable and be committed, in the background.
    fn seal(&mut self) {
        let Some((Step { part, to, .. }, _)) = self.gathered.last() else {
            return;
        };
        let (part, is_last) = (*part, self.is_ending && *to == self.state.lock().received());
        debug_assert!(self.sealing.is_none(), "the last ones found their place");
        let since = Instant::now();
        self.stepped = since;
        let sealed = self.sink().seal(PartIndex(part));
        self.sealing = Some(Sealing {
            steps: std::mem::take(&mut self.gathered),
            is_last,
            runs: std::mem::take(&mut self.runs),
            sealed,
            since,
        });
    }

    /// Gives the committer what waits for it, once it has room.
    async fn settle(&mut self) -> Result<()> {
        if self.sealing.is_none() && self.is_due() {
            if self.gathers > 0 {
                let started = Instant::now();
                self.committer.idle().await;
                self.engine.counters.spent(Stage::Room, started);
            }
            self.seal();
        }
        if self.sealing.is_some() {
            let started = Instant::now();
            let room = self.committer.room().await;
            self.engine.counters.spent(Stage::Room, started);
            // Where there is none it stays, for whoever waits for what is on its way to the store.
            if let Ok(room) = room
                && let Some(sealing) = self.sealing.take()
            {
                let engine = Arc::clone(&self.engine);
                room.take((sealing.steps, sealing.is_last), {
                    let (mut runs, sealed, since) = (sealing.runs, sealing.sealed, sealing.since);
                    Box::pin(async move {
                        // To the last one: when this ends, nothing may be under way any more.
                        let mut all = Ok(());
                        while let Some(written) = runs.next().await {
                            all = all.and(written);
                        }
                        all?;
                        let receipt = sealed.await?;
                        engine.counters.spent(Stage::Seal, since);
                        Ok(receipt)
                    })
                });
            }
        }
        if self.committer.failed() {
            return Err(self.failure().await);
        }
        Ok(())
    }

    /// Makes all that was taken durable and commits it, the beginning of a part included.
    pub(super) async fn commit_received(&mut self) -> Result<()> {
        self.release().await?;
        if self.health != Health::Failed {
            let handed = self.hand_over_rest().await;
            if handed.is_err() {
                self.health = Health::Failed;
            }
            handed?;
        }
        // What was left to the end that failed is for whoever goes on to send again.
        self.committer.end().await.map(drop)
    }

    async fn hand_over_rest(&mut self) -> Result<()> {
        // A call that was cut may have left a step that found no place yet.
        self.settle().await?;
        self.hash(0);
        self.hand_over().await?;
        let step = self.state.lock().pause();
        self.gather(step);
        self.seal();
        self.settle().await
    }

    /// Everything up to C0: the last part is handed over, the digests are as declared, and all parts
    /// are durable and committed but the last ones, unless they were before.
    async fn make_durable(&mut self) -> Result<(Vec<Advance>, Completion)> {
        let ended = self.state.lock().end();
        let length =
            ended.map_err(|refusal| refusal.into_error("upload.finish", self.stored.subject()))?;
        self.health = Health::Failed;
        self.come_back().await?;
        self.is_ending = true;
        self.sink().ends_at(length);
        self.hash(0);
        self.leave_lane().await?;
        // On a copy: if the rows do not answer, the states at the last byte are needed again.
        let found = self.hasher.clone().finish();
        found.compare("upload.finish", &self.stored.subject(), &self.expected)?;
        self.hand_over().await?;
        // The last buffer was full, and perhaps its part was not.
        let step = self.state.lock().hand_over(length);
        self.gather(step);
        self.seal();
        self.settle().await?;
        // Nothing more comes in, and the end may take its time.
        self.memory = None;
        self.holding = None;
        let last = self.committer.end().await?;
        let completion = Completion {
            length,
            blake3: found.blake3,
            sha256: found.sha256,
        };
        Ok((last, completion))
    }

    /// Why the committer stopped.
    async fn failure(&mut self) -> Error {
        let stopped = self.committer.failure().await;
        stopped.unwrap_or_else(|| ended("upload.write", self.stored.fence.id))
    }

    /// Commits what arrived and lets go; returns the committed offset.
    pub(super) async fn pause(mut self: Box<Self>) -> Result<u64> {
        let paused = self.commit_received().await;
        let committed = self.state.lock().committed();
        self.leave().await;
        paused.map(|()| committed)
    }

    /// What becomes of an upload whose writer was dropped.
    pub(super) async fn close(mut self: Box<Self>) {
        if self.taken_over.is_cancelled() {
            return self.leave().await;
        }
        match self.stored.keep {
            Keep::No => self.abort().await,
            Keep::UntilIdle => {
                let committed = timeout(CLOSE_WITHIN, self.commit_received()).await;
                self.tell_late(committed);
                self.leave().await;
            }
        }
    }

    /// Whether [`Self::cede`] commits anything: not where parts are sent one by one, nor what goes with its writer.
    pub(super) fn cedes(&self) -> bool {
        self.stored.keep == Keep::UntilIdle && self.stored.store.intake == Intake::InPlace
    }

    /// Commits the whole parts that wait for others, and lets go, for a newer request that is about to raise the epoch.
    pub(super) async fn cede(mut self: Box<Self>) {
        let waits = !self.gathered.is_empty() || self.sealing.is_some();
        if waits || !self.committer.is_idle() {
            let committed = timeout(CLOSE_WITHIN, self.commit_gathered()).await;
            self.tell_late(committed);
        }
        self.leave().await;
    }

    async fn commit_gathered(&mut self) -> Result<()> {
        // Behind a run that failed no step is whole, and the failure was told already.
        if self.health != Health::Failed {
            // A call that was cut may have left a step that found no place yet.
            self.settle().await?;
            self.seal();
            self.settle().await?;
        }
        self.committer.end().await.map(drop)
    }

    /// Tells why something could not be committed while somebody waits for it.
    fn tell_late(&self, committed: std::result::Result<Result<()>, Elapsed>) {
        let id = self.stored.fence.id;
        match committed {
            Ok(Ok(())) => {}
            Ok(Err(e)) => tracing::debug!(upload = %id, error = chain(&e), "paused early"),
            Err(_elapsed) => tracing::warn!(upload = %id, "no time to commit the rest"),
        }
    }

    /// Lets go of the upload, once nothing of it is on its way to the store any more. What was never
    /// committed gives its room back, but only by a writer that still owns the upload.
    pub(super) async fn leave(self: Box<Self>) {
        let (state, taken_over) = (self.state.clone(), self.taken_over.clone());
        let Quiet {
            stored,
            sink,
            unsure,
            in_progress: _in_progress,
            ..
        } = self.quiet().await;
        let (committed, handed) = {
            let state = state.lock();
            (state.committed(), state.handed())
        };
        if unsure || taken_over.is_cancelled() || committed == handed {
            drop(sink);
        } else if let Some(sink) = sink
            && let Err(e) = sink.pause(committed).await
        {
            tracing::warn!(upload = %stored.fence.id, error = chain(&e), "room is not given back");
        }
    }

    /// Ends the upload without a trace, unless a newer writer owns it.
    pub(super) async fn abort(self: Box<Self>) {
        let Quiet {
            engine,
            stored,
            sink,
            in_progress: _in_progress,
            ..
        } = self.quiet().await;
        engine.give_up(&stored, sink).await;
    }

    /// Commits nothing more and waits for all that is under way.
    async fn quiet(self: Box<Self>) -> Quiet {
        let Self {
            engine,
            stored,
            assembler,
            sink,
            mut runs,
            sealing,
            lane,
            memory,
            holding,
            mut committer,
            in_progress,
            ..
        } = *self;
        drop((assembler, memory, holding));
        if let Some(lane) = lane {
            // It has the bytes of runs, too.
            let _hashed = lane.ask().await;
        }
        while let Some(_given_up) = runs.next().await {}
        if let Some(mut sealing) = sealing {
            while let Some(_given_up) = sealing.runs.next().await {}
        }
        committer.give_up().await;
        Quiet {
            engine,
            stored,
            sink,
            unsure: committer.is_unsure(),
            in_progress,
        }
    }

    pub(super) async fn finish(mut self: Box<Self>) -> Result<Published> {
        if let Err(e) = self.release().await {
            self.close().await;
            return Err(e);
        }
        match self.make_durable().await {
            Ok(ended) => {
                let Self {
                    engine,
                    stored,
                    sink,
                    supersedes,
                    in_progress: _in_progress,
                    ..
                } = *self;
                let sink = sink.ok_or_else(|| self::ended("upload.finish", stored.fence.id))?;
                let published = engine.complete_and_publish(&stored, sink, ended).await;
                if supersedes {
                    // What was cut just before this one began may have come to rest only now.
                    engine.supersede_or_log(stored.fence.id).await;
                }
                published
            }
            // C0: what differs from what was declared is nobody's any more.
            Err(e) if e.kind() == ErrorKind::DigestMismatch => {
                self.abort().await;
                Err(e)
            }
            Err(e) => {
                self.close().await;
                Err(e)
            }
        }
    }
}

impl Held {
    /// Why these bytes are not those that were told, if so.
    fn compare(&self) -> Result<(), String> {
        let Some(expected) = &self.expected else {
            return Err("its digest was not told".into());
        };
        let algorithm = expected.algorithm();
        let hasher = self.hashers.iter().find(|(a, _)| *a == algorithm);
        let found = hasher.map(|(_, hasher)| hasher.clone().finish());
        if found.as_ref() == Some(expected) {
            return Ok(());
        }
        let found = found.map_or_else(String::new, |found| found.to_hex());
        let (name, expected) = (algorithm.name(), expected.to_hex());
        Err(format!("{name} is {found}, not {expected}"))
    }
}

/// Hashes the next bytes of an upload; by the half that needs them in order only if so.
fn hash_into(
    (hasher, in_order): (&mut ContentHasher, bool),
    held: &mut Option<Held>,
    bytes: &[u8],
    counters: &Counters,
) {
    let started = Instant::now();
    hasher.update_tree(bytes);
    counters.spent(Stage::Blake3, started);
    let started = Instant::now();
    if in_order {
        hasher.update_in_order(bytes);
    }
    for (_, hasher) in held.iter_mut().flat_map(|held| &mut held.hashers) {
        hasher.update(bytes);
    }
    counters.spent(Stage::InOrder, started);
}

pub(super) fn ended(op: &'static str, id: UploadId) -> Error {
    Refusal::Ended.into_error(op, id.to_string())
}

/// Runs of one upload on their way to the store at once: enough that the disk never waits for a thread
/// to wake. More gained nothing on one disk (writes that extend a file take turns).
pub(super) const RUNS_IN_FLIGHT: usize = 4;
/// A buffer that is held for longer and not full goes to the store early when others wait: it costs one
/// small write through the page cache, where a hundred slow clients would otherwise hold the whole pool.
pub(super) const SLOW: Duration = Duration::from_secs(1);
/// Bytes are hashed up to a multiple of this: BLAKE3 does 3.1 GB/s by 8 KiB, 5 GB/s from here on, and
/// what was just copied is still in the second-level cache.
pub(super) const HASHED_BY: usize = 64 << 10;
/// Frames from here on are kept as they arrived; copying a smaller one costs less than a request of one more
/// segment.
const KEPT_AT_LEAST: usize = 64 << 10;
/// What a client sent before it was cut off is committed if that takes no longer.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);
