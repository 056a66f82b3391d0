//! A bounded pool of 1 MiB buffers aligned to 4 KiB: the memory that uploads may use.
//!
//! A buffer is a right and memory in one: whoever holds none waits. The rule that keeps it free of
//! deadlock: hand the full buffer on before taking the next. Where a store holds whole parts, whoever begins
//! one [reserves](BufferPool::reserve) memory for all of it, and frames may be kept on that account as they
//! arrived, each for as much as it may pin.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes of one buffer.
pub const BUFFER_BYTES: usize = 1 << 20;
/// Alignment of a buffer in memory, as direct I/O wants it.
pub const BUFFER_ALIGN: usize = 4096;
/// What a kept frame counts for at least, and the unit of the budget: whoever reads bodies reads into memory of at most
/// so many bytes, and a frame of it pins all, which `Bytes` does not tell.
pub const CHARGE_BYTES: usize = 128 << 10;
const CHARGES_PER_BUFFER: usize = BUFFER_BYTES / CHARGE_BYTES;

/// The pool; cheap to clone.
#[derive(Clone)]
pub struct BufferPool {
    shared: Arc<Shared>,
}

struct Shared {
    /// One permit per charge; tokio serves waiters in order.
    permits: Arc<Semaphore>,
    /// In buffers.
    capacity: usize,
    /// Charges of what is out.
    in_use: AtomicU64,
    waiting: AtomicU64,
    /// Memory that was used before. A fresh MiB costs 256 page faults, as much as hashing it.
    idle: Mutex<Vec<Aligned>>,
}

impl BufferPool {
    /// A pool of as many buffers as fit in `budget_bytes`, at least two. Memory is taken when first
    /// used and kept for reuse.
    pub fn new(budget_bytes: u64) -> Self {
        let fit = usize::try_from(budget_bytes / BUFFER_BYTES as u64).unwrap_or(usize::MAX);
        let capacity = fit.clamp(2, Semaphore::MAX_PERMITS / CHARGES_PER_BUFFER);
        Self {
            shared: Arc::new(Shared {
                permits: Arc::new(Semaphore::new(capacity * CHARGES_PER_BUFFER)),
                capacity,
                in_use: AtomicU64::new(0),
                waiting: AtomicU64::new(0),
                idle: Mutex::new(Vec::new()),
            }),
        }
    }

    /// An empty buffer, as soon as one is free; waiters are served in order.
    ///
    /// # Cancel safety
    /// Dropping the future gives up the place in the queue and nothing else.
    pub async fn take(&self) -> Buffer {
        let permit = self.permits(CHARGES_PER_BUFFER).await;
        Buffer::new(&self.shared, permit)
    }

    /// The right to `buffers` at once, as soon as so many are free; waiters are served in order, so that
    /// whoever needs many is not overtaken for ever. Never comes for more than the pool has.
    ///
    /// # Cancel safety
    /// Dropping the future gives up the place in the queue and nothing else.
    pub async fn reserve(&self, buffers: usize) -> Reservation {
        self.reserve_charges(buffers.saturating_mul(CHARGES_PER_BUFFER))
            .await
    }

    /// As [`Self::reserve`], and an eighth more where the pool has it: for frames, which pin more than they hold.
    pub async fn reserve_for_frames(&self, buffers: usize) -> Reservation {
        let wanted = buffers.saturating_mul(CHARGES_PER_BUFFER);
        let all = self.shared.capacity * CHARGES_PER_BUFFER;
        let more = (wanted / 8).min(all.saturating_sub(wanted));
        self.reserve_charges(wanted.saturating_add(more)).await
    }

    async fn reserve_charges(&self, charges: usize) -> Reservation {
        Reservation {
            permits: self.permits(charges).await,
            home: Arc::clone(&self.shared),
        }
    }

    async fn permits(&self, charges: usize) -> OwnedSemaphorePermit {
        let charges = u32::try_from(charges).unwrap_or(u32::MAX);
        let permits = Arc::clone(&self.shared.permits);
        // Whoever waits is ahead of this try: a permit that comes back goes to the first in line.
        match Arc::clone(&permits).try_acquire_many_owned(charges) {
            Ok(permits) => permits,
            Err(_too_few) => {
                let _waiting = Waiting::enter(&self.shared);
                permits
                    .acquire_many_owned(charges)
                    .await
                    .expect("the semaphore lives as long as its pool and is never closed")
            }
        }
    }

    /// Bytes of buffers that are out, and of what kept frames count for.
    pub fn in_use_bytes(&self) -> u64 {
        self.shared.in_use.load(Ordering::Relaxed) * CHARGE_BYTES as u64
    }

    /// Whether so many buffers are not to be had at once.
    pub fn lacks(&self, buffers: usize) -> bool {
        self.shared.permits.available_permits() < buffers.saturating_mul(CHARGES_PER_BUFFER)
    }

    /// How many wait for memory.
    pub fn waiting(&self) -> u64 {
        self.shared.waiting.load(Ordering::Relaxed)
    }

    /// Bytes that may be out at once.
    pub fn capacity_bytes(&self) -> u64 {
        self.shared.capacity as u64 * BUFFER_BYTES as u64
    }
}

impl fmt::Debug for BufferPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BufferPool")
            .field("capacity_bytes", &self.capacity_bytes())
            .field("in_use_bytes", &self.in_use_bytes())
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn enter(&self, permit: &OwnedSemaphorePermit) {
        let charges = permit.num_permits() as u64;
        self.in_use.fetch_add(charges, Ordering::Relaxed);
    }

    fn leave(&self, permit: &OwnedSemaphorePermit) {
        let charges = permit.num_permits() as u64;
        self.in_use.fetch_sub(charges, Ordering::Relaxed);
    }

    /// Lets go of idle memory that does not fit beside what is out: frames are memory of others.
    fn fit_idle(&self) {
        let out = usize::try_from(self.in_use.load(Ordering::Relaxed)).unwrap_or(usize::MAX);
        let free = (self.capacity * CHARGES_PER_BUFFER).saturating_sub(out);
        self.idle().truncate(free / CHARGES_PER_BUFFER);
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Aligned>> {
        // A list of memory has no state that a panic could leave half done.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to some buffers; what was not taken goes back when it is dropped.
pub struct Reservation {
    permits: OwnedSemaphorePermit,
    home: Arc<Shared>,
}

impl Reservation {
    /// One of the buffers, empty; `None` once all were taken.
    pub fn take(&mut self) -> Option<Buffer> {
        let permit = self.permits.split(CHARGES_PER_BUFFER)?;
        Some(Buffer::new(&self.home, permit))
    }

    /// Keeps bytes as they arrived, if the right to `rest` buffers is left beside what they may pin.
    pub fn keep(&mut self, bytes: &Bytes, rest: usize) -> Option<Frame> {
        let charges = bytes.len().div_ceil(CHARGE_BYTES).max(1);
        let left = self.permits.num_permits().checked_sub(charges)?;
        if left < rest.saturating_mul(CHARGES_PER_BUFFER) {
            return None;
        }
        Some(Frame::new(
            &self.home,
            bytes.clone(),
            self.permits.split(charges)?,
        ))
    }

    /// The right to as many of the buffers, or to as many as are left.
    #[must_use]
    pub fn split(&mut self, buffers: usize) -> Self {
        let charges = buffers.saturating_mul(CHARGES_PER_BUFFER);
        let charges = charges.min(self.permits.num_permits());
        Self {
            permits: self.permits.split(charges).expect("no more than there are"),
            home: Arc::clone(&self.home),
        }
    }
}

impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Reservation")
            .field(&self.permits.num_permits())
            .finish()
    }
}

/// Counts one that waits, until it is dropped.
struct Waiting<'a>(&'a Shared);

impl<'a> Waiting<'a> {
    fn enter(shared: &'a Shared) -> Self {
        shared.waiting.fetch_add(1, Ordering::Relaxed);
        Self(shared)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Up to [`BUFFER_BYTES`] bytes; goes back to its pool when dropped.
pub struct Buffer {
    /// Absent only while the buffer is being dropped.
    memory: Option<Aligned>,
    filled: usize,
    home: Arc<Shared>,
    /// Released after the memory went home: fields are dropped after `drop` ran.
    permit: OwnedSemaphorePermit,
}

impl Buffer {
    fn new(home: &Arc<Shared>, permit: OwnedSemaphorePermit) -> Self {
        let idle = home.idle().pop();
        home.enter(&permit);
        Self {
            memory: Some(idle.unwrap_or_else(Aligned::new)),
            filled: 0,
            home: Arc::clone(home),
            permit,
        }
    }

    /// Copies as much of `bytes` as fits; returns how many bytes were taken.
    pub fn fill(&mut self, bytes: &[u8]) -> usize {
        let filled = self.filled;
        let room = &mut self.memory_mut()[filled..];
        let taken = room.len().min(bytes.len());
        room[..taken].copy_from_slice(&bytes[..taken]);
        self.filled += taken;
        taken
    }

    /// The bytes filled so far.
    pub fn as_slice(&self) -> &[u8] {
        &self.memory().as_slice()[..self.filled]
    }

    /// How many bytes are filled.
    pub fn len(&self) -> usize {
        self.filled
    }

    /// Whether nothing is filled.
    pub fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// Whether nothing more fits.
    pub fn is_full(&self) -> bool {
        self.filled == BUFFER_BYTES
    }

    fn memory(&self) -> &Aligned {
        self.memory
            .as_ref()
            .expect("memory leaves a buffer only when it is dropped")
    }

    fn memory_mut(&mut self) -> &mut [u8] {
        self.memory
            .as_mut()
            .expect("memory leaves a buffer only when it is dropped")
            .as_mut_slice()
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer")
            .field("filled", &self.filled)
            .finish_non_exhaustive()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(memory) = self.memory.take() {
            self.home.idle().push(memory);
        }
        self.home.leave(&self.permit);
    }
}

/// Bytes that are kept as they arrived; what they count for goes back to the pool when they are dropped.
pub struct Frame {
    bytes: Bytes,
    home: Arc<Shared>,
    permit: OwnedSemaphorePermit,
}

impl Frame {
    fn new(home: &Arc<Shared>, bytes: Bytes, permit: OwnedSemaphorePermit) -> Self {
        home.enter(&permit);
        home.fit_idle();
        Self {
            bytes,
            home: Arc::clone(home),
            permit,
        }
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Frame").field(&self.bytes.len()).finish()
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        self.home.leave(&self.permit);
    }
}

/// [`BUFFER_BYTES`] of memory that start at a multiple of [`BUFFER_ALIGN`]: a page more than needed,
/// sliced, which needs no `unsafe`.
struct Aligned {
    memory: Box<[u8]>,
    start: usize,
}

impl Aligned {
    fn new() -> Self {
        let memory = vec![0; BUFFER_BYTES + BUFFER_ALIGN].into_boxed_slice();
        // `align_offset` may decline to answer; direct writes then fall back to buffered ones.
        let start = memory.as_ptr().align_offset(BUFFER_ALIGN).min(BUFFER_ALIGN);
        Self { memory, start }
    }

    fn as_slice(&self) -> &[u8] {
        &self.memory[self.start..self.start + BUFFER_BYTES]
    }

    fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + BUFFER_BYTES]
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_buffer_is_aligned_and_takes_no_more_than_it_holds() {
        let pool = BufferPool::new(2 << 20);
        let mut buffer = pool.take().await;
        assert!(
            buffer
                .as_slice()
                .as_ptr()
                .addr()
                .is_multiple_of(BUFFER_ALIGN)
        );
        assert_eq!(buffer.fill(&[1; 10]), 10);
        assert_eq!(buffer.fill(&vec![2; 2 * BUFFER_BYTES]), BUFFER_BYTES - 10);
        assert_eq!(buffer.fill(&[3]), 0);
        assert!(buffer.is_full());
        assert_eq!(buffer.as_slice()[9..11], [1, 2]);
    }

    #[tokio::test]
    async fn memory_is_used_again_and_comes_back_empty() {
        let pool = BufferPool::new(0);
        let mut first = pool.take().await;
        first.fill(&[9; 100]);
        let address = first.as_slice().as_ptr().addr();
        drop(first);
        let again = pool.take().await;
        assert_eq!(again.as_slice(), b"");
        assert_eq!(again.memory().as_slice().as_ptr().addr(), address);
    }

    #[tokio::test]
    async fn memory_of_frames_and_idle_memory_are_never_more_than_the_budget() {
        let pool = BufferPool::new(4 << 20);
        let idle = || pool.shared.idle().len();
        let all = [(); 4].map(|()| pool.take());
        drop(futures_util::future::join_all(all).await);
        assert_eq!(idle(), 4);
        let mut memory = pool.reserve(4).await;
        let frame = memory.keep(&Bytes::from(vec![0; BUFFER_BYTES]), 0);
        assert_eq!(idle(), 3);
        let more = memory.keep(&Bytes::from(vec![0; 1]), 0);
        assert_eq!(idle(), 2, "a part of one does not fit");
        drop((frame, more));
        let taken = memory.take();
        assert_eq!(idle(), 1, "what is left is used");
        drop(taken);
    }

    #[tokio::test]
    async fn the_budget_is_kept_and_waiters_are_served_in_order() {
        let pool = BufferPool::new(3 << 20);
        assert_eq!(pool.capacity_bytes(), 3 << 20);
        let held = [pool.take().await, pool.take().await, pool.take().await];
        assert_eq!(pool.in_use_bytes(), 3 << 20);
        let (told, mut order) = tokio::sync::mpsc::channel(8);
        for i in 0..4 {
            let mut waiting = Box::pin({
                let (pool, told) = (pool.clone(), told.clone());
                async move {
                    let buffer = pool.take().await;
                    told.send(i).await.unwrap();
                    drop(buffer);
                }
            });
            // The first poll takes the place in the queue.
            assert!(futures_util::poll!(&mut waiting).is_pending());
            tokio::spawn(waiting);
        }
        drop(held);
        for i in 0..4 {
            assert_eq!(order.recv().await, Some(i));
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn sixty_four_writers_share_three_buffers_and_give_all_back() {
        let pool = BufferPool::new(3 << 20);
        let writers: Vec<_> = (0..64u8)
            .map(|i| {
                let pool = pool.clone();
                tokio::spawn(async move {
                    for round in 0..20u8 {
                        let mut buffer = pool.take().await;
                        buffer.fill(&[i ^ round; 64]);
                        tokio::task::yield_now().await;
                        assert_eq!(buffer.as_slice(), [i ^ round; 64]);
                    }
                })
            })
            .collect();
        for writer in writers {
            tokio::time::timeout(Duration::from_mins(1), writer)
                .await
                .expect("no writer waits for ever")
                .unwrap();
        }
        assert_eq!(pool.in_use_bytes(), 0);
        assert_eq!(pool.shared.permits.available_permits(), 24);
        assert!(pool.shared.idle().len() <= 3);
    }

    #[tokio::test]
    async fn frames_are_kept_while_all_that_is_to_come_has_room_beside_what_they_pin() {
        let pool = BufferPool::new(9 << 20);
        let mut memory = pool.reserve_for_frames(8).await;
        let small = Bytes::from(vec![1; 64 << 10]);
        // An eighth more than 8 MiB: so many frames may pin twice what they hold.
        let first: Vec<_> = (0..8).map(|_| memory.keep(&small, 8)).collect();
        assert!(first.iter().all(Option::is_some), "there is room beside");
        assert!(memory.keep(&small, 8).is_none());
        assert!(memory.keep(&small, 7).is_some(), "and it goes back at once");
        assert_eq!(pool.in_use_bytes(), 1 << 20);
        let kept = first[0].as_ref().map(|frame| frame.as_slice().as_ptr());
        assert_eq!(kept, Some(small.as_ptr()));
        drop(first);
        assert_eq!(pool.in_use_bytes(), 0);
        // One that is longer counts for its length.
        let long = Bytes::from(vec![2; (1 << 20) + 1]);
        assert!(memory.keep(&long, 7).is_none());
        let kept = memory.keep(&long, 6).expect("there is room beside");
        assert_eq!(pool.in_use_bytes(), 9 << 17);
        drop(memory);
        drop(kept);
        assert_eq!(pool.shared.permits.available_permits(), 72);
        // More than there is beside would never come.
        assert!(pool.reserve_for_frames(9).await.take().is_some());
    }

    #[tokio::test]
    async fn a_waiter_that_leaves_costs_nothing() {
        let pool = BufferPool::new(2 << 20);
        let held = [pool.take().await, pool.take().await];
        let mut waiting = Box::pin(pool.take());
        assert!(futures_util::poll!(&mut waiting).is_pending());
        assert_eq!(pool.waiting(), 1);
        drop(waiting);
        assert_eq!(pool.waiting(), 0);
        drop(held);
        let _both = [pool.take().await, pool.take().await];
        assert_eq!(pool.in_use_bytes(), 2 << 20);
    }
}
