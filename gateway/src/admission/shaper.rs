//! How many bytes move in a second for each, in one direction: who has had enough waits, and nobody is refused.
//!
//! A body has a [`Meter`] where a rate holds for it, and none otherwise. What it waits for is decided by the model, which
//! a task tells the time while anybody waits.

mod model;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use prometheus::IntCounter;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use self::model::{Model, QUANTUM, Ticket};
use super::rates::Key;
use crate::config::rates::Per;
use crate::route::Class;

/// Pieces in a second of a body that is slowed down: what moves is that even.
const PIECES: u64 = 20;
/// The smallest piece.
const SMALLEST_PIECE: u64 = 1 << 10;

/// For whom the bytes of a request move.
#[derive(Debug, Clone, Default)]
pub struct Mover {
    /// The address, unless it is a proxy's.
    pub address: Option<Key>,
    /// Who asks.
    pub principal: Option<Key>,
    /// The organization that it is asked of by one of its members.
    pub organization: Option<Key>,
    /// The policy that a plugin chose.
    pub rate: Option<String>,
}

/// A rate of a policy.
#[derive(Debug, Clone)]
pub struct Limit {
    /// Its policy's name, where it holds only for what a plugin chose it for.
    pub by_scripts: Option<String>,
    /// Who has it.
    pub per: Per,
    /// The requests that it holds for.
    pub classes: Vec<Class>,
    /// Bytes in a second; 0 is no limit.
    pub bytes: u64,
}

/// One direction.
#[derive(Debug)]
pub struct Shaper {
    /// Whether there is no rate at all.
    is_idle: bool,
    node: u64,
    limits: Vec<Limit>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    begun: Instant,
    state: Mutex<State>,
    /// Told when somebody waits for less than was known.
    sooner: Notify,
}

#[derive(Debug)]
struct State {
    model: Model<Key, Arc<Wait>>,
    /// Whether a task tells it the time.
    is_driven: bool,
}

/// One who waits.
#[derive(Debug, Default)]
struct Wait {
    may: AtomicBool,
    gone: AtomicBool,
    waker: AtomicWaker,
}

impl Ticket for Arc<Wait> {
    fn is_wanted(&self) -> bool {
        !self.gone.load(Ordering::Acquire)
    }
}

impl Shaper {
    /// With so many bytes in a second for all together, 0 for as many as come, and the rates of policies.
    pub fn new(node: u64, limits: Vec<Limit>) -> Self {
        let rates: Vec<u64> = limits.iter().map(|limit| limit.bytes).collect();
        Self {
            is_idle: node == 0 && rates.iter().all(|&bytes| bytes == 0),
            node,
            limits,
            shared: Arc::new(Shared {
                begun: Instant::now(),
                state: Mutex::new(State {
                    model: Model::new(node, rates),
                    is_driven: false,
                }),
                sooner: Notify::new(),
            }),
        }
    }

    /// Whether no body is measured.
    pub fn is_idle(&self) -> bool {
        self.is_idle
    }

    /// What measures a body; `None` where no rate holds for it. `waited` counts its waits.
    pub fn meter(
        &self,
        class: Class,
        mover: &Mover,
        waited: impl FnOnce() -> IntCounter,
    ) -> Option<Meter> {
        if self.is_idle {
            return None;
        }
        let mut rates = Vec::new();
        let mut tightest = self.node;
        let is_for = |limit: &&Limit| limit.classes.contains(&class);
        let is_chosen =
            |limit: &Limit| limit.by_scripts.is_some() && limit.by_scripts == mover.rate;
        let mut limits = self.limits.iter();
        let chosen = limits.find(|limit| is_for(limit) && is_chosen(limit));
        for (place, limit) in self.limits.iter().enumerate() {
            let key = match limit.per {
                Per::Address => &mover.address,
                Per::Principal => &mover.principal,
                Per::Organization => &mover.organization,
            };
            let holds = match chosen {
                Some(chosen) if chosen.per == limit.per => is_chosen(limit),
                _ => limit.by_scripts.is_none(),
            };
            if let Some(key) = key
                .clone()
                .filter(|_| holds && limit.bytes > 0 && is_for(&limit))
            {
                rates.push((place, key));
                tightest = if tightest == 0 {
                    limit.bytes
                } else {
                    tightest.min(limit.bytes)
                };
            }
        }
        let Mover {
            address,
            principal,
            organization,
            ..
        } = mover.clone();
        let tenant = organization.or(principal).or(address)?;
        let piece = (tightest / PIECES).clamp(SMALLEST_PIECE, QUANTUM);
        (tightest > 0).then(|| Meter {
            shared: Arc::clone(&self.shared),
            tenant,
            rates,
            piece: usize::try_from(piece).unwrap_or(usize::MAX),
            wait: None,
            waited: waited(),
        })
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Tells the model the time until nobody waits.
    async fn drive(self: Arc<Self>) {
        let mut may = Vec::new();
        loop {
            let next = {
                let mut state = self.state();
                state.model.advance(self.now(), &mut may);
                let next = state.model.next();
                state.is_driven = next.is_some();
                next
            };
            for wait in may.drain(..) {
                wait.may.store(true, Ordering::Release);
                wait.waker.wake();
            }
            let Some(next) = next else { return };
            tokio::select! {
                () = sleep_until(self.begun + Duration::from_nanos(next)) => {}
                () = self.sooner.notified() => {}
            }
        }
    }
}

/// Measures the bytes of one body in one direction.
#[derive(Debug)]
pub struct Meter {
    shared: Arc<Shared>,
    tenant: Key,
    rates: Vec<(usize, Key)>,
    piece: usize,
    wait: Option<Arc<Wait>>,
    waited: IntCounter,
}

impl Meter {
    /// The most bytes that should move at once.
    pub fn piece(&self) -> usize {
        self.piece
    }

    /// Takes `bytes`, which may move once [`Self::poll_room`] is ready; or, of what has come already, after which nothing
    /// may until then.
    pub fn take(&mut self, bytes: usize) {
        let wait = Arc::new(Wait::default());
        let mut state = self.shared.state();
        let now = self.shared.now();
        let ticket = || Arc::clone(&wait);
        let (tenant, bytes) = (&self.tenant, bytes as u64);
        if state.model.ask(now, tenant, &self.rates, bytes, ticket) {
            return;
        }
        let is_driven = std::mem::replace(&mut state.is_driven, true);
        drop(state);
        if is_driven {
            self.shared.sooner.notify_one();
        } else {
            tokio::spawn(Arc::clone(&self.shared).drive());
        }
        self.waited.inc();
        self.wait = Some(wait);
    }

    /// Ready when nothing that was taken waits.
    pub fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(wait) = &self.wait {
            wait.waker.register(cx.waker());
            if !wait.may.load(Ordering::Acquire) {
                return Poll::Pending;
            }
            self.wait = None;
        }
        Poll::Ready(())
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if let Some(wait) = &self.wait {
            wait.gone.store(true, Ordering::Release);
        }
    }
}
