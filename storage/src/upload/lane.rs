//! SHA-256 of an upload on a second core, where one is idle.
//!
//! It costs as much as all else that an upload's bytes take, and waits for nobody: only its order is fixed. Full buffers
//! are shared with it while they are on their way to the disk, so that nothing is copied for it. Whoever comes when all
//! lanes are taken hashes by itself, as soon as its own lane has nothing left to do. A thread is asked for as long as
//! there is work, so that a slow client holds none.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::Instant;

use super::engine::Inner;
use super::stats::Stage;
use crate::digest::OrderHasher;
use crate::store::RunBytes;

/// Hashes one upload's runs in their order.
pub(super) struct Lane {
    engine: Arc<Inner>,
    line: Arc<Mutex<Line>>,
    places: Arc<Semaphore>,
}

/// What is to be done, and by whom.
struct Line {
    /// Absent while a thread has it, and for good when that failed.
    hasher: Option<OrderHasher>,
    /// Nothing, unless a thread has the hasher.
    waiting: VecDeque<Work>,
    failed: bool,
}

enum Work {
    Hash(RunBytes, OwnedSemaphorePermit),
    /// Tells what the hasher is behind all before.
    Tell(oneshot::Sender<OrderHasher>),
}

impl Lane {
    pub(super) fn new(engine: &Arc<Inner>, hasher: OrderHasher) -> Self {
        Self {
            engine: Arc::clone(engine),
            line: Arc::new(Mutex::new(Line {
                hasher: Some(hasher),
                waiting: VecDeque::new(),
                failed: false,
            })),
            places: Arc::new(Semaphore::new(WAITING_RUNS)),
        }
    }

    /// A place for one more run.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub(super) async fn place(&self) -> OwnedSemaphorePermit {
        let places = Arc::clone(&self.places);
        let place = places.acquire_owned().await;
        place.expect("the semaphore of places is never closed")
    }

    /// Hashes the run behind those before: here and now, unless a thread does.
    pub(super) fn hash(&self, run: &RunBytes, place: OwnedSemaphorePermit) {
        let mut line = lock(&self.line);
        let Some(mut hasher) = line.hasher.take() else {
            line.push(Work::Hash(run.clone(), place));
            return;
        };
        let lanes = Arc::clone(&self.engine.lanes);
        if run.as_ref().len() >= APART_AT_LEAST
            && let Ok(turn) = lanes.try_acquire_owned()
        {
            line.push(Work::Hash(run.clone(), place));
            drop(line);
            self.spawn(hasher, turn);
        } else {
            drop(line);
            update(&self.engine, &mut hasher, run);
            lock(&self.line).hasher = Some(hasher);
        }
    }

    /// Tells the hasher as it is behind all runs so far; nothing, if hashing failed.
    pub(super) fn ask(&self) -> oneshot::Receiver<OrderHasher> {
        let (told, asked) = oneshot::channel();
        let mut line = lock(&self.line);
        if let Some(hasher) = &line.hasher {
            // Whoever asked may have gone.
            let _gone = told.send(hasher.clone()).is_err();
        } else {
            line.push(Work::Tell(told));
        }
        drop(line);
        asked
    }

    fn spawn(&self, hasher: OrderHasher, turn: OwnedSemaphorePermit) {
        let mut worker = Worker {
            line: Arc::clone(&self.line),
            hasher: Some(hasher),
            _turn: turn,
        };
        let engine = Arc::clone(&self.engine);
        drop(tokio::task::spawn_blocking(move || worker.work(&engine)));
    }
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane")
            .field("free_places", &self.places.available_permits())
            .finish_non_exhaustive()
    }
}

impl Line {
    fn push(&mut self, work: Work) {
        if !self.failed {
            self.waiting.push_back(work);
        }
    }
}

/// Has the hasher until nothing is left to do.
struct Worker {
    line: Arc<Mutex<Line>>,
    hasher: Option<OrderHasher>,
    /// Held as long as a thread works.
    _turn: OwnedSemaphorePermit,
}

impl Worker {
    fn work(&mut self, engine: &Inner) {
        while let Some(work) = self.next() {
            let Some(hasher) = &mut self.hasher else {
                return;
            };
            match work {
                Work::Hash(run, _place) => update(engine, hasher, &run),
                Work::Tell(told) => {
                    let _gone = told.send(hasher.clone()).is_err();
                }
            }
        }
    }

    /// What is to be done next; gives the hasher back when that is nothing.
    fn next(&mut self) -> Option<Work> {
        let mut line = lock(&self.line);
        let work = line.waiting.pop_front();
        if work.is_none() {
            line.hasher = self.hasher.take();
        }
        work
    }
}

impl Drop for Worker {
    /// Whoever still has the hasher here did not come to its end: then nobody waits for what does not come.
    fn drop(&mut self) {
        if self.hasher.is_some() {
            let mut line = lock(&self.line);
            line.failed = true;
            line.waiting.clear();
        }
    }
}

/// States of all hashes at one place of an upload.
#[derive(Debug)]
pub(super) enum States {
    /// As they are stored.
    Known(Vec<u8>),
    /// The beginning of what is stored; the rest is told by the lane once it is there.
    Asked(Vec<u8>, oneshot::Receiver<OrderHasher>),
}

impl States {
    /// As they are stored; `None` when hashing failed.
    pub(super) async fn known(self) -> Option<Vec<u8>> {
        match self {
            Self::Known(states) => Some(states),
            Self::Asked(mut states, asked) => {
                asked.await.ok()?.put(&mut states);
                Some(states)
            }
        }
    }
}

fn update(engine: &Inner, hasher: &mut OrderHasher, run: &RunBytes) {
    let started = Instant::now();
    hasher.update(run.as_ref());
    engine.counters.spent(Stage::InOrder, started);
}

fn lock(line: &Mutex<Line>) -> MutexGuard<'_, Line> {
    // Each change is one step.
    line.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs that wait for their turn: the sender need not stop while the disk or this is a little behind, and each is a buffer.
const WAITING_RUNS: usize = 4;
/// A shorter run is hashed sooner than another thread wakes.
const APART_AT_LEAST: usize = 256 << 10;
