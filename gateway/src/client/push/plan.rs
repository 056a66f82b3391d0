//! Which parts of a push are held, on their way or missing, and what to do next. No I/O and no clock:
//! the driver tells what happened and asks for the next step until there is none.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// Parts beyond the committed ones that a gateway takes (its protocol of parts).
pub const WINDOW_PARTS: u64 = 16;

/// How a file is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// Bytes in all, 1 at least.
    pub length: u64,
    /// Bytes of each part but the last, 1 at least.
    pub part_bytes: u64,
}

impl Cut {
    /// How many parts there are.
    pub fn count(self) -> u64 {
        self.length.div_ceil(self.part_bytes)
    }

    /// The bytes of a part.
    pub fn range(self, part: u64) -> Range<u64> {
        let start = part.saturating_mul(self.part_bytes).min(self.length);
        start..start.saturating_add(self.part_bytes).min(self.length)
    }

    /// Parts that lie wholly below an offset.
    fn parts_below(self, offset: u64) -> u64 {
        if offset >= self.length {
            self.count()
        } else {
            offset / self.part_bytes
        }
    }
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Send this part. It failed so often since anything moved.
    Send {
        /// Which part.
        part: u64,
        /// Tries that failed.
        failures: u32,
    },
    /// Ask the gateway what it holds; nothing is on its way meanwhile.
    Read {
        /// Times that asking moved nothing.
        failures: u32,
    },
    /// Wait for what is on its way.
    Wait,
    /// All is there, and the gateway said what became of it.
    Finished,
    /// Nothing moved for as many tries as are allowed.
    GiveUp,
}

/// The state of a push.
#[derive(Debug, Clone)]
pub struct Plan {
    cut: Cut,
    streams: usize,
    tries: u32,
    /// Parts that are committed, all from the first on. As told by the gateway: its window starts here.
    committed: u64,
    /// Parts beyond those that it holds.
    held: BTreeSet<u64>,
    flying: BTreeSet<u64>,
    /// Tries of a part that failed since anything moved.
    failures: BTreeMap<u64, u32>,
    /// Readings since anything moved that told nothing new.
    idle_reads: u32,
    /// What is thought to be held may be wrong.
    doubtful: bool,
    /// Parts that were not taken since the gateway saw the upload otherwise; forgotten with the next reading.
    refused: BTreeSet<u64>,
    /// Nothing happened since the last reading.
    fresh: bool,
    finished: bool,
}

impl Plan {
    /// Nothing is held yet. At most `streams` parts are on their way at once; `tries` more may fail after
    /// the first before the push is given up, unless anything moves in between.
    pub fn new(cut: Cut, streams: usize, tries: u32) -> Self {
        Self {
            cut,
            streams,
            tries,
            committed: 0,
            held: BTreeSet::new(),
            flying: BTreeSet::new(),
            failures: BTreeMap::new(),
            idle_reads: 0,
            doubtful: false,
            refused: BTreeSet::new(),
            fresh: false,
            finished: false,
        }
    }

    /// The next step; a part that is to be sent counts as on its way from here on.
    pub fn step(&mut self) -> Step {
        if self.finished {
            return Step::Finished;
        }
        if self.failures.values().any(|n| *n > self.tries) || self.idle_reads > self.tries {
            return Step::GiveUp;
        }
        let failures = self.idle_reads;
        if self.doubtful {
            return match self.wanted_by_others() {
                _ if self.flying.is_empty() => Step::Read { failures },
                Some(part) => self.send(part),
                None => Step::Wait,
            };
        }
        if self.flying.len() < self.streams
            && let Some(part) = self.missing()
        {
            return self.send(part);
        }
        if !self.flying.is_empty() {
            return Step::Wait;
        }
        // The answer that told the outcome was lost; equal bytes once more bring it back.
        if self.holds_all() && self.fresh {
            return self.send(self.cut.count() - 1);
        }
        // Or the gateway is behind with committing, and its window is full.
        Step::Read { failures }
    }

    fn send(&mut self, part: u64) -> Step {
        self.flying.insert(part);
        let failures = self.failures.get(&part).copied().unwrap_or(0);
        Step::Send { part, failures }
    }

    /// The first part within the window that is neither held nor on its way.
    fn missing(&self) -> Option<u64> {
        let end = self.cut.count().min(self.committed + WINDOW_PARTS);
        (self.committed..end).find(|part| !self.held.contains(part) && !self.flying.contains(part))
    }

    /// The part in front, where it failed and those on their way wait for it: a gateway whose store holds whole parts
    /// answers them when that one came, and else keeps them for seconds before it refuses them.
    fn wanted_by_others(&self) -> Option<u64> {
        let front = self.missing()?;
        let is_wanted = front == self.committed && !self.refused.contains(&front);
        (is_wanted && self.flying.len() < self.streams).then_some(front)
    }

    fn holds_all(&self) -> bool {
        self.holds() == self.cut.count()
    }

    /// Parts that the gateway holds.
    fn holds(&self) -> u64 {
        self.committed + self.held.len() as u64
    }

    /// Bytes that the gateway holds.
    pub fn held_bytes(&self) -> u64 {
        let ahead = self.held.iter().map(|part| {
            let range = self.cut.range(*part);
            range.end - range.start
        });
        self.committed_bytes() + ahead.sum::<u64>()
    }

    /// Bytes up to which the gateway holds all.
    pub fn committed_bytes(&self) -> u64 {
        self.cut.range(self.committed).start
    }

    /// A part was taken, or was there already; the gateway has committed so many bytes.
    pub fn stored(&mut self, part: u64, offset: u64) {
        let before = (self.committed, self.holds());
        self.flying.remove(&part);
        self.fresh = false;
        if part >= self.committed {
            self.held.insert(part);
        }
        self.commit(self.cut.parts_below(offset));
        if (self.committed, self.holds()) == before {
            *self.failures.entry(part).or_default() += 1;
        } else {
            self.moved();
        }
    }

    /// A part was taken, and with it the file became what it is to become.
    pub fn finished(&mut self) {
        self.finished = true;
    }

    /// A part was not taken, for a reason that may pass.
    pub fn failed(&mut self, part: u64) {
        self.flying.remove(&part);
        self.fresh = false;
        *self.failures.entry(part).or_default() += 1;
    }

    /// A part was not taken since the gateway sees the upload otherwise than this plan does.
    pub fn conflicted(&mut self, part: u64) {
        self.failed(part);
        self.refused.insert(part);
        self.doubtful = true;
    }

    /// What the gateway holds: so many committed bytes, and these parts beyond them.
    pub fn read(&mut self, offset: u64, held: impl IntoIterator<Item = u64>) {
        let before = (self.committed, self.holds());
        let count = self.cut.count();
        self.committed = self.cut.parts_below(offset);
        self.held = held.into_iter().filter(|part| *part < count).collect();
        self.commit(self.committed);
        self.doubtful = false;
        self.refused.clear();
        self.fresh = true;
        if (self.committed, self.holds()) > before {
            self.moved();
        } else {
            self.idle_reads += 1;
        }
    }

    /// The gateway did not tell what it holds, for a reason that may pass.
    pub fn unread(&mut self) {
        self.idle_reads += 1;
    }

    fn commit(&mut self, parts: u64) {
        self.committed = self.committed.max(parts);
        self.held = self.held.split_off(&self.committed);
    }

    fn moved(&mut self) {
        self.failures.clear();
        self.idle_reads = 0;
    }
}

#[cfg(test)]
mod tests;
