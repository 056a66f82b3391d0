//! Cuts a stream of chunks into buffers and names where each belongs. No I/O: whoever drives it brings
//! the buffers and takes the runs.

use std::sync::Arc;

use crate::buffer::{BUFFER_BYTES, Buffer, Frame};
use crate::store::{Run, RunBytes};

/// Gathers chunks into one buffer at a time.
#[derive(Debug, Default)]
pub struct PartAssembler {
    /// Where the current buffer starts, in bytes from the start of the blob.
    offset: u64,
    buffer: Option<Buffer>,
    /// Bytes of the current buffer that were given out by [`Self::unhashed`].
    hashed: usize,
}

impl PartAssembler {
    /// An assembler at the start of a blob.
    pub fn new() -> Self {
        Self::default()
    }

    /// An assembler that goes on at `offset`.
    pub fn at(offset: u64) -> Self {
        Self {
            offset,
            ..Self::default()
        }
    }

    /// The first byte that no run covers yet.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Where the next byte belongs.
    pub fn end(&self) -> u64 {
        self.offset + self.buffer.as_ref().map_or(0, Buffer::len) as u64
    }

    /// Whether the next chunk needs a buffer first. A full buffer must be taken out before the next
    /// is asked for: held buffers are what others wait for.
    pub fn wants_buffer(&self) -> bool {
        self.buffer.is_none()
    }

    /// Takes an empty buffer for what comes next.
    pub fn give(&mut self, buffer: Buffer) {
        debug_assert!(self.buffer.is_none() && buffer.is_empty());
        self.buffer = Some(buffer);
        self.hashed = 0;
    }

    /// Copies what fits of `chunk`; returns how many bytes were taken, 0 without a buffer.
    pub fn push(&mut self, chunk: &[u8]) -> usize {
        let room = self.room();
        let chunk = &chunk[..chunk.len().min(room)];
        self.buffer.as_mut().map_or(0, |buffer| buffer.fill(chunk))
    }

    /// Bytes until the run must end: runs end at multiples of a buffer, so that after a short one the
    /// next are aligned again and parts end where runs do.
    fn room(&self) -> usize {
        let filled = self.buffer.as_ref().map_or(0, Buffer::len);
        let from = self.offset % BUFFER_BYTES as u64;
        BUFFER_BYTES - filled - usize::try_from(from).expect("less than a buffer")
    }

    /// Whether a buffer with bytes in it is held.
    pub fn holds_bytes(&self) -> bool {
        self.buffer
            .as_ref()
            .is_some_and(|buffer| !buffer.is_empty())
    }

    /// The bytes in the current buffer.
    pub(super) fn held(&self) -> &[u8] {
        self.buffer.as_ref().map_or(&[], Buffer::as_slice)
    }

    /// Bytes that were pushed and not yet given out here, up to the last multiple of `step` in the blob, or all of them when
    /// the buffer is full and where that is 0. Hashing by the frame takes twice as long: BLAKE3 takes many chunks at once
    /// only where they are whole and begin a subtree. Meanwhile they stay in the cache.
    pub fn unhashed(&mut self, step: usize) -> Option<&[u8]> {
        let buffer = self.buffer.as_ref()?;
        let mut to = buffer.len();
        if step > 0 && self.room() > 0 {
            let past = (self.offset + to as u64) % step as u64;
            to = to.saturating_sub(usize::try_from(past).unwrap_or(to));
        }
        let from = self.hashed;
        if to <= from {
            return None;
        }
        self.hashed = to;
        self.buffer
            .as_ref()
            .map(|buffer| &buffer.as_slice()[from..to])
    }

    /// Whether nothing more fits into the current buffer.
    pub fn is_full(&self) -> bool {
        self.buffer.is_some() && self.room() == 0
    }

    /// The current buffer as a run, when nothing more fits.
    pub fn full(&mut self) -> Option<Run> {
        self.is_full().then(|| self.rest()).flatten()
    }

    /// The current buffer as a run, however short, unless it is empty.
    pub fn rest(&mut self) -> Option<Run> {
        let buffer = self.buffer.take().filter(|buffer| !buffer.is_empty())?;
        let offset = self.offset;
        self.offset += buffer.len() as u64;
        let bytes = RunBytes::Buffer(Arc::new(buffer));
        Some(Run { offset, bytes })
    }

    /// The bytes from `at` on, which the current buffer ends before, as a run of their own.
    pub fn frame(&mut self, frame: Frame) -> Run {
        debug_assert!(!self.holds_bytes(), "what came before was taken out");
        let bytes = RunBytes::Frame(Arc::new(frame));
        let run = Run {
            offset: self.offset,
            bytes,
        };
        self.offset = run.end();
        run
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use proptest::prelude::*;

    use super::*;
    use crate::buffer::BufferPool;
    use crate::upload::state::{Step, UploadState};

    #[tokio::test]
    async fn bytes_are_given_to_hashers_once_and_in_runs() {
        let pool = BufferPool::new(0);
        let mut assembler = PartAssembler::new();
        assert!(assembler.wants_buffer());
        assert_eq!(assembler.push(b"lost"), 0);
        assembler.give(pool.take().await);
        assembler.push(b"abc");
        assert_eq!(assembler.unhashed(4), None);
        assembler.push(b"de");
        assert_eq!(assembler.unhashed(4), Some(&b"abcd"[..]));
        assert_eq!(assembler.unhashed(4), None, "no whole step came since");
        assert_eq!(assembler.unhashed(0), Some(&b"e"[..]));
        assert_eq!(assembler.unhashed(0), None);
        assembler.push(b"f");
        assert_eq!(assembler.unhashed(0), Some(&b"f"[..]));
        assert!(assembler.full().is_none());
        let run = assembler.rest().unwrap();
        assert_eq!((run.offset, run.bytes.as_ref()), (0, &b"abcdef"[..]));
        assert!(assembler.rest().is_none() && assembler.wants_buffer());
    }

    /// What a store would hold: runs land in any order, a part counts once all of them did.
    #[derive(Default)]
    struct Model {
        sent: Vec<u8>,
        stored: Vec<u8>,
        in_flight: Vec<Run>,
        steps: Vec<Step>,
    }

    impl Model {
        fn store(&mut self, pick: usize) {
            if !self.in_flight.is_empty() {
                let run = self.in_flight.swap_remove(pick % self.in_flight.len());
                let start = usize::try_from(run.offset).unwrap();
                let bytes = run.bytes.as_ref();
                let end = start + bytes.len();
                self.stored.resize(self.stored.len().max(end), 0);
                self.stored[start..end].copy_from_slice(bytes);
            }
        }

        /// Tries to commit any step; the state must let only the right one through.
        fn commit(&mut self, pick: usize, state: &mut UploadState) {
            let Some(step) = self.steps.get(pick % self.steps.len().max(1)).copied() else {
                return;
            };
            if self.in_flight.iter().any(|run| run.offset < step.to) {
                return;
            }
            let before = state.committed();
            let expected = step.from == before;
            assert_eq!(state.commit(step), expected);
            assert!(state.committed() >= before);
            let prefix = usize::try_from(state.committed()).unwrap();
            assert_eq!(self.stored[..prefix], self.sent[..prefix]);
        }
    }

    const PART: u64 = 2 * BUFFER_BYTES as u64;

    #[derive(Debug, Clone)]
    enum Act {
        Chunk(usize, u8),
        GiveBack,
        Store(usize),
        Commit(usize),
    }

    fn acts() -> impl Strategy<Value = Vec<Act>> {
        let sizes = prop_oneof![
            Just(0),
            1usize..100,
            Just(BUFFER_BYTES),
            BUFFER_BYTES - 2..BUFFER_BYTES + 3,
            1usize..3 * BUFFER_BYTES,
        ];
        let act = prop_oneof![
            3 => (sizes, any::<u8>()).prop_map(|(size, fill)| Act::Chunk(size, fill)),
            1 => Just(Act::GiveBack),
            3 => any::<usize>().prop_map(Act::Store),
            2 => any::<usize>().prop_map(Act::Commit),
        ];
        proptest::collection::vec(act, 0..24)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]

        #[test]
        fn a_committed_prefix_always_equals_what_was_sent(
            acts in acts(),
            cut in any::<bool>(),
            limit in 0u64..12 * BUFFER_BYTES as u64,
        ) {
            let pool = BufferPool::new(64 << 20);
            let mut state = UploadState::new(PART, None, limit);
            let mut assembler = PartAssembler::new();
            let mut model = Model::default();
            for act in acts {
                match act {
                    Act::Chunk(size, fill) => {
                        let fits = model.sent.len() as u64 + size as u64 <= limit;
                        prop_assert_eq!(state.receive(size as u64).is_ok(), fits);
                        if !fits {
                            continue;
                        }
                        let chunk: Vec<u8> = (0..size).map(|i| fill ^ (i / 7).to_le_bytes()[0]).collect();
                        model.sent.extend_from_slice(&chunk);
                        let mut rest = &chunk[..];
                        while !rest.is_empty() {
                            if assembler.wants_buffer() {
                                assembler.give(pool.take().now_or_never().unwrap());
                            }
                            rest = &rest[assembler.push(rest)..];
                            if let Some(run) = assembler.full() {
                                let to = run.end();
                                model.in_flight.push(run);
                                model.steps.extend(state.hand_over(to));
                            }
                        }
                    }
                    Act::GiveBack => {
                        if let Some(run) = assembler.rest() {
                            let to = run.end();
                            model.in_flight.push(run);
                            model.steps.extend(state.hand_over(to));
                        }
                    }
                    Act::Store(pick) => model.store(pick),
                    Act::Commit(pick) => model.commit(pick, &mut state),
                }
                prop_assert_eq!(state.received(), model.sent.len() as u64);
            }
            if cut || model.sent.is_empty() {
                return Ok(());
            }
            prop_assert_eq!(state.end(), Ok(model.sent.len() as u64));
            if let Some(run) = assembler.rest() {
                let to = run.end();
                model.in_flight.push(run);
                model.steps.extend(state.hand_over(to));
            } else {
                model.steps.extend(state.hand_over(model.sent.len() as u64));
            }
            while !model.in_flight.is_empty() {
                model.store(0);
            }
            for step in model.steps.clone() {
                state.commit(step);
            }
            prop_assert_eq!(state.committed(), model.sent.len() as u64);
            prop_assert_eq!(&model.stored, &model.sent);
            prop_assert_eq!(pool.in_use_bytes(), 0);
        }
    }
}
