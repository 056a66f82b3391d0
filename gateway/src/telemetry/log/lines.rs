//! Lines that wait for their writer: one text that whoever has a line adds to, and that the writer takes whole.
//!
//! A queue of lines cost each of them an allocation that another thread gave back, and the writer a copy.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What may wait; as much may be written meanwhile. Both are there from the beginning, and cost memory as they are filled:
/// nobody who adds a line pays for room.
const MOST_BYTES: usize = 4 << 20;

/// The lines.
pub(super) struct Lines {
    waiting: Mutex<Waiting>,
    /// Told of the first line that the writer waits for.
    come: Condvar,
    dropped: AtomicU64,
}

struct Waiting {
    text: String,
    is_over: bool,
    is_waited_for: bool,
}

impl Lines {
    pub(super) fn new() -> Self {
        Self {
            waiting: Mutex::new(Waiting {
                text: Self::text(),
                is_over: false,
                is_waited_for: false,
            }),
            come: Condvar::new(),
            dropped: AtomicU64::new(0),
        }
    }

    /// A text with room for all that may wait.
    pub(super) fn text() -> String {
        String::with_capacity(MOST_BYTES)
    }

    /// Adds a line, or drops it where too much waits.
    pub(super) fn add(&self, line: &str) {
        let mut waiting = self.waiting();
        if waiting.text.len() + line.len() >= MOST_BYTES {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        waiting.text.push_str(line);
        waiting.text.push('\n');
        let is_waited_for = std::mem::take(&mut waiting.is_waited_for);
        drop(waiting);
        if is_waited_for {
            self.come.notify_one();
        }
    }

    /// Lines that were dropped.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// No line that is added from here on need be written.
    pub(super) fn end(&self) {
        self.waiting().is_over = true;
        self.come.notify_one();
    }

    /// Puts what waits in the place of `text`; where nothing does, it is waited for, but not for ever. Whether to ask again.
    pub(super) fn take(&self, text: &mut String, wait: Duration) -> bool {
        let mut waiting = self.waiting();
        if waiting.text.is_empty() && !waiting.is_over {
            waiting.is_waited_for = true;
            let woken = self.come.wait_timeout(waiting, wait);
            waiting = woken.unwrap_or_else(PoisonError::into_inner).0;
            waiting.is_waited_for = false;
        }
        text.clear();
        std::mem::swap(&mut waiting.text, text);
        !waiting.is_over
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Every change is one step.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lines")
            .field("dropped", &self.dropped())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOT_AT_ALL: Duration = Duration::ZERO;

    #[test]
    fn lines_come_in_order_and_what_finds_no_room_is_counted() {
        let (lines, mut text) = (Lines::new(), Lines::text());
        let long = "x".repeat(1000);
        for _ in 0..MOST_BYTES / long.len() {
            lines.add(&long);
        }
        lines.add("short");
        let lost = lines.dropped();
        assert!(lost > 0, "the ends of lines take room, too");
        assert!(lines.take(&mut text, NOT_AT_ALL));
        assert!(text.len() <= MOST_BYTES);
        assert!(text.ends_with("x\nshort\n"));
        let written = u64::try_from(text.lines().count()).unwrap();
        assert_eq!(written + lost, (MOST_BYTES / long.len()) as u64 + 1);
        lines.add("one");
        lines.add("two");
        assert!(lines.take(&mut text, NOT_AT_ALL));
        assert_eq!(text, "one\ntwo\n");
        assert!(lines.take(&mut text, NOT_AT_ALL));
        assert_eq!((text.as_str(), lines.dropped()), ("", lost));
        assert!(text.capacity() < 2 * MOST_BYTES, "nobody paid for room");
    }

    #[test]
    fn the_last_lines_come_with_the_end() {
        let (lines, mut text) = (Lines::new(), String::new());
        lines.add("last");
        lines.end();
        assert!(!lines.take(&mut text, Duration::MAX));
        assert_eq!(text, "last\n");
        assert!(!lines.take(&mut text, Duration::MAX), "and do not wait");
    }

    #[test]
    fn who_waits_is_told_of_the_first_line() {
        let lines = Lines::new();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                let mut text = String::new();
                while text.is_empty() {
                    lines.take(&mut text, Duration::from_mins(1));
                }
                text
            });
            lines.add("first");
            assert_eq!(waiting.join().unwrap(), "first\n");
        });
    }
}
