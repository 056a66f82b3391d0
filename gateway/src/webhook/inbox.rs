//! What requests and the work behind them share: room for bodies, news of what came, and counts.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// What became of deliveries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Became {
    /// Its sender was not believed.
    Refused,
    /// It was run before.
    Repeat,
    /// It is kept, to be run later.
    Queued,
    /// It was run.
    Done,
    /// Its run failed, and it may come again or is run again.
    Failed,
    /// Its run failed for the last time.
    GivenUp,
}

impl Became {
    /// As metrics write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Repeat => "repeat",
            Self::Queued => "queued",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::GivenUp => "given_up",
        }
    }
}

/// Plugin, hook, and what became of it.
type Counted = (String, String, Became);

/// Shared by all webhooks of a process.
#[derive(Debug)]
pub struct Inbox {
    bodies: Arc<Semaphore>,
    /// Told when something came that is run later.
    pub(super) news: Notify,
    counts: Mutex<BTreeMap<Counted, u64>>,
}

impl Inbox {
    /// One that holds the bodies of so many requests at once.
    pub fn new(at_once: usize) -> Self {
        Self {
            bodies: Arc::new(Semaphore::new(at_once)),
            news: Notify::new(),
            counts: Mutex::default(),
        }
    }

    /// Room for one body; `None` while there is none.
    pub fn room(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.bodies).try_acquire_owned().ok()
    }

    /// Tells that something is kept, to be run later.
    pub fn tell(&self) {
        self.news.notify_one();
    }

    /// Counts what became of a delivery for a hook that there is.
    pub fn count(&self, plugin: &str, hook: &str, became: Became) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let counted = (plugin.to_owned(), hook.to_owned(), became);
        *counts.entry(counted).or_default() += 1;
    }

    /// All counts.
    pub fn counted(&self) -> BTreeMap<Counted, u64> {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.clone()
    }
}
