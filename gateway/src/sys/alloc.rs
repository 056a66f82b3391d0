//! The allocator, which knows how many bytes each thread holds: scripts have a budget of them.
//!
//! Per thread, as a call of a script runs on one: a global count would charge it for what others do. Bytes that one
//! thread allocates and another frees make the counts of both wrong in the long run, so only the difference over a
//! call means anything. `benches/script.rs` tells what counting costs.

#![expect(unsafe_code, reason = "an allocator is unsafe by its trait")]

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;
use std::ffi::{c_int, c_long};

use mimalloc::MiMalloc;

// Frames that are kept while they are hashed double the CPU of the system's allocator.
static INNER: MiMalloc = MiMalloc;

thread_local! {
    // Without a destructor, so that it may be used until the very end of a thread.
    static LIVE: Cell<usize> = const { Cell::new(0) };
}

/// mimalloc, and a count for each thread.
#[derive(Debug)]
pub struct Counting;

/// Bytes that this thread allocated and nobody freed yet, less those of others that it freed; it wraps.
pub fn live_bytes() -> usize {
    LIVE.with(Cell::get)
}

/// Has freed memory stay mapped for ten seconds before it goes back to the system, where mimalloc waits for one: an upload
/// otherwise gives back what the next one needs, and has it anew page by page. No more is mapped than was in use at once.
/// `MIMALLOC_PURGE_DELAY` in the environment counts more. To be called before other threads begin.
pub fn keep_freed() {
    // SAFETY: it stores an aligned number, which mimalloc reads whenever it frees or collects, and touches nothing else.
    unsafe { mi_option_set_default(PURGE_DELAY, FREED_STAYS_MS) }
}

// As mimalloc.h declares them; the library is that of the crate `mimalloc`, which does not name its options.
unsafe extern "C" {
    fn mi_option_set_default(option: c_int, value: c_long);
    #[cfg(test)]
    fn mi_option_get(option: c_int) -> c_long;
}

/// Its number among mimalloc's options.
const PURGE_DELAY: c_int = 15;
/// Longer than the pause between one upload and the next of a client that has several.
const FREED_STAYS_MS: c_long = 10_000;

fn grown(bytes: usize) {
    LIVE.with(|live| live.set(live.get().wrapping_add(bytes)));
}

fn shrunk(bytes: usize) {
    LIVE.with(|live| live.set(live.get().wrapping_sub(bytes)));
}

// SAFETY: every call is passed on to mimalloc as it came; counting touches no memory of the allocator's.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract of `GlobalAlloc::alloc`.
        let at = unsafe { INNER.alloc(layout) };
        if !at.is_null() {
            grown(layout.size());
        }
        at
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        let at = unsafe { INNER.alloc_zeroed(layout) };
        if !at.is_null() {
            grown(layout.size());
        }
        at
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        shrunk(layout.size());
        // SAFETY: `at` came from `INNER` with this layout, as the caller's contract says.
        unsafe { INNER.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as for `dealloc`.
        let moved = unsafe { INNER.realloc(at, layout, size) };
        if !moved.is_null() {
            shrunk(layout.size());
            grown(size);
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// mimalloc numbers its options anew where a release has others.
    #[test]
    fn the_delay_is_the_option_of_that_number() {
        // SAFETY: it reads a number.
        let delay = || unsafe { mi_option_get(PURGE_DELAY) };
        assert_eq!(delay(), 1000, "not mimalloc's default");
        keep_freed();
        assert_eq!(delay(), FREED_STAYS_MS);
    }
}
