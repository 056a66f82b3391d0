//! What stops a script: looked at on every operation, on the thread that runs it.
//!
//! The interpreter counts operations and sizes. It knows no time and no memory, so both are watched here: a coarse
//! clock and the bytes that the thread holds on every operation, the precise clock on every 64th, processor time on
//! every 4096th (it costs a system call).

use std::cell::Cell;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::limits::Limits;

/// Tells how many bytes the calling thread has allocated and not freed; may wrap.
pub type LiveBytes = fn() -> usize;

/// Why a call was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Its deadline passed.
    Deadline,
    /// Its processor time was used up.
    Cpu,
    /// It held too much memory.
    Memory,
}

/// What a call used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Steps of the interpreter.
    pub operations: u64,
    /// Elapsed time.
    pub elapsed: Duration,
    /// The most bytes that its thread held more than before.
    pub peak_bytes: usize,
}

struct Watch {
    end: Cell<u64>,
    cpu_end: Cell<u64>,
    base: Cell<usize>,
    most: Cell<usize>,
    peak: Cell<usize>,
    operations: Cell<u64>,
    live: Cell<LiveBytes>,
}

fn none() -> usize {
    0
}

thread_local! {
    static WATCH: Watch = const {
        Watch {
            end: Cell::new(u64::MAX),
            cpu_end: Cell::new(u64::MAX),
            base: Cell::new(0),
            most: Cell::new(usize::MAX),
            peak: Cell::new(0),
            operations: Cell::new(0),
            live: Cell::new(none as LiveBytes),
        }
    };
}

const PRECISE_EVERY: u64 = 64;
const CPU_EVERY: u64 = 4096;

fn read(clock: ClockId) -> u64 {
    let now = clock_gettime(clock);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

fn nanoseconds(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

/// Watches this thread until it is dropped; one inside another goes on with the outer one's limits afterwards.
pub(crate) struct Guard {
    begun: u64,
    outer: Option<(u64, u64, usize, usize, usize, u64)>,
}

impl Guard {
    /// Begins to watch.
    pub(crate) fn begin(limits: &Limits, deadline: Duration, live: LiveBytes) -> Self {
        let now = read(ClockId::Monotonic);
        WATCH.with(|watch| {
            let outer = Some((
                watch.end.get(),
                watch.cpu_end.get(),
                watch.base.get(),
                watch.most.get(),
                watch.peak.get(),
                watch.operations.get(),
            ));
            watch.end.set(now.saturating_add(nanoseconds(deadline)));
            // The fast lane's deadline is its processor time: asking for both costs a system call.
            let cpu_end = if limits.cpu < deadline {
                read(ClockId::ThreadCPUTime).saturating_add(nanoseconds(limits.cpu))
            } else {
                u64::MAX
            };
            watch.cpu_end.set(cpu_end);
            watch.live.set(live);
            watch.base.set(live());
            watch.most.set(limits.memory_bytes);
            watch.peak.set(0);
            watch.operations.set(0);
            Self { begun: now, outer }
        })
    }

    /// What was used so far.
    pub(crate) fn usage(&self) -> Usage {
        WATCH.with(|watch| {
            look(watch);
            Usage {
                operations: watch.operations.get(),
                elapsed: Duration::from_nanos(read(ClockId::Monotonic).saturating_sub(self.begun)),
                peak_bytes: watch.peak.get(),
            }
        })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let Some((end, cpu_end, base, most, peak, operations)) = self.outer.take() else {
            return;
        };
        WATCH.with(|watch| {
            watch.end.set(end);
            watch.cpu_end.set(cpu_end);
            watch.base.set(base);
            watch.most.set(most);
            watch.peak.set(peak);
            watch.operations.set(operations);
        });
    }
}

/// Bytes held more than at the beginning.
fn look(watch: &Watch) -> usize {
    let grown = watch.live.get()().wrapping_sub(watch.base.get());
    // Freed more than allocated wraps around.
    let grown = if grown > usize::MAX / 2 { 0 } else { grown };
    if grown > watch.peak.get() {
        watch.peak.set(grown);
    }
    grown
}

/// One operation was done; `Some` stops the script.
pub(crate) fn operation(count: u64) -> Option<Stop> {
    WATCH.with(|watch| {
        watch.operations.set(count);
        if look(watch) > watch.most.get() {
            return Some(Stop::Memory);
        }
        if count.is_multiple_of(PRECISE_EVERY) {
            if read(ClockId::Monotonic) > watch.end.get() {
                return Some(Stop::Deadline);
            }
            if count.is_multiple_of(CPU_EVERY)
                && watch.cpu_end.get() != u64::MAX
                && read(ClockId::ThreadCPUTime) > watch.cpu_end.get()
            {
                return Some(Stop::Cpu);
            }
        } else if read(ClockId::MonotonicCoarse) > watch.end.get() {
            return Some(Stop::Deadline);
        }
        None
    })
}

/// Time that the running call has left.
pub(crate) fn time_left() -> Duration {
    WATCH.with(|watch| {
        Duration::from_nanos(watch.end.get().saturating_sub(read(ClockId::Monotonic)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hook::Lane;

    #[test]
    fn passed_deadline_is_seen_at_a_precise_look_and_undone_with_the_guard() {
        let limits = Limits::of(Lane::Fast);
        let guard = Guard::begin(&limits, Duration::ZERO, none);
        assert_eq!(operation(PRECISE_EVERY), Some(Stop::Deadline));
        drop(guard);
        assert_eq!(operation(PRECISE_EVERY), None);
    }

    #[test]
    fn memory_is_counted_from_the_beginning_and_freeing_more_is_no_growth() {
        thread_local! { static HELD: Cell<usize> = const { Cell::new(1 << 30) } }
        let live: LiveBytes = || HELD.with(Cell::get);
        let guard = Guard::begin(&Limits::of(Lane::Fast), Duration::from_mins(1), live);
        assert_eq!(operation(1), None);
        HELD.with(|held| held.set((1 << 30) + (2 << 20)));
        assert_eq!(operation(2), Some(Stop::Memory));
        HELD.with(|held| held.set(1 << 20));
        assert_eq!(operation(3), None);
        assert_eq!(guard.usage().peak_bytes, 2 << 20);
        assert_eq!(guard.usage().operations, 3);
    }
}
