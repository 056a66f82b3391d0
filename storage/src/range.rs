//! Half-open byte ranges; the wire's inclusive form stays in the gateway.

/// Bytes `start..end` of a blob, `start <= end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ByteRange {
    start: u64,
    end: u64,
}

impl ByteRange {
    /// The range `start..end`, or `None` when it is reversed.
    pub fn try_new(start: u64, end: u64) -> Option<Self> {
        (start <= end).then_some(Self { start, end })
    }

    /// All of a blob of `length` bytes.
    pub fn whole(length: u64) -> Self {
        Self {
            start: 0,
            end: length,
        }
    }

    /// The first byte.
    pub fn start(self) -> u64 {
        self.start
    }

    /// One past the last byte.
    pub fn end(self) -> u64 {
        self.end
    }

    /// How many bytes.
    pub fn length(self) -> u64 {
        self.end - self.start
    }

    /// Whether there is nothing in it.
    pub fn is_empty(self) -> bool {
        self.start == self.end
    }
}
