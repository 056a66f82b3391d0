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
    /// It took too many operations.
    Operations,
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
    most_operations: Cell<u64>,
    /// Whether host functions had much to do: then the clock is looked at though few operations were done.
    laboured: Cell<bool>,
    /// Why the call was stopped: it stays so, whatever becomes of the error on its way.
    stopped: Cell<Option<Stop>>,
    live: Cell<LiveBytes>,
}

/// What a watch that stands around another goes on with.
struct Outer {
    end: u64,
    cpu_end: u64,
    base: usize,
    most: usize,
    peak: usize,
    operations: u64,
    most_operations: u64,
    laboured: bool,
    stopped: Option<Stop>,
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
            most_operations: Cell::new(u64::MAX),
            laboured: Cell::new(false),
            stopped: Cell::new(None),
            live: Cell::new(none as LiveBytes),
        }
    };
}

const PRECISE_EVERY: u64 = 64;
const CPU_EVERY: u64 = 4096;
/// Operations' worth of work of a host function after which the clock is looked at.
const MUCH: u64 = 16;

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
    outer: Outer,
}

impl Guard {
    /// Begins to watch.
    pub(crate) fn begin(limits: &Limits, deadline: Duration, live: LiveBytes) -> Self {
        let now = read(ClockId::Monotonic);
        WATCH.with(|watch| {
            let outer = Outer {
                end: watch.end.get(),
                cpu_end: watch.cpu_end.get(),
                base: watch.base.get(),
                most: watch.most.get(),
                peak: watch.peak.get(),
                operations: watch.operations.get(),
                most_operations: watch.most_operations.get(),
                laboured: watch.laboured.get(),
                stopped: watch.stopped.get(),
            };
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
            watch.most_operations.set(limits.operations);
            watch.laboured.set(false);
            watch.stopped.set(None);
            Self { begun: now, outer }
        })
    }

    /// Why the call was stopped, where it was: an error on its way to here may have been swallowed.
    #[expect(
        clippy::unused_self,
        reason = "there is something to ask while a call is watched"
    )]
    pub(crate) fn stopped(&self) -> Option<Stop> {
        look_at_the_clock();
        WATCH.with(|watch| watch.stopped.get())
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
        let outer = &self.outer;
        WATCH.with(|watch| {
            watch.end.set(outer.end);
            watch.cpu_end.set(outer.cpu_end);
            watch.base.set(outer.base);
            watch.most.set(outer.most);
            watch.peak.set(outer.peak);
            watch.operations.set(outer.operations);
            watch.most_operations.set(outer.most_operations);
            watch.laboured.set(outer.laboured);
            watch.stopped.set(outer.stopped);
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

/// One operation was done; `Some` stops the script. The interpreter's own count forgets what was done within closures.
pub(crate) fn operation() -> Option<Stop> {
    WATCH.with(|watch| step(watch, 1))
}

/// A host function is about to do what is as dear as so many operations.
pub(crate) fn labour(operations: u64) -> Option<Stop> {
    WATCH.with(|watch| {
        if operations >= MUCH {
            watch.laboured.set(true);
        }
        step(watch, operations)
    })
}

/// Looks at the clock after host functions that had much to do. After others it is not worth it: that a thread was not
/// given a processor for a moment is not its script's fault.
pub(crate) fn look_at_the_clock() -> Option<Stop> {
    WATCH.with(|watch| {
        if watch.stopped.get().is_none()
            && watch.laboured.get()
            && read(ClockId::Monotonic) > watch.end.get()
        {
            watch.stopped.set(Some(Stop::Deadline));
        }
        watch.stopped.get()
    })
}

fn step(watch: &Watch, operations: u64) -> Option<Stop> {
    if let Some(stop) = watch.stopped.get() {
        return Some(stop);
    }
    let before = watch.operations.get();
    let count = before.saturating_add(operations);
    watch.operations.set(count);
    let passed = |every: u64| before / every != count / every;
    let stop = if look(watch) > watch.most.get() {
        Some(Stop::Memory)
    } else if count > watch.most_operations.get() {
        Some(Stop::Operations)
    } else if passed(PRECISE_EVERY) && read(ClockId::Monotonic) > watch.end.get() {
        Some(Stop::Deadline)
    } else if passed(CPU_EVERY)
        && watch.cpu_end.get() != u64::MAX
        && read(ClockId::ThreadCPUTime) > watch.cpu_end.get()
    {
        Some(Stop::Cpu)
    } else {
        None
    };
    watch.stopped.set(stop);
    stop
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

    fn done(operations: u64) -> Option<Stop> {
        (0..operations).find_map(|_| operation())
    }

    #[test]
    fn deadline_stops_and_the_outer_watch_goes_on() {
        let limits = Limits::of(Lane::Fast);
        let guard = Guard::begin(&limits, Duration::ZERO, none);
        assert_eq!(done(PRECISE_EVERY), Some(Stop::Deadline));
        assert_eq!(guard.stopped(), Some(Stop::Deadline));
        drop(guard);
        assert_eq!(done(PRECISE_EVERY), None);
    }

    #[test]
    fn what_host_functions_do_counts_and_is_timed() {
        let limits = Limits::of(Lane::Fast);
        let guard = Guard::begin(&limits, Duration::from_mins(1), none);
        assert_eq!(labour(limits.operations), None);
        assert_eq!(operation(), Some(Stop::Operations));
        drop(guard);
        let guard = Guard::begin(&limits, Duration::ZERO, none);
        assert_eq!((labour(1), look_at_the_clock()), (None, None));
        assert_eq!(
            (labour(MUCH), guard.stopped()),
            (None, Some(Stop::Deadline))
        );
    }

    #[test]
    fn memory_is_counted_from_the_beginning_and_freeing_more_is_no_growth() {
        thread_local! { static HELD: Cell<usize> = const { Cell::new(1 << 30) } }
        let live: LiveBytes = || HELD.with(Cell::get);
        let guard = Guard::begin(&Limits::of(Lane::Fast), Duration::from_mins(1), live);
        HELD.with(|held| held.set(1 << 20));
        assert_eq!(operation(), None);
        HELD.with(|held| held.set((1 << 30) + (2 << 20)));
        assert_eq!(operation(), Some(Stop::Memory));
        // What was stopped stays so, whatever it frees.
        HELD.with(|held| held.set(1 << 20));
        assert_eq!(operation(), Some(Stop::Memory));
        assert_eq!(guard.usage().peak_bytes, 2 << 20);
        assert_eq!(guard.usage().operations, 2);
    }
}
