//! What was counted, and what was wrong.

use std::collections::BTreeMap;

/// Counts of one client, or of all.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tally {
    /// Offsets that answers told.
    pub(crate) offsets_told: u64,
    /// Told offsets that were asked for again after a disaster.
    pub(crate) offsets_held: u64,
    /// Parts that answers told to be held.
    pub(crate) parts_told: u64,
    /// Told parts that were asked for again, in all.
    pub(crate) parts_held: u64,
    /// Uploads that a client set out to make.
    pub(crate) begun: u64,
    /// Uploads that are finished, by an answer or by what is served.
    pub(crate) finished: u64,
    /// Bytes of those.
    pub(crate) finished_bytes: u64,
    /// Of those, the ones whose last answer never came.
    pub(crate) finished_unheard: u64,
    /// Uploads that were given up by DELETE.
    pub(crate) cancelled: u64,
    /// Uploads that were left alone to expire.
    pub(crate) left: u64,
    /// Requests whose client hung up.
    pub(crate) cut: u64,
    /// Requests that ended with the gateway.
    pub(crate) killed: u64,
    /// Boxes that were fetched and compared, byte for byte.
    pub(crate) compared: u64,
    /// Answers by protocol, method and status.
    pub(crate) answers: BTreeMap<String, u64>,
    /// What was not right, in words.
    pub(crate) wrong: Vec<String>,
}

impl Tally {
    /// Notes what must not be.
    pub(crate) fn wrong(&mut self, what: impl Into<String>) {
        self.wrong.push(what.into());
    }

    /// Counts an answer.
    pub(crate) fn answer(&mut self, what: &str, status: u16) {
        *self.answers.entry(format!("{what} {status}")).or_default() += 1;
    }

    /// Adds what another one counted.
    pub(crate) fn add(&mut self, other: Self) {
        let Self {
            offsets_told,
            offsets_held,
            parts_told,
            parts_held,
            begun,
            finished,
            finished_bytes,
            finished_unheard,
            cancelled,
            left,
            cut,
            killed,
            compared,
            answers,
            wrong,
        } = other;
        self.offsets_told += offsets_told;
        self.offsets_held += offsets_held;
        self.parts_told += parts_told;
        self.parts_held += parts_held;
        self.begun += begun;
        self.finished += finished;
        self.finished_bytes += finished_bytes;
        self.finished_unheard += finished_unheard;
        self.cancelled += cancelled;
        self.left += left;
        self.cut += cut;
        self.killed += killed;
        self.compared += compared;
        for (answer, count) in answers {
            *self.answers.entry(answer).or_default() += count;
        }
        self.wrong.extend(wrong);
    }
}
