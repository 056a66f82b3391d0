//! A bounded pool of 1 MiB buffers aligned to 4 KiB: the memory that uploads to a local disk may use.
//!
//! A buffer is a permit and memory in one: whoever holds none waits. The rule that keeps it free of
//! deadlock: hand the full buffer on before taking the next.

/// Bytes of one buffer.
pub const BUFFER_BYTES: usize = 1 << 20;
/// Alignment of a buffer in memory, as direct I/O wants it.
pub const BUFFER_ALIGN: usize = 4096;

/// The pool; cheap to clone.
#[derive(Debug, Clone)]
pub struct BufferPool {}

impl BufferPool {
    /// A pool of as many buffers as fit in `budget_bytes`, at least two. Memory is taken when first
    /// used and kept for reuse.
    pub fn new(budget_bytes: u64) -> Self {
        let _ = budget_bytes;
        todo!()
    }

    /// An empty buffer, as soon as one is free; waiters are served in order.
    pub async fn take(&self) -> Buffer {
        todo!()
    }

    /// Bytes in buffers that are out.
    pub fn in_use_bytes(&self) -> u64 {
        todo!()
    }
}

/// Up to [`BUFFER_BYTES`] bytes; goes back to its pool when dropped.
#[derive(Debug)]
pub struct Buffer {}

impl Buffer {
    /// Copies as much of `bytes` as fits; returns how many bytes were taken.
    pub fn fill(&mut self, bytes: &[u8]) -> usize {
        let _ = bytes;
        todo!()
    }

    /// The bytes filled so far.
    pub fn as_slice(&self) -> &[u8] {
        todo!()
    }

    /// Whether nothing more fits.
    pub fn is_full(&self) -> bool {
        todo!()
    }
}
