//! How far an upload is: numbers only, no bytes, no I/O, no clock.
//!
//! Bytes are *received*, then *handed* to the store run by run, then *committed* part by part. Each
//! number only grows, and never passes the one before it. An upload that pauses commits the beginning
//! of a part and goes on from there, perhaps much later.

use crate::buffer::BUFFER_BYTES;
use crate::error::{Error, ErrorKind};

/// Where one upload stands.
#[derive(Debug, Clone)]
pub struct UploadState {
    part_bytes: u64,
    length: Option<u64>,
    limit: u64,
    received: u64,
    handed: u64,
    /// The end of the last step that was given out.
    stepped: u64,
    committed: u64,
    ended: bool,
}

/// One part, or the beginning or the end of one, on its way to being committed: bytes `from..to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Index of the part, from 0.
    pub part: u32,
    /// The first byte that no earlier step covers.
    pub from: u64,
    /// One past the last byte.
    pub to: u64,
}

/// What an upload does not take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// More bytes than any upload may have.
    #[error("an upload has {limit} bytes at most")]
    TooLarge {
        /// The most, in bytes.
        limit: u64,
    },
    /// Another length than was declared.
    #[error("{expected} bytes were declared, {given} arrived")]
    LengthMismatch {
        /// The declared length in bytes.
        expected: u64,
        /// What arrived, in bytes.
        given: u64,
    },
    /// No bytes at all, and nobody said so before.
    #[error("an upload has at least one byte, unless it was declared to have none")]
    Empty,
    /// Bytes behind the end.
    #[error("the upload has ended")]
    Ended,
}

impl Refusal {
    /// As the crate's error.
    pub(super) fn into_error(self, op: &'static str, subject: impl Into<String>) -> Error {
        let kind = match self {
            Self::TooLarge { limit } => ErrorKind::TooLarge { limit },
            Self::LengthMismatch { expected, given } => {
                ErrorKind::LengthMismatch { expected, given }
            }
            Self::Empty | Self::Ended => ErrorKind::Invalid,
        };
        Error::new(kind, op, subject).with_source(self)
    }
}

impl UploadState {
    /// An upload with nothing received, of at most `limit` bytes in parts of `part_bytes`.
    pub fn new(part_bytes: u64, length: Option<u64>, limit: u64) -> Self {
        Self::resumed(part_bytes, length, limit, 0)
    }

    /// The end of the part that begins at or holds `offset`, or of the upload.
    pub(super) fn part_end(&self, offset: u64) -> u64 {
        let end = (offset / self.part_bytes + 1).saturating_mul(self.part_bytes);
        end.min(self.length.unwrap_or(u64::MAX))
    }

    /// Bytes until the part that is coming is whole; `None` where the upload ends before.
    pub fn to_part_end(&self) -> Option<u64> {
        let end = self.received.next_multiple_of(self.part_bytes);
        let is_short = self.length.is_some_and(|length| length <= end);
        (!is_short).then(|| end - self.received)
    }

    /// An upload whose bytes before `offset` are committed.
    pub fn resumed(part_bytes: u64, length: Option<u64>, limit: u64, offset: u64) -> Self {
        Self {
            part_bytes,
            length,
            limit,
            received: offset,
            handed: offset,
            stepped: offset,
            committed: offset,
            ended: false,
        }
    }

    /// Takes `bytes` more; takes none of them when it refuses.
    ///
    /// # Errors
    /// Past the declared length, past the limit, or behind the end.
    pub fn receive(&mut self, bytes: u64) -> Result<(), Refusal> {
        if self.ended {
            return Err(Refusal::Ended);
        }
        let given = self.received.saturating_add(bytes);
        if let Some(expected) = self.length.filter(|length| given > *length) {
            return Err(Refusal::LengthMismatch { expected, given });
        }
        if given > self.limit {
            return Err(Refusal::TooLarge { limit: self.limit });
        }
        self.received = given;
        Ok(())
    }

    /// Ends the upload: all of it was received. Returns its length in bytes.
    ///
    /// # Errors
    /// When there is nothing, or less than was declared.
    pub fn end(&mut self) -> Result<u64, Refusal> {
        let given = self.received;
        if let Some(expected) = self.length.filter(|length| given != *length) {
            return Err(Refusal::LengthMismatch { expected, given });
        }
        // Only what was declared to be empty is not just missing.
        if given == 0 && self.length != Some(0) {
            return Err(Refusal::Empty);
        }
        self.ended = true;
        Ok(given)
    }

    /// Ends it for now: what was received and not handed over does not come any more. Gives the step
    /// over what was handed over since the last one.
    pub fn pause(&mut self) -> Option<Step> {
        self.ended = true;
        self.received = self.handed;
        self.step()
    }

    /// Gives the step over what was handed over since the last one, however little of its part that is;
    /// more may come.
    pub fn step_so_far(&mut self) -> Option<Step> {
        self.step()
    }

    /// Notes that the store was handed everything before `to`. Gives the step that this makes
    /// possible: at the end of each part, and at the end of the upload. Runs never cross a part's end.
    pub fn hand_over(&mut self, to: u64) -> Option<Step> {
        debug_assert!(self.handed <= to && to <= self.received);
        self.handed = to;
        let whole = to.is_multiple_of(self.part_bytes);
        let last = self.ended && to == self.received;
        (whole || last).then(|| self.step()).flatten()
    }

    fn step(&mut self) -> Option<Step> {
        let (from, to) = (self.stepped, self.handed);
        self.stepped = to;
        (from < to).then(|| Step {
            part: u32::try_from(from / self.part_bytes).expect("the limit allows 10,000 parts"),
            from,
            to,
        })
    }

    /// Whether `to`, the end of a step, is the end of its part.
    pub fn ends_part(&self, to: u64) -> bool {
        to.is_multiple_of(self.part_bytes)
    }

    /// Notes that everything before `to` is committed. False, and nothing changes, when that is out
    /// of order: steps are committed one after the other.
    pub fn commit(&mut self, step: Step) -> bool {
        let next = step.from == self.committed && step.to <= self.handed;
        if next {
            self.committed = step.to;
        }
        next
    }

    /// Bytes received so far, durable or not.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Bytes that the store was handed.
    pub fn handed(&self) -> u64 {
        self.handed
    }

    /// The declared length in bytes, if any.
    pub fn length(&self) -> Option<u64> {
        self.length
    }

    /// Fixes a length that was not declared at first.
    pub fn set_length(&mut self, length: u64) {
        self.length = Some(length);
    }

    /// Bytes that were declared and did not come yet; 0 without a declared length.
    pub fn outstanding(&self) -> u64 {
        self.length
            .map_or(0, |length| length.saturating_sub(self.received))
    }

    /// Bytes that may be told as durable.
    pub fn committed(&self) -> u64 {
        self.committed
    }
}

/// Buffers of 1 MiB that hold bytes `from..to`; a buffer never crosses a multiple of its size.
pub(super) fn buffers_for(from: u64, to: u64) -> usize {
    if from >= to {
        return 0;
    }
    let buffer = BUFFER_BYTES as u64;
    let buffers = to.div_ceil(buffer).saturating_sub(from / buffer);
    usize::try_from(buffers).unwrap_or(usize::MAX)
}

/// Bytes of a part: a power of two, so that each part is one subtree of the tree, few enough parts
/// for any store, and at least [`SMALLEST_PART`].
pub fn part_bytes_for(length: Option<u64>) -> u64 {
    match length {
        None => UNKNOWN_LENGTH_PART,
        Some(length) => length
            .div_ceil(WANTED_PARTS)
            .checked_next_power_of_two()
            .unwrap_or(1 << 63)
            .max(SMALLEST_PART),
    }
}

/// The longest upload whose parts have at most so many bytes.
pub(super) fn longest_in_parts_of(bytes: u64) -> u64 {
    let part = if bytes == 0 { 0 } else { 1 << bytes.ilog2() };
    if part < SMALLEST_PART {
        return 0;
    }
    part.saturating_mul(WANTED_PARTS)
}

/// Below this a commit per part costs more than it saves on a cut.
pub const SMALLEST_PART: u64 = 8 << 20;
/// No more is lost by a cut than this, whoever asks for larger parts.
pub const LARGEST_PART: u64 = 1 << 30;
/// Parts of an upload whose length nobody told; it may grow to [`MOST_PARTS`] of them.
pub const UNKNOWN_LENGTH_PART: u64 = 16 << 20;
/// S3 takes no more; a local store obeys the same, so that an upload fits either.
pub const MOST_PARTS: u64 = 10_000;
const WANTED_PARTS: u64 = 9_000;

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_part_has_an_end_unless_the_upload_ends_before() {
        let part = 8 * MIB;
        let to_end =
            |length, received| UploadState::resumed(part, length, u64::MAX, received).to_part_end();
        for (received, left) in [(0, 0), (1, part - 1), (part - 1, 1), (part, 0)] {
            for length in [None, Some(2 * part)] {
                assert_eq!(
                    to_end(length, received),
                    Some(left),
                    "{length:?} {received}"
                );
            }
        }
        assert_eq!(to_end(Some(2 * part), part + 1), None);
        assert_eq!(to_end(Some(2 * part), 2 * part), None);
        assert_eq!(to_end(Some(part), 0), Some(0));
        assert_eq!(to_end(Some(0), 0), None);
    }

    #[test]
    fn parts_are_powers_of_two_and_few_enough() {
        let gib = 1024 * MIB;
        for (length, part) in [
            (Some(0), 8 * MIB),
            (Some(1), 8 * MIB),
            (Some(70 * gib), 8 * MIB),
            (Some(9000 * 8 * MIB), 8 * MIB),
            (Some(9000 * 8 * MIB + 1), 16 * MIB),
            (Some(128 * gib), 16 * MIB),
            (Some(1024 * gib), 128 * MIB),
            (None, 16 * MIB),
        ] {
            assert_eq!(part_bytes_for(length), part, "{length:?}");
            let parts = length.unwrap_or(0).div_ceil(part);
            assert!(parts <= MOST_PARTS);
        }
        assert_eq!(part_bytes_for(Some(u64::MAX)), 1 << 51);
    }

    #[test]
    fn refusals_name_the_numbers_and_take_nothing() {
        let mut state = UploadState::new(8, Some(10), 100);
        state.receive(4).unwrap();
        let longer = Refusal::LengthMismatch {
            expected: 10,
            given: 11,
        };
        assert_eq!(state.receive(7), Err(longer));
        let shorter = Refusal::LengthMismatch {
            expected: 10,
            given: 4,
        };
        assert_eq!(state.end(), Err(shorter));
        state.receive(6).unwrap();
        assert_eq!(state.end(), Ok(10));
        assert_eq!(state.receive(1), Err(Refusal::Ended));

        let mut open_ended = UploadState::new(8, None, 100);
        assert_eq!(open_ended.end(), Err(Refusal::Empty));
        let too_large = Err(Refusal::TooLarge { limit: 100 });
        assert_eq!(open_ended.receive(101), too_large);
        assert_eq!(open_ended.receive(u64::MAX), too_large);
        assert_eq!(open_ended.received(), 0);
        assert_eq!(UploadState::new(8, Some(0), 100).end(), Ok(0));
    }

    #[test]
    fn steps_are_whole_parts_and_a_short_last_one() {
        let mut state = UploadState::new(8, None, 100);
        state.receive(20).unwrap();
        assert_eq!(state.hand_over(4), None);
        let first = Step {
            part: 0,
            from: 0,
            to: 8,
        };
        assert_eq!(state.hand_over(8), Some(first));
        assert_eq!(state.hand_over(12), None);
        let second = state.hand_over(16).unwrap();
        state.end().unwrap();
        let last = state.hand_over(20).unwrap();
        assert_eq!((last.part, last.from, last.to), (2, 16, 20));
        assert!(!state.commit(second), "the first one is missing");
        assert!(state.commit(first) && state.commit(second) && state.commit(last));
        assert!(!state.commit(last), "once is enough");
        assert_eq!(state.committed(), 20);
    }

    #[test]
    fn a_pause_commits_the_beginning_of_a_part_and_the_rest_follows() {
        let mut state = UploadState::new(8, Some(20), 100);
        state.receive(13).unwrap();
        let first = state.hand_over(8).unwrap();
        state.hand_over(11);
        // Two bytes were received and never reached the store.
        let second = state.pause().unwrap();
        assert_eq!((second.part, second.from, second.to), (1, 8, 11));
        assert!(state.commit(first) && state.commit(second));
        assert_eq!((state.received(), state.committed()), (11, 11));
        assert_eq!(state.receive(1), Err(Refusal::Ended));
        assert_eq!(state.pause(), None, "nothing is left to commit");

        let mut state = UploadState::resumed(8, Some(20), 100, 11);
        state.receive(9).unwrap();
        let rest = state.hand_over(16).unwrap();
        assert_eq!((rest.part, rest.from, rest.to), (1, 11, 16));
        assert!(state.ends_part(rest.to));
        state.end().unwrap();
        let last = state.hand_over(20).unwrap();
        assert_eq!((last.part, last.from, last.to), (2, 16, 20));
        assert!(state.commit(rest) && state.commit(last));
    }

    #[test]
    fn an_upload_that_was_whole_already_ends_without_a_step() {
        let mut state = UploadState::resumed(8, None, 100, 11);
        assert_eq!(state.end(), Ok(11));
        assert_eq!(state.hand_over(11), None);
        assert_eq!(state.committed(), 11);
    }

    #[test]
    fn an_upload_of_whole_parts_has_no_empty_last_step() {
        let mut state = UploadState::new(8, Some(8), 100);
        state.receive(8).unwrap();
        state.end().unwrap();
        assert!(state.hand_over(8).is_some());
        assert_eq!(state.hand_over(8), None);
    }
}
