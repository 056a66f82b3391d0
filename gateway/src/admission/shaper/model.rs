//! Who of many may move bytes next: deficit round robin over tenants, behind rates of their own. No clock and no I/O; times
//! are nanoseconds since any moment.
//!
//! An ask first waits until the rates that hold for it have room (each keeps one number: when it has), then, where the
//! node has a rate, in its tenant's line. Lines are served in turn, a quantum each. A tenant that asks again while its
//! turn is not used up goes on with it, or who asks for little at a time would get little.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::hash::Hash;

/// What a tenant may move in its turn.
pub(super) const QUANTUM: u64 = 64 << 10;
/// A second, in nanoseconds.
pub(super) const SECOND: u64 = 1_000_000_000;
/// How much of a pause is made up for.
const BURST: u64 = SECOND / 10;
/// Entries that nobody looks for before so many are there.
const FEW: usize = 1024;

/// One who asks.
pub(super) trait Ticket {
    /// Whether it still does.
    fn is_wanted(&self) -> bool;
}

/// All who wait, and what they wait for.
#[derive(Debug)]
pub(super) struct Model<K, T> {
    node: Line,
    /// Bytes in a second of each rate; 0 is no limit.
    rates: Vec<u64>,
    lines: HashMap<(usize, K), Line>,
    /// Those whose rates have no room yet, by when they have.
    held: BinaryHeap<Reverse<Held<K, T>>>,
    tenants: HashMap<K, Tenant<T>>,
    /// Tenants with a line, the next one first.
    ring: VecDeque<K>,
    /// Bytes that passed.
    passed: u64,
    asked: u64,
    sweep_at: usize,
}

/// A rate, as when it has room next.
#[derive(Debug, Clone, Copy, Default)]
struct Line {
    rate: u64,
    free_at: u64,
}

impl Line {
    fn has_room(self, now: u64) -> bool {
        self.rate == 0 || self.free_at <= now
    }

    /// Takes `bytes`; when they may move.
    fn take(&mut self, now: u64, bytes: u64) -> u64 {
        if self.rate == 0 {
            return now;
        }
        let begin = self.free_at.max(now.saturating_sub(BURST));
        let time = u128::from(bytes) * u128::from(SECOND) / u128::from(self.rate);
        self.free_at = begin.saturating_add(u64::try_from(time).unwrap_or(u64::MAX));
        begin
    }
}

#[derive(Debug)]
struct Ask<T> {
    bytes: u64,
    ticket: T,
}

#[derive(Debug)]
struct Held<K, T> {
    ready: u64,
    order: u64,
    tenant: K,
    ask: Ask<T>,
}

impl<K, T> Held<K, T> {
    fn rank(&self) -> (u64, u64) {
        (self.ready, self.order)
    }
}

impl<K, T> PartialEq for Held<K, T> {
    fn eq(&self, other: &Self) -> bool {
        self.rank() == other.rank()
    }
}

impl<K, T> Eq for Held<K, T> {}

impl<K, T> PartialOrd for Held<K, T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<K, T> Ord for Held<K, T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.rank().cmp(&other.rank())
    }
}

#[derive(Debug)]
struct Tenant<T> {
    asks: VecDeque<Ask<T>>,
    /// What is left of its turn.
    deficit: u64,
    /// Whether it is its turn.
    visited: bool,
    /// What had passed when its line got empty.
    left_at: u64,
}

impl<K: Eq + Hash + Clone, T: Ticket> Model<K, T> {
    /// With a rate of the node, and those that asks may name by their place here; 0 is no limit.
    pub(super) fn new(node: u64, rates: Vec<u64>) -> Self {
        Self {
            node: Line {
                rate: node,
                free_at: 0,
            },
            rates,
            lines: HashMap::new(),
            held: BinaryHeap::new(),
            tenants: HashMap::new(),
            ring: VecDeque::new(),
            passed: 0,
            asked: 0,
            sweep_at: FEW,
        }
    }

    /// Asks to move bytes. Whether it may at once; else [`Self::advance`] gives the ticket back when it may.
    pub(super) fn ask(
        &mut self,
        now: u64,
        tenant: &K,
        rates: &[(usize, K)],
        bytes: u64,
        ticket: impl FnOnce() -> T,
    ) -> bool {
        self.release(now);
        self.sweep(now);
        let mut ready = now;
        for rate in rates {
            ready = ready.max(self.take(now, rate, bytes));
        }
        if ready <= now && self.ring.is_empty() && self.node.has_room(now) {
            self.pass(now, bytes);
            return true;
        }
        let ask = Ask {
            bytes,
            ticket: ticket(),
        };
        if ready <= now {
            self.stand_in_line(tenant.clone(), ask);
        } else {
            self.asked += 1;
            self.held.push(Reverse(Held {
                ready,
                order: self.asked,
                tenant: tenant.clone(),
                ask,
            }));
        }
        false
    }

    /// Gives back the tickets of all who may move their bytes by now.
    pub(super) fn advance(&mut self, now: u64, may: &mut Vec<T>) {
        self.release(now);
        while self.node.has_room(now)
            && let Some(key) = self.ring.front().cloned()
        {
            let Some(tenant) = self.tenants.get_mut(&key) else {
                self.ring.pop_front();
                continue;
            };
            if !std::mem::replace(&mut tenant.visited, true) {
                tenant.deficit += QUANTUM;
            }
            let next = tenant.asks.front();
            let Some(next) = next else {
                self.leave(&key);
                continue;
            };
            if !next.ticket.is_wanted() {
                tenant.asks.pop_front();
                continue;
            }
            if next.bytes > tenant.deficit {
                tenant.visited = false;
                self.ring.rotate_left(1);
                continue;
            }
            if let Some(ask) = tenant.asks.pop_front() {
                tenant.deficit -= ask.bytes;
                let is_last = tenant.asks.is_empty();
                self.pass(now, ask.bytes);
                may.push(ask.ticket);
                if is_last {
                    self.leave(&key);
                }
            }
        }
    }

    /// When somebody may move bytes next, if anybody waits.
    pub(super) fn next(&self) -> Option<u64> {
        let node = (!self.ring.is_empty()).then_some(match self.node.rate {
            0 => 0,
            _ => self.node.free_at,
        });
        let held = self.held.peek().map(|Reverse(held)| held.ready);
        match (node, held) {
            (Some(node), Some(held)) => Some(node.min(held)),
            (node, held) => node.or(held),
        }
    }

    /// The line of a rate for one key, at the rate that holds now.
    fn take(&mut self, now: u64, (place, key): &(usize, K), bytes: u64) -> u64 {
        let rate = self.rates.get(*place).copied().unwrap_or(0);
        if rate == 0 {
            return now;
        }
        let line = self.lines.entry((*place, key.clone())).or_default();
        line.rate = rate;
        line.take(now, bytes)
    }

    /// Lets those stand in their tenants' lines whose rates have room by now.
    fn release(&mut self, now: u64) {
        while self.held.peek().is_some_and(|held| held.0.ready <= now) {
            if let Some(Reverse(held)) = self.held.pop() {
                self.stand_in_line(held.tenant, held.ask);
            }
        }
    }

    fn stand_in_line(&mut self, key: K, ask: Ask<T>) {
        let round = (self.ring.len() as u64 + 1) * QUANTUM;
        let tenant = self.tenants.entry(key.clone()).or_insert_with(|| Tenant {
            asks: VecDeque::new(),
            deficit: 0,
            visited: false,
            left_at: self.passed,
        });
        let is_new = tenant.asks.is_empty();
        tenant.asks.push_back(ask);
        if !is_new {
            return;
        }
        // What a turn left is good until the others had theirs.
        if self.passed - tenant.left_at > round {
            tenant.deficit = 0;
        }
        let goes_on = tenant
            .asks
            .front()
            .is_some_and(|ask| ask.bytes <= tenant.deficit);
        tenant.visited = goes_on;
        if goes_on {
            self.ring.push_front(key);
        } else {
            self.ring.push_back(key);
        }
    }

    /// Takes a tenant whose line is empty, and who is first, out of the round.
    fn leave(&mut self, key: &K) {
        self.ring.pop_front();
        if let Some(tenant) = self.tenants.get_mut(key) {
            tenant.visited = false;
            tenant.deficit = tenant.deficit.min(QUANTUM);
            tenant.left_at = self.passed;
        }
    }

    fn pass(&mut self, now: u64, bytes: u64) {
        self.node.take(now, bytes);
        self.passed += bytes;
    }

    /// Forgets those who are as good as new, now and then: what is left are those who move bytes.
    fn sweep(&mut self, now: u64) {
        if self.lines.len() + self.tenants.len() < self.sweep_at {
            return;
        }
        self.lines
            .retain(|_, line| line.free_at > now.saturating_sub(BURST));
        let (round, passed) = ((self.ring.len() as u64 + 1) * QUANTUM, self.passed);
        self.tenants
            .retain(|_, tenant| !tenant.asks.is_empty() || passed - tenant.left_at <= round);
        self.sweep_at = FEW.max(2 * (self.lines.len() + self.tenants.len()));
    }

    #[cfg(test)]
    pub(super) fn known(&self) -> usize {
        self.lines.len() + self.tenants.len()
    }
}
